//! Many players in one actor: that of their server type and part. They cost no mailbox and no task each, and a round
//! handles what all of them were asked meanwhile.
//!
//! ```text
//!   client or part ──▶ Inbox ──▶ Host ── handle_call, up to its first wait ──▶ outcomes of the round ──▶ part
//!                        ▲         └─ it waits: goes on as a task of its own ─┐
//!                        └────────────────────────────────────────────────────┘
//! ```
//!
//! A player here is as much alone as with an actor of its own: a panic ends it and no other, and while one waits in its
//! handler the others go on. What they share is a thread: a handler that computes long, or blocks, holds up the others.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use tokio::task::AbortHandle;

use crate::gen_server::GenServer;
use crate::net::lock;

use super::contain::discard;
use super::inbox::{Inbox, Wake};
use super::part::{Gate, Part};
use super::player::{Player, Run, Served};
use super::shard::{self, ROUNDS_MAX};

/// A player that shares an actor, whatever its type is.
pub(crate) trait Guest: Send + Sync {
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
}

/// What reaches the actor.
enum Item<G: GenServer> {
    Run(Arc<Seat<G>>, Run),
    /// A player that had to wait has handled its request.
    Back(Arc<Seat<G>>, Box<Player<G>>, Served),
    Stop(Arc<Seat<G>>),
    Kill(Arc<Seat<G>>),
}

/// The place of one player.
struct Seat<G: GenServer> {
    host: Arc<Host<G>>,
    gate: Arc<Gate>,
    /// Looked at by the host alone.
    taken: Mutex<Taken<G>>,
}

enum Taken<G: GenServer> {
    /// Ready for a request.
    Here(Box<Player<G>>),
    /// At work on one.
    Away {
        /// Its task; none while the host itself runs it.
        task: Option<AbortHandle>,
        /// What it was asked meanwhile.
        queue: VecDeque<Run>,
    },
    /// It has ended.
    Gone,
}

impl<G: GenServer> Host<G> {
    /// Starts the actor.
    pub(super) fn start(part: Arc<Part>, supervisor: ActorCell) -> Arc<Self> {
        let host = Arc::new(Self {
            inbox: Inbox::new(),
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
    /// What the part is to hear.
    outcomes: Vec<shard::Item>,
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
        Ok(Round {
            items: Vec::new(),
            outcomes: Vec::new(),
        })
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
                let mut next = take_in(item, &mut round.outcomes);
                while let Some((seat, player, run)) = next {
                    if !self.part.load.has_room() {
                        self.part.inbox.push_all(&mut round.outcomes);
                        self.part.load.room().await;
                    }
                    next = seat.work(player, run, &mut round.outcomes);
                }
            }
            round.items = items;
            self.part.inbox.push_all(&mut round.outcomes);
        }
        let _ = myself.cast(Wake);
        Ok(())
    }
}

/// A player, at its place, and what it is to handle.
type Next<G> = (Arc<Seat<G>>, Box<Player<G>>, Run);

/// Takes an item in; what is to be handled now, if that is something.
fn take_in<G: GenServer>(item: Item<G>, outcomes: &mut Vec<shard::Item>) -> Option<Next<G>> {
    match item {
        Item::Run(seat, run) => seat.admit(run),
        Item::Back(seat, player, served) => seat.settle(player, served, outcomes),
        Item::Stop(seat) => {
            seat.vacate();
            None
        }
        Item::Kill(seat) => {
            if seat.vacate() {
                outcomes.push(seat.ended());
            }
            None
        }
    }
}

impl<G: GenServer> Seat<G> {
    /// A request arrives: the player, if it is ready for it.
    fn admit(self: Arc<Self>, run: Run) -> Option<Next<G>> {
        let mut taken = lock(&self.taken);
        match &mut *taken {
            Taken::Away { queue, .. } => {
                queue.push_back(run);
                None
            }
            // The request is dropped, which says so to whoever gave it.
            Taken::Gone => None,
            Taken::Here(_) => {
                let away = Taken::Away {
                    task: None,
                    queue: VecDeque::new(),
                };
                let Taken::Here(player) = std::mem::replace(&mut *taken, away) else {
                    unreachable!("it was here a moment ago");
                };
                drop(taken);
                Some((self, player, run))
            }
        }
    }

    /// Handles a request as far as it goes without waiting, the rest is a task of its own; what is next.
    fn work(
        self: Arc<Self>,
        mut player: Box<Player<G>>,
        run: Run,
        outcomes: &mut Vec<shard::Item>,
    ) -> Option<Next<G>> {
        // Boxed, so that it can move to a task when it has begun.
        let mut work = Box::pin(async move {
            let served = player.serve(run).await;
            (player, served)
        });
        if let Some((player, served)) = work.as_mut().now_or_never() {
            return self.settle(player, served, outcomes);
        }
        let seat = Arc::clone(&self);
        let running = tokio::spawn(async move {
            let (player, served) = work.await;
            let host = Arc::clone(&seat.host);
            host.inbox.push(Item::Back(seat, player, served));
        });
        if let Taken::Away { task, .. } = &mut *lock(&self.taken) {
            *task = Some(running.abort_handle());
        }
        None
    }

    /// A request was handled: what it came to goes to the part, and the player takes the next if there is one.
    fn settle(
        self: Arc<Self>,
        player: Box<Player<G>>,
        served: Served,
        outcomes: &mut Vec<shard::Item>,
    ) -> Option<Next<G>> {
        outcomes.extend(served.item);
        let mut taken = lock(&self.taken);
        let Taken::Away { task, queue } = &mut *taken else {
            // It was ended meanwhile.
            discard(player);
            return None;
        };
        if served.crash.is_some() {
            *taken = Taken::Gone;
            drop(taken);
            discard(player);
            outcomes.push(self.ended());
            return None;
        }
        *task = None;
        if let Some(run) = queue.pop_front() {
            drop(taken);
            return Some((self, player, run));
        }
        *taken = Taken::Here(player);
        None
    }

    /// What the part hears of a player that crashed, or was killed.
    fn ended(&self) -> shard::Item {
        let gate = Arc::clone(&self.gate);
        shard::Item::Ended { gate }
    }

    /// Ends the player, whatever it is at; false if it has ended before.
    fn vacate(&self) -> bool {
        match std::mem::replace(&mut *lock(&self.taken), Taken::Gone) {
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
