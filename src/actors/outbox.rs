//! What a part has to say to one peer. Requests of the protocol wait while one frame of them is in flight, so
//! that frames grow with the load by themselves and a lone update never waits; answers always go at once, since
//! what they answer was bounded already. Copies that nobody waits for, which a change of the view makes many of, go
//! last, and not many more in a frame than what clients wait for.

use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasherDefault;

use crate::protocol::shard::{Msg, REQUEST_BYTES};
use crate::protocol::types::{Epoch, Key, KeyHasher, KeyRef};
use crate::wire::{Copies, Taken};

/// After how many ticks a frame is taken for lost.
const WAITED_MAX: u32 = 20;

/// What a queued request is about that may have been queued before; one that comes again meanwhile says nothing new.
#[derive(PartialEq, Eq, Hash, Debug)]
enum Ask {
    Claim(Key),
    Forward(u64),
    Locate(u64),
    Inquire(Key),
}

impl Ask {
    fn of(msg: &Msg) -> Option<Self> {
        match msg {
            Msg::Claim { key, .. } => Some(Self::Claim(key.clone())),
            // The first time it is new.
            Msg::Forward { token, request, .. } if request.again => Some(Self::Forward(*token)),
            Msg::Locate { token, .. } => Some(Self::Locate(*token)),
            Msg::Inquire { key } => Some(Self::Inquire(key.clone())),
            Msg::Put { .. }
            | Msg::Hold { .. }
            | Msg::Done { .. }
            | Msg::Forward { .. }
            | Msg::PutAck { .. }
            | Msg::HoldAck { .. }
            | Msg::OwnerIs { .. }
            | Msg::Grant { .. }
            | Msg::Reply { .. }
            | Msg::Located { .. }
            | Msg::Report { .. } => None,
        }
    }
}

/// What an answer costs while it waits. The state in a grant or a report is the record's own.
fn weight(answer: &Msg) -> usize {
    match answer {
        Msg::Grant { .. } | Msg::Report { .. } => REQUEST_BYTES,
        other => other.weight(),
    }
}

/// How many frames of one peer wait to be told that they were taken in. A peer has one in flight, and a second one if
/// it gave that up; whoever sends more does not wait for it.
const TAKEN_MAX: usize = 4;

/// A Put or a Hold in a frame: the key, whether it is a Hold, generation and version.
pub(super) type Sent = (Key, (bool, Epoch, u64));

/// A frame that is on its way, until the peer says that it was taken in.
#[derive(Debug)]
struct Flight {
    number: u64,
    /// The copies in it, in order.
    copies: Vec<Sent>,
    /// For how many ticks it has been.
    waited: u32,
}

/// Keys in the order in which they came, each at most once.
#[derive(Debug, Default)]
struct Keys {
    order: VecDeque<Key>,
    /// The hashes of those that are meant: whatever else is in `order` was taken out. Of two keys with the same hash one
    /// is left out, which is put again when it was not acknowledged for a while.
    queued: HashSet<u64, BuildHasherDefault<KeyHasher>>,
}

impl Keys {
    fn push(&mut self, key: &Key) {
        if self.queued.insert(key.hash()) {
            self.order.push_back(key.clone());
        }
    }

    fn pop(&mut self) -> Option<Key> {
        loop {
            let key = self.order.pop_front()?;
            if self.queued.remove(&key.hash()) {
                return Some(key);
            }
        }
    }

    fn clear(&mut self) {
        self.order.clear();
        self.queued.clear();
    }
}

/// The queue towards one peer.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Frames of the peer that were taken in, and of which it was not told.
    taken: VecDeque<Taken>,
    flight: Option<Flight>,
    /// The peer has answered, and this part has not sent since: others may wait for that.
    expected: bool,
    answers: VecDeque<Msg>,
    /// What the answers hold that nobody else does.
    answers_bytes: usize,
    requests: VecDeque<Msg>,
    /// What is in `requests`: it is not queued again while it waits.
    asked: HashSet<Ask>,
    /// Keys whose latest state the peer must get, because clients wait for that.
    puts: Keys,
    /// Those whose latest state it must get some time: they heal the cluster.
    heals: Keys,
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
            | Msg::Located { .. }
            | Msg::Report { .. } => {
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
            | Msg::Locate { .. }
            | Msg::Inquire { .. } => {
                if Ask::of(&msg).is_none_or(|ask| self.asked.insert(ask)) {
                    self.requests.push_back(msg);
                }
            }
        }
    }

    /// Notes that the peer must get the latest state of a key; `awaited`: a client waits for that.
    pub(super) fn copy(&mut self, key: &Key, awaited: bool) {
        if awaited {
            if !self.heals.queued.is_empty() {
                self.heals.queued.remove(&key.hash());
            }
            self.puts.push(key);
        } else if !self.puts.queued.contains(&key.hash()) {
            self.heals.push(key);
        }
    }

    /// How many keys wait that nobody waits for.
    pub(super) fn heals(&self) -> usize {
        self.heals.queued.len()
    }

    /// A frame was sent, with these copies in it, of which the peer will say that it took it in.
    pub(super) fn sent(&mut self, number: u64, copies: Vec<Sent>) {
        let waited = 0;
        self.flight = Some(Flight {
            number,
            copies,
            waited,
        });
    }

    /// Whether others may wait until this part sends or passes; from now on they need not.
    pub(super) fn was_expected(&mut self) -> bool {
        std::mem::take(&mut self.expected)
    }

    /// The peer took that frame in: the copies in it, if it is the one on its way.
    pub(super) fn arrived(&mut self, number: u64) -> Vec<Sent> {
        self.expected = true;
        let flight = self.flight.take_if(|flight| flight.number == number);
        flight.map(|flight| flight.copies).unwrap_or_default()
    }

    /// This node took a frame of the peer in.
    pub(super) fn take_in(&mut self, taken: Taken) {
        if self.taken.len() == TAKEN_MAX {
            self.taken.pop_front();
        }
        self.taken.push_back(taken);
    }

    /// The next frame of the peer to say that it was taken in.
    pub(super) fn next_taken(&mut self) -> Option<Taken> {
        self.taken.pop_front()
    }

    /// Time passed: what does not arrive is not waited for for ever. The peer dropped the frame, for want of its view. Whether
    /// that is so now. And a moment with much to say does not leave queues behind that are as large for ever.
    pub(super) fn tick(&mut self) -> bool {
        let given_up = self.flight.take_if(|flight| {
            flight.waited += 1;
            flight.waited >= WAITED_MAX
        });
        if !self.is_waiting() && self.answers.is_empty() {
            *self = Self {
                taken: std::mem::take(&mut self.taken),
                flight: self.flight.take(),
                expected: self.expected,
                ..Self::default()
            };
        }
        given_up.is_some()
    }

    /// The connection is gone, or never was.
    pub(super) fn disconnected(&mut self) {
        self.clear();
        self.flight = None;
    }

    /// The view has changed: whatever was to be said, or was said of copies, is void. What matters is sent again.
    pub(super) fn clear(&mut self) {
        for taken in &mut self.taken {
            taken.copies = Copies::Void;
        }
        if let Some(flight) = &mut self.flight {
            flight.copies.clear();
        }
        self.answers.clear();
        self.answers_bytes = 0;
        self.requests.clear();
        self.asked.clear();
        self.puts.clear();
        self.heals.clear();
    }

    /// Whether there is something to send now; `may_ask`: also what the peer is to say of that it took it in.
    pub(super) fn is_ready(&self, may_ask: bool) -> bool {
        !self.taken.is_empty() || !self.answers.is_empty() || may_ask && self.would_ask()
    }

    /// Whether there is something to ask, and no frame in flight.
    pub(super) fn would_ask(&self) -> bool {
        self.is_waiting() && self.flight.is_none()
    }

    /// Whether there is something to ask when nothing is in flight.
    fn is_waiting(&self) -> bool {
        !self.requests.is_empty() || !self.puts.queued.is_empty() || !self.heals.queued.is_empty()
    }

    /// The next answer to send.
    pub(super) fn next_answer(&mut self) -> Option<Msg> {
        let answer = self.answers.pop_front()?;
        self.answers_bytes -= weight(&answer);
        Some(answer)
    }

    /// The next request to send.
    pub(super) fn next_request(&mut self) -> Option<Msg> {
        let msg = self.requests.pop_front()?;
        if let Some(ask) = Ask::of(&msg) {
            self.asked.remove(&ask);
        }
        Some(msg)
    }

    /// Whether there is a key whose state is to be sent.
    pub(super) fn has_puts(&self) -> bool {
        !self.puts.queued.is_empty()
    }

    /// The next ones.
    pub(super) fn puts_ahead(&self) -> impl Iterator<Item = KeyRef<'_>> {
        self.puts.order.iter().map(Key::borrowed)
    }

    /// The next one.
    pub(super) fn next_put(&mut self) -> Option<Key> {
        self.puts.pop()
    }

    /// The next ones that nobody waits for, and some that were taken out.
    pub(super) fn heals_ahead(&self) -> impl Iterator<Item = KeyRef<'_>> {
        self.heals.order.iter().map(Key::borrowed)
    }

    /// The next one that nobody waits for.
    pub(super) fn next_heal(&mut self) -> Option<Key> {
        self.heals.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::shard::Request;
    use crate::protocol::types::{Kind, RequestId};

    fn put(name: &str) -> Sent {
        (Key::new(Kind(1), name), (false, Epoch(1), 1))
    }

    #[test]
    fn only_the_frame_on_its_way_arrives() {
        let mut outbox = Outbox::default();
        outbox.sent(1, vec![put("a")]);
        assert!((1..WAITED_MAX).all(|_| !outbox.tick()));
        assert!(outbox.tick());
        assert!(!outbox.tick());
        outbox.sent(2, vec![put("b")]);
        assert_eq!(outbox.arrived(1), []);
        assert_eq!(outbox.arrived(2), [put("b")]);
        assert_eq!(outbox.arrived(2), []);
    }

    #[test]
    fn what_a_client_waits_for_goes_before_what_heals() {
        let key = |name: &str| Key::new(Kind(1), name);
        let mut outbox = Outbox::default();
        for name in ["a", "b", "c"] {
            outbox.copy(&key(name), false);
        }
        outbox.copy(&key("b"), true);
        outbox.copy(&key("b"), false);
        outbox.copy(&key("d"), true);
        let put = |outbox: &mut Outbox| outbox.next_put();
        let heal = |outbox: &mut Outbox| outbox.next_heal();
        assert_eq!(put(&mut outbox), Some(key("b")));
        assert_eq!(heal(&mut outbox), Some(key("a")));
        assert_eq!(put(&mut outbox), Some(key("d")));
        assert_eq!(heal(&mut outbox), Some(key("c")));
        assert!(!outbox.is_ready(true));
        assert_eq!((put(&mut outbox), heal(&mut outbox)), (None, None));
    }

    #[test]
    fn a_request_that_is_tried_again_while_it_waits_is_queued_once_more_and_not_oftener() {
        let mut outbox = Outbox::default();
        let forward = |again| Msg::Forward {
            key: Key::new(Kind(1), "a"),
            token: 7,
            request: Request {
                id: Some(RequestId(1)),
                payload: Default::default(),
                again,
                span: 1,
            },
        };
        for again in [false, true, true] {
            outbox.push(forward(again), 0);
        }
        let queued: Vec<Msg> = std::iter::from_fn(|| outbox.next_request()).collect();
        assert_eq!(queued, [forward(false), forward(true)]);
        outbox.push(forward(true), 0);
        assert_eq!(outbox.next_request(), Some(forward(true)));
    }

    #[test]
    fn a_queue_that_was_long_gives_its_memory_back_when_nothing_waits() {
        let mut outbox = Outbox::default();
        let key = |number: usize| Key::new(Kind(1), number.to_string());
        (0..1_000).for_each(|number| outbox.copy(&key(number), true));
        outbox.tick();
        assert!(outbox.has_puts());
        while outbox.next_put().is_some() {}
        outbox.sent(1, vec![put("a")]);
        outbox.tick();
        assert_eq!(outbox.puts.queued.capacity(), 0);
        assert_eq!(outbox.puts.order.capacity(), 0);
        assert_eq!(outbox.arrived(1), [put("a")]);
    }

    #[test]
    fn what_was_sent_or_taken_in_under_another_view_counts_for_nothing() {
        let mut outbox = Outbox::default();
        outbox.sent(1, vec![put("a")]);
        let copies = Copies::Kept { but: Vec::new() };
        outbox.take_in(Taken { number: 7, copies });
        outbox.clear();
        assert_eq!(outbox.arrived(1), []);
        assert!(outbox.flight.is_none());
        let copies = Copies::Void;
        assert_eq!(outbox.next_taken(), Some(Taken { number: 7, copies }));
    }
}
