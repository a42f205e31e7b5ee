//! Three nodes' memberships in virtual time, with chance for a network, and a stranger that knows the cookie.

use serde::{Deserialize, Serialize};
use statekeeper::protocol::agreement::{self, Ballot};
use statekeeper::protocol::members::{
    Effect, Input, Members, Msg, OnPossibleLoss, Refusal, Terms, Timings,
};
use statekeeper::protocol::types::{ClusterId, Epoch, Member, Millis, NodeId};
use statekeeper::protocol::view::View;

use super::dice::Dice;
use super::mutate::{broken, number};

/// No honest step wants more done than this; a hostile one must not either.
const EFFECTS_MAX: usize = 5_000;
/// What a machine may be when it is printed, in bytes: its collections are bounded.
const PRINTED_MAX: usize = 4 << 20;
/// How much of the traffic is remembered.
const HEARD_MAX: usize = 200;

pub(crate) struct World {
    dice: Dice,
    now: u64,
    nodes: Vec<Members>,
    net: Vec<(NodeId, NodeId, Msg)>,
    heard: Vec<(NodeId, Msg)>,
    /// How many messages were refused as no node's.
    pub(crate) refused: u64,
}

/// What a hostile peer does to one node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Attack {
    to: usize,
    from: NodeId,
    msg: Msg,
    times: u32,
}

fn member(n: usize, life: u64) -> Member {
    Member {
        id: NodeId::new(format!("node{n}@h"), life),
        addr: format!("h:{n}").into(),
    }
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let node = |n: usize| {
            let cluster = ClusterId(n as u64 + 1);
            Members::new(
                member(n, 1),
                cluster,
                Timings::default(),
                1,
                seed + n as u64,
            )
        };
        let mut world = Self {
            dice: Dice::new(seed),
            now: 10_000,
            nodes: (0..3).map(node).collect(),
            net: Vec::new(),
            heard: Vec::new(),
            refused: 0,
        };
        world.link();
        for n in 1..3 {
            let peer = world.nodes[0].me().id.clone();
            world.step(n, Input::Connect { peer, token: 1 });
            for _ in 0..150 {
                world.calm();
            }
        }
        world
    }

    /// Everybody is linked with everybody who lives, and with the stranger.
    fn link(&mut self) {
        let mut all: Vec<Member> = self.nodes.iter().map(|node| node.me().clone()).collect();
        all.push(member(7, 5));
        for n in 0..3 {
            for peer in &all {
                if peer.id != self.nodes[n].me().id {
                    self.step(n, Input::LinkUp(peer.clone()));
                }
            }
        }
    }

    /// Time passes, and nothing is lost.
    pub(crate) fn calm(&mut self) {
        self.now += 50;
        for n in 0..3 {
            self.step(n, Input::Tick);
        }
        for (from, to, msg) in std::mem::take(&mut self.net) {
            self.deliver(from, &to, msg);
        }
        for n in 0..3 {
            let epoch = self.nodes[n].view().epoch;
            for complete in [false, true] {
                self.step(n, Input::Synced { epoch, complete });
            }
        }
    }

    /// Time passes, and chance rules.
    pub(crate) fn stir(&mut self) {
        match self.dice.between(0, 20) {
            0 => {
                let n = self.dice.between(0, 3) as usize;
                let peer = self.nodes[self.dice.between(0, 3) as usize].me().id.clone();
                let refused = self.dice.percent(50);
                self.step(n, Input::LinkDown { peer, refused });
            }
            1..3 => self.link(),
            3 => self.now += self.dice.between(0, 3_000),
            4 => drop(self.net.pop()),
            _ => self.calm(),
        }
    }

    fn deliver(&mut self, from: NodeId, to: &NodeId, msg: Msg) {
        if let Some(n) = (0..3).find(|n| self.nodes[*n].me().id == *to) {
            self.step(n, Input::Message { from, msg });
        }
    }

    /// One step of one machine. Whatever the input: no panic, and everything within its limits.
    fn step(&mut self, n: usize, input: Input) {
        let mut out = Vec::new();
        self.nodes[n].handle(Millis(self.now), input, &mut out);
        assert!(out.len() <= EFFECTS_MAX, "{} effects", out.len());
        for effect in out {
            match effect {
                Effect::Send { to, msg } => {
                    let from = self.nodes[n].me().id.clone();
                    if self.heard.len() < HEARD_MAX {
                        self.heard.push((from.clone(), msg.clone()));
                    } else {
                        let at = self.dice.between(0, HEARD_MAX as u64) as usize;
                        self.heard[at] = (from.clone(), msg.clone());
                    }
                    // What nobody takes in is lost.
                    if self.net.len() < 1_000 {
                        self.net.push((from, to, msg));
                    }
                }
                Effect::Refused { .. } => self.refused += 1,
                Effect::Install(_)
                | Effect::Lease { .. }
                | Effect::Dial { .. }
                | Effect::Hangup(_)
                | Effect::Rejoin(_)
                | Effect::Answer { .. }
                | Effect::Left
                | Effect::PossibleLoss { .. } => {}
            }
        }
    }

    /// The machines are as large as machines are.
    pub(crate) fn check_sizes(&self) {
        for node in &self.nodes {
            let printed = format!("{node:?}").len();
            assert!(printed <= PRINTED_MAX, "{printed} bytes");
        }
    }

    /// Whether all three are in views of three.
    pub(crate) fn united(&self) -> bool {
        self.nodes.iter().all(|node| node.view().members.len() == 3)
    }

    /// A message that no node of ours sends, or not now.
    pub(crate) fn attack(&mut self) -> Option<Attack> {
        let dice = &mut self.dice;
        let mut ids: Vec<NodeId> = self.nodes.iter().map(|node| node.me().id.clone()).collect();
        ids.extend([member(7, 5).id, member(0, 9).id, member(1, u64::MAX).id]);
        let (sender, heard) = dice.pick(&self.heard)?;
        let msg = match dice.between(0, 3) {
            0 => broken(dice, &heard)?,
            1 => heard,
            _ => {
                let view = self.nodes[dice.between(0, 3) as usize].view().clone();
                made_up(dice, &view, &ids)
            }
        };
        let from = if dice.percent(60) {
            dice.pick(&ids)?
        } else {
            sender
        };
        Some(Attack {
            to: dice.between(0, 3) as usize,
            from,
            msg,
            times: if dice.percent(1) { 500 } else { 1 },
        })
    }

    /// Carries it out.
    pub(crate) fn suffer(&mut self, attack: &Attack) {
        for _ in 0..attack.times {
            let (from, msg) = (attack.from.clone(), attack.msg.clone());
            self.step(attack.to, Input::Message { from, msg });
        }
    }
}

/// A view like that one, and wrong in some way, or right.
fn some_view(dice: &mut Dice, like: &View, ids: &[NodeId]) -> View {
    let mut view = like.clone();
    view.epoch = Epoch(number(dice, like.epoch.0 + 1));
    if dice.percent(20) {
        view.cluster = ClusterId(dice.roll());
    }
    match dice.between(0, 7) {
        0 => view.members.clear(),
        1 => view.members.reverse(),
        2 => view.leaving = ids.to_vec(),
        3 => view.members = (0..3_000).map(|n| member(n, 1)).collect(),
        4 => {
            let life = number(dice, 2);
            view.members = vec![member(0, life)];
        }
        5 => drop(view.members.pop()),
        _ => {}
    }
    if dice.percent(50) {
        view.members.sort();
    }
    view
}

/// A message that nothing led to.
fn made_up(dice: &mut Dice, view: &View, ids: &[NodeId]) -> Msg {
    let epoch = Epoch(number(dice, view.epoch.0));
    let id = dice.pick(ids).expect("there are some");
    let many = |dice: &mut Dice| -> Vec<NodeId> {
        match dice.between(0, 3) {
            0 => ids.to_vec(),
            1 => Vec::new(),
            _ => (0..3_000).map(|n| member(n, 1).id).collect(),
        }
    };
    match dice.between(0, 12) {
        0 => Msg::Ping {
            epoch,
            sent: Millis(dice.roll()),
            unheard: many(dice),
        },
        1 => Msg::Pong {
            epoch,
            sent: Millis(number(dice, 10_000)),
        },
        2..6 => {
            let ballot = Ballot {
                round: number(dice, 1),
                node: id,
            };
            let view_of = some_view(dice, view, ids);
            let step = match dice.between(0, 4) {
                0 => agreement::Msg::Prepare {
                    ballot,
                    out: many(dice),
                },
                1 => agreement::Msg::Promise {
                    ballot: ballot.clone(),
                    accepted: Some((ballot, view_of)),
                },
                2 => agreement::Msg::Accept {
                    ballot,
                    view: view_of,
                },
                _ => agreement::Msg::Accepted { ballot },
            };
            Msg::Agree {
                epoch: if dice.percent(70) { view.epoch } else { epoch },
                dead: many(dice),
                step,
            }
        }
        6 => Msg::ViewIs(some_view(dice, view, ids)),
        7 => Msg::Join {
            member: Member {
                addr: "x".repeat(dice.between(0, 600) as usize).into(),
                id,
            },
            terms: Terms {
                lease: Millis(1_000),
                promise: Millis(1_250),
                backups: 1,
                on_possible_loss: OnPossibleLoss::Continue,
            },
        },
        8 => Msg::Refused(Refusal::Evicted {
            known: number(dice, 1),
        }),
        9 => Msg::Declined {
            cluster: view.cluster,
            epoch,
            member: id,
        },
        10 => Msg::Farewell {
            handed_over: dice.percent(50),
        },
        _ => dice
            .pick(&[Msg::Invite, Msg::ViewWanted])
            .expect("there are some"),
    }
}
