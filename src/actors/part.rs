//! What a part of the key space shares with its clients and its players, beside its actor: who waits, how much waits,
//! and the short way to the players that live here.
//!
//! ```text
//!   client ──▶ Residents ──▶ Calls ──▶ player ──▶ Inbox ──▶ part ──▶ keepers ──▶ part ──▶ Calls ──▶ client
//!                 │                       └─ what changed nothing and is backed up ─────────┘
//!                 └──────▶ Inbox (the player is not here, or not known)
//! ```
//! A client that has a player handle its request itself takes its place in `Calls` afterwards, if it has to wait at all.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_utils::sync::{ShardedLock, ShardedLockReadGuard, ShardedLockWriteGuard};
use hashbrown::HashTable;
use smallvec::SmallVec;
use tokio::runtime::{self, Handle, RuntimeFlavor};
use tokio::sync::oneshot;

use crate::net::lock;
use crate::protocol::shard::{Answer, Located, PREFETCHED, REQUEST_BYTES, Ran, Request, key_max};
use crate::protocol::types::{ClusterId, Epoch, Key, KeyRef};
use crate::protocol::view::View;

use super::calls::{Calls, Port, Refused, Waiting};
use super::contain;
use super::driver::{Driver, Inbox, Item};
use super::idle::Turn;
use super::lease::Lease;
use super::load::Load;
use super::player::{Address, Run, Work};

/// One part, as its clients and players see it.
pub(crate) struct Part {
    /// Which one it is.
    pub(crate) index: usize,
    pub(crate) inbox: Inbox,
    pub(crate) load: Load,
    calls: Mutex<Calls>,
    /// Every client reads it: on several cores they do not pass one line of memory around.
    residents: ShardedLock<Residents>,
    /// What players are to handle.
    given: Mutex<VecDeque<(Arc<dyn Address>, Request)>>,
    /// Most requests that may wait for one player.
    key_max: usize,
    pub(crate) lease: Arc<Lease>,
    /// The part's clock of idle players.
    pub(crate) turn: AtomicU64,
    /// In which runtime handlers run; none if there was none.
    runtime: Option<runtime::Id>,
    /// Whether its threads work for nobody else.
    has_own_threads: bool,
    /// While the part's actor lives.
    driver: Mutex<Option<Box<Driver>>>,
}

/// The players that live here.
#[derive(Default)]
struct Residents {
    players: HashTable<Resident>,
    /// Whether they take nothing from clients any more.
    closed: bool,
}

/// A player that lives here.
#[derive(Clone)]
pub(crate) struct Resident {
    pub(crate) gate: Arc<Gate>,
    /// None if its server type is not registered here.
    pub(crate) address: Option<Arc<dyn Address>>,
}

impl Residents {
    fn find(&self, key: KeyRef<'_>) -> Option<&Resident> {
        let is_it = |resident: &Resident| key.is(&resident.gate.key);
        self.players.find(key.hash(), is_it)
    }
}

impl Part {
    pub(crate) fn new(
        index: usize,
        waiting_max: usize,
        bytes_max: usize,
        lease: Arc<Lease>,
    ) -> Self {
        Self {
            index,
            inbox: Inbox::new(),
            load: Load::new(bytes_max, waiting_max),
            calls: Mutex::new(Calls::new(waiting_max)),
            residents: ShardedLock::default(),
            given: Mutex::default(),
            key_max: key_max(waiting_max),
            lease,
            turn: AtomicU64::new(0),
            runtime: runtime_here(),
            has_own_threads: Handle::try_current()
                .is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread),
            driver: Mutex::new(None),
        }
    }

    /// From now on the part is driven.
    pub(super) fn begin(&self, driver: Driver) {
        *lock(&self.driver) = Some(Box::new(driver));
    }

    /// Drives it, as its actor.
    ///
    /// # Errors
    /// Its driver has panicked in [`drive_here`](Self::drive_here).
    pub(super) fn drive<R>(&self, usage: impl FnOnce(&mut Driver) -> R) -> Result<R, &'static str> {
        self.mark_thread();
        let mut driver = lock(&self.driver);
        let driver = driver.as_mut().ok_or("the driver of the part panicked")?;
        Ok(usage(driver))
    }

    /// Has what was put into the inbox handled here and now, if the actor is neither at work nor about to be.
    pub(super) fn drive_here(&self) {
        if !self.inbox.claim() {
            // Should the actor have ended, this drops what nobody will ever take.
            return self.inbox.wake();
        }
        let is_done = self.driver.try_lock().is_ok_and(|mut place| {
            let rounds = || place.as_mut().is_some_and(|driver| driver.rounds());
            catch_unwind(AssertUnwindSafe(rounds)).unwrap_or_else(|_| {
                // It is the actor that fails, as if it had panicked itself.
                *place = None;
                false
            })
        });
        if !is_done {
            self.inbox.hand_over();
        }
    }

    /// Nobody will drive it any more: whoever waits hears of that, and everybody moves out.
    pub(super) fn close(&self) {
        *lock(&self.driver) = None;
        self.calls(Calls::close);
        self.close_residents();
        self.clear_out();
        // Not locked while players are dropped.
        let given = std::mem::take(&mut *lock(&self.given));
        drop(given);
    }

    /// Takes a call in: for its player if that lives here, else for the part to decide. None if nobody will answer.
    pub(crate) fn call(
        &self,
        key: KeyRef<'_>,
        request: Request,
    ) -> Result<Option<Waiting>, Refused> {
        let bytes = request.weight();
        self.admit(bytes, || {
            let residents = self.read();
            if !residents.closed
                && let Some(resident) = residents.find(key)
                && let Some(address) = &resident.address
            {
                // Read now, its memory is fetched together with that of the gate.
                std::hint::black_box(Arc::strong_count(address));
                let place = Place::take(&resident.gate, self.key_max)?;
                let address = Arc::clone(address);
                drop(residents);
                // Should the player have ended, the request goes to the part by being dropped.
                return address.ask(Direct::new(place, request));
            }
            drop(residents);
            let key = key.to_key();
            let (port, answer) = oneshot::channel();
            let token = self.calls(|calls| calls.add(Some(key.clone()), Port::Call(port)))?;
            self.inbox.push(Item::Request {
                token,
                key,
                request,
            });
            Ok(Some(Waiting::Later(answer)))
        })
    }

    /// Says that a task of the part's runtime runs on this thread, and that so do all that ever will.
    fn mark_thread(&self) {
        if self.has_own_threads {
            RUNTIME.set(self.runtime);
        }
    }

    /// Whether a handler may run here and now, if there is room for what it does: not inside of another one, as deep as they
    /// call each other; and not in another runtime, which may end before what the handler starts.
    pub(super) fn may_handle_here(&self) -> bool {
        self.load.has_room()
            && !contain::is_inside()
            && self.runtime.is_some()
            && (self.runtime == RUNTIME.get() || self.runtime == runtime_here())
    }

    /// Takes in the question where an actor is.
    pub(crate) fn locate(
        &self,
        key: KeyRef<'_>,
        port: oneshot::Sender<Result<Option<Located>, Answer>>,
    ) -> Result<(), Refused> {
        self.admit(REQUEST_BYTES, || {
            let key = key.to_key();
            let token = self.calls(|calls| calls.add(Some(key.clone()), Port::Locate(port)))?;
            self.inbox.push(Item::Locate { token, key });
            Ok(())
        })
    }

    /// Uses those that wait.
    pub(crate) fn calls<R>(&self, usage: impl FnOnce(&mut Calls) -> R) -> R {
        let mut calls = lock(&self.calls);
        let result = usage(&mut calls);
        self.load.set_calls(calls.len());
        result
    }

    /// Answers those that still wait.
    pub(crate) fn answer_all(&self, answers: &mut Vec<(u64, Answer)>) {
        let mut answers = answers.drain(..);
        while !answers.as_slice().is_empty() {
            // Not all under one lock, which others want.
            let some = answers.by_ref().take(PREFETCHED);
            let ports: SmallVec<[_; PREFETCHED]> = self.calls(|calls| {
                let ports = some.map(|(token, answer)| Some((calls.take(token)?, answer)));
                ports.flatten().collect()
            });
            ports.iter().for_each(|(port, _)| port.prefetch());
            for (port, answer) in ports {
                port.answer(answer);
            }
        }
    }

    /// Gives players requests, and has a task handle all of them, each as far as it goes without waiting: one wake-up instead
    /// of one for each player's actor. Should a handler compute long, the task of the next time goes on with the others.
    pub(super) fn give(self: &Arc<Self>, requests: &mut Vec<(Arc<dyn Address>, Request)>) {
        let mut given = lock(&self.given);
        given.extend(requests.drain(..));
        if !given.is_empty() {
            let part = Arc::clone(self);
            tokio::spawn(async move { part.handle_given().await });
        }
    }

    async fn handle_given(&self) {
        loop {
            // What so many came to is sent before the next ones are handled.
            for _ in 0..PREFETCHED {
                self.room().await;
                let Some(work) = self.next_given() else {
                    return self.drive_here();
                };
                if let Some(work) = work {
                    work();
                }
            }
            self.drive_here();
            tokio::task::yield_now().await;
        }
    }

    /// Gives a player the next request: what is to be done for it now. None if there is no request.
    fn next_given(&self) -> Option<Option<Work>> {
        // Locked until the player has it: another such task must not give it a later one before.
        let mut given = lock(&self.given);
        let (address, request) = given.pop_front()?;
        Some(address.give(request))
    }

    /// Waits for room for what a player is about to do.
    pub(super) async fn room(&self) {
        if !self.load.has_room() {
            // It takes what was done so far.
            self.inbox.wake();
            self.load.room().await;
        }
    }

    /// Lets whoever is about to ask do so first, where more than one client waits: tokio runs whom a client wakes at
    /// once, which would handle the requests one by one.
    pub(crate) async fn let_others_ask(&self) {
        if self.load.calls() > 1 {
            tokio::task::yield_now().await;
        }
    }

    /// Takes something in, if there is room for so many bytes.
    fn admit<T>(
        &self,
        bytes: usize,
        take_in: impl FnOnce() -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        if !self.load.admit(bytes) {
            return Err(Refused::Full);
        }
        take_in().inspect_err(|_| self.load.taken(bytes))
    }

    /// A player moves in.
    pub(crate) fn settle_in(&self, gate: Arc<Gate>, address: Option<Arc<dyn Address>>) {
        let mut residents = self.write();
        let hash = |resident: &Resident| resident.gate.key.hash();
        let resident = Resident { gate, address };
        residents
            .players
            .insert_unique(hash(&resident), resident, hash);
    }

    /// A player moves out: what it did that the part has not seen does not count. Where it was.
    pub(crate) fn move_out(&self, gate: &Arc<Gate>) -> Option<Arc<dyn Address>> {
        gate.close();
        let mut residents = self.write();
        let is_it = |resident: &Resident| Arc::ptr_eq(&resident.gate, gate);
        let entry = residents.players.find_entry(gate.key.hash(), is_it);
        entry.ok()?.remove().0.address
    }

    /// Everybody moves out and ends, those as well that wait in their handlers.
    pub(crate) fn clear_out(&self) {
        let players = std::mem::take(&mut self.write().players);
        players.iter().for_each(|resident| resident.gate.close());
        let addresses = players.iter().filter_map(|it| it.address.as_ref());
        addresses.for_each(|address| address.stop());
    }

    /// The player of that key, if it lives here.
    pub(crate) fn resident(&self, key: &Key) -> Option<Resident> {
        self.read().find(key.borrowed()).cloned()
    }

    /// Players take nothing from clients any more.
    pub(crate) fn close_residents(&self) {
        self.write().closed = true;
    }

    /// They do again.
    pub(crate) fn open_residents(&self) {
        self.write().closed = false;
    }
}

impl Part {
    fn read(&self) -> ShardedLockReadGuard<'_, Residents> {
        self.residents
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> ShardedLockWriteGuard<'_, Residents> {
        self.residents
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

thread_local! {
    /// The runtime whose thread this is, where that is known. To ask the runtime itself takes a count of its users from
    /// core to core, which took a third of the time of a read. (What a task does in another runtime meanwhile, by
    /// `block_in_place`, is taken for its own.)
    static RUNTIME: Cell<Option<runtime::Id>> = const { Cell::new(None) };
}

fn runtime_here() -> Option<runtime::Id> {
    Handle::try_current().ok().map(|handle| handle.id())
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part").finish_non_exhaustive()
    }
}

/// What one player, its part and its clients share.
pub(crate) struct Gate {
    pub(crate) key: Key,
    /// The owner's generation.
    pub(crate) gen_: Epoch,
    pub(crate) part: Arc<Part>,
    /// Requests that it was given directly and has not handled.
    waiting: AtomicUsize,
    open: AtomicBool,
    /// When it was started, or handled a request last.
    used: AtomicU64,
    /// In which view the keepers have which version.
    backed_up: Mutex<Option<(ClusterId, Epoch, u64)>>,
}

impl Gate {
    pub(crate) fn new(key: Key, gen_: Epoch, part: Arc<Part>) -> Self {
        Self {
            key,
            gen_,
            part,
            waiting: AtomicUsize::new(0),
            open: AtomicBool::new(true),
            used: AtomicU64::new(0),
            backed_up: Mutex::new(None),
        }
    }

    /// The player is used now.
    pub(crate) fn set_used(&self) {
        self.used.store(self.part.turn.load(Relaxed), Relaxed);
    }

    /// When it was used last.
    pub(crate) fn used(&self) -> Turn {
        self.used.load(Relaxed)
    }

    /// Whether it has requests that the part has not heard of, one of which it may be at work on.
    pub(crate) fn is_busy(&self) -> bool {
        self.waiting.load(Relaxed) > 0
    }

    /// Whether the part counts what the player does.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(SeqCst)
    }

    /// The player has handled a request; `ver`: the version of what it has now. For a client that does not wait yet: what
    /// there is for it, none if the part has ended. None for all others, whom the part tells: where the part gave the
    /// request itself, it is to be woken, once for many.
    pub(crate) fn tell(self: &Arc<Self>, run: Run, ran: Ran, ver: Option<u64>) -> Option<Waiting> {
        self.set_used();
        let part = &self.part;
        let mut direct = match run {
            Run::Direct(direct) => direct,
            Run::Given(_) => {
                let gate = Arc::clone(self);
                part.load.outcome(ran.weight());
                part.inbox.put(Item::Ran { gate, ran });
                return None;
            }
        };
        match self.reply_of(ran, ver) {
            Ok(reply) => {
                part.load.taken(direct.request().weight());
                let Some(token) = direct.token else {
                    return Some(Waiting::Answered(reply));
                };
                direct.finish();
                if let Some(port) = part.calls(|calls| calls.take(token)) {
                    port.answer(reply);
                }
                None
            }
            Err(ran) => {
                let (token, waiting) = match direct.token {
                    Some(token) => (token, None),
                    None => {
                        let (token, answer) = direct.wait_begun()?;
                        (token, Some(Waiting::Later(answer)))
                    }
                };
                part.load.outcome(ran.weight());
                part.inbox.push(Item::Served {
                    gate: Arc::clone(self),
                    token,
                    request: direct.finish(),
                    ran,
                });
                waiting
            }
        }
    }

    /// The answer to a request that changed nothing, if what it was computed from is backed up; else its outcome, which the
    /// part is to hear of.
    fn reply_of(&self, ran: Ran, ver: Option<u64>) -> Result<Answer, Ran> {
        match ran {
            Ran::Done { reply, data: None } if ver.is_some_and(|ver| self.may_answer(ver)) => {
                Ok(Answer::Reply(reply))
            }
            ran => Err(ran),
        }
    }

    /// The part has given up the player. Before anybody else hears of it, so that it does not answer any more by then.
    fn close(&self) {
        self.open.store(false, SeqCst);
        *lock(&self.backed_up) = None;
    }

    /// All keepers in this view have this version.
    pub(crate) fn set_backed_up(&self, view: &View, ver: u64) {
        *lock(&self.backed_up) = Some((view.cluster, view.epoch, ver));
    }

    /// Whether the player may answer from its state of this version by itself: all keepers have it, and the node has
    /// the lease of the view in which they are the keepers. That is so at one moment while the request waits, at which
    /// the answer is true, whatever happens before it arrives.
    pub(crate) fn may_answer(&self, ver: u64) -> bool {
        // Not locked while the lease is looked at.
        let backed_up = *lock(&self.backed_up);
        backed_up.is_some_and(|(cluster, epoch, known)| {
            known == ver && self.part.lease.is_valid(cluster, epoch)
        })
    }
}

/// One of the requests that may wait for a player.
struct Place(Arc<Gate>);

impl Place {
    fn take(gate: &Arc<Gate>, max: usize) -> Result<Self, Refused> {
        let place = Self(Arc::clone(gate));
        if gate.waiting.fetch_add(1, Relaxed) >= max {
            return Err(Refused::Full);
        }
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

/// A request that a player has directly from a client of this node. Not handled, it goes to the part, if its client waits.
pub(crate) struct Direct {
    place: Place,
    /// The name of the call; none until the client waits.
    token: Option<u64>,
    request: Option<Request>,
}

impl Direct {
    fn new(place: Place, request: Request) -> Self {
        Self {
            place,
            token: None,
            request: Some(request),
        }
    }

    /// The client begins to wait.
    pub(crate) fn wait(&mut self) -> Result<oneshot::Receiver<Answer>, Refused> {
        let (port, answer) = oneshot::channel();
        let part = &self.place.0.part;
        self.token = Some(part.calls(|calls| calls.add(None, Port::Call(port)))?);
        Ok(answer)
    }

    /// The same while the request is being handled; none if the part has ended, and with it the request.
    pub(crate) fn wait_begun(&mut self) -> Option<(u64, oneshot::Receiver<Answer>)> {
        let (port, answer) = oneshot::channel();
        let part = &self.place.0.part;
        self.token = part.calls(|calls| calls.add_begun(None, Port::Call(port)));
        if self.token.is_none()
            && let Some(request) = self.request.take()
        {
            part.load.taken(request.weight());
        }
        Some((self.token?, answer))
    }

    /// The request.
    pub(crate) fn request(&self) -> &Request {
        self.request
            .as_ref()
            .expect("only `finish` takes it, and is the last")
    }

    /// It was handled: the request is the caller's now.
    fn finish(mut self) -> Request {
        self.request
            .take()
            .expect("only `finish` takes it, and is the last")
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        // Who does not wait yet is told at once that the request was refused, and gives its bytes back.
        if let Some(request) = self.request.take()
            && let Some(token) = self.token
        {
            let gate = &self.place.0;
            if !gate.part.calls(|calls| calls.adopt(token, &gate.key)) {
                return gate.part.load.taken(request.weight());
            }
            gate.part.inbox.push(Item::Request {
                token,
                key: gate.key.clone(),
                request,
            });
        }
    }
}
