use std::collections::BTreeMap;

use statekeeper::protocol::types::{ClusterId, Epoch, NodeId};
use statekeeper::protocol::view::View;

use super::Verdict;

/// I1 of PROTOCOL.md: at most one owner per key and epoch gets writes acknowledged.
#[derive(Debug, Default)]
pub struct OneAcker {
    ackers: BTreeMap<(ClusterId, Epoch, usize), NodeId>,
}

impl OneAcker {
    pub fn acks(&mut self, view: &View, key: usize, node: &NodeId) -> Verdict {
        let at = (view.cluster, view.epoch, key);
        let first = self.ackers.entry(at).or_insert_with(|| node.clone());
        if first != node {
            let epoch = view.epoch;
            return Err(format!(
                "I1: {first} and {node} answer writes of key {key} in epoch {epoch}"
            ));
        }
        Ok(())
    }
}
