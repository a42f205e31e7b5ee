//! I5 of PROTOCOL.md, at every acknowledged write: owner and keeper are never on the same node, and what is
//! acknowledged is on a keeper's node.

use statekeeper::protocol::types::NodeId;

use super::super::process::Counted;
use super::Verdict;

/// Where the copies of a key are when its owner answers.
#[derive(Debug)]
pub struct Copies {
    /// How many keepers there must be.
    pub wanted: usize,
    /// Each keeper with the version that it has; none if it does not run any more, or has gone on to another view.
    pub keepers: Vec<(NodeId, Option<u64>)>,
}

/// A node answers a write, the one with that number; versions grow by one with each, and with each rest.
pub fn acks(node: &NodeId, counted: &Counted, copies: Option<&Copies>) -> Verdict {
    let Counted { key, op, count, .. } = counted;
    let Some(Copies { wanted, keepers }) = copies else {
        return Err(format!(
            "I5: {node} answers a write of key {key} that it does not own"
        ));
    };
    if keepers.iter().any(|(id, _)| id == node) || keepers.len() < *wanted {
        return Err(format!(
            "I5: {node} owns key {key}, and its keepers are {keepers:?}"
        ));
    }
    match keepers
        .iter()
        .find(|(_, ver)| ver.is_some_and(|ver| ver < *count))
    {
        Some((keeper, ver)) => Err(format!(
            "I5: {node} answers operation {op} of key {key}, number {count}, and {keeper} has {ver:?}"
        )),
        None => Ok(()),
    }
}
