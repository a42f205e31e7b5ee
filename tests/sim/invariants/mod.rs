//! What must hold, each invariant in a file of its own, and the books from which they judge.
//!
//! An invariant is fed with events (a view is installed, an owner answers, a client is answered, a key is read after
//! healing) and says what is wrong. The books pass the events on, and keep what it said.

mod apart;
mod exactly_once;
mod healed;
mod lease;
mod no_loss;
mod one_acker;
mod one_owner;
mod one_view;
mod possible_loss;
mod reads_linearizable;

use std::collections::BTreeMap;

use statekeeper::protocol::types::{ClusterId, Epoch, Key, NodeId};
use statekeeper::protocol::view::View;

use super::process::{Counted, key};

pub use apart::Copies;
pub use healed::Healed;
use one_view::OneView;
pub use possible_loss::PossibleLoss;

/// Numbers operations of clients.
pub type OpId = u64;

/// What an invariant says to an event.
pub type Verdict = Result<(), String>;

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
    /// The highest count that any client had seen of the key when it was first sent.
    pub floor: u64,
    pub end: End,
}

/// All operations.
pub type Ops = BTreeMap<OpId, Op>;

/// The books.
#[derive(Debug, Default)]
pub struct Invariants {
    /// The line of views that the cluster began with.
    pub line: Option<ClusterId>,
    pub ops: Ops,
    pub losses: PossibleLoss,
    one_view: OneView,
    one_owner: one_owner::OneOwner,
    one_acker: one_acker::OneAcker,
    lease: lease::Lease,
    reads: reads_linearizable::ReadsLinearizable,
    /// What is wrong.
    pub violations: Vec<String>,
}

impl Invariants {
    pub fn new(backups: usize) -> Self {
        Self {
            losses: PossibleLoss::new(backups),
            ..Self::default()
        }
    }

    pub fn violate(&mut self, what: impl Into<String>) {
        self.violations.push(what.into());
    }

    pub fn judge(&mut self, verdict: Verdict) {
        self.violations.extend(verdict.err());
    }

    /// The latest view of that line that any node has installed.
    pub fn latest(&self, line: ClusterId) -> Option<&View> {
        self.one_view.latest(line)
    }

    /// A client sends an operation for the first time.
    pub fn begin(&mut self, id: OpId, key: usize, is_read: bool) {
        let op = Op {
            key,
            is_read,
            floor: self.reads.seen(key),
            end: End::Open,
        };
        self.ops.insert(id, op);
    }

    /// A client is answered.
    pub fn answered(&mut self, id: OpId, counted: &Counted) {
        let Some(op) = self.ops.get_mut(&id) else {
            return;
        };
        op.end = End::Acked(counted.count);
        let op = op.clone();
        let verdict = self.reads.answered(id, &op, counted);
        if !self.losses.allowed {
            self.judge(verdict);
        }
    }

    /// A node answers, as the owner of that key.
    pub fn owner_answers(
        &mut self,
        view: &View,
        node: &NodeId,
        counted: &Counted,
        copies: Option<&Copies>,
    ) {
        let verdict = self.lease.answers(node, self.one_view.latest(view.cluster));
        self.judge(verdict);
        if counted.is_read {
            return;
        }
        let verdict = self.one_acker.acks(view, &key(counted.key), node);
        self.judge(verdict);
        let verdict = apart::acks(node, counted, copies);
        self.judge(verdict);
    }

    /// A node owns a key.
    pub fn owns(&mut self, view: &View, key: &Key, node: &NodeId) {
        let verdict = self.one_owner.owns(view, key, node);
        self.judge(verdict);
    }

    /// A node puts a key's actor to rest.
    pub fn rests(&mut self, view: &View, key: &Key, node: &NodeId) {
        self.one_owner.rests(view, key, node);
        self.one_acker.rests(view, key, node);
    }

    /// A node installs a view; those nodes are leased at that time.
    pub fn installed<'a>(
        &mut self,
        node: &NodeId,
        view: &View,
        leased: impl Iterator<Item = (ClusterId, Epoch, &'a NodeId)>,
    ) {
        let verdict = self.one_view.installed(node, view);
        self.judge(verdict);
        let verdict = self.lease.installed(view, leased);
        self.judge(verdict);
        let is_latest = self.one_view.latest(view.cluster) == Some(view);
        let of_line = is_latest && self.line == Some(view.cluster);
        self.losses.installed(node, view, of_line);
    }

    /// A node says that something may be lost.
    pub fn tells_loss(&mut self, node: &NodeId, view: &View, gone: &[NodeId]) {
        let verdict = self.losses.told(node, view, gone);
        self.judge(verdict);
    }

    /// After healing: the log of a key, as a read of any node sees it.
    pub fn final_log(&mut self, key: usize, log: &[OpId]) {
        let of_key = |(_, op): &(&OpId, &Op)| op.key == key && !op.is_read;
        let ops: Vec<(OpId, End)> = self
            .ops
            .iter()
            .filter(of_key)
            .map(|(id, op)| (*id, op.end))
            .collect();
        let verdict = exactly_once::of_log(key, &ops, log);
        self.judge(verdict);
        let missing = no_loss::missing(&ops, log);
        let verdict = self.losses.lost(key, &missing);
        self.judge(verdict);
        if !self.losses.allowed {
            let verdict = no_loss::of_log(key, &ops, log);
            self.judge(verdict);
        }
    }
}
