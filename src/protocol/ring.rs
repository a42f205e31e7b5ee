//! The memory that makes a retry safe: the last requests that changed an actor, each with its reply. It is part of
//! the state that is backed up, so that it moves with the actor from node to node (invariant I3).
//!
//! ```text
//!   Issuer, where a client asked:  open ids  ──request: id, span──▶  Ring, at the actor
//!                                     ▲                               replies of what may be asked for again
//!                                     └────────────reply──────────────┘
//! ```
//! A node that forwards a request gives it an id, and says with it how far back ids of its own may still be asked for
//! again. What is older was heard, or given up: the actor forgets those replies, and should such a request come once more,
//! late, it is not carried out. So a ring has as many replies as are under way, and not its 32; after RIFL's
//! acknowledgements (Lee, Park, Kejriwal, Matsushita and Ousterhout, 2015), without a session to keep.

use std::collections::VecDeque;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::blob::Blob;
use super::defect::{Defect, Planted};
use super::types::RequestId;

/// How many replies are remembered. A retry whose request has been followed by this many others is applied again.
pub const RING_LEN: usize = 32;

/// How many bytes of replies are remembered, but for the latest: the ring is backed up with every write.
pub const RING_BYTES_MAX: usize = 256 * 1024;

/// The replies of the last [`RING_LEN`] requests with an id, oldest first. Empty, it is encoded as two bytes.
///
/// It is kept as it is written, since every write writes it: one after the other the id, its span, the length of the reply,
/// and the reply.
#[derive(Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct Ring {
    /// Whether some reply was forgotten that nobody is known to have heard: then a request that is not known may have been
    /// carried out.
    rolled: bool,
    #[serde(serialize_with = "as_bytes")]
    entries: Vec<u8>,
}

/// A length that does not fit into its byte: four more bytes have it.
const LONG: u8 = u8::MAX;

/// A ring that is being read.
#[derive(Deserialize)]
struct Written {
    rolled: bool,
    entries: Blob,
}

impl TryFrom<Written> for Ring {
    type Error = &'static str;

    /// A ring of a peer: of whole entries.
    fn try_from(written: Written) -> Result<Self, &'static str> {
        let mut rest = &*written.entries;
        while !rest.is_empty() {
            rest = first_of(rest).ok_or("an entry of the ring is cut off")?.1;
        }
        Ok(Self {
            rolled: written.rolled,
            entries: written.entries.to_vec(),
        })
    }
}

fn as_bytes<S: serde::Serializer>(entries: &[u8], to: S) -> Result<S::Ok, S::Error> {
    Raw(entries).serialize(to)
}

/// A request that is remembered.
#[derive(Clone, Copy)]
struct Entry<'a> {
    id: RequestId,
    /// See [`Issuer::span`].
    span: u16,
    reply: &'a [u8],
}

impl Entry<'_> {
    /// Whether it says that the request of this id was heard, or given up.
    fn is_after(&self, id: RequestId) -> bool {
        self.span > 0
            && id.issuer() == self.id.issuer()
            && id.number() + u64::from(self.span) <= self.id.number()
    }
}

/// The first entry, and the rest; none if there is none that is whole.
fn first_of(entries: &[u8]) -> Option<(Entry<'_>, &[u8])> {
    let (id, rest) = entries.split_first_chunk::<16>()?;
    let (span, rest) = rest.split_first_chunk::<2>()?;
    let (&short, mut rest) = rest.split_first()?;
    let mut length = usize::from(short);
    if short == LONG {
        let (long, after) = rest.split_first_chunk::<4>()?;
        length = usize::try_from(u32::from_le_bytes(*long)).ok()?;
        rest = after;
    }
    let (reply, rest) = rest.split_at_checked(length)?;
    let entry = Entry {
        id: RequestId::from(*id),
        span: u16::from_le_bytes(*span),
        reply,
    };
    Some((entry, rest))
}

/// What the memory says of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known<'a> {
    /// It was not carried out: it may be, now.
    New,
    /// It was, with this reply.
    Replied(&'a [u8]),
    /// It must not be carried out: whether it was is forgotten.
    Forgotten,
}

impl Ring {
    /// Whether a request may be carried out; `again`: it was sent before.
    pub fn judge(&self, id: Option<RequestId>, again: bool, planted: Planted) -> Known<'_> {
        let mut is_over = false;
        if let Some(id) = id {
            for entry in self.entries() {
                if entry.id == id {
                    return Known::Replied(entry.reply);
                }
                is_over |= entry.is_after(id);
            }
        }
        if is_over && !planted.has(Defect::LateRequest) || again && self.rolled {
            return Known::Forgotten;
        }
        Known::New
    }

    /// Remembers the reply of a request that was carried out, of an id that is not known, and forgets those that were heard,
    /// as its span says. If there are too many then, it forgets the oldest.
    ///
    /// # Panics
    /// If the reply is 4 GiB or longer; whoever encodes replies allows far less.
    pub fn remember(&mut self, id: RequestId, span: u16, reply: &[u8]) {
        let now = Entry { id, span, reply };
        let (mut count, mut bytes, mut heard) = (0, reply.len(), false);
        for entry in self.entries() {
            if now.is_after(entry.id) {
                heard = true;
            } else {
                count += 1;
                bytes += entry.reply.len();
            }
        }
        if heard {
            self.retain(|entry| !now.is_after(entry.id));
        }
        let mut rest = &self.entries[..];
        // A loop, since a peer may have encoded more than there should be.
        while (count >= RING_LEN || bytes > RING_BYTES_MAX)
            && let Some((oldest, younger)) = first_of(rest)
        {
            count -= 1;
            bytes -= oldest.reply.len();
            rest = younger;
            self.rolled = true;
        }
        self.entries.drain(..self.entries.len() - rest.len());
        self.entries.extend(<[u8; 16]>::from(id));
        self.entries.extend(span.to_le_bytes());
        match u8::try_from(reply.len()) {
            Ok(length) if length != LONG => self.entries.push(length),
            _ => {
                let length = u32::try_from(reply.len()).expect("a reply is shorter than 4 GiB");
                self.entries.push(LONG);
                self.entries.extend(length.to_le_bytes());
            }
        }
        self.entries.extend_from_slice(reply);
    }

    /// Keeps some of the entries.
    fn retain(&mut self, keep: impl Fn(Entry<'_>) -> bool) {
        let (mut from, mut to) = (0, 0);
        while let Some((entry, rest)) = first_of(&self.entries[from..]) {
            let next = self.entries.len() - rest.len();
            if keep(entry) {
                self.entries.copy_within(from..next, to);
                to += next - from;
            }
            from = next;
        }
        self.entries.truncate(to);
    }

    /// How many requests are remembered.
    pub fn len(&self) -> usize {
        self.entries().count()
    }

    /// Whether no request is remembered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The remembered requests and their replies, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (RequestId, &[u8])> {
        self.entries().map(|entry| (entry.id, entry.reply))
    }

    fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let mut rest = &self.entries[..];
        std::iter::from_fn(move || {
            let (entry, younger) = first_of(rest)?;
            rest = younger;
            Some(entry)
        })
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// How many ids one part of one life of a node can give.
const NUMBER_BITS: u32 = 48;

impl RequestId {
    /// Who gave it, if it is one that a node gave.
    fn issuer(self) -> u128 {
        self.0 >> NUMBER_BITS
    }

    /// Which of those of its issuer it is.
    fn number(self) -> u64 {
        (self.0 & ((1 << NUMBER_BITS) - 1)) as u64
    }
}

/// Gives ids to requests, and knows which of them may be asked for again.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Issuer {
    issuer: u128,
    /// The number of the latest.
    last: u64,
    /// The numbers of those that are not over, in their order: as many as there are requests under way. They are over in
    /// nearly the same order, so that one that is taken out is near the front.
    open: VecDeque<u64>,
}

impl Issuer {
    /// The issuer of that part of one life of a node.
    pub fn new(life: &str, part: u16) -> Self {
        let life = xxhash_rust::xxh3::xxh3_64(life.as_bytes());
        Self {
            issuer: u128::from(life) << 16 | u128::from(part),
            last: 0,
            open: VecDeque::new(),
        }
    }

    /// A new id; it is open until it is [closed](Self::close).
    pub fn issue(&mut self) -> RequestId {
        self.last += 1;
        self.open.push_back(self.last);
        RequestId(self.issuer << NUMBER_BITS | u128::from(self.last))
    }

    /// How far back ids may be asked for again, from this one on, which is open: that many, with itself; all before are over.
    /// 0 says nothing: more than there are numbers for it, or somebody else gave that id.
    pub fn span(&self, id: RequestId, planted: Planted) -> u16 {
        let number = id.number();
        let oldest = if planted.has(Defect::UnheardForgotten) {
            self.open.iter().rfind(|open| **open <= number)
        } else {
            self.open.front().filter(|open| **open <= number)
        };
        let of_ours = oldest.filter(|_| id.issuer() == self.issuer);
        of_ours.map_or(0, |oldest| u16::try_from(number - oldest + 1).unwrap_or(0))
    }

    /// A request is over: its answer was heard, or nobody waits for it any more. It is not sent again.
    pub fn close(&mut self, id: RequestId) {
        if id.issuer() == self.issuer
            && let Ok(at) = self.open.binary_search(&id.number())
        {
            self.open.remove(at);
        }
    }

    /// The ids that are open.
    #[doc(hidden)]
    pub fn open(&self) -> impl Iterator<Item = RequestId> {
        let id = |number: &u64| RequestId(self.issuer << NUMBER_BITS | u128::from(*number));
        self.open.iter().map(id)
    }
}

/// What is backed up of an actor.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// The requests that it contains, as far as they are remembered.
    pub ring: Ring,
    /// The state, as the layer above encodes it.
    pub state: Blob,
}

/// A [`Snapshot`] to be written, of what others have.
#[derive(Debug, Serialize)]
pub struct SnapshotRef<'a> {
    /// As in [`Snapshot::ring`].
    pub ring: &'a Ring,
    /// As in [`Snapshot::state`].
    pub state: Raw<'a>,
}

/// Bytes that are written as [`Blob`] are.
#[derive(Clone, Copy, Debug)]
pub struct Raw<'a>(pub &'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> RequestId {
        RequestId(n as u128)
    }

    fn reply(n: usize) -> Vec<u8> {
        n.to_string().into_bytes()
    }

    fn filled(count: usize) -> Ring {
        let mut ring = Ring::default();
        (0..count).for_each(|n| ring.remember(id(n), 0, &reply(n)));
        ring
    }

    fn lookup<'a>(ring: &'a Ring, id: &RequestId) -> Option<&'a [u8]> {
        match ring.judge(Some(*id), false, Planted::NONE) {
            Known::Replied(reply) => Some(reply),
            Known::New => None,
            Known::Forgotten => panic!("{id:?} is forgotten"),
        }
    }

    fn again(ring: &Ring, id: RequestId) -> Known<'_> {
        ring.judge(Some(id), true, Planted::NONE)
    }

    #[test]
    fn a_remembered_request_gets_its_own_reply() {
        let ring = filled(3);
        assert_eq!(lookup(&ring, &id(1)), Some(&*reply(1)));
        assert_eq!(lookup(&ring, &id(3)), None);
    }

    #[test]
    fn the_oldest_is_forgotten_when_the_ring_is_full() {
        let mut ring = filled(RING_LEN);
        assert_eq!(lookup(&ring, &id(0)), Some(&*reply(0)));
        ring.remember(id(RING_LEN), 0, &reply(RING_LEN));
        assert_eq!(ring.len(), RING_LEN);
        assert_eq!(lookup(&ring, &id(0)), None);
        assert_eq!(lookup(&ring, &id(1)), Some(&*reply(1)));
        assert_eq!(lookup(&ring, &id(RING_LEN)), Some(&*reply(RING_LEN)));
    }

    #[test]
    fn an_overfull_ring_of_a_peer_shrinks_to_its_length() {
        let mut overfull = filled(RING_LEN);
        overfull.entries.extend_from_within(..);
        let bytes = postcard::to_stdvec(&overfull).expect("it encodes");
        let mut ring: Ring = postcard::from_bytes(&bytes).expect("it decodes");
        ring.remember(id(1_000), 0, &reply(1_000));
        assert_eq!(ring.len(), RING_LEN);
    }

    #[test]
    fn entries_are_listed_from_the_oldest_to_the_newest() {
        let ring = filled(RING_LEN + 2);
        let ids: Vec<RequestId> = ring.iter().map(|(id, _)| id).collect();
        assert_eq!(ids, (2..RING_LEN + 2).map(id).collect::<Vec<_>>());
    }

    #[test]
    fn an_empty_ring_costs_two_bytes() {
        let bytes = postcard::to_stdvec(&Ring::default()).expect("it encodes");
        assert_eq!(bytes.len(), 2);
        assert!(Ring::default().is_empty());
    }

    #[test]
    fn a_ring_that_is_cut_off_is_refused() {
        let mut ring = filled(2);
        ring.remember(id(2), 0, &[7; 300]);
        assert_eq!(lookup(&ring, &id(2)), Some(&[7; 300][..]));
        for cut in 1..ring.entries.len() {
            let mut short = ring.clone();
            short.entries.truncate(cut);
            let bytes = postcard::to_stdvec(&short).expect("it encodes");
            let read = postcard::from_bytes::<Ring>(&bytes);
            assert_eq!(read.is_ok(), [20, 40].contains(&cut), "{cut}");
        }
    }

    #[test]
    fn a_snapshot_survives_its_encoding() {
        let snapshot = Snapshot {
            ring: filled(RING_LEN),
            state: Blob::from(b"state"),
        };
        let bytes = postcard::to_stdvec(&snapshot).expect("it encodes");
        let of_parts = SnapshotRef {
            ring: &snapshot.ring,
            state: Raw(&snapshot.state),
        };
        assert_eq!(postcard::to_stdvec(&of_parts), Ok(bytes.clone()));
        assert_eq!(postcard::from_bytes::<Snapshot>(&bytes), Ok(snapshot));
    }

    #[test]
    fn large_replies_are_forgotten_earlier_and_the_ring_says_so() {
        let mut ring = Ring::default();
        let large = vec![7; RING_BYTES_MAX / 2];
        ring.remember(id(0), 0, &large);
        ring.remember(id(1), 0, &large);
        assert_eq!(again(&ring, id(9)), Known::New);
        ring.remember(id(2), 0, &large);
        assert_eq!(again(&ring, id(0)), Known::Forgotten);
        assert_eq!(ring.len(), 2);
    }

    /// An issuer with three open ids, and a ring that has their replies.
    fn three() -> (Issuer, [RequestId; 3], Ring) {
        let mut issuer = Issuer::new("a@h#1", 2);
        let mut ring = Ring::default();
        let ids = [0, 1, 2].map(|n| {
            let id = issuer.issue();
            ring.remember(id, issuer.span(id, Planted::NONE), &reply(n));
            id
        });
        (issuer, ids, ring)
    }

    #[test]
    fn what_was_heard_is_forgotten_and_never_carried_out_again() {
        let (mut issuer, [first, second, third], mut ring) = three();
        assert_eq!(ring.len(), 3);
        issuer.close(first);
        issuer.close(third);
        let fourth = issuer.issue();
        let span = issuer.span(fourth, Planted::NONE);
        assert_eq!(span, 3, "the second is open");
        ring.remember(fourth, span, &reply(3));
        assert_eq!(again(&ring, first), Known::Forgotten);
        for (n, id) in [(1, second), (2, third), (3, fourth)] {
            assert_eq!(again(&ring, id), Known::Replied(&reply(n)));
        }
        let fifth = issuer.issue();
        assert_eq!(again(&ring, fifth), Known::New, "no reply was lost");
        let late = ring.judge(Some(first), false, Planted::NONE);
        assert_eq!(late, Known::Forgotten, "also if it says that it is new");
    }

    #[test]
    fn what_one_has_heard_says_nothing_of_what_others_ask() {
        let (mut issuer, ids, mut ring) = three();
        let mut other = Issuer::new("b@h#1", 2);
        let same_node = Issuer::new("a@h#1", 3).issue();
        let (theirs, clients) = (other.issue(), id(7));
        for id in [theirs, same_node, clients] {
            ring.remember(id, 0, b"other");
        }
        ids.into_iter().for_each(|id| issuer.close(id));
        let latest = issuer.issue();
        ring.remember(latest, issuer.span(latest, Planted::NONE), b"latest");
        assert_eq!(ring.len(), 4);
        for id in [theirs, same_node, clients] {
            assert_eq!(lookup(&ring, &id), Some(&b"other"[..]));
        }
        assert_eq!(again(&ring, other.issue()), Known::New);
        assert_eq!(issuer.span(theirs, Planted::NONE), 0);
        issuer.close(theirs);
        assert_eq!(issuer.open().collect::<Vec<_>>(), [latest]);
    }

    #[test]
    fn an_id_that_is_open_for_very_long_says_nothing_rather_than_something_wrong() {
        let (mut issuer, [first, ..], mut ring) = three();
        let last = (0..usize::from(u16::MAX)).map(|_| issuer.issue()).last();
        let last = last.expect("many");
        assert_eq!(issuer.span(last, Planted::NONE), 0);
        ring.remember(last, 0, b"late");
        assert_eq!(lookup(&ring, &first), Some(&*reply(0)));
    }

    #[test]
    fn a_span_that_a_peer_makes_up_forgets_at_most_replies() {
        let (_, [first, ..], mut ring) = three();
        for span in [1, u16::MAX] {
            ring.remember(RequestId(u128::MAX), span, b"made up");
            ring.remember(RequestId(first.0 - 1), span, b"made up");
        }
        assert!(ring.len() <= RING_LEN);
    }
}
