//! What drives a part of the key space: it gives the part's machine what arrives, and does what the machine wants done.
//!
//! ```text
//!   clients, players, frames, views ──▶ Inbox ──▶ Driver ──▶ Shard (the machine) ──▶ effects
//!                                                                   ├─▶ Outbox of each peer ─▶ Net
//!                                                                   ├─▶ players: start, run, stop
//!                                                                   └─▶ answers to clients
//! ```
//! Its holder has the part to itself: the part's actor mostly, or who has just read frames for it, or a client that alone
//! waits for it (see [`Part::drive_here`]).

use std::collections::HashMap;
use std::hint::black_box;
use std::mem::discriminant;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ractor::{ActorCell, ActorId};
use smallvec::SmallVec;
use tokio::sync::oneshot;
use tracing::{debug, error, info};

use crate::net::{Arrival, Ties};
use crate::protocol::blob::Blob;
use crate::protocol::shard::{
    Answer, Effect, Effects, Input, Located, Msg, PREFETCHED, Progress, REQUEST_BYTES, Ran,
    Request, Shard,
};
use crate::protocol::types::{Epoch, Key, KeyRef, Kind, NodeId, NodeName};
use crate::protocol::view::View;
use crate::supervisor::{History, Verdict};
use crate::wire::{self, Copies, Frame, Header, Messages, Read, Taken};

use super::calls::{Caller, Calls, Port};
use super::hints::Hints;
use super::idle::Idle;
use super::listing::{Listing, Local};
use super::outbox::Outbox;
use super::pace::{self, Pace};
use super::part::{Given, Part};
use super::player::Start;
use super::resident::{Gate, Resident, Stranger, Whose};
use super::seats::{Place, Seated, Seats};
use super::shared::Shared;

/// The inbox of a part.
pub(crate) type Inbox = super::inbox::Inbox<Item>;

/// Most frames of another cluster that wait for a view; further ones are dropped.
const EARLY_MAX: usize = 16;

/// Most bytes of them.
const EARLY_BYTES_MAX: usize = 2 * wire::VALUE_BYTES_MAX;

/// How often what was not acknowledged is looked at; it is sent again after two of these.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// How many rounds a part goes on without giving others a turn.
pub(super) const ROUNDS_MAX: usize = 4;

/// How many restart histories are kept before calm ones are dropped.
const HISTORIES_MAX: usize = 4_096;

/// What reaches a part.
pub(crate) enum Item {
    /// A client asks.
    Request {
        caller: Caller,
        key: Key,
        request: Request,
    },
    /// A client asks where an actor is.
    Locate {
        port: oneshot::Sender<Result<Option<Located>, Answer>>,
        key: Key,
    },
    /// A player handled a request that this part gave it.
    Ran { whose: Whose, ran: Ran },
    /// A player handled a request that it had from a client.
    Served {
        whose: Whose,
        caller: Caller,
        request: Request,
        ran: Ran,
    },
    /// A player that shares its actor crashed, or was killed.
    Ended { seat: Arc<dyn Resident> },
    /// A backoff is over.
    Restart { key: Key, gen_: Epoch },
    /// A frame of a peer.
    Frame { from: NodeId, bytes: Arrival },
    /// A peer has answered the others: what this part has to ask it may go.
    MayAsk,
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
    /// List the actors of a kind. Whoever asks has given up the list before.
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

impl Item {
    /// Reads some of its own memory, which another thread wrote; the player that has handled a request.
    fn prefetch(&self) -> Option<Place> {
        match self {
            Self::Ran { whose, ran } => {
                black_box(discriminant(ran));
                Some(whose.place)
            }
            Self::Served {
                whose,
                request,
                ran,
                ..
            } => {
                black_box((request.again, discriminant(ran)));
                Some(whose.place)
            }
            _ => None,
        }
    }

    /// The key of something that there are many of.
    fn key(&self) -> Option<KeyRef<'_>> {
        match self {
            Self::Request { key, .. } => Some(key.borrowed()),
            Self::Ran { whose, .. } | Self::Served { whose, .. } => Some(whose.key.borrowed()),
            _ => None,
        }
    }
}

/// What the machine wants done.
#[derive(Default)]
struct Out {
    effects: Vec<Effect>,
    /// What clients get at the end of the round.
    answers: Vec<(u64, Answer)>,
    /// By peer; there are few.
    outboxes: Vec<(NodeId, Outbox)>,
}

impl Effects for Out {
    fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    fn copy(&mut self, to: &NodeId, key: &Key, awaited: bool) {
        self.outbox(to).copy(key, awaited);
    }

    fn answer(&mut self, token: u64, answer: Answer) {
        self.answers.push((token, answer));
    }
}

impl Out {
    fn outbox(&mut self, peer: &NodeId) -> &mut Outbox {
        let at = match self.outboxes.iter().position(|(id, _)| id == peer) {
            Some(at) => at,
            None => {
                self.outboxes.push((peer.clone(), Outbox::default()));
                self.outboxes.len() - 1
            }
        };
        &mut self.outboxes[at].1
    }
}

/// What drives one part.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    part: Arc<Part>,
    /// The part's actor, which supervises its players.
    supervisor: ActorCell,
    machine: Shard,
    out: Out,
    items: Vec<Item>,
    /// Whether this node may answer, as of the beginning of the round.
    leased: bool,
    /// The clients of this node that wait for an answer, but for those that wait for a player.
    calls: Calls,
    /// What players are to handle after it.
    given: Vec<Given>,
    /// How many bytes of requests were handled in the round.
    taken: usize,
    /// How many bytes of outcomes were.
    outcomes: usize,
    hints: Hints,
    /// There is one for the request that is being taken in: it says nothing new where that goes.
    is_hinted: bool,
    /// How many frames were sent that the peer is to say of that it took them in.
    frames: u64,
    /// The next one.
    frame: Frame,
    seats: Seats,
    idle: Idle<Arc<dyn Resident>>,
    /// Whose actor it is, for the reports of its end.
    actors: HashMap<ActorId, Arc<dyn Resident>>,
    histories: HashMap<Key, History>,
    quiet: Option<oneshot::Sender<()>>,
    /// A list of the actors that live here is in the making.
    listing: Option<Listing>,
    /// Peers that were shown or asked for a view since the last tick.
    told: Vec<NodeId>,
    /// A tick has passed: what waits for the frames of other parts need not wait longer.
    ticked: bool,
    /// Frames of another cluster: of the one that this node is about to be admitted to, perhaps.
    early: Vec<(NodeId, Vec<u8>)>,
    /// Whether the membership was told that this part holds something.
    had_data: bool,
}

impl Driver {
    /// Drives a part whose machine begins in that view; `supervisor` is its actor.
    pub(super) fn new(
        shared: Arc<Shared>,
        index: usize,
        view: View,
        supervisor: ActorCell,
    ) -> Self {
        Self {
            part: Arc::clone(&shared.parts[index]),
            supervisor,
            machine: machine(&shared, index, shared.me(), view),
            out: Out::default(),
            items: Vec::new(),
            leased: false,
            calls: Calls::new(true),
            given: Vec::new(),
            taken: 0,
            outcomes: 0,
            hints: Hints::default(),
            is_hinted: false,
            frames: 0,
            frame: Frame::default(),
            seats: Seats::default(),
            idle: Idle::new(shared.config.idle, Instant::now()),
            actors: HashMap::new(),
            histories: HashMap::new(),
            quiet: None,
            listing: None,
            told: Vec::new(),
            ticked: false,
            early: Vec::new(),
            had_data: false,
            shared,
        }
    }

    /// Whether there is more to do than what arrives.
    pub(super) fn is_occupied(&self) -> bool {
        self.heals() || self.listing.is_some()
    }

    /// Whether the part is to look for more copies that the cluster lacks, now.
    fn heals(&self) -> bool {
        let has_room = |(_, outbox): &(NodeId, Outbox)| outbox.heals() < pace::AHEAD_MAX;
        self.machine.is_healing() && self.out.outboxes.iter().all(has_room)
    }

    /// Does a little of that, if there is.
    pub(super) fn go_on(&mut self) {
        if self.heals() {
            self.step(Input::Heal);
            self.flush();
        }
        if let Some(listing) = self.listing.take() {
            self.listing = listing.go_on(&self.machine);
        }
    }

    /// Handles what is in the inbox, and what comes meanwhile; false if there is, or may be, more to do.
    pub(super) fn rounds(&mut self) -> bool {
        (0..ROUNDS_MAX).any(|_| !self.round()) && !self.is_occupied()
    }

    /// The actor of a player has ended; false if it was none.
    pub(super) fn actor_ended(&mut self, id: ActorId, abnormal: bool) -> bool {
        let Some(seat) = self.actors.remove(&id) else {
            return false;
        };
        self.ended(&seat, abnormal);
        self.flush();
        true
    }

    /// Handles what is in the inbox, and sends what came of it; false if there was nothing.
    pub(super) fn round(&mut self) -> bool {
        let mut items = std::mem::take(&mut self.items);
        let any = self.part.inbox.take(&mut items);
        // Whoever is answered in this round was waiting at this moment: an answer that is true now is true for it.
        self.leased = self.part.lease.is_valid_in(self.machine.view());
        let mut ticked = false;
        let mut rest = items.drain(..);
        while !rest.as_slice().is_empty() {
            let near = rest.as_slice().iter().take(PREFETCHED);
            self.seats.prefetch(near.clone().filter_map(Item::prefetch));
            self.machine.prefetch(near.clone().filter_map(Item::key));
            self.hints.prefetch(near.filter_map(|item| match item {
                Item::Request { key, .. } => Some(key.borrowed()),
                _ => None,
            }));
            for item in rest.by_ref().take(PREFETCHED) {
                // After a stall, ticks have piled up; one says it all.
                if matches!(item, Item::Tick) && std::mem::replace(&mut ticked, true) {
                    continue;
                }
                self.item(item);
            }
        }
        drop(rest);
        self.items = items;
        self.part.load.taken(std::mem::take(&mut self.taken));
        if self.quiet.is_some()
            && !self.part.load.is_queued()
            && self.machine.is_quiet()
            && let Some(port) = self.quiet.take()
        {
            let _ = port.send(());
        }
        if any {
            self.flush();
        }
        any
    }

    fn item(&mut self, item: Item) {
        match item {
            Item::Request {
                caller,
                key,
                request,
            } => {
                let bytes = request.weight();
                let token = self.name(caller, Some(&key));
                // The home itself knows better.
                let hint = match self.machine.speaks_for(&key) {
                    true => None,
                    false => self.hints.of(&key).cloned(),
                };
                self.ask(token, key, request, hint);
                self.taken += bytes;
            }
            Item::Locate { port, key } => {
                let token = self.add(Some(&key), Port::Locate(port));
                self.step(Input::Locate { token, key });
                self.taken += REQUEST_BYTES;
            }
            Item::Ran { whose, ran } => {
                self.outcomes += ran.weight();
                if let Some(&Seated { gen_, .. }) = self.seats.get(whose.place) {
                    let actor = (&whose.key, gen_);
                    self.machine.ran(self.leased, actor, ran, &mut self.out);
                    self.carry_out();
                }
            }
            Item::Served {
                whose: Whose { key, place },
                caller,
                request,
                ran,
            } => {
                let bytes = request.weight();
                self.outcomes += ran.weight();
                if let Some(&Seated { gen_, .. }) = self.seats.get(place) {
                    let is_read = matches!(ran, Ran::Done { data: None, .. });
                    let token = self.name(caller, None);
                    let (actor, asked) = ((&key, gen_), (token, request));
                    self.machine
                        .served(self.leased, actor, asked, ran, &mut self.out);
                    self.carry_out();
                    if is_read
                        && let Some(ver) = self.machine.settled_at(&key)
                        && let Some(Seated { seat, .. }) = self.seats.get(place)
                    {
                        // The next ones need not come here.
                        seat.gate().set_backed_up(self.machine.view(), ver);
                    }
                } else {
                    // What it did is gone with it.
                    let waits = match &caller {
                        Caller::Named(token) => self.part.calls(|calls| calls.adopt(*token, &key)),
                        Caller::New(_) => true,
                    };
                    if waits {
                        let token = self.name(caller, Some(&key));
                        self.ask(token, key, request, None);
                    }
                }
                self.taken += bytes;
            }
            Item::Ended { seat } => self.ended(&seat, true),
            Item::Restart { key, gen_ } => self.step(Input::Restart { key, gen_ }),
            Item::Frame { from, bytes } => self.frame(&from, &bytes),
            // It goes at the end of the round.
            Item::MayAsk => {}
            Item::LinkDown { peer } => self.out.outboxes.retain(|(id, _)| *id != peer),
            Item::LinkUp => self.step(Input::Linked),
            Item::Leased => self.step(Input::Leased),
            Item::Install(view) => {
                let view = with_own_names(view, self.machine.view());
                // Whatever was not sent belongs to the old epoch.
                self.out
                    .outboxes
                    .iter_mut()
                    .for_each(|(_, outbox)| outbox.clear());
                self.leased = self.part.lease.is_valid_in(&view);
                self.step(Input::Install(view));
                let view = self.machine.view();
                self.out.outboxes.retain(|(peer, _)| view.contains(peer));
                for (from, bytes) in std::mem::take(&mut self.early) {
                    self.frame(&from, &bytes);
                }
            }
            Item::Tick => {
                self.told.clear();
                self.ticked = true;
                for (peer, outbox) in &mut self.out.outboxes {
                    if outbox.tick() {
                        self.shared.give_up(peer, self.part.index);
                    }
                }
                self.hints.tick();
                let patience = self.shared.config.call_timeout.as_millis();
                let patience = patience.div_ceil(TICK.as_millis());
                let patience = u32::try_from(patience).unwrap_or(u32::MAX);
                let mut late = self.part.calls(|calls| calls.tick(patience));
                late.extend(self.calls(|calls| calls.tick(patience)));
                for (token, key) in late {
                    self.step(Input::Cancel { key, token });
                }
                if self.histories.len() > HISTORIES_MAX {
                    let now = Instant::now();
                    self.histories.retain(|key, history| {
                        self.shared
                            .types
                            .get(&key.kind())
                            .is_some_and(|t| !history.is_calm(now, &t.restart()))
                    });
                }
                self.step(Input::Tick);
                self.rest();
            }
            Item::Quiesce(port) => {
                self.quiet = Some(port);
                self.part.close_residents();
                self.step(Input::Quiesce);
            }
            Item::Refuse => self.step(Input::Refuse),
            Item::Local { kind, port } => {
                self.listing = Some(Listing::begin(&self.machine, kind, port));
            }
            Item::Kill { key, port } => {
                let is_here = self.part.resident(&key).is_some_and(Resident::kill);
                let _ = port.send(is_here);
            }
            Item::Dissolve { me, view } => {
                self.seats.clear();
                self.part.clear_out();
                self.part.open_residents();
                self.out.outboxes.clear();
                self.hints.clear();
                self.early.clear();
                let old = std::mem::replace(
                    &mut self.machine,
                    machine(&self.shared, self.part.index, me, view),
                );
                for (token, maybe) in old.dissolve() {
                    let answer = if maybe {
                        Answer::Unknown
                    } else {
                        Answer::NotServing
                    };
                    self.out.answer(token, answer);
                }
            }
        }
    }

    /// The name of a client that waits; `key`: what to give up with it, if it is new.
    fn name(&mut self, caller: Caller, key: Option<&Key>) -> u64 {
        match caller {
            Caller::Named(token) => token,
            Caller::New(port) => self.add(key, Port::Call(port)),
        }
    }

    /// Adds a client that waits, and gives it its name.
    fn add(&mut self, key: Option<&Key>, port: Port) -> u64 {
        let token = self.calls.add(key.cloned(), port);
        token.expect("nobody closes the calls of a driver")
    }

    /// Uses the clients that the machine has the requests of.
    fn calls<R>(&mut self, usage: impl FnOnce(&mut Calls) -> R) -> R {
        self.part.count(&mut self.calls, usage)
    }

    /// Answers those that still wait.
    fn answer_all(&mut self) {
        let mut answers = std::mem::take(&mut self.out.answers);
        let mut rest = answers.drain(..);
        while !rest.as_slice().is_empty() {
            let (part, some) = (&self.part, rest.by_ref().take(PREFETCHED));
            let ports: SmallVec<[_; PREFETCHED]> = part.count(&mut self.calls, |calls| {
                let ports = some.filter_map(|(token, answer)| {
                    let port = if Calls::is_of_driver(token) {
                        calls.take(token)
                    } else {
                        part.calls(|calls| calls.take(token))
                    };
                    Some((port?, answer))
                });
                ports.collect()
            });
            ports.iter().for_each(|(port, _)| port.prefetch());
            for (port, answer) in ports {
                port.answer(answer);
            }
        }
        drop(rest);
        self.out.answers = answers;
    }

    /// Has the machine take in a request of a client; `hint`: who owned the key a moment ago.
    fn ask(&mut self, token: u64, key: Key, request: Request, hint: Option<NodeId>) {
        self.is_hinted = hint.is_some();
        self.machine.ask(token, key, request, hint, &mut self.out);
        self.carry_out();
        self.is_hinted = false;
    }

    /// One step of the machine, with everything that it wants done.
    fn step(&mut self, input: Input) {
        self.machine.handle(self.leased, input, &mut self.out);
        self.carry_out();
    }

    /// Does what the machine wants done.
    fn carry_out(&mut self) {
        if self.out.effects.is_empty() {
            return;
        }
        let mut effects = std::mem::take(&mut self.out.effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Send { to, msg } => {
                    if let Msg::Forward { key, request, .. } = &msg
                        && !request.again
                        && !self.is_hinted
                    {
                        self.hints.learn(key, &to);
                    }
                    let bytes_max = self.part.load.max();
                    self.out.outbox(&to).push(msg, bytes_max);
                }
                Effect::Copy { to, key, awaited } => {
                    self.out.copy(&to, &key, awaited);
                }
                Effect::Start { key, gen_, data } => self.start(key, gen_, data),
                Effect::Run { key, gen_, request } => {
                    let seat = self.resident(&key, gen_);
                    let seat = seat.expect("a part gives requests only to players that it has");
                    self.given.push((seat, request));
                }
                Effect::Stop { key, gen_ } => {
                    if let Some(seat) = self.resident(&key, gen_) {
                        self.stop(&seat);
                    }
                }
                Effect::Answer { token, answer } => self.out.answer(token, answer),
                Effect::Found { token, found } => {
                    let port = self.calls(|calls| calls.take(token));
                    if let Some(Port::Locate(port)) = port {
                        let _ = port.send(Ok(found));
                    }
                }
                Effect::ShowView(peer) => {
                    if !self.told.contains(&peer) {
                        self.told.push(peer.clone());
                        self.shared.show_view(&peer, self.machine.view());
                    }
                }
                Effect::WantView(peer) => {
                    if !self.told.contains(&peer) {
                        self.told.push(peer.clone());
                        self.shared.want_view(&peer);
                    }
                }
                Effect::Progress(epoch, progress) => {
                    debug!(node = %self.shared.name, epoch = epoch.0, part = self.part.index, "barrier {progress:?}");
                    self.shared
                        .progress(self.part.index, epoch, progress == Progress::Complete);
                }
                // Players may have requests that the machine has not heard of: see `round`.
                Effect::Quiet => {}
                Effect::Broken(invariant) => {
                    error!(node = %self.shared.name, part = self.part.index, "broken invariant: {invariant}");
                }
                Effect::Refused { from, rule } => self.shared.refused(&from, rule),
            }
        }
        self.out.effects = effects;
    }

    fn start(&mut self, key: Key, gen_: Epoch, data: Blob) {
        if let Some(before) = self.part.resident(&key) {
            self.stop(&before);
        }
        let node = self.shared.name.clone();
        let ver = self.machine.owned_state(&key).map_or(0, |(_, ver, _)| ver);
        let server = self.shared.types.get(&key.kind()).cloned();
        let gate = Gate::new(key, gen_, self.seats.next(), Arc::clone(&self.part));
        gate.set_used();
        let seat = match server {
            Some(server) => {
                let start = Start {
                    gate,
                    data,
                    ver,
                    node,
                };
                server.start(start, self.supervisor.clone())
            }
            None => Arc::new(Stranger::new(gate, node)),
        };
        if let Some(actor) = seat.actor() {
            self.actors.insert(actor, Arc::clone(&seat));
        }
        self.idle.watch(Arc::clone(&seat), self.idle.now());
        self.seats.insert(Arc::clone(&seat));
        self.part.settle_in(seat);
    }

    /// Ends a player that lives here.
    fn stop(&mut self, seat: &Arc<dyn Resident>) {
        self.move_out(seat);
        seat.stop();
    }

    /// A player moves out: what it did that is not known here does not count.
    fn move_out(&mut self, seat: &Arc<dyn Resident>) {
        self.seats.remove(seat.gate().place);
        self.part.move_out(seat);
    }

    /// The player of that generation, if it lives here.
    fn resident(&self, key: &Key, gen_: Epoch) -> Option<Arc<dyn Resident>> {
        let resident = self.part.resident(key);
        resident.filter(|seat| seat.gate().gen_ == gen_)
    }

    /// A player crashed, or was killed: its supervisor decides when it starts again.
    fn ended(&mut self, seat: &Arc<dyn Resident>, abnormal: bool) {
        let gate = seat.gate();
        if self.seats.get(gate.place).is_none() {
            // It was ended by this part, or has ended already.
            return;
        }
        self.move_out(seat);
        let (key, gen_) = (gate.key.clone(), gate.gen_);
        let verdict = self.verdict(&key, abnormal);
        info!(node = %self.shared.name, key = key.name(), "player.exit {verdict:?}");
        let again = matches!(verdict, Verdict::Again(_));
        let exited = Input::Exited {
            key: key.clone(),
            gen_,
            again,
        };
        self.step(exited);
        match verdict {
            Verdict::Down => {}
            Verdict::Again(Duration::ZERO) => self.step(Input::Restart { key, gen_ }),
            Verdict::Again(wait) => {
                let part = Arc::clone(&self.part);
                tokio::spawn(async move {
                    tokio::time::sleep(wait).await;
                    part.inbox.push(Item::Restart { key, gen_ });
                });
            }
        }
    }

    /// Players that nobody has asked for long go to rest.
    fn rest(&mut self) {
        let due = self.idle.turn(Instant::now());
        self.part.turn.store(self.idle.now(), Ordering::Relaxed);
        for seat in due {
            let gate = seat.gate();
            let key = gate.key.clone();
            let gen_ = match self.part.resident(&key) {
                Some(current) if !Arc::ptr_eq(&current, &seat) => continue,
                Some(_) if !self.idle.is_over(gate.used()) => {
                    let used = gate.used();
                    self.idle.watch(seat, used);
                    continue;
                }
                Some(_) if gate.is_busy() => {
                    self.idle.retry(seat);
                    continue;
                }
                Some(_) => Some(gate.gen_),
                // Its actor has ended, and nobody has asked it since.
                None => self.machine.owns(&key),
            };
            let Some(gen_) = gen_ else { continue };
            self.step(Input::Rest {
                key: key.clone(),
                gen_,
            });
            if self.machine.owns(&key).is_some() {
                // It has something to do, or its part has.
                self.idle.retry(seat);
            }
        }
    }

    fn verdict(&mut self, key: &Key, abnormal: bool) -> Verdict {
        let Some(server) = self.shared.types.get(&key.kind()) else {
            return Verdict::Down;
        };
        self.histories.entry(key.clone()).or_default().exited(
            Instant::now(),
            &server.restart(),
            abnormal,
        )
    }

    fn frame(&mut self, from: &NodeId, bytes: &[u8]) {
        let (header, messages) = match wire::read_frame(bytes) {
            Ok(frame) => frame,
            Err(error) => return self.shared.malformed(from, &error),
        };
        if header.cluster != self.machine.view().cluster {
            // Read after the next view; its sender gets its credit then, or sends again what matters.
            let held: usize = self.early.iter().map(|(_, bytes)| bytes.len()).sum();
            if self.early.len() < EARLY_MAX && held + bytes.len() <= EARLY_BYTES_MAX {
                self.early.push((from.clone(), bytes.to_vec()));
            }
            return;
        }
        // The view's own name of the peer is the one that the machine knows: equal at a glance.
        let known = self.machine.view().ids().find(|id| *id == from).cloned();
        let from = known.as_ref().unwrap_or(from);
        let same_epoch = header.epoch == self.machine.epoch();
        if let Some(taken) = header.taken {
            let mut copies = self.out.outbox(from).arrived(taken.number);
            match taken.copies {
                Copies::Kept { but } if same_epoch && but.is_sorted_by(|a, b| a < b) => {
                    // Backwards, so that the places of the others stay what they are.
                    for place in but.iter().rev() {
                        if let Ok(place) = usize::try_from(*place)
                            && place < copies.len()
                        {
                            copies.swap_remove(place);
                        }
                    }
                    self.machine.kept(self.leased, from, &copies, &mut self.out);
                    self.carry_out();
                }
                Copies::Kept { .. } | Copies::Void => {}
            }
        }
        let (number, epoch) = (header.number, header.epoch);
        let whole = self.messages(from, (epoch, same_epoch), messages);
        if number > 0 {
            let copies = match whole {
                Some(but) if same_epoch => Copies::Kept { but },
                Some(_) | None => Copies::Void,
            };
            self.out.outbox(from).take_in(Taken { number, copies });
        }
    }

    /// Takes in the messages of a frame of that epoch, which is that of this part or not: which of its copies were not kept,
    /// or none if its end cannot be read.
    fn messages(
        &mut self,
        from: &NodeId,
        (epoch, same_epoch): (Epoch, bool),
        mut messages: Messages<'_>,
    ) -> Option<Vec<u32>> {
        let (mut place, mut but) = (0, Vec::new());
        let mut near = SmallVec::<[_; PREFETCHED]>::new();
        loop {
            near.extend(messages.by_ref().take(PREFETCHED));
            if near.is_empty() {
                return Some(but);
            }
            let readable = || near.iter().filter_map(|read| read.as_ref().ok());
            self.machine.prefetch(readable().filter_map(Read::key));
            self.machine
                .prefetch_forwarded(readable().filter_map(|read| match read {
                    Read::Other(Msg::Reply { token, .. }) => Some(*token),
                    Read::Other(_) | Read::Copy(..) => None,
                }));
            self.part
                .prefetch(near.iter().filter_map(|read| match read {
                    Ok(Read::Other(Msg::Forward { key, .. })) => Some(key.borrowed()),
                    Ok(_) | Err(_) => None,
                }));
            for read in near.drain(..) {
                let msg = match read {
                    Ok(Read::Copy(key, copied)) if same_epoch => {
                        if !self.machine.keep(from, key, copied, &mut self.out) {
                            but.push(place);
                        }
                        place += 1;
                        self.carry_out();
                        continue;
                    }
                    Ok(read) => read.into_msg(),
                    Err(error) => {
                        self.shared.malformed(from, &error);
                        return None;
                    }
                };
                self.machine
                    .receive(self.leased, from, epoch, msg, &mut self.out);
                self.carry_out();
            }
        }
    }

    /// Sends what every peer may get now.
    fn flush(&mut self) {
        self.part.give(&mut self.given);
        let has = self.machine.has_data();
        if has != self.had_data {
            self.had_data = has;
            self.shared.members.push(super::members::Item::HasData {
                part: self.part.index,
                has,
            });
        }
        let load = &self.part.load;
        let held = self.machine.held_bytes();
        load.set_held(held);
        load.outcomes_taken(std::mem::take(&mut self.outcomes));
        self.answer_all();
        let Self {
            machine,
            out: Out { outboxes, .. },
            frames,
            frame,
            ticked,
            ..
        } = self;
        let ticked = std::mem::take(ticked);
        let (cluster, epoch) = (machine.view().cluster, machine.epoch());
        for (peer, outbox) in outboxes.iter_mut() {
            // Answers do not wait for others, and after a while nothing does.
            let would_ask = outbox.would_ask();
            let mut may_ask = would_ask && (ticked || self.shared.may_ask(peer, self.part.index));
            let mut passes = outbox.was_expected();
            while outbox.is_ready(may_ask) && self.shared.has_room(peer) {
                while !frame.is_full()
                    && let Some(msg) = outbox.next_answer()
                {
                    frame.push(&msg);
                }
                let mut number = 0;
                if may_ask && !frame.is_full() {
                    let mut copies = Vec::new();
                    let answers = frame.len();
                    let mut awaited = 0;
                    while !frame.is_full()
                        && let Some(msg) = outbox.next_request()
                    {
                        frame.push(&msg);
                        awaited += 1;
                    }
                    let mut copy = |frame: &mut Frame, key: Key| {
                        if let Some(copied) = machine.copy_of(&key, peer) {
                            frame.copy(&key, copied);
                            copies.push((key, (copied.is_hold, copied.gen_, copied.ver)));
                        }
                    };
                    while !frame.is_full() && outbox.has_puts() {
                        machine.prefetch(outbox.puts_ahead().take(PREFETCHED));
                        for _ in 0..PREFETCHED {
                            if frame.is_full() {
                                break;
                            }
                            let Some(key) = outbox.next_put() else { break };
                            copy(frame, key);
                            awaited += 1;
                        }
                    }
                    let begun = frame.len();
                    let Pace { count, bytes } = Pace::beside(awaited, begun - answers, held > 0);
                    machine.prefetch(outbox.heals_ahead().take(count.min(PREFETCHED)));
                    for key in std::iter::from_fn(|| outbox.next_heal()).take(count) {
                        copy(frame, key);
                        if frame.len() - begun >= bytes {
                            break;
                        }
                    }
                    if frame.len() > answers {
                        *frames += 1;
                        number = *frames;
                        outbox.sent(number, copies);
                        may_ask = false;
                    }
                }
                let taken = outbox.next_taken();
                if frame.len() == 0 && taken.is_none() {
                    break;
                }
                let ties = Ties {
                    asks: number > 0,
                    answers: taken.is_some(),
                };
                let header = Header::new(cluster, epoch, number, taken);
                let bytes = frame.finish(header);
                passes = false;
                if !self.shared.send(peer, self.part.index, ties, bytes) {
                    // What matters is sent again when it is connected.
                    outbox.disconnected();
                    break;
                }
            }
            if passes {
                self.shared.pass(peer, self.part.index);
            }
        }
    }
}

/// The machine of a part, at its beginning.
fn machine(shared: &Shared, index: usize, me: NodeId, view: View) -> Shard {
    let config = &shared.config;
    let waiting_max = (config.waiting_max / crate::protocol::SHARDS).max(1);
    let mut machine = Shard::new(me, view, config.backups, waiting_max, index as u16)
        .with_bytes_max(shared.parts[index].load.max());
    machine.plant(shared.planted);
    machine
}

/// The same view with names of this part's own, those of the view before where it has them: what is sent to a peer has a
/// copy of its name, and to count copies together with other parts would pass a line of memory from core to core.
fn with_own_names(mut view: View, before: &View) -> View {
    let own = |id: &mut NodeId| match before.ids().find(|known| *known == id) {
        Some(known) => *id = known.clone(),
        None => id.name = NodeName::new(id.name.as_str()),
    };
    view.members
        .iter_mut()
        .for_each(|member| own(&mut member.id));
    view.leaving.iter_mut().for_each(own);
    view
}
