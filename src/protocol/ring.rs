//! The memory that makes a retry safe: the last requests that changed an actor, each with its reply. It is part of
//! the state that is backed up, so that it moves with the actor from node to node (invariant I3).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::blob::Blob;
use super::types::RequestId;

/// How many replies are remembered. A retry whose request has been followed by this many others is applied again.
pub const RING_LEN: usize = 32;

/// How many bytes of replies are remembered, but for the latest: the ring is backed up with every write.
pub const RING_BYTES_MAX: usize = 256 * 1024;

/// The replies of the last [`RING_LEN`] requests with an id, oldest first. Empty, it is encoded as two bytes.
///
/// It is kept as it is written, since every write writes it: one after the other the id, the length of the reply, and the
/// reply.
#[derive(Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct Ring {
    /// Whether some reply was forgotten: then a request that is not known may have been carried out.
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
            rest = first_of(rest).ok_or("an entry of the ring is cut off")?.2;
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

/// The first entry, and the rest; none if there is none that is whole.
fn first_of(entries: &[u8]) -> Option<(RequestId, &[u8], &[u8])> {
    let (id, rest) = entries.split_first_chunk::<16>()?;
    let (&short, mut rest) = rest.split_first()?;
    let mut length = usize::from(short);
    if short == LONG {
        let (long, after) = rest.split_first_chunk::<4>()?;
        length = usize::try_from(u32::from_le_bytes(*long)).ok()?;
        rest = after;
    }
    let (reply, rest) = rest.split_at_checked(length)?;
    Some((RequestId::from(*id), reply, rest))
}

impl Ring {
    /// The reply that this request got, if it is still remembered.
    pub fn lookup(&self, id: &RequestId) -> Option<&[u8]> {
        self.iter()
            .find(|(known, _)| known == id)
            .map(|(_, reply)| reply)
    }

    /// Remembers the reply of a request, and forgets the oldest if there are too many. A request that is known
    /// keeps its first reply, which is the one that its client may have seen.
    ///
    /// # Panics
    /// If the reply is 4 GiB or longer; whoever encodes replies allows far less.
    pub fn remember(&mut self, id: RequestId, reply: &[u8]) {
        let (mut count, mut bytes) = (0, reply.len());
        for (known, reply) in self.iter() {
            if known == id {
                return;
            }
            count += 1;
            bytes += reply.len();
        }
        let mut rest = &self.entries[..];
        // A loop, since a peer may have encoded more than there should be.
        while (count >= RING_LEN || bytes > RING_BYTES_MAX)
            && let Some((_, oldest, younger)) = first_of(rest)
        {
            count -= 1;
            bytes -= oldest.len();
            rest = younger;
            self.rolled = true;
        }
        self.entries.drain(..self.entries.len() - rest.len());
        self.entries.extend(<[u8; 16]>::from(id));
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

    /// Whether a request that is not known here may have been carried out all the same.
    pub fn has_rolled(&self) -> bool {
        self.rolled
    }

    /// How many requests are remembered.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether no request is remembered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The remembered requests and their replies, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (RequestId, &[u8])> {
        let mut rest = &self.entries[..];
        std::iter::from_fn(move || {
            let (id, reply, younger) = first_of(rest)?;
            rest = younger;
            Some((id, reply))
        })
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
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
        (0..count).for_each(|n| ring.remember(id(n), &reply(n)));
        ring
    }

    #[test]
    fn a_remembered_request_gets_its_own_reply() {
        let ring = filled(3);
        assert_eq!(ring.lookup(&id(1)), Some(&*reply(1)));
        assert_eq!(ring.lookup(&id(3)), None);
    }

    #[test]
    fn a_known_request_keeps_its_first_reply() {
        let mut ring = filled(2);
        ring.remember(id(0), &reply(7));
        assert_eq!(ring.lookup(&id(0)), Some(&*reply(0)));
        assert_eq!(ring.len(), 2);
    }

    #[test]
    fn the_oldest_is_forgotten_when_the_ring_is_full() {
        let mut ring = filled(RING_LEN);
        assert_eq!(ring.lookup(&id(0)), Some(&*reply(0)));
        ring.remember(id(RING_LEN), &reply(RING_LEN));
        assert_eq!(ring.len(), RING_LEN);
        assert_eq!(ring.lookup(&id(0)), None);
        assert_eq!(ring.lookup(&id(1)), Some(&*reply(1)));
        assert_eq!(ring.lookup(&id(RING_LEN)), Some(&*reply(RING_LEN)));
    }

    #[test]
    fn an_overfull_ring_of_a_peer_shrinks_to_its_length() {
        let mut overfull = filled(RING_LEN);
        overfull.entries.extend_from_within(..);
        let bytes = postcard::to_stdvec(&overfull).expect("it encodes");
        let mut ring: Ring = postcard::from_bytes(&bytes).expect("it decodes");
        ring.remember(id(1_000), &reply(1_000));
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
        ring.remember(id(2), &[7; 300]);
        assert_eq!(ring.lookup(&id(2)), Some(&[7; 300][..]));
        for cut in 1..ring.entries.len() {
            let mut short = ring.clone();
            short.entries.truncate(cut);
            let bytes = postcard::to_stdvec(&short).expect("it encodes");
            let read = postcard::from_bytes::<Ring>(&bytes);
            assert_eq!(read.is_ok(), [18, 36].contains(&cut), "{cut}");
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
        ring.remember(id(0), &large);
        ring.remember(id(1), &large);
        assert!(!ring.has_rolled());
        ring.remember(id(2), &large);
        assert!(ring.has_rolled());
        assert_eq!(ring.len(), 2);
    }
}
