//! A node of the product, as a process of its own. The first of three drives the load from inside.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use ractor_cluster::RactorMessage;
use serde::{Deserialize, Serialize};
use statekeeper::config::Config;
use statekeeper::{GenServer, Node};

use crate::load::{Give, PLAYERS, Res, closed_loop, lines, order};

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
    /// Players that live on this node.
    local: Players,
    /// Players that live a third each on the three.
    spread: Players,
}

struct Players {
    keys: Vec<String>,
    /// How many rewards of 1 each of them got.
    given: Vec<AtomicU64>,
}

impl Players {
    fn new(kind: &str) -> Self {
        Self {
            keys: keys(kind),
            given: (0..PLAYERS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    async fn reward(&self, node: &Node, at: usize) -> Res<()> {
        node.call::<Player>(&self.keys[at], Call::Reward(1)).await?;
        self.given[at].fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// What the clients ask for.
#[derive(Clone, Copy)]
enum Way {
    Floor,
    Local,
    Spread,
    Reads,
}

impl FromStr for Way {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "floor" => Ok(Self::Floor),
            "local" => Ok(Self::Local),
            "spread" => Ok(Self::Spread),
            "reads" => Ok(Self::Reads),
            other => Err(format!("no such path: {other}")),
        }
    }
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
        let (way, in_flight, wait) = order(&line)?;
        let (bench, way) = (bench.clone(), way.parse()?);
        let sample = closed_loop(in_flight, wait, Arc::new(Asked { bench, way }));
        println!("{}", sample.await?);
    }
    let _ = bench.node.leave().await;
    Ok(())
}

/// Makes the players that are to live here.
async fn prepare(node: Node, index: usize) -> Res<Bench> {
    node.wait_for(|view| view.members.len() == NODES).await;
    let (local, spread) = (Players::new("local"), Players::new("spread"));
    let mine = spread.keys.iter().skip(index).step_by(NODES);
    let first: &[String] = if index == 0 { &local.keys } else { &[] };
    for key in mine.chain(first) {
        node.call::<Player>(key, Call::Points).await?;
    }
    let mut plain = Vec::new();
    for _ in first {
        plain.push(Actor::spawn(None, Plain, ()).await?.0);
    }
    Ok(Bench {
        node,
        plain,
        local,
        spread,
    })
}

struct Asked {
    bench: Arc<Bench>,
    way: Way,
}

impl Give for Asked {
    async fn give(&self, at: usize) -> Res<()> {
        let bench = &*self.bench;
        match self.way {
            Way::Floor => {
                ractor::call!(bench.plain[at], |port| Reward(1, port))?;
            }
            Way::Local => bench.local.reward(&bench.node, at).await?,
            Way::Spread => bench.spread.reward(&bench.node, at).await?,
            Way::Reads => {
                let key = &bench.local.keys[at];
                bench.node.call::<Player>(key, Call::Points).await?;
            }
        }
        Ok(())
    }
}

/// Every player has what it was given: no reward lost, none doubled.
async fn check(bench: &Bench) -> Res<()> {
    for players in [&bench.local, &bench.spread] {
        for (key, given) in players.keys.iter().zip(&players.given) {
            let given = i64::try_from(given.load(Ordering::Relaxed))?;
            let points = bench.node.call::<Player>(key, Call::Points).await?;
            if points != given {
                return Err(format!("{key} has {points} points, and was given {given}").into());
            }
        }
    }
    Ok(())
}
