//! Players without an actor each: they share that of their server type and part. They cost no mailbox and no task, and a
//! client of this node has its request handled by its own task, while the others go on.
//!
//! ```text
//!   client ──▶ Seat ── handle_call, up to its first wait ──▶ part
//!   part ──▶ Inbox ──▶ Host ──▲   └─ it waits: goes on as a task of its own ──▶ part
//! ```
//!
//! A player here is as much alone as with an actor of its own: it handles one request after the other, a panic ends it and
//! no other, and while one waits in its handler the others go on. A handler that computes long, or blocks, holds up the
//! client that asked; for a client of another node, it holds up the players of the same type and part.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use tokio::runtime::{self, Handle};
use tokio::task::AbortHandle;

use crate::gen_server::GenServer;
use crate::net::lock;
use crate::protocol::shard::Request;

use super::calls::{Refused, Waiting};
use super::contain::{self, discard};
use super::driver::{self, ROUNDS_MAX};
use super::inbox::{Inbox, Wake};
use super::part::{Direct, Gate, Part};
use super::player::{Player, Run, Served};

/// A player that shares an actor, whatever its type is.
pub(crate) trait Guest: Send + Sync {
    /// Has the request of a client handled, by the task of the client if that is possible; what there is for it, none if
    /// nobody will answer.
    fn ask(self: Arc<Self>, direct: Direct) -> Result<Option<Waiting>, Refused>;
    /// See [`Address::give`](super::player::Address::give).
    fn give(self: Arc<Self>, run: Run);
    /// See [`Address::stop`](super::player::Address::stop).
    fn stop(self: Arc<Self>);
    /// See [`Address::kill`](super::player::Address::kill).
    fn kill(self: Arc<Self>);
}

/// The inbox of the actor that players share.
pub(super) struct Host<G: GenServer> {
    inbox: Inbox<Item<G>>,
    /// In which runtime handlers run; none if there was none.
    runtime: Option<runtime::Id>,
}

/// What reaches the actor.
enum Item<G: GenServer> {
    Run(Arc<Seat<G>>, Run),
    /// A player that has handled a request has the next one.
    Next(Next<G>),
    Stop(Arc<Seat<G>>),
    Kill(Arc<Seat<G>>),
}

/// The place of one player.
struct Seat<G: GenServer> {
    host: Arc<Host<G>>,
    gate: Arc<Gate>,
    taken: Mutex<Taken<G>>,
}

enum Taken<G: GenServer> {
    /// Ready for a request.
    Here(Box<Player<G>>),
    /// At work on one.
    Away {
        /// Its task; none while whoever gave it the request runs it.
        task: Option<AbortHandle>,
        /// What it was asked meanwhile.
        queue: VecDeque<Run>,
    },
    /// It has ended.
    Gone,
}

impl<G: GenServer> Taken<G> {
    /// The player, if it is here: it is away then.
    fn take(&mut self) -> Option<Box<Player<G>>> {
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
    /// Starts the actor.
    pub(super) fn start(part: Arc<Part>, supervisor: ActorCell) -> Arc<Self> {
        let host = Arc::new(Self {
            inbox: Inbox::new(),
            runtime: Handle::try_current().ok().map(|handle| handle.id()),
        });
        let actor = HostActor {
            host: Arc::clone(&host),
            part,
        };
        // It fails while the node stops: then nobody takes what is pushed, and dropping it says so.
        if let Ok((actor, _)) =
            ractor::ActorRuntime::spawn_linked_instant(None, actor, (), supervisor)
        {
            host.inbox.bind(actor);
        }
        host
    }

    /// Whether a handler may run here and now: not inside of another one, as deep as they call each other; and not in
    /// another runtime, which may end before what the handler starts.
    fn may_run_here(&self) -> bool {
        let here = || Handle::try_current().ok().map(|handle| handle.id());
        !contain::is_inside() && self.runtime.is_some() && self.runtime == here()
    }

    /// Takes a player in.
    pub(super) fn seat(self: &Arc<Self>, player: Box<Player<G>>) -> Arc<dyn Guest> {
        Arc::new(Seat {
            host: Arc::clone(self),
            gate: Arc::clone(player.gate()),
            taken: Mutex::new(Taken::Here(player)),
        })
    }
}

impl<G: GenServer> Guest for Seat<G> {
    fn ask(self: Arc<Self>, mut direct: Direct) -> Result<Option<Waiting>, Refused> {
        let runs_here = self.gate.part.load.has_room() && self.host.may_run_here();
        if runs_here && let Some(player) = self.take() {
            return Ok(self.ask_now(player, direct));
        }
        let answer = direct.wait()?;
        let run = Run::Direct(direct);
        if !runs_here {
            self.give(run);
        } else if let Some(next) = self.admit(run).and_then(work) {
            hand_on(next);
        }
        Ok(Some(Waiting::Later(answer)))
    }

    fn give(self: Arc<Self>, run: Run) {
        let host = Arc::clone(&self.host);
        host.inbox.push(Item::Run(self, run));
    }

    fn stop(self: Arc<Self>) {
        let host = Arc::clone(&self.host);
        host.inbox.push(Item::Stop(self));
    }

    fn kill(self: Arc<Self>) {
        let host = Arc::clone(&self.host);
        host.inbox.push(Item::Kill(self));
    }
}

/// The actor that players share.
struct HostActor<G: GenServer> {
    host: Arc<Host<G>>,
    part: Arc<Part>,
}

/// What it keeps from round to round: room.
struct Round<G: GenServer> {
    items: Vec<Item<G>>,
}

impl<G: GenServer> fmt::Debug for Round<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Round").finish_non_exhaustive()
    }
}

impl<G: GenServer> Actor for HostActor<G> {
    type Msg = Wake;
    type State = Round<G>;
    type Arguments = ();

    async fn pre_start(
        &self,
        _: ActorRef<Wake>,
        (): (),
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(Round { items: Vec::new() })
    }

    async fn handle(
        &self,
        myself: ActorRef<Wake>,
        Wake: Wake,
        round: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        self.part.let_others_ask().await;
        for _ in 0..ROUNDS_MAX {
            if !self.host.inbox.take(&mut round.items) {
                return Ok(());
            }
            let mut items = std::mem::take(&mut round.items);
            for item in items.drain(..) {
                let mut next = take_in(item);
                while let Some(now) = next {
                    self.part.load.room().await;
                    next = work(now);
                }
            }
            round.items = items;
        }
        let _ = myself.cast(Wake);
        Ok(())
    }
}

/// A player, at its place, and what it is to handle.
type Next<G> = (Arc<Seat<G>>, Box<Player<G>>, Run);

/// Leaves it to the host.
fn hand_on<G: GenServer>(next: Next<G>) {
    let host = Arc::clone(&next.0.host);
    host.inbox.push(Item::Next(next));
}

/// Takes an item in; what is to be handled now, if that is something.
fn take_in<G: GenServer>(item: Item<G>) -> Option<Next<G>> {
    match item {
        Item::Run(seat, run) => seat.admit(run),
        Item::Next((seat, player, run)) => seat.go_on(player, run),
        Item::Stop(seat) => {
            seat.vacate();
            None
        }
        Item::Kill(seat) => {
            if seat.vacate() {
                seat.tell_end();
            }
            None
        }
    }
}

/// Handles a request as far as it goes without waiting, the rest is a task of its own; what is next.
fn work<G: GenServer>((seat, player, run): Next<G>) -> Option<Next<G>> {
    let mut work = serve(player, run.request().clone());
    match work.as_mut().now_or_never() {
        Some((player, served)) => seat.settle(player, run, served).1,
        None => {
            seat.go_on_as_task(work, run);
            None
        }
    }
}

/// A player at work on a request: boxed, so that it can move to a task when it has begun.
fn serve<G: GenServer>(
    mut player: Box<Player<G>>,
    request: Request,
) -> Pin<Box<impl Future<Output = (Box<Player<G>>, Served)> + Send>> {
    Box::pin(async move {
        let served = player.serve(&request).await;
        (player, served)
    })
}

impl<G: GenServer> Seat<G> {
    /// The player is ready, and the client has it handle the request. Others may ask meanwhile: they do not wait for this
    /// client, nor it for them.
    fn ask_now(self: Arc<Self>, player: Box<Player<G>>, mut direct: Direct) -> Option<Waiting> {
        let mut work = serve(player, direct.request().clone());
        match work.as_mut().now_or_never() {
            Some((player, served)) => {
                let (waiting, next) = self.settle(player, Run::Direct(direct), served);
                if let Some(next) = next {
                    hand_on(next);
                }
                waiting
            }
            None => {
                let Some((_, answer)) = direct.wait_begun() else {
                    discard(work);
                    return None;
                };
                self.go_on_as_task(work, Run::Direct(direct));
                Some(Waiting::Later(answer))
            }
        }
    }

    /// The player waits in its handler.
    fn go_on_as_task(
        self: Arc<Self>,
        work: Pin<Box<impl Future<Output = (Box<Player<G>>, Served)> + Send + 'static>>,
        run: Run,
    ) {
        // Locked until its task is known, whatever that has done by then.
        let mut taken = lock(&self.taken);
        let Taken::Away { task, .. } = &mut *taken else {
            drop(taken);
            return discard(work);
        };
        let at_work = Arc::clone(&self);
        let running = tokio::spawn(async move {
            let (player, served) = work.await;
            if let (_, Some(next)) = at_work.settle(player, run, served) {
                hand_on(next);
            }
        });
        *task = Some(running.abort_handle());
    }

    /// The player, if it is ready for a request: it is at work then.
    fn take(&self) -> Option<Box<Player<G>>> {
        lock(&self.taken).take()
    }

    /// A request arrives: the player, if it is ready for it.
    fn admit(self: Arc<Self>, run: Run) -> Option<Next<G>> {
        let mut taken = lock(&self.taken);
        let player = match &mut *taken {
            Taken::Away { queue, .. } => {
                queue.push_back(run);
                return None;
            }
            // The request is dropped, which says so to whoever gave it.
            Taken::Gone => return None,
            here @ Taken::Here(_) => here.take()?,
        };
        drop(taken);
        Some((self, player, run))
    }

    /// The next request, unless the player was ended meanwhile; then the request is dropped as well.
    fn go_on(self: Arc<Self>, player: Box<Player<G>>, run: Run) -> Option<Next<G>> {
        let goes_on = matches!(&*lock(&self.taken), Taken::Away { .. });
        if goes_on {
            return Some((self, player, run));
        }
        discard(player);
        None
    }

    /// A request was handled: what it came to is told, before that of any later one can be (see [`Gate::tell`]), and the
    /// player takes the next if there is one.
    fn settle(
        self: Arc<Self>,
        player: Box<Player<G>>,
        run: Run,
        served: Served,
    ) -> (Option<Waiting>, Option<Next<G>>) {
        let Served { ran, ver, crash } = served;
        let waiting = self.gate.tell(run, ran, ver);
        (waiting, self.free(player, crash.is_some()))
    }

    /// The player is ready for the next request, or has crashed.
    fn free(self: Arc<Self>, player: Box<Player<G>>, crashed: bool) -> Option<Next<G>> {
        let mut taken = lock(&self.taken);
        match &mut *taken {
            Taken::Away { task, queue } if !crashed => {
                *task = None;
                if let Some(run) = queue.pop_front() {
                    drop(taken);
                    return Some((self, player, run));
                }
                *taken = Taken::Here(player);
            }
            Taken::Away { .. } => {
                let away = std::mem::replace(&mut *taken, Taken::Gone);
                drop(taken);
                discard(player);
                self.tell_end();
                // What waited behind it is for its successor.
                drop(away);
            }
            // It was ended meanwhile.
            Taken::Here(_) | Taken::Gone => {
                drop(taken);
                discard(player);
            }
        }
        None
    }

    /// The part hears that the player crashed, or was killed.
    fn tell_end(&self) {
        let gate = Arc::clone(&self.gate);
        self.gate.part.inbox.push(driver::Item::Ended { gate });
    }

    /// Ends the player, whatever it is at; false if it has ended before.
    fn vacate(&self) -> bool {
        // Not locked while what it was dropped.
        let before = std::mem::replace(&mut *lock(&self.taken), Taken::Gone);
        match before {
            Taken::Here(player) => discard(player),
            Taken::Away { task, .. } => {
                if let Some(task) = task {
                    task.abort();
                }
            }
            Taken::Gone => return false,
        }
        true
    }
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;
