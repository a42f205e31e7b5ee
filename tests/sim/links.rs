//! Processes start and end, and so do their connections.

use statekeeper::protocol::members;
use statekeeper::protocol::types::{Member, NodeId, NodeName};

use super::cluster::{Cluster, Event, ToPart};
use super::network::{End, LinkId, Payload, Place};
use super::process::{EARLY_MAX, Process};
use statekeeper::protocol::shard::Input;

/// How often a node's membership looks at its clock, and its parts at what is unanswered, in milliseconds.
pub const MEMBERS_TICK: u64 = 50;
pub const PARTS_TICK: u64 = 100;

impl Cluster {
    /// Starts a new life at a place.
    pub fn boot(&mut self, place: Place) -> u64 {
        let before = self.lives.get(&place).copied();
        let life = NodeId::next_incarnation(1, before, self.plan.planted);
        self.lives.insert(place, life);
        let me = Member {
            id: NodeId::new(format!("n{place}@h"), life),
            addr: format!("h:{place}").into(),
        };
        let number = self.next_process;
        self.next_process += 1;
        let (seed, offset) = (self.dice.roll(), self.dice.between(0, 100_000));
        let clock = (offset, self.plan.rate(&mut self.dice));
        self.note(|| format!("boot {}", me.id));
        if self.silent.remove(&place) {
            self.reset_links(place);
        }
        let process = Process::new(number, me, place, &self.plan, seed, clock);
        self.processes.insert(number, process);
        let (a, b) = (
            self.dice.between(0, MEMBERS_TICK),
            self.dice.between(0, PARTS_TICK),
        );
        self.after(a, Event::MembersTick(number));
        self.after(b, Event::PartsTick(number));
        self.after(500, Event::Operate(number));
        number
    }

    /// Ends a process. The others hear of it unless its whole machine is gone with it.
    pub fn kill(&mut self, p: u64, silent: bool) {
        let Some(process) = self.processes.remove(&p) else {
            return;
        };
        self.note_fault(|| {
            format!(
                "kill {}{}",
                process.id(),
                if silent { " (silently)" } else { "" }
            )
        });
        if silent {
            self.silent.insert(process.place);
        }
        for link in self.network.of(p) {
            for end in self
                .network
                .close(link)
                .into_iter()
                .flatten()
                .filter(|end| end.process != p)
            {
                // Behind a cut, and where the machine is gone, nobody hears anything.
                if !silent && self.network.is_open(end.place, process.place) {
                    self.after(
                        2,
                        Event::LinkDown {
                            process: end.process,
                            link,
                            peer: process.id().clone(),
                            refused: true,
                        },
                    );
                }
            }
        }
    }

    /// A machine that is back resets the connections that it does not know.
    pub(super) fn reset_links(&mut self, place: Place) {
        let name = format!("n{place}@h");
        let mut stale = Vec::new();
        for process in self.processes.values() {
            let of_place = process
                .links
                .iter()
                .filter(|(peer, _)| peer.name.as_str() == name);
            stale.extend(of_place.map(|(peer, link)| (process.number, *link, peer.clone())));
        }
        for (process, link, peer) in stale {
            let delay = self.dice.between(1, 500);
            self.after(
                delay,
                Event::LinkDown {
                    process,
                    link,
                    peer,
                    refused: false,
                },
            );
        }
    }

    pub fn at(&self, place: Place) -> Option<&Process> {
        self.processes.values().find(|p| p.place == place)
    }

    pub(super) fn dial(&mut self, p: u64, place: Place, name: Option<NodeName>) {
        let delay = self.dice.between(1, 20);
        if let Some(process) = self.processes.get_mut(&p)
            && process.place != place
            && process.dialling.insert(place)
        {
            self.after(
                delay,
                Event::Dialled {
                    process: p,
                    place,
                    name,
                },
            );
        }
    }

    pub(super) fn dialled(&mut self, p: u64, place: Place, name: Option<&NodeName>) {
        let Some(process) = self.processes.get_mut(&p) else {
            return;
        };
        process.dialling.remove(&place);
        let (mine, here) = (process.members.me().clone(), process.place);
        let Some(other) = self.processes.values().find(|o| o.place == place) else {
            return;
        };
        let (number, theirs) = (other.number, other.members.me().clone());
        if !self.network.is_open(here, place) || name.is_some_and(|name| *name != theirs.id.name) {
            return;
        }
        if let Some(link) = self.network.joins(p, number) {
            let both = self
                .processes
                .get(&p)
                .is_some_and(|me| me.links.get(&theirs.id) == Some(&link))
                && other.links.get(&mine.id) == Some(&link);
            if both {
                return;
            }
            self.hang_up(link);
        }
        let end = |process, place, id: &NodeId| End {
            place,
            process,
            id: id.clone(),
        };
        let link = self
            .network
            .connect(end(p, here, &mine.id), end(number, place, &theirs.id));
        for (at, peer) in [(p, theirs), (number, mine)] {
            let delay = self.dice.between(1, 5);
            let Some(process) = self.processes.get_mut(&at) else {
                continue;
            };
            if let Some(old) = process.links.insert(peer.id.clone(), link) {
                // What remained of a connection that the other end has lost.
                self.network.close(old);
                self.members(
                    at,
                    members::Input::LinkDown {
                        peer: peer.id.clone(),
                        refused: false,
                    },
                );
            }
            self.after(
                delay,
                Event::LinkUp {
                    process: at,
                    link,
                    peer,
                },
            );
        }
    }

    /// Ends a connection; whoever is not cut off hears of it.
    pub fn hang_up(&mut self, link: LinkId) {
        let Some([a, b]) = self.network.close(link) else {
            return;
        };
        let open = self.network.is_open(a.place, b.place);
        for (end, other) in [(&a, &b), (&b, &a)] {
            let delay = self.dice.between(1, 10) + if open { 0 } else { 3_000 };
            self.after(
                delay,
                Event::LinkDown {
                    process: end.process,
                    link,
                    peer: other.id.clone(),
                    refused: false,
                },
            );
        }
    }

    pub(super) fn link_down(&mut self, p: u64, link: LinkId, peer: NodeId, refused: bool) {
        let Some(process) = self.processes.get_mut(&p) else {
            return;
        };
        if process.links.get(&peer) != Some(&link) {
            return;
        }
        process.links.remove(&peer);
        process.due.retain(|(_, to), _| *to != peer);
        // Somebody may listen there again.
        let refused = refused && !self.processes.values().any(|p| p.id().name == peer.name);
        self.members(p, members::Input::LinkDown { peer, refused });
    }

    pub(super) fn send(&mut self, p: u64, to: &NodeId, payload: Payload) {
        let Some(link) = self
            .processes
            .get(&p)
            .and_then(|process| process.links.get(to))
            .copied()
        else {
            return;
        };
        let sent = self
            .network
            .send(self.now, link, p, payload, &mut self.dice);
        for (at, arrival) in sent.into_iter().flatten() {
            self.after(at - self.now, Event::Arrive(arrival));
        }
    }

    pub(super) fn receive(&mut self, to: &End, from: NodeId, payload: Payload) {
        let Some(process) = self.processes.get_mut(&to.process) else {
            return;
        };
        if process.id() != &to.id {
            return;
        }
        if process.paused_until > self.now {
            let (until, from) = (process.paused_until - self.now, from);
            // Read when the process runs again, in the order of arrival.
            self.after(
                until,
                Event::ToPart {
                    process: to.process,
                    part: usize::MAX,
                    item: ToPart::Input(Input::Tick),
                },
            );
            self.faults
                .held
                .push((to.process, to.id.clone(), from, payload));
            return;
        }
        match payload {
            Payload::Control(msg) => {
                if !matches!(msg, members::Msg::Ping { .. } | members::Msg::Pong { .. }) {
                    self.note(|| format!("{} <- {from}: {msg:?}", to.id));
                }
                self.members(to.process, members::Input::Message { from, msg });
            }
            Payload::Data {
                part,
                cluster,
                epoch,
                msg,
            } => {
                if process.parts[part].view().cluster != cluster {
                    if process.early.len() < EARLY_MAX {
                        process.early.push((
                            part,
                            from,
                            Payload::Data {
                                part,
                                cluster,
                                epoch,
                                msg,
                            },
                        ));
                    }
                    return;
                }
                self.part(to.process, part, Input::Message { from, epoch, msg });
            }
        }
    }
}
