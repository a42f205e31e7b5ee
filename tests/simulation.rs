//! Whole clusters under faults, in virtual time: see [`sim`].
//!
//! `cargo test --test simulation` runs the first seeds, and those that once failed. A million, on all cores, resumable
//! with `SIM_FROM=` and the number last shown: `SIM_SEEDS=1000000 cargo test --release --test simulation clusters --
//! --nocapture`. One, with everything that happened: `SIM_SEED=17 SIM_TRACE=1000000` instead.

mod sim;

use std::thread;

use sim::run::{Counts, run};
use sim::runner::{number, run_all, tell};

/// How many seeds `cargo test` runs.
const SEEDS: u64 = 10_000;

/// Runs a seed again that failed, this time with a trace; or runs one for the first time with it.
fn replay(seed: u64) -> Counts {
    run(seed, true).unwrap_or_else(|failure| panic!("{}", tell(seed, &failure)))
}

#[test]
fn clusters_lose_nothing_under_faults_and_heal_after_them() {
    if let Some(seed) = number("SIM_SEED") {
        return println!("{:#?}", replay(seed));
    }
    let from = number("SIM_FROM").unwrap_or(1);
    let end = number("SIM_SEEDS").unwrap_or(SEEDS) + 1;
    match run_all(from..end, |seed| run(seed, false)) {
        Ok(total) => println!("{} seeds: {total:#?}", end - from),
        Err((seed, failure)) => {
            replay(seed);
            panic!("seed {seed} fails only without a trace: {}", failure.what);
        }
    }
}

#[test]
fn a_seed_always_gives_the_same_run_on_any_thread() {
    let runs =
        |traced| -> Vec<Counts> { (1..5).filter_map(|seed| run(seed, traced).ok()).collect() };
    let here = runs(false);
    let there = thread::spawn(move || runs(true));
    assert_eq!(here, there.join().expect("it ran"));
    assert_eq!(here.len(), 4);
}
