//! What one would write first with ractor_cluster alone: an actor per player, which makes one call to a keeper actor on
//! the other node for each reward, and answers when that is answered. No views, no leases, no request ids.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, pg};
use ractor_cluster::{IncomingEncryptionMode, NodeServer, RactorClusterMessage, client_connect};

use crate::support::Res;
use crate::support::load::{Give, PLAYERS, closed_loop, lines, order};
use crate::support::player::Reward;

/// The keepers of the other node; each player has one of them.
const KEEPERS: usize = 16;
const COOKIE: &str = "a benchmark on loopback";
const PATIENCE: Duration = Duration::from_secs(30);

struct Keeper;

#[derive(RactorClusterMessage)]
enum Keep {
    #[rpc]
    Put(String, i64, RpcReplyPort<bool>),
    #[rpc]
    Get(String, RpcReplyPort<i64>),
}

impl Actor for Keeper {
    type Msg = Keep;
    type State = HashMap<String, i64>;
    type Arguments = ();

    async fn pre_start(
        &self,
        _: ActorRef<Keep>,
        (): (),
    ) -> Result<HashMap<String, i64>, ActorProcessingErr> {
        Ok(HashMap::new())
    }

    async fn handle(
        &self,
        _: ActorRef<Keep>,
        message: Keep,
        records: &mut HashMap<String, i64>,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Keep::Put(name, points, port) => {
                records.insert(name, points);
                Ok(port.send(true)?)
            }
            Keep::Get(name, port) => Ok(port.send(records.get(&name).copied().unwrap_or(0))?),
        }
    }
}

struct Player {
    name: String,
    keeper: ActorRef<Keep>,
}

impl Actor for Player {
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
        ractor::call!(self.keeper, Keep::Put, self.name.clone(), *total)?;
        Ok(port.send(*total)?)
    }
}

fn group(keeper: usize) -> String {
    format!("keeper{keeper}")
}

async fn server(name: &str, port: u16) -> Res<ActorRef<ractor_cluster::NodeServerMessage>> {
    let server = NodeServer::new(
        port,
        COOKIE.to_owned(),
        name.to_owned(),
        "localhost".to_owned(),
        Some(IncomingEncryptionMode::Raw),
        None,
    );
    let server = server.with_listen_addr("127.0.0.1".parse::<std::net::IpAddr>()?);
    Ok(Actor::spawn(None, server, ()).await?.0)
}

/// The node of the keepers: does what it is asked, until its input ends.
pub(crate) async fn keepers(port: u16) -> Res<()> {
    server("keepers", port).await?;
    for keeper in 0..KEEPERS {
        let (actor, _) = Actor::spawn(None, Keeper, ()).await?;
        pg::join(group(keeper), vec![actor.get_cell()]);
    }
    println!("up");
    let mut lines = lines();
    while lines.recv().await.is_some() {
        println!("{}", crate::allocations());
    }
    Ok(())
}

/// The node of the players, with the clients inside.
pub(crate) async fn owner(port: u16) -> Res<()> {
    let server = server("owner", 0).await?;
    client_connect(&server, ("127.0.0.1", port)).await?;
    let mut keepers: Vec<ActorRef<Keep>> = Vec::new();
    let found = async {
        while keepers.len() < KEEPERS {
            match pg::get_members(&group(keepers.len())).into_iter().next() {
                Some(cell) => keepers.push(cell.into()),
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, found).await?;
    let mut players = Vec::new();
    for number in 0..PLAYERS {
        let player = Player {
            name: format!("naive{number:011}"),
            keeper: keepers[number % KEEPERS].clone(),
        };
        players.push(Actor::spawn(None, player, ()).await?.0);
    }
    println!("up");
    let given = (0..PLAYERS).map(|_| AtomicI64::new(0)).collect();
    let players = Arc::new(Players { players, given });
    let mut lines = lines();
    while let Some(line) = lines.recv().await {
        if line == "check" {
            println!("{}", check(&keepers, &players.given).await?);
            continue;
        }
        if line == "allocations" {
            println!("{}", crate::allocations());
            continue;
        }
        let (_, in_flight, wait) = order(&line)?;
        println!("{}", closed_loop(in_flight, wait, players.clone()).await?);
    }
    Ok(())
}

struct Players {
    players: Vec<ActorRef<Reward>>,
    /// How many rewards of 1 each of them got.
    given: Vec<AtomicI64>,
}

impl Give for Players {
    async fn give(&self, at: usize) -> Res<()> {
        ractor::call!(self.players[at], |port| Reward(1, port))?;
        self.given[at].fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

async fn check(keepers: &[ActorRef<Keep>], given: &[AtomicI64]) -> Res<String> {
    for (number, given) in given.iter().enumerate() {
        let name = format!("naive{number:011}");
        let kept = ractor::call!(keepers[number % KEEPERS], Keep::Get, name.clone())?;
        let given = given.load(Ordering::Relaxed);
        if kept != given {
            return Ok(format!(
                "wrong {name} has {kept} points, and was given {given}"
            ));
        }
    }
    Ok("right".to_owned())
}
