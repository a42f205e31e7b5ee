//! The actors of players: each player has one, or those of a server type and part share one. What they share with who
//! asks is where the player itself is, so that a request is handled by the task that has it: of a client of this node, or of
//! the part for all that other nodes have asked (see [`Part::give`]). No actor has to be woken for that.
//!
//! ```text
//!   client ──▶ Seat ── handle_call, up to its first wait ──▶ part
//!   part ──▶ task ──▲   └─ it waits: goes on as a task of its own ──▶ part
//!                   └──── Host ◀── Inbox ◀── what found the player at work
//! ```
//!
//! A player is as much alone either way: it handles one request after the other, a panic ends it and no other, and while
//! one waits in its handler the others go on. A handler that computes long, or blocks, holds up the client that asked, and
//! what is left to an actor the players that share it.

use std::collections::VecDeque;
use std::hint::black_box;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::gen_server::GenServer;
use crate::net::lock;
use crate::protocol::shard::{Answer, Ran, Request};

use super::calls::{Caller, Port, Refused, Waiting};
use super::contain::discard;
use super::driver::{self, ROUNDS_MAX};
use super::inbox::{Inbox, Wake};
use super::part::Part;
use super::player::{Player, Served};
use super::resident::{Gate, Handling, Resident, Work};

/// How many requests that wait for one player are handled before others get their turn.
const AT_ONCE_MAX: usize = 16;

/// The actor of a player, or of many, as they see it.
pub(super) struct Host<G: GenServer> {
    inbox: Inbox<Item<G>>,
    /// It is the actor of one player, and ends with it.
    is_own: bool,
}

/// What reaches the actor.
enum Item<G: GenServer> {
    Run(Job<G>),
    /// A player that has handled a request has the next one.
    Next(Next<G>),
    Kill(Arc<Seat<G>>),
    /// The player whose own actor this is has crashed, or was killed.
    Failed,
}

/// The place of one player. What is read of it first is at its beginning, and what is read last at its end.
#[repr(C)]
struct Seat<G: GenServer> {
    gate: Gate,
    taken: Mutex<Taken<G>>,
    host: Arc<Host<G>>,
}

enum Taken<G: GenServer> {
    /// Ready for a request.
    Here(Player<G>),
    /// At work on one.
    Away {
        /// Its task; none while whoever gave it the request runs it.
        task: Option<AbortHandle>,
        /// What it was asked meanwhile.
        queue: VecDeque<Ask>,
    },
    /// It has ended.
    Gone,
}

/// A request for a player.
struct Ask {
    request: Request,
    asker: Asker,
}

/// Who wants its outcome.
enum Asker {
    /// The part, which knows it by its place among those that it gave.
    Part,
    /// A client of this node, past the part: the name of its call, none while it does not wait for the player.
    Client(Option<u64>),
}

/// A request on its way to its player, or in the hands of that. Not handled, it goes to the part if a client waits.
struct Job<G: GenServer> {
    seat: Arc<Seat<G>>,
    /// None when its outcome has been told.
    ask: Option<Ask>,
}

impl<G: GenServer> Taken<G> {
    /// The player, if it is here: it is away then.
    fn take(&mut self) -> Option<Player<G>> {
        let away = Self::Away {
            task: None,
            queue: VecDeque::new(),
        };
        match std::mem::replace(self, away) {
            Self::Here(player) => Some(player),
            other => {
                *self = other;
                None
            }
        }
    }
}

impl<G: GenServer> Host<G> {
    /// Starts an actor: the own one of a player, or one to share.
    pub(super) fn start(part: Arc<Part>, supervisor: ActorCell, is_own: bool) -> Arc<Self> {
        let host = Arc::new(Self {
            inbox: Inbox::new(),
            is_own,
        });
        let actor = HostActor {
            host: Arc::clone(&host),
            part,
        };
        let (actor, _) = ractor::ActorRuntime::spawn_linked_instant(None, actor, (), supervisor)
            .expect("an actor without a name has an id of its own");
        host.inbox.bind(actor);
        host
    }

    /// Takes a player in.
    pub(super) fn seat(self: Arc<Self>, gate: Gate, player: Player<G>) -> Arc<dyn Resident> {
        Arc::new(Seat {
            gate,
            taken: Mutex::new(Taken::Here(player)),
            host: self,
        })
    }
}

impl<G: GenServer> Resident for Seat<G> {
    fn gate(&self) -> &Gate {
        &self.gate
    }

    fn prefetch(&self) {
        self.gate.prefetch();
        black_box((self.taken.is_poisoned(), Arc::as_ptr(&self.host)));
    }

    fn ask(self: Arc<Self>, request: Request) -> Result<Option<Waiting>, Refused> {
        let runs_here = self.gate.part.may_handle_here();
        let mut job = Job::new(self, request, Asker::Client(None));
        if runs_here && let Some(player) = job.seat.take() {
            return Ok(ask_now((player, job)));
        }
        let answer = job.wait()?;
        if !runs_here {
            let host = Arc::clone(&job.seat.host);
            host.inbox.push(Item::Run(job));
        } else if let Some(next) = admit(job) {
            handle(next);
        }
        Ok(Some(Waiting::Later(answer)))
    }

    fn give(self: Arc<Self>, request: Request) -> Option<Work> {
        let (mut player, job) = admit(Job::new(self, request, Asker::Part))?;
        let seat = Arc::clone(&job.seat);
        let handling = Box::pin(async move {
            let served = player.serve(job.name(), job.request()).await;
            finish(job, player, served);
        });
        Some(Work { seat, handling })
    }

    fn go_on(&self, handling: Handling) {
        // Locked until its task is known, whatever that has done by then.
        let mut taken = lock(&self.taken);
        let Taken::Away { task, .. } = &mut *taken else {
            drop(taken);
            return discard(handling);
        };
        let part = Arc::clone(&self.gate.part);
        let running = tokio::spawn(async move {
            handling.await;
            part.inbox.wake();
        });
        *task = Some(running.abort_handle());
    }

    fn stop(&self) {
        self.vacate();
        if let Some(actor) = self.own_actor() {
            actor.stop(None);
        }
    }

    fn kill(self: Arc<Self>) -> bool {
        let host = Arc::clone(&self.host);
        host.inbox.push(Item::Kill(self));
        true
    }

    fn actor(&self) -> Option<ActorId> {
        self.own_actor().map(|actor| actor.get_id())
    }
}

/// The actor.
struct HostActor<G: GenServer> {
    host: Arc<Host<G>>,
    part: Arc<Part>,
}

impl<G: GenServer> Drop for HostActor<G> {
    fn drop(&mut self) {
        // What it has not taken, nobody will.
        self.host.inbox.close();
    }
}

impl<G: GenServer> Actor for HostActor<G> {
    type Msg = Wake;
    /// Room for items, from round to round.
    type State = Vec<Item<G>>;
    type Arguments = ();

    async fn pre_start(
        &self,
        _: ActorRef<Wake>,
        (): (),
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(Vec::new())
    }

    async fn handle(
        &self,
        myself: ActorRef<Wake>,
        Wake: Wake,
        spare: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        // Boxed: the task of an actor has room for all that it may ever hold, also while it is idle.
        Box::pin(self.rounds(myself, spare)).await
    }
}

impl<G: GenServer> HostActor<G> {
    /// Handles what there is.
    async fn rounds(
        &self,
        myself: ActorRef<Wake>,
        spare: &mut Vec<Item<G>>,
    ) -> Result<(), ActorProcessingErr> {
        if !self.host.is_own {
            self.part.let_others_ask().await;
        }
        for _ in 0..ROUNDS_MAX {
            if !self.host.inbox.take(spare) {
                return Ok(());
            }
            let mut items = std::mem::take(spare);
            let mut rest = items.drain(..);
            while let Some(item) = rest.next() {
                let Ok(mut next) = take_in(item) else {
                    // With it the player, perhaps, and the user's state.
                    discard(rest);
                    return Err("the player crashed, or was killed".into());
                };
                for _ in 0..AT_ONCE_MAX {
                    let Some(now) = next else { break };
                    self.part.room().await;
                    next = work(now);
                }
                if let Some(next) = next {
                    hand_on(next);
                }
            }
            drop(rest);
            // What players did that their part had given them was not told yet.
            self.part.inbox.wake();
            // Not each player needs that room for itself.
            if !self.host.is_own {
                *spare = items;
            }
        }
        let _ = myself.cast(Wake);
        Ok(())
    }
}

/// A player, and what it is to handle.
type Next<G> = (Player<G>, Job<G>);

/// Leaves it to the host.
fn hand_on<G: GenServer>(next: Next<G>) {
    let host = Arc::clone(&next.1.seat.host);
    host.inbox.push(Item::Next(next));
}

/// The player whose own actor this is has ended.
struct Failed;

/// Takes an item in; what is to be handled now, if that is something.
fn take_in<G: GenServer>(item: Item<G>) -> Result<Option<Next<G>>, Failed> {
    match item {
        Item::Run(job) => Ok(admit(job)),
        Item::Next(next) => Ok(go_on(next)),
        Item::Kill(seat) => {
            if seat.vacate() {
                seat.tell_end();
            }
            Ok(None)
        }
        Item::Failed => Err(Failed),
    }
}

/// A request arrives: its player, if that is ready for it. If it has ended, the request is dropped, which says so to whoever
/// gave it.
fn admit<G: GenServer>(mut job: Job<G>) -> Option<Next<G>> {
    let mut taken = lock(&job.seat.taken);
    if let Taken::Away { queue, .. } = &mut *taken {
        queue.extend(job.ask.take());
        return None;
    }
    let player = taken.take()?;
    drop(taken);
    Some((player, job))
}

/// The next request, unless the player was ended meanwhile; then the request is dropped as well.
fn go_on<G: GenServer>((player, job): Next<G>) -> Option<Next<G>> {
    let goes_on = matches!(&*lock(&job.seat.taken), Taken::Away { .. });
    if goes_on {
        return Some((player, job));
    }
    discard(player);
    None
}

/// A player at work on a request: boxed, so that it can move to a task when it has begun.
type Working<G> = Pin<Box<dyn Future<Output = (Player<G>, Served)> + Send>>;

fn serve<G: GenServer>(mut player: Player<G>, job: &Job<G>) -> Working<G> {
    let (key, request) = (job.seat.gate.key.clone(), job.request().clone());
    Box::pin(async move {
        let served = player.serve(key.name(), &request).await;
        (player, served)
    })
}

/// The player waits in its handler.
fn go_on_as_task<G: GenServer>(working: Working<G>, job: Job<G>) {
    let seat = Arc::clone(&job.seat);
    seat.go_on(Box::pin(async move {
        let (player, served) = working.await;
        finish(job, player, served);
    }));
}

/// Handles a request as far as it goes without waiting, the rest is a task of its own; what is next.
fn work<G: GenServer>((player, mut job): Next<G>) -> Option<Next<G>> {
    let mut working = serve(player, &job);
    match working.as_mut().now_or_never() {
        Some((player, served)) => {
            let (_, next) = settle(&mut job, player, served);
            next.map(|player| (player, job))
        }
        None => {
            go_on_as_task(working, job);
            None
        }
    }
}

/// The same; what is next is left to the host.
fn handle<G: GenServer>(next: Next<G>) {
    if let Some(next) = work(next) {
        hand_on(next);
    }
}

/// The same, for a client that does not wait yet: what there is for it. Others may ask meanwhile: they do not wait for this
/// client, nor it for them.
fn ask_now<G: GenServer>((player, mut job): Next<G>) -> Option<Waiting> {
    let mut working = serve(player, &job);
    match working.as_mut().now_or_never() {
        Some((player, served)) => finish(job, player, served),
        None => {
            let Some(answer) = job.wait_begun() else {
                discard(working);
                return None;
            };
            go_on_as_task(working, job);
            Some(Waiting::Later(answer))
        }
    }
}

/// A request was handled: what it came to is told, before that of any later one can be (see [`Job::tell`]); the player comes
/// back if the job is now its next one.
fn settle<G: GenServer>(
    job: &mut Job<G>,
    player: Player<G>,
    served: Served,
) -> (Option<Waiting>, Option<Player<G>>) {
    let Served { ran, ver, crashed } = served;
    let waiting = job.tell(ran, ver);
    (waiting, free(job, player, crashed))
}

/// The same; what is next is left to the host, and who waits from now on sees to its part.
fn finish<G: GenServer>(mut job: Job<G>, player: Player<G>, served: Served) -> Option<Waiting> {
    let (waiting, next) = settle(&mut job, player, served);
    if let Some(Waiting::Later(_)) = waiting {
        job.part().wake_for_client();
    }
    if let Some(player) = next {
        hand_on((player, job));
    }
    waiting
}

/// The player is ready for the next request, which it gets if there is one, or has crashed.
fn free<G: GenServer>(job: &mut Job<G>, player: Player<G>, crashed: bool) -> Option<Player<G>> {
    let mut taken = lock(&job.seat.taken);
    match &mut *taken {
        Taken::Away { task, queue } if !crashed => {
            *task = None;
            job.ask = queue.pop_front();
            if job.ask.is_some() {
                return Some(player);
            }
            *taken = Taken::Here(player);
        }
        Taken::Away { queue, .. } => {
            let queue = std::mem::take(queue);
            *taken = Taken::Gone;
            drop(taken);
            discard(player);
            job.seat.tell_end();
            // What waited behind it is for its successor.
            queue.into_iter().for_each(|ask| job.seat.give_back(ask));
        }
        // It was ended meanwhile.
        Taken::Here(_) | Taken::Gone => {
            drop(taken);
            discard(player);
        }
    }
    None
}

impl<G: GenServer> Job<G> {
    fn new(seat: Arc<Seat<G>>, request: Request, asker: Asker) -> Self {
        let ask = Some(Ask { request, asker });
        Self { seat, ask }
    }

    fn name(&self) -> &str {
        self.seat.gate.key.name()
    }

    fn request(&self) -> &Request {
        let ask = self.ask.as_ref();
        &ask.expect("a request is there until its outcome is told")
            .request
    }

    /// The client begins to wait for the player.
    fn wait(&mut self) -> Result<oneshot::Receiver<Answer>, Refused> {
        self.seat.gate.enter()?;
        self.take_a_name().ok_or(Refused::Closed)
    }

    /// The same for one whose request the player has begun to handle; none if the part has ended.
    fn wait_begun(&mut self) -> Option<oneshot::Receiver<Answer>> {
        self.seat.gate.enter_begun();
        let answer = self.take_a_name();
        if answer.is_none() {
            self.part().load.answered(self.request().weight());
        }
        answer
    }

    /// The client, whom its player counts, gets a name; none if the part has ended.
    fn take_a_name(&mut self) -> Option<oneshot::Receiver<Answer>> {
        let (port, answer) = oneshot::channel();
        let token = self.part().calls(|calls| calls.add(None, Port::Call(port)));
        let (Some(token), Some(ask)) = (token, &mut self.ask) else {
            self.seat.gate.leave();
            return None;
        };
        ask.asker = Asker::Client(Some(token));
        Some(answer)
    }

    fn part(&self) -> &Arc<Part> {
        &self.seat.gate.part
    }

    /// The player has handled the request; `ver`: the version of what it has now. For a client that does not wait yet: what
    /// there is for it, none if the part has ended; where that comes later, the part is to be woken. None for all others, whom
    /// the part tells: where the part gave the request itself, it is to be woken, once for many.
    fn tell(&mut self, ran: Ran, ver: Option<u64>) -> Option<Waiting> {
        let gate = &self.seat.gate;
        let part = &gate.part;
        gate.set_used();
        let ask = self.ask.take();
        let Ask { request, asker } = ask.expect("an outcome is told once");
        let Asker::Client(token) = asker else {
            part.load.outcome(ran.weight());
            let whose = gate.whose();
            part.inbox.put(driver::Item::Ran { whose, ran });
            return None;
        };
        if token.is_some() {
            gate.leave();
        }
        match gate.reply_of(ran, ver) {
            Ok(reply) => {
                let Some(token) = token else {
                    part.load.answered(request.weight());
                    return Some(Waiting::Answered(reply));
                };
                part.load.taken(request.weight());
                if let Some(port) = part.calls(|calls| calls.take(token)) {
                    port.answer(reply);
                }
                None
            }
            Err(ran) => {
                let (caller, waiting) = match token {
                    Some(token) => (Caller::Named(token), None),
                    None => {
                        let (port, answer) = oneshot::channel();
                        (Caller::New(port), Some(Waiting::Later(answer)))
                    }
                };
                part.load.outcome(ran.weight());
                let served = driver::Item::Served {
                    whose: gate.whose(),
                    caller,
                    request,
                    ran,
                };
                part.inbox.put(served);
                if waiting.is_none() {
                    part.inbox.wake();
                }
                waiting
            }
        }
    }
}

impl<G: GenServer> Drop for Job<G> {
    fn drop(&mut self) {
        if let Some(ask) = self.ask.take() {
            self.seat.give_back(ask);
        }
    }
}

impl<G: GenServer> Seat<G> {
    /// The player, if it is ready for a request: it is at work then.
    fn take(&self) -> Option<Player<G>> {
        lock(&self.taken).take()
    }

    /// The player will not handle that any more: what a client waits for goes to the part. Who does not wait yet is told at
    /// once that the request was refused, and gives its bytes back; the part has what it gave.
    fn give_back(&self, ask: Ask) {
        let Asker::Client(token) = ask.asker else {
            return;
        };
        let Some(token) = token else { return };
        let gate = &self.gate;
        gate.leave();
        if !gate.part.calls(|calls| calls.adopt(token, &gate.key)) {
            return gate.part.load.taken(ask.request.weight());
        }
        gate.part.inbox.push(driver::Item::Request {
            caller: Caller::Named(token),
            key: gate.key.clone(),
            request: ask.request,
        });
    }

    /// The actor that ends with the player.
    fn own_actor(&self) -> Option<&ActorRef<Wake>> {
        self.host.inbox.actor().filter(|_| self.host.is_own)
    }

    /// The player has crashed, or was killed: its own actor fails, which its supervisor hears of; or the part hears of it.
    fn tell_end(self: &Arc<Self>) {
        if self.host.is_own {
            return self.host.inbox.push(Item::Failed);
        }
        let seat = self.clone();
        self.gate.part.inbox.push(driver::Item::Ended { seat });
    }

    /// Ends the player, whatever it is at; false if it has ended before.
    fn vacate(&self) -> bool {
        // Not locked while what it was dropped.
        let before = std::mem::replace(&mut *lock(&self.taken), Taken::Gone);
        match before {
            Taken::Here(player) => discard(player),
            Taken::Away { task, queue } => {
                if let Some(task) = task {
                    task.abort();
                }
                queue.into_iter().for_each(|ask| self.give_back(ask));
            }
            Taken::Gone => return false,
        }
        true
    }
}

impl<G: GenServer> Drop for Seat<G> {
    fn drop(&mut self) {
        // The user's state, whose destructor may panic: not in the hands of whoever is the last to know this place.
        self.vacate();
    }
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;
