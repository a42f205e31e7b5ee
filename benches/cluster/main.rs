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
//! # What bounds it
//!
//! Profiles of the node with the clients (perf, cpu-clock, 1,024 in flight, one keeper, 2026-11-21): that process has 80 %
//! of the processor time or more. With an actor for each player, the parts' rounds take 36 % of it (8 % the kernel's
//! sending), the players' actors 32 %, the clients 26 %. No function has more than 5 %: the time goes where memory is
//! cold. A reward touches about a dozen cache lines of its player's actor, its slot, its gate and its queues, three
//! times: when it is served, sent and acknowledged, some milliseconds apart, and 10,000 players do not fit into the
//! caches. The floor touches its actor once.
//!
//! In shared actors a player has no mailbox and no task, and a round of the host handles what all were asked meanwhile:
//! that takes a third off the processor time of a reward. What is left: the parts' rounds 47 % (9 % sending), the clients 26 %
//! (of which 6 % are their own clocks and histograms), the hosts 21 %. Half of the gain is that parts and hosts let other
//! clients ask first: tokio runs whom a client wakes at once, which made rounds of one request.
//!
//! What would move the bound next: keepers and waiting answers inside of the slot and acknowledgements that name the slot
//! instead of the key (a reward looks its key up five times at the owner); calls to players of the same node without
//! encoding; one lock for a call's place and its inbox instead of two.
//!
//! One at a time, waking threads bounds it. The chain of an answer in the client's process is reader, part, client,
//! player, part; tokio hands over at most three tasks in a row on one thread, so that the fourth wakes another thread.
//! (Where the cores never sleep, since something else keeps them busy, the median falls from 64 to 23 us.)
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
