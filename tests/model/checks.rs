//! The invariants of the protocol as properties of the model, and the liveness closure.

use statekeeper::protocol::shard::Input;
use stateright::{Model, Property};

use super::net::*;
use super::world::*;

/// Ticks after which a quiet cluster must have settled, and after which a request must be answered.
const SETTLE_TICKS: usize = 6;

/// Rounds of messages without a tick after which the nodes must have fallen silent.
const ROUNDS_MAX: usize = 100;

pub const I1: &str = "I1: at most one node per epoch answers writes";
pub const I1_OWN: &str = "I1': at most one node owns the key in an epoch";
pub const I2_ANSWER: &str = "I2: no answer misses what was acknowledged before";
pub const I2_DURABLE: &str = "I2: some member holds all that was acknowledged";
pub const I2_AUTHORITY: &str = "I2: the home with authority hands out all that was acknowledged";
pub const I3: &str = "I3: no operation is applied twice";
pub const I4: &str = "I4: after quiet time every node serves the key";
pub const UNBROKEN: &str = "the machine never finds an invariant broken";
pub const UNSURPRISED: &str = "a home with authority is never surprised";

/// Some living member of the latest view holds every acknowledged operation.
fn is_durable(cfg: &Cfg, w: &World) -> bool {
    let acked = w.acked & !cfg.read_ops();
    acked == 0
        || iter(w.views[usize::from(w.last)].members)
            .filter_map(|n| w.node(n))
            .any(|node| {
                node.own().is_some_and(|(_, val)| val.contains(acked))
                    || node.rec().is_some_and(|(_, val, ..)| val.contains(acked))
            })
}

/// What the home of the latest view would hand out, if it may, contains every acknowledged operation.
fn is_authority_whole(cfg: &Cfg, w: &World) -> bool {
    let acked = w.acked & !cfg.read_ops();
    let Some(home) = w.views[usize::from(w.last)]
        .home()
        .and_then(|home| w.node(home))
    else {
        return true;
    };
    if acked == 0 || home.epoch() != w.last || !home.shard.speaks_for(&KEY) {
        return true;
    }
    if let Some((_, val)) = home.own() {
        return val.contains(acked);
    }
    let Some((_, val, owner, _)) = home.rec() else {
        return false;
    };
    let owned = owner.and_then(|owner| w.node(owner)).and_then(Node::own);
    owned.map_or(val, |(_, val)| val).contains(acked)
}

fn has_duplicate(w: &World) -> bool {
    w.living().any(|(_, node)| {
        node.own().is_some_and(|(_, val)| val.has_duplicate())
            || node.rec().is_some_and(|(_, val, ..)| val.has_duplicate())
    })
}

/// A share of the states, the same in every run.
fn is_sample(w: &World, every: u64) -> bool {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    w.hash(&mut hasher);
    every != 0 && hasher.finish().is_multiple_of(every)
}

/// Bounded liveness: no more faults, the dead are evicted, everybody installs the last view, everything that is
/// sent arrives once, and time passes. Then every active node must answer a request, and see all that was
/// acknowledged; and the copies must be where the view wants them.
pub fn heals(cfg: &Cfg, w: &World) -> Result<(), String> {
    let mut w = w.clone();
    let view = w.views[usize::from(w.last)];
    let dead: Set = iter(view.members)
        .filter(|n| w.node(*n).is_none())
        .map(bit)
        .sum();
    if dead != 0 {
        w.last += 1;
        w.views[usize::from(w.last)] = view.without(dead);
    }
    let view = w.views[usize::from(w.last)];
    if view.active().count_ones() < 2 {
        return Ok(());
    }
    for n in iter(view.members) {
        if w.node(n).is_some_and(|node| node.epoch() < w.last) {
            let last = w.last;
            cfg.install(&mut w, n, last);
        }
    }
    settle(cfg, &mut w);
    for n in iter(view.active()) {
        let mut probe = w.clone();
        probe.must[usize::from(PROBE)] = probe.acked;
        cfg.ask(&mut probe, n, PROBE, false, None);
        settle(cfg, &mut probe);
        if !has(probe.acked, PROBE) {
            return Err(format!("a request at {n} is not answered: {probe:?}"));
        }
        if probe.flags != 0 {
            return Err(format!(
                "a request at {n} raises flags {:b}: {probe:?}",
                probe.flags
            ));
        }
        let acked = probe.acked & !cfg.read_ops();
        let copies = iter(view.active())
            .filter_map(|n| probe.node(n))
            .filter(|node| {
                node.own().is_some_and(|(_, val)| val.contains(acked))
                    || node.rec().is_some_and(|(_, val, ..)| val.contains(acked))
            });
        let wanted = view.active().count_ones().min(cfg.backups + 1);
        if (copies.count() as u32) < wanted {
            return Err(format!(
                "fewer than {wanted} copies after a request at {n}: {probe:?}"
            ));
        }
    }
    Ok(())
}

fn settle(cfg: &Cfg, w: &mut World) {
    let advance_all = |w: &mut World| {
        let rounds = (0..ROUNDS_MAX).take_while(|_| advance(cfg, w)).count();
        assert!(rounds < ROUNDS_MAX, "the nodes never fall silent: {w:?}");
    };
    for _ in 0..SETTLE_TICKS {
        advance_all(w);
        for n in 0..NODES as u8 {
            if w.node(n).is_some_and(|node| node.epoch() == w.last) {
                cfg.step(w, n, Input::Tick);
            }
        }
    }
    advance_all(w);
    cfg.finish(w);
}

/// Everything that is under way arrives, once. Whether there was anything.
fn advance(cfg: &Cfg, w: &mut World) -> bool {
    let packets = std::mem::take(&mut w.net);
    let mut advanced = !packets.is_empty();
    for packet in packets {
        if cfg.is_deliverable(w, &packet) {
            cfg.deliver(w, packet);
        }
    }
    for n in 0..NODES as u8 {
        while w.node(n).is_some_and(|node| !node.running.is_empty()) {
            cfg.run_oldest(w, n);
            advanced = true;
        }
        for to in w.take_due(n) {
            cfg.put(w, n, to);
            advanced = true;
        }
        if cfg.may_complete(w, n) {
            cfg.complete(w, n);
            advanced = true;
        }
    }
    advanced
}

impl Model for Cfg {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.first()]
    }

    fn actions(&self, w: &World, acts: &mut Vec<Action>) {
        self.choices(w, acts);
    }

    fn next_state(&self, w: &World, action: Action) -> Option<World> {
        self.after(w, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut checks = vec![
            Property::<Self>::always(I1, |_, w| w.flags & flags::TWO_ACKERS == 0),
            Property::<Self>::always(I1_OWN, |_, w| w.flags & flags::TWO_OWNERS == 0),
            Property::<Self>::always(UNBROKEN, |_, w| w.flags & flags::BROKEN == 0),
            Property::<Self>::always(I3, |_, w| !has_duplicate(w)),
            Property::<Self>::sometimes("every operation is acknowledged", |cfg: &Cfg, w| {
                w.acked.count_ones() == u32::from(cfg.clients * cfg.ops)
            }),
        ];
        if self.constrained {
            checks.extend([
                Property::<Self>::always(I2_ANSWER, |_, w| w.flags & flags::LOST == 0),
                Property::<Self>::always(I2_DURABLE, is_durable),
                Property::<Self>::always(I2_AUTHORITY, is_authority_whole),
                Property::<Self>::always(UNSURPRISED, |_, w| w.flags & flags::SURPRISE == 0),
            ]);
        } else {
            checks.push(Property::<Self>::sometimes(
                "too many losses lose something",
                |cfg: &Cfg, w| !is_durable(cfg, w),
            ));
        }
        if self.clients * self.ops > 1 && self.crashes + self.evicts > 0 {
            checks.push(Property::<Self>::sometimes(
                "another node goes on answering",
                |_, w| {
                    let mut ackers = w.acker.iter().flatten();
                    let first = ackers.next();
                    ackers.any(|acker| Some(acker) != first)
                },
            ));
        }
        if self.rests > 0 && self.clients * self.ops + self.retries > 1 {
            checks.push(Property::<Self>::sometimes(
                "an actor at rest wakes on another node in the same epoch",
                |cfg: &Cfg, w| {
                    let woken = |(_, node): (u8, &Node)| {
                        node.own().is_some() && node.shard.rests() == 0 && w.acked != 0
                    };
                    w.last == 1 && w.rests < cfg.rests && w.living().any(woken)
                },
            ));
        }
        if self.live_every > 0 {
            checks.push(Property::<Self>::always(I4, |cfg: &Cfg, w| {
                w.flags != 0 || !is_sample(w, cfg.live_every) || heals(cfg, w).is_ok()
            }));
        }
        checks
    }
}
