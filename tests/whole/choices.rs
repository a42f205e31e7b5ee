//! What can happen next, and what comes of it.

use statekeeper::protocol::members;
use statekeeper::protocol::types::Millis;
use stateright::{Model, Property};

use super::world::*;

/// What can happen.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// What was sent first arrives, or a tick passes.
    Step,
    /// All of that until the next tick.
    Round,
    /// What would arrive next waits until the next tick, and all that follows it on its lane.
    Hold,
    Crash(Place),
    /// A witness tells everybody that the crashed is dead.
    Obituary,
    Restart(Place),
    Cut(Place),
    Ask(Place),
    Connect(Place, Place),
    Forget(Place, Place),
    Leave(Place),
    Rest(Place),
}

impl Cfg {
    /// The first state, in which nodes of one cluster have found each other.
    pub fn first(&self) -> World {
        let mut w = World {
            now: Millis(1_000),
            ticks: 0,
            fresh: true,
            nodes: Default::default(),
            lives: [0; PLACES],
            links: Default::default(),
            mail: Vec::new(),
            held: Default::default(),
            cut: None,
            unwitnessed: None,
            budget: self.budget,
            disturbed: 0,
            lossy: false,
            next_op: 0,
            ordered: Default::default(),
            books: Books::default(),
        };
        for at in 0..self.nodes {
            self.start(&mut w, at);
        }
        self.round(&mut w);
        if self.formed {
            for at in 1..self.nodes {
                self.join(&mut w, at, 0);
                let rounds = (0..20).take_while(|_| {
                    self.round(&mut w);
                    let with = w
                        .node(at)
                        .is_some_and(|n| n.members.view().members.len() == at + 1);
                    !(with && w.is_synced(at + 1))
                });
                assert!(rounds.count() < 20, "they find each other");
            }
        }
        w.ticks = 0;
        w.disturbed = 0;
        w
    }

    fn join(&self, w: &mut World, at: Place, to: Place) {
        let Some(peer) = w.node(to).map(|n| n.members.me().id.clone()) else {
            return;
        };
        self.members(w, at, members::Input::Connect { peer, token: 0 });
    }

    /// One step of the default schedule; whether it was the tick.
    fn step(&self, w: &mut World) -> bool {
        w.fresh = false;
        let next = w.mail.iter().position(|(lane, _)| !w.held.contains(lane));
        match next {
            Some(next) => {
                let (lane, item) = w.mail.remove(next);
                self.deliver(w, &lane, item);
            }
            None => self.tick(w),
        }
        w.check();
        next.is_none()
    }

    fn round(&self, w: &mut World) {
        let steps = (0..2_000).take_while(|_| !self.step(w)).count();
        assert!(steps < 2_000, "the nodes never fall silent");
    }

    /// Whether the run is over, and was quiet for long enough.
    fn is_due(&self, w: &World) -> bool {
        w.ticks == self.ticks
            && w.disturbed + self.heal_ticks <= w.ticks
            && w.ordered.len() == w.budget.connects.len()
            && w.living().count() >= 2
    }

    fn may_lose(&self, w: &World) -> bool {
        !w.lossy && w.is_well()
    }
}

impl World {
    fn is_synced(&self, count: usize) -> bool {
        let is = |n: &Node| {
            n.members.view().members.len() == count
                && n.shard.is_complete()
                && n.members.leased_until() > self.now
        };
        self.living().filter(|(_, n)| is(n)).count() == count
    }

    fn next_lane(&self) -> Option<&Lane> {
        self.mail
            .iter()
            .map(|(lane, _)| lane)
            .find(|lane| !self.held.contains(lane))
    }
}

impl Model for Cfg {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.first()]
    }

    fn actions(&self, w: &World, acts: &mut Vec<Action>) {
        if w.ticks >= self.ticks || !w.books.violated.is_empty() {
            return;
        }
        let b = &w.budget;
        let early = w.ticks + self.heal_ticks <= self.ticks;
        let mut fine = false;
        if early {
            if b.holds > 0 {
                fine = true;
                if w.next_lane().is_some() {
                    acts.push(Action::Hold);
                }
            }
            if b.crashes > 0 {
                fine = true;
                if !w.lossy {
                    acts.extend(w.living().map(|(p, _)| Action::Crash(p)));
                }
            }
            if b.obituaries > 0 && w.unwitnessed.is_some() {
                fine = true;
                acts.push(Action::Obituary);
            }
        }
        if early && w.fresh {
            let living = || w.living().map(|(p, _)| p);
            if b.requests > 0 {
                acts.extend(living().map(Action::Ask));
            }
            if b.cuts > 0 && w.cut.is_none() && !w.lossy {
                acts.extend(living().map(Action::Cut));
            }
            if b.restarts > 0 {
                let gone = |p: &Place| w.node(*p).is_none() && w.lives[*p] > 0;
                acts.extend((0..PLACES).filter(gone).map(Action::Restart));
            }
            if b.forgets > 0 {
                for gone in (0..PLACES).filter(|p| w.node(*p).is_none() && w.lives[*p] > 0) {
                    acts.extend(living().map(|p| Action::Forget(p, gone)));
                }
            }
            if b.leaves > 0 && self.may_lose(w) {
                acts.extend(living().map(Action::Leave));
            }
            if b.rests > 0 {
                let idle = |(p, n): (Place, &Node)| {
                    let gen_ = n.shard.owns(&key())?;
                    n.shard.may_rest(&key(), gen_).then_some(Action::Rest(p))
                };
                acts.extend(w.living().filter_map(idle));
            }
            let open = b.connects.iter().filter(|c| !w.ordered.contains(c));
            acts.extend(open.map(|(a, b)| Action::Connect(*a, *b)));
        }
        acts.push(if fine { Action::Step } else { Action::Round });
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut w = last.clone();
        match action {
            Action::Step => {
                self.step(&mut w);
                return Some(w);
            }
            Action::Round => {
                self.round(&mut w);
                return Some(w);
            }
            Action::Hold => {
                w.budget.holds -= 1;
                let lane = w.next_lane()?.clone();
                w.held.insert(lane);
            }
            Action::Crash(at) => {
                w.budget.crashes -= 1;
                w.lossy = true;
                w.books.crashed = Some(w.now);
                w.unwitnessed = w.node(at).map(|n| n.members.me().id.clone());
                w.end(at);
            }
            Action::Obituary => {
                w.budget.obituaries -= 1;
                let dead = w.unwitnessed.take()?;
                for at in 0..PLACES {
                    self.members(&mut w, at, members::Input::Died(dead.clone()));
                }
                w.books.died = true;
            }
            Action::Restart(at) => {
                w.budget.restarts -= 1;
                self.start(&mut w, at);
            }
            Action::Cut(at) => {
                w.budget.cuts -= 1;
                w.lossy = true;
                w.cut = Some((at, w.now + Millis(self.cut_ticks * TICK.0)));
                let id = w.node(at)?.members.me().id.clone();
                let peers: Vec<_> = w.living().map(|(_, n)| n.members.me().id.clone()).collect();
                peers.iter().for_each(|peer| w.hang_up(&id, peer));
            }
            Action::Ask(at) => {
                w.budget.requests -= 1;
                w.next_op += 1;
                let op = w.next_op;
                self.request(&mut w, at, op, false);
            }
            Action::Connect(at, to) => {
                w.ordered.insert((at, to));
                self.join(&mut w, at, to);
            }
            Action::Forget(at, gone) => {
                w.budget.forgets -= 1;
                let name = member(gone, 0).id.name;
                let forget = members::Input::Forget {
                    name,
                    force: false,
                    token: 0,
                };
                self.members(&mut w, at, forget);
            }
            Action::Leave(at) => {
                w.budget.leaves -= 1;
                self.members(&mut w, at, members::Input::Leave { token: 0 });
            }
            Action::Rest(at) => {
                w.budget.rests -= 1;
                self.rest(&mut w, at);
            }
        }
        w.disturbed = w.ticks;
        w.check();
        Some(w)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(checks::I1, |_, w: &World| {
                !w.books.violated.contains(checks::I1)
            }),
            Property::always(checks::I2, |_, w: &World| {
                !w.books.violated.contains(checks::I2)
            }),
            Property::always(checks::I3, |_, w: &World| {
                !w.books.violated.contains(checks::I3)
            }),
            Property::always(checks::V1, |_, w: &World| {
                !w.books.violated.contains(checks::V1)
            }),
            Property::always(checks::V2, |_, w: &World| {
                !w.books.violated.contains(checks::V2)
            }),
            Property::always(checks::V3, |_, w: &World| {
                !w.books.violated.contains(checks::V3)
            }),
            Property::always(checks::L1, |_, w: &World| {
                !w.books.violated.contains(checks::L1)
            }),
            Property::always(checks::UNBROKEN, |_, w: &World| {
                !w.books.violated.contains(checks::UNBROKEN)
            }),
            Property::always(checks::I4, |cfg: &Cfg, w: &World| {
                !cfg.heals || !cfg.is_due(w) || w.is_well() && w.books.open.is_empty()
            }),
            Property::sometimes(goals::ANSWERED, |cfg: &Cfg, w: &World| {
                w.books.acked.len() == usize::from(cfg.budget.requests)
            }),
            Property::sometimes(goals::RECOVERED, |cfg: &Cfg, w: &World| {
                cfg.is_due(w) && w.is_well()
            }),
            Property::sometimes(goals::REJOINED, |_, w: &World| {
                w.books.rejoined && w.is_well() && w.living().count() == PLACES
            }),
            Property::sometimes(goals::WITNESSED, |_, w: &World| {
                let early = |at: Millis| w.now < at + TIMINGS.promise;
                w.books.died && w.books.crashed.is_some_and(early) && w.is_well()
            }),
            Property::sometimes(goals::DECLINED, |_, w: &World| w.books.declined),
            Property::sometimes(goals::LEFT, |_, w: &World| w.books.left),
        ]
    }
}
