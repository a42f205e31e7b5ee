//! Three nodes of one part each, with chance for a network: the valid traffic that hostile messages are made of.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use statekeeper::protocol::blob::Blob;
use statekeeper::protocol::shard::{Answer, Effect, Input, Msg, Ran, Request, Shard};
use statekeeper::protocol::types::{ClusterId, Epoch, Key, Kind, Member, NodeId, RequestId};
use statekeeper::protocol::view::View;

use super::dice::Dice;
use super::mutate;

/// Limits small enough to be met all the time.
const PENDING_MAX: usize = 64;
pub(crate) const BYTES_MAX: usize = 64 * 1024;
/// No honest step wants more done than this; a hostile one must not either.
const EFFECTS_MAX: usize = 20_000;
/// How much of the traffic is remembered.
const HEARD_MAX: usize = 200;
/// How often a healing cluster gets to say everything until it must be quiet.
const ROUNDS_MAX: usize = 400;

/// A message on its way.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Packet {
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) epoch: Epoch,
    pub(crate) msg: Msg,
}

/// What a hostile peer does to one node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Attack {
    to: usize,
    from: NodeId,
    epoch: Epoch,
    msg: Msg,
    times: u32,
}

struct Node {
    id: NodeId,
    shard: Shard,
    leased: bool,
    /// What the actors were given, oldest first; none while an actor is down.
    actors: BTreeMap<Key, (Epoch, VecDeque<Request>)>,
    /// Requests without an answer.
    open: BTreeMap<u64, Key>,
}

pub(crate) struct World {
    pub(crate) dice: Dice,
    nodes: Vec<Node>,
    pub(crate) keys: Vec<Key>,
    pub(crate) net: Vec<Packet>,
    /// Some of what was ever sent, to make hostile messages of.
    heard: Vec<Packet>,
    view: View,
    tokens: u64,
    /// Why messages were refused as no member's.
    pub(crate) refused: BTreeMap<&'static str, u64>,
    /// How many requests got which kind of answer.
    pub(crate) answers: BTreeMap<&'static str, u64>,
}

fn id(n: usize, life: u64) -> NodeId {
    NodeId::new(format!("node{n}@h"), life)
}

fn member(id: &NodeId) -> Member {
    Member {
        id: id.clone(),
        addr: Arc::from("h:1"),
    }
}

fn part(me: &NodeId, view: View) -> Shard {
    Shard::new(me.clone(), view, 1, PENDING_MAX, me.incarnation as u16).with_bytes_max(BYTES_MAX)
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let first = View {
            cluster: ClusterId(1),
            epoch: Epoch(1),
            members: (0..3).map(|n| member(&id(n, 1))).collect(),
            leaving: Vec::new(),
        };
        let node = |n: usize| Node {
            id: id(n, 1),
            shard: part(&id(n, 1), first.clone()),
            leased: true,
            actors: BTreeMap::new(),
            open: BTreeMap::new(),
        };
        Self {
            dice: Dice::new(seed),
            nodes: (0..3).map(node).collect(),
            keys: (0..5)
                .map(|n| Key::new(Kind(1), format!("key{n}")))
                .collect(),
            net: Vec::new(),
            heard: Vec::new(),
            view: first,
            tokens: 0,
            refused: BTreeMap::new(),
            answers: BTreeMap::new(),
        }
    }

    /// One step of whatever may happen in a cluster.
    pub(crate) fn stir(&mut self) {
        let n = self.dice.between(0, 3) as usize;
        match self.dice.between(0, 100) {
            0..25 => self.ask(n),
            25..60 => self.deliver(),
            60..80 => self.run(n),
            80..84 => self.step(n, Input::Tick),
            84..87 => self.give_up(n),
            87..89 => {
                self.tokens += 1;
                let (token, key) = (self.tokens, self.key());
                self.nodes[n].open.insert(token, key.clone());
                self.step(n, Input::Locate { token, key });
            }
            89..91 => self.crash(n),
            91 => {
                let key = self.key();
                if let Some(gen_) = self.nodes[n].shard.owns(&key) {
                    self.step(n, Input::Rest { key, gen_ });
                }
            }
            92 => {
                self.nodes[n].leased = self.dice.percent(70);
                self.step(n, Input::Leased);
            }
            93 => self.step(n, Input::Linked),
            94 => self.step(n, Input::Refuse),
            95 => drop(self.net.pop()),
            96..98 => {
                let again = self.dice.pick(&self.net);
                self.net.extend(again);
            }
            98 => self.change_view(),
            _ => self.install(n),
        }
    }

    /// A message that no node of ours sends, or not now, or not to that one, or not so often.
    pub(crate) fn attack(&mut self) -> Option<Attack> {
        let heard = self.dice.pick(&self.heard)?;
        let mut nodes: Vec<NodeId> = self.nodes.iter().map(|node| node.id.clone()).collect();
        nodes.extend([id(0, 9), id(7, 1), heard.from.clone()]);
        let msg = mutate::message(&mut self.dice, &heard.msg, &self.keys, &nodes)?;
        let to = self.dice.between(0, 3) as usize;
        let now = self.nodes[to].shard.epoch().0;
        let epoch = match self.dice.between(0, 4) {
            0 => mutate::number(&mut self.dice, now),
            1 => heard.epoch.0,
            _ => now,
        };
        let from = if self.dice.percent(70) {
            self.dice.pick(&nodes)?
        } else {
            heard.from
        };
        let times = if self.dice.percent(1) { 500 } else { 1 };
        Some(Attack {
            to,
            from,
            epoch: Epoch(epoch),
            msg,
            times,
        })
    }

    /// Carries it out.
    pub(crate) fn suffer(&mut self, attack: &Attack) {
        for _ in 0..attack.times {
            let input = Input::Message {
                from: attack.from.clone(),
                epoch: attack.epoch,
                msg: attack.msg.clone(),
            };
            self.step(attack.to, input);
        }
    }

    fn key(&mut self) -> Key {
        self.dice.pick(&self.keys.clone()).expect("there are keys")
    }

    /// A client asks; some calls are large enough to fill the part soon.
    fn ask(&mut self, n: usize) {
        self.tokens += 1;
        let (token, key) = (self.tokens, self.key());
        let length = if self.dice.percent(10) { 9_000 } else { 20 };
        let id = self.dice.percent(50).then(|| RequestId(u128::from(token)));
        let request = Request {
            id,
            payload: Blob::from(vec![7; length]),
            again: false,
            span: 0,
        };
        self.nodes[n].open.insert(token, key.clone());
        let hints: [NodeId; 4] = std::array::from_fn(|n| self::id(n, 1));
        let hint = self.dice.pick(&hints).filter(|_| self.dice.percent(20));
        self.step(
            n,
            Input::Request {
                token,
                key,
                request,
                hint,
            },
        );
    }

    fn give_up(&mut self, n: usize) {
        let open: Vec<u64> = self.nodes[n].open.keys().copied().collect();
        let Some(token) = self.dice.pick(&open) else {
            return;
        };
        let key = self.nodes[n].open.remove(&token).expect("it is open");
        self.step(n, Input::Cancel { key, token });
    }

    fn deliver(&mut self) {
        if self.net.is_empty() {
            return;
        }
        let at = self.dice.between(0, self.net.len() as u64) as usize;
        let Packet {
            from,
            to,
            epoch,
            msg,
        } = self.net.remove(at);
        // A connection is bound to two lives.
        if let Some(n) = self.nodes.iter().position(|node| node.id == to) {
            self.step(n, Input::Message { from, epoch, msg });
        }
    }

    /// An actor handles its oldest request.
    fn run(&mut self, n: usize) {
        let busy: Vec<Key> = self.nodes[n]
            .actors
            .iter()
            .filter(|(_, (_, given))| !given.is_empty())
            .map(|(key, _)| key.clone())
            .collect();
        let Some(key) = self.dice.pick(&busy) else {
            return;
        };
        let (gen_, given) = self.nodes[n].actors.get_mut(&key).expect("it is there");
        let gen_ = *gen_;
        given.pop_front();
        let ran = match self.dice.between(0, 10) {
            0 => Ran::Failed(Blob::from(b"crash")),
            1 => Ran::Unknown,
            2..5 => Ran::Done {
                reply: Blob::from(vec![1; 8_000]),
                data: None,
            },
            _ => Ran::Done {
                reply: Blob::from(b"5"),
                data: Some(Blob::from(vec![2; 100])),
            },
        };
        self.step(n, Input::Ran { key, gen_, ran });
    }

    fn crash(&mut self, n: usize) {
        let up: Vec<Key> = self.nodes[n].actors.keys().cloned().collect();
        let Some(key) = self.dice.pick(&up) else {
            return;
        };
        let Some((gen_, _)) = self.nodes[n].actors.remove(&key) else {
            return;
        };
        let again = self.dice.percent(50);
        self.step(
            n,
            Input::Exited {
                key: key.clone(),
                gen_,
                again,
            },
        );
        if again {
            self.step(n, Input::Restart { key, gen_ });
        }
    }

    /// One is lost, with all that it had; or who is missing joins, if all copies are in place.
    fn change_view(&mut self) {
        let n = self.dice.between(0, 3) as usize;
        let absent = (0..3).find(|n| !self.view.contains(&self.nodes[*n].id));
        match absent {
            Some(absent) => {
                let newcomer = member(&self.nodes[absent].id);
                if self.is_synced() {
                    self.view = self.view.next(&[], Some(&newcomer), &[]);
                }
            }
            None => {
                let lost = self.nodes[n].id.clone();
                self.view = self.view.next(std::slice::from_ref(&lost), None, &[]);
                let me = id(n, lost.incarnation + 1);
                let alone = View::alone(ClusterId(1_000 + lost.incarnation), member(&me));
                let node = Node {
                    shard: part(&me, alone),
                    id: me,
                    leased: true,
                    actors: BTreeMap::new(),
                    open: BTreeMap::new(),
                };
                self.nodes[n] = node;
            }
        }
        let first = (0..3).find(|n| self.view.contains(&self.nodes[*n].id));
        self.install(first.expect("a view has members"));
    }

    fn is_synced(&self) -> bool {
        self.nodes
            .iter()
            .filter(|node| self.view.contains(&node.id))
            .all(|node| node.shard.epoch() == self.view.epoch && node.shard.is_complete())
    }

    fn install(&mut self, n: usize) {
        self.step(n, Input::Install(self.view.clone()));
    }

    /// One step of one machine. Whatever the input: no panic, right books, everything within its limits.
    pub(crate) fn step(&mut self, n: usize, input: Input) {
        let shown = input.clone();
        let mut out = Vec::new();
        let leased = self.nodes[n].leased;
        self.nodes[n].shard.handle(leased, input, &mut out);
        if let Err(wrong) = self.nodes[n].shard.audit() {
            panic!("wrong: {wrong}, after {shown:?}");
        }
        assert!(
            out.len() <= EFFECTS_MAX,
            "{} effects of {shown:?}",
            out.len()
        );
        for effect in out {
            self.effect(n, effect);
        }
    }

    fn effect(&mut self, n: usize, effect: Effect) {
        let node = &mut self.nodes[n];
        let epoch = node.shard.epoch();
        let msg = match effect {
            Effect::Send { to, msg } => (to, Some(msg)),
            Effect::Copy { to, key, .. } => {
                let copied = node.shard.copy_of(&key, &to);
                let msg = copied.map(|copied| copied.to_msg(key.clone()));
                (to, msg)
            }
            Effect::Start { key, gen_, .. } => {
                node.actors.insert(key, (gen_, VecDeque::new()));
                return;
            }
            Effect::Run { key, gen_, request } => {
                if let Some((of, given)) = node.actors.get_mut(&key)
                    && *of == gen_
                {
                    given.push_back(request);
                }
                return;
            }
            Effect::Stop { key, .. } => {
                node.actors.remove(&key);
                return;
            }
            Effect::Answer { token, answer } => {
                let kind = match answer {
                    Answer::Reply(_) => "reply",
                    Answer::Failed(_) => "failed",
                    Answer::Overloaded => "overloaded",
                    Answer::Leaving => "leaving",
                    Answer::NotServing => "not serving",
                    Answer::Unknown => "unknown",
                };
                *self.answers.entry(kind).or_default() += 1;
                node.open.remove(&token);
                return;
            }
            Effect::Found { token, .. } => {
                node.open.remove(&token);
                return;
            }
            Effect::Refused { rule, .. } => {
                *self.refused.entry(rule).or_default() += 1;
                return;
            }
            Effect::Broken(invariant) => panic!("broken: {invariant}"),
            Effect::ShowView(_) | Effect::WantView(_) | Effect::Progress(..) | Effect::Quiet => {
                return;
            }
        };
        if let (to, Some(msg)) = msg
            // What nobody takes in is lost.
            && self.net.len() < 1_000
        {
            let from = node.id.clone();
            let packet = Packet {
                from,
                to,
                epoch,
                msg,
            };
            if self.heard.len() < HEARD_MAX {
                self.heard.push(packet.clone());
            } else {
                let at = self.dice.between(0, HEARD_MAX as u64) as usize;
                self.heard[at] = packet.clone();
            }
            self.net.push(packet);
        }
    }

    /// All faults end; then every request gets its answer.
    pub(crate) fn heal(&mut self) {
        for node in &mut self.nodes {
            node.leased = true;
        }
        for _ in 0..ROUNDS_MAX {
            if self.view.members.len() < 3 {
                self.change_view();
            }
            for n in 0..3 {
                self.install(n);
                self.step(n, Input::Tick);
                while self.nodes[n]
                    .actors
                    .values()
                    .any(|(_, given)| !given.is_empty())
                {
                    self.run(n);
                }
            }
            while !self.net.is_empty() {
                self.deliver();
            }
            if self.view.members.len() == 3 && self.is_released().is_ok() {
                break;
            }
        }
    }

    /// Nobody waits for anything: nothing is held for anybody.
    pub(crate) fn is_released(&self) -> Result<(), String> {
        for node in &self.nodes {
            let held = node.shard.held_bytes();
            if held > 0 || !node.open.is_empty() {
                return Err(format!("{held} bytes for {:?}", node.open));
            }
        }
        Ok(())
    }
}
