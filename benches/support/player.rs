//! The player of the benches, and the same as a plain ractor actor: the floor.

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use ractor_cluster::RactorMessage;
use serde::{Deserialize, Serialize};
use statekeeper::GenServer;

/// A server type, and the same once more under another name, to be hosted in the other way beside it.
pub(crate) struct Points<const GUEST: bool>;

pub(crate) type Player = Points<false>;
pub(crate) type Guest = Points<true>;

#[derive(Serialize, Deserialize)]
pub(crate) enum Call {
    Reward(i64),
    Points,
}

impl<const GUEST: bool> GenServer for Points<GUEST> {
    const NAME: &'static str = if GUEST { "guest" } else { "player" };
    type State = i64;
    type Call = Call;
    type Reply = i64;

    fn init(&self, _key: &str) -> i64 {
        0
    }

    async fn handle_call(&self, _key: &str, call: Call, points: &mut i64) -> i64 {
        if let Call::Reward(amount) = call {
            *points += amount;
        }
        *points
    }
}

/// The floor: the same player as a plain ractor actor.
pub(crate) struct Plain;

#[derive(RactorMessage)]
pub(crate) struct Reward(pub(crate) i64, pub(crate) RpcReplyPort<i64>);

impl Actor for Plain {
    type Msg = Reward;
    type State = i64;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Reward>, (): ()) -> Result<i64, ActorProcessingErr> {
        Ok(0)
    }

    async fn handle(
        &self,
        _: ActorRef<Reward>,
        Reward(n, port): Reward,
        total: &mut i64,
    ) -> Result<(), ActorProcessingErr> {
        *total += n;
        Ok(port.send(*total)?)
    }
}

/// A name of 16 bytes.
pub(crate) fn name(kind: &str, number: usize) -> String {
    format!("{kind}{number:0width$}", width = 16 - kind.len())
}
