use std::collections::BTreeMap;

use statekeeper::protocol::types::{ClusterId, Epoch, Key, NodeId};
use statekeeper::protocol::view::View;

use super::Verdict;

/// I1 of PROTOCOL.md: at most one owner per key and epoch gets writes acknowledged, until it puts the actor to rest.
#[derive(Debug, Default)]
pub struct OneAcker {
    ackers: BTreeMap<(ClusterId, Epoch, Key), NodeId>,
}

impl OneAcker {
    pub fn acks(&mut self, view: &View, key: &Key, node: &NodeId) -> Verdict {
        let at = (view.cluster, view.epoch, key.clone());
        let first = self.ackers.entry(at).or_insert_with(|| node.clone());
        if first != node {
            let epoch = view.epoch;
            return Err(format!(
                "I1: {first} and {node} answer writes of {key:?} in epoch {epoch}"
            ));
        }
        Ok(())
    }

    /// The owner puts the actor to rest: all that it answered is answered.
    pub fn rests(&mut self, view: &View, key: &Key, node: &NodeId) {
        let at = (view.cluster, view.epoch, key.clone());
        if self.ackers.get(&at) == Some(node) {
            self.ackers.remove(&at);
        }
    }
}
