//! The driver of the machines: it feeds them, plays their actors, and carries out their effects.

use std::collections::VecDeque;

use statekeeper::protocol::defect::Defect;
use statekeeper::protocol::shard::{Answer, Effect, Input, Msg, Ran};
use statekeeper::protocol::types::Epoch;

use super::net::*;
use super::world::*;

impl Cfg {
    /// A client asks a node.
    pub fn ask(&self, w: &mut World, node: u8, op: u8, again: bool, hint: Option<u8>) {
        let owned = w.node(node).and_then(|node| node.shard.owns(&KEY));
        let Some(gen_) = owned.filter(|_| self.direct) else {
            return self.step(w, node, asked(op, again, hint));
        };
        let given = Given {
            gen_: gen_.0,
            op,
            has_id: true,
            direct: true,
        };
        if self.slow_actor {
            w.change(node, |node| node.running.push_back(given));
        } else {
            self.play(w, node, Event::Run(given));
        }
    }

    pub fn install(&self, w: &mut World, node: u8, epoch: u8) {
        let view = w.views[usize::from(epoch)].view(epoch);
        // The driver forgets what it was to send in the view before: what matters is asked for again.
        w.take_due(node);
        self.step(w, node, Input::Install(view));
    }

    /// Nobody asks the actor of a node for a while.
    pub fn rest(&self, w: &mut World, n: u8) {
        let Some((at, _)) = w.node(n).and_then(Node::own) else {
            return;
        };
        // All that it answered is answered: another node may be next.
        let epoch = w.node(n).map_or(0, Node::epoch);
        w.acker[usize::from(epoch)].take_if(|acker| *acker == n);
        self.step(
            w,
            n,
            Input::Rest {
                key: KEY.clone(),
                gen_: Epoch(at.gen_.into()),
            },
        );
    }

    /// Whether the machine would take the packet now or could later; stale ones are answered with a view.
    pub fn is_deliverable(&self, w: &World, p: &Packet) -> bool {
        let Some(node) = w.node(p.to) else {
            return false;
        };
        node.epoch() == p.epoch || (node.epoch() > p.epoch && self.takes_stale(&p.content))
    }

    /// Whether the machine would take it in a later epoch; only with a defect.
    pub(super) fn takes_stale(&self, content: &Content) -> bool {
        match content {
            Content::Put { .. } | Content::PutAck { .. } => {
                self.planted.has(Defect::NoEpochCheckOnPut)
            }
            Content::Grant { .. } => self.planted.has(Defect::LateGrant),
            Content::Claim { .. }
            | Content::OwnerIs { .. }
            | Content::Hold { .. }
            | Content::HoldAck { .. }
            | Content::Forward { .. }
            | Content::Reply { .. }
            | Content::Inquire
            | Content::Report { .. } => false,
        }
    }

    /// A packet arrives.
    pub fn deliver(&self, w: &mut World, p: Packet) {
        let Some(node) = w.node(p.to) else { return };
        let (own, rec, authority, at_epoch) = (
            node.own(),
            node.rec(),
            node.shard.speaks_for(&KEY),
            node.epoch(),
        );
        if let Content::Hold { at, .. } = p.content
            && own.is_none()
            && authority
            && at_epoch == p.epoch
        {
            // The same generation with a later version is possible: what a leaver never got acknowledged.
            let known = rec.is_some_and(|(rec, ..)| rec.gen_ == at.gen_ || rec >= at);
            if !known {
                w.flags |= flags::SURPRISE;
            }
        }
        if matches!(p.content, Content::OwnerIs { .. }) && self.rests > 0 {
            w.net.retain(|other| *other != p);
        }
        self.step(w, p.to, p.input());
    }

    /// Every member said `Done`, and the node has not used that yet.
    pub fn may_complete(&self, w: &World, n: u8) -> bool {
        w.node(n).is_some_and(|node| {
            let epoch = usize::from(node.epoch());
            epoch > 0 && !node.shard.is_complete() && w.views[epoch].members & !w.done[epoch] == 0
        })
    }

    pub fn complete(&self, w: &mut World, n: u8) {
        let Some(node) = w.node(n) else { return };
        let members = w.views[usize::from(node.epoch())].members;
        self.hear_done(w, n, members);
    }

    pub(super) fn hear_done(&self, w: &mut World, n: u8, members: Set) {
        for from in iter(members) {
            let Some(node) = w.node(n) else { return };
            let epoch = node.shard.epoch();
            self.step(
                w,
                n,
                Input::Message {
                    from: id(from),
                    epoch,
                    msg: Msg::Done { heard: true },
                },
            );
        }
    }

    /// The actor of a node handles a request, when it gets to it.
    pub fn run_oldest(&self, w: &mut World, n: u8) {
        let mut oldest = None;
        w.change(n, |node| oldest = node.running.pop_front());
        if let Some(given) = oldest {
            self.play(w, n, Event::Run(given));
        }
    }

    pub fn step(&self, w: &mut World, n: u8, input: Input) {
        self.play(w, n, Event::Input(input));
    }

    /// Feeds an event to a node, and then whatever follows from it at once.
    pub(super) fn play(&self, w: &mut World, n: u8, event: Event) {
        let mut events = VecDeque::from([(n, event)]);
        loop {
            while let Some((n, event)) = events.pop_front() {
                let Some(input) = self.input(w, n, event) else {
                    continue;
                };
                let relays = matches!(
                    input,
                    Input::Message {
                        msg: Msg::Reply { .. },
                        ..
                    }
                );
                let leased = self.is_leased(w, n);
                let mut out = Vec::new();
                w.change(n, |node| node.shard.handle(leased, input, &mut out));
                for effect in out {
                    self.interpret(w, n, relays, effect, &mut events);
                }
            }
            w.take_direct(&mut events);
            if events.is_empty() {
                return;
            }
        }
    }

    pub(super) fn input(&self, w: &mut World, n: u8, event: Event) -> Option<Input> {
        let node = w.node(n)?;
        let given = match event {
            Event::Input(input) => return Some(input),
            Event::Run(given) => given,
        };
        let Given {
            gen_,
            op,
            has_id,
            direct,
        } = given;
        // The actor's state is what it handed over last, which is the part's.
        let own = node.own().filter(|(at, _)| u64::from(at.gen_) == gen_);
        let Some((_, mut val)) = own else {
            return direct.then(|| asked(op, false, None));
        };
        let known = has(self.read_ops(), op) || has_id && val.count(op) > 0;
        if !known {
            val.add(op);
        }
        if direct && known && self.is_leased(w, n) && node.shard.settled_at(&KEY).is_some() {
            self.acknowledge(w, n, op, val);
            return None;
        }
        let data = (!known).then(|| val.encode());
        let ran = Ran::Done {
            reply: encode_reply(op, val),
            data,
        };
        let (key, gen_) = (KEY.clone(), Epoch(gen_));
        Some(if direct {
            Input::Served {
                token: op.into(),
                key,
                gen_,
                request: request(op, false),
                ran,
            }
        } else {
            Input::Ran { key, gen_, ran }
        })
    }

    /// Whether a node may answer clients.
    fn is_leased(&self, w: &World, n: u8) -> bool {
        !self.lease || has(w.views[usize::from(w.last)].members, n)
    }

    pub(super) fn interpret(
        &self,
        w: &mut World,
        n: u8,
        relays: bool,
        effect: Effect,
        events: &mut VecDeque<(u8, Event)>,
    ) {
        let Some(epoch) = w.node(n).map(Node::epoch) else {
            return;
        };
        match effect {
            Effect::Send {
                msg: Msg::Done { .. },
                ..
            } => w.done[usize::from(epoch)] |= bit(n),
            Effect::Send { to, msg } => {
                let Some(content) = Content::of(&msg) else {
                    return;
                };
                let to = index(&to);
                if let (Content::Reply { op, val, .. }, false) = (content, relays) {
                    self.acknowledge(w, n, op, val);
                }
                let packet = Packet {
                    epoch,
                    from: n,
                    to,
                    content,
                };
                let at_once = match content {
                    Content::HoldAck { .. } => self.rests == 0,
                    Content::Report { .. } => !self.slow_reports,
                    _ => false,
                };
                if at_once {
                    if w.node(to).is_some_and(|node| node.epoch() == epoch) {
                        events.push_back((to, Event::Input(packet.input())));
                    }
                } else {
                    w.send(packet);
                }
            }
            Effect::Copy { to, .. } => {
                let to = index(&to);
                if self.slow_puts {
                    w.change(n, |node| node.due |= bit(to));
                } else {
                    self.put(w, n, to);
                }
            }
            Effect::Start { .. } | Effect::Stop { .. } => {
                let mut gone = VecDeque::new();
                w.change(n, |node| gone = std::mem::take(&mut node.running));
                // What it had from clients goes to the part.
                let direct = gone.into_iter().filter(|given| given.direct);
                events.extend(direct.map(|given| (n, Event::Input(asked(given.op, false, None)))));
            }
            Effect::Run { gen_, request, .. } => {
                let given = Given {
                    gen_: gen_.0,
                    op: op_of(&request),
                    has_id: request.id.is_some(),
                    direct: false,
                };
                if self.slow_actor {
                    w.change(n, |node| node.running.push_back(given));
                } else {
                    events.push_back((n, Event::Run(given)));
                }
            }
            Effect::Answer {
                answer: Answer::Reply(reply),
                ..
            } if !relays => {
                let (op, val) = decode_reply(&reply);
                self.acknowledge(w, n, op, val);
            }
            Effect::Broken(_) | Effect::Refused { .. } => w.flags |= flags::BROKEN,
            Effect::Answer { .. }
            | Effect::Found { .. }
            | Effect::ShowView(_)
            | Effect::WantView(_)
            | Effect::Progress(..)
            | Effect::Quiet => {}
        }
    }

    /// The current state leaves for a keeper.
    pub fn put(&self, w: &mut World, from: u8, to: u8) {
        let Some(node) = w.node(from) else { return };
        let epoch = node.epoch();
        let copied = node.shard.copy_of(&KEY, &id(to));
        if let Some(content) = copied.and_then(|c| Content::of(&c.to_msg(KEY.clone()))) {
            w.send(Packet {
                epoch,
                from,
                to,
                content,
            });
        }
    }

    /// An owner answers: what it says must agree with all that was said before.
    pub(super) fn acknowledge(&self, w: &mut World, n: u8, op: u8, val: Val) {
        let Some(epoch) = w.node(n).map(|node| usize::from(node.epoch())) else {
            return;
        };
        let is_read = has(self.read_ops(), op);
        if !is_read && *w.acker[epoch].get_or_insert(n) != n {
            w.flags |= flags::TWO_ACKERS;
        }
        // Linearizability of increments that return the state: an answer has its own operation and all that
        // were acknowledged before it was sent, and any two answers are ordered.
        let itself = if is_read { 0 } else { bit(op) };
        let chain = iter(w.acked).all(|p| {
            let seen = w.seen[usize::from(p)];
            seen.within(val) || val.within(seen)
        });
        if !chain || !val.contains((w.must[usize::from(op)] & !self.read_ops()) | itself) {
            w.flags |= flags::LOST;
        }
        if !has(w.acked, op) {
            w.acked |= bit(op);
            w.seen[usize::from(op)] = val;
        }
    }
}

/// A client asks a part.
fn asked(op: u8, again: bool, hint: Option<u8>) -> Input {
    Input::Request {
        token: op.into(),
        key: KEY.clone(),
        request: request(op, again),
        hint: hint.map(id),
    }
}
