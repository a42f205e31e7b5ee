use std::collections::BTreeMap;

use super::super::process::Counted;
use super::{Op, OpId, Verdict};

/// Answers are linearizable per key, reads included (PROTOCOL.md, 'Lease': why reads need it as well).
///
/// A key is a list to which each write appends itself, and gets its place; a read gets the whole list. So the order
/// is known: it is linearizable if every place has one operation in all answers, and whoever began after another one
/// was answered sees at least as much, and a write more.
#[derive(Debug, Default)]
pub struct ReadsLinearizable {
    /// By key: the highest count that any client has seen.
    seen: BTreeMap<usize, u64>,
    /// By key and place: the operation there, by the first answer that told.
    places: BTreeMap<(usize, u64), OpId>,
}

impl ReadsLinearizable {
    pub fn seen(&self, key: usize) -> u64 {
        self.seen.get(&key).copied().unwrap_or(0)
    }

    pub fn answered(&mut self, id: OpId, op: &Op, counted: &Counted) -> Verdict {
        let Op { key, floor, .. } = *op;
        let count = counted.count;
        let seen = self.seen.entry(key).or_default();
        *seen = (*seen).max(count);
        if count < floor || !op.is_read && count == floor {
            return Err(format!(
                "linearizability: operation {id} of key {key} sees {count}, after {floor} was seen"
            ));
        }
        let told = if op.is_read {
            (1..).zip(counted.log.iter().copied()).collect()
        } else {
            vec![(count, id)]
        };
        for (place, other) in told {
            let first = *self.places.entry((key, place)).or_insert(other);
            if first != other {
                return Err(format!(
                    "linearizability: operations {first} and {other} of key {key} are both number {place}"
                ));
            }
        }
        Ok(())
    }
}
