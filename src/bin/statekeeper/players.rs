//! The player, the program's one server type, and the `interface` to it: what the Erlang original offered in
//! its module of that name. Nothing here but the library's public API.

use std::fmt;
use std::num::IntErrorKind;

use serde::{Deserialize, Serialize};
use statekeeper::protocol::types::RequestId;
use statekeeper::{CallError, GenServer, LocalServer, Node, Whereis};

/// The server type: every player is one actor of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Player;

/// What a player owns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct State {
    /// The sum of all its rewards.
    pub(crate) points: i64,
}

/// What a player can be asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Call {
    /// Add that many points. The amount travels as it was typed, so that a bad one meets the actor, and
    /// crashes it there instead of being caught on the way.
    Reward(String),
}

/// Why a player does not take a reward. Its points did not change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Refused {
    /// The amount is a number, but too large a one.
    OutOfRange,
    /// The sum would be too large.
    Overflow {
        /// The points that the player keeps.
        points: i64,
    },
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange => {
                write!(
                    f,
                    "amount out of range: give one between {} and {}",
                    i64::MIN,
                    i64::MAX
                )
            }
            Self::Overflow { points } => {
                write!(
                    f,
                    "the total would be out of range: it stays {points}; give a smaller amount"
                )
            }
        }
    }
}

impl GenServer for Player {
    const NAME: &'static str = "player";
    type State = State;
    type Call = Call;
    type Reply = Result<i64, Refused>;

    fn init(&self, _key: &str) -> State {
        State::default()
    }

    async fn handle_call(&self, _key: &str, call: Call, state: &mut State) -> Self::Reply {
        match call {
            Call::Reward(amount) => reward(state, &amount),
        }
    }
}

/// Adds the amount, or refuses it with the state unchanged.
///
/// # Panics
/// If the amount is no integer: let it crash, as `0 + a` does in Erlang.
fn reward(state: &mut State, amount: &str) -> Result<i64, Refused> {
    let points = state.points;
    let amount = match amount.parse::<i64>() {
        Ok(amount) => amount,
        Err(error) => match error.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => {
                return Err(Refused::OutOfRange);
            }
            // The kinds may grow; whatever is no integer is a bad argument.
            _ => panic!("bad argument in an arithmetic expression: {points} + {amount}"),
        },
    };
    state.points = points
        .checked_add(amount)
        .ok_or(Refused::Overflow { points })?;
    Ok(state.points)
}

/// Adds to a player's points, wherever it is, and creates it here if nobody has it. The new total. Asked again with
/// the same id, also on another node, it is carried out once.
pub(crate) async fn reward_player(
    node: &Node,
    player: &str,
    amount: &str,
    id: Option<RequestId>,
) -> Result<Result<i64, Refused>, CallError> {
    let call = Call::Reward(amount.to_owned());
    match id {
        Some(id) => node.call_once::<Player>(id, player, call).await,
        None => node.call::<Player>(player, call).await,
    }
}

/// The players that live on this node, sorted by name.
pub(crate) async fn local_players(node: &Node) -> Result<Vec<LocalServer<State>>, CallError> {
    node.local::<Player>().await
}

/// Where a player and its keepers are; none if there is no such player.
pub(crate) async fn whereis(node: &Node, player: &str) -> Result<Option<Whereis>, CallError> {
    node.whereis::<Player>(player).await
}

/// Kills a player's actor if it lives on this node, to watch the restart; false if it does not.
pub(crate) async fn kill(node: &Node, player: &str) -> Result<bool, CallError> {
    node.kill::<Player>(player).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewarded(points: i64, amount: &str) -> (Result<i64, Refused>, i64) {
        let mut state = State { points };
        let reply = reward(&mut state, amount);
        (reply, state.points)
    }

    #[test]
    fn a_reward_adds_to_the_points() {
        assert_eq!(rewarded(0, "5"), (Ok(5), 5));
        assert_eq!(rewarded(5, "-7"), (Ok(-2), -2));
        assert_eq!(rewarded(0, "9223372036854775807"), (Ok(i64::MAX), i64::MAX));
    }

    #[test]
    fn a_total_that_would_overflow_is_refused_and_unchanged() {
        assert_eq!(
            rewarded(i64::MAX, "1"),
            (Err(Refused::Overflow { points: i64::MAX }), i64::MAX)
        );
        assert_eq!(
            rewarded(i64::MIN, "-1"),
            (Err(Refused::Overflow { points: i64::MIN }), i64::MIN)
        );
    }

    #[test]
    fn an_amount_beyond_i64_is_refused() {
        assert_eq!(
            rewarded(3, "99999999999999999999"),
            (Err(Refused::OutOfRange), 3)
        );
        assert_eq!(
            rewarded(3, "-99999999999999999999"),
            (Err(Refused::OutOfRange), 3)
        );
    }

    #[test]
    #[should_panic(expected = "bad argument in an arithmetic expression: 5 + a")]
    fn an_amount_that_is_no_integer_crashes_the_actor() {
        let _ = rewarded(5, "a");
    }
}
