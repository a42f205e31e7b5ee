//! The data protocol, model-checked as it runs: the nodes are real `Shard` machines, everything around them is
//! abstract.
//!
//! ```text
//!   view service ──Install──▶ ┌────────────┐ ──Send, Put──▶ net: a set of messages, each
//!   clients ──────Request───▶ │ Shard × 5  │ ◀──Message─── delivered never, late, often,
//!   actor ◀───────Run, Ran──▶ └────────────┘               in any order
//! ```
//!
//! [`net`] holds the vocabulary, [`world`] the state, [`choices`] what can happen, [`machine`] the driver, [`checks`]
//! the invariants; [`tidy`] drops what has no effect any more.

#![allow(unreachable_pub, reason = "modules of one test")]

pub mod checks;
pub mod choices;
pub mod machine;
pub mod net;
pub mod tidy;
pub mod world;
