//! The adversary: what goes wrong, and when it ends.

use statekeeper::protocol::members::Status;
use statekeeper::protocol::types::NodeId;

use super::cluster::{Cluster, Event, Mend};
use super::network::{Payload, Place};
use super::process::{Leaving, Process};

/// At most so many nodes run at once, at so many places.
const NODES_MAX: usize = 7;
const PLACES: usize = 9;

/// What the adversary remembers.
#[derive(Debug, Default)]
pub struct Faults {
    pub stopped: bool,
    /// Messages for paused processes: process, its identity, sender, content.
    pub held: Vec<(u64, NodeId, NodeId, Payload)>,
}

impl Cluster {
    /// Something goes wrong.
    pub fn fault(&mut self) {
        if self.faults.stopped {
            return;
        }
        let pace = self.plan.fault_pace;
        let next = self.dice.between(pace / 2, pace * 2);
        self.after(next, Event::Fault);
        let doomed = self.processes.values().any(|p| p.doom.is_some());
        let calm = self.books.losses.is_none() && self.network.is_whole() && self.is_synced();
        if self.plan.gentle && (doomed || !calm) {
            return;
        }
        match self.dice.between(0, 100) {
            0..=9 => self.crash(),
            10..=19 => self.crash_midway(),
            20..=24 => {
                self.crash();
                if !self.plan.gentle {
                    self.crash();
                }
            }
            25..=39 => self.drop_links(),
            40..=54 => self.isolate(),
            55..=64 => self.cut_pair(),
            65..=73 => self.pause(),
            74..=78 => self.slow_down(),
            79..=82 => self.slow_node(),
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

    /// A process whose death the others can survive, with its next life or without it.
    fn victim(&mut self) -> Option<u64> {
        let (running, members) = self.members_running();
        let stays = |p: &u64| {
            self.processes
                .get(p)
                .is_some_and(|process| process.leaving == Leaving::No && process.doom.is_none())
        };
        let staying = running.iter().filter(|p| stays(p)).count();
        // At times more than a majority goes at once, and only force helps.
        let reckless = !self.plan.gentle && self.dice.percent(4);
        if staying * 2 < members + 2 && !reckless {
            return None;
        }
        self.dice.pick(&running)
    }

    /// A process ends now.
    fn crash(&mut self) {
        if let Some(p) = self.victim() {
            self.strike(p);
        }
    }

    /// A process ends in the middle of what it does, a few steps from now.
    fn crash_midway(&mut self) {
        let (victim, steps) = (self.victim(), self.dice.between(0, 60) as u32);
        if let Some(process) = victim.and_then(|p| self.processes.get_mut(&p)) {
            process.doom.get_or_insert(steps);
        }
    }

    /// Before a process does one more thing: whether it ends instead.
    pub(super) fn dies_first(&mut self, p: u64) -> bool {
        let Some(Process {
            doom: Some(steps), ..
        }) = self.processes.get_mut(&p)
        else {
            return false;
        };
        if let Some(fewer) = steps.checked_sub(1) {
            *steps = fewer;
            return false;
        }
        self.count("crashes midway");
        self.strike(p);
        true
    }

    /// A process dies, and what follows from it: witnesses tell, the operator acts, a new life begins.
    fn strike(&mut self, p: u64) {
        let members = self.latest().map_or(0, |p| p.members.view().members.len());
        let Some(process) = self.processes.get(&p) else {
            return;
        };
        let (place, id) = (process.place, process.id().clone());
        let silent = self.dice.percent(25);
        self.count("crashes");
        self.kill(p, silent);
        self.books.losses.gone(&id);
        if self.dice.percent(self.plan.witnessed) {
            self.announce(&id);
        }
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

    /// Some of the others learn that a life is over, at once or much later.
    fn announce(&mut self, id: &NodeId) {
        self.count("deaths witnessed");
        let others: Vec<u64> = self.processes.keys().copied().collect();
        for process in others {
            let (hears, late) = (self.dice.percent(80), self.dice.percent(30));
            let delay = self.dice.between(0, if late { 4_000 } else { 20 });
            if hears {
                let of = id.clone();
                self.after(delay, Event::Obituary { process, of });
            }
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
        self.note_fault(|| format!("cut {pairs:?}"));
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
            let few = self.plan.gentle;
            places
                .into_iter()
                .partition(|p| Some(*p) == one || !few && p % 2 == 0)
        };
        // Both ways, or only from or only to those.
        let ways = self.dice.pick(&[3, 3, 1, 2]).unwrap_or(3);
        let between = |a: &Place, b: &Place| [(*a, *b), (*b, *a)];
        let pairs = some
            .iter()
            .flat_map(|a| others.iter().flat_map(move |b| between(a, b)))
            .zip([1, 2].into_iter().cycle())
            .filter(|(_, way)| ways & way != 0)
            .map(|(pair, _)| pair)
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
            self.note_fault(|| format!("{id} is paused for {time} ms"));
        }
    }

    /// What one actor of a node says to another one takes long.
    fn slow_node(&mut self) {
        let running: Vec<u64> = self.processes.keys().copied().collect();
        let (Some(p), latency) = (self.dice.pick(&running), self.dice.between(10, 300)) else {
            return;
        };
        self.count("slow nodes");
        self.note_fault(|| format!("process {p} is slow by {latency} ms"));
        if let Some(process) = self.processes.get_mut(&p) {
            process.latency = latency;
        }
        let delay = self.dice.between(500, 5_000);
        self.after(delay, Event::Mend(Mend::Quick(p)));
    }

    fn slow_down(&mut self) {
        self.count("slow networks");
        self.note_fault(|| "the network is slow".to_owned());
        self.network.weather.delay_max = self.dice.pick(&[20, 100, 400]).unwrap_or(20);
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
        if self.processes.len() >= NODES_MAX {
            return;
        }
        let free: Vec<Place> = (0..PLACES)
            .filter(|place| self.at(*place).is_none())
            .collect();
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
                self.note_fault(|| format!("mend {pairs:?}"));
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
            Mend::Calm => self.network.weather.delay_max = self.plan.weather.delay_max,
            Mend::Quick(p) => {
                if let Some(process) = self.processes.get_mut(&p) {
                    process.latency = 0;
                }
            }
        }
    }
}
