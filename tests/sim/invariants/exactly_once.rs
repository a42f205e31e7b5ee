//! I3 of PROTOCOL.md: with a request id no operation is applied twice. And none at all if its client was told that it
//! was not carried out.

use std::collections::BTreeSet;

use super::{End, OpId, Verdict};

pub fn of_log(key: usize, ops: &[(OpId, End)], log: &[OpId]) -> Verdict {
    let mut once = BTreeSet::new();
    if let Some(twice) = log.iter().find(|id| !once.insert(**id)) {
        return Err(format!(
            "I3: operation {twice} of key {key} was applied twice: {log:?}"
        ));
    }
    match ops
        .iter()
        .find(|(id, end)| *end == End::Refused && once.contains(id))
    {
        Some((id, _)) => Err(format!(
            "I3: operation {id} of key {key} was called refused, and carried out"
        )),
        None => Ok(()),
    }
}
