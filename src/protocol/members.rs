//! One node's part in the membership: finds failures, proposes views, votes, holds the lease, admits joiners.
//!
//! ```text
//!   Tick, LinkUp/Down, Message, Connect, Forget, Leave, Synced
//!        │
//!        ▼
//!   Members ── Agreement (one Paxos instance per epoch)
//!        │  └─ Lease     (who may answer, who may vote)
//!        ▼
//!   Send, Install, Lease, Dial, Hangup, Rejoin, Answer, Left, PossibleLoss
//! ```

//! Four chapters implement it: `beat` (heartbeats, suspicion, who cannot hear whom, dialling), `vote` (which view
//! to wish for, whose turn it is, the agreement, the install), `entry` (connect, join, rejoin) and `exit` (forget,
//! leave, loss).
//!
//! Every collection is bounded; what happens at the bound stands at the constant. Peers' bytes never panic: messages
//! are checked, and what no node of ours sends is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::agreement::{self, Agreement};
use super::defect::Planted;
use super::lease::Lease;
use super::types::{ClusterId, Epoch, Member, Millis, NodeId, NodeName};
use super::view::View;

mod beat;
mod entry;
mod exit;
#[cfg(test)]
mod tests;
mod vote;

/// The timings of one node, in milliseconds. All nodes of a cluster use the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Timings {
    /// How often every member is pinged.
    pub heartbeat: Millis,
    /// How long a pong counts for the pinger, from when its ping was sent.
    pub lease: Millis,
    /// How long the ponger promises not to vote the pinger out; longer than `lease`, for clocks that drift.
    pub promise: Millis,
    /// How long a member may be silent until it is suspected.
    pub suspicion: Millis,
    /// When an unanswered proposal is tried again, plus up to two thirds of it at random.
    pub retry: Millis,
    /// For how long a name that was lost is dialled.
    pub redial: Millis,
}

/// What the survivors do when more nodes vanished at once than the backups survive.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub enum OnPossibleLoss {
    /// Say so, and go on with what is left.
    #[default]
    Continue,
    /// Say so, and answer nobody until an operator has accepted it.
    Refuse,
}

/// What all members of a cluster must have in common: one's lease is only as good as the others' promises, and a
/// keeper that counts fewer backups drops what an owner relies on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Terms {
    /// See [`Timings::lease`].
    pub lease: Millis,
    /// See [`Timings::promise`].
    pub promise: Millis,
    /// How many backups each actor has.
    pub backups: u64,
    /// What follows a possible loss.
    pub on_possible_loss: OnPossibleLoss,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            heartbeat: Millis(200),
            lease: Millis(1_000),
            promise: Millis(1_250),
            suspicion: Millis(2_000),
            retry: Millis(300),
            redial: Millis(600_000),
        }
    }
}

/// What members tell each other.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Msg {
    /// A heartbeat: the sender's epoch, its clock (echoed by the pong), and the members it cannot hear.
    Ping {
        /// The sender's installed epoch.
        epoch: Epoch,
        /// The sender's clock when it sent this.
        sent: Millis,
        /// Members of that view that the sender does not hear.
        unheard: Vec<NodeId>,
    },
    /// The answer to a ping of the same epoch.
    Pong {
        /// The epoch of the ping.
        epoch: Epoch,
        /// The clock of the ping, unchanged.
        sent: Millis,
    },
    /// A step of the agreement on the view after `epoch`.
    Agree {
        /// The epoch whose members decide.
        epoch: Epoch,
        /// Identities that the sender knows to be dead (they never come back, so this may be passed on).
        dead: Vec<NodeId>,
        /// The step.
        step: agreement::Msg,
    },
    /// A decided view: to its members, to the evicted, and to whoever shows an older one.
    ViewIs(View),
    /// Asks for the receiver's view, because the sender saw a later epoch than its own.
    ViewWanted,
    /// A node that serves nobody asks to be admitted.
    Join {
        /// Who asks.
        member: Member,
        /// What it was started with.
        terms: Terms,
    },
    /// An established cluster asks a node that is still alone to send `Join`.
    Invite,
    /// The join cannot be: the receiver gives up and tells its operator.
    Refused(Refusal),
    /// The sender was admitted to a view of another cluster than the one it is in: it will never install it.
    Declined {
        /// The line of views that it declines for ever.
        cluster: ClusterId,
        /// The view that it declines.
        epoch: Epoch,
        /// The identity that this view admitted.
        member: NodeId,
    },
    /// An operator has accepted the losses of that epoch and before.
    LossAccepted {
        /// The epoch that the last of them shows in.
        epoch: Epoch,
    },
    /// The sender stops for good.
    Farewell {
        /// Whether its last barrier was complete: nothing is missed.
        handed_over: bool,
    },
}

/// Why a node is not admitted.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Refusal {
    /// Both sides already belong to clusters with members, state or votes.
    Established,
    /// A living member has that name.
    NameInUse,
    /// The two were started with other leases or numbers of backups.
    Different,
    /// This identity was evicted, or its name had a later life: it must come back with a greater incarnation.
    Evicted {
        /// The last life of that name that the sender knows of.
        known: u64,
    },
}

/// What drives the machine.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Input {
    /// Time passed; at least every quarter of a heartbeat.
    Tick,
    /// An authenticated connection to that very life of a node exists.
    LinkUp(Member),
    /// It ended. `refused` when a new connection to the same address was refused at once: the process is gone.
    LinkDown {
        /// Who was connected.
        peer: NodeId,
        /// Whether the operating system at that address says that nobody listens.
        refused: bool,
    },
    /// A message of a linked peer.
    Message {
        /// Who sent it, as the connection's handshake proved.
        from: NodeId,
        /// What it says.
        msg: Msg,
    },
    /// The operator wants to be in one cluster with that linked peer.
    Connect {
        /// The peer.
        peer: NodeId,
        /// Comes back with the answer.
        token: u64,
    },
    /// The operator vouches that a name's process is gone for good.
    Forget {
        /// The name of the lost node.
        name: NodeName,
        /// Go on even without a majority, under a new cluster id.
        force: bool,
        /// Comes back with the answer.
        token: u64,
    },
    /// The operator accepts that something may be lost.
    AcceptLoss {
        /// Comes back with the answer.
        token: u64,
    },
    /// The operator wants this node to leave; the data plane is quiet.
    Leave {
        /// Comes back with the answer.
        token: u64,
    },
    /// The data plane sent its sync-done of `epoch` (`complete` = false), or heard it of every member (true).
    Synced {
        /// The epoch.
        epoch: Epoch,
        /// Whether every member's sync-done arrived.
        complete: bool,
    },
    /// This node stops, handed over or not: from now on it serves nobody and votes for nothing.
    Stop,
    /// The operating system at an address that was dialled says that nobody listens there.
    DialRefused {
        /// The name expected there.
        name: NodeName,
        /// Where.
        addr: Arc<str>,
    },
    /// A witness of it (its guardian) vouches that this life is over: see [`crate::guardian`].
    Died(NodeId),
    /// A peer refuses this life, because it knows a later one of this name: the next must be greater.
    Stale {
        /// The latest that it knows.
        known: u64,
    },
    /// The data plane holds something (an owned actor or a record), or no longer anything.
    HasData(bool),
}

/// What the machine wants done.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Effect {
    /// Send to a linked peer; dropped if the link is down.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        msg: Msg,
    },
    /// Install this view in the data plane.
    Install(View),
    /// This node may answer clients until then (its own clock). Sent whenever it changes.
    Lease {
        /// The end of the lease.
        until: Millis,
    },
    /// Keep a connection to that address: nobody is linked there. Repeated as long as it is wanted.
    Dial {
        /// The name expected there.
        name: NodeName,
        /// Where.
        addr: Arc<str>,
    },
    /// End the connection to that peer: it is stale, evicted or silent.
    Hangup(NodeId),
    /// This life is over (evicted): drop all state and all links, and go on as this new identity, alone.
    Rejoin(Member),
    /// The end of an operator's command.
    Answer {
        /// The command's token.
        token: u64,
        /// What came of it.
        result: Result<(), Failure>,
    },
    /// The node has left; nothing of it is missed. It may stop.
    Left,
    /// A message was dropped that no node of ours sends: its sender is broken, or makes things up.
    Refused {
        /// Who sent it.
        from: NodeId,
        /// What rule it breaks.
        rule: &'static str,
    },
    /// At least `backups + 1` members vanished since the last complete barrier: what had its owner and its
    /// keepers among them is lost.
    PossibleLoss {
        /// The epoch that the loss shows in.
        epoch: Epoch,
        /// Who vanished.
        nodes: Vec<NodeId>,
    },
}

/// Why an operator's command was not carried out. The state did not change.
#[derive(Clone, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Failure {
    /// Both nodes belong to established clusters.
    #[error(
        "both nodes already belong to different clusters; restart one of them and connect again"
    )]
    Established,
    /// A living node has this node's name.
    #[error(
        "a living member of that cluster already has this node's name; start this node under another name"
    )]
    NameInUse,
    /// The nodes do not keep the same promises.
    #[error(
        "the nodes were started with different --lease, --promise, --backups or --on-possible-loss; start all with the same"
    )]
    Different,
    /// The peer went away, or did not admit this node in time.
    #[error("the peer did not answer in time; try again")]
    NoAnswer,
    /// There is no such name to forget.
    #[error("no member is called {0}; `view` lists the members")]
    Unknown(NodeName),
    /// A node cannot forget itself.
    #[error("a node cannot forget itself; use 'leave'")]
    Myself,
    /// The named node is alive.
    #[error("{0} is alive: stop it first, or let it 'leave'")]
    Alive(NodeName),
    /// Without a majority, only force helps.
    #[error(
        "no majority is left: 'forget {0} --force' goes on without it, and loses what only the lost nodes held"
    )]
    NoMajority(NodeName),
    /// Nothing is refused.
    #[error("there is no possible loss that waits to be accepted")]
    NoLoss,
    /// This node is alone already, or is leaving.
    #[error("this node is not in a cluster")]
    NotMember,
    /// The node stopped, but too few members answered to hand over first.
    #[error(
        "left without handing over, too few members answered: the others have all that was acknowledged, unless they are lost too"
    )]
    NotHandedOver,
    /// The agreement was overtaken by another view.
    #[error("the view changed meanwhile; look at 'view' and try again")]
    Overtaken,
}

/// What this node is doing, as its operator sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Status {
    /// A cluster of itself: it serves nobody.
    Alone,
    /// It asked to be admitted.
    Joining,
    /// It answers, and all copies are in place.
    Serving,
    /// It answers what it can; copies of the latest view are still being made.
    Syncing,
    /// Something may be lost, and no operator has accepted that yet. It answers nobody.
    Refusing,
    /// It has no lease: too few members answer it. It keeps its state and answers nobody.
    Suspended,
    /// It hands over and then stops.
    Leaving,
}

/// A view with more members is not believed, and nobody is admitted beyond it.
const VIEW_MAX: usize = 1024;
/// Incarnations beyond this are nonsense, and could not be exceeded.
const INCARNATION_MAX: u64 = 1 << 62;
/// Further links are hung up.
const LINKS_MAX: usize = 2 * VIEW_MAX;
/// Further joiners are not queued; they ask again.
const QUEUE_MAX: usize = 64;
/// Of lost names, the one that is dialled for the shortest time is forgotten first.
const LOST_MAX: usize = 256;
/// Of the known dead, the first learnt is forgotten first; members of the view never are.
const DEAD_MAX: usize = 256;
/// Further commands are answered `NoAnswer` or `Overtaken` at once.
const COMMANDS_MAX: usize = 64;
/// Of reported losses, the oldest is forgotten first.
const LOSSES_MAX: usize = 16;
/// How many heartbeats a command, or an invited joiner, waits for its end.
const PATIENCE_HEARTBEATS: u64 = 25;

/// One node's membership machine. See the module's documentation.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Members {
    me: Member,
    timings: Timings,
    backups: usize,
    dice: u64,
    now: Millis,

    view: View,
    installed: Millis,
    /// When this node became a member of this line.
    joined: Millis,
    /// The epoch that admitted this node; see [`Health::since`].
    since: Epoch,
    agreement: Agreement,
    lease: Lease,
    /// The end of the lease as last told to the driver.
    leased: Millis,

    links: BTreeMap<NodeId, Member>,
    /// One for each other member of the view.
    health: BTreeMap<NodeId, Health>,
    dead: Vec<NodeId>,
    lost: BTreeMap<NodeName, Lost>,
    next_beat: Millis,
    beats: u64,
    unheard_told: Vec<NodeId>,

    deferred: Option<Deferred>,
    wish_since: Option<Millis>,
    /// A decided view without this node, which only this node may know of: it must not take that with it.
    outvoted: Option<View>,
    /// When another proposer's step was last seen.
    bustle: Option<Millis>,
    next_try: Millis,
    /// When this node was last without a quorum of nodes that it hears.
    cornered: Option<Millis>,

    connects: Vec<Connect>,
    invited: Option<(NodeId, Millis)>,
    /// Evicted while alive: looks for its former peers, and admits nobody before it found them.
    rejoining: bool,
    rejoin: Rejoining,
    /// While rejoining: linked peers that belong to a cluster, by their own word.
    inviters: BTreeSet<NodeId>,
    queue: Vec<Candidate>,

    forgets: Vec<Forgetting>,
    leave: Option<u64>,
    left: bool,

    has_data: bool,
    /// It voted, or declined another line: it may not give up its own any more.
    bound: bool,
    /// Whether the barrier of the installed view is complete.
    synced: bool,
    /// Members that bade farewell when no copy was missing: no loss.
    farewelled: BTreeSet<NodeId>,
    vanished: BTreeSet<NodeId>,
    /// Who had all copies when the last barrier that this node knows of was complete. Fewer than `backups + 1` can
    /// keep fewer backups: what they had is lost with the last of them.
    basis: BTreeSet<NodeId>,
    losses: Vec<(Epoch, Vec<NodeId>)>,
    on_possible_loss: OnPossibleLoss,
    /// The epoch of the last loss that an operator has to accept.
    refusing: Option<Epoch>,
    planted: Planted,
}

/// What is known of another member's health.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Health {
    addr: Arc<str>,
    /// The last message, link-up or first install.
    heard: Millis,
    /// Its address refuses connections.
    refused: bool,
    /// Whom it does not hear, as of its last ping.
    unheard: Vec<NodeId>,
    /// The epoch that admitted it: where a link is broken and nothing else tells the ends apart, the newer one goes.
    since: Epoch,
    unlinked_since: Option<Millis>,
    hung_up: Millis,
    /// Whether its first ping of this view was answered with a ping, too.
    greeted: bool,
}

/// A life that is out of reach; the name is dialled until `until`, and remembered longer.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Lost {
    member: Member,
    until: Millis,
    /// Whether that life is known to be over, rather than only looked for.
    over: bool,
}

/// A step that waits for the lease.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Deferred {
    at: Millis,
    from: NodeId,
    step: agreement::Msg,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Connect {
    peer: NodeId,
    token: u64,
    until: Millis,
}

/// How patiently an evicted node comes back. A link that stays broken must not move all data to and fro every few
/// seconds, so each eviction soon after the last doubles the wait, unless all former peers are in reach.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Rejoining {
    /// Evictions in a row.
    streak: u32,
    /// When it may ask although not all former peers are linked.
    at: Millis,
    /// How often whoever was asked did not admit it: then the next one is asked.
    tries: u64,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Candidate {
    member: Member,
    asked: Millis,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Forgetting {
    id: NodeId,
    token: u64,
    until: Millis,
}

impl Members {
    /// A node that starts, as a cluster of itself. `seed` is for the backoff of proposals and for the ids of
    /// clusters that this node mints later.
    pub fn new(
        me: Member,
        cluster: ClusterId,
        timings: Timings,
        backups: usize,
        seed: u64,
    ) -> Self {
        let view = View::alone(cluster, me.clone());
        let mut lease = Lease::new(me.id.clone(), timings.lease, timings.promise);
        lease.install(Millis(0), &view);
        Self {
            agreement: Agreement::new(me.id.clone(), &view),
            since: view.epoch,
            lease,
            view,
            installed: Millis(0),
            joined: Millis(0),
            me,
            timings,
            backups,
            dice: seed,
            now: Millis(0),
            leased: Millis(0),
            links: BTreeMap::new(),
            health: BTreeMap::new(),
            dead: Vec::new(),
            lost: BTreeMap::new(),
            next_beat: Millis(0),
            beats: 0,
            unheard_told: Vec::new(),
            deferred: None,
            wish_since: None,
            outvoted: None,
            bustle: None,
            next_try: Millis(0),
            cornered: None,
            connects: Vec::new(),
            invited: None,
            rejoining: false,
            rejoin: Rejoining::default(),
            inviters: BTreeSet::new(),
            queue: Vec::new(),
            forgets: Vec::new(),
            leave: None,
            left: false,
            has_data: false,
            bound: false,
            synced: false,
            farewelled: BTreeSet::new(),
            vanished: BTreeSet::new(),
            basis: BTreeSet::new(),
            losses: Vec::new(),
            on_possible_loss: OnPossibleLoss::default(),
            refusing: None,
            planted: Planted::NONE,
        }
    }

    /// Breaks a rule on purpose; only builds with debug assertions have something to plant.
    #[doc(hidden)]
    pub fn plant(&mut self, planted: impl Into<Planted>) {
        self.planted = planted.into();
        self.agreement.plant(self.planted);
        self.lease.plant(self.planted);
    }

    /// Takes one input at the time `now` of this node's clock; what follows from it is appended to `out`.
    pub fn handle(&mut self, now: Millis, input: Input, out: &mut Vec<Effect>) {
        if self.left {
            return;
        }
        self.advance(now);
        match input {
            Input::Tick => self.on_tick(out),
            Input::LinkUp(peer) => self.on_link_up(peer, out),
            Input::LinkDown { peer, refused } => self.on_link_down(&peer, refused, out),
            Input::Message { from, msg } => self.on_message(&from, msg, out),
            Input::Connect { peer, token } => self.on_connect(peer, token, out),
            Input::Forget { name, force, token } => self.on_forget(&name, force, token, out),
            Input::AcceptLoss { token } => self.on_accept_loss(token, out),
            Input::Leave { token } => self.on_leave(token, out),
            Input::Synced { epoch, complete } => self.on_synced(epoch, complete),
            Input::Stop => self.stop(false, out),
            Input::DialRefused { name, addr } => self.on_refused_dial(&name, &addr),
            Input::Died(id) => {
                if self.view.contains(&id) {
                    self.mark_dead(id, out);
                }
            }
            Input::Stale { known } => self.on_stale(known, out),
            Input::HasData(has) => self.has_data = has,
        }
        if self.left {
            return;
        }
        self.tell_unheard(out);
        self.drive_leave(out);
        if self.left {
            return;
        }
        self.drive_proposal(out);
        self.tell_lease(out);
    }

    /// What follows a possible loss; going on, if nothing is said.
    #[must_use]
    pub fn with_on_possible_loss(mut self, on_possible_loss: OnPossibleLoss) -> Self {
        self.on_possible_loss = on_possible_loss;
        self
    }

    /// What this node was started with.
    pub fn terms(&self) -> Terms {
        let Timings { lease, promise, .. } = self.timings;
        Terms {
            lease,
            promise,
            backups: self.backups as u64,
            on_possible_loss: self.on_possible_loss,
        }
    }

    /// This node, in its current life.
    pub fn me(&self) -> &Member {
        &self.me
    }

    /// The installed view.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Until when this node may answer clients, by its own clock.
    pub fn leased_until(&self) -> Millis {
        self.leased
    }

    /// What this node is doing.
    pub fn status(&self, now: Millis) -> Status {
        let alone = self.view.members.len() == 1;
        if self.left || self.leave.is_some() {
            Status::Leaving
        } else if alone && self.join_pending() {
            Status::Joining
        } else if alone {
            Status::Alone
        } else if self.refusing.is_some() {
            Status::Refusing
        } else if self.leased <= now {
            Status::Suspended
        } else if self.synced {
            Status::Serving
        } else {
            Status::Syncing
        }
    }

    /// The members whose pongs do not count any more; when this node is suspended, it waits for some of these.
    pub fn waiting_for(&self) -> Vec<NodeName> {
        let others = self.view.ids().filter(|id| **id != self.me.id);
        let missing = others.filter(|id| self.lease.held_until(id) <= self.now);
        missing.map(|id| id.name.clone()).collect()
    }

    /// The losses reported so far, oldest first: the epoch that each showed in, and who had vanished.
    pub fn possible_loss(&self) -> &[(Epoch, Vec<NodeId>)] {
        &self.losses
    }

    /// Identities that are known to be dead.
    pub fn known_dead(&self) -> &[NodeId] {
        &self.dead
    }

    fn on_message(&mut self, from: &NodeId, msg: Msg, out: &mut Vec<Effect>) {
        if !self.links.contains_key(from) {
            return; // of a connection that is gone already
        }
        self.hear(from);
        match msg {
            Msg::Ping {
                epoch,
                sent,
                unheard,
            } => self.on_ping(from, epoch, sent, unheard, out),
            Msg::Pong { epoch, sent } => {
                if epoch == self.view.epoch {
                    self.lease.pong(self.now, from, sent);
                }
            }
            Msg::Agree { epoch, dead, step } => self.on_agree(from, epoch, dead, step, out),
            Msg::ViewIs(view) => self.on_view_is(from, view, out),
            Msg::ViewWanted => self.on_view_wanted(from, out),
            Msg::Join { member, terms } => self.on_join(from, member, terms, out),
            Msg::Invite => self.on_invite(from, out),
            Msg::Refused(refusal) => self.on_refused(from, &refusal, out),
            Msg::Declined {
                cluster,
                epoch: _,
                member,
            } => {
                // It never installs a view of this line, whichever admitted it.
                if member == *from && cluster == self.view.cluster && self.view.contains(from) {
                    self.mark_dead(member, out);
                }
            }
            Msg::LossAccepted { epoch } => {
                if self.view.contains(from) && self.refusing.is_some_and(|since| since <= epoch) {
                    self.refusing = None;
                }
            }
            Msg::Farewell { handed_over } => self.on_farewell(from, handed_over, out),
        }
    }

    /// Moves the clock. Time in which this node itself did not run is no silence of the others.
    fn advance(&mut self, now: Millis) {
        let gap = now - self.now;
        if gap.0 > 2 * self.timings.heartbeat.0 {
            for health in self.health.values_mut() {
                health.heard = (health.heard + gap).min(now);
            }
        }
        self.now = self.now.max(now);
    }

    fn tell_lease(&mut self, out: &mut Vec<Effect>) {
        // A node that is alone answers nobody, whatever its lease: parts that have not heard yet that their life is
        // over must not answer under the lease of the next.
        let until = match self.view.members.len() {
            1 => Millis(0),
            _ if self.refusing.is_some() => Millis(0),
            _ => self.lease.leased_until(self.now),
        };
        if until != self.leased {
            self.leased = until;
            out.push(Effect::Lease { until });
        }
    }

    /// A number below `below`, different each time (splitmix64).
    fn roll(&mut self, below: u64) -> u64 {
        self.next_dice() % below.max(1)
    }

    fn next_dice(&mut self) -> u64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = self.dice;
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn beats_long(&self, heartbeats: u64) -> Millis {
        Millis(self.timings.heartbeat.0.saturating_mul(heartbeats))
    }
}

fn send(to: &NodeId, msg: Msg) -> Effect {
    Effect::Send {
        to: to.clone(),
        msg,
    }
}

fn refused(from: &NodeId, rule: &'static str) -> Effect {
    Effect::Refused {
        from: from.clone(),
        rule,
    }
}
