//! Start and stop: `start.sh NAME` until its first prompt, in a terminal; and a node that leaves gracefully while the
//! others ask for its players.
//!
//! `cargo bench --bench start [-- --starts N] [--players N] [--in-flight N] [--json]`; `--in-flight` is per node that
//! stays, `--starts 0` leaves the starts out. A request that failed fails the bench.

#[allow(dead_code, reason = "the other benches use more of it")]
mod support;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use rexpect::reader::Options as Reading;
use rexpect::session::spawn_with_options;
use support::Res;
use support::fleet::{Fleet, Mark, Mode};
use support::options::Options;

/// Many small states and messages, as in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PATIENCE_MS: u64 = 600_000;
const NODES: usize = 3;
/// The clients ask that long before the node leaves, and after it has left.
const AROUND: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    support::main(support::node::play, drive)
}

fn drive() -> Res<()> {
    let options = Options::parse(&["--starts", "--players", "--in-flight"], &["--json"])?;
    let json = options.has("--json");
    let players = options.value("--players", 100_000)?;
    let starts = start(options.value("--starts", 10)?)?;
    if let (Some(median), Some(worst)) = (starts.get(starts.len() / 2), starts.last()) {
        if json {
            let row = serde_json::json!({"what": "start", "starts": starts.len(), "median_s": median, "worst_s": worst});
            println!("{row}");
        } else {
            println!(
                "start.sh to its first prompt: {median:.3} s, the median of {}; the slowest {worst:.3} s",
                starts.len()
            );
        }
    }
    let left = leave(players, options.value("--in-flight", 64)?)?;
    if json {
        let row = serde_json::json!({"what": "leave", "players": players, "left_s": left.left_s, "whole_s": left.whole_s,
            "requests": left.requests, "failed": left.failed, "stall_ms": left.stall_ms});
        println!("{row}");
    } else {
        println!(
            "a leave with {players} players under load: {:.2} s, {:.2} s until all copies are in place; {} requests meanwhile, {} failed, the longest took {:.0} ms",
            left.left_s, left.whole_s, left.requests, left.failed, left.stall_ms
        );
    }
    if left.failed > 0 {
        return Err(format!("{} requests failed: {}", left.failed, left.reason).into());
    }
    Ok(())
}

/// The seconds of each start, ascending.
fn start(times: usize) -> Res<Vec<f64>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("start.sh");
    let mut seconds = Vec::new();
    if times == 0 {
        return Ok(seconds);
    }
    // The first may have to build.
    for number in 0..=times {
        eprintln!("start {number} of {times}");
        let dir = tempfile::tempdir()?;
        let mut command = Command::new(&script);
        command
            .arg("bench")
            .env("TERM", "xterm")
            .env("STATEKEEPER_RUNTIME_DIR", dir.path().join("run"));
        if number > 0 {
            // Cargo wants the real one.
            command.env("HOME", dir.path());
        }
        let reading = Reading::new()
            .timeout_ms(Some(PATIENCE_MS))
            .strip_ansi_escape_codes(true);
        let started = Instant::now();
        let mut session = spawn_with_options(command, reading)?;
        session.exp_regex(r"\(bench@[A-Za-z0-9_.-]+\)1> ")?;
        let took = started.elapsed();
        session.send_control('d')?;
        session.exp_eof()?;
        if number > 0 {
            seconds.push(took.as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds)
}

/// What a leave came to.
struct Left {
    left_s: f64,
    whole_s: f64,
    requests: u64,
    failed: u64,
    reason: String,
    stall_ms: f64,
}

/// A node with all the players leaves; the clients are on the others.
fn leave(players: usize, in_flight: usize) -> Res<Left> {
    let dir = tempfile::tempdir()?;
    eprintln!("a node with {players} players leaves");
    let mut fleet = Fleet::start(dir.path().to_owned(), NODES, Mode::default())?;
    let mut leaver = fleet.nodes.remove(0);
    leaver
        .process
        .order(&format!("make 0 {players} 1"), "made")?;
    fleet.load(in_flight, players)?;
    thread::sleep(AROUND);
    let from = Mark::now()?;
    leaver.process.order("leave", "left")?;
    let left = Mark::now()?;
    fleet.wait()?;
    thread::sleep(AROUND);
    let to = Mark::now()?;
    let change = fleet.change(from.us, NODES - 1)?;
    let window = fleet.window(from.us, to.us)?;
    let (failed, reason) = fleet.stop()?;
    Ok(Left {
        left_s: (left.us - from.us) as f64 / 1e6,
        whole_s: (change.whole_us - from.us) as f64 / 1e6,
        requests: window.answers,
        failed,
        reason,
        stall_ms: window.worst_us as f64 / 1e3,
    })
}
