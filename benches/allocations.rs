//! Allocations per reward: the systems of the bench `cluster`, with an allocator that counts.
//!
//! Counting costs time, since all threads count in the same place: the rates are not those of the product.
//!
//! `cargo bench --bench allocations [-- --json] [--seconds N] [--repeat N] [--in-flight N,N]`

#[path = "cluster/drive.rs"]
mod drive;
#[path = "cluster/naive.rs"]
mod naive;
#[path = "cluster/node.rs"]
mod node;
#[path = "cluster/report.rs"]
mod report;
#[allow(dead_code, reason = "the other benches use more of it")]
mod support;
#[path = "cluster/system.rs"]
mod system;

use std::alloc::System;
use std::process::ExitCode;

use stats_alloc::StatsAlloc;

#[global_allocator]
static ALLOCATOR: StatsAlloc<System> = StatsAlloc::system();

fn main() -> ExitCode {
    support::main(drive::play, drive::drive)
}

/// How many there were so far.
fn allocations() -> String {
    let stats = ALLOCATOR.stats();
    (stats.allocations + stats.reallocations).to_string()
}
