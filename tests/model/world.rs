//! The state space: what can happen to a cluster of real machines.
//!
//! Reductions, each of which leaves out only what another path of the model has too:
//! - the last missing `Done` is the one that matters, so one action delivers all of them ([`Action::Complete`]);
//! - a `HoldAck` arrives at once: its delay could only delay the receiver's own `Done`, which may be late by itself;
//! - a forwarded request and its answer arrive at once if the receiver is in the same epoch, else when it gets there;
//! - messages that can never again have an effect are dropped, so that equal futures are one state.

use std::collections::VecDeque;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use statekeeper::protocol::shard::{Answer, Effect, Input, Msg, Ran, Shard};
use statekeeper::protocol::types::{ClusterId, Epoch};
use statekeeper::protocol::view::View;

use super::net::*;

/// One epoch number more than a run can reach, and one for the liveness closure.
pub const EPOCHS: usize = 9;

/// The operation of the liveness probe.
pub const PROBE: u8 = 7;

/// Deliberate defects that need no change of the machine, to prove that the checks can fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutation {
    None,
    /// The barrier of a new view is complete at once.
    NoBarrier,
    /// Sync-done is sent when the copies were sent, not when they were acknowledged.
    DoneWithoutAcks,
    /// Keepers take writes of other epochs, owners count acknowledgements of other epochs.
    NoEpochCheckOnPut,
    /// A node accepts a grant of an older epoch.
    LateGrant,
    /// The owner answers before its keeper acknowledged.
    ReplyBeforeAck,
    /// The home's grant counts as its acknowledgement.
    GrantIsAck,
    /// The actor ignores request ids.
    NoDedup,
    /// A retry is answered from what the actor remembers, whether or not that is backed up.
    DedupReplyAtOnce,
    /// An evicted incarnation may be admitted again.
    Readmit,
    /// The home grants to a second member while a grant to a first one is not confirmed.
    RegrantUnconfirmed,
}

/// One configuration.
#[derive(Clone, Debug)]
pub struct Cfg {
    pub backups: u32,
    pub init: Set,
    pub joiners: Set,
    pub clients: u8,
    /// Operations of each client.
    pub ops: u8,
    pub retries: u8,
    pub crashes: u8,
    pub evicts: u8,
    pub joins: u8,
    pub leaves: u8,
    /// No more losses between two complete syncs than there are backups.
    pub constrained: bool,
    /// The operations of client 1 are reads.
    pub reads: bool,
    /// A node stops answering clients before a view without it is decided.
    pub lease: bool,
    /// The actor takes its time, so that several requests and versions are under way.
    pub slow_actor: bool,
    /// A Put leaves when the connection has room, with the state of then.
    pub slow_puts: bool,
    /// Check the liveness closure in one state of so many; 0: never.
    pub live_every: u64,
    pub mutation: Mutation,
}

impl Cfg {
    /// Three members, two clients with one operation each, one crash and one eviction.
    pub const BASE: Self = Self {
        backups: 1,
        init: 0b111,
        joiners: 0,
        clients: 2,
        ops: 1,
        retries: 0,
        crashes: 1,
        evicts: 1,
        joins: 0,
        leaves: 0,
        constrained: true,
        reads: false,
        lease: false,
        slow_actor: false,
        slow_puts: false,
        live_every: 64,
        mutation: Mutation::None,
    };

    /// The operations that do not change the state.
    pub fn read_ops(&self) -> Set {
        if self.reads { (0..self.ops).map(|i| bit(self.ops + i)).sum() } else { 0 }
    }
}

/// A living node: the real machine, and what its driver has in hand.
#[derive(Clone, Debug)]
pub struct Node {
    pub shard: Shard,
    /// Requests that the actor was given, with its generation.
    pub running: VecDeque<(u64, u8)>,
    /// Keepers that get the current state when the connection has room.
    pub due: Set,
    /// Whether it changed since its hash was computed.
    dirty: bool,
    hash: u64,
}

impl Node {
    fn new(shard: Shard) -> Arc<Self> {
        let mut node = Self { shard, running: VecDeque::new(), due: 0, dirty: true, hash: 0 };
        node.seal();
        Arc::new(node)
    }

    /// Computes the identity of the node's state.
    fn seal(&mut self) {
        self.shard.forget_history(&KEY);
        let mut hasher = DefaultHasher::new();
        self.shard.hash(&mut hasher);
        self.running.hash(&mut hasher);
        self.due.hash(&mut hasher);
        self.hash = hasher.finish();
        self.dirty = false;
    }

    /// The installed epoch of the main line; 0 for a joiner that was not admitted yet.
    pub fn epoch(&self) -> u8 {
        if self.shard.view().cluster == MAIN { self.shard.epoch().0 as u8 } else { 0 }
    }

    /// Version and state, if this node owns the key.
    pub fn own(&self) -> Option<(Version, Val)> {
        self.shard.owned_state(&KEY).map(|(gen_, ver, data)| (Version::of(gen_, ver), Val::decode(data)))
    }

    /// Version, state and owner, if this node keeps a record; and whether it is confirmed.
    pub fn rec(&self) -> Option<(Version, Val, Option<u8>, bool)> {
        self.shard.record(&KEY).map(|(gen_, ver, data, owner, confirmed)| {
            (Version::of(gen_, ver), Val::decode(data), owner.map(index), confirmed)
        })
    }
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Eq for Node {}

impl Hash for Node {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// What was seen to be wrong; a state with a flag is a counterexample.
pub mod flags {
    /// I1: two nodes answered writes in one epoch.
    pub const TWO_ACKERS: u8 = 1;
    /// I1': two nodes own the key in one epoch.
    pub const TWO_OWNERS: u8 = 2;
    /// I2: an answer misses something that was acknowledged before.
    pub const LOST: u8 = 4;
    /// The machine itself says that an invariant does not hold.
    pub const BROKEN: u8 = 8;
    /// A home with authority learns of a record that it should have known.
    pub const SURPRISE: u8 = 16;
}

/// A state of the whole world.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct World {
    /// By epoch; number 0 is not used.
    pub views: [Membership; EPOCHS],
    pub last: u8,
    pub nodes: [Option<Arc<Node>>; NODES],
    /// Sorted; nothing is ever lost from it but by being never delivered.
    pub net: Vec<Packet>,
    /// By epoch: who said that its copies are in place.
    pub done: [Set; EPOCHS],
    pub current: [u8; 2],
    pub sent: [bool; 2],
    pub retries: u8,
    pub crashes: u8,
    pub evicts: u8,
    pub joins: u8,
    pub leaves: u8,
    pub acked: Set,
    pub acker: [Option<u8>; EPOCHS],
    /// Lost since the last complete sync.
    pub lost: Set,
    /// How many losses the last complete sync can stand.
    pub limit: u8,
    /// Identities that ever were members.
    pub used: Set,
    /// Per operation: what was acknowledged before it was first sent.
    pub must: [Set; 8],
    /// Per acknowledged operation: the state that its first answer was computed from.
    pub seen: [Val; 8],
    pub flags: u8,
}

/// What can happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    Send { client: u8, node: u8 },
    Retry { client: u8, node: u8 },
    Deliver(Packet),
    /// Every missing `Done` of its epoch arrives at the node.
    Complete(u8),
    /// The actor handles the oldest request that it was given.
    Run(u8),
    /// The connection has room for the state.
    PutNow { from: u8, to: u8 },
    Install { node: u8, epoch: u8 },
    Crash(u8),
    Evict(u8),
    Admit(u8),
    Replace(u8, u8),
    Leave(u8),
    Exit(u8),
}

/// Something that happens to a node within one action.
enum Event {
    Input(Input),
    Run { gen_: u64, op: u8 },
}

impl Cfg {
    /// The first state: a complete barrier, no data.
    pub fn first(&self) -> World {
        let mut views = [Membership::default(); EPOCHS];
        views[1] = Membership { members: self.init, leaving: 0 };
        let node = |n: u8| {
            let member = MEMBERS[usize::from(n)].clone();
            let view = if has(self.init, n) {
                views[1].view(1)
            } else {
                View::alone(ClusterId(100 + u64::from(n)), member.clone())
            };
            Node::new(Shard::new(member.id, view, self.backups as usize, 100, u64::from(n)))
        };
        World {
            views,
            last: 1,
            nodes: std::array::from_fn(|n| {
                has(self.init | self.joiners, n as u8).then(|| node(n as u8))
            }),
            net: Vec::new(),
            done: [0; EPOCHS],
            current: [0; 2],
            sent: [false; 2],
            retries: self.retries,
            crashes: self.crashes,
            evicts: self.evicts,
            joins: self.joins,
            leaves: self.leaves,
            acked: 0,
            acker: [None; EPOCHS],
            lost: 0,
            limit: self.backups.min(self.init.count_ones() - 1) as u8,
            used: self.init,
            must: [0; 8],
            seen: [Val::default(); 8],
            flags: 0,
        }
    }

    /// What may happen next.
    pub fn choices(&self, w: &World, acts: &mut Vec<Action>) {
        if w.flags != 0 {
            return;
        }
        acts.extend(w.net.iter().filter(|p| self.is_deliverable(w, p)).map(|p| Action::Deliver(*p)));
        let view = w.views[usize::from(w.last)];
        for n in 0..NODES as u8 {
            let Some(node) = w.node(n) else { continue };
            let epoch = node.epoch();
            if self.may_complete(w, n) && complete_matters(w, n, self.backups) {
                acts.push(Action::Complete(n));
            }
            if !node.running.is_empty() {
                acts.push(Action::Run(n));
            }
            acts.extend(iter(node.due).map(|to| Action::PutNow { from: n, to }));
            acts.extend(
                (epoch + 1..=w.last)
                    .filter(|e| has(w.views[usize::from(*e)].members, n))
                    .map(|epoch| Action::Install { node: n, epoch }),
            );
            if w.crashes > 0 && has(view.members, n) && self.may_lose(w, n).is_some() {
                acts.push(Action::Crash(n));
            }
            if epoch > 0 && has(w.views[usize::from(epoch)].leaving, n) && node.shard.is_complete() {
                acts.push(Action::Exit(n));
            }
        }
        self.client_choices(w, acts);
        if usize::from(w.last) < EPOCHS - 2 {
            self.view_choices(w, acts);
        }
    }

    fn client_choices(&self, w: &World, acts: &mut Vec<Action>) {
        for client in 0..self.clients {
            let c = usize::from(client);
            if w.current[c] >= self.ops {
                continue;
            }
            // Clients are interchangeable: the first request is the first client's.
            if c > 0 && !w.sent[c] && w.current[c] == 0 && w.current[0] == 0 && !w.sent[0] {
                continue;
            }
            for node in 0..NODES as u8 {
                if w.node(node).is_none_or(|n| n.epoch() == 0) {
                    continue;
                }
                if !w.sent[c] {
                    acts.push(Action::Send { client, node });
                } else if w.retries > 0 {
                    acts.push(Action::Retry { client, node });
                }
            }
        }
    }

    fn view_choices(&self, w: &World, acts: &mut Vec<Action>) {
        let view = w.views[usize::from(w.last)];
        let left = |m: u8| (view.active() & !bit(m)).count_ones();
        if w.evicts > 0 {
            let out = iter(view.members).filter(|m| left(*m) >= 2 && self.may_lose(w, *m).is_some());
            acts.extend(out.map(Action::Evict));
        }
        if w.joins > 0 {
            for j in 0..NODES as u8 {
                let fresh = has(self.joiners, j) && !has(w.used, j);
                let back = self.mutation == Mutation::Readmit
                    && has(w.used, j)
                    && !has(view.members, j)
                    && w.node(j).is_some();
                if fresh || back {
                    acts.push(Action::Admit(j));
                }
            }
        }
        if w.joins > 0 && w.evicts > 0 {
            for j in iter(self.joiners & !w.used) {
                let out = iter(view.members).filter(|m| left(*m) >= 1 && self.may_lose(w, *m).is_some());
                acts.extend(out.map(|m| Action::Replace(m, j)));
            }
        }
        if w.leaves > 0 {
            acts.extend(iter(view.active()).filter(|m| left(*m) > self.backups).map(Action::Leave));
        }
    }

    /// The state after `action`; none if it changes nothing.
    pub fn after(&self, last: &World, action: Action) -> Option<World> {
        let mut w = last.clone();
        match action {
            Action::Send { client, node } => {
                w.sent[usize::from(client)] = true;
                let op = self.op(&w, client);
                w.must[usize::from(op)] = w.acked;
                self.ask(&mut w, node, op);
            }
            Action::Retry { client, node } => {
                w.retries -= 1;
                let op = self.op(&w, client);
                self.ask(&mut w, node, op);
            }
            Action::Deliver(packet) => self.deliver(&mut w, packet),
            Action::Complete(n) => self.complete(&mut w, n),
            Action::Run(n) => self.run_oldest(&mut w, n),
            Action::PutNow { from, to } => {
                w.change(from, |node| node.due &= !bit(to));
                self.put(&mut w, from, to);
            }
            Action::Install { node, epoch } => self.install(&mut w, node, epoch),
            Action::Crash(n) => {
                w.lost = self.may_lose(&w, n)?;
                w.crashes -= 1;
                w.nodes[usize::from(n)] = None;
            }
            Action::Evict(m) => {
                w.lost = self.may_lose(&w, m)?;
                w.evicts -= 1;
                let next = w.views[usize::from(w.last)].without(bit(m));
                w.decide(next);
            }
            Action::Admit(j) => {
                w.joins -= 1;
                w.used |= bit(j);
                let mut next = w.views[usize::from(w.last)];
                next.members |= bit(j);
                w.decide(next);
            }
            Action::Replace(m, j) => {
                w.lost = self.may_lose(&w, m)?;
                w.evicts -= 1;
                w.joins -= 1;
                w.used |= bit(j);
                let mut next = w.views[usize::from(w.last)].without(bit(m));
                next.members |= bit(j);
                w.decide(next);
            }
            Action::Leave(m) => {
                w.leaves -= 1;
                let mut next = w.views[usize::from(w.last)];
                next.leaving |= bit(m);
                w.decide(next);
            }
            Action::Exit(n) => {
                // Its barrier completed: what it held is elsewhere, so this is no loss.
                w.nodes[usize::from(n)] = None;
                let view = w.views[usize::from(w.last)];
                if has(view.members, n) {
                    if usize::from(w.last) >= EPOCHS - 2 {
                        return None;
                    }
                    w.decide(view.without(bit(n)));
                }
            }
        }
        // A client goes on when its operation is acknowledged; before that it may have sent the last one again.
        for client in 0..self.clients {
            let c = usize::from(client);
            while w.current[c] < self.ops && has(w.acked, self.op(&w, client)) {
                if w.current[c] + 1 >= self.ops && w.retries > 0 {
                    break;
                }
                w.current[c] += 1;
                w.sent[c] = false;
            }
        }
        self.finish(&mut w);
        (w != *last).then_some(w)
    }

    fn op(&self, w: &World, client: u8) -> u8 {
        client * self.ops + w.current[usize::from(client)]
    }

    /// A client asks a node.
    pub fn ask(&self, w: &mut World, node: u8, op: u8) {
        let input = Input::Request { token: op.into(), key: KEY.clone(), request: request(op) };
        self.step(w, node, input);
    }

    pub fn install(&self, w: &mut World, node: u8, epoch: u8) {
        let view = w.views[usize::from(epoch)].view(epoch);
        self.step(w, node, Input::Install(view));
        if self.mutation == Mutation::DoneWithoutAcks {
            w.done[usize::from(epoch)] |= bit(node);
        }
        if self.mutation == Mutation::NoBarrier {
            self.hear_done(w, node, w.views[usize::from(epoch)].members);
        }
    }

    /// Whether the machine would take the packet now or could later; stale ones are answered with a view.
    pub fn is_deliverable(&self, w: &World, p: &Packet) -> bool {
        let Some(node) = w.node(p.to) else { return false };
        node.epoch() == p.epoch || (node.epoch() > p.epoch && self.takes_stale(&p.content))
    }

    /// The defects that ignore epochs.
    fn takes_stale(&self, content: &Content) -> bool {
        match content {
            Content::Put { .. } | Content::PutAck { .. } => self.mutation == Mutation::NoEpochCheckOnPut,
            Content::Grant { .. } => self.mutation == Mutation::LateGrant,
            Content::Claim
            | Content::OwnerIs { .. }
            | Content::Hold { .. }
            | Content::HoldAck { .. }
            | Content::Forward { .. }
            | Content::Reply { .. } => false,
        }
    }

    /// A packet arrives.
    pub fn deliver(&self, w: &mut World, p: Packet) {
        let Some(node) = w.node(p.to) else { return };
        let (own, rec, authority, at_epoch) = (node.own(), node.rec(), node.shard.speaks_for(&KEY), node.epoch());
        let mut content = p.content;
        match content {
            Content::Hold { at, .. } if own.is_none() && authority && at_epoch == p.epoch => {
                // The same generation with a later version is possible: what a leaver never got acknowledged.
                if !rec.is_some_and(|(rec, ..)| rec.gen_ == at.gen_ || rec >= at) {
                    w.flags |= flags::SURPRISE;
                }
            }
            Content::Grant { at, val } if self.mutation == Mutation::LateGrant => {
                content = Content::Grant { at: Version { gen_: at_epoch, ..at }, val };
            }
            Content::Claim if self.mutation == Mutation::RegrantUnconfirmed && own.is_none() && authority => {
                if let Some((at, val, Some(owner), false)) = rec
                    && owner != p.from
                {
                    let content = Content::Grant { at: Version { gen_: p.epoch, ..at }, val };
                    w.send(Packet { epoch: p.epoch, from: p.to, to: p.from, content });
                }
            }
            _ => {}
        }
        let epoch = if self.takes_stale(&content) { at_epoch } else { p.epoch };
        let message = |content: Content| Input::Message {
            from: id(p.from),
            epoch: Epoch(epoch.into()),
            msg: content.msg(),
        };
        self.step(w, p.to, message(content));
        if let (Mutation::GrantIsAck, Content::Grant { at, .. }, None) = (self.mutation, content, own) {
            self.step(w, p.to, message(Content::PutAck { at }));
        }
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

    fn hear_done(&self, w: &mut World, n: u8, members: Set) {
        for from in iter(members) {
            let Some(node) = w.node(n) else { return };
            let epoch = node.shard.epoch();
            self.step(w, n, Input::Message { from: id(from), epoch, msg: Msg::Done { heard: true } });
        }
    }

    /// The actor of a node handles a request, when it gets to it.
    pub fn run_oldest(&self, w: &mut World, n: u8) {
        let mut oldest = None;
        w.change(n, |node| oldest = node.running.pop_front());
        if let Some((gen_, op)) = oldest {
            self.play(w, n, Event::Run { gen_, op });
        }
    }

    pub fn step(&self, w: &mut World, n: u8, input: Input) {
        self.play(w, n, Event::Input(input));
    }

    /// Feeds an event to a node, and then whatever follows from it at once.
    fn play(&self, w: &mut World, n: u8, event: Event) {
        let mut events = VecDeque::from([(n, event)]);
        loop {
            while let Some((n, event)) = events.pop_front() {
                let Some(input) = self.input(w, n, event) else { continue };
                let relays = matches!(input, Input::Message { msg: Msg::Reply { .. }, .. });
                let leased = !self.lease || has(w.views[usize::from(w.last)].members, n);
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

    fn input(&self, w: &mut World, n: u8, event: Event) -> Option<Input> {
        let node = w.node(n)?;
        let (gen_, op) = match event {
            Event::Input(input) => return Some(input),
            Event::Run { gen_, op } => (gen_, op),
        };
        // The actor's state is what it handed over last, which is the part's.
        let (at, mut val) = node.own()?;
        if u64::from(at.gen_) != gen_ {
            return None;
        }
        let known = has(self.read_ops(), op) || val.count(op) > 0 && self.mutation != Mutation::NoDedup;
        if known && self.mutation == Mutation::DedupReplyAtOnce {
            self.acknowledge(w, n, op, val);
        }
        if !known {
            val.add(op);
        }
        let data = (!known).then(|| val.encode());
        let ran = Ran::Done { reply: encode_reply(op, val), data };
        Some(Input::Ran { key: KEY.clone(), gen_: Epoch(gen_), ran })
    }

    fn interpret(
        &self,
        w: &mut World,
        n: u8,
        relays: bool,
        effect: Effect,
        events: &mut VecDeque<(u8, Event)>,
    ) {
        let Some(epoch) = w.node(n).map(Node::epoch) else { return };
        match effect {
            Effect::Send { msg: Msg::Done { .. }, .. } => w.done[usize::from(epoch)] |= bit(n),
            Effect::Send { to, msg } => {
                let Some(content) = Content::of(&msg) else { return };
                let to = index(&to);
                if let (Content::Reply { op, val, .. }, false) = (content, relays) {
                    self.acknowledge(w, n, op, val);
                }
                let packet = Packet { epoch, from: n, to, content };
                if matches!(content, Content::HoldAck { .. }) {
                    if w.node(to).is_some_and(|node| node.epoch() == epoch) {
                        events.push_back((to, Event::Input(packet.input())));
                    }
                } else {
                    w.send(packet);
                }
            }
            Effect::Put { to, .. } => {
                let to = index(&to);
                if self.slow_puts {
                    w.change(n, |node| node.due |= bit(to));
                } else {
                    self.put(w, n, to);
                }
                if self.mutation == Mutation::ReplyBeforeAck
                    && let Some((at, _)) = w.node(n).and_then(Node::own)
                {
                    let packet = Packet { epoch, from: to, to: n, content: Content::PutAck { at } };
                    events.push_back((n, Event::Input(packet.input())));
                }
            }
            Effect::Start { .. } | Effect::Stop { .. } => w.change(n, |node| node.running.clear()),
            Effect::Run { gen_, request, .. } => {
                let (gen_, op) = (gen_.0, op_of(&request));
                if self.slow_actor {
                    w.change(n, |node| node.running.push_back((gen_, op)));
                } else {
                    events.push_back((n, Event::Run { gen_, op }));
                }
            }
            Effect::Answer { answer: Answer::Reply(reply), .. } if !relays => {
                let (op, val) = decode_reply(&reply);
                self.acknowledge(w, n, op, val);
            }
            Effect::Broken(_) => w.flags |= flags::BROKEN,
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
        if let Some(content) = node.shard.put_of(&KEY).as_ref().and_then(Content::of) {
            w.send(Packet { epoch, from, to, content });
        }
    }

    /// An owner answers: what it says must agree with all that was said before.
    fn acknowledge(&self, w: &mut World, n: u8, op: u8, val: Val) {
        let Some(epoch) = w.node(n).map(|node| usize::from(node.epoch())) else { return };
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

    /// The losses if `m` is lost too; none if that is more than must be survived.
    fn may_lose(&self, w: &World, m: u8) -> Option<Set> {
        let lost = w.lost | bit(m) & w.views[usize::from(w.last)].members;
        let stands = !self.constrained || lost == w.lost || lost.count_ones() <= u32::from(w.limit);
        stands.then_some(lost)
    }

    /// What holds after every action, and what is dropped.
    pub fn finish(&self, w: &mut World) {
        for node in w.nodes.iter_mut().flatten().filter(|node| node.dirty) {
            Arc::make_mut(node).seal();
        }
        for epoch in 1..=w.last {
            let owners = w.living().filter(|(_, n)| n.epoch() == epoch && n.own().is_some()).count();
            if owners > 1 {
                w.flags |= flags::TWO_OWNERS;
            }
        }
        let view = w.views[usize::from(w.last)];
        let synced = iter(view.members)
            .all(|n| w.node(n).is_some_and(|node| node.epoch() == w.last && node.shard.done_sent()));
        if w.lost & view.members == 0 && synced {
            w.lost = 0;
            w.limit = self.backups.min(view.active().count_ones() - 1) as u8;
        }
        self.tidy(w);
    }

    fn tidy(&self, w: &mut World) {
        let packets = std::mem::take(&mut w.net);
        w.net = packets.into_iter().filter(|p| self.may_matter(w, p)).collect();
        for epoch in 1..=w.last {
            let members = w.views[usize::from(epoch)].members;
            let of_use = iter(members).filter_map(|n| w.node(n)).any(|node| {
                node.epoch() < epoch || node.epoch() == epoch && !node.shard.is_complete()
            });
            if !of_use {
                w.done[usize::from(epoch)] = 0;
            }
        }
    }

    /// Whether the packet can still change anything.
    fn may_matter(&self, w: &World, p: &Packet) -> bool {
        let Some(to) = w.node(p.to) else { return false };
        let now = to.epoch() == p.epoch;
        if to.epoch() > p.epoch && !self.takes_stale(&p.content) {
            return false;
        }
        let from = w.node(p.from);
        match p.content {
            Content::PutAck { at } => {
                to.own().is_some_and(|(own, _)| own.gen_ == at.gen_) && acked(to, p.from) < Some(at.ver)
            }
            Content::Grant { .. } => to.own().is_none(),
            Content::Claim => from.is_none_or(|from| from.own().is_none()),
            Content::Put { at, .. } => {
                let Some((rec, _, owner, confirmed)) = to.rec() else { return true };
                let stale = rec.gen_ == at.gen_ && rec.ver > at.ver;
                let kept = rec == at && owner == Some(p.from) && confirmed;
                let counted = from.is_some_and(|from| {
                    from.own().is_some_and(|(own, _)| own.gen_ == at.gen_)
                        && acked(from, p.to) >= Some(at.ver)
                });
                !(now && (stale || kept && counted))
            }
            Content::Hold { at, .. } => {
                let merged = to.own().is_some_and(|(own, _)| own >= at)
                    || to.rec().is_some_and(|(rec, ..)| rec >= at);
                let counts = from.is_some_and(|from| {
                    from.epoch() <= p.epoch
                        && from.rec().is_some_and(|(rec, ..)| rec == at)
                        && from.shard.held_by(&KEY).is_some_and(|by| !by.contains(&id(p.to)))
                });
                !(now && merged && !counts)
            }
            Content::OwnerIs { .. }
            | Content::HoldAck { .. }
            | Content::Forward { .. }
            | Content::Reply { .. } => true,
        }
    }
}

/// The version that `keeper` acknowledged to the owner `node`.
fn acked(node: &Node, keeper: u8) -> Option<u8> {
    let keeper = id(keeper);
    let found = node.shard.acked_by(&KEY).iter().find(|(id, _)| *id == keeper);
    match found {
        Some((_, ver)) => ver.map(|ver| ver as u8),
        // Its acknowledgement counts for nothing.
        None => Some(u8::MAX),
    }
}

/// Whether completing the barrier changes more than the flag.
fn complete_matters(w: &World, n: u8, backups: u32) -> bool {
    let Some(node) = w.node(n) else { return false };
    let view = w.views[usize::from(node.epoch())];
    view.home() == Some(n) && !node.shard.speaks_for(&KEY)
        || !has(view.top(backups), n) && node.rec().is_some()
        || has(view.leaving, n)
}

impl Packet {
    pub fn input(self) -> Input {
        Input::Message { from: id(self.from), epoch: Epoch(self.epoch.into()), msg: self.content.msg() }
    }
}

impl World {
    /// The node, if it lives.
    pub fn node(&self, n: u8) -> Option<&Node> {
        self.nodes[usize::from(n)].as_deref()
    }

    pub fn living(&self) -> impl Iterator<Item = (u8, &Node)> {
        (0..NODES as u8).filter_map(|n| self.node(n).map(|node| (n, node)))
    }

    fn change(&mut self, n: u8, change: impl FnOnce(&mut Node)) {
        if let Some(node) = &mut self.nodes[usize::from(n)] {
            let node = Arc::make_mut(node);
            change(node);
            node.dirty = true;
        }
    }

    fn decide(&mut self, next: Membership) {
        self.last += 1;
        self.views[usize::from(self.last)] = next;
    }

    fn send(&mut self, packet: Packet) {
        if let Err(at) = self.net.binary_search(&packet) {
            self.net.insert(at, packet);
        }
    }

    /// The keepers whose Put has room now.
    pub fn take_due(&mut self, n: u8) -> Vec<u8> {
        let due = self.node(n).map_or(0, |node| node.due);
        if due != 0 {
            self.change(n, |node| node.due = 0);
        }
        iter(due).collect()
    }

    /// Takes out of the net what arrives at once, and what never will.
    fn take_direct(&mut self, events: &mut VecDeque<(u8, Event)>) {
        for p in std::mem::take(&mut self.net) {
            let direct = matches!(p.content, Content::Forward { .. } | Content::Reply { .. });
            match self.node(p.to).map(Node::epoch) {
                _ if !direct => self.net.push(p),
                Some(epoch) if epoch == p.epoch => events.push_back((p.to, Event::Input(p.input()))),
                Some(epoch) if epoch < p.epoch => self.net.push(p),
                Some(_) | None => {}
            }
        }
    }
}
