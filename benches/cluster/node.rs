//! A node of the product, as a process of its own. The first of three drives the load from inside.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ractor::{Actor, ActorRef};
use smol_str::SmolStr;
use statekeeper::config::Config;
use statekeeper::{GenServer, Node};

use crate::support::Res;
use crate::support::load::{Give, PLAYERS, closed_loop, lines, order};
use crate::support::player::{Call, Guest, Plain, Player, Reward, name};

/// How many nodes a cluster has.
pub(crate) const NODES: usize = 3;

struct Bench {
    node: Node,
    plain: Vec<ActorRef<Reward>>,
    /// Players that live on this node.
    local: Players,
    /// Players that live on this node, and share a few actors.
    guests: Players,
    /// Players that live a third each on the three.
    spread: Players,
}

struct Players {
    /// Close together: clients have the names of their players at hand.
    keys: Vec<SmolStr>,
    /// How many rewards of 1 each of them got.
    given: Vec<AtomicU64>,
}

impl Players {
    fn new(kind: &str) -> Self {
        Self {
            keys: (0..PLAYERS)
                .map(|number| name(kind, number).into())
                .collect(),
            given: (0..PLAYERS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    async fn reward<G: Asked>(&self, node: &Node, at: usize) -> Res<()> {
        node.call::<G>(&self.keys[at], Call::Reward(1)).await?;
        self.given[at].fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn points<G: Asked>(&self, node: &Node, at: usize) -> Res<i64> {
        Ok(node.call::<G>(&self.keys[at], Call::Points).await?)
    }

    /// Every player has what it was given: no reward lost, none doubled.
    async fn check<G: Asked>(&self, node: &Node) -> Res<()> {
        for (at, given) in self.given.iter().enumerate() {
            let given = i64::try_from(given.load(Ordering::Relaxed))?;
            let points = self.points::<G>(node, at).await?;
            if points != given {
                let key = &self.keys[at];
                return Err(format!("{key} has {points} points, and was given {given}").into());
            }
        }
        Ok(())
    }
}

/// Both types are asked the same.
trait Asked: GenServer<Call = Call, Reply = i64> {}

impl<G: GenServer<Call = Call, Reply = i64>> Asked for G {}

/// What the clients ask for.
#[derive(Clone, Copy)]
enum Way {
    Floor,
    Local,
    Guests,
    Spread,
    Reads,
    GuestReads,
}

impl FromStr for Way {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "floor" => Ok(Self::Floor),
            "local" => Ok(Self::Local),
            "guests" => Ok(Self::Guests),
            "spread" => Ok(Self::Spread),
            "reads" => Ok(Self::Reads),
            "guest-reads" => Ok(Self::GuestReads),
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
    let builder = Node::builder(config).register(Player {});
    let node = builder.register_shared(Guest {}).start().await?;
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
            let node = &bench.node;
            let checked = bench.local.check::<Player>(node).await;
            let checked = checked.and(bench.guests.check::<Guest>(node).await);
            match checked.and(bench.spread.check::<Player>(node).await) {
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
        let sample = closed_loop(in_flight, wait, Arc::new(Clients { bench, way }));
        println!("{}", sample.await?);
    }
    let _ = bench.node.leave().await;
    Ok(())
}

/// Makes the players that are to live here.
async fn prepare(node: Node, index: usize) -> Res<Bench> {
    node.wait_for(|view| view.members.len() == NODES).await;
    let [local, guests, spread] = ["local", "guest", "spread"].map(Players::new);
    let mut plain = Vec::new();
    for at in (index..PLAYERS).step_by(NODES) {
        spread.points::<Player>(&node, at).await?;
    }
    if index == 0 {
        for at in 0..PLAYERS {
            local.points::<Player>(&node, at).await?;
            guests.points::<Guest>(&node, at).await?;
            plain.push(Actor::spawn(None, Plain, ()).await?.0);
        }
    }
    Ok(Bench {
        node,
        plain,
        local,
        guests,
        spread,
    })
}

struct Clients {
    bench: Arc<Bench>,
    way: Way,
}

impl Give for Clients {
    async fn give(&self, at: usize) -> Res<()> {
        let Bench {
            node,
            plain,
            local,
            guests,
            spread,
        } = &*self.bench;
        match self.way {
            Way::Floor => {
                ractor::call!(plain[at], |port| Reward(1, port))?;
            }
            Way::Local => local.reward::<Player>(node, at).await?,
            Way::Guests => guests.reward::<Guest>(node, at).await?,
            Way::Spread => spread.reward::<Player>(node, at).await?,
            Way::Reads => {
                local.points::<Player>(node, at).await?;
            }
            Way::GuestReads => {
                guests.points::<Guest>(node, at).await?;
            }
        }
        Ok(())
    }
}
