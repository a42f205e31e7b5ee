//! How much waits in a part: the bytes of requests from when they are taken in until they are answered, of the
//! replies that wait for the keepers, and of messages that wait for their view. What would go beyond the limit is
//! refused, or dropped if its sender sends it again; what is answered, given up or dropped is taken off.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{Hash, Hasher};

use hashbrown::HashTable;

use super::super::placement::mix;
use super::super::ring::Issuer;
use super::super::types::{Epoch, Key, NodeId, RequestId};
use super::{
    Answer, Effects, Msg, Origin, PARKED_MAX, PARKED_SHARE, Pending, Ran, Report, Request, Shard,
};

/// What a request that waits costs beside its payload, about: its places in the queues, its key, and the port of its
/// client.
pub const REQUEST_BYTES: usize = 512;

impl Request {
    /// What it costs to let it wait, in bytes.
    pub fn weight(&self) -> usize {
        REQUEST_BYTES + self.payload.len()
    }
}

impl Msg {
    /// What it costs to let it wait, in bytes.
    pub fn weight(&self) -> usize {
        let bytes = match self {
            Self::Grant { data, .. }
            | Self::Put { data, .. }
            | Self::Hold { data, .. }
            | Self::Report {
                report: Report::Copy { data, .. },
                ..
            } => data.len(),
            Self::Forward { request, .. } => request.payload.len(),
            Self::Reply {
                answer: Answer::Reply(bytes) | Answer::Failed(bytes),
                ..
            } => bytes.len(),
            Self::Reply { .. }
            | Self::Claim { .. }
            | Self::OwnerIs { .. }
            | Self::PutAck { .. }
            | Self::HoldAck { .. }
            | Self::Done { .. }
            | Self::Locate { .. }
            | Self::Located { .. }
            | Self::Inquire { .. }
            | Self::Report { .. } => 0,
        };
        REQUEST_BYTES + bytes
    }
}

impl Ran {
    /// What it costs to let it wait, in bytes.
    pub fn weight(&self) -> usize {
        let bytes = match self {
            Self::Done { reply, data } => reply.len() + data.as_ref().map_or(0, |d| d.len()),
            Self::Failed(reason) => reason.len(),
            Self::Unknown => 0,
        };
        REQUEST_BYTES + bytes
    }
}

/// The requests of a part that are not answered.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Books {
    /// How many there are, in `wanted`, `forwarded`, `running` and `waiting`.
    pub(super) pending: usize,
    /// Their bytes, and those of the replies in `waiting` and of the questions in `locating`.
    pub(super) held: usize,
    /// Those that peers forwarded: what a peer sends again is not queued again.
    in_hand: InHand,
    /// Of the ids of those that clients of this node asked, and that were forwarded.
    pub(super) issuer: Issuer,
}

impl Books {
    pub(super) fn new(issuer: Issuer) -> Self {
        Self {
            pending: 0,
            held: 0,
            in_hand: InHand::default(),
            issuer,
        }
    }

    /// Counts a request that is taken in.
    pub(super) fn take_in(&mut self, pending: &Pending) {
        self.pending += 1;
        self.held += pending.request.weight();
        self.take_in_hand(&pending.origin);
    }

    /// A request that was taken in is no longer here.
    pub(super) fn release(&mut self, pending: &Pending) {
        self.pending -= 1;
        self.held -= pending.request.weight();
        self.let_go(&pending.origin, pending.request.id);
    }

    /// Whether a peer has forwarded that, and it is not answered.
    pub(super) fn is_in_hand(&self, origin: &Origin) -> bool {
        matches!(origin, Origin::Peer(from, token) if self.in_hand.contains(*token, from))
    }

    pub(super) fn take_in_hand(&mut self, origin: &Origin) {
        if let Origin::Peer(from, token) = origin {
            self.in_hand.insert(*token, from);
        }
    }

    /// Nobody waits any more for what `origin` asked under that id.
    pub(super) fn let_go(&mut self, origin: &Origin, id: Option<RequestId>) {
        match origin {
            Origin::Local(_) => {
                if let Some(id) = id {
                    self.issuer.close(id);
                }
            }
            Origin::Peer(from, token) => self.in_hand.remove(*token, from),
        }
    }

    /// All that peers have forwarded.
    pub(super) fn in_hand(&self) -> BTreeSet<(u64, NodeId)> {
        self.in_hand.sorted().into_iter().cloned().collect()
    }
}

/// What peers have forwarded, by their tokens, which are mixed: peers count them up. Two peers may use the same one.
#[derive(Clone, Default)]
struct InHand {
    entries: HashTable<(u64, NodeId)>,
}

impl InHand {
    fn contains(&self, token: u64, from: &NodeId) -> bool {
        let is_it = |entry: &(u64, NodeId)| entry.0 == token && entry.1 == *from;
        self.entries.find(mix(token), is_it).is_some()
    }

    fn insert(&mut self, token: u64, from: &NodeId) {
        if !self.contains(token, from) {
            let entry = (token, from.clone());
            self.entries
                .insert_unique(mix(token), entry, |entry| mix(entry.0));
        }
    }

    fn remove(&mut self, token: u64, from: &NodeId) {
        let is_it = |entry: &(u64, NodeId)| entry.0 == token && entry.1 == *from;
        if let Ok(entry) = self.entries.find_entry(mix(token), is_it) {
            entry.remove();
        }
    }

    fn sorted(&self) -> Vec<&(u64, NodeId)> {
        let mut sorted: Vec<_> = self.entries.iter().collect();
        sorted.sort_unstable();
        sorted
    }
}

impl PartialEq for InHand {
    fn eq(&self, other: &Self) -> bool {
        self.entries.len() == other.entries.len()
            && self
                .entries
                .iter()
                .all(|(token, from)| other.contains(*token, from))
    }
}

impl Eq for InHand {}

impl Hash for InHand {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.sorted().hash(state);
    }
}

impl fmt::Debug for InHand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.sorted()).finish()
    }
}

impl Shard {
    /// The same part with a limit to the bytes that wait in it.
    #[must_use]
    pub fn with_bytes_max(mut self, bytes_max: usize) -> Self {
        self.bytes_max = bytes_max;
        self
    }

    /// How many bytes of requests, replies and messages wait here.
    pub fn held_bytes(&self) -> usize {
        self.books.held + self.parked_bytes
    }

    /// Whether `bytes` more may wait.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        // What is parked has its own share, whether or not there is any.
        self.books.held.saturating_add(bytes) <= self.bytes_max - self.parked_max()
    }

    /// The reply just computed waits for the keepers, unless there is no room for it: then its client hears that
    /// the outcome is unknown. The actor has it; a retry with the same id gets it.
    pub(super) fn shed(&mut self, key: &Key, out: &mut dyn Effects) {
        if self.has_room(0) {
            return;
        }
        let Some(handled) = self.own_mut(key).and_then(|own| own.waiting.pop_back()) else {
            return;
        };
        self.books.held -= handled.reply.len();
        self.books.release(&handled.pending);
        super::owner::finish(handled.pending.origin, Answer::Unknown, out);
    }

    /// A message of a later epoch waits for its view, if there is room.
    pub(super) fn park(&mut self, from: NodeId, epoch: Epoch, msg: Msg) {
        let bytes = msg.weight();
        if self.parked.len() < PARKED_MAX && self.parked_bytes + bytes <= self.parked_max() {
            self.parked_bytes += bytes;
            self.parked.push((from, epoch, msg));
        }
    }

    /// What was parked, which waits no longer.
    pub(super) fn unpark(&mut self) -> Vec<(NodeId, Epoch, Msg)> {
        self.parked_bytes = 0;
        std::mem::take(&mut self.parked)
    }

    /// A question where an actor is needs no answer any more; false if nobody asks.
    pub(super) fn stop_locating(&mut self, token: u64) -> bool {
        let asked = self.locating.remove(&token).is_some();
        if asked {
            self.books.held -= REQUEST_BYTES;
        }
        asked
    }

    fn parked_max(&self) -> usize {
        self.bytes_max / PARKED_SHARE
    }
}
