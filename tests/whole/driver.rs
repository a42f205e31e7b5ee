//! The driver of the machines: it feeds them, plays their actors, and carries out their effects, as the program does.

use std::collections::VecDeque;
use std::sync::Arc;

use statekeeper::protocol::blob::Blob;
use statekeeper::protocol::members::{self, Members, Status};
use statekeeper::protocol::shard::{self, Progress, Ran, Request, Shard};
use statekeeper::protocol::types::{ClusterId, Epoch, Member, NodeId, RequestId};

use super::world::*;

impl Cfg {
    /// A process starts, alone.
    pub fn start(&self, w: &mut World, at: Place) {
        let before = (w.lives[at] > 0).then_some(w.lives[at]);
        w.lives[at] = NodeId::next_incarnation(1, before, self.planted);
        let me = member(at, w.lives[at]);
        let cluster = ClusterId(at as u64 * 100 + w.lives[at] + w.now.0);
        let mut members = Members::new(me.clone(), cluster, TIMINGS, 1, at as u64);
        members.plant(self.planted);
        let mut node = Node {
            shard: Shard::new(me.id.clone(), members.view().clone(), 1, 100, 1),
            members,
            has_data: false,
            asked: Default::default(),
        };
        node.shard.plant(self.planted);
        w.nodes[at] = Some(Arc::new(node));
        self.members(w, at, members::Input::Tick);
        for other in 0..PLACES {
            w.connect(at, other);
        }
    }

    pub fn members(&self, w: &mut World, at: Place, input: members::Input) {
        let now = w.now;
        let Some(node) = w.nodes[at].as_mut().map(Arc::make_mut) else {
            return;
        };
        let (me, had) = (
            node.members.me().id.clone(),
            node.members.leased_until() > now,
        );
        let mut out = Vec::new();
        node.members.handle(now, input, &mut out);
        for effect in out {
            match effect {
                members::Effect::Send { to, msg } => {
                    w.note(&msg);
                    w.send(&me, &to, false, Item::Control(msg));
                }
                members::Effect::Install(view) => {
                    w.decided(&view);
                    w.post(&me, true, Item::Install(view));
                }
                members::Effect::Lease { until } => {
                    if !had && until > now {
                        w.post(&me, true, Item::Leased);
                    }
                }
                members::Effect::Dial { name, addr: _ } => {
                    let other = place(&NodeId {
                        name: name.clone(),
                        incarnation: 0,
                    });
                    self.dial(w, at, other);
                }
                members::Effect::Hangup(peer) => w.hang_up(&me, &peer),
                members::Effect::Rejoin(now_me) => self.rejoin(w, at, &me, &now_me),
                members::Effect::Answer { .. } | members::Effect::PossibleLoss { .. } => {}
                members::Effect::Refused { .. } => {
                    w.books.violated.insert(checks::UNBROKEN);
                }
                members::Effect::Left => {
                    w.books.left = true;
                    w.end(at);
                    return;
                }
            }
        }
    }

    fn dial(&self, w: &mut World, at: Place, other: Place) {
        if w.node(other).is_some() {
            w.connect(at, other);
        } else if w.lives[other] > 0 && !w.is_cut(at) {
            // Its machine says that nobody listens.
            let Member { id, addr } = member(other, w.lives[other]);
            let refused = members::Input::DialRefused {
                name: id.name,
                addr,
            };
            self.members(w, at, refused);
        }
    }

    /// This life is over: its connections and its state are gone.
    fn rejoin(&self, w: &mut World, at: Place, old: &NodeId, me: &Member) {
        w.books.rejoined = true;
        w.lossy = true;
        w.disturbed = w.ticks;
        w.lives[at] = me.id.incarnation;
        w.unlink(old, false);
        let Some(node) = w.node(at) else { return };
        let view = node.members.view().clone();
        w.post(&me.id, true, Item::Dissolve(view));
    }

    /// A step of the part, and of its actor, which handles each request at once.
    pub fn part(&self, w: &mut World, at: Place, input: shard::Input) {
        let mut given = VecDeque::new();
        self.part_step(w, at, input, &mut given);
        while let Some((gen_, request)) = given.pop_front() {
            if let Some(ran) = w.node(at).and_then(|n| run(&n.shard, gen_, &request)) {
                let ran = shard::Input::Ran {
                    key: key(),
                    gen_,
                    ran,
                };
                self.part_step(w, at, ran, &mut given);
            }
        }
        let Some(node) = w.nodes[at].as_mut() else {
            return;
        };
        let has = node.shard.has_data();
        if has != node.has_data {
            Arc::make_mut(node).has_data = has;
            let me = node.members.me().id.clone();
            w.post(&me, false, Item::HasData(has));
        }
    }

    fn part_step(
        &self,
        w: &mut World,
        at: Place,
        input: shard::Input,
        given: &mut VecDeque<(Epoch, Request)>,
    ) {
        let now = w.now;
        let Some(node) = w.nodes[at].as_mut().map(Arc::make_mut) else {
            return;
        };
        let relays = matches!(
            &input,
            shard::Input::Message {
                msg: shard::Msg::Reply { .. },
                ..
            }
        );
        let line = node.shard.view().cluster;
        let leased = node.members.leased_until() > now && node.members.view().cluster == line;
        let mut out = Vec::new();
        node.shard.handle(leased, input, &mut out);
        let (me, epoch) = (node.members.me().id.clone(), node.shard.epoch());
        for effect in out {
            match effect {
                shard::Effect::Send { to, msg } => {
                    if let (shard::Msg::Reply { answer, .. }, false) = (&msg, relays) {
                        w.answered(at, answer);
                    }
                    w.send(&me, &to, true, Item::Part(line, epoch, msg));
                }
                shard::Effect::Copy { to, key, .. } => {
                    let copied = w.node(at).and_then(|n| n.shard.copy_of(&key, &to));
                    if let Some(msg) = copied.map(|copied| copied.to_msg(key.clone())) {
                        w.send(&me, &to, true, Item::Part(line, epoch, msg));
                    }
                }
                shard::Effect::Run { gen_, request, .. } => given.push_back((gen_, request)),
                shard::Effect::Answer { token, answer } => {
                    if !relays {
                        w.answered(at, &answer);
                    }
                    w.client_hears(at, token, &answer);
                }
                shard::Effect::ShowView(peer) => {
                    let view = w.node(at).map(|n| n.shard.view().clone());
                    if let Some(view) = view.filter(|v| v.members.len() > 1) {
                        w.send(&me, &peer, false, Item::Control(members::Msg::ViewIs(view)));
                    }
                }
                shard::Effect::WantView(peer) => {
                    w.send(&me, &peer, false, Item::Control(members::Msg::ViewWanted));
                }
                shard::Effect::Progress(epoch, progress) => {
                    let complete = progress == Progress::Complete;
                    w.post(&me, false, Item::Progress(epoch, complete));
                }
                shard::Effect::Broken(_) | shard::Effect::Refused { .. } => {
                    w.books.violated.insert(checks::UNBROKEN);
                }
                shard::Effect::Start { .. }
                | shard::Effect::Stop { .. }
                | shard::Effect::Found { .. }
                | shard::Effect::Quiet => {}
            }
        }
    }

    /// What is under way arrives.
    pub fn deliver(&self, w: &mut World, lane: &Lane, item: Item) {
        let (at, from) = (place(&lane.to), lane.from.clone());
        if w.life(&lane.to).is_none() {
            return;
        }
        match item {
            Item::Up(peer) => {
                self.members(w, at, members::Input::LinkUp(peer));
                self.part(w, at, shard::Input::Linked);
            }
            Item::Down { refused } => {
                self.members(
                    w,
                    at,
                    members::Input::LinkDown {
                        peer: from,
                        refused,
                    },
                );
            }
            Item::Control(msg) => self.members(w, at, members::Input::Message { from, msg }),
            Item::Part(cluster, epoch, msg) => {
                // A frame of another line of views is dropped; its sender sends it again.
                if w.node(at)
                    .is_some_and(|n| n.shard.view().cluster == cluster)
                {
                    self.part(w, at, shard::Input::Message { from, epoch, msg });
                }
            }
            Item::Install(view) => self.part(w, at, shard::Input::Install(view)),
            Item::Dissolve(view) => {
                let Some(node) = w.nodes[at].as_mut().map(Arc::make_mut) else {
                    return;
                };
                node.shard = Shard::new(lane.to.clone(), view, 1, 100, 1);
                node.shard.plant(self.planted);
                node.has_data = false;
                for op in std::mem::take(&mut node.asked).into_values() {
                    w.books.open.entry(op).and_modify(|(at, _)| *at = None);
                }
            }
            Item::Leased => self.part(w, at, shard::Input::Leased),
            Item::Progress(epoch, complete) => {
                self.members(w, at, members::Input::Synced { epoch, complete });
            }
            Item::HasData(has) => self.members(w, at, members::Input::HasData(has)),
        }
    }

    /// Time passes.
    pub fn tick(&self, w: &mut World) {
        w.now = w.now + TICK;
        w.ticks += 1;
        w.fresh = true;
        w.held.clear();
        w.cut = w.cut.filter(|(_, until)| *until > w.now);
        for at in 0..PLACES {
            self.members(w, at, members::Input::Tick);
            self.part(w, at, shard::Input::Tick);
            let status = w.node(at).map(|n| n.members.status(w.now));
            if matches!(status, Some(Status::Alone | Status::Suspended)) {
                self.part(w, at, shard::Input::Refuse);
            }
        }
        // Clients whose request came to nothing ask the next node.
        for (op, (asked, _)) in w.books.open.clone() {
            let lost = asked.is_none_or(|at| {
                w.node(at)
                    .is_none_or(|n| n.asked.values().all(|o| *o != op))
            });
            let last = asked.unwrap_or(w.now.0 as usize / 100 % PLACES);
            let next = (1..=PLACES)
                .map(|i| (last + i) % PLACES)
                .find(|p| w.node(*p).is_some());
            if let (true, Some(at)) = (lost, next) {
                self.request(w, at, op, true);
            }
        }
    }

    /// Nobody asks the actor of a node for a while.
    pub fn rest(&self, w: &mut World, at: Place) {
        let Some(node) = w.node(at) else { return };
        let (view, me) = (node.shard.view(), &node.members.me().id);
        // All that it answered is answered: another node may be next.
        let (of, me) = ((view.cluster, view.epoch), me.clone());
        if let Some(gen_) = node.shard.owns(&key()) {
            if w.books.ackers.get(&of) == Some(&me) {
                w.books.ackers.remove(&of);
            }
            self.part(w, at, shard::Input::Rest { key: key(), gen_ });
        }
    }

    pub fn request(&self, w: &mut World, at: Place, op: u8, again: bool) {
        let acked = w.books.acked.clone();
        w.books.open.entry(op).or_insert((None, acked)).0 = Some(at);
        let token = w.now.0 * 10 + u64::from(op);
        if let Some(node) = w.nodes[at].as_mut() {
            Arc::make_mut(node).asked.insert(token, op);
        }
        let request = Request {
            id: Some(RequestId(op.into())),
            payload: Blob::from(&[op]),
            again,
            span: 0,
        };
        self.part(
            w,
            at,
            shard::Input::Request {
                token,
                key: key(),
                request,
                hint: None,
            },
        );
    }
}

/// The actor: its state is the list of the operations that it has applied.
fn run(shard: &Shard, gen_: Epoch, request: &Request) -> Option<Ran> {
    let (_, _, data) = shard.owned_state(&key()).filter(|(of, ..)| *of == gen_)?;
    let op = request.payload[0];
    let known = request.id.is_some() && data.contains(&op);
    let mut state = data.to_vec();
    if !known {
        state.push(op);
    }
    let reply = [&[op], &state[..]].concat().into();
    let data = (!known).then(|| state.into());
    Some(Ran::Done { reply, data })
}

impl World {
    /// Connects two nodes, unless they are.
    pub fn connect(&mut self, a: Place, b: Place) {
        let (Some(x), Some(y)) = (self.node(a), self.node(b)) else {
            return;
        };
        let (x, y) = (x.members.me().clone(), y.members.me().clone());
        let cut = self.is_cut(a) || self.is_cut(b);
        if a == b || cut || !self.links.insert((x.id.clone(), y.id.clone())) {
            return;
        }
        self.links.insert((y.id.clone(), x.id.clone()));
        self.send(&x.id, &y.id, false, Item::Up(x.clone()));
        self.send(&y.id, &x.id, false, Item::Up(y.clone()));
    }

    pub fn send(&mut self, from: &NodeId, to: &NodeId, of_parts: bool, item: Item) {
        if self.links.contains(&(from.clone(), to.clone())) {
            let lane = Lane {
                from: from.clone(),
                to: to.clone(),
                of_parts,
            };
            self.mail.push((lane, item));
        }
    }

    /// From one actor of a node to another.
    pub fn post(&mut self, me: &NodeId, of_parts: bool, item: Item) {
        let lane = Lane {
            from: me.clone(),
            to: me.clone(),
            of_parts,
        };
        self.mail.push((lane, item));
    }

    /// Ends a connection; what is under way on it is lost.
    pub fn hang_up(&mut self, me: &NodeId, peer: &NodeId) {
        if !self.links.contains(&(me.clone(), peer.clone())) {
            return;
        }
        self.mail.retain(|(lane, _)| {
            (&lane.from, &lane.to) != (me, peer) && (&lane.from, &lane.to) != (peer, me)
        });
        self.send(me, peer, false, Item::Down { refused: false });
        self.send(peer, me, false, Item::Down { refused: false });
        self.links.remove(&(me.clone(), peer.clone()));
        self.links.remove(&(peer.clone(), me.clone()));
    }

    /// All connections of a life end. What it sent before still arrives.
    pub fn unlink(&mut self, id: &NodeId, refused: bool) {
        let peers: Vec<NodeId> = self
            .links
            .iter()
            .filter(|(a, _)| a == id)
            .map(|(_, b)| b.clone())
            .collect();
        for peer in peers {
            self.send(id, &peer, false, Item::Down { refused });
            self.links.remove(&(id.clone(), peer.clone()));
            self.links.remove(&(peer, id.clone()));
        }
    }

    /// The process at a place ends.
    pub fn end(&mut self, at: Place) {
        let Some(node) = self.nodes[at].take() else {
            return;
        };
        self.unlink(&node.members.me().id.clone(), true);
        self.disturbed = self.ticks;
    }
}
