//! One part of the key space at one node: its owners, its records, and its share of the directory.
//!
//! ```text
//!            Request                               Put / PutAck
//!   client ──────────▶ owner ── Run ──▶ actor        ▲     │
//!      ▲                 ▲  ◀── Ran ──   │           │     ▼
//!      └──── Answer ─────┴───────────────┴────▶ keeper on another node
//!
//!   not the owner:  Claim ─▶ home ─▶ Grant (be the owner) or OwnerIs (Forward to it)
//!   a new view:     Put, Hold ─▶ acks ─▶ Done ─▶ every member's Done: the barrier is complete
//! ```
//!
//! The parts of a node are independent instances of the data protocol: each has its own barrier. This file
//! holds the state and the dispatch; `owner`, `lagging`, `directory`, `inquiry`, `keeper`, `barrier`, `sweep`, `healing`
//! and `rest` hold the rules.

mod barrier;
mod directory;
mod effect;
mod healing;
mod held;
mod index;
mod inquiry;
mod inspect;
mod keeper;
mod lagging;
mod owner;
mod prefetch;
mod queue;
mod rest;
mod sweep;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::blob::Blob;
use super::defect::{Defect, Planted};
use super::placement::Placement;
use super::ring::Issuer;
use super::types::{Epoch, Key, KeyRef, NodeId, RequestId};
use super::view::View;
use table::Table;

pub use barrier::Progress;
pub use effect::{Effect, Effects};
pub use healing::Copied;
use healing::{Acks, Healing};
use held::Books;
pub use held::REQUEST_BYTES;
use index::Index;
use inquiry::Inquiry;
use lagging::{Lagging, Listed};
pub use owner::key_max;
pub use prefetch::PREFETCHED;
use queue::Queue;
use sweep::{Stamp, Sweep};

/// Most messages of a later epoch that wait for its view, and most claims that wait for the barrier; further
/// ones are dropped, and sent again by their senders.
const PARKED_MAX: usize = 4_096;

/// The share of the bytes held here that messages of a later epoch may have, so that they keep no request out.
const PARKED_SHARE: usize = 4;

/// No actor is written to that often.
const VERSION_MAX: u64 = 1 << 60;

/// The share of all waiting requests that one key may have: one that hangs must not use up the whole part.
const KEY_SHARE: usize = 16;

/// As many requests may wait for one key in any case.
const KEY_MIN: usize = 64;

/// How many resend ticks a message may stay unanswered before it is sent again.
const RESEND_AFTER: u64 = 2;

/// What a client asks an actor.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Request {
    /// Recognises a retry; a forwarded request always has one.
    pub id: Option<RequestId>,
    /// The call, as the layer above encodes it.
    pub payload: Blob,
    /// It was sent or handled before: whoever cannot tell whether it was carried out must not carry it out.
    pub again: bool,
    /// How far back its issuer may ask again: see [`Issuer::span`]. 0 where a client gave the id, or nobody.
    pub span: u16,
}

/// The end of a request.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// It was carried out, and what it changed is backed up.
    Reply(Blob),
    /// It was not carried out; the reason, as the layer above encodes it (a crash, an unknown type).
    Failed(Blob),
    /// Not carried out: too many requests wait.
    Overloaded,
    /// Not carried out: the node leaves.
    Leaving,
    /// Not carried out: the node has no lease, or is alone.
    NotServing,
    /// It may have been carried out.
    Unknown,
}

/// Where the answer to a request goes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Origin {
    /// A client of this node, by the driver's token.
    Local(u64),
    /// A node that forwarded it, by that node's token.
    Peer(NodeId, u64),
}

/// Where an actor and its copies are, as its home knows.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Located {
    /// The node of the actor; none if it is at rest.
    pub owner: Option<NodeId>,
    /// The nodes of its records.
    pub keepers: Vec<NodeId>,
    /// Its version.
    pub version: u64,
}

/// What the parts of two nodes tell each other. The frame around it carries cluster and epoch.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Msg {
    /// To the home: I want to own this key, or know who does.
    Claim {
        /// The key.
        key: Key,
        /// How many actors the sender had put to rest when it began to want this one.
        rests: u64,
    },
    /// From the home: that member owns it.
    OwnerIs {
        /// The key.
        key: Key,
        /// Its owner.
        owner: NodeId,
    },
    /// From the home: own it, starting with this state. Not an acknowledgement of a copy.
    Grant {
        /// The key.
        key: Key,
        /// The epoch of the grant: a later generation supersedes an earlier one.
        gen_: Epoch,
        /// The version of the state.
        ver: u64,
        /// The state; empty if there never was one.
        data: Blob,
        /// The number in the claim that this answers.
        rests: u64,
    },
    /// From the owner to its keepers: the state to keep.
    Put {
        /// The key.
        key: Key,
        /// The owner's generation.
        gen_: Epoch,
        /// The version.
        ver: u64,
        /// The state.
        data: Blob,
    },
    /// The keeper has that version, or a later one of the same generation.
    PutAck {
        /// The key.
        key: Key,
        /// The generation.
        gen_: Epoch,
        /// The version that is kept.
        ver: u64,
    },
    /// A copy that has no owner, to where such copies belong.
    Hold {
        /// The key.
        key: Key,
        /// The generation.
        gen_: Epoch,
        /// The version.
        ver: u64,
        /// The state.
        data: Blob,
    },
    /// That copy, or a later one, is in place.
    HoldAck {
        /// The key.
        key: Key,
        /// The generation.
        gen_: Epoch,
        /// The version.
        ver: u64,
    },
    /// The sender's copies of this epoch are all acknowledged.
    Done {
        /// Whether the sender has heard the receiver's; otherwise it wants it (again).
        heard: bool,
    },
    /// A client's request, to the owner.
    Forward {
        /// The key.
        key: Key,
        /// The sender's name for it.
        token: u64,
        /// The request, with an id.
        request: Request,
    },
    /// The answer to a forwarded request.
    Reply {
        /// The receiver's name for it.
        token: u64,
        /// The answer.
        answer: Answer,
    },
    /// To the home: where is it?
    Locate {
        /// The key.
        key: Key,
        /// The sender's name for the question.
        token: u64,
    },
    /// The answer of the home; none if nobody ever called that actor.
    Located {
        /// The receiver's name for the question.
        token: u64,
        /// The answer.
        found: Option<Located>,
    },
    /// From a home without authority, to every member: what do you have of this key?
    Inquire {
        /// The key.
        key: Key,
    },
    /// The answer, of the epoch of the question.
    Report {
        /// The key.
        key: Key,
        /// What the sender has.
        report: Report,
    },
}

/// What a member has of a key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Report {
    /// It owns it.
    Owner,
    /// A copy of which no other member is known to be the owner.
    Copy {
        /// The generation.
        gen_: Epoch,
        /// The version.
        ver: u64,
        /// The state.
        data: Blob,
    },
    /// Nothing, or a copy whose owner answers for itself.
    Nothing,
}

impl Msg {
    /// Which key it is about.
    pub fn key(&self) -> Option<&Key> {
        match self {
            Self::Claim { key, .. }
            | Self::OwnerIs { key, .. }
            | Self::Grant { key, .. }
            | Self::Put { key, .. }
            | Self::PutAck { key, .. }
            | Self::Hold { key, .. }
            | Self::HoldAck { key, .. }
            | Self::Forward { key, .. }
            | Self::Locate { key, .. }
            | Self::Inquire { key }
            | Self::Report { key, .. } => Some(key),
            Self::Done { .. } | Self::Reply { .. } | Self::Located { .. } => None,
        }
    }
}

/// What came of a request that the actor was given.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Ran {
    /// Handled; `data` is the new state, none if it did not change.
    Done {
        /// What the client gets.
        reply: Blob,
        /// The state to back up.
        data: Option<Blob>,
    },
    /// Not handled, the state is that of before; the reason goes to the client.
    Failed(Blob),
    /// Not handled: it was tried before, and whether that succeeded is forgotten.
    Unknown,
}

/// What drives a part.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Input {
    /// A client of this node asks.
    Request {
        /// The driver's name for it; used once.
        token: u64,
        /// Whom.
        key: Key,
        /// What.
        request: Request,
        /// Who owned the key a moment ago, if the driver remembers: where the request goes without asking the home, in this
        /// epoch and, if that is not answered, the next. It may be wrong: whoever is forwarded a request for a key that it
        /// does not own asks the home.
        hint: Option<NodeId>,
    },
    /// A client of this node asks where an actor is.
    Locate {
        /// The driver's name for it; used once.
        token: u64,
        /// Which.
        key: Key,
    },
    /// The client gave up: forget what has not started.
    Cancel {
        /// The request's key.
        key: Key,
        /// The request's token.
        token: u64,
    },
    /// The actor of `key` handled the oldest request that it was given.
    Ran {
        /// The key.
        key: Key,
        /// The generation of the actor.
        gen_: Epoch,
        /// What came of it.
        ran: Ran,
    },
    /// The actor of `key` handled a request of a client of this node that it was given past this part.
    Served {
        /// The driver's name for the request; used once.
        token: u64,
        /// The key.
        key: Key,
        /// The generation of the actor.
        gen_: Epoch,
        /// What was asked.
        request: Request,
        /// What came of it.
        ran: Ran,
    },
    /// The actor of `key` ended. `again`: the supervisor will say `Restart` later; else the next request starts
    /// it.
    Exited {
        /// The key.
        key: Key,
        /// The generation of the actor.
        gen_: Epoch,
        /// Whether a restart follows.
        again: bool,
    },
    /// The supervisor restarts the actor now.
    Restart {
        /// The key.
        key: Key,
        /// The generation of the actor.
        gen_: Epoch,
    },
    /// Nobody has asked the actor for long: it may go to rest.
    Rest {
        /// The key.
        key: Key,
        /// The generation of the actor.
        gen_: Epoch,
    },
    /// A message of a peer.
    Message {
        /// Who sent it.
        from: NodeId,
        /// The epoch that it belongs to, of my cluster.
        epoch: Epoch,
        /// What it says.
        msg: Msg,
    },
    /// This view was decided.
    Install(View),
    /// There is room for more of the copies that a view has made necessary: see [`Shard::is_healing`].
    Heal,
    /// Time to send again what has not been acknowledged for a while, and to answer what has waited for the lease as long.
    Tick,
    /// A peer was connected: send again at once what was not acknowledged, and ask again what was not answered.
    Linked,
    /// This node may answer again.
    Leased,
    /// Take no new requests, and say `Quiet` when none is left: the node is about to leave.
    Quiesce,
    /// This node does not serve: give back the requests that have not started.
    Refuse,
}

impl Input {
    /// Which key it is about, if the step does not see to that itself.
    fn key(&self) -> Option<&Key> {
        match self {
            Self::Locate { key, .. }
            | Self::Cancel { key, .. }
            | Self::Exited { key, .. }
            | Self::Restart { key, .. }
            | Self::Rest { key, .. } => Some(key),
            Self::Request { .. }
            | Self::Ran { .. }
            | Self::Served { .. }
            | Self::Message { .. }
            | Self::Install(_)
            | Self::Heal
            | Self::Tick
            | Self::Linked
            | Self::Leased
            | Self::Quiesce
            | Self::Refuse => None,
        }
    }
}

/// A request on its way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Pending {
    origin: Origin,
    request: Request,
}

/// A request that was handled, and whose answer waits for the keepers.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Handled {
    ver: u64,
    pending: Pending,
    reply: Blob,
}

/// A key that this node owns. What a request needs is at the beginning, up to the first one that waits: there are more keys
/// than a cache has room for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
struct Own {
    gen_: Epoch,
    ver: u64,
    /// The tick of the last Put.
    put_at: u64,
    /// Where it is in `lagging`.
    listed: Listed,
    /// Keepers must have this version before this node is done with the epoch's sync.
    sync_ver: u64,
    /// Whether this epoch's sync waits for it.
    unsettled: bool,
    actor: Actor,
    stamp: Stamp,
    /// The current keepers, each with the highest version of this generation that it acknowledged; mostly there is one.
    keepers: SmallVec<[(NodeId, Option<u64>); 1]>,
    data: Blob,
    /// Handled: answered as soon as the keepers have that version.
    waiting: Queue<Handled>,
    /// Given to the actor, in order, and not handled yet.
    running: Queue<Pending>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Actor {
    /// Started, as far as this part knows.
    Up,
    /// Ended; the supervisor will restart it.
    Restarting,
    /// Ended; the next request starts it.
    Down,
}

/// The state in a record. There are millions of them, so that a short one is in the record itself; a [`Blob`] would be larger.
type State = SmallVec<[u8; 16]>;

/// A copy of a key that another node owns, or that nobody does.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Rec {
    gen_: Epoch,
    ver: u64,
    data: State,
    /// Shared by all records of that owner: there are millions of them.
    owner: Option<Arc<NodeId>>,
    /// The owner itself said so, by a Put; a grant alone does not confirm.
    confirmed: bool,
    /// Who of those it belongs to has acknowledged its Hold, while its copies are not in place.
    acks: Option<Acks>,
    stamp: Stamp,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Slot {
    Own(Box<Own>),
    Rec(Rec),
}

/// A record as others see it: generation, version, state, owner, confirmed.
pub type Record<'a> = (Epoch, u64, &'a [u8], Option<&'a NodeId>, bool);

/// Requests for a key that this node does not own yet.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Wanted {
    pending: VecDeque<Pending>,
    claimed_at: u64,
    /// How many actors had been put to rest here when the first of these requests came.
    rests: u64,
}

/// A request that another node handles.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Forwarded {
    to: NodeId,
    key: Key,
    pending: Pending,
    sent_at: u64,
}

/// One part of the key space at one node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Shard {
    me: NodeId,
    backups: usize,
    /// Most requests that wait here; further ones are refused.
    pending_max: usize,
    /// Most bytes of requests, replies and messages that wait here.
    bytes_max: usize,

    view: View,
    /// Its members, as records name their owners.
    ids: Vec<Arc<NodeId>>,
    placement: Placement,
    /// The placements installed since the last complete barrier, that one first; empty before the first.
    lineage: Vec<Placement>,
    /// The copies of this epoch that are not in place yet. When this node is done with the sync, only those of actors
    /// that go to rest are left.
    healing: Healing,
    sweep: Sweep,
    done_sent: bool,
    done_from: BTreeSet<NodeId>,
    complete: bool,

    slots: Table,
    wanted: BTreeMap<Key, Wanted>,
    forwarded: Index<Forwarded>,
    /// Under which token a request of a client of this node was forwarded, by its own token.
    forwarded_as: Index<u64>,
    locating: BTreeMap<u64, Key>,
    /// Owned keys that some keeper lags behind, or whose answers only the lease holds back. What only this epoch's sync
    /// waits for is in `healing` alone.
    lagging: Lagging,
    parked: Vec<(NodeId, Epoch, Msg)>,
    /// The keys of which this node asks all members what they have, as a home without authority: see `inquiry`.
    inquiries: BTreeMap<Key, Inquiry>,
    /// How many actors were put to rest here: see `rest`.
    rests: u64,

    books: Books,
    /// The bytes of `parked`.
    parked_bytes: usize,
    next_token: u64,
    tick: u64,
    quiescing: bool,
    quiet_said: bool,
    planted: Planted,
}

impl Shard {
    /// The part number `part` of a node that is alone.
    pub fn new(me: NodeId, view: View, backups: usize, pending_max: usize, part: u16) -> Self {
        let placement = Placement::of(&view);
        Self {
            books: Books::new(Issuer::new(&me.to_string(), part)),
            me,
            backups,
            pending_max,
            bytes_max: usize::MAX,
            ids: view.ids().cloned().map(Arc::new).collect(),
            view,
            lineage: vec![placement.clone()],
            placement,
            healing: Healing::default(),
            sweep: Sweep::default(),
            done_sent: true,
            done_from: BTreeSet::new(),
            complete: true,
            slots: Table::default(),
            wanted: BTreeMap::new(),
            forwarded: Index::default(),
            forwarded_as: Index::default(),
            locating: BTreeMap::new(),
            lagging: Lagging::default(),
            parked: Vec::new(),
            inquiries: BTreeMap::new(),
            rests: 0,
            parked_bytes: 0,
            next_token: 0,
            tick: 0,
            quiescing: false,
            quiet_said: false,
            planted: Planted::NONE,
        }
    }

    /// Breaks a rule on purpose; only builds with debug assertions have something to plant.
    #[doc(hidden)]
    pub fn plant(&mut self, planted: impl Into<Planted>) {
        self.planted = planted.into();
    }

    /// Takes one step. `leased`: whether this node may answer clients right now, as a member of the view that this part
    /// has installed.
    pub fn handle(&mut self, leased: bool, input: Input, out: &mut dyn Effects) {
        if let Some(key) = input.key() {
            self.touch(key, out);
        }
        match input {
            Input::Request {
                token,
                key,
                request,
                hint,
            } => return self.ask(token, key, request, hint, out),
            Input::Served {
                token,
                key,
                gen_,
                request,
                ran,
            } => return self.served(leased, (&key, gen_), (token, request), ran, out),
            Input::Locate { token, key } => self.locate(token, key, out),
            Input::Cancel { key, token } => self.cancel(&key, token),
            Input::Ran { key, gen_, ran } => return self.ran(leased, (&key, gen_), ran, out),
            Input::Exited { key, gen_, again } => self.exited(&key, gen_, again, out),
            Input::Restart { key, gen_ } => self.restart(&key, gen_, out),
            Input::Rest { key, gen_ } => self.rest(&key, gen_, out),
            Input::Message { from, epoch, msg } => {
                return self.receive(leased, &from, epoch, msg, out);
            }
            Input::Install(view) => self.install(leased, view, out),
            Input::Heal => self.heal(out),
            Input::Tick => {
                self.tick += 1;
                self.resend(leased, RESEND_AFTER, out);
            }
            Input::Linked => self.resend(leased, 0, out),
            Input::Leased => self.revisit(leased, self.tick, false, out),
            Input::Quiesce => self.quiescing = true,
            Input::Refuse => self.refuse(out),
        }
        self.follow_up(out);
    }

    /// Takes the step of an [`Input::Request`]. There are many of these and of the next ones, so that they need not be moved
    /// into an [`Input`] first.
    pub fn ask(
        &mut self,
        token: u64,
        key: Key,
        request: Request,
        hint: Option<NodeId>,
        out: &mut dyn Effects,
    ) {
        self.touch(&key, out);
        let origin = Origin::Local(token);
        self.admit(key, Pending { origin, request }, hint, out);
        self.follow_up(out);
    }

    /// Takes the step of an [`Input::Served`]: the actor of that generation, the request, and what came of it.
    pub fn served(
        &mut self,
        leased: bool,
        (key, gen_): (&Key, Epoch),
        (token, request): (u64, Request),
        ran: Ran,
        out: &mut dyn Effects,
    ) {
        self.touch(key, out);
        let origin = Origin::Local(token);
        let pending = Pending { origin, request };
        if let Some(pending) = self.handled(leased, key, gen_, Some(pending), ran, out) {
            // Nobody has the state that this left behind: as if it had never been handled.
            self.admit(key.clone(), pending, None, out);
        }
        self.follow_up(out);
    }

    /// Takes the step of an [`Input::Ran`], of the actor of that generation.
    pub fn ran(
        &mut self,
        leased: bool,
        (key, gen_): (&Key, Epoch),
        ran: Ran,
        out: &mut dyn Effects,
    ) {
        self.touch(key, out);
        self.handled(leased, key, gen_, None, ran, out);
        self.follow_up(out);
    }

    /// Takes the step of an [`Input::Message`].
    pub fn receive(
        &mut self,
        leased: bool,
        from: &NodeId,
        epoch: Epoch,
        msg: Msg,
        out: &mut dyn Effects,
    ) {
        self.message(leased, from, epoch, msg, out);
        self.follow_up(out);
    }

    /// What may have become due by any step.
    fn follow_up(&mut self, out: &mut dyn Effects) {
        self.try_done(out);
        if self.quiescing && !self.quiet_said && self.is_quiet() {
            self.quiet_said = true;
            out.push(Effect::Quiet);
        }
    }

    /// The epoch that messages are sent in.
    pub fn epoch(&self) -> Epoch {
        self.view.epoch
    }

    /// The installed view.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Whether this part owns or keeps anything.
    pub fn has_data(&self) -> bool {
        !self.slots.is_empty()
    }

    /// The keys that this node owns, in no order: to sort millions would take long.
    pub fn owned_keys(&self) -> impl Iterator<Item = Key> {
        let owned = |slot: &Slot| matches!(slot, Slot::Own(_));
        let slots = self.slots.unsorted();
        slots.filter_map(move |(key, slot)| owned(slot).then_some(key))
    }

    /// Who keeps the copies of `key`, if this node owns it.
    pub fn keepers_of(&self, key: &Key) -> Option<impl Iterator<Item = &NodeId>> {
        self.own(key)
            .map(|own| own.keepers.iter().map(|(id, _)| id))
    }

    /// Whether this node owns `key`, and in which generation.
    pub fn owns(&self, key: &Key) -> Option<Epoch> {
        self.own(key).map(|own| own.gen_)
    }

    /// The record of `key` that this node keeps for others.
    pub fn record(&self, key: &Key) -> Option<Record<'_>> {
        match self.slots.get(key) {
            Some(Slot::Rec(rec)) => Some((
                rec.gen_,
                rec.ver,
                &rec.data,
                rec.owner.as_deref(),
                rec.confirmed,
            )),
            Some(Slot::Own(_)) | None => None,
        }
    }

    /// The state of `key` if this node owns it: generation, version, state.
    pub fn owned_state(&self, key: &Key) -> Option<(Epoch, u64, &Blob)> {
        self.own(key).map(|own| (own.gen_, own.ver, &own.data))
    }

    /// The version of `key` that all its keepers have, if this node owns it, nobody waits for an answer, and that is its
    /// latest: then its actor's state is what a reader may be told.
    pub fn settled_at(&self, key: &Key) -> Option<u64> {
        let own = self.own(key)?;
        let settled = !own.lags() && own.waiting.is_empty();
        let settled = settled || self.planted.has(Defect::ReadAhead);
        (settled && self.can_serve(&self.me)).then_some(own.ver)
    }

    /// Whether this node sent its sync-done of the installed epoch.
    pub fn done_sent(&self) -> bool {
        self.done_sent
    }

    /// Ends this part: the tokens of all local requests, and whether each may have been carried out.
    pub fn dissolve(self) -> Vec<(u64, bool)> {
        let mut tokens = Vec::new();
        let mut note = |origin: Origin, maybe: bool| {
            if let Origin::Local(token) = origin {
                tokens.push((token, maybe));
            }
        };
        for slot in self.slots.into_values() {
            if let Slot::Own(own) = slot {
                own.running
                    .into_iter()
                    .for_each(|p| note(p.origin, p.request.again));
                own.waiting
                    .into_iter()
                    .for_each(|h| note(h.pending.origin, true));
            }
        }
        self.wanted
            .into_values()
            .flat_map(|w| w.pending)
            .for_each(|p| note(p.origin, p.request.again));
        self.forwarded
            .into_values()
            .for_each(|f| note(f.pending.origin, true));
        self.locating
            .into_keys()
            .for_each(|token| tokens.push((token, false)));
        tokens
    }

    /// That node, as records name it.
    fn shared(&self, id: &NodeId) -> Arc<NodeId> {
        let known = self.ids.iter().find(|known| ***known == *id);
        known.cloned().unwrap_or_else(|| Arc::new(id.clone()))
    }

    fn own(&self, key: &Key) -> Option<&Own> {
        match self.slots.get(key) {
            Some(Slot::Own(own)) => Some(own),
            Some(Slot::Rec(_)) | None => None,
        }
    }

    fn own_mut(&mut self, key: &Key) -> Option<&mut Own> {
        match self.slots.get_mut(key) {
            Some(Slot::Own(own)) => Some(own),
            Some(Slot::Rec(_)) | None => None,
        }
    }

    /// Whether `id` takes part in serving: active, in a view of at least two active members.
    fn can_serve(&self, id: &NodeId) -> bool {
        self.placement.len() >= 2 && self.placement.is_active(id)
    }

    fn message(
        &mut self,
        leased: bool,
        from: &NodeId,
        epoch: Epoch,
        msg: Msg,
        out: &mut dyn Effects,
    ) {
        if epoch > self.view.epoch {
            out.push(Effect::WantView(from.clone()));
            return self.park(from.clone(), epoch, msg);
        }
        if epoch < self.view.epoch && !self.takes_late(&msg) || !self.view.contains(from) {
            out.push(Effect::ShowView(from.clone()));
            return;
        }
        // Roles are those of the epoch; a defect lets others pass.
        let same_epoch = epoch == self.view.epoch;
        if let Err(rule) = self.check(from, same_epoch, &msg) {
            let from = from.clone();
            return out.push(Effect::Refused { from, rule });
        }
        if let Some(key) = msg.key() {
            self.touch(key, out);
        }
        match msg {
            Msg::Claim { key, rests } => self.claim(from.clone(), key, rests, out),
            Msg::OwnerIs { key, owner } => self.owner_is(&key, &owner, out),
            Msg::Grant {
                key,
                gen_,
                ver,
                data,
                rests,
            } => self.grant(key, gen_, ver, data, rests, out),
            Msg::Put {
                key,
                gen_,
                ver,
                data,
            } => {
                if self.put(from, key.borrowed(), gen_, ver, &data, same_epoch, out) {
                    let (to, msg) = (from.clone(), Msg::PutAck { key, gen_, ver });
                    out.push(Effect::Send { to, msg });
                }
            }
            Msg::PutAck { key, gen_, ver } => self.put_ack(leased, from, &key, gen_, ver, out),
            Msg::Hold {
                key,
                gen_,
                ver,
                data,
            } => self.hold(from.clone(), key, gen_, ver, data, out),
            Msg::HoldAck { key, gen_, ver } => self.hold_ack(from, &key, gen_, ver),
            Msg::Done { heard } => self.done(from.clone(), heard, out),
            Msg::Forward {
                key,
                token,
                request,
            } => {
                self.accept(
                    key,
                    Pending {
                        origin: Origin::Peer(from.clone(), token),
                        request,
                    },
                    // One that others gave a hint goes to the home: hints must not send it round and round.
                    None,
                    out,
                );
            }
            Msg::Reply { token, answer } => self.reply(from, token, answer, out),
            Msg::Locate { key, token } => {
                if let Some(found) = self.located(&key) {
                    out.push(Effect::Send {
                        to: from.clone(),
                        msg: Msg::Located { token, found },
                    });
                }
            }
            Msg::Located { token, found } => {
                if self.stop_locating(token) {
                    out.push(Effect::Found { token, found });
                }
            }
            Msg::Inquire { key } => self.inquired(from.clone(), key, out),
            Msg::Report { key, report } => self.report(from.clone(), key, report, out),
        }
    }

    /// Takes a Put of the installed epoch, or a Hold, as [`Input::Message`] does; whether it is kept, which its sender is
    /// to be told, together with others (an acknowledgement for each would double the traffic).
    pub fn keep(
        &mut self,
        from: &NodeId,
        key: KeyRef<'_>,
        copied: Copied<'_>,
        out: &mut dyn Effects,
    ) -> bool {
        if !self.view.contains(from) {
            out.push(Effect::ShowView(from.clone()));
            return false;
        }
        let Copied {
            is_hold,
            gen_,
            ver,
            data,
        } = copied;
        let held = is_hold.then(|| key.to_key());
        let is_top = || held.as_ref().map_or(Ok(()), |key| self.check_top(key));
        if let Err(rule) = self.check_version(gen_, ver).and_then(|()| is_top()) {
            let from = from.clone();
            out.push(Effect::Refused { from, rule });
            return false;
        }
        self.touch_ref(key, out);
        let kept = match held {
            Some(key) => self.merge(from, &key, gen_, ver, data, out),
            None => self.put(from, key, gen_, ver, data, true, out),
        };
        self.follow_up(out);
        kept
    }

    /// A member kept these copies of the installed epoch, each a key, whether it is a Hold, its generation and version: as
    /// so many acknowledgements.
    pub fn kept(
        &mut self,
        leased: bool,
        from: &NodeId,
        copies: &[(Key, (bool, Epoch, u64))],
        out: &mut dyn Effects,
    ) {
        for copies in copies.chunks(PREFETCHED) {
            self.prefetch(copies.iter().map(|(key, _)| key.borrowed()));
            for (key, (is_hold, gen_, ver)) in copies {
                self.touch(key, out);
                if *is_hold {
                    self.hold_ack(from, key, *gen_, *ver);
                } else {
                    self.put_ack(leased, from, key, *gen_, *ver, out);
                }
            }
        }
        self.follow_up(out);
    }

    /// No message of an earlier epoch counts.
    fn takes_late(&self, msg: &Msg) -> bool {
        let (put, grant) = (Defect::NoEpochCheckOnPut, Defect::LateGrant);
        matches!(msg, Msg::Put { .. } | Msg::PutAck { .. }) && self.planted.has(put)
            || matches!(msg, Msg::Grant { .. }) && self.planted.has(grant)
    }

    /// Whether a member in this epoch can have sent that: what a peer makes up must not block a key, overflow, or
    /// have this node own what its home did not grant. Who may say what follows from the view, which both have. (Who
    /// may put is asked where the record is at hand.)
    fn check(&self, from: &NodeId, same_epoch: bool, msg: &Msg) -> Result<(), &'static str> {
        match msg {
            Msg::Grant { gen_, ver, .. }
            | Msg::Put { gen_, ver, .. }
            | Msg::PutAck { gen_, ver, .. }
            | Msg::Hold { gen_, ver, .. }
            | Msg::HoldAck { gen_, ver, .. }
            | Msg::Report {
                report: Report::Copy { gen_, ver, .. },
                ..
            } => self.check_version(*gen_, *ver)?,
            Msg::Claim { .. }
            | Msg::OwnerIs { .. }
            | Msg::Done { .. }
            | Msg::Forward { .. }
            | Msg::Reply { .. }
            | Msg::Locate { .. }
            | Msg::Located { .. }
            | Msg::Inquire { .. }
            | Msg::Report { .. } => {}
        }
        match msg {
            Msg::Grant { key, .. } | Msg::OwnerIs { key, .. } | Msg::Inquire { key }
                if same_epoch && self.placement.home(key) != Some(from) =>
            {
                Err("only the home of a key grants it, names its owner, or asks who has it")
            }
            Msg::Report { key, .. } if !self.is_home(key) => {
                Err("only the home of a key is told who has it")
            }
            Msg::Hold { key, .. } => self.check_top(key),
            Msg::Forward { request, .. } if request.id.is_none() => {
                Err("who forwards a request gives it an id")
            }
            Msg::Grant { .. }
            | Msg::Put { .. }
            | Msg::PutAck { .. }
            | Msg::HoldAck { .. }
            | Msg::Claim { .. }
            | Msg::OwnerIs { .. }
            | Msg::Done { .. }
            | Msg::Forward { .. }
            | Msg::Reply { .. }
            | Msg::Locate { .. }
            | Msg::Located { .. }
            | Msg::Inquire { .. }
            | Msg::Report { .. } => Ok(()),
        }
    }

    fn check_top(&self, key: &Key) -> Result<(), &'static str> {
        if self.placement.is_top(key, self.backups, &self.me) {
            Ok(())
        } else {
            Err("a copy without an owner goes to the first of its ranking alone")
        }
    }

    fn check_version(&self, gen_: Epoch, ver: u64) -> Result<(), &'static str> {
        if gen_ > self.view.epoch || ver >= VERSION_MAX {
            return Err("no state is newer than its epoch, or as old as time");
        }
        Ok(())
    }

    /// Looks at what lags as of the tick `by` or before: answers what only the lease held back, and, if `again`, puts what
    /// was last put as early as that.
    fn revisit(&mut self, leased: bool, by: u64, again: bool, out: &mut dyn Effects) {
        for names in self.lagging.take(by).chunks(PREFETCHED) {
            self.prefetch(names.iter().map(Key::borrowed));
            for key in names.iter() {
                if self.own(key).is_none_or(|own| !own.listed.lags) {
                    continue;
                }
                self.touch(key, out);
                self.settle(leased, key, out);
                let Some(Slot::Own(own)) = self.slots.get_mut(key) else {
                    continue;
                };
                if own.listed.lags {
                    if again && own.lags() && own.put_at <= by {
                        own.send_puts(key, self.tick, out);
                    }
                    self.lagging.add(self.tick, key, own);
                }
            }
        }
    }

    /// Sends again what was not acknowledged for that many ticks.
    fn resend(&mut self, leased: bool, after: u64, out: &mut dyn Effects) {
        let tick = self.tick;
        let put_by = tick.checked_sub(after);
        if let Some(by) = put_by {
            self.revisit(leased, by, true, out);
        }
        if after == 0 {
            self.heal_again();
            self.inquire_again(out);
        } else {
            self.resend_copies(put_by, out);
        }
        self.heal(out);
        let due: Vec<Key> = self
            .wanted
            .iter()
            .filter(|(_, wanted)| tick >= wanted.claimed_at + after)
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            self.kick(&key, out);
        }
        self.forwarded.for_each_mut(|token, forwarded| {
            if tick >= forwarded.sent_at + after {
                forwarded.sent_at = tick;
                forwarded.pending.request.again = true;
                out.push(forwarded.message(token));
            }
        });
        let asked: Vec<u64> = self.locating.keys().copied().collect();
        for token in asked {
            self.ask_home(token, out);
        }
        if self.done_sent && !self.complete {
            self.send_done(out);
        }
    }

    /// Whether only requests of peers are left that this node has not begun, and will not.
    pub fn is_quiet(&self) -> bool {
        let parked = |p: &&Pending| matches!(p.origin, Origin::Peer(..));
        self.books.pending
            == self
                .wanted
                .values()
                .flat_map(|w| &w.pending)
                .filter(parked)
                .count()
    }
}

impl Forwarded {
    fn message(&self, token: u64) -> Effect {
        let msg = Msg::Forward {
            key: self.key.clone(),
            token,
            request: self.pending.request.clone(),
        };
        Effect::Send {
            to: self.to.clone(),
            msg,
        }
    }
}
