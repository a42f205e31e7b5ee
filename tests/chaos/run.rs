//! One run: a cluster, clients, faults from a seed, and the judgement.
//!
//! ```text
//!   seed ─► faults ─────► Fleet: processes on machines of their own
//!      └──► clients ───────┘ ▲
//!              │     witness ┘      calls, sights, logs ─► judgement ─► Report
//!              └────────┴──────────────────▲
//! ```

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::clients::{Clients, Wrong};
use super::dice::Dice;
use super::faults::Fault;
use super::fleet::{Fleet, Plan};
use super::history::{self, Call, Loss, Outcome};
use super::witness::Witness;

/// Between two faults, in milliseconds: time for calls on a cluster that is whole.
const CALM_MS: (u64, u64) = (600, 1_500);

/// What shall be run.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// Its name in reports.
    pub(crate) name: &'static str,
    pub(crate) seed: u64,
    pub(crate) plan: Plan,
    pub(crate) clients: usize,
    /// No new fault after that long.
    pub(crate) length: Duration,
    /// What may happen.
    pub(crate) faults: Vec<Fault>,
    /// More may be lost at once than there are backups, as long as the nodes say so.
    pub(crate) may_lose: bool,
    /// Judge after every fault, and end with the first contradiction.
    pub(crate) impatient: bool,
}

/// What came of it.
pub(crate) struct Report {
    setup: Setup,
    events: Vec<(Duration, String)>,
    calls: Vec<Call>,
    sights: (usize, usize),
    losses: Vec<Loss>,
    /// Empty if all is well.
    pub(crate) findings: Vec<String>,
    /// Where the logs of the nodes were kept.
    kept: Option<PathBuf>,
}

impl Setup {
    /// Runs it.
    ///
    /// # Errors
    /// Where there can be no machines: the reason.
    pub(crate) fn run(self) -> Result<Report, String> {
        let fleet = Fleet::new(&self.plan)?;
        let clients = Clients::new(&fleet);
        let mut witness = Witness::default();
        let mut losses = Vec::new();
        let mut dice = Dice::new(self.seed);
        let mut findings = Vec::new();
        if let Err(failure) = fleet.boot() {
            findings.push(failure);
        } else {
            let stop = AtomicBool::new(false);
            let (fleet, clients, witness, stop) = (&fleet, &clients, &mut witness, &stop);
            thread::scope(|scope| {
                // Also when a fault cannot be made: the scope waits for the clients.
                let _ending = Ending(clients, stop);
                for client in 0..self.clients {
                    let dice = Dice::new(dice.roll());
                    scope.spawn(move || clients.run(client, dice));
                }
                let dice_of_witness = Dice::new(dice.roll());
                scope.spawn(move || witness.watch(fleet, clients, dice_of_witness, stop));
                let failed = self.disturb(fleet, clients, &mut dice, &mut losses);
                findings.extend(failed.err());
            });
        }
        witness.look_for_losses(&fleet);
        witness.read_logs(&fleet);
        let mut calls = clients.calls();
        let losses = witness.confirm(losses);
        if findings.is_empty() {
            findings.extend(last_reads(&fleet, &mut calls, losses.is_empty()).err());
        }
        findings.extend(judge(&calls, &losses, &clients.wrong()));
        findings.append(&mut witness.findings);
        if !self.may_lose {
            let said = witness
                .losses
                .keys()
                .map(|said| format!("no more was lost than the backups can bear, and yet: {said}"));
            findings.extend(said);
        }
        let events = fleet.events();
        let mut report = Report {
            sights: (witness.seen, witness.placed),
            kept: None,
            setup: self,
            events,
            calls,
            losses,
            findings,
        };
        if !report.findings.is_empty() {
            report.keep(&fleet);
        }
        Ok(report)
    }

    /// One fault after the other. Each is repaired, and the cluster whole, before the next one.
    fn disturb(
        &self,
        fleet: &Fleet,
        clients: &Clients<'_>,
        dice: &mut Dice,
        losses: &mut Vec<Loss>,
    ) -> Result<(), String> {
        calm(dice);
        // All kinds in a random order, then again.
        let mut due: Vec<Fault> = Vec::new();
        while fleet.now() < self.length {
            if due.is_empty() {
                due.clone_from(&self.faults);
            }
            let fault = due.swap_remove(dice.between(0, due.len() as u64) as usize);
            let from = fleet.now();
            let done = fault.apply(fleet, dice);
            if fault.costs(fleet.running().len()) > self.plan.backups {
                let until = fleet.now();
                losses.push(Loss { from, until });
            }
            done?;
            calm(dice);
            clients.settled();
            if self.impatient && judge(&clients.calls(), losses, &clients.wrong()).is_some() {
                break;
            }
        }
        Ok(())
    }
}

/// Dropped, it sends the clients and the witness home.
struct Ending<'a>(&'a Clients<'a>, &'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.stop();
        self.1.store(true, Ordering::Relaxed);
    }
}

/// Reads every player at rest, at every node; the reads are calls like any other.
fn last_reads(fleet: &Fleet, calls: &mut Vec<Call>, nothing_lost: bool) -> Result<(), String> {
    for (player, sum) in history::sums(calls) {
        for node in fleet.nodes() {
            let (name, invoked) = (node.name(), fleet.now());
            let answer = node.ask(&format!("reward_player {player} 0"));
            let answer = answer.unwrap_or_default().join(" / ");
            let Ok(total) = answer.parse::<i64>() else {
                return Err(format!("at rest, {name} says of {player}: {answer}"));
            };
            if nothing_lost {
                sum.check(&player, total)?;
            }
            let returned = fleet.now();
            calls.push(Call {
                id: None,
                client: 0,
                player: player.clone(),
                amount: 0,
                invoked,
                returned,
                settled: returned,
                tries: vec![(name.to_owned(), answer)],
                outcome: Outcome::Total(total),
            });
        }
    }
    Ok(())
}

fn calm(dice: &mut Dice) {
    thread::sleep(Duration::from_millis(dice.between(CALM_MS.0, CALM_MS.1)));
}

/// The first contradiction.
fn judge(calls: &[Call], losses: &[Loss], wrong: &[Wrong]) -> Option<String> {
    // With a player its memory of ids may be lost.
    let excused = |wrong: &&Wrong| {
        let meets = |loss: &Loss| wrong.from <= loss.until && loss.from <= wrong.until;
        !losses.iter().any(meets)
    };
    let wrong = wrong.iter().find(excused).map(|wrong| wrong.what.clone());
    wrong.or_else(|| history::judge(calls, losses))
}

impl Report {
    /// Keeps what the nodes logged and all calls.
    fn keep(&mut self, fleet: &Fleet) {
        let name = format!("{}-{}", self.setup.name, self.setup.seed);
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join("chaos")
            .join(name);
        let logs = fs::read_dir(fleet.sandbox.path("log")).expect("the logs");
        fs::create_dir_all(&dir).expect("a directory to keep logs in");
        for log in logs.flatten() {
            let to = dir.join(log.file_name()).with_extension("log");
            fs::copy(log.path(), to).expect("a log to keep");
        }
        let mut calls = self.calls.clone();
        calls.sort_by_key(|call| call.invoked);
        let calls: String = calls.iter().map(|call| format!("{call}\n")).collect();
        fs::write(dir.join("calls.txt"), calls).expect("the calls to keep");
        fs::write(dir.join("report.txt"), self.to_string()).expect("the report to keep");
        self.kept = Some(dir);
    }

    fn count(&self, outcome: fn(&Outcome) -> bool) -> usize {
        self.calls
            .iter()
            .filter(|call| outcome(&call.outcome))
            .count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let setup = &self.setup;
        let faults = self
            .events
            .iter()
            .filter(|(_, what)| what.starts_with("fault "))
            .count();
        let length = self.events.last().map_or(Duration::ZERO, |(at, _)| *at);
        let planted = setup.plan.defect.as_ref();
        let planted = planted.map_or(String::new(), |defect| format!("{defect} planted, "));
        writeln!(
            f,
            "chaos {}: {planted}seed {}, {} nodes, {} backups, {} clients, {:.0} s, {faults} faults",
            setup.name,
            setup.seed,
            setup.plan.nodes,
            setup.plan.backups,
            setup.clients,
            length.as_secs_f64(),
        )?;
        let answered: Vec<&Call> = self
            .calls
            .iter()
            .filter(|call| matches!(call.outcome, Outcome::Total(_)))
            .collect();
        let mut times: Vec<Duration> = answered.iter().map(|c| c.returned).collect();
        times.sort_unstable();
        let stall = times.windows(2).map(|pair| pair[1] - pair[0]).max();
        let longest = answered
            .iter()
            .map(|c| c.returned.saturating_sub(c.invoked))
            .max();
        writeln!(
            f,
            "  {} calls: {} answered, {} refused, {} unknown; longest call {:.2?}, longest stall of all {:.2?}",
            self.calls.len(),
            answered.len(),
            self.count(|outcome| *outcome == Outcome::Refused),
            self.count(|outcome| *outcome == Outcome::Unknown),
            longest.unwrap_or_default(),
            stall.unwrap_or_default(),
        )?;
        let (seen, placed) = self.sights;
        writeln!(
            f,
            "  {seen} players seen at their nodes, {placed} with their keepers; {} losses said",
            self.losses.len()
        )?;
        if self.findings.is_empty() {
            return Ok(());
        }
        writeln!(f, "to have these faults again: {}", setup.command())?;
        for (at, what) in &self.events {
            writeln!(f, "  {:>8.3} s  {what}", at.as_secs_f64())?;
        }
        for finding in &self.findings {
            writeln!(f, "FOUND: {finding}")?;
        }
        if let Some(kept) = &self.kept {
            writeln!(f, "logs and all calls: {}", kept.display())?;
        }
        Ok(())
    }
}

impl Setup {
    /// The command that runs it again.
    fn command(&self) -> String {
        let seconds = self.length.as_secs();
        let planted = self.plan.defect.as_ref();
        let planted = planted.map_or(String::new(), |defect| format!("CHAOS_DEFECT={defect} "));
        format!(
            "{planted}CHAOS_RUN={} CHAOS_SEED={} CHAOS_SECONDS={seconds} cargo test --test chaos -- --exact soak --nocapture",
            self.name, self.seed
        )
    }
}
