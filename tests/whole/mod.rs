//! The whole protocol of a few nodes, model-checked as it runs: real `Members` and `Shard` machines, coupled as the
//! program couples them; connections, clocks, clients and the adversary are abstract.
//!
//! ```text
//!   adversary ── crash, cut, hold, connect, forget … ──▶ world: one clock, one queue of envelopes
//!                                                          │ to the front one's receiver
//!   clients ──────Request──▶ ┌───────────────────────────┐ ▼
//!   actor ◀───Run, Ran─────▶ │ Shard ◀─Install─ Members  │ × 3 ──▶ envelopes
//!                            │       ──Synced──▶         │
//!                            └───────────────────────────┘
//! ```
//!
//! Every interleaving of whole nodes is too much for any machine. So the schedule has a default (what was sent first
//! arrives first; when nothing is under way a tick passes), and the checker explores every place and every order of a
//! bounded number of deviations from it (Emmi, Qadeer and Rakamaric, "Delay-bounded scheduling", 2011): a connection
//! that is slow for a tick, a crash between any two deliveries, a cut, a command, a request. The interleavings of each
//! machine by itself are explored without such a bound in `model_data.rs`, `model_views.rs` and `model_lease.rs`.

#![allow(unreachable_pub, reason = "modules of one test")]

pub mod books;
pub mod choices;
pub mod driver;
pub mod world;
