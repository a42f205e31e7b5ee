//! Tests with real processes of the built program: what a user does, and what nodes and networks do to him.
//!
//! Every test has its own nodes in its own sandbox (see `support`), so that they run side by side. A failed one shows
//! what its shells were asked last, and the logs of its nodes.
#![cfg(feature = "cli")]

#[path = "../support/mod.rs"]
mod support;

mod failover;
mod forgetting;
mod guardian;
mod leaving;
mod nemesis;
mod partitions;
mod players;
mod refusals;
mod resting;
mod starting;
mod strangers;
mod terminal;
mod transcript;
