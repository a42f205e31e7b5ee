//! The whole framework in one file: a server type, a node, a cluster, calls by key.
//!
//! ```text
//! cargo run --example players -- one          # in one terminal
//! cargo run --example players -- two one      # in another: joins the first, and rewards some players
//! ```

use std::error::Error;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use statekeeper::config::Config;
use statekeeper::protocol::types::Epoch;
use statekeeper::{CallError, GenServer, Node};

/// The server type: each player is one actor of it, unique in the cluster.
struct Player;

/// What a player owns. It is backed up on another node before every answer.
#[derive(Serialize, Deserialize)]
struct Points(i64);

/// What a player can be asked.
#[derive(Serialize, Deserialize)]
enum Call {
    Reward(i64),
    Total,
}

impl GenServer for Player {
    const NAME: &'static str = "example.player";
    type State = Points;
    type Call = Call;
    type Reply = i64;

    fn init(&self, _key: &str) -> Points {
        Points(0)
    }

    async fn handle_call(&self, key: &str, call: Call, points: &mut Points) -> i64 {
        match call {
            // A panic ends this player alone; its supervisor brings it back with the points of its last answer.
            Call::Reward(amount) if amount < 0 => panic!("{key} is to be rewarded, not robbed"),
            Call::Reward(amount) => points.0 = points.0.saturating_add(amount),
            Call::Total => {}
        }
        points.0
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let name = args.next().ok_or("usage: players NAME [PEER]")?;

    let node = Node::builder(Config::new(name))
        .register(Player)
        .start()
        .await?;
    println!("{} listens on {}", node.name(), node.addr());

    match args.next() {
        Some(peer) => {
            node.connect(&peer).await?;
            play(&node).await?;
        }
        None => serve(&node).await,
    }

    // Hands everything over to the others: nothing is lost.
    node.leave().await?;
    Ok(())
}

/// Asks players by their names, wherever they are.
async fn play(node: &Node) -> Result<(), CallError> {
    for (player, amount) in [("alice", 5), ("bob", 7), ("alice", 2)] {
        let total = node.call::<Player>(player, Call::Reward(amount)).await?;
        println!("{player} has {total} points");
    }

    match node.call::<Player>("bob", Call::Reward(-1)).await {
        Err(CallError::Crashed(report)) => println!("as expected: {report}"),
        other => println!("a surprise: {other:?}"),
    }
    println!(
        "bob still has {} points",
        node.call::<Player>("bob", Call::Total).await?
    );

    if let Some(found) = node.whereis::<Player>("bob").await? {
        println!(
            "bob lives on {:?}, his points also on {:?}",
            found.node, found.keepers
        );
    }
    Ok(())
}

/// Serves whoever asks, until nobody else is in the cluster any more.
async fn serve(node: &Node) {
    loop {
        let view = node.view();
        // Every change of the members is a new epoch; before the first one, nobody has come yet.
        if view.epoch > Epoch(1) && view.members.len() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("the others have left; what they had is here until this node ends, too");
}
