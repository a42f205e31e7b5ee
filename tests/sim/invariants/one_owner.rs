use std::collections::BTreeMap;

use statekeeper::protocol::types::{ClusterId, Epoch, Key, NodeId};
use statekeeper::protocol::view::View;

use super::Verdict;

/// I1' of PROTOCOL.md: at most one node owns a key in an epoch, until it puts the actor to rest.
#[derive(Debug, Default)]
pub struct OneOwner {
    owners: BTreeMap<(ClusterId, Epoch, Key), NodeId>,
}

impl OneOwner {
    pub fn owns(&mut self, view: &View, key: &Key, node: &NodeId) -> Verdict {
        let at = (view.cluster, view.epoch, key.clone());
        let first = self.owners.entry(at).or_insert_with(|| node.clone());
        if first != node {
            let epoch = view.epoch;
            return Err(format!(
                "I1': {first} and {node} own {key:?} in epoch {epoch}"
            ));
        }
        Ok(())
    }

    /// The owner puts the actor to rest.
    pub fn rests(&mut self, view: &View, key: &Key, node: &NodeId) {
        let at = (view.cluster, view.epoch, key.clone());
        if self.owners.get(&at) == Some(node) {
            self.owners.remove(&at);
        }
    }
}
