//! A node of the product, as a process of its own. The first of three drives the load from inside.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ractor::{Actor, ActorRef};
use statekeeper::Node;
use statekeeper::config::Config;

use crate::support::Res;
use crate::support::load::{Give, PLAYERS, closed_loop, lines, order};
use crate::support::player::{Call, Plain, Player, Reward, name};

/// How many nodes a cluster has.
pub(crate) const NODES: usize = 3;

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
            keys: (0..PLAYERS).map(|number| name(kind, number)).collect(),
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
        if line == "allocations" {
            println!("{}", crate::allocations());
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
