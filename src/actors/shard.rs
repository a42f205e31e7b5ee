//! The actor of one part of the key space: it drives the part's machine, writes and reads its frames, and
//! supervises the players that live here.
//!
//! ```text
//!   clients, players, frames, views ──▶ Inbox ──▶ Shard (the machine) ──▶ effects
//!                                                                   ├─▶ Outbox of each peer ─▶ Net
//!                                                                   ├─▶ players: start, run, stop
//!                                                                   └─▶ answers to clients
//! ```

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;
use tracing::{debug, error, info};

use crate::net::Arrival;
use crate::protocol::shard::{
    Answer, Effect, Input, Located, Progress, REQUEST_BYTES, Ran, Request, Shard,
};
use crate::protocol::types::{Epoch, Key, Kind, NodeId};
use crate::protocol::view::View;
use crate::supervisor::{History, Verdict};
use crate::wire::{self, CallFailure, Frame, Header};

use super::idle::{Entry, Idle, Turn};
use super::inbox::Wake;
use super::load::Load;
use super::outbox::Outbox;
use super::player::{Run, Start, failed};
use super::shared::Shared;

/// The inbox of a part.
pub(crate) type Inbox = super::inbox::Inbox<Item>;

/// How often what was not acknowledged is looked at; it is sent again after two of these.
const TICK: Duration = Duration::from_millis(100);

/// Most frames of another cluster that wait for a view; further ones are dropped.
const EARLY_MAX: usize = 16;

/// Most bytes of them.
const EARLY_BYTES_MAX: usize = 2 * wire::VALUE_BYTES_MAX;

/// How many restart histories are kept before calm ones are dropped.
const HISTORIES_MAX: usize = 4_096;

/// An actor on this node: key, state, version, keepers.
pub(crate) type Local = (Key, Bytes, u64, Vec<NodeId>);

/// What reaches a part.
pub(crate) enum Item {
    /// A client asks.
    Request {
        token: u64,
        key: Key,
        request: Request,
        port: oneshot::Sender<Answer>,
    },
    /// A client asks where an actor is.
    Locate {
        token: u64,
        key: Key,
        port: oneshot::Sender<Result<Option<Located>, Answer>>,
    },
    /// The client gave up.
    Cancel { key: Key, token: u64 },
    /// A player handled a request.
    Ran {
        key: Key,
        gen_: Epoch,
        instance: u64,
        ran: Ran,
    },
    /// A backoff is over.
    Restart { key: Key, gen_: Epoch },
    /// A frame of a peer.
    Frame { from: NodeId, bytes: Arrival },
    /// The connection to a peer ended: what was in flight is lost.
    LinkDown { peer: NodeId },
    /// A peer was connected.
    LinkUp,
    /// The node has a lease again.
    Leased,
    /// A view was decided.
    Install(View),
    /// Look at what was not acknowledged.
    Tick,
    /// Take no new requests; tell when none is left.
    Quiesce(oneshot::Sender<()>),
    /// Give back requests that have not started.
    Refuse,
    /// List the actors of a kind.
    Local {
        kind: Kind,
        port: oneshot::Sender<Vec<Local>>,
    },
    /// Kill a player.
    Kill {
        key: Key,
        port: oneshot::Sender<bool>,
    },
    /// This life of the node is over: forget everything, and go on as another.
    Dissolve { me: NodeId, view: View },
}

/// The actor.
pub(crate) struct ShardActor {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
}

/// A player as its part knows it.
struct Player {
    instance: u64,
    gen_: Epoch,
    /// When it was started, or handled a request last.
    used: Turn,
    /// None if its server type is not registered here.
    actor: Option<ActorRef<Run>>,
}

/// The actor's state.
pub(crate) struct State {
    machine: Shard,
    effects: Vec<Effect>,
    items: Vec<Item>,
    outboxes: BTreeMap<NodeId, Outbox>,
    calls: HashMap<u64, oneshot::Sender<Answer>>,
    locates: HashMap<u64, oneshot::Sender<Result<Option<Located>, Answer>>>,
    players: HashMap<Key, Player>,
    idle: Idle,
    /// Which player an actor is, for the reports of its end.
    actors: HashMap<ActorId, (Key, u64)>,
    histories: HashMap<Key, History>,
    instances: u64,
    quiet: Option<oneshot::Sender<()>>,
    /// Peers that were shown or asked for a view since the last tick.
    told: Vec<NodeId>,
    /// Frames of another cluster: of the one that this node is about to be admitted to, perhaps.
    early: Vec<(NodeId, Vec<u8>)>,
    /// Whether the membership was told that this part holds something.
    had_data: bool,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("machine", &self.machine)
            .finish_non_exhaustive()
    }
}

impl Actor for ShardActor {
    type Msg = Wake;
    type State = State;
    type Arguments = View;

    async fn pre_start(
        &self,
        myself: ActorRef<Wake>,
        view: View,
    ) -> Result<State, ActorProcessingErr> {
        let inbox = self.inbox().clone();
        tokio::spawn(async move {
            let mut every = tokio::time::interval(TICK);
            every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            // Ends with the actor: the inbox of an ended actor has no other holder for long.
            while myself.get_status() < ractor::ActorStatus::Stopping {
                every.tick().await;
                inbox.push(Item::Tick);
            }
        });
        let me = self.shared.me();
        Ok(State {
            machine: self.machine(me, view),
            effects: Vec::new(),
            items: Vec::new(),
            outboxes: BTreeMap::new(),
            calls: HashMap::new(),
            locates: HashMap::new(),
            players: HashMap::new(),
            idle: Idle::new(self.shared.config.idle, Instant::now()),
            actors: HashMap::new(),
            histories: HashMap::new(),
            instances: 0,
            quiet: None,
            told: Vec::new(),
            early: Vec::new(),
            had_data: false,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Wake>,
        Wake: Wake,
        s: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        // One round at a time, so that supervision and other actors get their turn between two.
        if self.round(&myself, s) {
            let _ = myself.cast(Wake);
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Wake>,
        event: SupervisionEvent,
        s: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let (id, abnormal) = match event {
            SupervisionEvent::ActorFailed(cell, _) => (cell.get_id(), true),
            SupervisionEvent::ActorTerminated(cell, state, reason) => {
                // It holds the user's state, whose destructor is user code.
                let _ = catch_unwind(AssertUnwindSafe(|| drop(state)));
                (
                    cell.get_id(),
                    reason.as_deref().is_some_and(|r| r == "killed"),
                )
            }
            SupervisionEvent::ActorStarted(_)
            | SupervisionEvent::ProcessGroupChanged(_)
            | SupervisionEvent::PidLifecycleEvent(_) => return Ok(()),
        };
        // What the player handled before it ended is in the inbox, and must not be given to its successor.
        if self.round(&myself, s) {
            let _ = myself.cast(Wake);
        }
        let Some((key, instance)) = s.actors.remove(&id) else {
            return Ok(());
        };
        let current = s.players.get(&key).filter(|p| p.instance == instance);
        if let Some(player) = current {
            let gen_ = player.gen_;
            s.players.remove(&key);
            let verdict = self.verdict(s, &key, abnormal);
            info!(node = %self.shared.name, key = key.name(), "player.exit {verdict:?}");
            match verdict {
                Verdict::Down => self.step(
                    &myself,
                    s,
                    Input::Exited {
                        key,
                        gen_,
                        again: false,
                    },
                ),
                Verdict::Again(wait) => {
                    self.step(
                        &myself,
                        s,
                        Input::Exited {
                            key: key.clone(),
                            gen_,
                            again: true,
                        },
                    );
                    if wait.is_zero() {
                        self.step(&myself, s, Input::Restart { key, gen_ });
                    } else {
                        let inbox = self.inbox().clone();
                        tokio::spawn(async move {
                            tokio::time::sleep(wait).await;
                            inbox.push(Item::Restart { key, gen_ });
                        });
                    }
                }
            }
        }
        self.flush(s);
        Ok(())
    }
}

impl ShardActor {
    fn inbox(&self) -> &Arc<Inbox> {
        &self.shared.shards[self.index]
    }

    fn load(&self) -> &Arc<Load> {
        &self.shared.loads[self.index]
    }

    fn machine(&self, me: NodeId, view: View) -> Shard {
        let config = &self.shared.config;
        let waiting_max = (config.waiting_max / crate::protocol::SHARDS).max(1);
        let mut machine = Shard::new(me, view, config.backups, waiting_max, self.index as u64)
            .with_bytes_max(self.load().max());
        machine.plant(self.shared.planted);
        machine
    }

    /// Handles what is in the inbox, and sends what came of it; false if there was nothing.
    fn round(&self, myself: &ActorRef<Wake>, s: &mut State) -> bool {
        let mut items = std::mem::take(&mut s.items);
        let any = self.inbox().take(&mut items);
        let mut ticked = false;
        for item in items.drain(..) {
            // After a stall, ticks have piled up; one says it all.
            if matches!(item, Item::Tick) && std::mem::replace(&mut ticked, true) {
                continue;
            }
            self.item(myself, s, item);
        }
        s.items = items;
        if any {
            self.flush(s);
        }
        any
    }

    fn item(&self, myself: &ActorRef<Wake>, s: &mut State, item: Item) {
        match item {
            Item::Request {
                token,
                key,
                request,
                port,
            } => {
                s.calls.insert(token, port);
                let bytes = request.weight();
                self.step(
                    myself,
                    s,
                    Input::Request {
                        token,
                        key,
                        request,
                    },
                );
                self.load().taken(bytes);
            }
            Item::Locate { token, key, port } => {
                s.locates.insert(token, port);
                self.step(myself, s, Input::Locate { token, key });
                self.load().taken(REQUEST_BYTES);
            }
            Item::Cancel { key, token } => {
                s.calls.remove(&token);
                s.locates.remove(&token);
                self.step(myself, s, Input::Cancel { key, token });
            }
            Item::Ran {
                key,
                gen_,
                instance,
                ran,
            } => {
                let bytes = ran.weight();
                let player = s.players.get_mut(&key);
                if let Some(player) = player.filter(|p| p.instance == instance) {
                    player.used = s.idle.now();
                    self.step(myself, s, Input::Ran { key, gen_, ran });
                }
                self.load().outcome_taken(bytes);
            }
            Item::Restart { key, gen_ } => self.step(myself, s, Input::Restart { key, gen_ }),
            Item::Frame { from, bytes } => self.frame(myself, s, &from, &bytes),
            Item::LinkDown { peer } => {
                s.outboxes.remove(&peer);
            }
            Item::LinkUp => self.step(myself, s, Input::Linked),
            Item::Leased => self.step(myself, s, Input::Leased),
            Item::Install(view) => {
                // Whatever was not sent belongs to the old epoch.
                s.outboxes.values_mut().for_each(Outbox::clear);
                self.step(myself, s, Input::Install(view));
                let view = s.machine.view();
                s.outboxes.retain(|peer, _| view.contains(peer));
                for (from, bytes) in std::mem::take(&mut s.early) {
                    self.frame(myself, s, &from, &bytes);
                }
            }
            Item::Tick => {
                s.told.clear();
                s.outboxes.values_mut().for_each(Outbox::tick);
                if s.histories.len() > HISTORIES_MAX {
                    let now = Instant::now();
                    s.histories.retain(|key, history| {
                        self.shared
                            .types
                            .get(&key.kind())
                            .is_some_and(|t| !history.is_calm(now, &t.restart()))
                    });
                }
                self.step(myself, s, Input::Tick);
                self.rest(myself, s);
            }
            Item::Quiesce(port) => {
                s.quiet = Some(port);
                self.step(myself, s, Input::Quiesce);
            }
            Item::Refuse => self.step(myself, s, Input::Refuse),
            Item::Local { kind, port } => {
                let local = s
                    .machine
                    .owned()
                    .filter(|(key, ..)| key.kind() == kind)
                    .map(|(key, data, ver, keepers)| {
                        (
                            key.clone(),
                            data.clone(),
                            ver,
                            keepers.into_iter().cloned().collect(),
                        )
                    })
                    .collect();
                let _ = port.send(local);
            }
            Item::Kill { key, port } => {
                let actor = s.players.get(&key).and_then(|p| p.actor.as_ref());
                // The end of one that is not linked to its supervisor yet would be reported to nobody.
                if actor.is_some_and(|actor| actor.get_status() < ractor::ActorStatus::Running) {
                    return self.inbox().push(Item::Kill { key, port });
                }
                if let Some(actor) = actor {
                    actor.kill();
                }
                let _ = port.send(actor.is_some());
            }
            Item::Dissolve { me, view } => {
                for player in std::mem::take(&mut s.players).into_values() {
                    if let Some(actor) = player.actor {
                        actor.stop(None);
                    }
                }
                s.outboxes.clear();
                s.early.clear();
                let old = std::mem::replace(&mut s.machine, self.machine(me, view));
                self.load().set_held(s.machine.held_bytes());
                for (token, maybe) in old.dissolve() {
                    let answer = if maybe {
                        Answer::Unknown
                    } else {
                        Answer::NotServing
                    };
                    self.answer(s, token, answer);
                }
            }
        }
    }

    /// One step of the machine, with everything that it wants done.
    fn step(&self, myself: &ActorRef<Wake>, s: &mut State, input: Input) {
        let mut effects = std::mem::take(&mut s.effects);
        let leased = self.shared.is_leased(s.machine.view());
        s.machine.handle(leased, input, &mut effects);
        let mut undeliverable = Vec::new();
        for effect in effects.drain(..) {
            match effect {
                Effect::Send { to, msg } => {
                    let outbox = s.outboxes.entry(to).or_default();
                    outbox.push(msg, self.load().max());
                }
                Effect::Put { to, key } => s.outboxes.entry(to).or_default().put(key),
                Effect::Start { key, gen_, data } => self.start(myself, s, key, gen_, data),
                Effect::Run { key, gen_, request } => match s.players.get(&key) {
                    Some(Player {
                        actor: Some(actor),
                        gen_: current,
                        ..
                    }) if *current == gen_ => {
                        // If it has just ended, its end is reported, and its successor gets the request.
                        let _ = actor.cast(Run(request));
                    }
                    Some(_) | None => undeliverable.push((key, gen_)),
                },
                Effect::Stop { key, gen_ } => {
                    if s.players.get(&key).is_some_and(|p| p.gen_ == gen_)
                        && let Some(Player {
                            actor: Some(actor), ..
                        }) = s.players.remove(&key)
                    {
                        actor.stop(None);
                    }
                }
                Effect::Answer { token, answer } => self.answer(s, token, answer),
                Effect::Found { token, found } => {
                    if let Some(port) = s.locates.remove(&token) {
                        let _ = port.send(Ok(found));
                    }
                }
                Effect::ShowView(peer) => {
                    if !s.told.contains(&peer) {
                        s.told.push(peer.clone());
                        self.shared.show_view(&peer, s.machine.view());
                    }
                }
                Effect::WantView(peer) => {
                    if !s.told.contains(&peer) {
                        s.told.push(peer.clone());
                        self.shared.want_view(&peer);
                    }
                }
                Effect::Progress(epoch, progress) => {
                    debug!(node = %self.shared.name, epoch = epoch.0, part = self.index, "barrier {progress:?}");
                    self.shared
                        .progress(self.index, epoch, progress == Progress::Complete);
                }
                Effect::Quiet => {
                    if let Some(port) = s.quiet.take() {
                        let _ = port.send(());
                    }
                }
                Effect::Broken(invariant) => {
                    error!(node = %self.shared.name, part = self.index, "broken invariant: {invariant}");
                }
                Effect::Refused { from, rule } => self.shared.refused(&from, rule),
            }
        }
        s.effects = effects;
        self.load().set_held(s.machine.held_bytes());
        for (key, gen_) in undeliverable {
            let name = self.shared.name.to_string();
            let ran = failed(&CallFailure::NoSuchType(name));
            self.step(myself, s, Input::Ran { key, gen_, ran });
        }
    }

    fn answer(&self, s: &mut State, token: u64, answer: Answer) {
        if let Some(port) = s.calls.remove(&token) {
            let _ = port.send(answer);
        } else if let Some(port) = s.locates.remove(&token) {
            let _ = port.send(Err(answer));
        }
    }

    fn start(&self, myself: &ActorRef<Wake>, s: &mut State, key: Key, gen_: Epoch, data: Bytes) {
        s.instances += 1;
        let instance = s.instances;
        let inbox = self.inbox().clone();
        let node = self.shared.name.clone();
        let start = Start {
            key: key.clone(),
            gen_,
            instance,
            data,
            inbox,
            load: self.load().clone(),
            node,
        };
        let server = self.shared.types.get(&key.kind()).cloned();
        let actor = server.and_then(|server| server.start(start, myself.get_cell()));
        if let Some(actor) = &actor {
            s.actors.insert(actor.get_id(), (key.clone(), instance));
        }
        let used = s.idle.now();
        let entry = Entry {
            key: key.clone(),
            instance,
        };
        s.idle.watch(entry, used);
        s.players.insert(
            key,
            Player {
                instance,
                gen_,
                used,
                actor,
            },
        );
    }

    /// Players that nobody has asked for long go to rest.
    fn rest(&self, myself: &ActorRef<Wake>, s: &mut State) {
        for entry in s.idle.turn(Instant::now()) {
            let gen_ = match s.players.get(&entry.key) {
                Some(player) if player.instance != entry.instance => continue,
                Some(player) if !s.idle.is_over(player.used) => {
                    s.idle.watch(entry, player.used);
                    continue;
                }
                Some(player) => Some(player.gen_),
                // Its actor has ended, and nobody has asked it since.
                None => s.machine.owns(&entry.key),
            };
            let Some(gen_) = gen_ else { continue };
            let key = entry.key.clone();
            self.step(myself, s, Input::Rest { key, gen_ });
            if s.machine.owns(&entry.key).is_some() {
                // It has something to do, or its part has.
                s.idle.retry(entry);
            }
        }
    }

    fn verdict(&self, s: &mut State, key: &Key, abnormal: bool) -> Verdict {
        let Some(server) = self.shared.types.get(&key.kind()) else {
            return Verdict::Down;
        };
        s.histories.entry(key.clone()).or_default().exited(
            Instant::now(),
            &server.restart(),
            abnormal,
        )
    }

    fn frame(&self, myself: &ActorRef<Wake>, s: &mut State, from: &NodeId, bytes: &[u8]) {
        let (header, messages) = match wire::read_frame(bytes) {
            Ok(frame) => frame,
            Err(error) => return self.shared.malformed(from, &error),
        };
        if header.cluster != s.machine.view().cluster {
            // Read after the next view; its sender gets its credit then, or sends again what matters.
            let held: usize = s.early.iter().map(|(_, bytes)| bytes.len()).sum();
            if s.early.len() < EARLY_MAX && held + bytes.len() <= EARLY_BYTES_MAX {
                s.early.push((from.clone(), bytes.to_vec()));
            }
            return;
        }
        let outbox = s.outboxes.entry(from.clone()).or_default();
        outbox.credits += u32::from(header.wants_credit);
        if header.credits > 0 {
            outbox.credit();
        }
        for msg in messages {
            match msg {
                Ok(msg) => {
                    let input = Input::Message {
                        from: from.clone(),
                        epoch: header.epoch,
                        msg,
                    };
                    self.step(myself, s, input);
                }
                Err(error) => return self.shared.malformed(from, &error),
            }
        }
    }

    /// Sends what every peer may get now.
    fn flush(&self, s: &mut State) {
        let has = s.machine.has_data();
        if has != s.had_data {
            s.had_data = has;
            self.shared.members.push(super::members::Item::HasData {
                part: self.index,
                has,
            });
        }
        let State {
            machine, outboxes, ..
        } = s;
        let (cluster, epoch) = (machine.view().cluster, machine.epoch());
        for (peer, outbox) in outboxes.iter_mut() {
            while outbox.is_ready() && self.shared.has_room(peer) {
                let mut frame = Frame::default();
                while !frame.is_full()
                    && let Some(msg) = outbox.next_answer()
                {
                    frame.push(&msg);
                }
                let mut wants_credit = false;
                while !outbox.is_in_flight()
                    && !frame.is_full()
                    && let Some(msg) = outbox.next_request(|key| machine.put_of(key))
                {
                    frame.push(&msg);
                    wants_credit = true;
                }
                if frame.is_empty() && outbox.credits == 0 {
                    break;
                }
                if wants_credit {
                    outbox.sent();
                }
                let header = Header::new(
                    cluster,
                    epoch,
                    std::mem::take(&mut outbox.credits),
                    wants_credit,
                );
                if !self.shared.send(peer, self.index, frame.finish(header)) {
                    // Not connected: what matters is sent again when it is.
                    outbox.clear();
                    outbox.credit();
                    break;
                }
            }
        }
    }
}
