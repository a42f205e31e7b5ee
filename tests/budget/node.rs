//! A node that counts what it allocates.
//!
//! ```text
//!   connect PEER            ->  connected
//!   prepare                 ->  ready    players that live here
//!   give COUNT IN_FLIGHT    ->  given    so many rewards, by so many clients
//!   allocations             ->  how many there were so far
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use statekeeper::config::{Config, Timings};
use statekeeper::protocol::members::Status;
use statekeeper::protocol::types::Millis;
use statekeeper::{Node, ViewInfo};

use crate::ALLOCATOR;
use crate::support::Res;
use crate::support::load::lines;
use crate::support::player::{Call, Player, name};

const PLAYERS: u64 = 1_000;

/// Runs the node of that name until its input ends.
pub(crate) async fn run(name: &str) -> Res<()> {
    let config = Config {
        call_timeout: Duration::from_secs(60),
        // However busy the machine is, nobody is taken for lost.
        timings: Timings {
            lease: Millis(30_000),
            promise: Millis(36_000),
            suspicion: Millis(40_000),
            ..Timings::default()
        },
        ..Config::new(name)
    };
    let node = Node::builder(config).register(Player {}).start().await?;
    println!("up");
    let mut lines = lines();
    let mut keys = Arc::default();
    while let Some(line) = lines.recv().await {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["connect", peer] => {
                node.connect(peer).await?;
                println!("connected");
            }
            ["prepare"] => {
                let whole =
                    |view: &ViewInfo| view.members.len() == 2 && view.status == Status::Serving;
                node.wait_for(whole).await;
                keys = prepare(&node).await?;
                println!("ready");
            }
            ["give", count, in_flight] => {
                give(&node, &keys, count.parse()?, in_flight.parse()?).await?;
                println!("given");
            }
            ["allocations"] => {
                let stats = ALLOCATOR.stats();
                println!("{}", stats.allocations + stats.reallocations);
            }
            _ => return Err(format!("not understood: {line}").into()),
        }
    }
    let _ = node.leave().await;
    Ok(())
}

async fn prepare(node: &Node) -> Res<Arc<Vec<String>>> {
    let mut keys = Vec::new();
    for number in 0..usize::try_from(PLAYERS)? {
        let key = name("player", number);
        node.call::<Player>(&key, Call::Points).await?;
        keys.push(key);
    }
    Ok(Arc::new(keys))
}

async fn give(node: &Node, keys: &Arc<Vec<String>>, count: u64, in_flight: usize) -> Res<()> {
    let given = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..in_flight)
        .map(|_| {
            let (node, keys, given) = (node.clone(), keys.clone(), given.clone());
            tokio::spawn(async move {
                loop {
                    let number = given.fetch_add(1, Relaxed);
                    if number >= count {
                        return Ok(());
                    }
                    let key = &keys[usize::try_from(number % PLAYERS).unwrap_or(0)];
                    if let Err(reason) = node.call::<Player>(key, Call::Reward(1)).await {
                        return Err(format!("{key}: {reason}"));
                    }
                }
            })
        })
        .collect();
    for client in clients {
        client.await??;
    }
    Ok(())
}
