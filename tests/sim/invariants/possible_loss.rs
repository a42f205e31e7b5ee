use std::collections::{BTreeMap, BTreeSet};

use statekeeper::protocol::types::NodeId;
use statekeeper::protocol::view::View;

use super::{OpId, Verdict};

/// 'What can still be lost, and must be said' of PROTOCOL.md: a possible loss is told exactly when more vanished than
/// the copies stand.
///
/// What nobody in the cluster can know is known here: who is gone, and when all copies were in place. So what is told
/// need not be true (a node counts from the last barrier that it saw complete), but whoever tells must have
/// seen enough vanish; and what was lost must have been told.
#[derive(Debug, Default)]
pub struct PossibleLoss {
    backups: usize,
    /// Identities that had a copy of something at the last complete sync, or came since.
    basis: BTreeSet<NodeId>,
    /// Who had all copies at that sync, but for those that left since: one of them must stay.
    holders: BTreeSet<NodeId>,
    /// Those of the basis that are gone without having handed over.
    lost: BTreeSet<NodeId>,
    /// Identities that left and had handed over.
    left: BTreeSet<NodeId>,
    /// More was lost than must be survived.
    pub allowed: bool,
    /// A node said so.
    pub is_told: bool,
    /// By node: who was a member when it last saw a barrier complete, or came since.
    witnessed: BTreeMap<NodeId, BTreeSet<NodeId>>,
    /// By node: of whom it knows that they had all copies: the members of then, or those that let it in.
    whole: BTreeMap<NodeId, BTreeSet<NodeId>>,
}

impl PossibleLoss {
    pub fn new(backups: usize) -> Self {
        Self {
            backups,
            ..Self::default()
        }
    }

    /// Whether nobody is lost since the last sync.
    pub fn is_none(&self) -> bool {
        self.lost.is_empty()
    }

    /// A node installs a view, which is the latest `of_line` or not.
    pub fn installed(&mut self, node: &NodeId, view: &View, of_line: bool) {
        let witnessed = self.witnessed.entry(node.clone()).or_default();
        witnessed.extend(view.ids().cloned());
        let others = || view.ids().filter(|id| *id != node).cloned().collect();
        self.whole.entry(node.clone()).or_insert_with(others);
        if !of_line {
            return;
        }
        self.basis.extend(view.ids().cloned());
        // Who is not in it any more is lost with all that it has.
        let out = |id: &&NodeId| !view.contains(id);
        let gone: Vec<NodeId> = self.basis.iter().filter(out).cloned().collect();
        gone.iter().for_each(|id| self.gone(id));
    }

    /// A node's state is gone.
    pub fn gone(&mut self, id: &NodeId) {
        if self.basis.contains(id) && !self.left.contains(id) && self.lost.insert(id.clone()) {
            let limit = self.backups.min(self.holders.len().saturating_sub(1));
            self.allowed |= self.lost.len() > limit;
        }
    }

    /// A node stopped for good, and had handed everything over or not.
    pub fn left(&mut self, id: &NodeId, handed_over: bool) {
        if handed_over {
            self.left.insert(id.clone());
            self.holders.remove(id);
        } else {
            self.gone(id);
        }
    }

    /// Every member of the latest view has said that its copies are in place.
    pub fn synced(&mut self, view: &View) {
        if view.ids().any(|id| self.lost.contains(id)) {
            return;
        }
        self.lost.clear();
        self.basis = view.ids().cloned().collect();
        self.holders = view.active().cloned().collect();
    }

    /// A node sees the barrier of its view complete.
    pub fn complete(&mut self, node: &NodeId, view: &View) {
        let members: BTreeSet<NodeId> = view.ids().cloned().collect();
        self.witnessed.insert(node.clone(), members.clone());
        self.whole.insert(node.clone(), members);
    }

    /// A majority was given up by force: what only the others held is lost, and said to be.
    pub fn given_up(&mut self) {
        self.allowed = true;
    }

    /// A node says that something may be lost, with those.
    pub fn told(&mut self, node: &NodeId, view: &View, gone: &[NodeId]) -> Verdict {
        self.is_told = true;
        let witnessed = self.witnessed.entry(node.clone()).or_default();
        if let Some(here) = gone.iter().find(|id| view.contains(id)) {
            return Err(format!(
                "possible loss: {node} misses {here}, a member of its view"
            ));
        }
        if let Some(other) = gone.iter().find(|id| !witnessed.contains(*id)) {
            return Err(format!(
                "possible loss: {node} misses {other}, which had gone before the last barrier"
            ));
        }
        let forced = view.members.len() == 1;
        let whole = self.whole.entry(node.clone()).or_default();
        let stay = whole.iter().filter(|id| !gone.contains(id)).count();
        if gone.len() <= self.backups && stay > self.backups && !forced {
            return Err(format!(
                "possible loss: {node} misses only {gone:?}, which its copies stand"
            ));
        }
        Ok(())
    }

    /// After healing: what was acknowledged for a key and is not there.
    pub fn lost(&self, key: usize, missing: &[OpId]) -> Verdict {
        if missing.is_empty() || self.is_told {
            return Ok(());
        }
        Err(format!(
            "possible loss: {missing:?} of key {key} were lost, and no node said so"
        ))
    }
}
