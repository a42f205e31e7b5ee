//! The driver of a node's membership: what its machine wants done is done.

use statekeeper::protocol::members;
use statekeeper::protocol::types::NodeId;

use super::cluster::{Cluster, Event, ToMembers, ToPart};
use super::network::Payload;
use super::process::{ALL, Barrier, Leaving};
use statekeeper::protocol::shard::Input;

impl Cluster {
    pub(super) fn members(&mut self, p: u64, input: members::Input) {
        let Some(process) = self.processes.get_mut(&p) else {
            return;
        };
        let mut out = Vec::new();
        let now = process.clock(self.now);
        process.members.handle(now, input, &mut out);
        for effect in out {
            if !self.dies_first(p) {
                self.interpret_members(p, effect);
            }
        }
        let Some(process) = self.processes.get_mut(&p) else {
            return;
        };
        let leased = process.is_leased(self.now);
        if leased && !process.was_leased {
            self.tell_parts(p, || ToPart::Input(Input::Leased));
        }
        if let Some(process) = self.processes.get_mut(&p) {
            process.was_leased = leased;
        }
    }

    pub(super) fn interpret_members(&mut self, p: u64, effect: members::Effect) {
        let Some(process) = self.processes.get_mut(&p) else {
            return;
        };
        match effect {
            members::Effect::Send { to, msg } => self.send(p, &to, Payload::Control(msg)),
            members::Effect::Install(view) => {
                // Here a link ends at once when it is hung up, which may have made this node install a later view.
                if *process.members.view() == view {
                    process.barrier = Barrier {
                        epoch: view.epoch,
                        ..Barrier::default()
                    };
                }
                let id = process.id().clone();
                self.note(|| {
                    let names: Vec<String> = view.ids().map(NodeId::to_string).collect();
                    format!(
                        "{id} installs {} of {} {names:?} leaving {:?}",
                        view.epoch, view.cluster, view.leaving
                    )
                });
                self.count("views installed");
                let now = self.now;
                let leased = self.processes.values().filter(|p| p.is_leased(now));
                let leased = leased.map(|p| {
                    let view = p.members.view();
                    (view.cluster, view.epoch, p.id())
                });
                self.books.installed(&id, &view, leased);
                self.tell_parts(p, || ToPart::Install(view.clone()));
            }
            members::Effect::Lease { .. } => {}
            members::Effect::Dial { name, addr } => {
                let place = addr.rsplit(':').next().and_then(|place| place.parse().ok());
                self.dial(p, place.expect("an address is a place"), Some(name));
            }
            members::Effect::Hangup(peer) => {
                if let Some(link) = process.links.get(&peer).copied() {
                    self.hang_up(link);
                    self.link_down(p, link, peer, false);
                }
            }
            members::Effect::Rejoin(me) => {
                let view = process.members.view().clone();
                process.barrier = Barrier {
                    epoch: view.epoch,
                    ..Barrier::default()
                };
                let gone = process.parts[0]
                    .view()
                    .ids()
                    .find(|id| id.name == me.id.name)
                    .cloned();
                let place = process.place;
                self.note(|| {
                    format!(
                        "{} starts over as {}",
                        gone.clone().unwrap_or(me.id.clone()),
                        me.id
                    )
                });
                self.count("lives started over");
                self.lives.insert(place, me.id.incarnation);
                gone.iter().for_each(|id| self.books.losses.gone(id));
                self.tell_parts(p, || ToPart::Dissolve {
                    me: me.id.clone(),
                    view: view.clone(),
                });
                for link in self.network.of(p) {
                    self.hang_up(link);
                }
            }
            members::Effect::Answer { token, result } => {
                let id = process.id().clone();
                self.note(|| format!("{id} answers its operator {token}: {result:?}"));
            }
            members::Effect::Left => {
                let handed_over = process.is_whole();
                let id = process.id().clone();
                self.note(|| format!("{id} has left, everything handed over: {handed_over}"));
                self.count("nodes left");
                self.books.losses.left(&id, handed_over);
                self.after(0, Event::Depart(p));
            }
            members::Effect::Refused { from, rule } => {
                self.books
                    .violate(format!("{from} is not believed: {rule}"));
            }
            members::Effect::PossibleLoss { epoch, nodes } => {
                let id = process.id().clone();
                self.note(|| format!("{id}: possible loss in {epoch}: {nodes:?}"));
                self.count("possible losses told");
                let view = self.processes[&p].members.view().clone();
                // See `Install`: what was witnessed since says nothing of the view that it is told of.
                if view.epoch == epoch {
                    self.books.tells_loss(&id, &view, &nodes);
                } else {
                    self.books.losses.is_told = true;
                }
            }
        }
    }

    pub(super) fn hear_part_of(&mut self, p: u64, item: ToMembers) {
        let Some(process) = self.processes.get_mut(&p) else {
            return;
        };
        match item {
            ToMembers::Progress {
                part,
                epoch,
                complete,
            } => {
                let barrier = &mut process.barrier;
                if barrier.epoch != epoch {
                    return;
                }
                let before = *barrier;
                barrier.sent |= 1 << part;
                barrier.complete |= u32::from(complete) << part;
                let after = *barrier;
                let (id, view) = (process.id().clone(), process.members.view().clone());
                if after.sent == ALL && before.sent != ALL {
                    self.members(
                        p,
                        members::Input::Synced {
                            epoch,
                            complete: false,
                        },
                    );
                }
                if after.complete == ALL && before.complete != ALL {
                    if view.epoch == epoch {
                        self.books.losses.complete(&id, &view);
                    }
                    self.members(
                        p,
                        members::Input::Synced {
                            epoch,
                            complete: true,
                        },
                    );
                }
            }
            ToMembers::HasData { part, has } => {
                let before = process.has_data;
                process.has_data = before & !(1 << part) | u32::from(has) << part;
                let has = process.has_data != 0;
                if (before != 0) != has {
                    self.members(p, members::Input::HasData(has));
                }
            }
            ToMembers::Leave => {
                if process.leaving != Leaving::Asked {
                    process.leaving = Leaving::Asked;
                    self.members(p, members::Input::Leave { token: 0 });
                }
            }
        }
    }

    /// Whether a sync has completed, as nobody in the cluster could know.
    pub(super) fn watch(&mut self, p: u64) {
        let Some(process) = self.processes.get(&p) else {
            return;
        };
        let view = process.members.view().clone();
        if view.members.len() < 2 || self.books.latest(view.cluster) != Some(&view) {
            return;
        }
        let synced = view.ids().all(|id| {
            self.processes
                .values()
                .any(|process| process.id() == id && process.has_synced(&view))
        });
        if synced {
            self.books.losses.synced(&view);
        }
    }
}
