//! Where the copies of a key live: rendezvous (highest random weight) hashing over the names of the active
//! members (Thaler and Ravishankar, 1998). A join or a loss moves only the keys whose ranks it touches,
//! about 1/n of them.

use super::types::{Key, NodeId, NodeName};
use super::view::View;

/// The ranks of all keys under one view.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Placement {
    active: Vec<(u64, NodeId)>,
}

impl Placement {
    /// The placement that `view` prescribes.
    pub fn of(view: &View) -> Self {
        let seed = |name: &NodeName| xxhash_rust::xxh3::xxh3_64(name.as_str().as_bytes());
        Self { active: view.active().map(|id| (seed(&id.name), id.clone())).collect() }
    }

    /// How many members hold copies.
    pub fn len(&self) -> usize {
        self.active.len()
    }

    /// Whether nobody can hold a copy.
    pub fn is_empty(&self) -> bool {
        self.active.is_empty()
    }

    /// Whether `id` is among those that own and hold.
    pub fn is_active(&self, id: &NodeId) -> bool {
        self.active.iter().any(|(_, a)| a == id)
    }

    /// The active members from the best rank for `key` to the worst.
    pub fn ranked(&self, key: &Key) -> Vec<&NodeId> {
        let mut scored: Vec<(u64, &NodeId)> =
            self.active.iter().map(|(seed, id)| (mix(seed ^ key.hash()), id)).collect();
        scored.sort_unstable_by(|a, b| b.cmp(a));
        scored.into_iter().map(|(_, id)| id).collect()
    }

    /// The member of rank 0: the directory entry of `key`.
    pub fn home(&self, key: &Key) -> Option<&NodeId> {
        self.active.iter().map(|(seed, id)| (mix(seed ^ key.hash()), id)).max().map(|(_, id)| id)
    }

    /// The first `backups` members that are not `owner`: who holds a copy beside it. The home is either the
    /// owner or the first of them, so that its record doubles as the directory entry.
    pub fn keepers(&self, key: &Key, owner: &NodeId, backups: usize) -> Vec<NodeId> {
        self.ranked(key).into_iter().filter(|id| *id != owner).take(backups).cloned().collect()
    }

    /// The first `backups + 1` members: where a record without an owner lives.
    pub fn top(&self, key: &Key, backups: usize) -> Vec<NodeId> {
        self.ranked(key).into_iter().take(backups + 1).cloned().collect()
    }
}

/// The finaliser of splitmix64 (Steele, Lea and Flood, 2014): every input bit reaches every output bit.
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
