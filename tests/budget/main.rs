//! What a reward may cost: allocations, instructions, bytes on the wire. Counts, not seconds, so that a busy machine
//! changes nothing.
//!
//! ```text
//!   allocations   two nodes in processes of their own, whose allocator counts; what they do while nobody asks is
//!                 measured before, and taken off
//!   wire          the same two nodes; rounds in which others used loopback do not count
//!   instructions  an owner's and a keeper's part in one thread, under valgrind
//! ```
//!
//! Batches differ from round to round, and disturbances only add: the best of several rounds counts.
//!
//! A figure above its budget fails. One that fell well below says so: then lower the budget. To record all of them anew,
//! run `cargo test --test budget` and copy what it prints into [`BUDGET`] with a tenth on top. The figures are those of
//! the dev profile.

mod node;
mod parts;
#[path = "../../benches/support/mod.rs"]
#[allow(dead_code, reason = "the benches use more of it")]
mod support;

use std::alloc::System;
use std::io::Write;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use stats_alloc::StatsAlloc;
use support::process::{Process, this, wire_bytes};
use support::timeline::now_us;
use support::{ROLE, Res};

#[global_allocator]
static ALLOCATOR: StatsAlloc<System> = StatsAlloc::system();

/// The most that one reward may cost: what was measured, and a tenth.
struct Budget {
    /// Allocations at the owner's node, which has the client, and at the keeper's: one at a time, and 64 at a time.
    alone_owner: f64,
    alone_keeper: f64,
    many_owner: f64,
    many_keeper: f64,
    /// Bytes on loopback with all headers, both ways, at 1024 at a time.
    wire: f64,
    /// Instructions of the protocol and of the encoding of its messages, at owner and keeper together.
    instructions: f64,
}

const BUDGET: Budget = Budget {
    alone_owner: 6.6,
    alone_keeper: 3.3,
    many_owner: 2.8,
    many_keeper: 0.35,
    wire: 35.0,
    instructions: 12_000.0,
};

/// How many times each is measured.
const ROUNDS: usize = 5;
/// How often a round for the wire is tried, until enough of them were undisturbed.
const TRIES: usize = 30;
/// The share of the bytes of a round that others may have.
const DISTURBED: f64 = 0.02;
/// How long is listened whether others use loopback.
const LISTEN: Duration = Duration::from_millis(100);
/// How long is counted what the nodes do by themselves.
const IDLE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    support::main(play, judge)
}

async fn play(role: String) -> Res<()> {
    match role.split(' ').collect::<Vec<_>>()[..] {
        ["node", name] => node::run(name).await,
        ["parts", rewards] => parts::run(rewards.parse()?),
        _ => Err(format!("no such role: {role}").into()),
    }
}

fn judge() -> Res<()> {
    // As the usual harness does it.
    let filters: Vec<String> = std::env::args().skip(1).collect();
    let filters = || filters.iter().filter(|argument| !argument.starts_with('-'));
    if std::env::args().any(|argument| argument == "--list")
        || filters().next().is_some() && !filters().any(|filter| "budget".contains(filter.as_str()))
    {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let start = |name: &str| {
        let mut command = this(&format!("node {name}"))?;
        command
            .env("STATEKEEPER_RUNTIME_DIR", dir.path().join("run"))
            .env("HOME", dir.path());
        Process::start(command)
    };
    let mut pair = Pair {
        owner: start("owner")?,
        keeper: start("keeper")?,
    };
    pair.owner.order("connect keeper", "connected")?;
    pair.owner.order("prepare", "ready")?;

    let mut judged = Judged::default();
    pair.give(2_000, 64)?;
    let alone = pair.allocations(5_000, 1)?;
    judged.figure(
        "allocations at the owner, one at a time",
        alone.0,
        BUDGET.alone_owner,
    );
    judged.figure(
        "allocations at the keeper, one at a time",
        alone.1,
        BUDGET.alone_keeper,
    );
    let many = pair.allocations(20_000, 64)?;
    judged.figure(
        "allocations at the owner, 64 at a time",
        many.0,
        BUDGET.many_owner,
    );
    judged.figure(
        "allocations at the keeper, 64 at a time",
        many.1,
        BUDGET.many_keeper,
    );
    match pair.wire(20_000, 1_024)? {
        Some(bytes) => judged.figure("bytes on the wire, 1024 at a time", bytes, BUDGET.wire),
        None => judged.skipped("bytes on the wire", "others use loopback all the time"),
    }
    drop(pair);
    match instructions()? {
        Some(each) => judged.figure("instructions of the protocol", each, BUDGET.instructions),
        None => judged.skipped("instructions of the protocol", "no valgrind here"),
    }
    judged.verdict()
}

/// The figures so far, and which of them are too high.
#[derive(Default)]
struct Judged {
    above: Vec<&'static str>,
}

impl Judged {
    fn figure(&mut self, what: &'static str, figure: f64, budget: f64) {
        let verdict = if figure > budget {
            self.above.push(what);
            "ABOVE ITS BUDGET"
        } else if figure < budget * 0.7 {
            "well below: lower the budget"
        } else {
            "within"
        };
        println!("{what:<44}{figure:>10.1} per reward, budget {budget:>10.1}: {verdict}");
    }

    fn skipped(&self, what: &str, reason: &str) {
        let text = format!("\nSKIPPED, {what}: {reason}\n\n");
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    fn verdict(self) -> Res<()> {
        if self.above.is_empty() {
            return Ok(());
        }
        Err(format!(
            "a reward costs more than it may: {}; see BUDGET in tests/budget/main.rs",
            self.above.join(", ")
        )
        .into())
    }
}

/// Two nodes of one cluster. All players live on the first, with the clients.
struct Pair {
    owner: Process,
    keeper: Process,
}

impl Pair {
    fn give(&mut self, rewards: u64, in_flight: usize) -> Res<()> {
        self.owner
            .order(&format!("give {rewards} {in_flight}"), "given")
    }

    fn count(&mut self) -> Res<(f64, f64)> {
        Ok((
            self.owner.ask("allocations")?.parse()?,
            self.keeper.ask("allocations")?.parse()?,
        ))
    }

    /// What each of them allocates per reward, beyond what it does anyway.
    fn allocations(&mut self, rewards: u64, in_flight: usize) -> Res<(f64, f64)> {
        let idle = self.allocated(|_| {
            thread::sleep(IDLE);
            Ok(())
        })?;
        let mut best = (f64::INFINITY, f64::INFINITY);
        for _ in 0..ROUNDS {
            let round = self.allocated(|pair| pair.give(rewards, in_flight))?;
            let share = round.us / idle.us;
            let each = |all: f64, idle: f64| (all - idle * share) / rewards as f64;
            best.0 = best.0.min(each(round.owner, idle.owner));
            best.1 = best.1.min(each(round.keeper, idle.keeper));
        }
        Ok(best)
    }

    fn allocated(&mut self, work: impl FnOnce(&mut Self) -> Res<()>) -> Res<Allocated> {
        let (before, start) = (self.count()?, now_us());
        work(self)?;
        let (after, end) = (self.count()?, now_us());
        Ok(Allocated {
            owner: after.0 - before.0,
            keeper: after.1 - before.1,
            us: (end - start) as f64,
        })
    }

    /// The bytes on loopback per reward; none if others never let it alone.
    fn wire(&mut self, rewards: u64, in_flight: usize) -> Res<Option<f64>> {
        let (mut best, mut rounds) = (None, 0);
        for _ in 0..TRIES {
            let quiet_before = bytes_per_us(|| {
                thread::sleep(LISTEN);
                Ok(())
            })?;
            let before = wire_bytes()?;
            let rate = bytes_per_us(|| self.give(rewards, in_flight))?;
            let each = (wire_bytes()? - before) as f64 / rewards as f64;
            let quiet_after = bytes_per_us(|| {
                thread::sleep(LISTEN);
                Ok(())
            })?;
            if quiet_before.max(quiet_after) > rate * DISTURBED {
                continue;
            }
            best = Some(best.map_or(each, |best: f64| best.min(each)));
            rounds += 1;
            if rounds == ROUNDS {
                break;
            }
        }
        Ok(best)
    }
}

/// Allocations of a time.
struct Allocated {
    owner: f64,
    keeper: f64,
    us: f64,
}

fn bytes_per_us(work: impl FnOnce() -> Res<()>) -> Res<f64> {
    let (before, start) = (wire_bytes()?, now_us());
    work()?;
    Ok((wire_bytes()? - before) as f64 / (now_us() - start).max(1) as f64)
}

/// Instructions per reward, as the difference of a short and a long run; none without valgrind.
fn instructions() -> Res<Option<f64>> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        return Ok(None);
    }
    let (short, long) = (2_000, 6_000);
    let (few, many) = (callgrind(short)?, callgrind(long)?);
    Ok(Some((many - few) / f64::from(long - short)))
}

fn callgrind(rewards: i32) -> Res<f64> {
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .env(ROLE, format!("parts {rewards}"))
        .output()?;
    let said = String::from_utf8_lossy(&run.stderr);
    let collected = said
        .lines()
        .find_map(|line| line.split_once("Collected : ").map(|(_, count)| count));
    let count = collected.ok_or_else(|| format!("valgrind says no count: {said}"))?;
    if !run.status.success() {
        return Err(format!("the parts failed: {said}").into());
    }
    Ok(count.trim().parse()?)
}
