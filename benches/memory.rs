//! What players cost in memory: resident sets of real processes, names of 16 bytes, 8 bytes of state.
//!
//! - In play: players on one node, which is the actor, the owner's slot, and what ractor takes. Their records are on two
//!   other nodes, half each. Once with an actor each, once in shared actors.
//! - At rest: players that were made evenly on three nodes and are idle, two records each; and some of them awake again.
//! - Bare: ractor actors of the same shape, without statekeeper.
//! - Parts: what an actor of ractor is made of, one thing at a time.
//!
//! # What in ractor costs it
//!
//! An actor of ractor 0.16.5 takes 11.0 KB, and 8.3 KB of that are two channels which it has for its whole life. An
//! unbounded channel of tokio allocates a block of 32 slots when it is made, and always keeps one. A slot for messages has
//! 112 bytes, since a message carries the serialized form that only remote actors use inline; one for supervision
//! events 80, although most actors never supervise.
//!
//! Two boxes in ractor would save half of an actor: `Option<Box<SerializedMessage>>` in `BoxedMessage` (a slot of
//! 24 bytes), and `Box<SupervisionEvent>` in the channel (8 bytes). A message between local actors would cost nothing
//! more; a remote one and a supervision event one allocation. The rows with `boxed` show such channels: they take 1.4 and
//! 0.8 KB instead of 4.7 and 3.6, which would make an actor of 5.0 KB, 55 % less. A channel for supervision events that
//! is made with the first child would save the rest of that one as well.
//!
//! # What the allocator kept of it
//!
//! Players that had been in play and went to rest left more than half of their actors' memory with mimalloc, for ever: three
//! nodes with a million of them had 587 MB, with 300,000 238 MB, and that still 50 s later (2026-12-01). A page that was
//! full is nobody's; if the thread that had it gives a block of it back, it takes the page again, and what other threads give
//! back waits there for that thread, which asks for no more blocks of that size. With `MIMALLOC_PAGE_RECLAIM_ON_FREE=-1`,
//! which `start.sh` sets, a page stays nobody's until all of it is free: 439 MB and 140 MB, and as many rewards as before (15
//! paired measurements of five clusters each).
//!
//! `cargo bench --bench memory [-- --players N] [--rest N] [--awake N] [--json]`

#[allow(dead_code, reason = "the other benches use more of it")]
mod support;

use std::any::Any;
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use ractor::message::{BoxedMessage, SerializedMessage};
use ractor::{Actor, SupervisionEvent};
use support::Res;
use support::fleet::{Fleet, Mode};
use support::load::lines;
use support::options::Options;
use support::player::Plain;
use support::process::{Process, this};
use tokio::sync::{Notify, mpsc, oneshot};

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Made before anything is measured, so that what is there once does not count as theirs.
const FIRST: usize = 2_000;
/// Points that take 8 bytes.
const POINTS: i64 = 1 << 54;
/// One node has the players, two keep them.
const NODES: usize = 3;
/// After which time players go to rest.
const IDLE_MS: u64 = 2_000;
/// How many players a node makes at once, so that few are in play at a time, and how long that lasts.
const LOT: usize = 2_500;
const LOT_TIME: Duration = Duration::from_millis(500);
/// How long the memory of the actors is given to go.
const SETTLE: Duration = Duration::from_secs(5);
const PARTS: [&str; 8] = [
    "a ractor actor",
    "its channel for messages",
    "its channel for supervision events",
    "a channel for messages, remote form boxed",
    "a channel for supervision events, boxed",
    "its two oneshot channels",
    "a Notify",
    "a task that waits",
];

fn main() -> ExitCode {
    support::main(play, drive)
}

async fn play(role: String) -> Res<()> {
    match role.split(' ').collect::<Vec<_>>()[..] {
        ["part", number] => part(number.parse()?).await,
        _ => support::node::play(role).await,
    }
}

/// Makes that many of one part for each number that it reads, and keeps them.
async fn part(number: usize) -> Res<()> {
    println!("up");
    let mut lines = lines();
    let mut kept: Vec<Box<dyn Send>> = Vec::new();
    while let Some(line) = lines.recv().await {
        let count: usize = line.parse()?;
        kept.push(match PARTS[number] {
            "a ractor actor" => {
                let mut actors = Vec::with_capacity(count);
                for _ in 0..count {
                    actors.push(Actor::spawn(None, Plain, ()).await?.0);
                }
                Box::new(actors)
            }
            "its channel for messages" => many(count, mpsc::unbounded_channel::<BoxedMessage>),
            "its channel for supervision events" => {
                many(count, mpsc::unbounded_channel::<SupervisionEvent>)
            }
            "a channel for messages, remote form boxed" => {
                many(count, mpsc::unbounded_channel::<LeanMessage>)
            }
            "a channel for supervision events, boxed" => {
                many(count, mpsc::unbounded_channel::<Box<SupervisionEvent>>)
            }
            "its two oneshot channels" => many(count, || {
                (
                    oneshot::channel::<ractor::Signal>(),
                    oneshot::channel::<Option<String>>(),
                )
            }),
            "a Notify" => many(count, || Mutex::new(Notify::new())),
            _ => many(count, || tokio::spawn(std::future::pending::<()>())),
        });
        println!("made");
    }
    Ok(())
}

/// A message of ractor, if the form for remote actors were elsewhere.
type LeanMessage = (Option<Box<dyn Any + Send>>, Option<Box<SerializedMessage>>);

fn many<T: Send + 'static>(count: usize, one: impl Fn() -> T) -> Box<dyn Send> {
    let mut all = Vec::with_capacity(count);
    all.extend(std::iter::repeat_with(one).take(count));
    Box::new(all)
}

fn drive() -> Res<()> {
    let options = Options::parse(&["--players", "--rest", "--awake"], &["--json"])?;
    let players: usize = options.value("--players", 200_000)?;
    let mut rows = in_play(players, false)?;
    rows.extend(in_play(players, true)?);
    let (rest, awake) = (
        options.value("--rest", 1_000_000)?,
        options.value("--awake", 50_000)?,
    );
    rows.extend(at_rest(rest, awake, false)?);
    rows.extend(at_rest(rest, awake, true)?);
    for (number, part) in PARTS.iter().enumerate() {
        eprintln!("{part}");
        let mut process = Process::start(this(&format!("part {number}"))?)?;
        process.order(&FIRST.to_string(), "made")?;
        let before = process.resident()?;
        process.order(&players.to_string(), "made")?;
        let grown = process.resident()? - before;
        rows.push(((*part).to_owned(), grown as f64 / players as f64));
    }
    for (what, bytes) in &rows {
        if options.has("--json") {
            println!("{}", serde_json::json!({"what": what, "bytes": bytes}));
        } else {
            println!("{what:<48}{bytes:>9.0} bytes");
        }
    }
    if !options.has("--json") {
        println!(
            "\na slot of a channel for messages has {} bytes, one for supervision events {}",
            size_of::<BoxedMessage>(),
            size_of::<SupervisionEvent>()
        );
    }
    Ok(())
}

/// What was measured, and its bytes.
type Row = (String, f64);

fn way(shared: bool) -> &'static str {
    if shared {
        "in shared actors"
    } else {
        "an actor each"
    }
}

/// Players of one node, and their records on the two others.
fn in_play(players: usize, shared: bool) -> Res<Vec<Row>> {
    let dir = tempfile::tempdir()?;
    eprintln!("{players} players in play, {}", way(shared));
    let mode = Mode {
        shared,
        ..Mode::default()
    };
    let mut fleet = Fleet::start(dir.path().to_owned(), NODES, mode)?;
    let mut make = |from: usize, to: usize| {
        fleet.nodes[0]
            .process
            .order(&format!("make {from} {to} {POINTS}"), "made")?;
        fleet.resident()
    };
    let before = make(0, FIRST)?;
    let after = make(FIRST, FIRST + players)?;
    let each: Vec<f64> = before
        .iter()
        .zip(&after)
        .map(|(before, after)| (*after as f64 - *before as f64) / players as f64)
        .collect();
    let kept = each[1] + each[2];
    let way = way(shared);
    Ok(vec![
        (format!("a player in play, {way}"), each[0]),
        ("its record, at its keeper".to_owned(), kept),
        ("both together".to_owned(), each[0] + kept),
    ])
}

/// Players at rest on three nodes, and then some of them awake: all processes together.
fn at_rest(players: usize, awake: usize, shared: bool) -> Res<Vec<Row>> {
    let dir = tempfile::tempdir()?;
    let mode = Mode {
        idle_ms: IDLE_MS,
        shared,
        ..Mode::default()
    };
    let mut fleet = Fleet::start(dir.path().to_owned(), NODES, mode)?;
    let before: u64 = fleet.resident()?.iter().sum();
    let mut made = 0;
    while made < players {
        // One lot goes to rest while the next one is made.
        for node in 0..NODES {
            let to = (made + LOT).min(players);
            fleet.nodes[node]
                .process
                .order(&format!("make {made} {to} {POINTS}"), "made")?;
            made = to;
        }
        thread::sleep(LOT_TIME);
        eprintln!("{made} of {players} players made");
    }
    for node in &mut fleet.nodes {
        node.process.order("rest", "resting")?;
    }
    // The allocator gives back what it has no use for within moments.
    thread::sleep(SETTLE);
    let at_rest: u64 = fleet.resident()?.iter().sum();
    let share = awake / NODES;
    for node in 0..NODES {
        let from = node * share;
        fleet.nodes[node]
            .process
            .order(&format!("wake {from} {}", from + share), "woken")?;
    }
    let with_awake: u64 = fleet.resident()?.iter().sum();
    let way = way(shared);
    let per_record = (at_rest - before) as f64 / (2 * players) as f64;
    Ok(vec![
        (format!("three nodes, empty, {way}"), before as f64),
        ("with the players at rest".to_owned(), at_rest as f64),
        ("of that, per record".to_owned(), per_record),
        ("with some awake".to_owned(), with_awake as f64),
    ])
}
