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
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef};
use tokio::task::AbortHandle;

use crate::gen_server::GenServer;
use crate::net::lock;
use crate::protocol::shard::Request;

use super::calls::{Refused, Waiting};
use super::contain::discard;
use super::driver::{self, ROUNDS_MAX};
use super::inbox::{Inbox, Wake};
use super::part::{Direct, Gate, Part};
use super::player::{Address, Player, Run, Served, Work};

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
    Run(Arc<Seat<G>>, Run),
    /// A player that has handled a request has the next one.
    Next(Next<G>),
    Kill(Arc<Seat<G>>),
    /// The player whose own actor this is has crashed, or was killed.
    Failed,
}

/// The place of one player.
struct Seat<G: GenServer> {
    host: Arc<Host<G>>,
    gate: Arc<Gate>,
    taken: Mutex<Taken<G>>,
}

enum Taken<G: GenServer> {
    /// Ready for a request.
    Here(Player<G>),
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
    pub(super) fn seat(self: Arc<Self>, player: Player<G>) -> Arc<dyn Address> {
        Arc::new(Seat {
            host: self,
            gate: Arc::clone(player.gate()),
            taken: Mutex::new(Taken::Here(player)),
        })
    }
}

impl<G: GenServer> Address for Seat<G> {
    fn ask(self: Arc<Self>, mut direct: Direct) -> Result<Option<Waiting>, Refused> {
        let runs_here = self.gate.part.may_handle_here();
        if runs_here && let Some(player) = self.take() {
            return Ok(self.ask_now(player, direct));
        }
        let answer = direct.wait()?;
        let run = Run::Direct(direct);
        if runs_here {
            if let Some(next) = self.admit(run) {
                handle(next);
            }
        } else {
            let host = Arc::clone(&self.host);
            host.inbox.push(Item::Run(self, run));
        }
        Ok(Some(Waiting::Later(answer)))
    }

    fn give(self: Arc<Self>, request: Request) -> Option<Work> {
        let next = self.admit(Run::Given(request))?;
        Some(Box::new(move || handle(next)))
    }

    fn stop(&self) {
        self.vacate();
        if let Some(actor) = self.own_actor() {
            actor.stop(None);
        }
    }

    fn kill(self: Arc<Self>) {
        let host = Arc::clone(&self.host);
        host.inbox.push(Item::Kill(self));
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
        self.host.inbox.wake();
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

/// A player, at its place, and what it is to handle.
type Next<G> = (Arc<Seat<G>>, Player<G>, Run);

/// Leaves it to the host.
fn hand_on<G: GenServer>(next: Next<G>) {
    let host = Arc::clone(&next.0.host);
    host.inbox.push(Item::Next(next));
}

/// The player whose own actor this is has ended.
struct Failed;

/// Takes an item in; what is to be handled now, if that is something.
fn take_in<G: GenServer>(item: Item<G>) -> Result<Option<Next<G>>, Failed> {
    match item {
        Item::Run(seat, run) => Ok(seat.admit(run)),
        Item::Next((seat, player, run)) => Ok(seat.go_on(player, run)),
        Item::Kill(seat) => {
            if seat.vacate() {
                seat.tell_end();
            }
            Ok(None)
        }
        Item::Failed => Err(Failed),
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

/// The same; what is next is left to the host.
fn handle<G: GenServer>(next: Next<G>) {
    if let Some(next) = work(next) {
        hand_on(next);
    }
}

/// A player at work on a request: boxed, so that it can move to a task when it has begun.
fn serve<G: GenServer>(
    mut player: Player<G>,
    request: Request,
) -> Pin<Box<impl Future<Output = (Player<G>, Served)> + Send>> {
    Box::pin(async move {
        let served = player.serve(&request).await;
        (player, served)
    })
}

impl<G: GenServer> Seat<G> {
    /// The player is ready, and the client has it handle the request. Others may ask meanwhile: they do not wait for this
    /// client, nor it for them.
    fn ask_now(self: Arc<Self>, player: Player<G>, mut direct: Direct) -> Option<Waiting> {
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
        work: Pin<Box<impl Future<Output = (Player<G>, Served)> + Send + 'static>>,
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
            let part = Arc::clone(&at_work.gate.part);
            if let (_, Some(next)) = at_work.settle(player, run, served) {
                hand_on(next);
            }
            part.inbox.wake();
        });
        *task = Some(running.abort_handle());
    }

    /// The player, if it is ready for a request: it is at work then.
    fn take(&self) -> Option<Player<G>> {
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
    fn go_on(self: Arc<Self>, player: Player<G>, run: Run) -> Option<Next<G>> {
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
        player: Player<G>,
        run: Run,
        served: Served,
    ) -> (Option<Waiting>, Option<Next<G>>) {
        let Served { ran, ver, crashed } = served;
        let waiting = self.gate.tell(run, ran, ver);
        (waiting, self.free(player, crashed))
    }

    /// The player is ready for the next request, or has crashed.
    fn free(self: Arc<Self>, player: Player<G>, crashed: bool) -> Option<Next<G>> {
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

    /// The actor that ends with the player.
    fn own_actor(&self) -> Option<&ActorRef<Wake>> {
        self.host.inbox.actor().filter(|_| self.host.is_own)
    }

    /// The player has crashed, or was killed: its own actor fails, which its supervisor hears of; or the part hears of it.
    fn tell_end(&self) {
        if self.host.is_own {
            return self.host.inbox.push(Item::Failed);
        }
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

impl<G: GenServer> Drop for Seat<G> {
    fn drop(&mut self) {
        // The user's state, whose destructor may panic: not in the hands of whoever is the last to know this place.
        self.vacate();
    }
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;
