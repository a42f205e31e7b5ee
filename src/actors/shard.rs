//! The actor of one part of the key space: it drives the part's machine, writes and reads its frames, and
//! supervises the players that live here.
//!
//! ```text
//!   clients, players, frames, views ──▶ Inbox ──▶ Shard (the machine) ──▶ effects
//!                                                                   ├─▶ Outbox of each peer ─▶ Net
//!                                                                   ├─▶ players: start, run, stop
//!                                                                   └─▶ answers to clients
//! ```

use std::collections::HashMap;
use std::fmt;
use std::hash::BuildHasherDefault;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;
use tracing::{debug, error, info};

use crate::net::Arrival;
use crate::protocol::shard::{Answer, Effect, Input, Progress, REQUEST_BYTES, Ran, Request, Shard};
use crate::protocol::types::{Epoch, Key, KeyHasher, Kind, NodeId};
use crate::protocol::view::View;
use crate::supervisor::{History, Verdict};
use crate::wire::{self, CallFailure, Frame, Header, Puts, Read, Taken};

use super::idle::{Entry, Idle};
use super::inbox::Wake;
use super::outbox::{Heal, Outbox};
use super::part::{Gate, Part};
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

/// How many rounds a part goes on without giving others a turn.
const ROUNDS_MAX: usize = 4;

/// The most bytes of copies that nobody waits for, in a frame with something that a client waits for: the next one
/// waits until this frame was taken in. They take about as long as the updates that a busy part has in a frame.
const HEAL_BYTES_BESIDE: usize = 4 * 1024;

/// The most bytes of them in any other frame.
const HEAL_BYTES_ALONE: usize = 32 * 1024;

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
    },
    /// A client asks where an actor is.
    Locate { token: u64, key: Key },
    /// A player handled a request that this part gave it.
    Ran {
        key: Key,
        gen_: Epoch,
        instance: u64,
        ran: Ran,
    },
    /// A player handled a request that it had from a client.
    Served {
        gate: Arc<Gate>,
        gen_: Epoch,
        token: u64,
        request: Request,
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
    gate: Arc<Gate>,
    /// None if its server type is not registered here.
    actor: Option<ActorRef<Run>>,
}

/// The actor's state.
pub(crate) struct State {
    machine: Shard,
    effects: Vec<Effect>,
    items: Vec<Item>,
    /// Whether this node may answer, as of the beginning of the round.
    leased: bool,
    /// What clients of this node get at the end of the round.
    answers: Vec<(u64, Answer)>,
    /// How many bytes of outcomes were handled in the round.
    outcomes: usize,
    /// By peer; there are few.
    outboxes: Vec<(NodeId, Outbox)>,
    /// How many frames were sent that the peer is to say of that it took them in.
    frames: u64,
    players: HashMap<Key, Player, BuildHasherDefault<KeyHasher>>,
    idle: Idle,
    /// Which player an actor is, for the reports of its end.
    actors: HashMap<ActorId, (Key, u64)>,
    histories: HashMap<Key, History>,
    instances: u64,
    quiet: Option<oneshot::Sender<()>>,
    /// The clients' ports do not outlive the actor.
    _calls: OpenCalls,
    /// Peers that were shown or asked for a view since the last tick.
    told: Vec<NodeId>,
    /// Frames of another cluster: of the one that this node is about to be admitted to, perhaps.
    early: Vec<(NodeId, Vec<u8>)>,
    /// Whether the membership was told that this part holds something.
    had_data: bool,
}

/// Whoever waits for an answer of this part hears of its end.
struct OpenCalls(Arc<Part>);

impl Drop for OpenCalls {
    fn drop(&mut self) {
        self.0.calls.close();
        self.0.close_residents();
    }
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
        let part = Arc::clone(self.part());
        tokio::spawn(async move {
            let mut every = tokio::time::interval(TICK);
            every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            // Ends with the actor: the inbox of an ended actor has no other holder for long.
            while myself.get_status() < ractor::ActorStatus::Stopping {
                every.tick().await;
                part.inbox.push(Item::Tick);
            }
        });
        let me = self.shared.me();
        Ok(State {
            machine: self.machine(me, view),
            effects: Vec::new(),
            items: Vec::new(),
            leased: false,
            answers: Vec::new(),
            outcomes: 0,
            outboxes: Vec::new(),
            frames: 0,
            players: HashMap::default(),
            idle: Idle::new(self.shared.config.idle, Instant::now()),
            actors: HashMap::new(),
            histories: HashMap::new(),
            instances: 0,
            quiet: None,
            _calls: OpenCalls(Arc::clone(self.part())),
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
        // A wake-up of its own for every round would wake another thread for whoever was just answered. Now and then
        // it takes one, so that supervision and other actors get their turn.
        for _ in 0..ROUNDS_MAX {
            if !self.round(&myself, s) {
                return Ok(());
            }
        }
        let _ = myself.cast(Wake);
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
            self.part().move_out(&player.gate);
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
                        let part = Arc::clone(self.part());
                        tokio::spawn(async move {
                            tokio::time::sleep(wait).await;
                            part.inbox.push(Item::Restart { key, gen_ });
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
    fn part(&self) -> &Arc<Part> {
        &self.shared.parts[self.index]
    }

    fn machine(&self, me: NodeId, view: View) -> Shard {
        let config = &self.shared.config;
        let waiting_max = (config.waiting_max / crate::protocol::SHARDS).max(1);
        let mut machine = Shard::new(me, view, config.backups, waiting_max, self.index as u64)
            .with_bytes_max(self.part().load.max());
        machine.plant(self.shared.planted);
        machine
    }

    /// Handles what is in the inbox, and sends what came of it; false if there was nothing.
    fn round(&self, myself: &ActorRef<Wake>, s: &mut State) -> bool {
        let mut items = std::mem::take(&mut s.items);
        let any = self.part().inbox.take(&mut items);
        // Whoever is answered in this round was waiting at this moment: an answer that is true now is true for it.
        s.leased = self.part().lease.is_valid_in(s.machine.view());
        let mut ticked = false;
        for item in items.drain(..) {
            // After a stall, ticks have piled up; one says it all.
            if matches!(item, Item::Tick) && std::mem::replace(&mut ticked, true) {
                continue;
            }
            self.item(myself, s, item);
        }
        s.items = items;
        if s.quiet.is_some()
            && !self.part().load.is_queued()
            && s.machine.is_quiet()
            && let Some(port) = s.quiet.take()
        {
            let _ = port.send(());
        }
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
            } => {
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
                self.part().load.taken(bytes);
            }
            Item::Locate { token, key } => {
                self.step(myself, s, Input::Locate { token, key });
                self.part().load.taken(REQUEST_BYTES);
            }
            Item::Ran {
                key,
                gen_,
                instance,
                ran,
            } => {
                s.outcomes += ran.weight();
                if s.players.get(&key).is_some_and(|p| p.instance == instance) {
                    self.step(myself, s, Input::Ran { key, gen_, ran });
                }
            }
            Item::Served {
                gate,
                gen_,
                token,
                request,
                ran,
            } => {
                let (bytes, key) = (request.weight(), gate.key.clone());
                s.outcomes += ran.weight();
                if !gate.is_open() {
                    // What it did is gone with it.
                    if self.part().calls.adopt(token, &key) {
                        let input = Input::Request {
                            token,
                            key,
                            request,
                        };
                        self.step(myself, s, input);
                    }
                } else {
                    let is_read = matches!(ran, Ran::Done { data: None, .. });
                    let input = Input::Served {
                        token,
                        key,
                        gen_,
                        request,
                        ran,
                    };
                    self.step(myself, s, input);
                    if is_read && let Some(ver) = s.machine.settled_at(&gate.key) {
                        // The next ones need not come here.
                        gate.set_backed_up(s.machine.view(), ver);
                    }
                }
                self.part().load.taken(bytes);
            }
            Item::Restart { key, gen_ } => self.step(myself, s, Input::Restart { key, gen_ }),
            Item::Frame { from, bytes } => self.frame(myself, s, &from, &bytes),
            Item::LinkDown { peer } => s.outboxes.retain(|(id, _)| *id != peer),
            Item::LinkUp => self.step(myself, s, Input::Linked),
            Item::Leased => self.step(myself, s, Input::Leased),
            Item::Install(view) => {
                // Whatever was not sent belongs to the old epoch.
                s.outboxes.iter_mut().for_each(|(_, outbox)| outbox.clear());
                s.leased = self.part().lease.is_valid_in(&view);
                self.step(myself, s, Input::Install(view));
                let view = s.machine.view();
                s.outboxes.retain(|(peer, _)| view.contains(peer));
                for (from, bytes) in std::mem::take(&mut s.early) {
                    self.frame(myself, s, &from, &bytes);
                }
            }
            Item::Tick => {
                s.told.clear();
                s.outboxes.iter_mut().for_each(|(_, outbox)| outbox.tick());
                let patience = self.shared.config.call_timeout.as_millis();
                let patience = patience.div_ceil(TICK.as_millis());
                let patience = u64::try_from(patience).unwrap_or(u64::MAX);
                for (token, key) in self.part().calls.tick(patience) {
                    self.step(myself, s, Input::Cancel { key, token });
                }
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
                self.part().close_residents();
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
                    return self.part().inbox.push(Item::Kill { key, port });
                }
                if let Some(actor) = actor {
                    actor.kill();
                }
                let _ = port.send(actor.is_some());
            }
            Item::Dissolve { me, view } => {
                self.part().open_residents();
                for player in std::mem::take(&mut s.players).into_values() {
                    self.part().move_out(&player.gate);
                    if let Some(actor) = player.actor {
                        actor.stop(None);
                    }
                }
                s.outboxes.clear();
                s.early.clear();
                let old = std::mem::replace(&mut s.machine, self.machine(me, view));
                for (token, maybe) in old.dissolve() {
                    let answer = if maybe {
                        Answer::Unknown
                    } else {
                        Answer::NotServing
                    };
                    s.answers.push((token, answer));
                }
            }
        }
    }

    /// One step of the machine, with everything that it wants done.
    fn step(&self, myself: &ActorRef<Wake>, s: &mut State, input: Input) {
        s.machine.handle(s.leased, input, &mut s.effects);
        self.carry_out(myself, s);
    }

    /// Does what the machine wants done.
    fn carry_out(&self, myself: &ActorRef<Wake>, s: &mut State) {
        let mut effects = std::mem::take(&mut s.effects);
        let mut undeliverable = Vec::new();
        for effect in effects.drain(..) {
            match effect {
                Effect::Send { to, msg } => {
                    let bytes_max = self.part().load.max();
                    outbox_of(&mut s.outboxes, &to).push(msg, bytes_max);
                }
                Effect::Put { to, key, awaited } => {
                    outbox_of(&mut s.outboxes, &to).put(key, awaited);
                }
                Effect::Start { key, gen_, data } => self.start(myself, s, key, gen_, data),
                Effect::Run { key, gen_, request } => match s.players.get(&key) {
                    Some(Player {
                        actor: Some(actor),
                        gen_: current,
                        ..
                    }) if *current == gen_ => {
                        // If it has just ended, its end is reported, and its successor gets the request.
                        let _ = actor.cast(Run::Given(request));
                    }
                    Some(_) | None => undeliverable.push((key, gen_)),
                },
                Effect::Stop { key, gen_ } => {
                    if s.players.get(&key).is_some_and(|p| p.gen_ == gen_)
                        && let Some(player) = s.players.remove(&key)
                    {
                        self.part().move_out(&player.gate);
                        if let Some(actor) = player.actor {
                            actor.stop(None);
                        }
                    }
                }
                Effect::Answer { token, answer } => s.answers.push((token, answer)),
                Effect::Found { token, found } => self.part().calls.found(token, found),
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
                // Players may have requests that the machine has not heard of: see `round`.
                Effect::Quiet => {}
                Effect::Broken(invariant) => {
                    error!(node = %self.shared.name, part = self.index, "broken invariant: {invariant}");
                }
                Effect::Refused { from, rule } => self.shared.refused(&from, rule),
            }
        }
        s.effects = effects;
        for (key, gen_) in undeliverable {
            let name = self.shared.name.to_string();
            let ran = failed(&CallFailure::NoSuchType(name));
            self.step(myself, s, Input::Ran { key, gen_, ran });
        }
    }

    fn start(&self, myself: &ActorRef<Wake>, s: &mut State, key: Key, gen_: Epoch, data: Bytes) {
        s.instances += 1;
        let instance = s.instances;
        let gate = Arc::new(Gate::new(key.clone(), Arc::clone(self.part())));
        let start = Start {
            gate: Arc::clone(&gate),
            gen_,
            instance,
            data,
            ver: s.machine.owned_state(&key).map_or(0, |(_, ver, _)| ver),
            node: self.shared.name.clone(),
        };
        let server = self.shared.types.get(&key.kind()).cloned();
        let actor = server.and_then(|server| server.start(start, myself.get_cell()));
        if let Some(actor) = &actor {
            s.actors.insert(actor.get_id(), (key.clone(), instance));
            self.part().settle_in(Arc::clone(&gate), actor.clone());
        }
        let used = s.idle.now();
        gate.set_used();
        s.idle.watch(
            Entry {
                key: key.clone(),
                instance,
            },
            used,
        );
        let player = Player {
            instance,
            gen_,
            gate,
            actor,
        };
        if let Some(before) = s.players.insert(key, player) {
            self.part().move_out(&before.gate);
        }
    }

    /// Players that nobody has asked for long go to rest.
    fn rest(&self, myself: &ActorRef<Wake>, s: &mut State) {
        let due = s.idle.turn(Instant::now());
        self.part().turn.store(s.idle.now(), Ordering::Relaxed);
        for entry in due {
            let gen_ = match s.players.get(&entry.key) {
                Some(player) if player.instance != entry.instance => continue,
                Some(player) if !s.idle.is_over(player.gate.used()) => {
                    s.idle.watch(entry, player.gate.used());
                    continue;
                }
                Some(player) if player.gate.is_busy() => {
                    s.idle.retry(entry);
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
        // The view's own name of the peer is the one that the machine knows: equal at a glance.
        let known = s.machine.view().ids().find(|id| *id == from).cloned();
        let from = known.as_ref().unwrap_or(from);
        let same_epoch = header.epoch == s.machine.epoch();
        if let Some(taken) = header.taken {
            let mut puts = outbox_of(&mut s.outboxes, from).arrived(taken.number);
            match taken.puts {
                Puts::Kept { but } if same_epoch && but.is_sorted_by(|a, b| a < b) => {
                    // Backwards, so that the places of the others stay what they are.
                    for place in but.iter().rev() {
                        if let Ok(place) = usize::try_from(*place)
                            && place < puts.len()
                        {
                            puts.swap_remove(place);
                        }
                    }
                    s.machine.kept(s.leased, from, &puts, &mut s.effects);
                    self.carry_out(myself, s);
                }
                Puts::Kept { .. } | Puts::Void => {}
            }
        }
        let (mut place, mut but) = (0, Vec::new());
        let mut whole = true;
        for read in messages {
            let msg = match read {
                Ok(Read::Put {
                    key,
                    gen_,
                    ver,
                    data,
                }) if same_epoch => {
                    if !s.machine.keep(from, key, gen_, ver, data, &mut s.effects) {
                        but.push(place);
                    }
                    place += 1;
                    if !s.effects.is_empty() {
                        self.carry_out(myself, s);
                    }
                    continue;
                }
                Ok(read) => read.into_msg(),
                Err(error) => {
                    self.shared.malformed(from, &error);
                    whole = false;
                    break;
                }
            };
            let (from, epoch) = (from.clone(), header.epoch);
            self.step(myself, s, Input::Message { from, epoch, msg });
        }
        if header.number > 0 {
            let puts = if same_epoch && whole {
                Puts::Kept { but }
            } else {
                Puts::Void
            };
            let number = header.number;
            outbox_of(&mut s.outboxes, from).take_in(Taken { number, puts });
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
        let load = &self.part().load;
        load.set_held(s.machine.held_bytes());
        load.outcomes_taken(std::mem::take(&mut s.outcomes));
        self.part().calls.answer_all(&mut s.answers);
        let State {
            machine,
            outboxes,
            frames,
            ..
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
                let mut number = 0;
                if !outbox.is_in_flight() && !frame.is_full() {
                    let mut puts = Vec::new();
                    let answers = frame.len();
                    while !frame.is_full()
                        && let Some(msg) = outbox.next_request()
                    {
                        frame.push(&msg);
                    }
                    let mut put = |frame: &mut Frame, key: Key| {
                        if let Some((gen_, ver, data)) = machine.owned_state(&key) {
                            frame.put(&key, gen_, ver, data);
                            puts.push((key, gen_, ver));
                        }
                    };
                    while !frame.is_full()
                        && let Some(key) = outbox.next_put()
                    {
                        put(&mut frame, key);
                    }
                    let heal_bytes = if frame.len() > answers {
                        HEAL_BYTES_BESIDE
                    } else {
                        HEAL_BYTES_ALONE
                    };
                    let full = frame.len() + heal_bytes;
                    while !frame.is_full()
                        && frame.len() < full
                        && let Some(heal) = outbox.next_heal()
                    {
                        match heal {
                            Heal::Put(key) => put(&mut frame, key),
                            Heal::Hold(msg) => frame.push(&msg),
                        }
                    }
                    if frame.len() > answers {
                        *frames += 1;
                        number = *frames;
                        outbox.sent(number, puts);
                    }
                }
                let taken = outbox.next_taken();
                if frame.len() == 0 && taken.is_none() {
                    break;
                }
                let header = Header::new(cluster, epoch, number, taken);
                if !self.shared.send(peer, self.index, frame.finish(header)) {
                    // What matters is sent again when it is connected.
                    outbox.disconnected();
                    break;
                }
            }
        }
    }
}

fn outbox_of<'a>(outboxes: &'a mut Vec<(NodeId, Outbox)>, peer: &NodeId) -> &'a mut Outbox {
    let at = match outboxes.iter().position(|(id, _)| id == peer) {
        Some(at) => at,
        None => {
            outboxes.push((peer.clone(), Outbox::default()));
            outboxes.len() - 1
        }
    };
    &mut outboxes[at].1
}
