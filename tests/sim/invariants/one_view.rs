use std::collections::BTreeMap;

use statekeeper::protocol::types::{ClusterId, Epoch, NodeId};
use statekeeper::protocol::view::View;

use super::Verdict;

/// V1 of PROTOCOL.md: no epoch has two decided views. And nobody installs a view that it is not in.
#[derive(Debug, Default)]
pub struct OneView {
    /// What was installed, by line and epoch.
    views: BTreeMap<(ClusterId, Epoch), View>,
}

impl OneView {
    pub fn installed(&mut self, node: &NodeId, view: &View) -> Verdict {
        if !view.contains(node) {
            return Err(format!("V1: {node} installs a view without itself"));
        }
        let at = (view.cluster, view.epoch);
        let first = self.views.entry(at).or_insert_with(|| view.clone());
        if first != view {
            let epoch = view.epoch;
            return Err(format!(
                "V1: two views in epoch {epoch}: {first:?} and {view:?}"
            ));
        }
        Ok(())
    }

    /// The latest view of that line that any node has installed.
    pub fn latest(&self, line: ClusterId) -> Option<&View> {
        let of_line = (line, Epoch(0))..=(line, Epoch(u64::MAX));
        self.views.range(of_line).next_back().map(|(_, view)| view)
    }
}
