//! What a cluster costs when it changes: more nodes, more players, a node that joins, one that leaves, one that is
//! killed; always under load.
//!
//! For each number of nodes and of players: the players are made evenly on all nodes, and clients inside of every node
//! give rewards in closed loop, mostly to its own players, one in 16 to any. Then
//!
//! ```text
//!   rate, p99 ──▶ a fresh node joins ──▶ it leaves again ──▶ kill -9 of a node ──▶ all copies are in place again
//! ```
//!
//! `view` is the time until the last node had decided the new view, `heal` that from when the first one had it until the
//! last one had all copies in place, `whole` the time of both together.
//! `moved` are the records that went to another node, `share` their number per player; at a loss, they are those that
//! had been on the lost node, as owner or as keeper. `bytes` is what loopback carried meanwhile, less what the rewards of that time cost
//! before. `rate` is that of meanwhile, as a share of the rate before; `stall` the longest that a client of a node that
//! went on waited, from the change until two seconds after it.
//!
//! In the end: the laws (least squares), and what they say of a hundred nodes.
//!
//! # What bounds healing
//!
//! Both cores are busy, and clients keep about half of them (`src/actors/pace.rs`): so it is processor time. The nodes share
//! the cores, and each works with its share of threads, one at least. With a thread for each core in each node (`--threads 2`)
//! threads of different nodes take the cores from each other, and what one node does passes from core to core: three nodes
//! moved 393,000, 451,000 and 409,000 records a second after a kill, at 54, 46 and 42 % of the rate of rewards, with one
//! thread each 579,000, 543,000 and 572,000 at 66, 57 and 68 % (10,000, 100,000 and 1,000,000 players; medians of four
//! interleaved runs on two cores of a virtual AMD EPYC, 2026-11-30); with a join 264,000, 379,000 and 402,000 at 53, 48 and
//! 48 %, and 316,000, 428,000 and 413,000 at 54, 52 and 52 %. The rate before was the same. (With 14 copies in a frame beside
//! what clients wait for; 12 since.)
//!
//! After a kill with a million players (perf, cpu-clock, three nodes, two threads each) 27 % of the time went to copies: 10
//! to looking at all slots after the view has changed, 8 to taking copies in, 5 to their acknowledgements, the rest to
//! sending them. A look waits for memory: 64 slots are read at once, and each takes 250 ns all the same, most likely since
//! each is in another page, of 4 KiB, and a virtual machine has two tables to look that up in. (Huge pages take a third
//! more memory: see `Cargo.toml`.)
//!
//! With two threads each a fifth of both cores is idle then, whatever is sent, and also when all copies are in place: the
//! two nodes that are left answer each other in turn, and a trace of the scheduler shows both threads of a node on one
//! core, waking each other, while the other core sleeps. Keeping each thread on a core of its own took a fifth of the
//! rewards of three nodes, though. Copies in frames of their own, beside those of clients, a budget of copies for each
//! reward, and frames of 4 KiB instead of 32 for several threads did not move more records for the rewards that they cost.
//!
//! `cargo bench --bench scale [-- --nodes 3,5] [--players 10000,100000] [--in-flight N] [--seconds N] [--threads N] [--json]
//! [--shared] [--plot FILE.svg]`; `--in-flight` and `--threads` are per node; `--shared`: players share actors, so that a
//! million of them fit into one machine.

#[allow(dead_code, reason = "the other benches use more of it")]
mod support;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use serde::Serialize;
use support::Res;
use support::fleet::{Fleet, Mark, Mode};
use support::options::Options;
use support::plot::{self, Chart, Line};
use support::timeline::Window;

/// Many small states and messages, as in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long a stall is looked for after a change.
const AFTERMATH: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    support::main(support::node::play, drive)
}

/// What is measured, and how.
#[derive(Clone, Copy)]
struct Plan {
    nodes: usize,
    players: usize,
    in_flight: usize,
    wait: Duration,
    /// Whether players share actors.
    shared: bool,
    /// How many threads each node works with.
    threads: usize,
}

/// The cluster before anything changes.
#[derive(Clone, Copy, Debug)]
struct Calm {
    per_s: f64,
    /// Of the slowest node.
    p99_us: u64,
    bytes_per_reward: f64,
}

/// A row of the table.
#[derive(Clone, Debug, Serialize)]
struct Row {
    nodes: usize,
    players: usize,
    rewards_per_s: f64,
    p99_us: u64,
    change: &'static str,
    view_ms: f64,
    heal_ms: f64,
    whole_ms: f64,
    moved: u64,
    /// Per player.
    moved_share: f64,
    bytes: f64,
    records_per_s: f64,
    rate_share: f64,
    stall_ms: f64,
    failed: u64,
}

fn drive() -> Res<()> {
    let options = Options::parse(
        &[
            "--nodes",
            "--players",
            "--in-flight",
            "--seconds",
            "--threads",
            "--plot",
        ],
        &["--json", "--shared"],
    )?;
    let nodes = options.list("--nodes", &[3, 5])?;
    let players = options.list("--players", &[10_000, 100_000])?;
    let in_flight = options.value("--in-flight", 64)?;
    let wait = Duration::from_secs(options.value("--seconds", 3)?);
    let processors = thread::available_parallelism()?.get();
    let mut rows: Vec<Row> = Vec::new();
    for nodes in nodes {
        let share = (processors / nodes).max(1);
        for players in &players {
            rows.extend(measure(Plan {
                nodes,
                players: *players,
                in_flight,
                wait,
                shared: options.has("--shared"),
                threads: options.value("--threads", share)?,
            })?);
        }
    }
    if options.has("--json") {
        for row in &rows {
            println!("{}", serde_json::to_string(row)?);
        }
    } else {
        print(&rows);
    }
    if let Some(file) = options.text("--plot") {
        draw(file, &rows)?;
    }
    Ok(())
}

fn measure(plan: Plan) -> Res<Vec<Row>> {
    let Plan { nodes, players, .. } = plan;
    let tell = |what: &str| eprintln!("{nodes} nodes, {players} players: {what}");
    let dir = tempfile::tempdir()?;
    tell("starting");
    let mode = Mode {
        idle_ms: 0,
        shared: plan.shared,
        threads: Some(plan.threads),
    };
    let mut fleet = Fleet::start(dir.path().to_owned(), nodes, mode)?;
    fleet.make(players, 1)?;
    let lost = fleet.nodes[nodes - 1].name.clone();
    let census = fleet.census(&lost)?;
    let held = census[nodes - 1].0 + census.iter().map(|(_, kept)| kept).sum::<u64>();

    tell("rewards");
    fleet.load(plan.in_flight, players)?;
    thread::sleep(Duration::from_secs(1));
    let calm = calm(&mut fleet, plan.wait)?;
    let mut course = Course {
        plan,
        fleet,
        calm,
        rows: Vec::new(),
    };

    tell("a join");
    course.fleet.add()?;
    let from = Mark::now()?;
    course.fleet.join()?;
    course.fleet.wait()?;
    let to = Mark::now()?;
    course.row("join", from, to)?;
    // Only now: to list all players keeps the nodes busy, and clients would wait for that.
    let fresh = &course.fleet.nodes[nodes].name.clone();
    let kept = course.fleet.census(fresh)?;
    let moved = kept.iter().map(|(_, kept)| kept).sum();
    course.moved(moved);

    tell("a leave");
    let from = Mark::now()?;
    let fresh = &mut course.fleet.nodes[nodes].process;
    fresh.order("leave", "left")?;
    course.fleet.nodes.pop();
    course.fleet.wait()?;
    let to = Mark::now()?;
    course.row("leave", from, to)?;
    course.moved(moved);

    tell("a loss");
    let from = Mark::now()?;
    course.fleet.kill9(nodes - 1)?;
    course.fleet.wait()?;
    let to = Mark::now()?;
    course.row("kill -9", from, to)?;
    course.moved(held);

    let (failed, reason) = course.fleet.stop()?;
    if failed > 0 {
        tell(&format!("{failed} requests failed: {reason}"));
    }
    for row in &mut course.rows {
        row.failed = failed;
    }
    Ok(course.rows)
}

fn calm(fleet: &mut Fleet, wait: Duration) -> Res<Calm> {
    fleet.latency()?;
    let from = Mark::now()?;
    thread::sleep(wait);
    let to = Mark::now()?;
    let window = fleet.window(from.us, to.us)?;
    let (_, p99_us) = fleet.latency()?;
    Ok(Calm {
        per_s: per_s(window),
        p99_us,
        bytes_per_reward: (to.wire - from.wire) as f64 / window.answers as f64,
    })
}

fn per_s(window: Window) -> f64 {
    window.answers as f64 * 1e6 / window.us as f64
}

/// One cluster, and what was seen of it so far.
struct Course {
    plan: Plan,
    fleet: Fleet,
    calm: Calm,
    rows: Vec<Row>,
}

impl Course {
    fn row(&mut self, change: &'static str, from: Mark, to: Mark) -> Res<()> {
        thread::sleep(AFTERMATH);
        let Self {
            plan, fleet, calm, ..
        } = self;
        let seen = fleet.change(from.us, fleet.nodes.len())?;
        let meanwhile = fleet.window(from.us, seen.whole_us)?;
        let aftermath = u64::try_from(AFTERMATH.as_micros())?;
        let stall = fleet.window(from.us, seen.whole_us + aftermath)?;
        let rewards = fleet.window(from.us, to.us)?;
        self.rows.push(Row {
            nodes: plan.nodes,
            players: plan.players,
            rewards_per_s: calm.per_s,
            p99_us: calm.p99_us,
            change,
            view_ms: (seen.decided_us - from.us) as f64 / 1e3,
            heal_ms: (seen.whole_us - seen.first_us) as f64 / 1e3,
            whole_ms: (seen.whole_us - from.us) as f64 / 1e3,
            moved: 0,
            moved_share: 0.0,
            bytes: ((to.wire - from.wire) as f64 - rewards.answers as f64 * calm.bytes_per_reward)
                .max(0.0),
            records_per_s: 0.0,
            rate_share: per_s(meanwhile) / calm.per_s,
            stall_ms: stall.worst_us as f64 / 1e3,
            failed: 0,
        });
        Ok(())
    }

    /// So many records went to another node in the last change.
    fn moved(&mut self, moved: u64) {
        if let Some(row) = self.rows.last_mut() {
            row.moved = moved;
            row.moved_share = moved as f64 / row.players as f64;
            row.records_per_s = moved as f64 * 1e3 / row.heal_ms;
        }
    }
}

fn print(rows: &[Row]) {
    println!(
        "\n{:>5}{:>9}{:>11}{:>9}  {:<8}{:>9}{:>9}{:>9}{:>9}{:>7}{:>9}{:>11}{:>7}{:>10}{:>8}",
        "nodes",
        "players",
        "rewards/s",
        "p99 us",
        "change",
        "view ms",
        "heal ms",
        "whole ms",
        "moved",
        "share",
        "MB",
        "records/s",
        "rate",
        "stall ms",
        "failed"
    );
    for row in rows {
        println!(
            "{:>5}{:>9}{:>11.0}{:>9}  {:<8}{:>9.1}{:>9.1}{:>9.1}{:>9}{:>7.2}{:>9.2}{:>11.0}{:>7.2}{:>10.1}{:>8}",
            row.nodes,
            row.players,
            row.rewards_per_s,
            row.p99_us,
            row.change,
            row.view_ms,
            row.heal_ms,
            row.whole_ms,
            row.moved,
            row.moved_share,
            row.bytes / 1e6,
            row.records_per_s,
            row.rate_share,
            row.stall_ms,
            row.failed
        );
    }
    laws(rows);
}

/// The line through the points that misses them least: what it is at 0, and how much it grows.
fn fit(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let n = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let spread: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
    if spread == 0.0 {
        return None; // one point, or all above each other
    }
    let slope = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>() / spread;
    Some((y - slope * x, slope))
}

/// The healing of a cluster of a hundred nodes, and what it would hold.
const LARGE_NODES: f64 = 100.0;
const LARGE_PLAYERS: f64 = 100e6;

fn laws(rows: &[Row]) {
    for change in ["kill -9", "join"] {
        let of = |y: fn(&Row) -> f64, x: fn(&Row) -> f64| -> Vec<(f64, f64)> {
            let rows = rows.iter().filter(|row| row.change == change);
            rows.map(|row| (x(row), y(row))).collect()
        };
        let heal = of(|row| row.heal_ms / 1e3, |row| row.moved as f64);
        let Some((fixed, each)) = fit(&heal) else {
            println!("\n{change}: no law from one size; give several --players");
            continue;
        };
        println!(
            "\n{change}: seconds of healing = {fixed:.3} + {:.2} us * records moved",
            each * 1e6
        );
        if let Some((at_0, growth)) = fit(&of(|row| row.view_ms, |row| row.players as f64)) {
            println!(
                "  the view is decided after {at_0:.1} ms + {:.2} ms per million players",
                growth * 1e6
            );
        }
        if let Some((at_0, growth)) = fit(&of(|row| row.view_ms, |row| row.nodes as f64)) {
            println!("  the view is decided after {at_0:.1} ms + {growth:.2} ms per node");
        }
        // All nodes of a run share this machine; there, each has one of its own, and a share of the records.
        let moved = match change {
            "join" => LARGE_PLAYERS / LARGE_NODES,
            _ => 2.0 * LARGE_PLAYERS / LARGE_NODES,
        };
        let (together, apart) = match change {
            // One node takes all of them in, which is half of the work.
            "join" => ("the one that joins", moved / 2.0),
            _ => ("each of the others", moved / (LARGE_NODES - 1.0)),
        };
        println!(
            "  100 nodes with machines like this one, 100M players: {moved:.0} records move; {together} would be busy for {:.2} s",
            fixed + each * apart
        );
    }
}

fn draw(file: &str, rows: &[Row]) -> Res<()> {
    let lines = |x: fn(&Row) -> f64, y: fn(&Row) -> f64, by: fn(&Row) -> String| -> Vec<Line> {
        let mut lines: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
        for row in rows.iter().filter(|row| row.change != "leave") {
            let line = lines.entry(by(row)).or_default();
            line.push((x(row).max(1.0), y(row)));
        }
        for line in lines.values_mut() {
            line.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
        lines.into_iter().collect()
    };
    let by_nodes = |row: &Row| format!("{}, {} nodes", row.change, row.nodes);
    let by_players = |row: &Row| format!("{}, {} players", row.change, row.players);
    let charts = [
        Chart {
            x: "records moved",
            y: "seconds of healing",
            lines: lines(|r| r.moved as f64, |r| r.heal_ms / 1e3, by_nodes),
        },
        Chart {
            x: "players",
            y: "milliseconds of a client's longest wait",
            lines: lines(|r| r.players as f64, |r| r.stall_ms, by_nodes),
        },
        Chart {
            x: "players",
            y: "milliseconds until the view is decided",
            lines: lines(|r| r.players as f64, |r| r.view_ms, by_nodes),
        },
        Chart {
            x: "nodes",
            y: "milliseconds until the view is decided",
            lines: lines(|r| r.nodes as f64, |r| r.view_ms, by_players),
        },
    ];
    plot::write(file, &charts)
}
