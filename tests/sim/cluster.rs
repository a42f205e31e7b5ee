//! The event loop: everything that happens, one thing after another in virtual time.

use std::collections::{BTreeMap, BTreeSet};

use statekeeper::protocol::defect::Planted;
use statekeeper::protocol::members::{self, Status};
use statekeeper::protocol::shard::Input;
use statekeeper::protocol::types::{Epoch, Key, Member, NodeId, NodeName};
use statekeeper::protocol::view::View;

use super::clients::Clients;
use super::dice::Dice;
use super::faults::Faults;
use super::invariants::Invariants;
use super::links::{MEMBERS_TICK, PARTS_TICK};
use super::network::{Arrival, LinkId, Network, Place};
use super::plan::Plan;
use super::process::*;

/// Without a lease for that long, a node gives back what waits.
const SUSPENDED_AFTER: u64 = 1_000;

/// In how many percent of the ticks an idle actor goes to rest, by the run.
const RESTS: [u64; 4] = [0, 1, 5, 30];

/// What happens.
#[derive(Debug)]
pub enum Event {
    MembersTick(u64),
    PartsTick(u64),
    Arrive(Arrival),
    Dialled {
        process: u64,
        place: Place,
        name: Option<NodeName>,
    },
    LinkUp {
        process: u64,
        link: LinkId,
        peer: Member,
    },
    LinkDown {
        process: u64,
        link: LinkId,
        peer: NodeId,
        refused: bool,
    },
    ToPart {
        process: u64,
        part: usize,
        item: ToPart,
    },
    ToMembers {
        process: u64,
        item: ToMembers,
    },
    /// The actor gets to its oldest request.
    Run {
        process: u64,
        part: usize,
        key: Key,
        instance: u64,
    },
    Restart {
        process: u64,
        part: usize,
        key: Key,
        gen_: Epoch,
    },
    /// The connection has room.
    Flush {
        process: u64,
        part: usize,
        to: NodeId,
    },
    /// A witness tells that a life is over.
    Obituary {
        process: u64,
        of: NodeId,
    },
    /// A node's operator looks whether it is where it should be.
    Operate(u64),
    Client(usize),
    GiveUp {
        client: usize,
        token: u64,
    },
    Fault,
    /// A fault ends.
    Mend(Mend),
    /// A process that has left ends.
    Depart(u64),
    /// One end of the connection has closed it.
    Close(LinkId),
}

/// The end of a fault.
#[derive(Clone, Debug)]
pub enum Mend {
    Cuts(Vec<(Place, Place)>),
    Boot(Place),
    Forget(NodeName),
    Calm,
    Quick(u64),
}

#[derive(Debug)]
pub enum ToPart {
    Install(View),
    Dissolve { me: NodeId, view: View },
    Input(Input),
}

#[derive(Debug)]
pub enum ToMembers {
    Progress {
        part: usize,
        epoch: Epoch,
        complete: bool,
    },
    HasData {
        part: usize,
        has: bool,
    },
    Leave,
}

/// A whole cluster, its clients and its adversary.
#[derive(Debug)]
pub struct Cluster {
    pub now: u64,
    pub(super) sequence: u64,
    pub(super) events: BTreeMap<(u64, u64), Event>,
    pub dice: Dice,
    /// Who goes to rest.
    pub(super) naps: Dice,
    pub plan: Plan,
    pub network: Network,
    pub processes: BTreeMap<u64, Process>,
    pub(super) next_process: u64,
    /// The last life at each place.
    pub lives: BTreeMap<Place, u64>,
    /// Places that answer nothing at all, not even that nobody listens.
    pub silent: BTreeSet<Place>,
    pub clients: Clients,
    pub faults: Faults,
    pub books: Invariants,
    pub trace: Option<Vec<String>>,
    pub counts: BTreeMap<&'static str, u64>,
}

impl Cluster {
    pub fn new(seed: u64, planted: Planted, traced: bool) -> Self {
        let mut dice = Dice::new(seed);
        let mut plan = Plan::new(&mut dice, planted);
        // From dice of their own: a seed without rests is the run that it always was, and those that once failed are.
        let mut naps = Dice::new(seed ^ 0x7e570f);
        plan.rests = naps.pick(&RESTS).unwrap_or_default();
        // In some seeds, none of which is one of those.
        if seed % 4 == 2 {
            plan.anonymous = 60;
        }
        Self {
            now: 0,
            sequence: 0,
            events: BTreeMap::new(),
            dice,
            naps,
            network: Network::new(),
            processes: BTreeMap::new(),
            next_process: 1,
            lives: BTreeMap::new(),
            silent: BTreeSet::new(),
            clients: Clients::new(&plan),
            faults: Faults::default(),
            books: Invariants::new(plan.backups),
            plan,
            trace: traced.then(Vec::new),
            counts: BTreeMap::new(),
        }
    }

    pub fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>7} {}", self.now, what()));
        }
    }

    /// Notes what the adversary does.
    pub fn note_fault(&mut self, what: impl FnOnce() -> String) {
        self.note(|| format!("!!!! {}", what()));
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub fn after(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now + delay, self.sequence), event);
    }

    /// Lets time pass until then, or until something is wrong.
    pub fn run_until(&mut self, time: u64) {
        while self.books.violations.is_empty()
            && let Some(entry) = self.events.first_entry()
            && entry.key().0 <= time
        {
            let ((now, sequence), event) = entry.remove_entry();
            self.now = now;
            if let Some(until) = process_of(&event)
                .and_then(|p| self.processes.get(&p))
                .map(|p| p.paused_until)
                && until > now
            {
                self.events.insert((until, sequence), event);
                continue;
            }
            self.happen(event);
        }
        self.now = self.now.max(time);
    }

    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::MembersTick(p) => {
                let Some(process) = self.processes.get_mut(&p) else {
                    return;
                };
                let now = process.clock(self.now);
                let suspended = process.members.status(now) == Status::Suspended;
                let since = suspended.then(|| *process.unleased_since.get_or_insert(self.now));
                process.unleased_since = since;
                let alone = process.members.status(now) == Status::Alone;
                if alone || since.is_some_and(|since| self.now - since >= SUSPENDED_AFTER) {
                    self.tell_parts(p, || ToPart::Input(Input::Refuse));
                }
                self.members(p, members::Input::Tick);
                self.watch(p);
                self.after(MEMBERS_TICK, Event::MembersTick(p));
            }
            Event::PartsTick(p) => {
                let Some(process) = self.processes.get_mut(&p) else {
                    return;
                };
                process.told.clear();
                for part in 0..process.parts.len() {
                    self.part(p, part, Input::Tick);
                    self.doze(p, part);
                }
                self.after(PARTS_TICK, Event::PartsTick(p));
            }
            Event::Arrive(arrival) => {
                if let Some((to, from, payload)) = self.network.arrive(arrival) {
                    self.receive(&to, from, payload);
                }
            }
            Event::Dialled {
                process,
                place,
                name,
            } => self.dialled(process, place, name.as_ref()),
            Event::LinkUp {
                process,
                link,
                peer,
            } => {
                let current = self
                    .processes
                    .get(&process)
                    .and_then(|p| p.links.get(&peer.id));
                if current == Some(&link) {
                    self.members(process, members::Input::LinkUp(peer));
                    self.tell_parts(process, || ToPart::Input(Input::Linked));
                }
            }
            Event::LinkDown {
                process,
                link,
                peer,
                refused,
            } => self.link_down(process, link, peer, refused),
            Event::ToPart {
                process,
                part,
                item,
            } => self.hear_membership_of(process, part, item),
            Event::ToMembers { process, item } => self.hear_part_of(process, item),
            Event::Run {
                process,
                part,
                key,
                instance,
            } => self.run_actor(process, part, key, instance),
            Event::Restart {
                process,
                part,
                key,
                gen_,
            } => self.part(process, part, Input::Restart { key, gen_ }),
            Event::Flush { process, part, to } => self.flush(process, part, &to),
            Event::Obituary { process, of } => {
                self.note_fault(|| format!("process {process} hears that {of} is dead"));
                self.members(process, members::Input::Died(of));
            }
            Event::Operate(p) => self.operate(p),
            Event::Client(client) => self.client(client),
            Event::GiveUp { client, token } => self.give_up(client, token),
            Event::Fault => self.fault(),
            Event::Mend(mend) => self.mend(mend),
            Event::Depart(p) => {
                self.processes.remove(&p);
                // What it said last arrives before the end of its connections.
                for link in self.network.of(p) {
                    self.after(500, Event::Close(link));
                }
            }
            Event::Close(link) => {
                let Some([a, b]) = self.network.close(link) else {
                    return;
                };
                for (end, other) in [(&a, &b), (&b, &a)] {
                    let (process, peer) = (end.process, other.id.clone());
                    self.after(
                        1,
                        Event::LinkDown {
                            process,
                            link,
                            peer,
                            refused: true,
                        },
                    );
                }
            }
        }
    }
}

/// The process that an event happens to.
fn process_of(event: &Event) -> Option<u64> {
    match event {
        Event::MembersTick(process)
        | Event::PartsTick(process)
        | Event::Dialled { process, .. }
        | Event::LinkUp { process, .. }
        | Event::LinkDown { process, .. }
        | Event::ToPart { process, .. }
        | Event::ToMembers { process, .. }
        | Event::Run { process, .. }
        | Event::Restart { process, .. }
        | Event::Flush { process, .. }
        | Event::Obituary { process, .. }
        | Event::Operate(process) => Some(*process),
        Event::Arrive(_)
        | Event::Client(_)
        | Event::GiveUp { .. }
        | Event::Fault
        | Event::Mend(_)
        | Event::Depart(_)
        | Event::Close(_) => None,
    }
}
