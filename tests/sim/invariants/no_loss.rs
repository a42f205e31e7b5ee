//! I2 of PROTOCOL.md: no acknowledged operation is lost while no more than `backups` nodes are lost between two
//! completed syncs.

use super::{End, OpId, Verdict};

/// What was acknowledged and is not in the log of its key.
pub fn missing(ops: &[(OpId, End)], log: &[OpId]) -> Vec<OpId> {
    ops.iter()
        .filter(|(id, end)| matches!(end, End::Acked(_)) && !log.contains(id))
        .map(|(id, _)| *id)
        .collect()
}

/// Every acknowledged write is where its answer said.
pub fn of_log(key: usize, ops: &[(OpId, End)], log: &[OpId]) -> Verdict {
    for (id, end) in ops {
        if let End::Acked(count) = end
            && log.get(*count as usize - 1) != Some(id)
        {
            return Err(format!(
                "I2: operation {id} of key {key} is not number {count}: {log:?}"
            ));
        }
    }
    Ok(())
}
