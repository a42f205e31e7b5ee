//! The adversary: what goes wrong, and when it ends.

use statekeeper::protocol::members::Status;
use statekeeper::protocol::types::NodeId;

use super::cluster::{Cluster, Event, Mend};
use super::dice::Dice;
use super::network::{Payload, Place};
use super::process::{Leaving, Process};

/// How the adversary of a run behaves.
#[derive(Debug)]
pub struct Faults {
    pub nodes: usize,
    /// Never more at once than the backups must survive.
    gentle: bool,
    pace: u64,
    pub stopped: bool,
    /// Messages for paused processes: process, its identity, sender, content.
    pub held: Vec<(u64, NodeId, NodeId, Payload)>,
}

impl Faults {
    pub fn new(dice: &mut Dice, backups: usize) -> Self {
        Self {
            nodes: dice.between(2.max(backups as u64 + 1), 6) as usize,
            gentle: dice.percent(60),
            pace: dice.pick(&[400, 1_000, 2_500, 5_000]).unwrap_or(1_000),
            stopped: false,
            held: Vec::new(),
        }
    }
}

impl Cluster {
    /// Something goes wrong.
    pub fn fault(&mut self) {
        if self.faults.stopped {
            return;
        }
        let pace = self.faults.pace;
        let next = self.dice.between(pace / 2, pace * 2);
        self.after(next, Event::Fault);
        let calm = self.books.lost.is_empty() && self.network.is_whole() && self.is_synced();
        if self.faults.gentle && !calm {
            return;
        }
        match self.dice.between(0, 100) {
            0..=24 => self.crash(),
            25..=39 => self.drop_links(),
            40..=54 => self.isolate(),
            55..=64 => self.cut_pair(),
            65..=74 => self.pause(),
            75..=82 => self.slow_down(),
            83..=91 => self.someone_leaves(),
            _ => self.someone_comes(),
        }
    }

    /// Whether all nodes that run and belong together have completed the same barrier.
    fn is_synced(&self) -> bool {
        let Some(view) = self.latest().map(|p| p.members.view()) else {
            return true;
        };
        view.ids().all(|id| {
            self.processes
                .values()
                .any(|p| p.id() == id && p.members.view() == view && p.is_whole())
        })
    }

    /// The processes that are in the latest view of the cluster, and how many members it has.
    fn members_running(&self) -> (Vec<u64>, usize) {
        let Some(view) = self.latest().map(|p| p.members.view()) else {
            return (Vec::new(), 0);
        };
        // Who was admitted and has not heard of it knows nothing yet.
        let is_in =
            |p: &&Process| p.members.view().cluster == view.cluster && view.contains(p.id());
        let running = self.processes.values().filter(is_in);
        (running.map(|p| p.number).collect(), view.members.len())
    }

    /// A process dies, so that the others can go on without it or with its next life.
    fn crash(&mut self) {
        let (running, members) = self.members_running();
        let stays = |p: &u64| {
            self.processes
                .get(p)
                .is_some_and(|process| process.leaving == Leaving::No)
        };
        let staying = running.iter().filter(|p| stays(p)).count();
        if staying * 2 < members + 2 {
            return;
        }
        let Some(p) = self.dice.pick(&running) else {
            return;
        };
        let Some(place) = self.processes.get(&p).map(|p| p.place) else {
            return;
        };
        let Some(id) = self.processes.get(&p).map(|p| p.id().clone()) else {
            return;
        };
        let silent = self.dice.percent(25);
        self.count("crashes");
        self.kill(p, silent);
        self.books.gone(&id);
        if self.dice.percent(10) && members > 2 {
            // Its machine is gone for good: the operator says so.
            let delay = self.dice.between(2_500, 6_000);
            self.after(delay, Event::Mend(Mend::Forget(id.name.clone())));
            self.after(delay + 10_000, Event::Mend(Mend::Boot(place)));
        } else {
            let delay = self.dice.between(100, 6_000);
            self.after(delay, Event::Mend(Mend::Boot(place)));
        }
    }

    fn drop_links(&mut self) {
        self.count("links dropped");
        for link in self.network.all() {
            if self.dice.percent(40) {
                self.hang_up(link);
            }
        }
    }

    fn places(&self) -> Vec<Place> {
        self.processes.values().map(|p| p.place).collect()
    }

    fn cut(&mut self, pairs: Vec<(Place, Place)>) {
        self.count("cuts");
        self.note(|| format!("cut {pairs:?}"));
        for (a, b) in &pairs {
            self.network.cut(*a, *b);
        }
        let delay = self.dice.between(200, 8_000);
        self.after(delay, Event::Mend(Mend::Cuts(pairs)));
    }

    /// Some nodes are cut off from the others.
    fn isolate(&mut self) {
        let places = self.places();
        let (some, others): (Vec<Place>, Vec<Place>) = {
            let one = self.dice.pick(&places);
            let few = self.faults.gentle;
            places
                .into_iter()
                .partition(|p| Some(*p) == one || !few && p % 2 == 0)
        };
        let pairs = some
            .iter()
            .flat_map(|a| others.iter().flat_map(|b| [(*a, *b), (*b, *a)]))
            .collect();
        self.cut(pairs);
    }

    /// Two nodes do not reach each other any more, or one of them the other.
    fn cut_pair(&mut self) {
        let places = self.places();
        let (Some(a), Some(b)) = (self.dice.pick(&places), self.dice.pick(&places)) else {
            return;
        };
        if a != b {
            let pairs = if self.dice.percent(30) {
                vec![(a, b)]
            } else {
                vec![(a, b), (b, a)]
            };
            self.cut(pairs);
        }
    }

    /// A process does not run for a while.
    fn pause(&mut self) {
        let running: Vec<u64> = self.processes.keys().copied().collect();
        let (Some(p), time) = (self.dice.pick(&running), self.dice.between(100, 5_000)) else {
            return;
        };
        self.count("pauses");
        let until = self.now + time;
        if let Some(process) = self.processes.get_mut(&p) {
            process.paused_until = until;
            let id = process.id().clone();
            self.note(|| format!("{id} is paused for {time} ms"));
        }
    }

    fn slow_down(&mut self) {
        self.network.delay_max = self.dice.pick(&[20, 100, 400]).unwrap_or(20);
        let delay = self.dice.between(500, 5_000);
        self.after(delay, Event::Mend(Mend::Calm));
    }

    fn someone_leaves(&mut self) {
        let (running, members) = self.members_running();
        if running.len() < members || members < 2 {
            return;
        }
        let Some(p) = self.dice.pick(&running) else {
            return;
        };
        let Some(process) = self.processes.get(&p) else {
            return;
        };
        if process.leaving != Leaving::No
            || process.members.status(process.clock(self.now)) != Status::Serving
        {
            return;
        }
        let place = process.place;
        self.count("leaves");
        self.leave(p);
        let delay = self.dice.between(8_000, 15_000);
        self.after(delay, Event::Mend(Mend::Boot(place)));
    }

    fn someone_comes(&mut self) {
        let free: Vec<Place> = (0..6).filter(|place| self.at(*place).is_none()).collect();
        if let Some(place) = self.dice.pick(&free)
            && !self.lives.contains_key(&place)
        {
            self.count("joins");
            self.boot(place);
        }
    }

    pub fn mend(&mut self, mend: Mend) {
        match mend {
            Mend::Cuts(pairs) => {
                self.note(|| format!("mend {pairs:?}"));
                for (a, b) in pairs {
                    for arrival in self.network.heal(a, b) {
                        self.after(1, Event::Arrive(arrival));
                    }
                }
            }
            Mend::Boot(place) => {
                if self.at(place).is_none() {
                    self.boot(place);
                } else if self.at(place).is_some_and(|p| p.leaving != Leaving::No) {
                    self.after(2_000, Event::Mend(Mend::Boot(place)));
                }
            }
            Mend::Forget(name) => {
                if self.processes.values().all(|p| p.id().name != name) {
                    self.forget(&name);
                }
            }
            Mend::Calm => self.network.delay_max = 5,
        }
    }
}
