//! The actor of one part of the key space: it has the part driven, and supervises the players that live here.
//!
//! ```text
//!   wake-ups, ends of players ──▶ ShardActor ──┐
//!                                              ├──▶ Driver
//!   few frames of a peer ──▶ who read them ────┤
//!   a client that alone waits ─────────────────┘
//! ```

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use crate::protocol::view::View;

use super::driver::{Driver, Item, TICK};
use super::inbox::Wake;
use super::part::Part;
use super::shared::Shared;

/// The actor.
pub(crate) struct ShardActor {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
}

/// While the actor lives, its part can be driven. Whoever waits for an answer of the part hears of its end.
pub(crate) struct Driven(Arc<Part>);

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Actor for ShardActor {
    type Msg = Wake;
    type State = Driven;
    type Arguments = View;

    async fn pre_start(
        &self,
        myself: ActorRef<Wake>,
        view: View,
    ) -> Result<Driven, ActorProcessingErr> {
        let part = &self.shared.parts[self.index];
        let driver = Driver::new(
            Arc::clone(&self.shared),
            self.index,
            view,
            myself.get_cell(),
        );
        part.begin(driver);
        let driven = Driven(Arc::clone(part));
        let part = Arc::clone(part);
        tokio::spawn(async move {
            let mut every = tokio::time::interval(TICK);
            every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            // Ends with the actor: the inbox of an ended actor has no other holder for long.
            while myself.get_status() < ractor::ActorStatus::Stopping {
                every.tick().await;
                part.inbox.push(Item::Tick);
            }
        });
        Ok(driven)
    }

    async fn handle(
        &self,
        myself: ActorRef<Wake>,
        Wake: Wake,
        Driven(part): &mut Driven,
    ) -> Result<(), ActorProcessingErr> {
        // A wake-up of its own for every round would wake another thread for whoever was just answered. Now and then
        // it takes one, so that supervision and other actors get their turn.
        if part.drive(|driver| driver.is_occupied())? {
            // Everybody: what heals can wait, and a list can.
            tokio::task::yield_now().await;
        } else {
            part.let_others_ask().await;
        }
        let is_done = part.drive(|driver| {
            let is_done = driver.rounds();
            driver.go_on();
            is_done
        })?;
        if !is_done {
            let _ = myself.cast(Wake);
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Wake>,
        event: SupervisionEvent,
        Driven(part): &mut Driven,
    ) -> Result<(), ActorProcessingErr> {
        let (id, abnormal, failed) = match event {
            SupervisionEvent::ActorFailed(cell, reason) => (cell.get_id(), true, Some(reason)),
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                // Not by us, but ractor lets everybody kill an actor.
                let killed = reason.as_deref().is_some_and(|r| r == "killed");
                (cell.get_id(), killed, None)
            }
            SupervisionEvent::ActorStarted(_)
            | SupervisionEvent::ProcessGroupChanged(_)
            | SupervisionEvent::PidLifecycleEvent(_) => return Ok(()),
        };
        let (is_done, was_player) = part.drive(|driver| {
            // What the player handled before it ended is in the inbox, and must not be given to its successor.
            let is_done = !driver.round();
            (is_done, driver.actor_ended(id, abnormal))
        })?;
        if !is_done {
            let _ = myself.cast(Wake);
        }
        match failed {
            // Panics of players do not reach the actor that they share.
            Some(reason) if !was_player => {
                Err(format!("the actor that players share failed: {reason}").into())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "shard_tests.rs"]
mod tests;
