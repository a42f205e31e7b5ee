//! How long the players of a lost node are out of reach: real processes, default timings.
//!
//! A trial: three nodes serve; node `a` has twelve players, each asked for just before. Then `a` is lost, and both
//! others are asked for these players at once, one request after the other. What counts is the time from the loss until
//! the last of the twelve was acknowledged a reward. Then `a` comes back, everything is in place again, and the next
//! trial begins. In the end every total is checked.
//!
//! A rolling restart under load: each node in turn leaves, is started again and joins, while clients give rewards
//! through the others, as a load balancer that was told does. What counts: requests that failed, and the longest wait.
//!
//! `cargo bench --bench failover [-- --trials N] [--json]`; the silent cut needs root, for network namespaces.

#[path = "../tests/support/mod.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use support::cluster::Cluster;
use support::load::{self, Outcome};
use support::namespaces::Namespaces;
use support::node::Node;

const NODES: [&str; 3] = ["a", "b", "c"];
const PLAYERS: usize = 12;

/// What happens to node `a`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loss {
    Kill,
    KillUnwitnessed,
    Freeze,
    Cut,
}

impl Loss {
    const ALL: [Self; 4] = [Self::Kill, Self::KillUnwitnessed, Self::Freeze, Self::Cut];

    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9",
            Self::KillUnwitnessed => "kill -9, no guardian",
            Self::Freeze => "SIGSTOP",
            Self::Cut => "cable pulled, nobody is told",
        }
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (mut trials, mut json) = (20, false);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bench" => {} // what cargo passes to every benchmark
            "--json" => json = true,
            "--trials" => {
                let number = arguments.next().and_then(|number| number.parse().ok());
                trials = number.expect("--trials takes a number");
            }
            other => panic!("unknown argument {other}; there are --trials N and --json"),
        }
    }
    if !json {
        println!(
            "{trials} trials each, in milliseconds until all of a lost node's players answer again"
        );
        println!(
            "{:<32} {:>8} {:>8} {:>8}",
            "loss", "median", "worst", "best"
        );
    }
    for loss in Loss::ALL {
        match lose(loss, trials) {
            Ok(times) => report(loss.name(), times, json),
            Err(reason) => println!("{:<32} skipped: {reason}", loss.name()),
        }
    }
    rolling_restart(json);
}

fn report(name: &str, mut times: Vec<Duration>, json: bool) {
    times.sort_unstable();
    let ms = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1_000.0);
    let (median, worst) = (ms(times.get(times.len() / 2)), ms(times.last()));
    let best = ms(times.first());
    if json {
        println!(
            r#"{{"loss":"{name}","trials":{},"median_ms":{median:.1},"worst_ms":{worst:.1},"best_ms":{best:.1}}}"#,
            times.len()
        );
    } else {
        println!("{name:<32} {median:>8.1} {worst:>8.1} {best:>8.1}");
    }
}

/// A cluster, in network namespaces if cables are to be pulled.
fn start(loss: Loss) -> Result<(Option<Namespaces>, Cluster), String> {
    match loss {
        Loss::Kill | Loss::Freeze => Ok((None, Cluster::start(3))),
        Loss::KillUnwitnessed => Ok((None, Cluster::unguarded(3))),
        Loss::Cut => {
            let (machines, cluster) = Cluster::on_machines(&NODES, |spec| spec)?;
            Ok((Some(machines), cluster))
        }
    }
}

fn lose(loss: Loss, trials: usize) -> Result<Vec<Duration>, String> {
    let (machines, cluster) = start(loss)?;
    let mut times = Vec::new();
    for trial in 0..trials {
        let players = load::players(&format!("trial{trial}-"), PLAYERS);
        for player in &players {
            assert_eq!(cluster.node("a").reward(player, 1), "1");
        }
        let lost_at = Instant::now();
        let killed = match loss {
            Loss::Kill | Loss::KillUnwitnessed => Some(cluster.kill9("a")),
            Loss::Freeze => {
                cluster.stop("a");
                None
            }
            Loss::Cut => {
                machines.as_ref().expect("machines").cut("a");
                None
            }
        };
        let (half, rest) = players.split_at(PLAYERS / 2);
        thread::scope(|scope| {
            for (node, players) in [("b", half), ("c", rest)] {
                let node = cluster.node(node);
                scope.spawn(move || reward_all(&node, players));
            }
        });
        times.push(lost_at.elapsed());
        match (loss, killed) {
            (_, Some(killed)) => drop(cluster.restart(&killed)),
            (Loss::Freeze, None) => cluster.cont("a"),
            (_, None) => machines.as_ref().expect("machines").heal("a"),
        }
        cluster.wait_serving();
        for player in &players {
            assert_eq!(cluster.node("a").points(player), 2);
        }
    }
    Ok(times)
}

/// A reward for each player, until it is acknowledged; none is given twice, since none is without an answer.
fn reward_all(node: &Node, players: &[String]) {
    for player in players {
        assert_eq!(node.reward(player, 1), "2", "a reward of {player}");
    }
}

/// Every node leaves, is started again and joins, one after the other.
fn rolling_restart(json: bool) {
    let cluster = Cluster::start(3);
    let players = load::players("player", 100);
    for (number, player) in players.iter().enumerate() {
        cluster.node(NODES[number % 3]).reward(player, 1);
    }
    let in_service: RwLock<Vec<Arc<Node>>> = RwLock::new(cluster.nodes());
    let (stop, failed) = (AtomicBool::new(false), AtomicU64::new(0));
    let (given, longest) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for client in 0..6 {
            let (in_service, players) = (&in_service, &players);
            let (stop, failed, given, longest) = (&stop, &failed, &given, &longest);
            scope.spawn(move || {
                for round in client.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    // Held while it waits: a node is taken out of service first, and leaves when nobody waits.
                    let nodes = in_service.read().expect("no client failed");
                    let reward = load::reward(
                        &nodes[round % nodes.len()],
                        &players[(round * 7 + client) % players.len()],
                        1,
                    );
                    drop(nodes);
                    let waited = reward.answered - reward.asked;
                    longest.fetch_max(
                        u64::try_from(waited.as_micros()).unwrap_or(u64::MAX),
                        Ordering::Relaxed,
                    );
                    match reward.outcome {
                        Outcome::Total(_) => given.fetch_add(1, Ordering::Relaxed),
                        Outcome::Refused(_) | Outcome::Unknown(_) | Outcome::Wrong(_) => {
                            failed.fetch_add(1, Ordering::Relaxed)
                        }
                    };
                }
            });
        }
        for name in NODES {
            let leaver = cluster.take(name);
            *in_service.write().expect("no client failed") = cluster.nodes();
            assert_eq!(leaver.last_words("leave"), "left");
            leaver.wait_for_end();
            cluster.restart(&leaver);
            let other = NODES.iter().find(|other| **other != name).expect("another");
            assert_eq!(cluster.node(name).ask(&format!("connect {other}")), "true");
            cluster.wait_serving();
            *in_service.write().expect("no client failed") = cluster.nodes();
        }
        stop.store(true, Ordering::Relaxed);
    });
    let (failed, given) = (failed.into_inner(), given.into_inner());
    let total: i64 = players
        .iter()
        .map(|player| cluster.node("b").points(player))
        .sum();
    assert!(
        failed > 0 || total == i64::try_from(given).expect("few") + 100,
        "{given} rewards, and {total} points: lost or doubled"
    );
    let longest_ms = longest.into_inner() as f64 / 1_000.0;
    if json {
        println!(
            r#"{{"restart":"rolling, three nodes","requests":{given},"failed":{failed},"longest_ms":{longest_ms:.1}}}"#
        );
    } else {
        println!(
            "\nrolling restart of three nodes under load: {given} requests, {failed} failed, the longest took {longest_ms:.1} ms"
        );
    }
}
