//! The memory that makes a retry safe: the last requests that changed an actor, each with its reply. It is part of
//! the state that is backed up, so that it moves with the actor from node to node (invariant I3).

use std::collections::VecDeque;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::types::RequestId;

/// How many replies are remembered. A retry whose request has been followed by this many others is applied again.
pub const RING_LEN: usize = 32;

/// How many bytes of replies are remembered, but for the latest: the ring is backed up with every write.
pub const RING_BYTES_MAX: usize = 256 * 1024;

/// The replies of the last [`RING_LEN`] requests with an id, oldest first. Empty, it is encoded as two bytes.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Ring {
    /// Whether some reply was forgotten: then a request that is not known may have been carried out.
    rolled: bool,
    entries: VecDeque<(RequestId, Bytes)>,
}

impl Ring {
    /// The reply that this request got, if it is still remembered.
    pub fn lookup(&self, id: &RequestId) -> Option<&Bytes> {
        // A retry comes soon: the newest first.
        self.entries
            .iter()
            .rev()
            .find(|(known, _)| known == id)
            .map(|(_, reply)| reply)
    }

    /// Remembers the reply of a request, and forgets the oldest if there are too many. A request that is known
    /// keeps its first reply, which is the one that its client may have seen.
    pub fn remember(&mut self, id: RequestId, reply: Bytes) {
        if self.lookup(&id).is_some() {
            return;
        }
        let mut bytes = reply.len()
            + self
                .entries
                .iter()
                .map(|(_, reply)| reply.len())
                .sum::<usize>();
        // A loop, since a peer may have encoded more than there should be.
        while self.entries.len() >= RING_LEN || bytes > RING_BYTES_MAX {
            let Some((_, oldest)) = self.entries.pop_front() else {
                break;
            };
            bytes -= oldest.len();
            self.rolled = true;
        }
        self.entries.push_back((id, reply));
    }

    /// Whether a request that is not known here may have been carried out all the same.
    pub fn has_rolled(&self) -> bool {
        self.rolled
    }

    /// How many requests are remembered.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no request is remembered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The remembered requests and their replies, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (&RequestId, &Bytes)> {
        self.entries.iter().map(|(id, reply)| (id, reply))
    }
}

/// What is backed up of an actor.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// The requests that it contains, as far as they are remembered.
    pub ring: Ring,
    /// The state, as the layer above encodes it.
    pub state: Bytes,
}

/// A [`Snapshot`] to be written, of what others have.
#[derive(Debug, Serialize)]
pub struct SnapshotRef<'a> {
    /// As in [`Snapshot::ring`].
    pub ring: &'a Ring,
    /// As in [`Snapshot::state`].
    pub state: Raw<'a>,
}

/// Bytes that are written as [`Bytes`] are.
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

    fn reply(n: usize) -> Bytes {
        Bytes::from(n.to_string())
    }

    fn filled(count: usize) -> Ring {
        let mut ring = Ring::default();
        (0..count).for_each(|n| ring.remember(id(n), reply(n)));
        ring
    }

    #[test]
    fn a_remembered_request_gets_its_own_reply() {
        let ring = filled(3);
        assert_eq!(ring.lookup(&id(1)), Some(&reply(1)));
        assert_eq!(ring.lookup(&id(3)), None);
    }

    #[test]
    fn a_known_request_keeps_its_first_reply() {
        let mut ring = filled(2);
        ring.remember(id(0), reply(7));
        assert_eq!(ring.lookup(&id(0)), Some(&reply(0)));
        assert_eq!(ring.len(), 2);
    }

    #[test]
    fn the_oldest_is_forgotten_when_the_ring_is_full() {
        let mut ring = filled(RING_LEN);
        assert_eq!(ring.lookup(&id(0)), Some(&reply(0)));
        ring.remember(id(RING_LEN), reply(RING_LEN));
        assert_eq!(ring.len(), RING_LEN);
        assert_eq!(ring.lookup(&id(0)), None);
        assert_eq!(ring.lookup(&id(1)), Some(&reply(1)));
        assert_eq!(ring.lookup(&id(RING_LEN)), Some(&reply(RING_LEN)));
    }

    #[test]
    fn an_overfull_ring_of_a_peer_shrinks_to_its_length() {
        let overfull = Ring {
            rolled: false,
            entries: (0..RING_LEN * 2).map(|n| (id(n), reply(n))).collect(),
        };
        let bytes = postcard::to_stdvec(&overfull).expect("it encodes");
        let mut ring: Ring = postcard::from_bytes(&bytes).expect("it decodes");
        ring.remember(id(1_000), reply(1_000));
        assert_eq!(ring.len(), RING_LEN);
    }

    #[test]
    fn entries_are_listed_from_the_oldest_to_the_newest() {
        let ring = filled(RING_LEN + 2);
        let ids: Vec<RequestId> = ring.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, (2..RING_LEN + 2).map(id).collect::<Vec<_>>());
    }

    #[test]
    fn an_empty_ring_costs_two_bytes() {
        let bytes = postcard::to_stdvec(&Ring::default()).expect("it encodes");
        assert_eq!(bytes.len(), 2);
        assert!(Ring::default().is_empty());
    }

    #[test]
    fn a_snapshot_survives_its_encoding() {
        let snapshot = Snapshot {
            ring: filled(RING_LEN),
            state: Bytes::from_static(b"state"),
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
        let large = Bytes::from(vec![7; RING_BYTES_MAX / 2]);
        ring.remember(id(0), large.clone());
        ring.remember(id(1), large.clone());
        assert!(!ring.has_rolled());
        ring.remember(id(2), large);
        assert!(ring.has_rolled());
        assert_eq!(ring.len(), 2);
    }
}
