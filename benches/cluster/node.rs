//! A node of the product, as a process of its own. The first of three drives the load from inside.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use ractor_cluster::RactorMessage;
use serde::{Deserialize, Serialize};
use statekeeper::config::Config;
use statekeeper::{GenServer, Node};

use crate::load::{PLAYERS, Res, closed_loop, lines, order};

/// How many nodes a cluster has.
pub(crate) const NODES: usize = 3;

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

/// Names of 16 bytes.
fn keys(kind: &str) -> Vec<String> {
    (0..PLAYERS)
        .map(|i| format!("{kind}{i:0width$}", width = 16 - kind.len()))
        .collect()
}

struct Bench {
    node: Node,
    plain: Vec<ActorRef<Reward>>,
    /// Players that live on this node, and players that live a third each on the three.
    local: Vec<String>,
    spread: Vec<String>,
    /// How many rewards of 1 each of them got, per path.
    given: BTreeMap<&'static str, Vec<AtomicU64>>,
}

/// Runs the node `index` of its cluster, called `name`, until its input ends.
pub(crate) async fn run(name: &str, index: usize, backups: usize) -> Res<()> {
    let config = Config {
        call_timeout: Duration::from_secs(60),
        backups,
        ..Config::new(name)
    };
    let node = Node::builder(config).register(Player).start().await?;
    println!("up");
    let mut lines = lines();
    let bench = loop {
        let line = lines.recv().await.ok_or("no order")?;
        match line.split_once(' ') {
            Some(("connect", peer)) => {
                node.connect(peer).await?;
                println!("connected");
            }
            _ => break Arc::new(prepare(node, index).await?),
        }
    };
    println!("ready");
    while let Some(line) = lines.recv().await {
        if line == "check" {
            match check(&bench).await {
                Ok(()) => println!("right"),
                Err(reason) => println!("wrong {reason}"),
            }
            continue;
        }
        let (path, in_flight, wait) = order(&line)?;
        let (bench, path) = (bench.clone(), path.to_owned());
        let sample = closed_loop(in_flight, wait, move |at| {
            give(bench.clone(), path.clone(), at)
        });
        println!("{}", sample.await?);
    }
    let _ = bench.node.leave().await;
    Ok(())
}

/// Makes the players that are to live here.
async fn prepare(node: Node, index: usize) -> Res<Bench> {
    node.wait_for(|view| view.members.len() == NODES).await;
    let (local, spread) = (keys("local"), keys("spread"));
    let mine = spread.iter().skip(index).step_by(NODES);
    let first: &[String] = if index == 0 { &local } else { &[] };
    for key in mine.chain(first) {
        node.call::<Player>(key, Call::Points).await?;
    }
    let mut plain = Vec::new();
    for _ in first {
        plain.push(Actor::spawn(None, Plain, ()).await?.0);
    }
    let counts = || (0..PLAYERS).map(|_| AtomicU64::new(0)).collect();
    Ok(Bench {
        node,
        plain,
        local,
        spread,
        given: BTreeMap::from(["local", "spread"].map(|path| (path, counts()))),
    })
}

async fn give(bench: Arc<Bench>, path: String, at: usize) -> Res<()> {
    match path.as_str() {
        "floor" => {
            ractor::call!(bench.plain[at], |port| Reward(1, port))?;
        }
        "local" => {
            let key = &bench.local[at];
            bench.node.call::<Player>(key, Call::Reward(1)).await?;
            bench.given["local"][at].fetch_add(1, Ordering::Relaxed);
        }
        "spread" => {
            let key = &bench.spread[at];
            bench.node.call::<Player>(key, Call::Reward(1)).await?;
            bench.given["spread"][at].fetch_add(1, Ordering::Relaxed);
        }
        "reads" => {
            let key = &bench.local[at];
            bench.node.call::<Player>(key, Call::Points).await?;
        }
        other => return Err(format!("no such path: {other}").into()),
    }
    Ok(())
}

/// Every player has what it was given: no reward lost, none doubled.
async fn check(bench: &Bench) -> Res<()> {
    for (path, keys) in [("local", &bench.local), ("spread", &bench.spread)] {
        for (key, given) in keys.iter().zip(&bench.given[path]) {
            let given = i64::try_from(given.load(Ordering::Relaxed))?;
            let points = bench.node.call::<Player>(key, Call::Points).await?;
            if points != given {
                return Err(format!("{key} has {points} points, and was given {given}").into());
            }
        }
    }
    Ok(())
}
