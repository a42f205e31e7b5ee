//! What a part of the key space shares with its clients and its players, beside its actor: who waits, how much waits,
//! and the short way to the players that live here.
//!
//! ```text
//!   client ──▶ Residents ──▶ player ──▶ Inbox ──▶ part ──▶ keepers ──▶ part ──▶ client
//!                 │            └─ what changed nothing and is backed up ───────────┘
//!                 └──────▶ Inbox (the player is not here, or not known)
//! ```
//! A client that has a player handle its request itself waits afterwards, if it has to wait at all: where its answer goes is
//! told together with the outcome. One that finds its player at work takes a place in `Calls`.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::hint::black_box;
use std::iter::once;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_utils::sync::{ShardedLock, ShardedLockReadGuard, ShardedLockWriteGuard};
use hashbrown::HashTable;
use smallvec::SmallVec;
use tokio::runtime::{self, Handle, RuntimeFlavor};
use tokio::sync::oneshot;

use crate::net::lock;
use crate::protocol::SHARDS;
use crate::protocol::shard::{Answer, Located, PREFETCHED, REQUEST_BYTES, Request, key_max};
use crate::protocol::types::{Key, KeyRef};

use super::calls::{Caller, Calls, Refused, Waiting};
use super::contain;
use super::driver::{Driver, Inbox, Item};
use super::lease::Lease;
use super::load::Load;
use super::resident::{Resident, Work};

/// How long one task goes on with what players of several parts were given, until each part has one of its own.
pub(super) const TOGETHER_MAX: Duration = Duration::from_millis(1);

/// One part, as its clients and players see it.
pub(crate) struct Part {
    /// Which one it is.
    pub(crate) index: usize,
    pub(crate) inbox: Inbox,
    pub(crate) load: Load,
    /// Those that wait for a player.
    calls: Mutex<Calls>,
    /// Every client reads it: on several cores they do not pass one line of memory around.
    residents: ShardedLock<Residents>,
    /// What players are to handle.
    given: Mutex<VecDeque<Given>>,
    /// Most requests that may wait for one player.
    pub(super) key_max: usize,
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

/// What a player is to handle.
pub(super) type Given = (Arc<dyn Resident>, Request);

/// The players that live here.
#[derive(Default)]
struct Residents {
    players: HashTable<Entry>,
    /// Whether they take nothing from clients any more.
    closed: bool,
}

struct Entry {
    /// That of the key: who looks for another one touches no player.
    hash: u64,
    seat: Arc<dyn Resident>,
}

impl Residents {
    fn find(&self, key: KeyRef<'_>) -> Option<&Arc<dyn Resident>> {
        let hash = key.hash();
        let is_it = |entry: &Entry| {
            entry.hash == hash && {
                // All that is about to be used, and not only the key, one after the other.
                entry.prefetch();
                key.is(&entry.seat.gate().key)
            }
        };
        self.players.find(hash, is_it).map(|entry| &entry.seat)
    }
}

impl Entry {
    fn prefetch(&self) {
        black_box(Arc::strong_count(&self.seat));
        self.seat.prefetch();
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
            calls: Mutex::new(Calls::new(false)),
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
    pub(super) fn drive<R>(
        self: &Arc<Self>,
        usage: impl FnOnce(&mut Driver) -> R,
    ) -> Result<R, &'static str> {
        self.mark_thread();
        let result = {
            let mut driver = lock(&self.driver);
            let driver = driver.as_mut().ok_or("the driver of the part panicked")?;
            usage(driver)
        };
        Self::see_to_given(once(self));
        Ok(result)
    }

    /// Has what was put into the inbox handled here and now, if the actor is neither at work nor about to be.
    pub(super) fn drive_here(self: &Arc<Self>) {
        Self::drive_all_here(once(self));
    }

    /// The same for several.
    pub(super) fn drive_all_here<'a>(parts: impl Iterator<Item = &'a Arc<Self>>) {
        Self::see_to_given(parts.filter(|part| part.drive_if_idle()));
    }

    /// False if somebody else is at it, who sees to what players are given as well.
    fn drive_if_idle(&self) -> bool {
        if !self.inbox.claim() {
            return false;
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
        true
    }

    /// Nobody will drive it any more: whoever waits hears of that, and everybody moves out.
    pub(super) fn close(&self) {
        *lock(&self.driver) = None;
        self.inbox.close();
        self.calls(Calls::close);
        self.close_residents();
        self.clear_out();
        // Not locked while players are dropped.
        let given = std::mem::take(&mut *lock(&self.given));
        drop(given);
    }

    /// Takes a call in: for its player if that lives here, else for the part to decide. None if nobody will answer.
    pub(crate) fn call(
        self: &Arc<Self>,
        key: KeyRef<'_>,
        request: Request,
    ) -> Result<Option<Waiting>, Refused> {
        let bytes = request.weight();
        self.admit(bytes, || {
            if let Some(seat) = self.open_to(key) {
                // Should the player have ended, the request goes to the part.
                return seat.ask(request);
            }
            let (port, answer) = oneshot::channel();
            self.tell(Item::Request {
                caller: Caller::New(port),
                key: key.to_key(),
                request,
            })?;
            Ok(Some(Waiting::Later(answer)))
        })
    }

    /// The player of that key, if it lives here and takes what clients ask.
    fn open_to(&self, key: KeyRef<'_>) -> Option<Arc<dyn Resident>> {
        let residents = self.read();
        let seat = residents.find(key).filter(|_| !residents.closed);
        seat.cloned()
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
        self: &Arc<Self>,
        key: KeyRef<'_>,
        port: oneshot::Sender<Result<Option<Located>, Answer>>,
    ) -> Result<(), Refused> {
        self.admit(REQUEST_BYTES, || {
            let key = key.to_key();
            self.tell(Item::Locate { port, key })
        })
    }

    /// Tells the part of a client that waits; refused if the part has ended.
    fn tell(self: &Arc<Self>, item: Item) -> Result<(), Refused> {
        if !self.inbox.put(item) {
            return Err(Refused::Closed);
        }
        self.wake_for_client();
        Ok(())
    }

    /// A client waits for what it has put into the inbox: if no other waits, it has that handled itself, since to wake the actor
    /// would take longer.
    pub(super) fn wake_for_client(self: &Arc<Self>) {
        if self.load.calls() == 1 && self.may_handle_here() {
            self.drive_here();
        } else {
            self.inbox.wake();
        }
    }

    /// Uses those that wait for a player.
    pub(super) fn calls<R>(&self, usage: impl FnOnce(&mut Calls) -> R) -> R {
        self.count(&mut lock(&self.calls), usage)
    }

    /// Uses some that wait, and counts those that do not any more.
    pub(super) fn count<R>(&self, calls: &mut Calls, usage: impl FnOnce(&mut Calls) -> R) -> R {
        let before = calls.len();
        let result = usage(calls);
        if calls.len() < before {
            self.load.wait_over(before - calls.len());
        }
        result
    }

    /// Gives players requests; whoever drives the part sees to it that they are handled.
    pub(super) fn give(&self, requests: &mut Vec<Given>) {
        if !requests.is_empty() {
            lock(&self.given).extend(requests.drain(..));
        }
    }

    /// Has a task handle what players of those parts were given, each request as far as it goes without waiting: one wake-up
    /// instead of one for each player's actor, and none of another thread, which a second task would take. Where handlers compute,
    /// other threads are to help: then each part has a task. Should one compute very long, the task of the next time goes on
    /// with the others.
    pub(super) fn see_to_given<'a>(parts: impl Iterator<Item = &'a Arc<Self>>) {
        let parts = parts.filter(|part| part.has_given()).cloned();
        let parts: SmallVec<[Arc<Self>; SHARDS]> = parts.collect();
        if !parts.is_empty() {
            tokio::spawn(Self::handle_given(parts));
        }
    }

    async fn handle_given(mut parts: SmallVec<[Arc<Self>; SHARDS]>) {
        let begun = Instant::now();
        loop {
            for part in &parts {
                part.handle_some_given().await;
                // What so many came to is sent before the next ones are handled.
                part.drive_if_idle();
                if parts.len() > 1 && begun.elapsed() > TOGETHER_MAX {
                    return parts.iter().for_each(|part| Self::see_to_given(once(part)));
                }
            }
            parts.retain(|part| part.has_given());
            if parts.is_empty() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    fn has_given(&self) -> bool {
        !lock(&self.given).is_empty()
    }

    async fn handle_some_given(&self) {
        for (seat, _) in lock(&self.given).iter().take(PREFETCHED) {
            seat.prefetch();
        }
        for _ in 0..PREFETCHED {
            self.room().await;
            match self.next_given() {
                Some(Some(work)) => work.begin(),
                Some(None) => {}
                None => return,
            }
        }
    }

    /// Gives a player the next request: what is to be done for it now. None if there is no request.
    fn next_given(&self) -> Option<Option<Work>> {
        // Locked until the player has it: another such task must not give it a later one before.
        let mut given = lock(&self.given);
        let (seat, request) = given.pop_front()?;
        Some(seat.give(request))
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

    /// Takes in what a client asks, if there is room for so many bytes and one more that waits: it is counted until it has its
    /// answer.
    fn admit<T>(
        &self,
        bytes: usize,
        take_in: impl FnOnce() -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        if !self.load.admit(bytes) {
            return Err(Refused::Full);
        }
        take_in().inspect_err(|_| self.load.answered(bytes))
    }

    /// A player moves in.
    pub(super) fn settle_in(&self, seat: Arc<dyn Resident>) {
        let hash = seat.gate().key.hash();
        let hash_of = |entry: &Entry| entry.hash;
        let mut residents = self.write();
        let players = &mut residents.players;
        players.insert_unique(hash, Entry { hash, seat }, hash_of);
    }

    /// A player moves out.
    pub(super) fn move_out(&self, seat: &Arc<dyn Resident>) {
        let gate = seat.gate();
        gate.close();
        let mut residents = self.write();
        let is_it = |entry: &Entry| Arc::ptr_eq(&entry.seat, seat);
        let entry = residents.players.find_entry(gate.key.hash(), is_it);
        // Not locked while it is dropped: with it the player, perhaps, and the user's state.
        let before = entry.ok().map(|entry| entry.remove().0);
        drop(residents);
        drop(before);
    }

    /// Everybody moves out and ends, those as well that wait in their handlers.
    pub(crate) fn clear_out(&self) {
        let players = std::mem::take(&mut self.write().players);
        players.iter().for_each(|it| it.seat.gate().close());
        players.iter().for_each(|it| it.seat.stop());
    }

    /// The player of that key, if it lives here.
    pub(super) fn resident(&self, key: &Key) -> Option<Arc<dyn Resident>> {
        self.read().find(key.borrowed()).cloned()
    }

    /// Reads what [`resident`](Self::resident) is going to read, and what its players are.
    pub(super) fn prefetch<'a>(&self, keys: impl Iterator<Item = KeyRef<'a>>) {
        let players = &self.read().players;
        // Where they most likely are, by some bits of their hashes; then what is there; then they themselves.
        let mut places = SmallVec::<[usize; PREFETCHED]>::new();
        places.extend(keys.filter_map(|key| players.find_bucket_index(key.hash(), |_| true)));
        let mut entries = SmallVec::<[&Entry; PREFETCHED]>::new();
        entries.extend(places.iter().filter_map(|place| players.get_bucket(*place)));
        entries.iter().for_each(|entry| {
            black_box(entry.hash);
        });
        entries.iter().for_each(|entry| entry.prefetch());
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
