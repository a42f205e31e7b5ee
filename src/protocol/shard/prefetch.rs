//! Many cache misses at once cost little more than one. There are more actors than a cache has room for, and a step waits
//! for one piece of its key's memory after the other: the place in the table, the slot, what the slot points to. So whoever
//! has many steps to take reads first what they will read. No key's reads wait for those of another, and the processor has
//! several under way at a time: group prefetching (Chen, Ailamaki, Gibbons and Mowry, 2004), by plain loads.

use std::hint::black_box;
use std::mem::discriminant;

use smallvec::SmallVec;

use super::super::types::KeyRef;
use super::table::Content;
use super::{Origin, Shard, Slot};

/// For how many steps at once that pays: more would push the first ones out of the cache again.
pub const PREFETCHED: usize = 64;

impl Shard {
    /// Reads what steps with these keys are going to read; see [`PREFETCHED`].
    pub fn prefetch<'a>(&self, keys: impl Iterator<Item = KeyRef<'a>>) {
        prefetch(keys.filter_map(|key| self.slots.guess(key)));
    }

    /// Reads what steps with replies to these requests are going to read.
    pub fn prefetch_forwarded(&self, tokens: impl Iterator<Item = u64>) {
        for forwarded in tokens.filter_map(|token| self.forwarded.get(token)) {
            black_box((forwarded.sent_at, forwarded.pending.request.span));
        }
    }
}

/// Reads some of every line of the memory of these slots: one step of every chain, then the next step of every chain. What
/// the processor has under way at a time is limited by how many instructions are between the reads.
pub(super) fn prefetch<'a>(slots: impl Iterator<Item = &'a Content>) {
    let slots: SmallVec<[&Content; PREFETCHED]> = slots.collect();
    for (name, slot) in &slots {
        // Which of both it is, without a branch: that would be guessed, and guessed wrong each other time.
        black_box((name.kind(), discriminant(slot)));
    }
    for (_, slot) in &slots {
        match slot {
            Slot::Rec(rec) => {
                black_box((rec.ver, rec.stamp, rec.data.first()));
            }
            Slot::Own(own) => {
                let keeper = own.keepers.first().map(|(_, acked)| *acked);
                black_box((own.ver, own.stamp, own.data.first(), keeper));
                if let Some(handled) = own.waiting.front() {
                    let is_local = matches!(handled.pending.origin, Origin::Local(_));
                    black_box((handled.ver, is_local, handled.reply.len()));
                }
            }
        }
    }
}
