//! The ractor actors that drive the protocol: one for the membership, one for each part of the key space (its
//! keeper, its replicator, and the supervisor of its players), and one for each player, or for many.

mod acquaintance;
pub(crate) mod calls;
mod contain;
pub(crate) mod driver;
mod hints;
mod host;
mod idle;
pub(crate) mod inbox;
pub(crate) mod lease;
pub(crate) mod listing;
pub(crate) mod load;
pub(crate) mod members;
pub(crate) mod outbox;
mod pace;
pub(crate) mod part;
pub(crate) mod player;
mod resident;
mod seats;
pub(crate) mod shard;
pub(crate) mod shared;
