//! The actor of the membership: it drives the [`Members`] machine, gives its views to the parts of the key
//! space, and publishes what the node is doing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use tracing::{debug, info, warn};

use crate::info::ViewInfo;
use crate::net::{Arrival, DialError};
use crate::protocol::SHARDS;
use crate::protocol::members::{Effect, Failure, Input, Members, Msg, Status};
use crate::protocol::types::{Epoch, Member, Millis, NodeId, NodeName};
use crate::protocol::view::View;
use crate::wire;

use super::acquaintance::Acquaintance;
use super::driver;
use super::inbox::Wake;
use super::shared::Shared;

/// The end of an operator's command.
type Port = oneshot::Sender<Result<(), Failure>>;

/// What reaches the membership.
pub(crate) enum Item {
    /// Time passed.
    Tick,
    /// A connection is ready.
    LinkUp(Member),
    /// A connection ended.
    LinkDown { peer: NodeId, refused: bool },
    /// Nobody listens at the address of a name.
    DialRefused { name: NodeName, addr: Arc<str> },
    /// The process of that life has ended, says its guardian.
    Died(NodeId),
    /// A peer knows a later life of this node's name.
    Stale { known: u64 },
    /// A peer wants this node to ask to be admitted.
    Invited { peer: NodeId },
    /// A message of a peer, encoded.
    Control { from: NodeId, bytes: Arrival },
    /// The members of the view that this peer has shown were dialled.
    Met { peer: NodeId },
    /// The barrier of one part went on.
    Progress {
        part: usize,
        epoch: Epoch,
        complete: bool,
    },
    /// A part began or ceased to hold anything.
    HasData { part: usize, has: bool },
    /// The operator connects a linked peer.
    Connect { peer: NodeId, port: Port },
    /// The operator forgets a name.
    Forget {
        name: NodeName,
        force: bool,
        port: Port,
    },
    /// The operator accepts a possible loss.
    AcceptLoss { port: Port },
    /// The operator leaves.
    Leave { port: Port },
    /// The node could not hand over and stops for good: nobody need wait for it.
    Farewell { port: oneshot::Sender<()> },
}

/// The actor.
pub(crate) struct MembersActor {
    pub(crate) shared: Arc<Shared>,
}

/// The actor's state.
pub(crate) struct State {
    machine: Members,
    effects: Vec<Effect>,
    ports: HashMap<u64, Port>,
    /// How many commands there were.
    tokens: u64,
    /// How far each part is with the barrier of `epoch`: one bit each.
    epoch: Epoch,
    sent: u32,
    complete: u32,
    has_data: u32,
    unleased_since: Option<Millis>,
    /// What would have this node ask a cluster that it does not know yet.
    acquaintance: Acquaintance<Item>,
}

/// The most members of a cluster that are dialled before this node asks to be admitted; the others are dialled later.
const MET_MAX: usize = 64;

/// All parts of the key space, one bit each.
const ALL: u32 = (1 << SHARDS) - 1;

impl Drop for MembersActor {
    fn drop(&mut self) {
        // Whoever waits for it hears of its end.
        self.shared.members.close();
    }
}

impl Actor for MembersActor {
    type Msg = Wake;
    type State = State;
    type Arguments = Members;

    async fn pre_start(
        &self,
        myself: ActorRef<Wake>,
        machine: Members,
    ) -> Result<State, ActorProcessingErr> {
        let inbox = self.shared.members.clone();
        let quarter = Duration::from_millis((self.shared.config.timings.heartbeat.0 / 4).max(1));
        tokio::spawn(async move {
            let mut every = tokio::time::interval(quarter);
            every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while myself.get_status() < ractor::ActorStatus::Stopping {
                every.tick().await;
                inbox.push(Item::Tick);
            }
        });
        let epoch = machine.view().epoch;
        Ok(State {
            machine,
            effects: Vec::new(),
            ports: HashMap::new(),
            tokens: 0,
            epoch,
            sent: 0,
            complete: 0,
            has_data: 0,
            unleased_since: None,
            acquaintance: Acquaintance::new(self.shared.config.timings.heartbeat),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Wake>,
        Wake: Wake,
        s: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let mut items = Vec::new();
        if self.shared.members.take(&mut items) {
            for item in items {
                self.receive(s, item);
            }
            self.publish(s);
            let _ = myself.cast(Wake);
        }
        Ok(())
    }
}

impl MembersActor {
    /// Takes an item in, or has it wait until this node knows whom it is about to join; then those whose wait is over.
    fn receive(&self, s: &mut State, item: Item) {
        let now = self.shared.lease.now();
        let asked = match &item {
            Item::Connect { peer, .. } | Item::Invited { peer } => Some(peer.clone()),
            _ => None,
        };
        let item = match asked.filter(|_| is_alone(s)) {
            Some(peer) => s.acquaintance.hold(now, &peer, item),
            None => Some(item),
        };
        if let Some(item) = item {
            self.item(s, item);
        }
        for item in s.acquaintance.due(now) {
            self.item(s, item);
        }
    }

    fn item(&self, s: &mut State, item: Item) {
        match item {
            Item::Tick => {
                self.step(s, Input::Tick);
                if matches!(
                    self.status(s),
                    Status::Alone | Status::Refusing | Status::Suspended
                ) {
                    self.shared.for_all_parts(|| driver::Item::Refuse);
                }
            }
            Item::LinkUp(peer) => {
                info!(node = %self.shared.name, peer = %peer.id, addr = %peer.addr, "link.up");
                if !s.machine.view().contains(&peer.id) {
                    // First of all: see `acquaintance`.
                    if is_alone(s) {
                        self.shared.want_view(&peer.id);
                    } else {
                        self.shared.show_view(&peer.id, s.machine.view());
                    }
                }
                self.step(s, Input::LinkUp(peer));
            }
            Item::LinkDown { peer, refused } => {
                info!(node = %self.shared.name, %peer, refused, "link.down");
                s.acquaintance.forget(&peer);
                self.step(s, Input::LinkDown { peer, refused });
            }
            Item::DialRefused { name, addr } => self.step(s, Input::DialRefused { name, addr }),
            Item::Died(who) => self.step(s, Input::Died(who)),
            Item::Stale { known } => self.step(s, Input::Stale { known }),
            Item::Control { from, bytes } => match wire::read_control(&bytes) {
                Ok(Msg::Invite) => self.receive(s, Item::Invited { peer: from }),
                Ok(msg) => {
                    match &msg {
                        Msg::ViewIs(view) if is_alone(s) => self.meet(s, &from, view),
                        Msg::ViewWanted if s.acquaintance.begin(&from) => s.acquaintance.met(&from),
                        _ => {}
                    }
                    self.step(s, Input::Message { from, msg });
                }
                Err(error) => self.shared.malformed(&from, &error),
            },
            Item::Invited { peer: from } => {
                let msg = Msg::Invite;
                self.step(s, Input::Message { from, msg });
            }
            Item::Met { peer } => s.acquaintance.met(&peer),
            Item::Progress {
                part,
                epoch,
                complete,
            } => self.progress(s, part, epoch, complete),
            Item::HasData { part, has } => {
                let before = s.has_data;
                s.has_data = before & !(1 << part) | u32::from(has) << part;
                if (before == 0) != (s.has_data == 0) {
                    self.step(s, Input::HasData(s.has_data != 0));
                }
            }
            Item::Connect { peer, port } => {
                self.command(s, port, |token| Input::Connect { peer, token });
            }
            Item::Forget { name, force, port } => {
                self.command(s, port, |token| Input::Forget { name, force, token });
            }
            Item::Farewell { port } => {
                self.step(s, Input::Stop);
                let _ = port.send(());
            }
            Item::AcceptLoss { port } => self.command(s, port, |token| Input::AcceptLoss { token }),
            Item::Leave { port } => self.command(s, port, |token| Input::Leave { token }),
        }
    }

    /// Dials all members of the view that a peer shows.
    fn meet(&self, s: &mut State, peer: &NodeId, view: &View) {
        if !view.contains(peer) || !s.acquaintance.begin(peer) {
            return;
        }
        let me = self.shared.name.clone();
        let mut members = view.members.clone();
        members.retain(|member| member.id.name != me && member.id != *peer);
        members.truncate(MET_MAX);
        let (shared, peer) = (Arc::clone(&self.shared), peer.clone());
        tokio::spawn(async move {
            let Some(net) = shared.net() else { return };
            let dials = members.iter().map(|member| {
                let name = member.id.name.as_str();
                net.dial(Some(name), &member.addr)
            });
            // Those that are out of reach now are dialled by the machine, if they become members of one view.
            join_all(dials).await;
            shared.members.push(Item::Met { peer });
        });
    }

    fn command(&self, s: &mut State, port: Port, input: impl FnOnce(u64) -> Input) {
        s.tokens += 1;
        let token = s.tokens;
        s.ports.retain(|_, port| !port.is_closed());
        s.ports.insert(token, port);
        self.step(s, input(token));
    }

    fn progress(&self, s: &mut State, part: usize, epoch: Epoch, complete: bool) {
        if epoch != s.epoch {
            return;
        }
        let (sent, whole) = (s.sent, s.complete);
        s.sent |= 1 << part;
        if complete {
            s.complete |= 1 << part;
        }
        if s.sent == ALL && sent != ALL {
            self.step(
                s,
                Input::Synced {
                    epoch,
                    complete: false,
                },
            );
        }
        if s.complete == ALL && whole != ALL {
            info!(node = %self.shared.name, epoch = epoch.0, "view.synced");
            self.step(
                s,
                Input::Synced {
                    epoch,
                    complete: true,
                },
            );
        }
    }

    fn step(&self, s: &mut State, input: Input) {
        let mut effects = std::mem::take(&mut s.effects);
        s.machine
            .handle(self.shared.lease.now(), input, &mut effects);
        // A vote takes the lease away: before it is sent, not after.
        let ends = effects
            .iter()
            .any(|e| matches!(e, Effect::Lease { until } if *until <= self.shared.lease.now()));
        if ends {
            self.shared.lease.set(s.machine.view(), Millis(0));
        }
        for effect in effects.drain(..) {
            match effect {
                Effect::Send { to, msg } => self.shared.tell(&to, &msg),
                Effect::Install(view) => self.install(s, view),
                Effect::Lease { until } => {
                    let view = s.machine.view();
                    // Alone it has nothing to answer from; a part may still be at work in the life before.
                    let until = if view.members.len() == 1 {
                        Millis(0)
                    } else {
                        until
                    };
                    let had = self.shared.lease.is_valid_in(view);
                    self.shared.lease.set(view, until);
                    if !had && self.shared.lease.is_valid_in(view) {
                        self.shared.for_all_parts(|| driver::Item::Leased);
                    }
                }
                Effect::Dial { name, addr } => {
                    let shared = self.shared.clone();
                    tokio::spawn(async move {
                        let Some(net) = shared.net() else { return };
                        let Err(error) = net.dial(Some(name.as_str()), &addr).await else {
                            return;
                        };
                        debug!(node = %shared.name, peer = %name, %addr, "link.dial: {error}");
                        if matches!(error, DialError::Refused { .. }) {
                            shared.members.push(Item::DialRefused { name, addr });
                        }
                    });
                }
                Effect::Hangup(peer) => {
                    if let Some(net) = self.shared.net() {
                        net.hangup(&peer);
                    }
                }
                Effect::Rejoin(me) => {
                    warn!(node = %self.shared.name, incarnation = me.id.incarnation,
                        "view.evicted: the others went on without this node; it starts over and joins them again");
                    self.shared.set_me(me.id.clone());
                    let view = s.machine.view();
                    self.shared.for_all_parts(|| driver::Item::Dissolve {
                        me: me.id.clone(),
                        view: view.clone(),
                    });
                    (s.epoch, s.sent, s.complete) = (view.epoch, 0, 0);
                    if let Some(net) = self.shared.net() {
                        net.set_identity(me);
                    }
                    self.shared.bequeath(s.machine.view());
                }
                Effect::Answer { token, result } => {
                    // Whoever hears of it must see it.
                    self.publish(s);
                    if let Some(port) = s.ports.remove(&token) {
                        let _ = port.send(result);
                    }
                }
                Effect::Refused { from, rule } => self.shared.refused(&from, rule),
                Effect::Left => info!(node = %self.shared.name, "view.left"),
                Effect::PossibleLoss { epoch, nodes } => {
                    warn!(node = %self.shared.name, epoch = epoch.0, ?nodes,
                        "possible loss: what had its actor and all its backups on these nodes is gone");
                }
            }
        }
        s.effects = effects;
    }

    fn install(&self, s: &mut State, view: View) {
        let names: Vec<&str> = view.ids().map(|id| id.name.as_str()).collect();
        info!(node = %self.shared.name, epoch = view.epoch.0, members = ?names, "view.install");
        (s.epoch, s.sent, s.complete) = (view.epoch, 0, 0);
        self.shared.bequeath(&view);
        self.shared
            .for_all_parts(|| driver::Item::Install(view.clone()));
    }

    /// What the node is doing. Without a lease for less than a lease's time it is not suspended yet: a change of
    /// the view takes the lease away for a moment, and requests wait that long.
    fn status(&self, s: &mut State) -> Status {
        let now = self.shared.lease.now();
        let status = s.machine.status(now);
        if status != Status::Suspended {
            s.unleased_since = None;
            return status;
        }
        let since = *s.unleased_since.get_or_insert(now);
        if now - since < self.shared.config.timings.lease {
            Status::Syncing
        } else {
            Status::Suspended
        }
    }

    fn publish(&self, s: &mut State) {
        let status = self.status(s);
        let now = info_of(&s.machine, status);
        let refuses = matches!(status, Status::Alone | Status::Refusing | Status::Suspended);
        self.shared.refuses.store(refuses, Ordering::Release);
        self.shared.info.send_if_modified(|info| {
            let changed = *info != now;
            if changed {
                *info = now;
            }
            changed
        });
    }
}

fn is_alone(s: &State) -> bool {
    s.machine.view().members.len() == 1
}

/// What the machine says of itself.
pub(crate) fn info_of(machine: &Members, status: Status) -> ViewInfo {
    let view = machine.view();
    let names =
        |ids: &[NodeId]| -> Vec<NodeName> { ids.iter().map(|id| id.name.clone()).collect() };
    ViewInfo {
        cluster: view.cluster,
        epoch: view.epoch,
        members: view.ids().map(|id| id.name.clone()).collect(),
        leaving: names(&view.leaving),
        status,
        waiting_for: machine.waiting_for(),
        possible_loss: machine
            .possible_loss()
            .iter()
            .map(|(epoch, nodes)| (*epoch, names(nodes)))
            .collect(),
    }
}
