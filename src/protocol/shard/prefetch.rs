//! Many cache misses at once cost little more than one. There are more actors than a cache has room for, and a step waits
//! for one piece of its key's memory after the other: the place in the table, the slot, what the slot points to. So whoever
//! has many steps to take reads first what they will read. No key's reads wait for those of another, and the processor has
//! several under way at a time: group prefetching (Chen, Ailamaki, Gibbons and Mowry, 2004), by plain loads.

use std::hint::black_box;
use std::mem::discriminant;

use smallvec::SmallVec;

use super::super::types::KeyRef;
use super::table::{Content, Table};
use super::{Pending, Shard, Slot};

/// For how many steps at once that pays: more would push the first ones out of the cache again.
pub const PREFETCHED: usize = 64;

impl Shard {
    /// Reads what steps with these keys are going to read; see [`PREFETCHED`].
    pub fn prefetch<'a>(&self, keys: impl Iterator<Item = KeyRef<'a>>) {
        let mut places = SmallVec::<[usize; PREFETCHED]>::new();
        places.extend(keys.filter_map(|key| self.slots.guess(key)));
        prefetch(&self.slots, &places);
    }

    /// Reads what steps with replies to these requests are going to read.
    pub fn prefetch_forwarded(&self, tokens: impl Iterator<Item = u64>) {
        for forwarded in tokens.filter_map(|token| self.forwarded.get(token)) {
            forwarded.pending.prefetch();
            black_box((forwarded.key.hash(), forwarded.sent_at));
        }
    }
}

/// Reads some of every line of the memory of the slots in these places: one step of every chain, then the next step of every
/// chain. What the processor has under way at a time is limited by how many instructions are between the reads.
pub(super) fn prefetch(table: &Table, places: &[usize]) {
    let mut slots = SmallVec::<[&Content; PREFETCHED]>::new();
    slots.extend(places.iter().filter_map(|place| table.content_at(*place)));
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
                black_box((own.ver, own.data.first(), keeper, own.running.is_empty()));
                if let Some(handled) = own.waiting.front() {
                    handled.pending.prefetch();
                    handled.reply.prefetch();
                }
            }
        }
    }
}

impl Pending {
    /// Reads its beginning, and its second line.
    fn prefetch(&self) {
        black_box((self.request.id.is_some(), discriminant(&self.origin)));
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::super::Own;

    #[test]
    fn an_owned_key_begins_with_a_line_and_so_does_the_first_request_that_waits_for_it() {
        // mimalloc has blocks of 320 and 384 bytes, and adds 7 for the alignment.
        assert_eq!((size_of::<Own>() + 7).next_multiple_of(64), 384);
        assert_eq!(offset_of!(Own, waiting), 2 * 64);
    }
}
