use statekeeper::protocol::types::{ClusterId, Epoch, NodeId};
use statekeeper::protocol::view::View;

use super::Verdict;

/// L1 of PROTOCOL.md: a serving node is in every decided view.
#[derive(Debug, Default)]
pub struct Lease;

impl Lease {
    /// A node answers; that is the latest view of its line that anybody has.
    pub fn answers(&self, node: &NodeId, latest: Option<&View>) -> Verdict {
        match latest {
            Some(view) if !view.contains(node) => Err(format!(
                "L1: {node} answers, and is not in the view of epoch {}",
                view.epoch
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// A view is installed while those nodes are leased.
    pub fn installed<'a>(
        &self,
        view: &View,
        leased: impl Iterator<Item = (ClusterId, Epoch, &'a NodeId)>,
    ) -> Verdict {
        for (line, epoch, node) in leased {
            if line == view.cluster && epoch < view.epoch && !view.contains(node) {
                return Err(format!(
                    "L1: {node} is leased, and not in the view of epoch {}",
                    view.epoch
                ));
            }
        }
        Ok(())
    }
}
