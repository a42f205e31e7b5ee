//! The data protocol, model-checked as it runs: the nodes are real `Shard` machines, everything around them is
//! abstract.
//!
//! ```text
//!   view service ──Install──▶ ┌────────────┐ ──Send, Put──▶ net: a set of messages, each
//!   clients ──────Request───▶ │ Shard × 5  │ ◀──Message─── delivered never, late, often,
//!   actor ◀───────Run, Ran──▶ └────────────┘               in any order
//! ```
//!
//! [`net`] holds the vocabulary, [`world`] the state space, [`checks`] the invariants.

#![allow(unreachable_pub, reason = "modules of one test")]

pub mod checks;
pub mod net;
pub mod world;
