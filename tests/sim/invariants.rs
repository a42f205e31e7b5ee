//! What must hold, and the books that are kept for it.

use std::collections::{BTreeMap, BTreeSet};

use statekeeper::protocol::types::{ClusterId, Epoch, NodeId};
use statekeeper::protocol::view::View;

/// Numbers operations of clients.
pub type OpId = u64;

/// How an operation ended for its client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Open,
    /// Answered: the count after it.
    Acked(u64),
    /// Every try was refused as not carried out.
    Refused,
    /// The client gave up; it may have been carried out.
    Unknown,
}

/// An operation as its client sees it.
#[derive(Clone, Debug)]
pub struct Op {
    pub key: usize,
    pub is_read: bool,
    /// The highest count that anybody had seen of the key when it was first sent.
    pub floor: u64,
    pub end: End,
}

/// The books.
#[derive(Debug, Default)]
pub struct Invariants {
    pub backups: usize,
    /// The line of views that the cluster began with.
    pub line: Option<ClusterId>,
    pub ops: BTreeMap<OpId, Op>,
    /// By key: the highest count that any client has seen.
    seen: BTreeMap<usize, u64>,
    /// By key and count: which operation was answered so.
    acked: BTreeMap<(usize, u64), OpId>,
    /// Who answered a write, by line, epoch and key.
    ackers: BTreeMap<(ClusterId, Epoch, usize), NodeId>,
    /// V1: what was installed, by line and epoch.
    views: BTreeMap<(ClusterId, Epoch), View>,

    /// Identities that had a copy of something at the last complete sync, or came since.
    basis: BTreeSet<NodeId>,
    /// How many losses that sync can stand.
    limit: usize,
    /// Those of them that are gone without having handed over.
    pub lost: BTreeSet<NodeId>,
    /// Identities that left and had handed over.
    left: BTreeSet<NodeId>,
    /// More was lost than must be survived.
    pub loss_allowed: bool,
    /// A node said so.
    pub loss_told: bool,
    pub violations: Vec<String>,
}

impl Invariants {
    pub fn new(backups: usize) -> Self {
        Self {
            backups,
            ..Self::default()
        }
    }

    pub fn violate(&mut self, what: impl Into<String>) {
        self.violations.push(what.into());
    }

    pub fn begin(&mut self, id: OpId, key: usize, is_read: bool) {
        let floor = self.seen.get(&key).copied().unwrap_or(0);
        self.ops.insert(
            id,
            Op {
                key,
                is_read,
                floor,
                end: End::Open,
            },
        );
    }

    /// A client got an answer: linearizability of increments that return the count.
    pub fn answered(&mut self, id: OpId, count: u64) {
        let Some(op) = self.ops.get_mut(&id) else {
            return;
        };
        op.end = End::Acked(count);
        let op = op.clone();
        let seen = self.seen.entry(op.key).or_default();
        *seen = (*seen).max(count);
        if self.loss_allowed {
            return;
        }
        if count < op.floor || !op.is_read && count == op.floor {
            self.violate(format!(
                "I2: operation {id} of key {} sees {count}, after {} was seen",
                op.key, op.floor
            ));
        }
        if !op.is_read {
            let first = *self.acked.entry((op.key, count)).or_insert(id);
            if first != id {
                self.violate(format!(
                    "operations {first} and {id} of key {} are both number {count}",
                    op.key
                ));
            }
        }
    }

    /// An owner answers a write (I1).
    pub fn acker(&mut self, line: ClusterId, epoch: Epoch, key: usize, node: &NodeId) {
        let first = self
            .ackers
            .entry((line, epoch, key))
            .or_insert_with(|| node.clone());
        if first != node {
            let what =
                format!("I1: {first} and {node} answer writes of key {key} in epoch {epoch}");
            self.violate(what);
        }
    }

    /// A node installs a view (V1). `replaced` is the one that it had.
    pub fn installed(&mut self, view: &View) {
        let at = (view.cluster, view.epoch);
        let first = self.views.entry(at).or_insert_with(|| view.clone());
        if first != view {
            let what = format!(
                "V1: two views in epoch {}: {first:?} and {view:?}",
                view.epoch
            );
            self.violate(what);
        }
        let is_latest = self
            .views
            .range((view.cluster, view.epoch.next())..)
            .next()
            .is_none_or(|(at, _)| at.0 != view.cluster);
        if is_latest && self.line == Some(view.cluster) {
            self.basis.extend(view.ids().cloned());
            // Who is not in it any more is lost with all that it has.
            let gone: Vec<NodeId> = self
                .basis
                .iter()
                .filter(|id| !view.contains(id))
                .cloned()
                .collect();
            gone.iter().for_each(|id| self.gone(id));
        }
    }

    /// The latest view of that line that any node has installed.
    pub fn latest(&self, line: ClusterId) -> Option<&View> {
        self.views
            .range((line, Epoch(0))..=(line, Epoch(u64::MAX)))
            .next_back()
            .map(|(_, view)| view)
    }

    /// A node's state is gone.
    pub fn gone(&mut self, id: &NodeId) {
        if self.basis.contains(id) && !self.left.contains(id) && self.lost.insert(id.clone()) {
            self.loss_allowed |= self.lost.len() > self.limit;
        }
    }

    /// A node stopped for good, and had handed everything over or not.
    pub fn left(&mut self, id: &NodeId, handed_over: bool) {
        if handed_over {
            self.left.insert(id.clone());
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
        self.limit = self.backups.min(view.active().count().saturating_sub(1));
    }

    /// After healing: the log of a key, as a read of any node sees it.
    pub fn final_log(&mut self, key: usize, log: &[OpId]) {
        let mut once = BTreeSet::new();
        for id in log {
            if !once.insert(*id) {
                self.violate(format!(
                    "I3: operation {id} of key {key} was applied twice: {log:?}"
                ));
            }
        }
        let mut wrong = Vec::new();
        let mut lost = false;
        for (id, op) in self
            .ops
            .iter()
            .filter(|(_, op)| op.key == key && !op.is_read)
        {
            match op.end {
                End::Acked(count) => {
                    let there = log.get(count as usize - 1) == Some(id);
                    if !there && !self.loss_allowed {
                        wrong.push(format!(
                            "I2: operation {id} of key {key} is not number {count}: {log:?}"
                        ));
                    }
                    lost |= !there && !log.contains(id);
                }
                End::Refused if log.contains(id) => {
                    wrong.push(format!(
                        "operation {id} of key {key} was called refused, and carried out"
                    ));
                }
                End::Refused | End::Open | End::Unknown => {}
            }
        }
        self.violations.extend(wrong);
        if lost && !self.loss_told {
            self.violate(format!(
                "something of key {key} was lost, and no node said so"
            ));
        }
    }
}
