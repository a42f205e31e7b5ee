//! Handlers that take their time, in actors of their own and in shared ones: their players do not go to rest, what waits
//! behind them is given up with its call, and a node leaves all the same.
//!
//! Two real processes each time: a node in which a scenario runs, and one that keeps its copies.

#[path = "../benches/support/mod.rs"]
#[allow(dead_code, reason = "the benches use more of it")]
mod support;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use statekeeper::config::Config;
use statekeeper::protocol::members::Status;
use statekeeper::{CallError, GenServer, Node};
use support::load::lines;
use support::process::{Process, this};
use support::{Failed, Res};
use tokio::sync::Semaphore;

/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_secs(120);
const SCENARIOS: [&str; 3] = ["at-work", "given-up", "leaving"];

/// What the handlers of a scenario share with it.
struct Course {
    /// How many slow calls were begun.
    begun: AtomicUsize,
    /// A slow call waits for one of these.
    permits: Semaphore,
}

#[derive(Serialize, Deserialize)]
enum Call {
    Add(u64),
    /// Adds 1 when it may.
    Slow,
}

/// In actors of their own, or in shared ones.
struct Slow<const TOGETHER: bool>(Arc<Course>);

impl<const TOGETHER: bool> GenServer for Slow<TOGETHER> {
    const NAME: &'static str = if TOGETHER { "together" } else { "alone" };
    type State = u64;
    type Call = Call;
    type Reply = u64;

    fn init(&self, _key: &str) -> u64 {
        0
    }

    async fn handle_call(&self, _key: &str, call: Call, sum: &mut u64) -> u64 {
        *sum += match call {
            Call::Add(n) => n,
            Call::Slow => {
                self.0.begun.fetch_add(1, Ordering::SeqCst);
                let permit = self.0.permits.acquire().await;
                permit.expect("never closed").forget();
                1
            }
        };
        *sum
    }
}

fn main() -> ExitCode {
    support::main(play, drive)
}

fn drive() -> Res<()> {
    for scenario in SCENARIOS {
        for way in ["alone", "together"] {
            eprintln!("{scenario}, {way}");
            let dir = tempfile::tempdir()?;
            let process = |role: &str| {
                let mut command = this(role)?;
                command
                    .env("STATEKEEPER_RUNTIME_DIR", dir.path().join("run"))
                    .env("HOME", dir.path());
                Process::start(command)
            };
            let _keeper = process("keeper")?;
            process(&format!("{scenario} {way}"))?.expect("passed")?;
        }
    }
    Ok(())
}

async fn play(role: String) -> Res<()> {
    let (scenario, way) = role.split_once(' ').unwrap_or((&role, ""));
    let course = Arc::new(Course {
        begun: AtomicUsize::new(0),
        permits: Semaphore::new(0),
    });
    let config = Config {
        call_timeout: Duration::from_secs(if scenario == "given-up" { 1 } else { 60 }),
        idle: Duration::from_millis(if scenario == "at-work" { 200 } else { 0 }),
        ..Config::new(if scenario == "keeper" {
            "keeper"
        } else {
            "busy"
        })
    };
    let node = Node::builder(config)
        .register(Slow::<false>(course.clone()))
        .register_shared(Slow::<true>(course.clone()))
        .start()
        .await?;
    println!("up");
    if scenario == "keeper" {
        // Until the scenario is over.
        while lines().recv().await.is_some() {}
        return Ok(());
    }
    node.connect("keeper").await?;
    node.wait_for(|view| view.status == Status::Serving).await;
    let run = async {
        match way {
            "alone" => run::<false>(scenario, &node, &course).await,
            _ => run::<true>(scenario, &node, &course).await,
        }
    };
    tokio::time::timeout(PATIENCE, run).await??;
    println!("passed");
    Ok(())
}

async fn run<const TOGETHER: bool>(scenario: &str, node: &Node, course: &Arc<Course>) -> Res<()> {
    // It lives here now: what follows goes to it past its part.
    assert_eq!(node.call::<Slow<TOGETHER>>("slow", Call::Add(5)).await?, 5);
    let slow = {
        let node = node.clone();
        tokio::spawn(async move { node.call::<Slow<TOGETHER>>("slow", Call::Slow).await })
    };
    until(|| course.begun.load(Ordering::SeqCst) == 1).await;
    match scenario {
        "at-work" => {
            // Another one shows that its time to rest has come.
            assert_eq!(node.call::<Slow<TOGETHER>>("idle", Call::Add(1)).await?, 1);
            rests::<Slow<TOGETHER>>(node, "idle").await?;
            assert!(
                resides::<Slow<TOGETHER>>(node, "slow").await?,
                "it is at work"
            );
            let_go(course);
            assert_eq!(slow.await??, 6);
            assert_eq!(course.begun.load(Ordering::SeqCst), 1, "handled once");
            rests::<Slow<TOGETHER>>(node, "slow").await?;
            assert_eq!(node.call::<Slow<TOGETHER>>("slow", Call::Add(1)).await?, 7);
        }
        "given-up" => {
            let behind = (0..3).map(|_| node.call::<Slow<TOGETHER>>("slow", Call::Add(100)));
            for answer in join_all(behind).await {
                assert!(
                    matches!(answer, Err(CallError::Unknown { .. })),
                    "{answer:?}"
                );
            }
            assert!(matches!(slow.await?, Err(CallError::Unknown { .. })));
            // Nobody waits for them any more: its successor does not get what it was given.
            assert!(node.kill::<Slow<TOGETHER>>("slow").await?);
            let_go(course);
            let sum = loop {
                match node.call::<Slow<TOGETHER>>("slow", Call::Add(1)).await {
                    Ok(sum) => break sum,
                    Err(CallError::Unknown { .. }) => {}
                    Err(other) => return Err(other.into()),
                }
            };
            assert!(sum < 100, "{sum} without what was given up");
            assert_eq!(course.begun.load(Ordering::SeqCst), 1);
        }
        "leaving" => {
            let leaver = node.clone();
            let leave = tokio::spawn(async move { leaver.leave().await });
            // Others are turned away meanwhile, at once.
            while !matches!(
                node.call::<Slow<TOGETHER>>("other", Call::Add(1)).await,
                Err(CallError::Leaving)
            ) {}
            let_go(course);
            leave.await?.map_err(|e| Failed::from(e.to_string()))?;
            assert_eq!(slow.await??, 6, "answered before the node left");
        }
        other => return Err(format!("no such scenario: {other}").into()),
    }
    Ok(())
}

/// Slow calls may go on.
fn let_go(course: &Course) {
    course.permits.add_permits(10);
}

async fn resides<G: GenServer>(node: &Node, key: &str) -> Res<bool> {
    let here = node.local::<G>().await?;
    Ok(here.iter().any(|player| player.key == key))
}

/// Waits until a player is at rest.
async fn rests<G: GenServer>(node: &Node, key: &str) -> Res<()> {
    while resides::<G>(node, key).await? {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
