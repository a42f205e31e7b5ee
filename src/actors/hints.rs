//! Who owned a key a moment ago: where a request goes without a question to the key's home, also while a home that has just
//! joined does not know yet. What is remembered may be wrong, which costs a detour (see
//! [`Input::Request`](crate::protocol::shard::Input::Request)), so that it is forgotten within two turns, or when there is
//! too much of it.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::hint::black_box;

use crate::protocol::types::{Key, KeyHasher, KeyRef, NodeId};

/// After so many ticks of the part what was learned before the last turn is forgotten.
const TURN: u32 = 100;

/// How many owners are remembered from one turn; the next one comes early where there are more.
const OWNERS_MAX: usize = 16_384;

/// By the hash of the key: that another one has the same would be one more way to be wrong.
type Owners = HashMap<u64, NodeId, BuildHasherDefault<KeyHasher>>;

/// The owners that one part has heard of.
#[derive(Debug, Default)]
pub(super) struct Hints {
    young: Owners,
    old: Owners,
    ticks: u32,
}

impl Hints {
    /// Who owned that key.
    pub(super) fn of(&self, key: &Key) -> Option<&NodeId> {
        let hash = key.hash();
        self.young.get(&hash).or_else(|| self.old.get(&hash))
    }

    /// Reads what [`of`](Self::of) is going to read: see [`Shard::prefetch`](crate::protocol::shard::Shard::prefetch).
    pub(super) fn prefetch<'a>(&self, keys: impl Iterator<Item = KeyRef<'a>>) {
        keys.for_each(|key| {
            black_box(self.young.get(&key.hash()));
        });
    }

    /// A request went there, for the first time. What is known already is not known any better: it may be the hint that
    /// sent it.
    pub(super) fn learn(&mut self, key: &Key, owner: &NodeId) {
        if self.of(key).is_none() {
            if self.young.len() >= OWNERS_MAX {
                self.turn();
            }
            self.young.insert(key.hash(), owner.clone());
        }
    }

    /// Time passes.
    pub(super) fn tick(&mut self) {
        self.ticks += 1;
        if self.ticks >= TURN {
            self.turn();
        }
    }

    /// Nothing is known: the node begins another life.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn turn(&mut self) {
        self.ticks = 0;
        self.old = std::mem::take(&mut self.young);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::types::Kind;

    fn key(n: usize) -> Key {
        Key::new(Kind(1), n.to_string())
    }

    #[test]
    fn what_is_used_all_the_time_is_forgotten_within_two_turns_all_the_same() {
        let mut hints = Hints::default();
        let (first, second) = (NodeId::new("a@h", 1), NodeId::new("b@h", 1));
        hints.learn(&key(1), &first);
        for _ in 0..2 * TURN {
            assert_eq!(hints.of(&key(1)), Some(&first));
            hints.learn(&key(1), &second);
            hints.tick();
        }
        assert_eq!(hints.of(&key(1)), None);
        hints.learn(&key(1), &second);
        assert_eq!(hints.of(&key(1)), Some(&second));
        hints.clear();
        assert_eq!(hints.of(&key(1)), None);
    }

    #[test]
    fn no_more_is_remembered_than_two_turns_may_have() {
        let mut hints = Hints::default();
        let owner = NodeId::new("a@h", 1);
        for n in 0..=2 * OWNERS_MAX {
            hints.learn(&key(n), &owner);
        }
        assert_eq!(hints.of(&key(0)), None);
        assert_eq!(hints.of(&key(OWNERS_MAX)), Some(&owner));
        assert_eq!(hints.young.len() + hints.old.len(), OWNERS_MAX + 1);
    }
}
