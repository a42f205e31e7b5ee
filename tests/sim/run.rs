//! One run: a cluster forms, faults happen to it, and it heals.

use std::collections::BTreeMap;

use statekeeper::protocol::defect::Planted;
use statekeeper::protocol::members::Status;

use super::cluster::{Cluster, Event};
use super::invariants::Healed;
use super::process::{key, part_of};

/// What happened in a run, and how often.
pub type Counts = BTreeMap<&'static str, u64>;

/// Within that time a cluster forms, heals, and answers, in milliseconds.
const FORM_MAX: u64 = 60_000;
const HEAL_MAX: u64 = 120_000;
const ANSWER_MAX: u64 = 10_000;
/// After that time the operator looks whether a majority is lost.
const RESCUE_AFTER: u64 = 30_000;

/// How a run went wrong.
pub struct Failure {
    pub what: String,
    pub trace: Vec<String>,
}

/// One run.
pub fn run(seed: u64, planted: Planted, traced: bool) -> Result<Counts, Failure> {
    let mut cluster = Cluster::new(seed, planted, traced);
    let end = play(&mut cluster);
    let what = end
        .err()
        .or_else(|| cluster.books.violations.first().cloned());
    match what {
        None => {
            *cluster.counts.entry("runs that may lose").or_default() +=
                u64::from(cluster.books.losses.allowed);
            Ok(cluster.counts)
        }
        Some(what) => Err(Failure {
            what,
            trace: cluster.trace.unwrap_or_default(),
        }),
    }
}

fn play(cluster: &mut Cluster) -> Result<(), String> {
    let plan = cluster.plan.clone();
    cluster.note(|| format!("{plan:?}"));
    cluster.boot(0);
    cluster.books.line = cluster.at(0).map(|first| first.members.view().cluster);
    for place in 1..cluster.plan.nodes {
        cluster.boot(place);
        cluster.run_until(cluster.now + 200);
    }
    wait(cluster, FORM_MAX, "the cluster does not form", is_healed)?;

    for client in 0..cluster.clients.len() {
        cluster.after(10 * client as u64, Event::Client(client));
    }
    cluster.after(500, Event::Fault);
    cluster.network.weather = cluster.plan.weather.clone();
    cluster.run_until(cluster.now + cluster.plan.safety_ms);

    cluster.note_fault(|| "all faults end".to_owned());
    cluster.mend_all();
    // Whoever is paused runs again, and whoever was silent for too long is noticed.
    cluster.run_until(cluster.now + 8_000);
    let rescue_at = cluster.now + RESCUE_AFTER;
    wait(cluster, HEAL_MAX, "the cluster does not heal", |cluster| {
        if cluster.now >= rescue_at {
            cluster.rescue();
        }
        is_healed(cluster)
    })?;
    cluster.clients.stopped = true;
    wait(
        cluster,
        HEAL_MAX,
        "some client is never answered",
        |cluster| cluster.clients.are_idle(),
    )?;
    probe(cluster)
}

/// Lets time pass until the condition holds.
fn wait(
    cluster: &mut Cluster,
    most: u64,
    what: &str,
    mut until: impl FnMut(&mut Cluster) -> bool,
) -> Result<(), String> {
    let end = cluster.now + most;
    while !until(cluster) {
        cluster.run_until(cluster.now + 100);
        if let Some(violation) = cluster.books.violations.first() {
            return Err(violation.clone());
        }
        if cluster.now >= end {
            return Err(format!("{what} in {most} ms: {}", picture(cluster)));
        }
    }
    Ok(())
}

fn picture(cluster: &Cluster) -> String {
    let nodes = cluster.processes.values().map(|p| {
        let view = p.members.view();
        let names: Vec<String> = view.ids().map(|id| id.to_string()).collect();
        let parts: Vec<String> = p
            .parts
            .iter()
            .map(|s| format!("{}{}", s.epoch(), if s.is_complete() { "+" } else { "-" }))
            .collect();
        format!(
            "\n  {} {:?} {} {} {names:?} {parts:?}",
            p.id(),
            p.members.status(p.clock(cluster.now)),
            view.cluster,
            view.epoch
        )
    });
    nodes.collect()
}

/// All processes are in one view, which has nobody else, and its copies are in place.
fn is_healed(cluster: &mut Cluster) -> bool {
    let now = cluster.now;
    let Some(view) = cluster
        .processes
        .values()
        .next()
        .map(|p| p.members.view().clone())
    else {
        return false;
    };
    view.members.len() == cluster.processes.len()
        && view.members.len() > 1
        && cluster.processes.values().all(|p| {
            *p.members.view() == view
                && p.members.status(p.clock(now)) == Status::Serving
                && p.is_whole()
        })
}

/// Every key is served from every node, with everything that was acknowledged, and has its copies.
fn probe(cluster: &mut Cluster) -> Result<(), String> {
    let processes: Vec<u64> = cluster.processes.keys().copied().collect();
    let mut healed = Healed::new(cluster.plan.keys, &processes);
    let end = cluster.now + ANSWER_MAX;
    while !healed.missing.is_empty() {
        if cluster.now >= end {
            let missing = &healed.missing;
            return Err(format!(
                "I4: not served (key, process): {missing:?}: {}",
                picture(cluster)
            ));
        }
        let asked: Vec<_> = healed
            .missing
            .iter()
            .map(|(at, process)| (*at, *process, cluster.probe(*process, *at)))
            .collect();
        cluster.run_until(cluster.now + 1_000);
        for (at, process, token) in asked {
            if let Some(counted) = cluster.clients.probes.remove(&token).flatten() {
                healed.read(at, process, counted)?;
            }
        }
    }
    for (at, log) in healed.logs() {
        cluster.books.final_log(at, &log);
        let (key, wanted) = (key(at), processes.len().min(cluster.plan.backups + 1));
        let part = part_of(&key);
        let copies = cluster.processes.values().filter(|p| {
            let shard = &p.parts[part];
            shard.owns(&key).is_some() || shard.record(&key).is_some()
        });
        Healed::copies(at, copies.count(), wanted)?;
    }
    Ok(())
}
