//! Real processes under real faults, judged by what their clients were told.
//!
//! Nodes of the built program run as separate hosts; concurrent clients call through all of them and ask again
//! elsewhere, under the same id, where no answer comes; processes are killed, frozen, cut off, leave and join, as a
//! seed says. Every answer of every player must fit one order that agrees with the clock (see `linear`).
//!
//! ```text
//!   cargo test --test chaos                                   five minutes, and the planted defects
//!   CHAOS_SECONDS=3600 cargo test --test chaos soak -- --nocapture     one hour; a failure prints its seed
//! ```
#![cfg(feature = "cli")]

#[expect(unreachable_pub, reason = "the simulation shows it to its own crate")]
#[path = "../sim/dice.rs"]
mod dice;
#[expect(dead_code, reason = "the other tests with processes use the rest")]
#[path = "../support/mod.rs"]
mod support;

mod clients;
mod faults;
mod fleet;
mod history;
mod linear;
mod linear_tests;
mod process;
mod run;
mod witness;

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use faults::Fault;
use fleet::Plan;
use run::{Report, Setup};

/// How long all runs of an ordinary test take.
const SECONDS: u64 = 300;
/// How long one run takes.
const RUN_SECONDS: u64 = 60;

/// The kinds of runs, by name.
const RUNS: [&str; 3] = ["three", "five", "double"];

fn setup(name: &str, seed: u64, seconds: u64) -> Setup {
    let singles = Fault::SINGLE.to_vec();
    let all = [&Fault::SINGLE[..], &Fault::DOUBLE[..]].concat();
    let (name, nodes, backups, faults, may_lose) = match name {
        // One backup, and one loss at a time: nothing may be lost.
        "three" => (
            "three",
            3,
            1,
            [&singles[..], &[Fault::Split]].concat(),
            false,
        ),
        // Two backups, up to two losses at a time: nothing may be lost.
        "five" => ("five", 5, 2, all, false),
        // One backup, two losses: lost is only what the nodes say may be.
        "double" => ("double", 5, 1, all, true),
        other => panic!("no run is called '{other}'; there are {RUNS:?}"),
    };
    Setup {
        name,
        seed,
        plan: Plan {
            nodes,
            spares: 1,
            backups,
            patience: Duration::from_secs(90),
            defect: None,
        },
        clients: 12,
        length: Duration::from_secs(seconds),
        faults,
        may_lose,
        impatient: false,
    }
}

impl Setup {
    /// The same with a deliberate defect, until that shows.
    fn plant(mut self, defect: &str) -> Self {
        self.plan.defect = Some(defect.to_owned());
        // What is broken need not heal.
        self.plan.patience = Duration::from_secs(10);
        self.impatient = true;
        self
    }
}

/// Not with a macro: the test runner would keep it to itself.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// The report of a run; none, and said loudly, where there can be no machines.
fn machines(ran: Result<Report, String>) -> Option<Report> {
    match ran {
        Ok(report) => Some(report),
        Err(reason) => {
            let is_root = Path::new("/proc/self")
                .metadata()
                .is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
            assert!(
                !is_root && std::env::var_os("CI").is_none(),
                "root and CI must not skip this: {reason}"
            );
            say(&format!(
                "\nSKIPPED, no network namespaces here (they need root): {reason}\n\n"
            ));
            None
        }
    }
}

fn seed() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock after 1970");
    let random = u64::from(now.subsec_nanos());
    std::env::var("CHAOS_SEED").map_or(random, |seed| seed.parse().expect("a number"))
}

#[test]
fn whatever_happens_no_answer_contradicts_another() {
    if std::env::var_os("CHAOS_SECONDS").is_some() {
        // Somebody wants the soak.
        return;
    }
    runs(Duration::from_secs(SECONDS), RUN_SECONDS, None);
}

/// As long as `CHAOS_SECONDS` says; `CHAOS_SEED`, `CHAOS_RUN` and `CHAOS_DEFECT` ask for one run again.
#[test]
fn soak() {
    let Ok(seconds) = std::env::var("CHAOS_SECONDS") else {
        return;
    };
    let seconds = seconds.parse().expect("a number");
    let name = std::env::var("CHAOS_RUN").ok();
    runs(
        Duration::from_secs(seconds),
        RUN_SECONDS.max(seconds.min(600)),
        name.as_deref(),
    );
}

/// Runs of all kinds, or of one, in turn.
fn runs(length: Duration, run_seconds: u64, only: Option<&str>) {
    let start = Instant::now();
    let first = seed();
    for (number, name) in RUNS.into_iter().cycle().enumerate() {
        let left = length.saturating_sub(start.elapsed()).as_secs();
        if left < 5 {
            return;
        }
        let name = only.unwrap_or(name);
        let seed = first.wrapping_add(number as u64);
        let mut setup = setup(name, seed, left.min(run_seconds));
        if let Ok(defect) = std::env::var("CHAOS_DEFECT") {
            setup = setup.plant(&defect);
        }
        let Some(report) = machines(setup.run()) else {
            return;
        };
        say(&format!("\n{report}"));
        assert!(report.findings.is_empty(), "{}", report.findings[0]);
    }
}

/// What proves that the judgement can fail: nodes with a deliberate defect, which only builds with debug assertions
/// can have.
#[cfg(debug_assertions)]
mod planted {
    use super::*;

    /// Long enough for every one of these, many times over; a run ends when something shows.
    const SECONDS: u64 = 40;
    /// How many seeds are tried. A broken cluster may also just get stuck, which ends a run and proves nothing.
    const SEEDS: u64 = 6;

    #[track_caller]
    fn is_found(defect: &str, nodes: usize, faults: &[Fault]) {
        let start = Instant::now();
        let mut last = None;
        for seed in 1..=SEEDS {
            let mut setup = setup("three", seed, SECONDS).plant(defect);
            setup.plan.nodes = nodes;
            setup.faults = faults.to_vec();
            let Some(report) = machines(setup.run()) else {
                return;
            };
            if let Some(found) = report.findings.iter().find(|finding| is_proof(finding)) {
                let line: String = found
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .chars()
                    .take(100)
                    .collect();
                let after = start.elapsed();
                say(&format!(
                    "\nchaos: {defect} shows with seed {seed} after {after:.0?}: {line}\n"
                ));
                return;
            }
            last = Some(report);
        }
        let last = last.map(|report| report.to_string()).unwrap_or_default();
        panic!("{defect} shows with none of {SEEDS} seeds\n{last}");
    }

    /// That it is slow, or lost too many, proves nothing.
    fn is_proof(finding: &str) -> bool {
        let weak = ["not within", "at rest, ", "no more was lost"];
        !weak.iter().any(|weak| finding.starts_with(weak))
    }

    #[test]
    fn without_a_defect_the_same_faults_show_nothing() {
        let mut setup = setup("three", 1, SECONDS / 2);
        setup.faults = vec![
            Fault::Spreading,
            Fault::Deaf,
            Fault::CutLong,
            Fault::Kill,
            Fault::FreezeShort,
            Fault::Shatter,
        ];
        if let Some(report) = machines(setup.run()) {
            assert!(report.findings.is_empty(), "{report}");
        }
    }

    #[test]
    fn answers_before_the_backup_are_found() {
        is_found("ReplyBeforeAck", 3, &[Fault::CutLong]);
    }

    #[test]
    fn retries_that_are_carried_out_again_are_found() {
        is_found("NoDedup", 3, &[Fault::FreezeShort]);
    }

    #[test]
    fn a_sync_that_waits_for_no_copy_is_found() {
        is_found("DoneWithoutAcks", 3, &[Fault::Deaf, Fault::CutLong]);
    }

    #[test]
    fn two_halves_that_both_go_on_are_found() {
        is_found("Half", 4, &[Fault::Shatter]);
    }
}
