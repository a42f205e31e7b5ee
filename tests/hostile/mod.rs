//! What the hostile loops share.

#[expect(unreachable_pub, reason = "the simulation is public to its own file")]
#[path = "../sim/dice.rs"]
pub(crate) mod dice;
pub(crate) mod members;
pub(crate) mod mutate;
pub(crate) mod parts;
