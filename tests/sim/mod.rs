//! Whole clusters in one process and in virtual time: the real `Members` and `Shard` machines, with a driver,
//! a network, clients and an adversary around them that derive everything from one number.
//!
//! ```text
//!   faults ──crash, cut, pause, leave──▶ ┌──────────── process ────────────┐
//!   clients ──requests───────────────▶   │ Members ⇄ 4 × Shard ⇄ actors    │ ⇄ network ⇄ other processes
//!   invariants ◀──answers, views─────    └─────────────────────────────────┘
//! ```
//!
//! A run has a safety phase, in which faults happen, and a healing phase, after which every key must be served
//! from every node. [`runner`] plays many runs, [`run`] one, as its [`plan`] says. [`cluster`] is the event loop,
//! [`process`] the state of one node, [`membership`] and [`parts`] its driver, [`network`] and [`links`] the connections,
//! [`clients`] the load, [`faults`] the adversary, [`operators`] the humans, [`invariants`] what must hold, [`trace`]
//! what is told of it.

#![allow(unreachable_pub, reason = "modules of one test")]

pub mod clients;
pub mod cluster;
pub mod dice;
pub mod faults;
pub mod invariants;
pub mod links;
pub mod membership;
pub mod network;
pub mod operators;
pub mod parts;
pub mod plan;
pub mod process;
pub mod run;
pub mod runner;
pub mod trace;
