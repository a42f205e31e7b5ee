//! A view: the membership of one epoch, agreed by all (see [`super::agreement`]).

use serde::{Deserialize, Serialize};

use super::types::{ClusterId, Epoch, Member, NodeId, NodeName};

/// The membership of one epoch of one cluster.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct View {
    /// The line of views that this one belongs to.
    pub cluster: ClusterId,
    /// Its number in that line.
    pub epoch: Epoch,
    /// All members, sorted by identity, one per name.
    pub members: Vec<Member>,
    /// Members that are about to leave: they hold no copies and own nothing.
    pub leaving: Vec<NodeId>,
}

impl View {
    /// The view that every node starts with: a cluster of itself, which serves nobody.
    pub fn alone(cluster: ClusterId, me: Member) -> Self {
        Self {
            cluster,
            epoch: Epoch(1),
            members: vec![me],
            leaving: Vec::new(),
        }
    }

    /// The identities of all members, in order.
    pub fn ids(&self) -> impl Iterator<Item = &NodeId> {
        self.members.iter().map(|m| &m.id)
    }

    /// Whether this very life of a node is a member.
    pub fn contains(&self, id: &NodeId) -> bool {
        self.ids().any(|m| m == id)
    }

    /// The member of that name, whichever its incarnation.
    pub fn named(&self, name: &NodeName) -> Option<&Member> {
        self.members.iter().find(|m| m.id.name == *name)
    }

    /// Members that hold copies and own actors: all but the leaving.
    pub fn active(&self) -> impl Iterator<Item = &NodeId> {
        self.ids().filter(|id| !self.leaving.contains(id))
    }

    /// Whether `id` is an active member.
    pub fn is_active(&self, id: &NodeId) -> bool {
        self.active().any(|a| a == id)
    }

    /// The next view of this line, with these changes applied: `out` removed, `join` admitted in the place
    /// of an earlier life of the same name, `leaving` marked.
    #[must_use]
    pub fn next(&self, out: &[NodeId], join: Option<&Member>, leaving: &[NodeId]) -> Self {
        let mut members: Vec<Member> = self
            .members
            .iter()
            .filter(|m| !out.contains(&m.id) && join.is_none_or(|j| j.id.name != m.id.name))
            .cloned()
            .chain(join.cloned())
            .collect();
        members.sort();
        let mut gone: Vec<NodeId> = self.leaving.iter().chain(leaving).cloned().collect();
        gone.retain(|id| members.iter().any(|m| m.id == *id));
        gone.sort();
        gone.dedup();
        Self {
            cluster: self.cluster,
            epoch: self.epoch.next(),
            members,
            leaving: gone,
        }
    }
}
