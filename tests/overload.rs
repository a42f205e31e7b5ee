//! A node that is offered a million requests while another one is stopped: it refuses before its memory grows past
//! its limit, loses nothing that it acknowledged, and is as before when the flood is over.
//!
//! Three real processes: this test starts itself again, as nodes that take commands. Two of them are flooded by clients
//! of their own; the third, an owner of half of the players and a keeper of most others, is under SIGSTOP.
#![cfg(feature = "cli")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use statekeeper::config::{Config, WAITING_BYTES_MIN};
use statekeeper::protocol::members::Status;
use statekeeper::protocol::types::Millis;
use statekeeper::{CallError, GenServer, Node};

/// Names the node that a process of this test is to be.
const ROLE: &str = "STATEKEEPER_OVERLOAD_NODE";
/// For how long a node may be silent, in milliseconds. A machine however slow is to offer more than there is room for by then.
const SUSPICION: &str = "STATEKEEPER_OVERLOAD_SUSPICION";
/// Answers begin so: the test harness prints as well.
const MARK: &str = "@ ";
/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_secs(240);

/// How many requests are offered, and the size of each.
const OFFERED: usize = 1_000_000;
const BALLAST: usize = 4 * 1024;
/// Per node.
const PLAYERS: usize = 200;
/// What clients, frames on their way and the allocator take beside what waits.
const SLACK_BYTES: usize = 96 * 1024 * 1024;

struct Player;

#[derive(Serialize, Deserialize)]
enum Call {
    /// A point; the ballast is only carried.
    Reward(Vec<u8>),
    Points,
}

impl GenServer for Player {
    const NAME: &'static str = "player";
    type State = u64;
    type Call = Call;
    type Reply = u64;

    fn init(&self, _key: &str) -> u64 {
        0
    }

    async fn handle_call(&self, _key: &str, call: Call, points: &mut u64) -> u64 {
        if let Call::Reward(_) = call {
            *points += 1;
        }
        *points
    }
}

/// What became of the requests of one node's clients.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Tally {
    acknowledged: BTreeMap<String, u64>,
    unknown: BTreeMap<String, u64>,
    overloaded: u64,
    /// Any other error: there must be none but while the view changes.
    others: BTreeMap<String, u64>,
}

impl Tally {
    fn note(&mut self, key: &str, result: Result<u64, CallError>) {
        match result {
            Ok(_) => *self.acknowledged.entry(key.to_owned()).or_default() += 1,
            Err(CallError::Unknown { .. } | CallError::Lost) => {
                *self.unknown.entry(key.to_owned()).or_default() += 1;
            }
            Err(refused @ CallError::Overloaded) => {
                assert!(refused.to_string().starts_with("overloaded, try again"));
                self.overloaded += 1;
            }
            Err(other) => *self.others.entry(other.to_string()).or_default() += 1,
        }
    }

    fn count(&self) -> usize {
        let sum = |counts: &BTreeMap<String, u64>| counts.values().sum::<u64>();
        let all = sum(&self.acknowledged) + sum(&self.unknown) + sum(&self.others);
        usize::try_from(all + self.overloaded).expect("a count")
    }
}

/// The node that this process is, if it is one. Without its role it is no test at all.
#[test]
#[ignore = "started by the other tests of this file"]
fn node() {
    let Ok(name) = std::env::var(ROLE) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(serve(&name));
}

async fn serve(name: &str) {
    let mut config = Config::new(name);
    config.waiting_bytes_max = WAITING_BYTES_MIN;
    config.call_timeout = Duration::from_secs(60);
    let suspicion = std::env::var(SUSPICION).expect("milliseconds");
    config.timings.suspicion = Millis(suspicion.parse().expect("milliseconds"));
    let node = Node::builder(config)
        .register(Player)
        .start()
        .await
        .expect("a node");
    println!("{MARK}up");
    let (lines, mut commands) = tokio::sync::mpsc::channel(8);
    thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    while let Some(line) = commands.recv().await {
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words[..] {
            ["connect", peer] => format!("{:?}", node.connect(peer).await.is_ok()),
            ["own", prefix] => {
                for key in keys(prefix) {
                    node.call::<Player>(&key, Call::Points)
                        .await
                        .expect("an answer");
                }
                "owned".to_owned()
            }
            ["points", prefix] => {
                let mut points = BTreeMap::new();
                for key in keys(prefix) {
                    let total = node.call::<Player>(&key, Call::Points).await;
                    points.insert(key, total.expect("an answer"));
                }
                hex(&points)
            }
            ["serving"] => {
                let view = node.view();
                (view.status == Status::Serving && view.members.len() == 3).to_string()
            }
            ["waiting"] => node.waiting_bytes().to_string(),
            ["flood", count] => hex(&flood(&node, count.parse().expect("a count")).await),
            _ => panic!("no such command: {line}"),
        };
        println!("{MARK}{answer}");
    }
}

/// Bytes that fit into a line.
fn hex<T: Serialize>(value: &T) -> String {
    let bytes = postcard::to_stdvec(value).expect("an encoding");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex<T: for<'a> Deserialize<'a>>(text: &str) -> T {
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("a byte");
    let bytes: Vec<u8> = (0..text.len()).step_by(2).map(byte).collect();
    postcard::from_bytes(&bytes).expect("a value")
}

fn keys(prefix: &str) -> Vec<String> {
    (0..PLAYERS).map(|n| format!("{prefix}{n}")).collect()
}

/// Offers so many requests as fast as it can, waiting for none before all are offered.
async fn flood(node: &Node, count: usize) -> Tally {
    let keys: Vec<String> = ["mine", "theirs"].into_iter().flat_map(keys).collect();
    let tally = Arc::new(Mutex::new(Tally::default()));
    let mut open = tokio::task::JoinSet::new();
    for n in 0..count {
        let (node, key) = (node.clone(), keys[n % keys.len()].clone());
        let tally_of = tally.clone();
        let mut call = Box::pin(async move {
            let reward = Call::Reward(vec![0; BALLAST]);
            let result = node.call::<Player>(&key, reward).await;
            tally_of.lock().expect("a tally").note(&key, result);
        });
        if (&mut call).now_or_never().is_none() {
            open.spawn(call);
        }
        if n % 64 == 0 {
            tokio::task::yield_now().await;
            while open.try_join_next().is_some() {}
        }
    }
    println!("{MARK}offered");
    while open.join_next().await.is_some() {}
    tally.lock().expect("a tally").clone()
}

/// A process of this test. Dropped, it is killed.
struct Process {
    name: &'static str,
    child: Child,
    stdin: ChildStdin,
    answers: Receiver<String>,
}

impl Process {
    fn start(dir: &std::path::Path, name: &'static str, suspicion: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this test"));
        command
            .args(["node", "--exact", "--ignored", "--nocapture"])
            .env(ROLE, name)
            .env(SUSPICION, suspicion)
            .env("HOME", dir)
            .env("STATEKEEPER_RUNTIME_DIR", dir.join("run"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("a node");
        let (to, answers) = channel();
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                // The harness does not end its line before the test does.
                if let Some((_, answer)) = line.split_once(MARK)
                    && to.send(answer.to_owned()).is_err()
                {
                    return;
                }
            }
        });
        let stdin = child.stdin.take().expect("a pipe");
        let process = Self {
            name,
            child,
            stdin,
            answers,
        };
        assert_eq!(process.answer(), "up");
        process
    }

    fn say(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").expect("it reads");
    }

    fn answer(&self) -> String {
        let answer = self.answers.recv_timeout(PATIENCE);
        answer.unwrap_or_else(|e| panic!("{} does not answer: {e}", self.name))
    }

    fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.answer()
    }

    fn wait(&mut self, line: &str, what: impl Fn(&str) -> bool) {
        let until = Instant::now() + PATIENCE;
        loop {
            let answer = self.ask(line);
            if what(&answer) {
                return;
            }
            assert!(Instant::now() < until, "{}: {line}: {answer}", self.name);
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a number"));
        signal::kill(pid, signal).expect("a signal to a child");
    }

    /// Bytes of memory: now (`VmRSS`), or at most since the process started (`VmHWM`).
    fn memory(&self, which: &str) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("a process of ours");
        let line = status.lines().find_map(|line| line.strip_prefix(which));
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        kib.expect("a number").parse::<usize>().expect("a number") * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One flood while a node is stopped: until the others go on without it, or until it goes on when all is offered.
fn overload(suspicion: &str, goes_on: bool) {
    let dir = tempfile::tempdir().expect("a directory");
    let [mut first, mut third, mut stopped] =
        ["first", "third", "stopped"].map(|name| Process::start(dir.path(), name, suspicion));
    for peer in ["first", "third"] {
        assert_eq!(stopped.ask(&format!("connect {peer}")), "true");
    }
    for node in [&mut first, &mut third, &mut stopped] {
        node.wait("serving", |answer| answer == "true");
    }
    first.ask("own mine");
    stopped.ask("own theirs");
    // What a working cluster takes: actors, connections, buffers, and what the allocator keeps of a first small flood.
    let mut tallies: Vec<Tally> = Vec::new();
    for node in [&mut first, &mut third] {
        assert_eq!(node.ask("flood 20000"), "offered");
        tallies.push(from_hex(&node.answer()));
    }
    let rss = [&first, &third].map(|node| node.memory("VmRSS"));

    stopped.signal(Signal::SIGSTOP);
    let half = OFFERED / 2;
    let start = Instant::now();
    first.say(&format!("flood {half}"));
    third.say(&format!("flood {half}"));
    for node in [&first, &third] {
        assert_eq!(node.answer(), "offered");
    }
    eprintln!("{OFFERED} offered within {:?}", start.elapsed());
    if goes_on {
        // It is a member still, and what waits for it waits on.
        stopped.signal(Signal::SIGCONT);
    }
    tallies.extend([&first, &third].map(|node| from_hex::<Tally>(&node.answer())));
    eprintln!("all answered within {:?}", start.elapsed());
    let peak = [&first, &third].map(|node| node.memory("VmHWM"));
    stopped.signal(Signal::SIGCONT);

    let limits = rss.map(|rss| rss + WAITING_BYTES_MIN + SLACK_BYTES);
    for (node, (rss, peak)) in ["first", "third"].iter().zip(rss.iter().zip(peak)) {
        eprintln!("{node}: {} MiB, at most {} MiB", rss >> 20, peak >> 20);
        let limit = rss + WAITING_BYTES_MIN + SLACK_BYTES;
        assert!(
            peak < limit,
            "{node}: {peak} bytes of memory, beyond {limit}"
        );
    }
    let overloaded: u64 = tallies[2..].iter().map(|t| t.overloaded).sum();
    for tally in &tallies {
        let sum = |counts: &BTreeMap<String, u64>| counts.values().sum::<u64>();
        eprintln!(
            "{} acknowledged, {} overloaded, {} unknown, {:?}",
            sum(&tally.acknowledged),
            tally.overloaded,
            sum(&tally.unknown),
            tally.others
        );
    }
    assert_eq!(tallies[2].count() + tallies[3].count(), OFFERED);
    assert!(overloaded > 0, "nothing was refused");

    for node in [&mut first, &mut third, &mut stopped] {
        node.wait("serving", |answer| answer == "true");
        node.wait("waiting", |answer| answer == "0");
    }
    let mut points: BTreeMap<String, u64> = from_hex(&third.ask("points mine"));
    points.extend(from_hex::<BTreeMap<String, u64>>(
        &third.ask("points theirs"),
    ));
    for (key, total) in points {
        let sum = |of: fn(&Tally) -> &BTreeMap<String, u64>| -> u64 {
            tallies.iter().filter_map(|t| of(t).get(&key)).sum()
        };
        let (acknowledged, unknown) = (sum(|t| &t.acknowledged), sum(|t| &t.unknown));
        assert!(
            (acknowledged..=acknowledged + unknown).contains(&total),
            "{key}: {total} points, {acknowledged} acknowledged, {unknown} unknown"
        );
    }
    // The same again takes no more memory: nothing is left of the first flood. (What the allocator gives back to the
    // system, and when, is its own affair.)
    for (node, peak_max) in [&mut first, &mut third].into_iter().zip(limits) {
        assert_eq!(node.ask("flood 20000"), "offered");
        let _: Tally = from_hex(&node.answer());
        let peak = node.memory("VmHWM");
        assert!(peak < peak_max, "{}: {peak} bytes of memory", node.name);
        node.wait("waiting", |answer| answer == "0");
    }
}

#[test]
fn a_flood_is_refused_while_a_stopped_node_is_evicted() {
    overload("20000", false);
}

#[test]
fn a_flood_is_refused_while_a_stopped_node_stays_a_member() {
    overload("120000", true);
}
