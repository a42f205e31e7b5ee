//! Many cache misses at once cost little more than one. There are more actors than a cache has room for, and a step waits
//! for one piece of its key's memory after the other: the place in the table, the slot, what the slot points to. So whoever
//! has many steps to take reads first what they will read. No key's reads wait for those of another, and the processor has
//! several under way at a time: group prefetching (Chen, Ailamaki, Gibbons and Mowry, 2004), by plain loads.

use std::hint::black_box;

use smallvec::SmallVec;

use super::super::types::KeyRef;
use super::{Own, Shard, Slot};

/// For how many steps at once that pays: more would push the first ones out of the cache again.
pub const PREFETCHED: usize = 64;

impl Shard {
    /// Reads what steps with these keys are going to read; see [`PREFETCHED`].
    pub fn prefetch<'a>(&self, keys: impl Iterator<Item = KeyRef<'a>>) {
        // One step of every chain, then the next step of every chain: what the processor has under way at a time is limited by
        // the number of instructions between the reads.
        let near: SmallVec<[&Slot; PREFETCHED]> =
            keys.filter_map(|key| self.slots.guess(key)).collect();
        near.iter().for_each(|slot| slot.prefetch());
        for slot in &near {
            if let Slot::Own(own) = slot {
                own.prefetch();
            }
        }
    }
}

impl Slot {
    /// Reads some of every line of its own memory.
    pub(super) fn prefetch(&self) {
        if let Self::Rec(rec) = self {
            black_box((rec.ver, rec.stamp, rec.data.first()));
        }
    }
}

impl Own {
    fn prefetch(&self) {
        let keeper = self.keepers.first().map(|(_, acked)| *acked);
        let waits = self.waiting.front().map(|handled| handled.ver);
        black_box((self.ver, self.stamp, self.data.first(), keeper, waits));
    }
}
