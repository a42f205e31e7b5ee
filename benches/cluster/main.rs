//! Rewards per second, with everything of the protocol on, beside what else there is: measured in one run, in turn.
//!
//! ```text
//!   this process ──orders──▶ bench_node1 ⇄ bench_node2, bench_node3     one backup; the clients are in the first
//!               ├──────────▶ pair_node1  ⇄ pair_node2,  pair_node3      the same with two backups
//!               ├──────────▶ naive owner ⇄ naive keepers                ractor_cluster alone
//!               └──────────▶ erl owner   ⇄ erl keepers, twice           plain, and batched by hand; if `erl` is here
//! ```
//!
//! All processes are on loopback; those that are not measured are idle. Clients ask in closed loop. Each figure is a
//! median of the rounds. At the end every total is checked: a lost or doubled reward fails the bench.
//!
//! `alloc` is the allocations of all processes of the path together, per reward. Counting them costs time, so that the
//! bench `allocations` does that, in a short run of its own, when `--allocations` is given.
//!
//! `cpu` is the time of all processes of the path together, `wire` the bytes on loopback in both directions with the
//! headers of TCP and IP, both per reward.
//!
//! `cargo bench --bench cluster [-- --json] [--seconds N] [--repeat N] [--in-flight N,N]
//! [--allocations] [--plot FILE.svg]`

mod drive;
mod naive;
mod node;
mod report;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "the other benches use more of it")]
mod support;
mod system;

use std::process::ExitCode;

/// Many small states and messages, as in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    support::main(drive::play, drive::drive)
}

/// Nobody counts here, since counting costs time.
fn allocations() -> String {
    "-".to_owned()
}
