//! Two ends that dial each other at will, over connections that deliver in any order: they always come to agree.

use std::collections::VecDeque;

use super::*;
use crate::protocol::types::{Member, NodeId};

fn face(name: &str, incarnation: u64, boot: u64) -> Face {
    Face {
        member: Member {
            id: NodeId::new(name, incarnation),
            addr: "h:1".into(),
        },
        boot,
        tag: 0,
    }
}

#[test]
fn a_life_that_is_over_is_known_by_a_later_one() {
    let mut known = Known::default();
    assert_eq!(known.admit(&face("a@h", 5, 1)), Ok(()));
    assert_eq!(
        known.admit(&face("a@h", 5, 1)),
        Ok(()),
        "the same process again"
    );
    assert_eq!(
        known.admit(&face("a@h", 5, 2)),
        Err(5),
        "another process with the same number"
    );
    assert_eq!(known.admit(&face("a@h", 4, 1)), Err(5), "an older life");
    assert_eq!(known.admit(&face("a@h", 6, 2)), Ok(()));
    assert_eq!(known.admit(&face("b@h", 1, 3)), Ok(()), "another name");
}

#[test]
fn only_so_many_names_are_known() {
    let mut known = Known::default();
    for n in 0..2 * KNOWN_MAX {
        known.admit(&face(&format!("n{n}@h"), 9, 1)).unwrap();
    }
    assert_eq!(
        (known.lives.len(), known.order.len()),
        (KNOWN_MAX, KNOWN_MAX)
    );
    assert_eq!(known.admit(&face("n0@h", 1, 1)), Ok(()), "forgotten");
}

/// What goes over one connection, whose number is its link's name. `Hi` stands for ractor's own handshake.
#[derive(Clone, Copy, Debug)]
enum Msg {
    Proof,
    Verdict(Option<u64>),
    Refused,
    Go,
    Ready,
    Hi(u8),
    Close,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    id: u64,
    up: bool,
    outbound: bool,
    serial: u64,
}

#[derive(Default)]
struct End {
    entry: Option<Entry>,
    serial: u64,
    /// For each connection: the serial when its attempt began, and what it told or was told that it has.
    begun: HashMap<u64, u64>,
    told: HashMap<u64, Option<u64>>,
}

struct Sim {
    ends: [End; 2],
    /// For each connection and direction (towards end 0 or 1), what is under way.
    wires: Vec<[VecDeque<Msg>; 2]>,
    seed: u64,
}

impl Sim {
    fn random(&mut self, below: usize) -> usize {
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.seed >> 33) as usize) % below
    }

    fn name(end: usize) -> NodeName {
        NodeName::new(["alice@h", "bob@h"][end])
    }

    fn existing(&self, end: usize, since: u64) -> Option<Existing> {
        let of = |entry: Entry| Existing {
            id: entry.id,
            up: entry.up,
            outbound: entry.outbound,
            newer: entry.serial > since,
        };
        self.ends[end].entry.map(of)
    }

    fn send(&mut self, link: u64, to: usize, msg: Msg) {
        self.wires[link as usize][to].push_back(msg);
    }

    fn dial(&mut self, end: usize) {
        let link = self.wires.len() as u64;
        self.wires.push(Default::default());
        let serial = self.ends[end].serial;
        self.ends[end].begun.insert(link, serial);
        self.send(link, 1 - end, Msg::Proof);
    }

    fn take(&mut self, end: usize, id: u64, outbound: bool) {
        if let Some(old) = self.ends[end].entry {
            self.send(old.id, 1 - end, Msg::Close);
        }
        self.ends[end].serial += 1;
        let serial = self.ends[end].serial;
        self.ends[end].entry = Some(Entry {
            id,
            up: false,
            outbound,
            serial,
        });
    }

    fn drop_link(&mut self, end: usize, id: u64) {
        if self.ends[end].entry.is_some_and(|entry| entry.id == id) {
            self.ends[end].entry = None;
        }
    }

    fn has(&mut self, end: usize, id: u64) -> Option<&mut Entry> {
        self.ends[end].entry.as_mut().filter(|entry| entry.id == id)
    }

    fn deliver(&mut self, link: u64, end: usize, msg: Msg) {
        let (me, peer) = (Self::name(end), Self::name(1 - end));
        match msg {
            Msg::Proof => match verdict(&me, &peer, self.existing(end, u64::MAX)) {
                Verdict::Accept { have } => {
                    self.ends[end].told.insert(link, have);
                    self.send(link, 1 - end, Msg::Verdict(have));
                }
                Verdict::Refuse(_) => self.send(link, 1 - end, Msg::Refused),
            },
            Msg::Verdict(have) => {
                let since = self.ends[end].begun[&link];
                match commit(&me, &peer, self.existing(end, since), have) {
                    Choice::Take => {
                        self.take(end, link, true);
                        self.send(link, 1 - end, Msg::Go);
                    }
                    Choice::Keep => self.send(link, 1 - end, Msg::Refused),
                }
            }
            Msg::Go => {
                let have = self.ends[end].told[&link];
                match accept(&me, &peer, self.existing(end, u64::MAX), have) {
                    Choice::Take => {
                        self.take(end, link, false);
                        self.send(link, 1 - end, Msg::Ready);
                    }
                    Choice::Keep => self.send(link, 1 - end, Msg::Refused),
                }
            }
            Msg::Ready if self.has(end, link).is_some() => self.send(link, 1 - end, Msg::Hi(0)),
            Msg::Hi(n) => {
                if let Some(entry) = self.has(end, link) {
                    entry.up = true;
                    if n == 0 {
                        self.send(link, 1 - end, Msg::Hi(1));
                    }
                }
            }
            Msg::Refused | Msg::Close => self.drop_link(end, link),
            Msg::Ready => {}
        }
    }

    /// Delivers until nothing is under way, with dials and one-sided losses in between.
    fn run(&mut self, mut dials: usize, mut losses: usize) {
        loop {
            let mut ready = Vec::new();
            for (link, wire) in self.wires.iter().enumerate() {
                ready.extend(
                    (0..2)
                        .filter(|end| !wire[*end].is_empty())
                        .map(|end| (link, end)),
                );
            }
            if ready.is_empty() && dials == 0 {
                return;
            }
            match self.random(4) {
                0 if dials > 0 => {
                    dials -= 1;
                    let end = self.random(2);
                    // As the dialler does: not while it is linked.
                    if !self.existing(end, 0).is_some_and(|existing| existing.up) {
                        self.dial(end);
                    }
                }
                1 if losses > 0 => {
                    losses -= 1;
                    let end = self.random(2);
                    if let Some(entry) = self.ends[end].entry.take() {
                        self.send(entry.id, 1 - end, Msg::Close);
                    }
                }
                _ if !ready.is_empty() => {
                    let (link, end) = ready[self.random(ready.len())];
                    if let Some(msg) = self.wires[link][end].pop_front() {
                        self.deliver(link as u64, end, msg);
                    }
                }
                _ => {}
            }
        }
    }

    fn agreed(&self) -> Option<u64> {
        match (self.ends[0].entry, self.ends[1].entry) {
            (Some(one), Some(two)) => {
                assert!(
                    one.up && two.up && one.id == two.id && one.outbound != two.outbound,
                    "{one:?} {two:?}"
                );
                Some(one.id)
            }
            (None, None) => None,
            other => panic!("only one end has a link: {other:?}"),
        }
    }
}

fn sim(seed: u64) -> Sim {
    Sim {
        ends: Default::default(),
        wires: Vec::new(),
        seed: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15),
    }
}

#[test]
fn crossing_dials_come_to_one_link_at_both_ends() {
    for seed in 0..50_000 {
        let mut sim = sim(seed);
        let first = sim.random(2);
        sim.dial(first);
        sim.run(3, 0);
        assert!(sim.agreed().is_some(), "no link, seed {seed}");
    }
}

#[test]
fn after_losses_both_ends_agree_and_one_more_dial_heals() {
    for seed in 0..50_000 {
        let mut sim = sim(seed);
        sim.run(4, 3);
        if sim.agreed().is_none() {
            let end = sim.random(2);
            sim.dial(end);
            sim.run(0, 0);
            assert!(sim.agreed().is_some(), "no link, seed {seed}");
        }
    }
}

#[test]
fn a_link_that_only_the_acceptor_still_has_is_replaced() {
    for dialler in 0..2 {
        for initiator in 0..2 {
            let mut sim = sim(1);
            sim.dial(initiator);
            sim.run(0, 0);
            // The dialler lost it, and the news of that never arrive.
            sim.ends[dialler].entry = None;
            sim.dial(dialler);
            sim.run(0, 0);
            assert_eq!(sim.agreed(), Some(1));
        }
    }
}
