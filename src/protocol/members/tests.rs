//! Several machines over a virtual network in virtual time. At every step the harness checks that no epoch has two
//! views (V1) and that a serving node is in every decided view (L1).

use super::*;

/// A link between two nodes, by their places; the lower first.
type Pair = (usize, usize);

/// Of the default timings, with one backup.
const TERMS: Terms = Terms {
    lease: Millis(1_000),
    promise: Millis(1_250),
    backups: 1,
    on_possible_loss: OnPossibleLoss::Continue,
};

struct Sim {
    node: Members,
    running: bool,
    /// The process exists but does nothing (SIGSTOP).
    stopped: bool,
    installed: Vec<View>,
}

struct Net {
    now: u64,
    sims: Vec<Sim>,
    links: BTreeSet<Pair>,
    /// Between these every packet is lost, silently.
    cut: BTreeSet<Pair>,
    /// Of a hundred messages this many are lost.
    loss_percent: u64,
    dice: u64,
    sync: bool,
    flights: BTreeMap<(u64, u64), (NodeId, NodeId, Msg)>,
    sent: u64,
    decided: BTreeMap<(ClusterId, Epoch), View>,
    answers: BTreeMap<u64, Result<(), Failure>>,
    losses: Vec<(usize, Epoch, Vec<NodeId>)>,
}

fn member(place: usize, incarnation: u64) -> Member {
    let name = ["a@h", "b@h", "c@h", "d@h", "e@h"][place];
    Member {
        id: NodeId::new(name, incarnation),
        addr: format!("h:{place}").into(),
    }
}

fn name(place: usize) -> NodeName {
    member(place, 1).id.name
}

fn pair(a: usize, b: usize) -> Pair {
    (a.min(b), a.max(b))
}

impl Net {
    /// `n` nodes, each alone.
    fn new(n: usize) -> Self {
        let mut net = Self {
            now: 10_000,
            sims: Vec::new(),
            links: BTreeSet::new(),
            cut: BTreeSet::new(),
            loss_percent: 0,
            dice: 7,
            sync: true,
            flights: BTreeMap::new(),
            sent: 0,
            decided: BTreeMap::new(),
            answers: BTreeMap::new(),
            losses: Vec::new(),
        };
        net.sims
            .extend((0..n).map(|place| Self::boot(member(place, 1))));
        net
    }

    /// `n` nodes in one cluster, all copies in place.
    fn cluster(n: usize) -> Self {
        let mut net = Self::new(n);
        for place in 1..n {
            net.connect(place, 0, 1_000 + place as u64);
            net.until(4_000, "one more node joins", |net| {
                net.answers.get(&(1_000 + place as u64)) == Some(&Ok(()))
                    && (0..=place).all(|p| net.status(p) == Status::Serving)
            });
        }
        net
    }

    fn boot(me: Member) -> Sim {
        let seed = me.id.incarnation * 31 + u64::from(me.id.name.as_str().as_bytes()[0]);
        let cluster = ClusterId(seed * 1_000_003);
        let node = Members::new(me, cluster, Timings::default(), 1, seed);
        Sim {
            node,
            running: true,
            stopped: false,
            installed: Vec::new(),
        }
    }

    fn status(&self, place: usize) -> Status {
        self.sims[place].node.status(Millis(self.now))
    }

    /// The places of the members of that node's view.
    fn seen_by(&self, place: usize) -> Vec<usize> {
        let places = |id: &NodeId| (0..5).find(|p| name(*p) == id.name);
        self.sims[place]
            .node
            .view()
            .ids()
            .filter_map(places)
            .collect()
    }

    fn serving(&self, places: &[usize]) -> bool {
        places
            .iter()
            .all(|p| self.status(*p) == Status::Serving && self.seen_by(*p) == places)
    }

    fn place(&self, id: &NodeId) -> Option<usize> {
        self.sims
            .iter()
            .position(|s| s.running && s.node.me().id == *id)
    }

    fn input(&mut self, place: usize, input: Input) {
        if !self.sims[place].running || self.sims[place].stopped {
            return;
        }
        let mut effects = Vec::new();
        self.sims[place]
            .node
            .handle(Millis(self.now), input, &mut effects);
        for effect in effects {
            self.perform(place, effect);
        }
        self.check(place);
    }

    fn check(&mut self, place: usize) {
        let node = &self.sims[place].node;
        let view = node.view();
        if view.members.len() > 1 && node.leased_until() > Millis(self.now) {
            let later = self
                .decided
                .range((view.cluster, view.epoch)..)
                .take_while(|(k, _)| k.0 == view.cluster);
            for (_, decided) in later {
                assert!(
                    decided.contains(&node.me().id),
                    "L1: {} serves and is not in {decided:?}",
                    node.me().id
                );
            }
        }
    }

    fn perform(&mut self, place: usize, effect: Effect) {
        let me = self.sims[place].node.me().id.clone();
        match effect {
            Effect::Send { to, msg } => {
                self.dice = self
                    .dice
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                if (self.dice >> 33) % 100 >= self.loss_percent {
                    self.sent += 1;
                    let late = if self.loss_percent == 0 {
                        0
                    } else {
                        (self.dice >> 40) % 20
                    };
                    self.flights
                        .insert((self.now + 2 + late, self.sent), (me, to, msg));
                }
            }
            Effect::Install(view) => {
                let known = self
                    .decided
                    .entry((view.cluster, view.epoch))
                    .or_insert_with(|| view.clone());
                assert_eq!(*known, view, "V1: two views of one epoch");
                self.sims[place].installed.push(view);
            }
            Effect::Lease { until: _ } => {}
            Effect::Dial { name: _, addr } => {
                let to = addr
                    .rsplit(':')
                    .next()
                    .and_then(|p| p.parse().ok())
                    .expect("an address of the harness");
                self.link(place, to);
            }
            Effect::Hangup(peer) => {
                let to = self.place(&peer);
                to.into_iter().for_each(|to| self.unlink(place, to, false));
            }
            Effect::Rejoin(_) => {
                // The links were those of the old life.
                let peers: Vec<usize> = (0..self.sims.len()).filter(|p| *p != place).collect();
                for peer in peers {
                    if self.links.remove(&pair(place, peer)) {
                        self.input(
                            peer,
                            Input::LinkDown {
                                peer: self.last_id(place, peer),
                                refused: false,
                            },
                        );
                    }
                }
            }
            Effect::Answer { token, result } => {
                assert!(
                    self.answers.insert(token, result).is_none(),
                    "a command is answered once"
                );
            }
            Effect::Left => {
                // A connection delivers what was sent before it ended.
                let mine: Vec<_> = self
                    .flights
                    .iter()
                    .filter(|(_, (from, ..))| *from == me)
                    .map(|(k, _)| *k)
                    .collect();
                for key in mine {
                    self.deliver(key);
                }
                self.kill(place);
            }
            Effect::PossibleLoss { epoch, nodes } => self.losses.push((place, epoch, nodes)),
            Effect::Refused { .. } => {}
        }
    }

    /// The identity under which `peer` was linked to `place`, whatever it is called by now.
    fn last_id(&self, place: usize, peer: usize) -> NodeId {
        let links = &self.sims[peer].node.links;
        links
            .keys()
            .find(|id| id.name == name(place))
            .cloned()
            .unwrap_or_else(|| member(place, 1).id)
    }

    fn link(&mut self, a: usize, b: usize) {
        let up = |s: &Sim| s.running && !s.stopped;
        if a == b || self.cut.contains(&pair(a, b)) || self.links.contains(&pair(a, b)) {
            return;
        }
        if !self.sims.get(b).is_some_and(up) || !up(&self.sims[a]) {
            return;
        }
        self.links.insert(pair(a, b));
        let (at_a, at_b) = (
            self.sims[b].node.me().clone(),
            self.sims[a].node.me().clone(),
        );
        self.input(a, Input::LinkUp(at_a));
        self.input(b, Input::LinkUp(at_b));
    }

    fn unlink(&mut self, a: usize, b: usize, refused: bool) {
        if self.links.remove(&pair(a, b)) {
            self.input(
                a,
                Input::LinkDown {
                    peer: self.last_id(b, a),
                    refused,
                },
            );
            if !self.cut.contains(&pair(a, b)) {
                self.input(
                    b,
                    Input::LinkDown {
                        peer: self.last_id(a, b),
                        refused: false,
                    },
                );
            }
        }
    }

    /// The process ends; its host answers that nobody listens.
    fn kill(&mut self, place: usize) {
        self.sims[place].running = false;
        for peer in 0..self.sims.len() {
            self.unlink(peer, place, true);
        }
    }

    /// The host loses its power: silence.
    fn power_off(&mut self, place: usize) {
        self.sims[place].running = false;
        for peer in 0..self.sims.len() {
            self.cut.insert(pair(place, peer));
        }
    }

    fn restart(&mut self, place: usize, incarnation: u64) {
        self.cut.retain(|(a, b)| *a != place && *b != place);
        for peer in 0..self.sims.len() {
            self.unlink(peer, place, false);
        }
        self.sims[place] = Self::boot(member(place, incarnation));
    }

    fn isolate(&mut self, side: &[usize], other: &[usize]) {
        self.cut
            .extend(side.iter().flat_map(|a| other.iter().map(|b| pair(*a, *b))));
    }

    fn connect(&mut self, from: usize, to: usize, token: u64) {
        self.link(from, to);
        let peer = self.sims[to].node.me().id.clone();
        self.input(from, Input::Connect { peer, token });
    }

    fn step(&mut self) {
        self.now += 1;
        let due: Vec<(u64, u64)> = self
            .flights
            .range(..(self.now + 1, 0))
            .map(|(k, _)| *k)
            .collect();
        for key in due {
            self.deliver(key);
        }
        for place in 0..self.sims.len() {
            if self.now % 50 == place as u64 {
                self.input(place, Input::Tick);
            }
            if self.now % 50 == 25 && self.sync {
                self.sync_data(place);
            }
        }
    }

    fn deliver(&mut self, key: (u64, u64)) {
        let Some((from, to, msg)) = self.flights.remove(&key) else {
            return;
        };
        let (Some(a), Some(b)) = (self.place(&from), self.place(&to)) else {
            return;
        };
        if self.links.contains(&pair(a, b)) && !self.cut.contains(&pair(a, b)) {
            self.input(b, Input::Message { from, msg });
        }
    }

    /// The data plane's barrier, as if copying took no time: complete when every member installed that view.
    fn sync_data(&mut self, place: usize) {
        let view = self.sims[place].node.view().clone();
        let installed = |id: &NodeId| {
            self.place(id)
                .is_some_and(|p| *self.sims[p].node.view() == view)
        };
        if view.members.len() > 1 && view.ids().all(installed) {
            self.input(place, Input::HasData(true));
            self.input(
                place,
                Input::Synced {
                    epoch: view.epoch,
                    complete: true,
                },
            );
        }
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.step();
        }
    }

    /// Runs until `done`, and returns how long that took.
    fn until(&mut self, ms_max: u64, what: &str, done: impl Fn(&Self) -> bool) -> u64 {
        let start = self.now;
        while !done(self) {
            let views: Vec<_> = self
                .sims
                .iter()
                .map(|s| (s.node.me().id.clone(), s.node.view().clone()))
                .collect();
            assert!(
                self.now - start < ms_max,
                "not in {ms_max} ms: {what}\n{views:#?}"
            );
            self.step();
        }
        self.now - start
    }

    fn answer(&self, token: u64) -> Option<Result<(), Failure>> {
        self.answers.get(&token).cloned()
    }
}

#[test]
fn two_virgins_join() {
    let mut net = Net::new(2);
    net.connect(0, 1, 1);
    let ms = net.until(300, "a pair", |net| net.serving(&[0, 1]));
    assert!(ms < 150, "{ms}");
    assert_eq!(net.answer(1), Some(Ok(())));
}

#[test]
fn a_node_alone_serves_nobody() {
    let mut net = Net::new(1);
    net.run(5_000);
    assert_eq!(net.status(0), Status::Alone);
    assert_eq!(net.sims[0].installed, []);
}

#[test]
fn crossed_connects_make_one_cluster() {
    let mut net = Net::new(2);
    net.connect(0, 1, 1);
    net.connect(1, 0, 2);
    net.until(1_500, "a pair", |net| net.serving(&[0, 1]));
    assert_eq!((net.answer(1), net.answer(2)), (Some(Ok(())), Some(Ok(()))));
}

#[test]
fn connects_in_a_circle_make_one_cluster() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let mut net = Net::new(3);
        for (token, from) in order.into_iter().enumerate() {
            net.connect(from, (from + 1) % 3, token as u64);
        }
        net.until(4_000, "a circle of three", |net| net.serving(&[0, 1, 2]));
        assert!((0..3).all(|token| net.answer(token) == Some(Ok(()))));
    }
}

#[test]
fn a_third_node_joins_through_any_member() {
    for via in [0, 1] {
        let mut net = Net::cluster(2);
        net.sims.push(Net::boot(member(2, 1)));
        net.connect(2, via, 7);
        net.until(1_000, "three", |net| net.serving(&[0, 1, 2]));
        assert_eq!(net.answer(7), Some(Ok(())));
    }
}

#[test]
fn an_established_node_invites_the_one_it_connects_to() {
    let mut net = Net::cluster(2);
    net.sims.push(Net::boot(member(2, 1)));
    net.connect(1, 2, 7);
    net.until(1_000, "three", |net| net.serving(&[0, 1, 2]));
    assert_eq!(net.answer(7), Some(Ok(())));
    net.connect(0, 2, 8);
    assert_eq!(net.answer(8), Some(Ok(())), "a member is connected already");
}

#[test]
fn nobody_joins_before_the_copies_of_the_last_view_are_in_place() {
    let mut net = Net::cluster(2);
    net.sims.push(Net::boot(member(2, 1)));
    net.sims.push(Net::boot(member(3, 1)));
    net.sync = false;
    net.connect(2, 0, 7);
    net.connect(3, 1, 8);
    net.run(3_000);
    assert_eq!(net.sims[0].node.view().members.len(), 3);
    net.sync = true;
    net.until(3_000, "four", |net| net.serving(&[0, 1, 2, 3]));
}

#[test]
fn a_silent_member_is_evicted_after_the_suspicion_time() {
    for gone in 0..3 {
        let mut net = Net::cluster(3);
        net.power_off(gone);
        let rest: Vec<usize> = (0..3).filter(|p| *p != gone).collect();
        let ms = net.until(4_000, "an eviction", |net| net.serving(&rest));
        assert!((1_700..2_900).contains(&ms), "{ms}");
    }
}

#[test]
fn a_member_whose_address_refuses_is_evicted_when_the_promises_to_it_ran_out() {
    for gone in 0..3 {
        let mut net = Net::cluster(3);
        net.kill(gone);
        let rest: Vec<usize> = (0..3).filter(|p| *p != gone).collect();
        let ms = net.until(3_000, "an eviction", |net| net.serving(&rest));
        assert!(ms < 1_500, "{ms}");
    }
}

/// Its guardian tells everybody.
fn witness(net: &mut Net, gone: usize, places: &[usize]) {
    let id = net.sims[gone].node.me().id.clone();
    for place in places {
        net.input(*place, Input::Died(id.clone()));
    }
}

#[test]
fn a_witnessed_death_need_not_be_waited_for() {
    for gone in 0..3 {
        let rest: Vec<usize> = (0..3).filter(|p| *p != gone).collect();
        // Whoever hears of it tells the others.
        for told in [&rest[..], &rest[..1], &rest[1..]] {
            let mut net = Net::cluster(3);
            net.power_off(gone);
            witness(&mut net, gone, told);
            let ms = net.until(3_000, "an eviction", |net| net.serving(&rest));
            assert!(ms < 500, "{ms}");
        }
    }
}

#[test]
fn a_death_that_is_witnessed_while_its_lease_is_waited_for_ends_the_wait_at_once() {
    let mut net = Net::cluster(3);
    net.kill(2);
    // They noticed that nobody listens, and wait.
    net.run(20);
    let waits = |net: &Net| net.sims[..2].iter().any(|sim| sim.node.deferred.is_some());
    assert!(waits(&net));
    witness(&mut net, 2, &[0, 1]);
    assert!(!waits(&net));
    net.until(500, "an eviction", |net| net.serving(&[0, 1]));
}

#[test]
fn after_a_witnessed_death_the_survivor_of_two_goes_on_with_any_node() {
    let mut net = Net::new(3);
    net.connect(1, 0, 1);
    net.until(4_000, "two", |net| net.serving(&[0, 1]));
    net.power_off(0);
    witness(&mut net, 0, &[1]);
    net.until(500, "the survivor is alone", |net| {
        net.status(1) == Status::Alone
    });
    net.connect(2, 1, 2);
    net.until(4_000, "two again", |net| net.serving(&[1, 2]));
    assert_eq!(net.losses, []);
}

#[test]
fn a_death_of_an_earlier_life_is_no_death() {
    let mut net = Net::cluster(3);
    for place in 0..2 {
        net.input(place, Input::Died(member(2, 0).id));
    }
    net.run(3_000);
    assert!(net.serving(&[0, 1, 2]));
}

#[test]
fn an_eviction_does_not_stop_the_others_while_it_waits() {
    let mut net = Net::cluster(3);
    net.run(1_000);
    net.kill(2);
    for _ in 0..3_000 {
        net.step();
        let served = [0, 1].iter().all(|p| net.status(*p) != Status::Suspended);
        let installing = net.seen_by(0) != net.seen_by(1)
            || net.sims[0].installed.len() == net.sims[1].installed.len();
        assert!(served || installing, "suspended at {}", net.now);
    }
    assert!(net.serving(&[0, 1]));
}

#[test]
fn five_survive_two_losses_at_once_and_then_two_more_one_by_one() {
    let mut net = Net::cluster(5);
    net.power_off(0);
    net.power_off(1);
    net.until(5_000, "three of five", |net| net.serving(&[2, 3, 4]));
    assert!(
        !net.losses.is_empty(),
        "with one backup two losses at once are said"
    );
    net.losses.clear();
    net.kill(2);
    net.until(3_000, "two of three", |net| net.serving(&[3, 4]));
    net.kill(3);
    net.run(5_000);
    assert_eq!(net.status(4), Status::Suspended, "a lone survivor stops");
    assert_eq!(net.sims[4].node.waiting_for(), [name(3)]);
    assert_eq!(net.losses, []);
}

#[test]
fn the_survivor_of_two_goes_on_with_the_restarted_other() {
    for gone in 0..2 {
        let mut net = Net::cluster(2);
        net.kill(gone);
        net.run(3_000);
        assert_eq!(net.status(1 - gone), Status::Suspended);
        net.restart(gone, 2);
        net.until(2_000, "both again", |net| net.serving(&[0, 1]));
        assert_eq!(
            net.sims[1 - gone].node.view().epoch,
            net.sims[gone].node.view().epoch
        );
        assert!(
            net.sims[gone].node.view().cluster == net.sims[1 - gone].installed[0].cluster,
            "the same line"
        );
    }
}

#[test]
fn a_restarted_member_is_replaced_at_once() {
    let mut net = Net::cluster(3);
    net.power_off(1);
    net.restart(1, 2);
    net.until(2_500, "three again", |net| {
        net.serving(&[0, 1, 2]) && net.sims[0].node.view().contains(&member(1, 2).id)
    });
}

#[test]
fn a_minority_suspends_and_goes_on_after_a_short_cut() {
    let mut net = Net::cluster(3);
    let epoch = net.sims[0].node.view().epoch;
    net.isolate(&[2], &[0, 1]);
    net.run(1_300);
    assert_eq!(net.status(2), Status::Suspended);
    assert_eq!(net.status(0), Status::Serving);
    net.cut.clear();
    net.until(500, "three again", |net| net.serving(&[0, 1, 2]));
    assert_eq!(net.sims[0].node.view().epoch, epoch, "nobody was evicted");
}

#[test]
fn a_node_evicted_while_alive_comes_back_as_a_new_life() {
    let mut net = Net::cluster(3);
    net.isolate(&[2], &[0, 1]);
    net.until(4_000, "an eviction", |net| net.serving(&[0, 1]));
    assert_eq!(net.status(2), Status::Suspended);
    assert_eq!(
        net.seen_by(2),
        [0, 1, 2],
        "it keeps its state until it learns of its eviction"
    );
    net.cut.clear();
    net.until(3_000, "three again", |net| net.serving(&[0, 1, 2]));
    assert_eq!(net.sims[2].node.me().id.incarnation, 2);
}

#[test]
fn a_stopped_process_that_wakes_comes_back_as_a_new_life() {
    let mut net = Net::cluster(3);
    net.sims[0].stopped = true;
    net.until(4_000, "an eviction", |net| net.serving(&[1, 2]));
    net.sims[0].stopped = false;
    net.until(3_000, "three again", |net| net.serving(&[0, 1, 2]));
    assert_eq!(net.sims[0].node.me().id.incarnation, 2);
}

#[test]
fn two_evicted_at_once_come_back_to_the_cluster_and_found_none_of_their_own() {
    let mut net = Net::cluster(5);
    net.isolate(&[3, 4], &[0, 1, 2]);
    net.until(5_000, "an eviction", |net| net.serving(&[0, 1, 2]));
    net.cut.clear();
    net.until(6_000, "five again", |net| net.serving(&[0, 1, 2, 3, 4]));
    assert_eq!(
        net.sims[3].node.view().cluster,
        net.sims[0].installed[0].cluster
    );
}

#[test]
fn an_even_split_suspends_both_sides_and_heals_without_eviction() {
    let mut net = Net::cluster(4);
    let epoch = net.sims[0].node.view().epoch;
    net.isolate(&[0, 1], &[2, 3]);
    net.run(10_000);
    assert!((0..4).all(|p| net.status(p) == Status::Suspended));
    net.cut.clear();
    net.until(3_000, "four again", |net| net.serving(&[0, 1, 2, 3]));
    assert_eq!(net.sims[0].node.view().epoch, epoch);
}

#[test]
fn a_broken_link_costs_one_of_its_ends() {
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        let mut net = Net::cluster(3);
        net.isolate(&[a], &[b]);
        net.until(6_000, &format!("the clique of two, {a}-{b}"), |net| {
            let pairs = [[0, 1], [0, 2], [1, 2]];
            pairs.iter().any(|p| net.serving(p) && *p != [a, b])
        });
        // Healed, all are together again.
        net.cut.clear();
        net.until(6_000, "three again", |net| net.serving(&[0, 1, 2]));
    }
}

#[test]
fn the_worst_connected_node_goes_even_if_it_coordinates() {
    for sick in 0..5 {
        let mut net = Net::cluster(5);
        let others: Vec<usize> = (0..5).filter(|p| *p != sick).collect();
        // It is cut off from two of four: a majority still hears it.
        net.isolate(&[sick], &others[2..]);
        let ms = net.until(6_000, "the sick one goes", |net| net.serving(&others));
        assert!(ms < 4_500, "{ms}");
        net.until(500, "it learns of it from those it hears", |net| {
            net.sims[sick].node.me().id.incarnation == 2
        });
    }
}

#[test]
fn a_proposer_that_dies_is_taken_over() {
    let mut net = Net::cluster(5);
    net.power_off(4);
    // Right after the proposal for the eviction went out, the proposer dies, too.
    net.until(4_000, "a vote", |net| net.sims[1].node.agreement.voted());
    net.power_off(0);
    net.until(6_000, "the others take over", |net| net.serving(&[1, 2, 3]));
}

#[test]
fn a_living_node_is_not_forgotten() {
    let mut net = Net::cluster(2);
    for (token, forgotten, failure) in [
        (1, name(1), Failure::Alive(name(1))),
        (2, name(0), Failure::Myself),
        (3, name(4), Failure::Unknown(name(4))),
    ] {
        net.input(
            0,
            Input::Forget {
                name: forgotten,
                force: true,
                token,
            },
        );
        assert_eq!(net.answer(token), Some(Err(failure)));
    }
}

#[test]
fn forget_lets_the_survivor_of_two_go_on() {
    let mut net = Net::cluster(2);
    net.power_off(1);
    net.run(3_000);
    net.input(
        0,
        Input::Forget {
            name: name(1),
            force: false,
            token: 5,
        },
    );
    assert_eq!(net.answer(5), Some(Ok(())));
    assert_eq!((net.seen_by(0), net.status(0)), (vec![0], Status::Alone));
    net.sims.push(Net::boot(member(2, 1)));
    net.connect(2, 0, 6);
    net.until(1_000, "a pair", |net| net.serving(&[0, 2]));
    assert_eq!(
        net.sims[2].node.view().cluster,
        net.sims[0].installed[0].cluster
    );
}

#[test]
fn without_a_majority_only_force_helps_and_other_survivors_are_refused() {
    let mut net = Net::cluster(5);
    for gone in [2, 3, 4] {
        net.power_off(gone);
    }
    net.run(3_000);
    net.input(
        0,
        Input::Forget {
            name: name(2),
            force: false,
            token: 5,
        },
    );
    assert_eq!(net.answer(5), Some(Err(Failure::NoMajority(name(2)))));
    let line = net.sims[0].node.view().cluster;
    net.input(
        0,
        Input::Forget {
            name: name(2),
            force: true,
            token: 6,
        },
    );
    assert_eq!((net.answer(6), net.seen_by(0)), (Some(Ok(())), vec![0]));
    assert_ne!(net.sims[0].node.view().cluster, line);
    assert_eq!(net.losses.len(), 1);
    net.run(3_000);
    assert_eq!(
        (net.status(1), net.sims[1].node.view().cluster),
        (Status::Suspended, line),
        "refused"
    );
    net.restart(1, 2);
    net.until(2_500, "the restarted one joins", |net| net.serving(&[0, 1]));
    // The old line's survivors wake up; the new line does not take them in.
    for gone in [2, 3, 4] {
        net.sims[gone].running = true;
    }
    net.cut.clear();
    net.run(5_000);
    assert!(net.serving(&[0, 1]));
}

#[test]
fn who_leaves_hands_over_first() {
    for leaver in 0..3 {
        let mut net = Net::cluster(3);
        net.sync = false;
        net.input(leaver, Input::Leave { token: 9 });
        net.run(2_000);
        assert_eq!(net.answer(9), None, "copies are still being made");
        assert_eq!(
            (net.status(leaver), net.seen_by(leaver).len()),
            (Status::Leaving, 3)
        );
        net.sync = true;
        let rest: Vec<usize> = (0..3).filter(|p| *p != leaver).collect();
        net.until(3_000, "a leave", |net| net.serving(&rest));
        assert_eq!(net.answer(9), Some(Ok(())));
        assert!(!net.sims[leaver].running);
        net.run(1_000);
        assert_eq!(net.losses, []);
    }
}

#[test]
fn one_of_two_leaves_and_the_other_waits_for_company() {
    let mut net = Net::cluster(2);
    net.input(1, Input::Leave { token: 9 });
    assert_eq!(net.answer(9), Some(Ok(())));
    net.until(1_000, "the other is alone", |net| net.seen_by(0) == [0]);
    assert_eq!((net.status(0), net.losses.len()), (Status::Alone, 0));
    net.sims.push(Net::boot(member(2, 1)));
    net.connect(2, 0, 6);
    net.until(1_000, "a pair", |net| net.serving(&[0, 2]));
}

#[test]
fn two_leavers_at_once_go_one_after_the_other() {
    let mut net = Net::cluster(3);
    net.input(0, Input::Leave { token: 8 });
    net.input(1, Input::Leave { token: 9 });
    net.until(8_000, "one is left", |net| net.seen_by(2) == [2]);
    assert_eq!(
        (net.answer(8), net.answer(9), net.losses.len()),
        (Some(Ok(())), Some(Ok(())), 0)
    );
}

#[test]
fn a_node_alone_leaves_at_once() {
    let mut net = Net::new(1);
    net.input(0, Input::Leave { token: 9 });
    assert_eq!(net.answer(9), Some(Ok(())));
    assert!(!net.sims[0].running);
}

#[test]
fn a_living_name_is_not_given_twice() {
    let mut net = Net::cluster(2);
    let mut impostor = member(1, 50);
    impostor.addr = "h:2".into();
    net.sims.push(Net::boot(impostor));
    net.connect(2, 0, 6);
    net.run(300);
    assert_eq!(net.answer(6), Some(Err(Failure::NameInUse)));
    assert!(net.serving(&[0, 1]));
}

#[test]
fn two_established_clusters_refuse_each_other() {
    let mut net = Net::cluster(2);
    net.sims.push(Net::boot(member(2, 1)));
    net.sims.push(Net::boot(member(3, 1)));
    net.connect(2, 3, 5);
    net.until(1_000, "a second pair", |net| net.serving(&[2, 3]));
    net.connect(1, 2, 6);
    net.connect(3, 0, 7);
    net.run(1_000);
    assert_eq!(net.answer(6), Some(Err(Failure::Established)));
    assert_eq!(net.answer(7), Some(Err(Failure::Established)));
    assert!(net.serving(&[0, 1]) && net.serving(&[2, 3]));
}

#[test]
fn a_joiner_that_went_elsewhere_declines() {
    let mut net = Net::new(2);
    net.connect(0, 1, 1);
    net.until(1_000, "a pair", |net| net.serving(&[0, 1]));
    net.sims.push(Net::boot(member(2, 1)));
    net.link(2, 0);
    // An old request of node 0, from when it was alone, gets through to node 2, which is alone as well.
    let (from, member) = (
        net.sims[0].node.me().id.clone(),
        net.sims[0].node.me().clone(),
    );
    net.input(
        2,
        Input::Message {
            from: from.clone(),
            msg: Msg::Join {
                member,
                terms: TERMS,
            },
        },
    );
    assert_eq!(net.seen_by(2), [0, 2], "it has no means to know");
    net.until(500, "the decline", |net| net.seen_by(2) == [2]);
    assert!(net.serving(&[0, 1]) && net.sims[2].node.known_dead() == [from]);
}

#[test]
fn a_lower_incarnation_is_told_the_known_one_and_takes_the_next() {
    let mut net = Net::cluster(2);
    net.kill(1);
    net.restart(1, 77);
    net.until(2_500, "both again", |net| net.serving(&[0, 1]));
    net.kill(1);
    net.run(200);
    net.restart(1, 3);
    net.connect(1, 0, 6);
    net.until(5_000, "both again", |net| net.serving(&[0, 1]));
    assert_eq!(net.sims[1].node.me().id.incarnation, 78);
    assert_eq!(net.answer(6), Some(Ok(())));
}

#[test]
fn nobody_answers_a_connect_that_leads_nowhere() {
    let mut net = Net::new(2);
    net.link(0, 1);
    net.sims[1].stopped = true;
    net.connect(0, 1, 1);
    net.run(6_000);
    assert_eq!(
        (net.answer(1), net.status(0)),
        (Some(Err(Failure::NoAnswer)), Status::Alone)
    );
    net.input(
        0,
        Input::Connect {
            peer: member(4, 1).id,
            token: 2,
        },
    );
    assert_eq!(
        net.answer(2),
        Some(Err(Failure::NoAnswer)),
        "not even linked"
    );
}

#[test]
fn loss_and_reordering_delay_but_do_not_confuse() {
    for seed in 0..12 {
        let mut net = Net::cluster(5);
        net.dice = seed;
        net.loss_percent = 20;
        let gone = usize::try_from(seed % 5).expect("small");
        net.power_off(gone);
        net.run(6_000);
        net.restart(gone, 2);
        net.run(4_000);
        net.isolate(&[(gone + 1) % 5], &[(gone + 2) % 5, (gone + 3) % 5]);
        net.run(6_000);
        net.cut.clear();
        net.loss_percent = 0;
        net.until(20_000, "all heal", |net| net.serving(&[0, 1, 2, 3, 4]));
    }
}

#[test]
fn nonsense_from_peers_changes_nothing() {
    let mut net = Net::cluster(3);
    net.sims.push(Net::boot(member(3, 1)));
    net.link(3, 0);
    let before = net.sims[0].node.view().clone();
    let twice = View {
        epoch: Epoch(90),
        members: vec![member(0, 1), member(0, 2)],
        ..before.clone()
    };
    let empty = View {
        epoch: Epoch(90),
        members: vec![],
        ..before.clone()
    };
    let foreign = View {
        cluster: ClusterId(3),
        epoch: Epoch(90),
        ..before.clone()
    };
    let stray = View {
        epoch: Epoch(90),
        leaving: vec![member(4, 1).id],
        ..before.clone()
    };
    for from in [member(1, 1).id, member(3, 1).id] {
        for msg in [
            Msg::ViewIs(twice.clone()),
            Msg::ViewIs(empty.clone()),
            Msg::ViewIs(foreign.clone()),
            Msg::ViewIs(stray.clone()),
            Msg::Pong {
                epoch: before.epoch,
                sent: Millis(u64::MAX),
            },
            Msg::Join {
                member: member(2, 9),
                terms: TERMS,
            },
            Msg::Declined {
                cluster: before.cluster,
                epoch: Epoch(0),
                member: member(2, 1).id,
            },
            Msg::Refused(Refusal::Evicted { known: u64::MAX }),
            Msg::Refused(Refusal::Established),
        ] {
            net.input(
                0,
                Input::Message {
                    from: from.clone(),
                    msg,
                },
            );
        }
    }
    net.run(3_000);
    assert_eq!(*net.sims[0].node.view(), before);
    assert!(net.serving(&[0, 1, 2]));
}

#[test]
fn who_voted_pongs_nobody_until_the_decision() {
    let net = Net::cluster(3);
    let mut node = net.sims[0].node.clone();
    let (from, epoch, now) = (member(1, 1).id, node.view().epoch, Millis(net.now));
    let ping = Msg::Ping {
        epoch,
        sent: Millis(7),
        unheard: vec![],
    };
    let ballot = agreement::Ballot {
        round: 9,
        node: from.clone(),
    };
    let prepare = agreement::Msg::Prepare {
        ballot,
        out: vec![],
    };
    let pong = send(
        &from,
        Msg::Pong {
            epoch,
            sent: Millis(7),
        },
    );
    let mut out = Vec::new();
    node.handle(
        now,
        Input::Message {
            from: from.clone(),
            msg: ping.clone(),
        },
        &mut out,
    );
    assert!(out.contains(&pong));
    let vote = Msg::Agree {
        epoch,
        dead: vec![],
        step: prepare,
    };
    for msg in [vote, ping] {
        out.clear();
        node.handle(
            now,
            Input::Message {
                from: from.clone(),
                msg,
            },
            &mut out,
        );
    }
    assert!(!out.contains(&pong));
}

#[test]
fn who_was_evicted_admits_nobody_before_it_is_back() {
    let net = Net::cluster(3);
    let mut node = net.sims[2].node.clone();
    let (from, now) = (member(1, 1).id, Millis(net.now));
    let without = node.view().next(&[member(2, 1).id], None, &[]);
    let stranger = member(3, 1);
    let mut out = Vec::new();
    for input in [
        Input::Message {
            from,
            msg: Msg::ViewIs(without),
        },
        Input::LinkUp(stranger.clone()),
        Input::Message {
            from: stranger.id.clone(),
            msg: Msg::Join {
                member: stranger,
                terms: TERMS,
            },
        },
    ] {
        node.handle(now, input, &mut out);
    }
    assert!(out.contains(&Effect::Rejoin(member(2, 2))));
    assert_eq!(
        (node.view().members.len(), node.status(now)),
        (1, Status::Joining)
    );
}

#[test]
fn of_two_that_cannot_hear_each_other_the_newcomer_goes() {
    let mut net = Net::new(3);
    net.connect(1, 2, 1);
    net.until(1_000, "a pair", |net| net.serving(&[1, 2]));
    net.connect(0, 1, 2);
    net.until(1_000, "three", |net| net.serving(&[0, 1, 2]));
    net.isolate(&[0], &[2]);
    net.until(6_000, "an eviction", |net| net.seen_by(1).len() == 2);
    assert_eq!(net.seen_by(1), [1, 2]);
}

/// Whoever notices a death late must not evict the one who noticed it early.
#[test]
fn a_death_that_one_member_notices_late_costs_the_dead_one() {
    let mut net = Net::new(4);
    net.connect(1, 2, 1);
    net.until(1_000, "a pair", |net| net.serving(&[1, 2]));
    net.connect(3, 1, 2);
    net.until(1_000, "three", |net| net.serving(&[1, 2, 3]));
    // The process of 2 ends: 3, the latest to join, is refused at once, while 1 only loses its link.
    net.power_off(2);
    net.unlink(1, 2, false);
    net.unlink(3, 2, true);
    net.until(6_000, "an eviction", |net| net.seen_by(1).len() == 2);
    assert_eq!(net.seen_by(1), [1, 3]);
}

#[test]
fn a_dial_that_is_refused_proves_the_process_gone() {
    let mut net = Net::cluster(3);
    net.power_off(2);
    net.unlink(0, 2, false);
    net.unlink(1, 2, false);
    let gone = member(2, 1);
    for place in [0, 1] {
        net.input(
            place,
            Input::DialRefused {
                name: gone.id.name.clone(),
                addr: gone.addr.clone(),
            },
        );
    }
    let took = net.until(6_000, "an eviction", |net| {
        net.serving(&[0, 1]) && net.seen_by(0).len() == 2
    });
    assert!(
        took < 1_800,
        "evicted only after the suspicion time: {took} ms"
    );
}

#[test]
fn nodes_that_do_not_keep_the_same_promises_do_not_join() {
    let mut net = Net::cluster(2);
    let stranger = member(2, 1);
    let terms = Terms {
        promise: Millis(9_000),
        ..TERMS
    };
    net.input(0, Input::LinkUp(stranger.clone()));
    let peer = stranger.id.clone();
    net.input(0, Input::Connect { peer, token: 77 });
    let mut out = Vec::new();
    let msg = Msg::Join {
        member: stranger.clone(),
        terms,
    };
    let now = net.sims[0].node.now;
    net.sims[0].node.handle(
        now,
        Input::Message {
            from: stranger.id.clone(),
            msg,
        },
        &mut out,
    );
    let refused = Effect::Send {
        to: stranger.id,
        msg: Msg::Refused(Refusal::Different),
    };
    assert!(out.contains(&refused), "{out:?}");
    let answered = Effect::Answer {
        token: 77,
        result: Err(Failure::Different),
    };
    assert!(out.contains(&answered), "{out:?}");
}

fn refuse(sim: &mut Sim) {
    let node = sim.node.clone();
    sim.node = node.with_on_possible_loss(OnPossibleLoss::Refuse);
}

/// Five nodes that refuse to go on after a loss, of which two vanish at once.
fn refusing() -> Net {
    let mut net = Net::new(5);
    net.sims.iter_mut().for_each(refuse);
    for place in 1..5 {
        net.connect(place, 0, 1_000 + place as u64);
        net.until(4_000, "one more node joins", |net| {
            (0..=place).all(|p| net.status(p) == Status::Serving)
        });
    }
    net.power_off(3);
    net.power_off(4);
    net.until(8_000, "three of five", |net| {
        (0..3).all(|p| net.status(p) == Status::Refusing && net.sims[p].node.synced)
    });
    net
}

#[test]
fn whoever_refuses_a_loss_answers_nobody_until_it_is_accepted_anywhere() {
    let mut net = refusing();
    assert!((0..3).all(|p| net.sims[p].node.leased_until() == Millis(0)));
    // A newcomer would know of no loss.
    net.restart(3, 2);
    refuse(&mut net.sims[3]);
    net.run(5_000);
    assert_eq!(net.seen_by(0), [0, 1, 2]);
    net.input(1, Input::AcceptLoss { token: 5 });
    net.until(8_000, "they answer, and admit again", |net| {
        net.serving(&[0, 1, 2, 3])
    });
    assert_eq!(net.answers[&5], Ok(()));
    net.input(1, Input::AcceptLoss { token: 6 });
    assert_eq!(net.answers[&6], Err(Failure::NoLoss));
}

#[test]
fn an_acceptance_of_an_earlier_loss_is_none() {
    let mut net = refusing();
    let (from, epoch) = (net.sims[1].node.me().id.clone(), Epoch(1));
    let msg = Msg::LossAccepted { epoch };
    net.input(0, Input::Message { from, msg });
    assert_eq!(net.status(0), Status::Refusing);
}

#[test]
fn a_node_has_no_say_in_its_own_eviction() {
    let net = Net::cluster(3);
    let (node, from) = (&net.sims[1].node, net.sims[2].node.me().id.clone());
    let promises = |out: &[NodeId]| {
        let ballot = agreement::Ballot {
            round: 9,
            node: from.clone(),
        };
        let step = agreement::Msg::Prepare {
            ballot,
            out: out.to_vec(),
        };
        let msg = Msg::Agree {
            epoch: node.view().epoch,
            dead: Vec::new(),
            step,
        };
        let (mut node, from, mut effects) = (node.clone(), from.clone(), Vec::new());
        node.handle(Millis(net.now), Input::Message { from, msg }, &mut effects);
        node.agreement.voted()
    };
    assert!(promises(&[]));
    assert!(!promises(std::slice::from_ref(&node.me().id)));
}
