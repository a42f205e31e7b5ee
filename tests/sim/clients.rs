//! The load: clients that count, each with one operation at a time, and with retries under the same id.

use std::collections::BTreeMap;

use statekeeper::protocol::shard::{Answer, Input, Request};
use statekeeper::protocol::types::RequestId;

use super::cluster::{Cluster, Event};
use super::invariants::{End, OpId};
use super::plan::Plan;
use super::process::{Call, Counted, Sort, decode, encode, key, part_of};

/// Fewer writes of one key than the ring remembers, so that no retry comes too late.
const WRITES_PER_KEY_MAX: usize = 28;

/// How long a client waits for an answer, in milliseconds.
const PATIENCE: u64 = 1_500;

/// One try of an operation.
#[derive(Clone, Debug)]
pub struct Try {
    pub client: usize,
    pub process: u64,
    pub call: Call,
    /// None for a client that never retries.
    pub id: Option<RequestId>,
    /// An earlier try may have been carried out.
    pub again: bool,
}

impl Try {
    pub fn request(&self) -> Request {
        Request {
            id: self.id,
            payload: encode(&self.call),
            again: self.again,
            span: 0,
        }
    }
}

/// An operation under way.
#[derive(Clone, Debug)]
struct Current {
    call: Call,
    id: Option<RequestId>,
    token: Option<u64>,
    tries: usize,
    /// Some try may have been carried out.
    maybe: bool,
}

/// All clients.
#[derive(Debug)]
pub struct Clients {
    current: Vec<Option<Current>>,
    /// The tries that wait for an answer.
    tries: BTreeMap<u64, Try>,
    begun: BTreeMap<usize, usize>,
    next_op: OpId,
    next_token: u64,
    /// No new operations.
    pub stopped: bool,
    /// By token: the answer of a probe.
    pub probes: BTreeMap<u64, Option<Counted>>,
}

impl Clients {
    pub fn new(plan: &Plan) -> Self {
        Self {
            current: vec![None; plan.clients],
            tries: BTreeMap::new(),
            begun: BTreeMap::new(),
            next_op: 1,
            next_token: 1,
            stopped: false,
            probes: BTreeMap::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.current.len()
    }

    pub fn are_idle(&self) -> bool {
        self.current.iter().all(Option::is_none)
    }

    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }
}

impl Cluster {
    /// A client goes on: with a new operation, or with another try of its last one.
    pub fn client(&mut self, client: usize) {
        let pace = self.plan.client_pace;
        let pause = self.dice.between(pace / 2, pace * 2);
        if self.clients.current[client].is_none() {
            if self.clients.stopped {
                return;
            }
            let at = self.dice.between(0, self.plan.keys as u64) as usize;
            let (reads, fails) = Sort::of(at).habits();
            let (is_read, fails) = (self.dice.percent(reads), self.dice.percent(fails));
            let begun = self.clients.begun.entry(at).or_default();
            if !is_read && *begun >= WRITES_PER_KEY_MAX {
                return self.after(pause * 4, Event::Client(client));
            }
            *begun += usize::from(!is_read);
            let op = self.clients.next_op;
            self.clients.next_op += 1;
            self.books.begin(op, at, is_read);
            let id = (!self.dice.percent(self.plan.anonymous)).then_some(RequestId(op.into()));
            let call = Call {
                key: at,
                op,
                is_read,
                fails,
            };
            self.clients.current[client] = Some(Current {
                call,
                id,
                token: None,
                tries: 0,
                maybe: false,
            });
            self.count("operations");
        }
        let running: Vec<u64> = self.processes.keys().copied().collect();
        let process = self.dice.pick(&running);
        let token = self.clients.token();
        let Some(current) = &mut self.clients.current[client] else {
            return;
        };
        let Some(process) = process else {
            return self.after(pause, Event::Client(client));
        };
        current.tries += 1;
        current.token = Some(token);
        let of = Try {
            client,
            process,
            call: current.call.clone(),
            id: current.id,
            again: current.maybe,
        };
        self.clients.tries.insert(token, of.clone());
        self.after(PATIENCE, Event::GiveUp { client, token });
        self.count("tries");
        self.ask(token, &of);
    }

    /// The client has waited long enough for that try.
    pub fn give_up(&mut self, client: usize, token: u64) {
        let Some(of) = self.clients.tries.remove(&token) else {
            return;
        };
        let key = key(of.call.key);
        self.part(of.process, part_of(&key), Input::Cancel { key, token });
        self.go_on(client, true);
    }

    /// A try failed; `maybe` it was carried out all the same.
    fn go_on(&mut self, client: usize, maybe: bool) {
        let (enough, pause) = (self.dice.percent(10), self.dice.between(20, 300));
        let stopped = self.clients.stopped;
        let Some(current) = &mut self.clients.current[client] else {
            return;
        };
        current.maybe |= maybe;
        current.token = None;
        // Without an id, or with a call that the actor refuses, there is no other try.
        if current.id.is_none() || current.call.fails || (enough && current.tries > 1) || stopped {
            let end = if current.maybe {
                End::Unknown
            } else {
                End::Refused
            };
            if let Some(op) = self.books.ops.get_mut(&current.call.op) {
                op.end = end;
            }
            self.clients.current[client] = None;
        }
        self.after(pause, Event::Client(client));
    }

    /// An answer reaches the client that waits for it, if it still does.
    pub fn answer_client(&mut self, token: u64, answer: &Answer) {
        if let Some(probe) = self.clients.probes.get_mut(&token) {
            if let Answer::Reply(reply) = answer {
                *probe = Some(decode(reply));
            }
            return;
        }
        let Some(Try { client, call, .. }) = self.clients.tries.remove(&token) else {
            return;
        };
        match answer {
            Answer::Reply(reply) => {
                let counted: Counted = decode(reply);
                self.note(|| {
                    format!(
                        "client {client}: operation {} is number {}",
                        call.op, counted.count
                    )
                });
                if counted.op != call.op || counted.key != call.key {
                    self.books.violate(format!(
                        "operation {} gets the answer of {}",
                        call.op, counted.op
                    ));
                }
                self.count("answers");
                self.books.answered(call.op, &counted);
                self.clients.current[client] = None;
                let pace = self.plan.client_pace;
                let pause = self.dice.between(1, pace);
                self.after(pause, Event::Client(client));
            }
            Answer::Failed(_) | Answer::Overloaded | Answer::Leaving | Answer::NotServing => {
                self.note(|| format!("client {client}: operation {}: {answer:?}", call.op));
                self.go_on(client, false);
            }
            Answer::Unknown => self.go_on(client, true),
        }
    }

    /// Reads a key at a node, after healing.
    pub fn probe(&mut self, process: u64, at: usize) -> u64 {
        let token = self.clients.token();
        self.clients.probes.insert(token, None);
        let call = Call {
            key: at,
            op: 0,
            is_read: true,
            fails: false,
        };
        self.ask(
            token,
            &Try {
                client: 0,
                process,
                call,
                id: None,
                again: false,
            },
        );
        token
    }
}
