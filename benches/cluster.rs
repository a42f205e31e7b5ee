//! Rewards per second, with everything of the protocol on, beside the floor: a call of a local ractor actor per
//! player, without any backup.
//!
//! Three real processes on loopback: the bench runs itself twice more as plain nodes. Clients run in closed loop
//! inside the first node. Paths are interleaved and repeated; the table shows medians. Every total is checked at the
//! end: a lost or doubled reward fails the bench.
//!
//! `cargo bench --bench cluster [-- --json] [--seconds N] [--repeat N]`

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use ractor_cluster::RactorMessage;
use serde::{Deserialize, Serialize};
use statekeeper::config::Config;
use statekeeper::{GenServer, Node};

const PLAYERS: usize = 10_000;
const IN_FLIGHT: [usize; 4] = [1, 64, 1_024, 8_192];
const NODES: [&str; 3] = ["bench_node1", "bench_node2", "bench_node3"];
/// Names the node that a process of this bench is to be.
const ROLE: &str = "STATEKEEPER_BENCH_NODE";

struct Player;

#[derive(Serialize, Deserialize)]
enum Call {
    Reward(i64),
    Points,
}

impl GenServer for Player {
    const NAME: &'static str = "player";
    type State = i64;
    type Call = Call;
    type Reply = i64;

    fn init(&self, _key: &str) -> i64 {
        0
    }

    async fn handle_call(&self, _key: &str, call: Call, points: &mut i64) -> i64 {
        if let Call::Reward(amount) = call {
            *points += amount;
        }
        *points
    }
}

/// The floor: the same player as a plain ractor actor.
struct Plain;

#[derive(RactorMessage)]
struct Reward(i64, RpcReplyPort<i64>);

impl Actor for Plain {
    type Msg = Reward;
    type State = i64;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Reward>, (): ()) -> Result<i64, ActorProcessingErr> {
        Ok(0)
    }

    async fn handle(
        &self,
        _: ActorRef<Reward>,
        Reward(n, port): Reward,
        total: &mut i64,
    ) -> Result<(), ActorProcessingErr> {
        *total += n;
        Ok(port.send(*total)?)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Path {
    /// A local actor, no backup.
    Floor,
    /// Players of this node, one backup each on another node.
    Local,
    /// Players of all nodes, asked on this one: two thirds are forwarded.
    RoundRobin,
    /// Reads of players of this node, under its lease.
    Reads,
}

impl Path {
    const ALL: [Self; 4] = [Self::Floor, Self::Local, Self::RoundRobin, Self::Reads];

    fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor: local actor, no backup",
            Self::Local => "backed up, right node",
            Self::RoundRobin => "backed up, round robin over three nodes",
            Self::Reads => "reads under the lease",
        }
    }
}

/// One measurement.
struct Sample {
    per_s: f64,
    latency_us: Histogram<u64>,
}

struct Bench {
    node: Node,
    plain: Vec<ActorRef<Reward>>,
    /// Players that live on this node, and players that live a third each on the three.
    local: Vec<String>,
    spread: Vec<String>,
    /// How many rewards of 1 each of them got.
    given: BTreeMap<Path, Vec<AtomicU64>>,
}

type Res<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Res<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    match std::env::var(ROLE) {
        Ok(name) => runtime.block_on(serve(&name)),
        Err(_) => runtime.block_on(drive()),
    }
}

fn config(name: &str) -> Config {
    Config {
        call_timeout: Duration::from_secs(60),
        ..Config::new(name)
    }
}

/// A plain node: it prepares the players that are to live on it, and leaves when its standard input ends.
async fn serve(name: &str) -> Res<()> {
    let node = Node::builder(config(name)).register(Player).start().await?;
    println!("up");
    node.wait_for(|view| view.members.len() == NODES.len())
        .await;
    let mine = NODES.iter().position(|n| *n == name).unwrap_or(0);
    for key in keys("spread").iter().skip(mine).step_by(NODES.len()) {
        node.call::<Player>(key, Call::Points).await?;
    }
    println!("ready");
    tokio::task::spawn_blocking(|| std::io::stdin().lines().count()).await?;
    let _ = node.leave().await;
    Ok(())
}

fn keys(kind: &str) -> Vec<String> {
    (0..PLAYERS).map(|i| format!("{kind}{i:010}")).collect()
}

fn start(name: &str) -> Res<(Child, impl Iterator<Item = String> + use<>)> {
    let mut child = Command::new(std::env::current_exe()?)
        .env(ROLE, name)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let out = child.stdout.take().ok_or("no output")?;
    let mut lines = BufReader::new(out).lines().map_while(Result::ok);
    lines.next().ok_or("a node did not start")?;
    Ok((child, lines))
}

async fn drive() -> Res<()> {
    let args: Vec<String> = std::env::args().collect();
    let number = |flag: &str| {
        let at = args.iter().position(|a| a == flag)?;
        args.get(at + 1)?.parse::<u64>().ok()
    };
    let seconds = Duration::from_secs(number("--seconds").unwrap_or(3));
    let repeat = number("--repeat").unwrap_or(3);
    let json = args.iter().any(|a| a == "--json");

    // A cluster of its own: no surprise for the nodes that run here already.
    let dir = tempfile::tempdir()?;
    let home = dir.path().to_owned();
    if std::env::var_os("STATEKEEPER_RUNTIME_DIR").is_none() {
        let status = Command::new(std::env::current_exe()?)
            .args(&args[1..])
            .env("STATEKEEPER_RUNTIME_DIR", home.join("run"))
            .env("HOME", &home)
            .status()?;
        return if status.success() {
            Ok(())
        } else {
            Err("the bench failed".into())
        };
    }

    let node = Node::builder(config(NODES[0]))
        .register(Player)
        .start()
        .await?;
    let (mut second, mut out2) = start(NODES[1])?;
    let (mut third, mut out3) = start(NODES[2])?;
    node.connect(NODES[1]).await?;
    node.connect(NODES[2]).await?;
    for _ in 0..1 {
        out2.next().ok_or("the second node failed")?;
        out3.next().ok_or("the third node failed")?;
    }
    let (local, spread) = (keys("local"), keys("spread"));
    for key in local.iter().chain(spread.iter().step_by(NODES.len())) {
        node.call::<Player>(key, Call::Points).await?;
    }
    let mut plain = Vec::with_capacity(PLAYERS);
    for _ in 0..PLAYERS {
        plain.push(Actor::spawn(None, Plain, ()).await?.0);
    }
    let given = Path::ALL.map(|path| (path, (0..PLAYERS).map(|_| AtomicU64::new(0)).collect()));
    let bench = Arc::new(Bench {
        node,
        plain,
        local,
        spread,
        given: given.into(),
    });

    let mut samples: BTreeMap<(Path, usize), Vec<Sample>> = BTreeMap::new();
    for round in 1..=repeat {
        for in_flight in IN_FLIGHT {
            for path in Path::ALL {
                eprintln!(
                    "round {round} of {repeat}: {}, {in_flight} in flight",
                    path.name()
                );
                let sample = measure(&bench, path, in_flight, seconds).await?;
                samples.entry((path, in_flight)).or_default().push(sample);
            }
        }
    }
    check_totals(&bench).await?;
    report(&samples, json);
    drop((second.stdin.take(), third.stdin.take()));
    second.wait()?;
    third.wait()?;
    let _ = bench.node.leave().await;
    Ok(())
}

async fn measure(bench: &Arc<Bench>, path: Path, in_flight: usize, wait: Duration) -> Res<Sample> {
    let stop = Arc::new(AtomicBool::new(false));
    let start = Instant::now();
    let clients: Vec<_> = (0..in_flight)
        .map(|client| tokio::spawn(client_loop(bench.clone(), path, client, stop.clone())))
        .collect();
    tokio::time::sleep(wait).await;
    stop.store(true, Ordering::Relaxed);
    let mut latency_us = Histogram::new_with_bounds(1, 60_000_000, 3)?;
    for client in clients {
        latency_us.add(client.await??)?;
    }
    let per_s = latency_us.len() as f64 / start.elapsed().as_secs_f64();
    Ok(Sample { per_s, latency_us })
}

async fn client_loop(
    bench: Arc<Bench>,
    path: Path,
    client: usize,
    stop: Arc<AtomicBool>,
) -> Res<Histogram<u64>> {
    let mut latency_us = Histogram::new_with_bounds(1, 60_000_000, 3)?;
    // A prime stride, so that clients do not queue up at one player.
    let mut at = client * 7_919;
    while !stop.load(Ordering::Relaxed) {
        at = (at + 7_919) % PLAYERS;
        let start = Instant::now();
        match path {
            Path::Floor => {
                ractor::call!(bench.plain[at], |port| Reward(1, port))?;
            }
            Path::Local => {
                bench
                    .node
                    .call::<Player>(&bench.local[at], Call::Reward(1))
                    .await?;
            }
            Path::RoundRobin => {
                bench
                    .node
                    .call::<Player>(&bench.spread[at], Call::Reward(1))
                    .await?;
            }
            Path::Reads => {
                bench
                    .node
                    .call::<Player>(&bench.local[at], Call::Points)
                    .await?;
            }
        }
        latency_us.saturating_record(
            u64::try_from(start.elapsed().as_micros())
                .unwrap_or(u64::MAX)
                .max(1),
        );
        bench.given[&path][at].fetch_add(1, Ordering::Relaxed);
    }
    Ok(latency_us)
}

/// Every player has what it was given: no reward lost, none doubled.
async fn check_totals(bench: &Bench) -> Res<()> {
    for (path, keys) in [
        (Path::Local, &bench.local),
        (Path::RoundRobin, &bench.spread),
    ] {
        for (key, given) in keys.iter().zip(&bench.given[&path]) {
            let given = i64::try_from(given.load(Ordering::Relaxed))?;
            let points = bench.node.call::<Player>(key, Call::Points).await?;
            if points != given {
                return Err(format!("{key} has {points} points, and was given {given}").into());
            }
        }
    }
    eprintln!("every total is right");
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn report(samples: &BTreeMap<(Path, usize), Vec<Sample>>, json: bool) {
    let rate = |path, in_flight| {
        median(
            samples
                .get(&(path, in_flight))
                .into_iter()
                .flatten()
                .map(|s| s.per_s)
                .collect(),
        )
    };
    if !json {
        println!(
            "{:<42}{:>9}{:>12}{:>9}{:>9}{:>9}{:>9}",
            "path", "in flight", "per s", "p50 us", "p99 us", "p99.9", "of floor"
        );
    }
    for (&(path, in_flight), runs) in samples {
        let quantile = |q| {
            median(
                runs.iter()
                    .map(|s| s.latency_us.value_at_quantile(q) as f64)
                    .collect(),
            )
        };
        let (p50, p99, p999) = (quantile(0.5), quantile(0.99), quantile(0.999));
        let per_s = rate(path, in_flight);
        let ratio = per_s / rate(Path::Floor, in_flight);
        if json {
            println!(
                "{{\"path\":\"{}\",\"in_flight\":{in_flight},\"rewards_per_s\":{per_s:.0},\"p50_us\":{p50},\"p99_us\":{p99},\"p999_us\":{p999},\"ratio_floor\":{ratio:.3}}}",
                path.name()
            );
        } else {
            println!(
                "{:<42}{in_flight:>9}{per_s:>12.0}{p50:>9}{p99:>9}{p999:>9}{ratio:>9.2}",
                path.name()
            );
        }
    }
}
