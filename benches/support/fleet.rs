//! Nodes of one cluster under a load that goes on while they come and go.

use std::path::PathBuf;

use super::Res;
use super::process::{Process, node, wire_bytes};
use super::timeline::{Window, now_us};

/// One client request in so many is for a player of any node; the others are for players of the client's own.
const STRANGER_IN: u32 = 16;

/// A running node.
pub(crate) struct Running {
    pub(crate) name: String,
    pub(crate) process: Process,
    /// It came when the clients were there already, and has none.
    is_late: bool,
}

/// How the nodes have their players.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mode {
    /// After which time they go to rest, in milliseconds; 0: never.
    pub(crate) idle_ms: u64,
    /// Whether they share actors.
    pub(crate) shared: bool,
    /// How many threads each node works with, if not as many as there are processors.
    pub(crate) threads: Option<usize>,
}

/// The nodes, all in one cluster.
pub(crate) struct Fleet {
    /// Nodes of their own: no surprise for those that run here already.
    dir: PathBuf,
    pub(crate) nodes: Vec<Running>,
    mode: Mode,
    started: usize,
    is_loaded: bool,
}

/// A time, and what was sent over loopback until then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    pub(crate) us: u64,
    pub(crate) wire: u64,
}

impl Mark {
    pub(crate) fn now() -> Res<Self> {
        Ok(Self {
            us: now_us(),
            wire: wire_bytes()?,
        })
    }
}

/// A change of the view, as the nodes that remain saw it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    /// When the first and the last of them had the new view, and when the last had all copies in place.
    pub(crate) first_us: u64,
    pub(crate) decided_us: u64,
    pub(crate) whole_us: u64,
}

impl Fleet {
    pub(crate) fn start(dir: PathBuf, nodes: usize, mode: Mode) -> Res<Self> {
        let mut fleet = Self {
            dir,
            nodes: Vec::new(),
            mode,
            started: 0,
            is_loaded: false,
        };
        fleet.add()?;
        for _ in 1..nodes {
            fleet.add()?;
            fleet.join()?;
        }
        fleet.wait()?;
        Ok(fleet)
    }

    /// Starts a node that is connected to none.
    pub(crate) fn add(&mut self) -> Res<()> {
        let name = format!("n{}", self.started);
        self.started += 1;
        let Mode {
            idle_ms,
            shared,
            threads,
        } = self.mode;
        let role = format!("node {name} {idle_ms} {shared}");
        let process = Process::start(node(&role, &self.dir, threads)?)?;
        self.nodes.push(Running {
            name,
            process,
            is_late: self.is_loaded,
        });
        Ok(())
    }

    /// Connects the node that was started last.
    pub(crate) fn join(&mut self) -> Res<()> {
        let name = self.nodes.last().ok_or("no node")?.name.clone();
        let first = &mut self.nodes[0].process;
        first.order(&format!("connect {name}"), "connected")
    }

    /// Waits until all nodes serve, and all copies are in place.
    pub(crate) fn wait(&mut self) -> Res<()> {
        let line = format!("await {}", self.nodes.len());
        self.each(
            |_| line.clone(),
            |_, answer| match answer {
                "there" => Ok(()),
                other => Err(format!("'{other}' instead of 'there'").into()),
            },
        )
    }

    /// Asks all nodes at once, and hears them one after the other.
    pub(crate) fn each(
        &mut self,
        line: impl Fn(usize) -> String,
        mut hear: impl FnMut(usize, &str) -> Res<()>,
    ) -> Res<()> {
        for (number, node) in self.nodes.iter_mut().enumerate() {
            node.process.tell(&line(number))?;
        }
        for (number, node) in self.nodes.iter_mut().enumerate() {
            hear(number, &node.process.answer()?)?;
        }
        Ok(())
    }

    /// Players with that many points, evenly on all nodes.
    pub(crate) fn make(&mut self, players: usize, points: i64) -> Res<()> {
        let nodes = self.nodes.len();
        self.each(
            |node| {
                let (from, to) = share(players, nodes, node);
                format!("make {from} {to} {points}")
            },
            |_, _| Ok(()),
        )
    }

    /// Starts clients on every node.
    pub(crate) fn load(&mut self, in_flight: usize, players: usize) -> Res<()> {
        self.is_loaded = true;
        let (nodes, start) = (self.nodes.len(), now_us());
        self.each(
            |node| {
                let (from, to) = share(players, nodes, node);
                format!("load {in_flight} {from} {to} {STRANGER_IN} {players} {start}")
            },
            |_, _| Ok(()),
        )
    }

    /// What the clients of all nodes saw together in that time.
    pub(crate) fn window(&mut self, from_us: u64, to_us: u64) -> Res<Window> {
        let mut sum = Window::default();
        for node in self.loaded() {
            let answer = node.process.ask(&format!("window {from_us} {to_us}"))?;
            let [answers, worst_us, us] = numbers(&answer)?;
            sum.answers += answers;
            sum.worst_us = sum.worst_us.max(worst_us);
            sum.us = us;
        }
        Ok(sum)
    }

    /// The highest 50th and 99th percentile of all nodes since the last time.
    pub(crate) fn latency(&mut self) -> Res<(u64, u64)> {
        let mut worst = (0, 0);
        for node in self.loaded() {
            let [p50, p99] = numbers(&node.process.ask("latency")?)?;
            worst = (worst.0.max(p50), worst.1.max(p99));
        }
        Ok(worst)
    }

    /// Ends the clients; how many requests failed, and why.
    pub(crate) fn stop(&mut self) -> Res<(u64, String)> {
        let mut all = (0, String::new());
        for node in self.loaded() {
            let answer = node.process.ask("stop")?;
            let (failed, reason) = answer.split_once(' ').unwrap_or((&answer, ""));
            let failed: u64 = failed.parse()?;
            if failed > 0 {
                all = (all.0 + failed, reason.to_owned());
            }
        }
        Ok(all)
    }

    /// How many players live on each node, and how many of them `keeper` keeps.
    pub(crate) fn census(&mut self, keeper: &str) -> Res<Vec<(u64, u64)>> {
        let mut found = Vec::new();
        self.each(
            |_| format!("census {keeper}"),
            |_, answer| {
                let [here, kept] = numbers(answer)?;
                found.push((here, kept));
                Ok(())
            },
        )?;
        Ok(found)
    }

    /// When those nodes had the view of `members`, which came after `since`, and all its copies.
    pub(crate) fn change(&mut self, since_us: u64, members: usize) -> Res<Change> {
        let mut change = Change {
            first_us: u64::MAX,
            decided_us: since_us,
            whole_us: since_us,
        };
        self.each(
            |_| "views".to_owned(),
            |node, answer| {
                let views: Vec<Vec<u64>> = answer
                    .split_whitespace()
                    .map(|view| view.split(':').map(str::parse).collect())
                    .collect::<Result<_, _>>()?;
                let first = |serves: bool| {
                    let mut views = views.iter();
                    let is = |view: &&Vec<u64>| {
                        view[0] >= since_us
                            && view[1] == members as u64
                            && (!serves || view[2] == 1)
                    };
                    let found = views.find(is).map(|view| view[0]);
                    found.ok_or_else(|| format!("node {node} never saw {members} members"))
                };
                let decided_us = first(false)?;
                change.first_us = change.first_us.min(decided_us);
                change.decided_us = change.decided_us.max(decided_us);
                change.whole_us = change.whole_us.max(first(true)?);
                Ok(())
            },
        )?;
        Ok(change)
    }

    /// Kills a node's process without any warning.
    pub(crate) fn kill9(&mut self, number: usize) -> Res<()> {
        self.nodes.remove(number).process.kill9()
    }

    /// The memory of all nodes, in bytes.
    pub(crate) fn resident(&self) -> Res<Vec<u64>> {
        self.nodes
            .iter()
            .map(|node| node.process.resident())
            .collect()
    }

    /// Nodes that have clients: all but those that joined later.
    fn loaded(&mut self) -> impl Iterator<Item = &mut Running> {
        self.nodes.iter_mut().filter(|node| !node.is_late)
    }
}

/// Which players are those of a node.
fn share(players: usize, nodes: usize, node: usize) -> (usize, usize) {
    (players * node / nodes, players * (node + 1) / nodes)
}

fn numbers<const N: usize>(line: &str) -> Res<[u64; N]> {
    let numbers: Vec<u64> = line
        .split(' ')
        .map(str::parse)
        .collect::<Result<_, _>>()
        .map_err(|_| format!("no numbers: {line}"))?;
    <[u64; N]>::try_from(numbers).map_err(|_| format!("not {N} numbers: {line}").into())
}
