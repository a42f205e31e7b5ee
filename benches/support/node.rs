//! A node of the product, as a process of its own that does what it is told.
//!
//! ```text
//!   connect PEER                      ->  connected
//!   await MEMBERS                     ->  there            that many serve, and all copies are in place
//!   make FROM TO POINTS               ->  made             players that live here
//!   wake FROM TO                      ->  woken            players, wherever they are at rest
//!   rest                              ->  resting          no player lives here any more
//!   census NODE                       ->  HERE KEPT        players that live here; those of them that NODE keeps
//!   load IN_FLIGHT FROM TO STRANGER_IN ALL START_US  ->  loading
//!   window FROM_US TO_US              ->  ANSWERS WORST_US US
//!   latency                           ->  P50 P99          in microseconds, since the last time
//!   stop                              ->  FAILED REASON    the clients end
//!   views                             ->  US:MEMBERS:SERVING ...
//!   leave                             ->  left, or the reason why not
//! ```

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{self, TryStreamExt};
use statekeeper::config::Config;
use statekeeper::protocol::members::Status;
use statekeeper::{Node, ViewInfo};
use tokio::task::JoinHandle;

use super::load::lines;
use super::player::{Call, Player, name};
use super::timeline::{Timeline, Whom, now_us};
use super::{GUARDIAN, Res};

/// How many players are made at a time.
const MADE_AT_A_TIME: usize = 512;

/// When this node's view changed: the time, how many members, whether it serves.
type Views = Arc<Mutex<Vec<(u64, usize, bool)>>>;

/// Plays the role of a node.
pub(crate) async fn play(role: String) -> Res<()> {
    match role.split(' ').collect::<Vec<_>>()[..] {
        ["node", name, idle_ms, shared] => run(name, idle_ms.parse()?, shared.parse()?).await,
        _ => Err(format!("no such role: {role}").into()),
    }
}

/// Runs the node of that name until its input ends; its players share actors or have one each.
async fn run(name: &str, idle_ms: u64, shared: bool) -> Res<()> {
    let this = std::env::current_exe()?.into_os_string();
    let config = Config {
        call_timeout: Duration::from_secs(60),
        guardian: Some(vec![this, GUARDIAN.into()]),
        idle: Duration::from_millis(idle_ms),
        ..Config::new(name)
    };
    let builder = Node::builder(config);
    let builder = if shared {
        builder.register_shared(Player {})
    } else {
        builder.register(Player {})
    };
    let node = builder.start().await?;
    let views = Views::default();
    let watcher = tokio::spawn(watch(node.clone(), views.clone()));
    println!("up");
    let mut role = Role {
        node,
        views,
        load: None,
    };
    let mut lines = lines();
    while let Some(line) = lines.recv().await {
        println!("{}", role.answer(&line).await?);
    }
    watcher.abort();
    let _ = role.node.leave().await;
    Ok(())
}

async fn watch(node: Node, views: Views) {
    let mut last = node.view();
    loop {
        let view = node.wait_for(|view| *view != last).await;
        let seen = (now_us(), view.members.len(), view.status == Status::Serving);
        views.lock().expect("nobody panicked").push(seen);
        last = view;
    }
}

struct Role {
    node: Node,
    views: Views,
    load: Option<(Arc<Timeline>, Vec<JoinHandle<()>>)>,
}

impl Role {
    async fn answer(&mut self, line: &str) -> Res<String> {
        let words: Vec<&str> = line.split(' ').collect();
        Ok(match words[..] {
            ["connect", peer] => {
                self.node.connect(peer).await?;
                "connected".to_owned()
            }
            ["await", members] => {
                let members: usize = members.parse()?;
                let whole = |view: &ViewInfo| {
                    view.members.len() == members && view.status == Status::Serving
                };
                self.node.wait_for(whole).await;
                "there".to_owned()
            }
            ["make", from, to, points] => {
                let points = points.parse()?;
                self.ask_all(from.parse()?, to.parse()?, || Call::Reward(points))
                    .await?;
                "made".to_owned()
            }
            ["wake", from, to] => {
                self.ask_all(from.parse()?, to.parse()?, || Call::Points)
                    .await?;
                "woken".to_owned()
            }
            ["rest"] => {
                while !self.node.local::<Player>().await?.is_empty() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                "resting".to_owned()
            }
            ["census", keeper] => {
                let here = self.node.local::<Player>().await?;
                let kept = here
                    .iter()
                    .filter(|player| player.keepers.iter().any(|name| name.short() == keeper));
                format!("{} {}", here.len(), kept.count())
            }
            ["load", in_flight, from, to, stranger_in, all, start_us] => {
                let whom = Whom {
                    own: (from.parse()?, to.parse()?),
                    stranger_in: stranger_in.parse()?,
                    all: all.parse()?,
                };
                let (in_flight, start_us) = (in_flight.parse()?, start_us.parse()?);
                self.load = Some(Timeline::start(&self.node, in_flight, whom, start_us)?);
                "loading".to_owned()
            }
            ["window", from, to] => {
                let window = self.timeline()?.window(from.parse()?, to.parse()?);
                format!("{} {} {}", window.answers, window.worst_us, window.us)
            }
            ["latency"] => {
                let (p50, p99) = self.timeline()?.latency()?;
                format!("{p50} {p99}")
            }
            ["stop"] => {
                let (timeline, clients) = self.load.as_mut().ok_or("no load")?;
                timeline.stop();
                for client in clients.drain(..) {
                    client.await?;
                }
                let (failed, reason) = timeline.failed();
                format!("{failed} {reason}")
            }
            ["views"] => {
                let views = self.views.lock().expect("nobody panicked");
                let views: Vec<String> = views
                    .iter()
                    .map(|(us, members, serves)| format!("{us}:{members}:{}", u8::from(*serves)))
                    .collect();
                views.join(" ")
            }
            ["leave"] => match self.node.leave().await {
                Ok(()) => "left".to_owned(),
                Err(reason) => reason.to_string(),
            },
            _ => return Err(format!("not understood: {line}").into()),
        })
    }

    fn timeline(&self) -> Res<&Timeline> {
        Ok(&self.load.as_ref().ok_or("no load")?.0)
    }

    async fn ask_all(&self, from: usize, to: usize, call: impl Fn() -> Call) -> Res<()> {
        let node = &self.node;
        stream::iter(from..to)
            .map(|player| {
                let call = call();
                async move { node.call::<Player>(&name("player", player), call).await }
            })
            .buffer_unordered(MADE_AT_A_TIME)
            .try_for_each(|_| async { Ok(()) })
            .await?;
        Ok(())
    }
}
