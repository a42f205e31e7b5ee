//! The driver of a node's parts, and of the actors in them.

use std::collections::BTreeMap;

use statekeeper::protocol::members;
use statekeeper::protocol::shard::{Answer, Effect, Input, Msg, Progress, Ran, Request, Shard};
use statekeeper::protocol::types::{Epoch, Key, NodeId};

use super::cluster::{Cluster, Event, ToMembers, ToPart};
use super::invariants::Copies;
use super::network::{End, Payload};
use super::process::{Actor, Counted, Leaving, Process, Sort, decode, key};
use super::trace;

impl Cluster {
    /// What one actor of a node says to another one: in order, and as late as the node is slow.
    fn pass(&mut self, p: u64, event: Event) {
        let Some(process) = self.processes.get_mut(&p) else {
            return;
        };
        process.passed = process.passed.max(self.now + process.latency);
        let delay = process.passed - self.now;
        self.after(delay, event);
    }

    pub(super) fn tell_parts(&mut self, p: u64, item: impl Fn() -> ToPart) {
        let Some(process) = self.processes.get(&p) else {
            return;
        };
        for part in 0..process.parts.len() {
            let item = item();
            let process = p;
            self.pass(
                p,
                Event::ToPart {
                    process,
                    part,
                    item,
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
                self.note_owners(p, part);
            }
            ToPart::Dissolve { me, view } => {
                let actors = std::mem::take(&mut process.actors);
                let (gone, rest) = actors.into_iter().partition(|((of, _), _)| *of == part);
                process.actors = rest;
                let gone: BTreeMap<(usize, Key), Actor> = gone;
                for ((_, key), actor) in gone {
                    self.hand_back(p, part, &key, actor);
                }
                let Some(process) = self.processes.get_mut(&p) else {
                    return;
                };
                process.due.retain(|(of, _), _| *of != part);
                let old = process.renew(part, me, &view, &self.plan);
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
        let leased = process.may_answer(self.now, part);
        let mut out = Vec::new();
        if let Some(trace) = &mut self.trace
            && let Some(line) = trace::input(&input)
        {
            trace.push(format!("{:>7} {}/{part} <= {line}", self.now, process.id()));
        }
        let heals = matches!(input, Input::Install(_) | Input::Heal);
        process.parts[part].handle(leased, input, &mut out);
        if heals && process.parts[part].is_healing() {
            let delay = self.dice.between(0, self.plan.heal_delay_max);
            self.after(
                delay,
                Event::ToPart {
                    process: p,
                    part,
                    item: ToPart::Input(Input::Heal),
                },
            );
        }
        for effect in out {
            if !self.dies_first(p) {
                self.interpret(p, part, relays, effect);
            }
        }
        self.after_part(p, part);
    }

    pub(super) fn after_part(&mut self, p: u64, part: usize) {
        let Some(process) = self.processes.get(&p) else {
            return;
        };
        let has = process.parts[part].has_data();
        if has != (process.has_data & 1 << part != 0) {
            self.pass(
                p,
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
            Effect::Copy { to, key, .. } => {
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
                let ver = process.parts[part]
                    .owned_state(&key)
                    .map_or(0, |(_, ver, _)| ver);
                let actor = Actor::start(gen_, process.instances, &data, ver, self.plan.planted);
                let before = process.actors.insert((part, key.clone()), actor);
                if let Some(before) = before {
                    self.hand_back(p, part, &key, before);
                }
                let Some(process) = self.processes.get(&p) else {
                    return;
                };
                let (view, id) = (process.parts[part].view(), &process.lives[part]);
                self.books.owns(view, &key, id);
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
                actor.running.push_back((None, request));
                if idle {
                    let delay = self.dice.between(0, self.plan.actor_delay_max);
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
                    && let Some(actor) = process.actors.remove(&at)
                {
                    self.hand_back(p, part, &at.1, actor);
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
                let complete = progress == Progress::Complete;
                let item = ToMembers::Progress {
                    part,
                    epoch,
                    complete,
                };
                self.pass(p, Event::ToMembers { process: p, item });
            }
            Effect::Quiet => {
                if let Leaving::Quiescing(parts) = &mut process.leaving {
                    *parts &= !(1 << part);
                    if *parts == 0 {
                        self.pass(
                            p,
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
        let (view, id) = (process.parts[part].view(), process.lives[part].clone());
        let copies = self.copies(process, part, &key(counted.key));
        self.books
            .owner_answers(&view.clone(), &id, &counted, copies.as_ref());
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
            if let Some(copied) = process.parts[part].copy_of(&key, to) {
                let msg = copied.to_msg(key);
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
        let ends = self.dice.percent(self.plan.actor_ends);
        let delay = self.dice.between(0, self.plan.actor_delay_max);
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
        if ends {
            let ended = process.actors.remove(&at);
            self.actor_ended(p, part, key.clone(), gen_);
            if let Some(ended) = ended {
                self.hand_back(p, part, &key, ended);
            }
            return;
        }
        let ran = actor.run();
        let panics =
            matches!(ran, Some((_, _, Ran::Failed(_)))) && Sort::of_key(&key) == Sort::Fragile;
        let mut ended = None;
        if panics {
            ended = process.actors.remove(&at);
        } else if !actor.running.is_empty() {
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
        match ran {
            Some((None, _, ran)) => {
                let key = key.clone();
                self.part(p, part, Input::Ran { key, gen_, ran });
            }
            Some((Some(token), request, ran)) => {
                self.served(p, part, &key, gen_, token, request, ran);
            }
            None => {}
        }
        if panics {
            self.actor_ended(p, part, key.clone(), gen_);
        }
        if let Some(ended) = ended {
            self.hand_back(p, part, &key, ended);
        }
    }

    /// An actor handled what it had from a client: it answers what is backed up by itself.
    #[expect(clippy::too_many_arguments, reason = "what an actor hands over")]
    fn served(
        &mut self,
        p: u64,
        part: usize,
        key: &Key,
        gen_: Epoch,
        token: u64,
        request: Request,
        ran: Ran,
    ) {
        let at = (part, key.clone());
        let Some(process) = self.processes.get(&p) else {
            return;
        };
        let may_answer = process
            .actors
            .get(&at)
            .is_some_and(|actor| process.actor_may_answer(self.now, actor));
        let is_read = matches!(ran, Ran::Done { data: None, .. });
        if let Ran::Done { reply, data: None } = &ran
            && may_answer
        {
            self.count("reads answered by actors");
            let answer = Answer::Reply(reply.clone());
            self.owner_answers(p, part, &answer);
            return self.answer_client(token, &answer);
        }
        let input = Input::Served {
            token,
            key: key.clone(),
            gen_,
            request,
            ran,
        };
        self.part(p, part, input);
        let Some(process) = self.processes.get_mut(&p) else {
            return;
        };
        let shard = &process.parts[part];
        if is_read
            && let Some(ver) = shard.settled_at(key)
            && let Some(actor) = process.actors.get_mut(&at)
        {
            actor.backed_up = Some((shard.view().cluster, shard.epoch(), ver));
        }
    }

    /// What an actor had from clients and did not handle goes to its part.
    fn hand_back(&mut self, p: u64, part: usize, key: &Key, actor: Actor) {
        for (token, request) in actor.running {
            if let Some(token) = token {
                let key = key.clone();
                let item = ToPart::Input(Input::Request {
                    token,
                    key,
                    request,
                    hint: None,
                });
                let process = p;
                self.pass(
                    p,
                    Event::ToPart {
                        process,
                        part,
                        item,
                    },
                );
            }
        }
    }

    /// Gives a request of a client to an actor that lives there; back it comes if none does.
    pub(super) fn give(
        &mut self,
        p: u64,
        part: usize,
        key: &Key,
        token: u64,
        request: Request,
    ) -> Option<Request> {
        let delay = self.dice.between(0, self.plan.actor_delay_max);
        let past_the_part = self.dice.percent(60);
        let actor = self
            .processes
            .get_mut(&p)
            .filter(|process| process.leaving == Leaving::No)
            .and_then(|process| process.actors.get_mut(&(part, key.clone())))
            .filter(|_| past_the_part);
        let Some(actor) = actor else {
            return Some(request);
        };
        let (idle, instance) = (actor.running.is_empty(), actor.instance);
        actor.running.push_back((Some(token), request));
        if idle {
            let (process, key) = (p, key.clone());
            self.after(
                delay,
                Event::Run {
                    process,
                    part,
                    key,
                    instance,
                },
            );
        }
        None
    }

    /// Actors that nobody asks go to rest, now or later.
    pub(super) fn doze(&mut self, p: u64, part: usize) {
        let Some(shard) = self.processes.get(&p).map(|p| &p.parts[part]) else {
            return;
        };
        let idle = |key: Key| {
            let gen_ = shard.owns(&key)?;
            shard.may_rest(&key, gen_).then_some((key, gen_))
        };
        let idle: Vec<(Key, Epoch)> = owned(shard).into_iter().filter_map(idle).collect();
        for (key, gen_) in idle {
            if self.plan.rests > 0 && self.naps.percent(self.plan.rests) {
                self.count("rests");
                let Some(process) = self.processes.get(&p) else {
                    return;
                };
                let (view, id) = (process.parts[part].view(), &process.lives[part]);
                self.books.rests(view, &key, id);
                self.part(p, part, Input::Rest { key, gen_ });
            }
        }
    }

    /// An actor is gone: its supervisor restarts it, or the next request does.
    fn actor_ended(&mut self, p: u64, part: usize, key: Key, gen_: Epoch) {
        let again = self.dice.percent(50);
        let delay = 5 + self.dice.between(0, self.plan.actor_delay_max);
        self.count("actors ended");
        if again {
            let restart = Event::Restart {
                process: p,
                part,
                key: key.clone(),
                gen_,
            };
            self.after(delay, restart);
        }
        self.part(p, part, Input::Exited { key, gen_, again });
    }

    /// Tells the books what a part owns after it installed a view.
    fn note_owners(&mut self, p: u64, part: usize) {
        let Some(process) = self.processes.get(&p) else {
            return;
        };
        let shard = &process.parts[part];
        for key in owned(shard) {
            self.books.owns(shard.view(), &key, &process.lives[part]);
        }
    }

    /// Where the copies of a key are that a process owns.
    fn copies(&self, process: &Process, part: usize, key: &Key) -> Option<Copies> {
        let shard = &process.parts[part];
        shard.owns(key)?;
        let has = |keeper: &NodeId| {
            let keeper = self.processes.values().find(|p| p.id() == keeper)?;
            let theirs = &keeper.parts[part];
            let version = theirs.record(key).map_or(0, |(_, version, ..)| version);
            (theirs.view() == shard.view()).then_some(version)
        };
        let keepers = shard.acked_by(key).iter();
        Some(Copies {
            wanted: self.plan.backups.min(shard.view().active().count() - 1),
            keepers: keepers.map(|(id, _)| (id.clone(), has(id))).collect(),
        })
    }
}

/// The keys that a part owns, in their order.
fn owned(shard: &Shard) -> Vec<Key> {
    let mut keys: Vec<Key> = shard.owned_keys().collect();
    keys.sort();
    keys
}
