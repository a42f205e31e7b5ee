//! The list of the actors that live in a part. There may be so many that clients would wait for it, so it is made a few
//! at a time, between the part's rounds.

use tokio::sync::oneshot;

use crate::protocol::blob::Blob;
use crate::protocol::shard::{PREFETCHED, Shard};
use crate::protocol::types::{Key, Kind, NodeId};

/// How many keys are looked up between two rounds.
const AT_ONCE: usize = 8 * PREFETCHED;

/// An actor on this node: key, state, version, keepers.
pub(crate) type Local = (Key, Blob, u64, Vec<NodeId>);

/// A list in the making. It has every actor that lives here from the question to the answer, once.
pub(super) struct Listing {
    /// Those that are still to be looked up.
    keys: std::vec::IntoIter<Key>,
    found: Vec<Local>,
    port: oneshot::Sender<Vec<Local>>,
}

impl Listing {
    /// Begins one of the actors of that kind.
    pub(super) fn begin(machine: &Shard, kind: Kind, port: oneshot::Sender<Vec<Local>>) -> Self {
        let keys = machine.owned_keys().filter(|key| key.kind() == kind);
        let keys: Vec<Key> = keys.collect();
        Self {
            found: Vec::with_capacity(keys.len()),
            keys: keys.into_iter(),
            port,
        }
    }

    /// Looks up the next ones; answers, and is none any more, when there are no others or nobody wants them.
    pub(super) fn go_on(mut self, machine: &Shard) -> Option<Self> {
        if self.port.is_closed() {
            return None;
        }
        machine.prefetch(self.keys.as_slice().iter().take(AT_ONCE).map(Key::borrowed));
        for key in self.keys.by_ref().take(AT_ONCE) {
            // It may live elsewhere by now.
            if let Some((_, ver, data)) = machine.owned_state(&key) {
                let data = data.clone();
                let keepers = machine.keepers_of(&key).into_iter().flatten().cloned();
                let keepers = keepers.collect();
                self.found.push((key, data, ver, keepers));
            }
        }
        if !self.keys.as_slice().is_empty() {
            return Some(self);
        }
        // Whoever asked may have given up just now.
        let _ = self.port.send(self.found);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::shard::{Input, Request};
    use crate::protocol::types::{ClusterId, Epoch, Member};
    use crate::protocol::view::View;

    /// A part of `a@h`, in a cluster with `b@h`, that owns the actors of these names.
    fn owner_of(names: &[String]) -> Shard {
        let member = |name: &str| Member {
            id: NodeId::new(name, 1),
            addr: name.into(),
        };
        let view = View {
            cluster: ClusterId(1),
            epoch: Epoch(1),
            members: vec![member("a@h"), member("b@h")],
            leaving: Vec::new(),
        };
        let mut shard = Shard::new(NodeId::new("a@h", 1), view, 1, usize::MAX, 0);
        for (token, name) in (0..).zip(names) {
            let request = Request {
                id: None,
                payload: Blob::EMPTY,
                again: false,
                span: 0,
            };
            let key = Key::new(Kind(1), name.as_str());
            let hint = None;
            let input = Input::Request {
                token,
                key,
                request,
                hint,
            };
            shard.handle(true, input, &mut Vec::new());
        }
        shard
    }

    #[test]
    fn a_list_made_in_steps_has_all_actors_of_its_kind() {
        // Of two nodes the home of half of them is this one, which then owns them at once.
        let names: Vec<String> = (0..5 * AT_ONCE).map(|n| n.to_string()).collect();
        let shard = owner_of(&names);
        let mut owned: Vec<Key> = shard.owned_keys().collect();
        assert!(owned.len() > AT_ONCE, "one step must not be enough");
        let (port, mut answer) = oneshot::channel();
        let (other, mut none) = oneshot::channel();
        let mut listing = Some(Listing::begin(&shard, Kind(1), port));
        let mut steps = 0;
        while let Some(made) = listing.take() {
            listing = made.go_on(&shard);
            steps += 1;
        }
        assert_eq!(steps, owned.len().div_ceil(AT_ONCE));
        let mut found: Vec<Key> = answer
            .try_recv()
            .expect("it is complete")
            .into_iter()
            .map(|(key, ..)| key)
            .collect();
        owned.sort();
        found.sort();
        assert_eq!(found, owned);
        assert!(
            Listing::begin(&shard, Kind(2), other)
                .go_on(&shard)
                .is_none()
        );
        assert_eq!(none.try_recv().expect("it is complete"), []);
    }

    #[test]
    fn a_list_that_nobody_waits_for_ends() {
        let shard = owner_of(&(0..5 * AT_ONCE).map(|n| n.to_string()).collect::<Vec<_>>());
        let (port, answer) = oneshot::channel();
        drop(answer);
        assert!(
            Listing::begin(&shard, Kind(1), port)
                .go_on(&shard)
                .is_none()
        );
    }
}
