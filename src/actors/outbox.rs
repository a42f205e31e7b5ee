//! What a part has to say to one peer. Requests of the protocol wait while one frame of them is in flight, so
//! that frames grow with the load by themselves and a lone update never waits; answers always go at once, since
//! what they answer was bounded already.

use std::collections::{HashSet, VecDeque};

use crate::protocol::shard::{Msg, REQUEST_BYTES};
use crate::protocol::types::Key;

/// After how many ticks a frame is taken for lost.
const CREDIT_TICKS_MAX: u32 = 20;

/// What a queued request is about; one that comes again meanwhile says nothing new.
#[derive(PartialEq, Eq, Hash, Debug)]
enum Ask {
    Claim(Key),
    Hold(Key),
    Forward(u64),
    Locate(u64),
}

impl Ask {
    fn of(msg: &Msg) -> Option<Self> {
        match msg {
            Msg::Claim { key, .. } => Some(Self::Claim(key.clone())),
            Msg::Hold { key, .. } => Some(Self::Hold(key.clone())),
            Msg::Forward { token, .. } => Some(Self::Forward(*token)),
            Msg::Locate { token, .. } => Some(Self::Locate(*token)),
            Msg::Put { .. }
            | Msg::Done { .. }
            | Msg::PutAck { .. }
            | Msg::HoldAck { .. }
            | Msg::OwnerIs { .. }
            | Msg::Grant { .. }
            | Msg::Reply { .. }
            | Msg::Located { .. } => None,
        }
    }
}

/// What an answer costs while it waits. The state in a grant is the record's own.
fn weight(answer: &Msg) -> usize {
    match answer {
        Msg::Grant { .. } => REQUEST_BYTES,
        other => other.weight(),
    }
}

/// The queue towards one peer.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Frames of the peer that were taken in and not yet credited.
    pub(super) credits: u32,
    /// Whether a frame that asked for a credit is in flight.
    in_flight: bool,
    /// For how many ticks it has been.
    waited: u32,
    answers: VecDeque<Msg>,
    /// What the answers hold that nobody else does.
    answers_bytes: usize,
    requests: VecDeque<Msg>,
    /// What is in `requests`: it is not queued again while it waits.
    asked: HashSet<Ask>,
    /// Keys whose latest state the peer must get, in the order in which they came to need it.
    puts: VecDeque<Key>,
    queued: HashSet<Key>,
}

impl Outbox {
    /// Adds a message. Answers beyond `bytes_max`, which the peer does not take, are dropped: it asks again for what
    /// still matters.
    pub(super) fn push(&mut self, msg: Msg, bytes_max: usize) {
        match msg {
            Msg::PutAck { .. }
            | Msg::HoldAck { .. }
            | Msg::OwnerIs { .. }
            | Msg::Grant { .. }
            | Msg::Reply { .. }
            | Msg::Located { .. } => {
                let bytes = weight(&msg);
                if self.answers.is_empty() || self.answers_bytes + bytes <= bytes_max {
                    self.answers_bytes += bytes;
                    self.answers.push_back(msg);
                }
            }
            Msg::Claim { .. }
            | Msg::Put { .. }
            | Msg::Hold { .. }
            | Msg::Done { .. }
            | Msg::Forward { .. }
            | Msg::Locate { .. } => {
                if Ask::of(&msg).is_none_or(|ask| self.asked.insert(ask)) {
                    self.requests.push_back(msg);
                }
            }
        }
    }

    /// Notes that the peer must get the latest state of a key.
    pub(super) fn put(&mut self, key: Key) {
        if self.queued.insert(key.clone()) {
            self.puts.push_back(key);
        }
    }

    /// A frame was sent that asked for a credit.
    pub(super) fn sent(&mut self) {
        (self.in_flight, self.waited) = (true, 0);
    }

    /// Whether a frame that asked for a credit is in flight.
    pub(super) fn is_in_flight(&self) -> bool {
        self.in_flight
    }

    /// The peer took the frame in.
    pub(super) fn credit(&mut self) {
        self.in_flight = false;
    }

    /// Time passed: a credit that does not come any more is not waited for for ever. The peer dropped the frame,
    /// for want of its view.
    pub(super) fn tick(&mut self) {
        self.waited += 1;
        self.in_flight &= self.waited < CREDIT_TICKS_MAX;
    }

    /// Forgets everything: the view has changed, or the connection is gone. What matters is sent again.
    pub(super) fn clear(&mut self) {
        self.answers.clear();
        self.answers_bytes = 0;
        self.requests.clear();
        self.asked.clear();
        self.puts.clear();
        self.queued.clear();
    }

    /// Whether there is something to send now.
    pub(super) fn is_ready(&self) -> bool {
        let waiting = !self.requests.is_empty() || !self.puts.is_empty();
        self.credits > 0 || !self.answers.is_empty() || waiting && !self.in_flight
    }

    /// The next answer to send.
    pub(super) fn next_answer(&mut self) -> Option<Msg> {
        let answer = self.answers.pop_front()?;
        self.answers_bytes -= weight(&answer);
        Some(answer)
    }

    /// The next request to send; `put_of` knows the latest state of a key.
    pub(super) fn next_request(&mut self, put_of: impl Fn(&Key) -> Option<Msg>) -> Option<Msg> {
        if let Some(msg) = self.requests.pop_front() {
            if let Some(ask) = Ask::of(&msg) {
                self.asked.remove(&ask);
            }
            return Some(msg);
        }
        while let Some(key) = self.puts.pop_front() {
            self.queued.remove(&key);
            if let Some(msg) = put_of(&key) {
                return Some(msg);
            }
        }
        None
    }
}
