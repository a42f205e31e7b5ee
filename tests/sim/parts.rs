//! The driver of a node's parts, and of the actors in them.

use std::collections::BTreeMap;

use statekeeper::protocol::members;
use statekeeper::protocol::shard::{Answer, Effect, Input, Msg, Progress};
use statekeeper::protocol::types::{Key, NodeId};

use super::cluster::{Cluster, Event, ToMembers, ToPart};
use super::network::{End, Payload};
use super::process::{Actor, Counted, Leaving, decode};

impl Cluster {
    pub(super) fn tell_parts(&mut self, p: u64, item: impl Fn() -> ToPart) {
        let Some(process) = self.processes.get(&p) else {
            return;
        };
        let latency = process.latency;
        for part in 0..process.parts.len() {
            self.after(
                latency,
                Event::ToPart {
                    process: p,
                    part,
                    item: item(),
                },
            );
        }
    }

    pub(super) fn hear_membership_of(&mut self, p: u64, part: usize, item: ToPart) {
        let Some(process) = self.processes.get_mut(&p) else {
            return;
        };
        if part == usize::MAX {
            return self.read_held(p);
        }
        match item {
            ToPart::Install(view) => {
                process.due.retain(|(of, _), _| *of != part);
                self.part(p, part, Input::Install(view));
                let Some(process) = self.processes.get_mut(&p) else {
                    return;
                };
                let (mine, others) = std::mem::take(&mut process.early)
                    .into_iter()
                    .partition(|(of, ..)| *of == part);
                process.early = others;
                let end = End {
                    place: process.place,
                    process: p,
                    id: process.id().clone(),
                };
                let mine: Vec<(usize, NodeId, Payload)> = mine;
                for (_, from, payload) in mine {
                    self.receive(&end, from, payload);
                }
                self.check_owners(part);
            }
            ToPart::Dissolve => {
                process.actors.retain(|(of, _), _| *of != part);
                process.due.retain(|(of, _), _| *of != part);
                let old = process.renew(part, self.backups);
                for (token, maybe) in old.dissolve() {
                    self.answer_client(
                        token,
                        &if maybe {
                            Answer::Unknown
                        } else {
                            Answer::NotServing
                        },
                    );
                }
                self.after_part(p, part);
            }
            ToPart::Input(input) => self.part(p, part, input),
        }
    }

    pub(super) fn read_held(&mut self, p: u64) {
        let (held, rest) = std::mem::take(&mut self.faults.held)
            .into_iter()
            .partition(|(of, ..)| *of == p);
        self.faults.held = rest;
        let held: Vec<(u64, NodeId, NodeId, Payload)> = held;
        for (process, id, from, payload) in held {
            let Some(place) = self.processes.get(&process).map(|p| p.place) else {
                return;
            };
            self.receive(&End { place, process, id }, from, payload);
        }
    }

    /// One step of a part.
    pub fn part(&mut self, p: u64, part: usize, input: Input) {
        let Some(process) = self.processes.get_mut(&p) else {
            return;
        };
        let relays = matches!(
            input,
            Input::Message {
                msg: Msg::Reply { .. },
                ..
            }
        );
        let leased = process.is_leased(self.now);
        let mut out = Vec::new();
        if let Some(trace) = &mut self.trace
            && !matches!(input, Input::Tick | Input::Refuse)
        {
            trace.push(format!(
                "{:>7} {}/{part} <= {input:?}",
                self.now,
                process.id()
            ));
        }
        process.parts[part].handle(leased, input, &mut out);
        for effect in out {
            self.interpret(p, part, relays, effect);
        }
        self.after_part(p, part);
    }

    pub(super) fn after_part(&mut self, p: u64, part: usize) {
        let Some(process) = self.processes.get(&p) else {
            return;
        };
        let has = process.parts[part].has_data();
        if has != (process.has_data & 1 << part != 0) {
            let latency = process.latency;
            self.after(
                latency,
                Event::ToMembers {
                    process: p,
                    item: ToMembers::HasData { part, has },
                },
            );
        }
    }

    pub(super) fn interpret(&mut self, p: u64, part: usize, relays: bool, effect: Effect) {
        let Some(process) = self.processes.get_mut(&p) else {
            return;
        };
        match effect {
            Effect::Send { to, msg } => {
                let (cluster, epoch) = (
                    process.parts[part].view().cluster,
                    process.parts[part].epoch(),
                );
                if let (Msg::Reply { answer, .. }, false) = (&msg, relays) {
                    self.owner_answers(p, part, answer);
                }
                self.send(
                    p,
                    &to,
                    Payload::Data {
                        part,
                        cluster,
                        epoch,
                        msg,
                    },
                );
            }
            Effect::Put { to, key } => {
                let delay = self.dice.between(0, 8);
                let due = process.due.entry((part, to.clone())).or_default();
                if due.is_empty() {
                    self.after(
                        delay,
                        Event::Flush {
                            process: p,
                            part,
                            to: to.clone(),
                        },
                    );
                }
                if let Some(process) = self.processes.get_mut(&p) {
                    process.due.entry((part, to)).or_default().insert(key);
                }
            }
            Effect::Start { key, gen_, data } => {
                process.instances += 1;
                let actor = Actor::start(gen_, process.instances, &data);
                process.actors.insert((part, key), actor);
                self.check_owners(part);
            }
            Effect::Run { key, gen_, request } => {
                let Some(actor) = process
                    .actors
                    .get_mut(&(part, key.clone()))
                    .filter(|a| a.gen_ == gen_)
                else {
                    return self
                        .books
                        .violate("a request for an actor that was not started");
                };
                let (idle, instance) = (actor.running.is_empty(), actor.instance);
                actor.running.push_back(request);
                if idle {
                    let delay = self.dice.between(0, self.actor_delay_max);
                    self.after(
                        delay,
                        Event::Run {
                            process: p,
                            part,
                            key,
                            instance,
                        },
                    );
                }
            }
            Effect::Stop { key, gen_ } => {
                let at = (part, key);
                if process
                    .actors
                    .get(&at)
                    .is_some_and(|actor| actor.gen_ == gen_)
                {
                    process.actors.remove(&at);
                }
            }
            Effect::Answer { token, answer } => {
                if !relays {
                    self.owner_answers(p, part, &answer);
                }
                self.answer_client(token, &answer);
            }
            Effect::Found { .. } => {}
            Effect::ShowView(peer) => {
                let view = process.parts[part].view().clone();
                if process.told.insert((part, peer.clone())) {
                    self.send(p, &peer, Payload::Control(members::Msg::ViewIs(view)));
                }
            }
            Effect::WantView(peer) => {
                if process.told.insert((part, peer.clone())) {
                    self.send(p, &peer, Payload::Control(members::Msg::ViewWanted));
                }
            }
            Effect::Progress(epoch, progress) => {
                let latency = process.latency;
                let complete = progress == Progress::Complete;
                let item = ToMembers::Progress {
                    part,
                    epoch,
                    complete,
                };
                self.after(latency, Event::ToMembers { process: p, item });
            }
            Effect::Quiet => {
                let latency = process.latency;
                if let Leaving::Quiescing(parts) = &mut process.leaving {
                    *parts &= !(1 << part);
                    if *parts == 0 {
                        self.after(
                            latency,
                            Event::ToMembers {
                                process: p,
                                item: ToMembers::Leave,
                            },
                        );
                    }
                }
            }
            Effect::Broken(invariant)
            | Effect::Refused {
                rule: invariant, ..
            } => {
                let id = process.id().clone();
                self.books.violate(format!("{id}/{part}: {invariant}"));
            }
        }
    }

    pub(super) fn owner_answers(&mut self, p: u64, part: usize, answer: &Answer) {
        let (Some(process), Answer::Reply(reply)) = (self.processes.get(&p), answer) else {
            return;
        };
        let counted: Counted = decode(reply);
        let view = process.parts[part].view();
        let (line, epoch, id) = (view.cluster, view.epoch, process.id().clone());
        if !counted.is_read {
            self.books.acker(line, epoch, counted.key, &id);
        }
    }

    pub(super) fn flush(&mut self, p: u64, part: usize, to: &NodeId) {
        let Some(process) = self.processes.get_mut(&p) else {
            return;
        };
        let Some(keys) = process.due.remove(&(part, to.clone())) else {
            return;
        };
        for key in keys {
            let Some(process) = self.processes.get(&p) else {
                return;
            };
            let (cluster, epoch) = (
                process.parts[part].view().cluster,
                process.parts[part].epoch(),
            );
            if let Some(msg) = process.parts[part].put_of(&key) {
                self.send(
                    p,
                    to,
                    Payload::Data {
                        part,
                        cluster,
                        epoch,
                        msg,
                    },
                );
            }
        }
    }

    pub(super) fn run_actor(&mut self, p: u64, part: usize, key: Key, instance: u64) {
        let fails = self.dice.percent(self.actor_fails);
        let (delay, again) = (
            self.dice.between(0, self.actor_delay_max),
            self.dice.percent(50),
        );
        let Some(process) = self.processes.get_mut(&p) else {
            return;
        };
        let at = (part, key.clone());
        let Some(actor) = process
            .actors
            .get_mut(&at)
            .filter(|a| a.instance == instance)
        else {
            return;
        };
        let gen_ = actor.gen_;
        if fails {
            process.actors.remove(&at);
            self.count("actors ended");
            if again {
                self.after(
                    delay + 5,
                    Event::Restart {
                        process: p,
                        part,
                        key: key.clone(),
                        gen_,
                    },
                );
            }
            return self.part(p, part, Input::Exited { key, gen_, again });
        }
        let ran = actor.run();
        if !actor.running.is_empty() {
            self.after(
                delay,
                Event::Run {
                    process: p,
                    part,
                    key: key.clone(),
                    instance,
                },
            );
        }
        if let Some(ran) = ran {
            self.part(p, part, Input::Ran { key, gen_, ran });
        }
    }

    /// I1': at most one node owns a key in an epoch.
    pub(super) fn check_owners(&mut self, part: usize) {
        let mut owners = BTreeMap::new();
        for process in self.processes.values() {
            let shard = &process.parts[part];
            for (key, ..) in shard.owned() {
                let view = shard.view();
                if let Some(other) =
                    owners.insert((view.cluster, view.epoch, key.clone()), process.id())
                {
                    let (id, epoch) = (process.id(), view.epoch);
                    let what = format!("I1': {other} and {id} own {key:?} in epoch {epoch}");
                    self.books.violations.push(what);
                }
            }
        }
    }
}
