//! The clients of this node that wait for an answer from one part. A call costs no timer: what waits is bounded, so
//! that the part looks through all of it from time to time.

use slab::Slab;
use tokio::sync::oneshot;

use crate::protocol::shard::{Answer, Located};
use crate::protocol::types::Key;

/// Where an answer goes.
pub(crate) enum Port {
    /// To who called an actor.
    Call(oneshot::Sender<Answer>),
    /// To who asked where an actor is.
    Locate(oneshot::Sender<Result<Option<Located>, Answer>>),
}

/// Why a call cannot wait here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refused {
    /// Too many do.
    Full,
    /// The part has ended.
    Closed,
}

/// What there is for who called an actor.
pub(crate) enum Waiting {
    /// The answer.
    Answered(Answer),
    /// A place to wait for it.
    Later(oneshot::Receiver<Answer>),
}

/// Who waits for the answer to a request.
pub(crate) enum Caller {
    /// One that waits for a player: its name in the part's [`Calls`].
    Named(u64),
    /// One that nobody has named.
    New(oneshot::Sender<Answer>),
}

/// In the serial numbers of the driver's calls, and of no others.
const DRIVERS: u32 = 1 << 31;

/// Those who wait. Dropping their ports tells them that the outcome is unknown. How many there may be is the matter of
/// [`Load`](super::load::Load).
pub(crate) struct Calls {
    calls: Slab<Call>,
    /// How many there were; a token is used once.
    serial: u32,
    /// The part's clock, which may begin again: no call waits that long.
    tick: u32,
    closed: bool,
}

/// In one line of memory.
struct Call {
    serial: u32,
    since: u32,
    /// What to give up with it; none if the actor itself has the request.
    key: Option<Key>,
    port: Port,
}

impl Calls {
    /// Those that wait for a player, or for the part's driver: no call of the ones has the name of one of the others.
    pub(crate) fn new(of_driver: bool) -> Self {
        Self {
            calls: Slab::new(),
            serial: if of_driver { DRIVERS } else { 0 },
            tick: 0,
            closed: false,
        }
    }

    /// Whether the driver's have the call of that name.
    pub(crate) fn is_of_driver(token: u64) -> bool {
        token >> 32 & u64::from(DRIVERS) != 0
    }

    /// Adds one that waits, and gives it its name; none if the part has ended.
    pub(crate) fn add(&mut self, key: Option<Key>, port: Port) -> Option<u64> {
        if self.closed {
            return None;
        }
        let count = self.serial.wrapping_add(1) & !DRIVERS;
        self.serial = self.serial & DRIVERS | count;
        let (serial, since) = (self.serial, self.tick);
        let place = self.calls.insert(Call {
            serial,
            since,
            key,
            port,
        });
        Some(token_of(serial, place))
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }

    /// The part has the request now: it is to be given up with the call. False if nobody waits for it any more.
    pub(crate) fn adopt(&mut self, token: u64, key: &Key) -> bool {
        let call = self.get_mut(token);
        if let Some(call) = call {
            call.key = Some(key.clone());
            return true;
        }
        false
    }

    /// Takes one out, if it still waits.
    pub(crate) fn take(&mut self, token: u64) -> Option<Port> {
        self.get_mut(token)?;
        Some(self.calls.remove(place_of(token)).port)
    }

    /// One tick of the part's clock has passed: takes out those that have waited for more than `patience` ticks, and
    /// returns what to give up.
    pub(crate) fn tick(&mut self, patience: u32) -> Vec<(u64, Key)> {
        let mut late = Vec::new();
        self.tick = self.tick.wrapping_add(1);
        let now = self.tick;
        self.calls.retain(|place, call| {
            let waits = now.wrapping_sub(call.since) <= patience;
            if !waits && let Some(key) = call.key.take() {
                late.push((token_of(call.serial, place), key));
            }
            waits
        });
        late
    }

    /// Nobody will answer any more.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.calls = Slab::new();
    }

    fn get_mut(&mut self, token: u64) -> Option<&mut Call> {
        let call = self.calls.get_mut(place_of(token))?;
        (u64::from(call.serial) == token >> 32).then_some(call)
    }
}

/// The name of a call.
fn token_of(serial: u32, place: usize) -> u64 {
    u64::from(serial) << 32 | place as u64
}

/// Where the call of that name is, if it still is.
fn place_of(token: u64) -> usize {
    (token & u64::from(u32::MAX)) as usize
}

impl Port {
    /// Reads what the thread that waits used last, so that [`answer`](Self::answer) finds it near: many of these reads at
    /// once cost little more than one (see [`Shard::prefetch`](crate::protocol::shard::Shard::prefetch)).
    pub(crate) fn prefetch(&self) {
        if let Self::Call(port) = self {
            std::hint::black_box(port.is_closed());
        }
    }

    pub(crate) fn answer(self, answer: Answer) {
        // Whoever gave up does not listen.
        match self {
            Self::Call(port) => drop(port.send(answer)),
            Self::Locate(port) => drop(port.send(Err(answer))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::types::Kind;

    fn port() -> (Port, oneshot::Receiver<Answer>) {
        let (port, answer) = oneshot::channel();
        (Port::Call(port), answer)
    }

    #[test]
    fn an_answer_goes_to_who_asked_and_to_nobody_who_came_after() {
        let mut calls = Calls::new(false);
        let answer = |calls: &mut Calls, token, answer| {
            let port = calls.take(token);
            port.map(|port| port.answer(answer)).is_some()
        };
        let (first, mut to_first) = port();
        let token = calls.add(None, first).expect("room");
        assert!(answer(&mut calls, token, Answer::Overloaded));
        assert_eq!(to_first.try_recv(), Ok(Answer::Overloaded));
        let (second, mut to_second) = port();
        let other = calls.add(None, second).expect("room");
        assert!(!answer(&mut calls, token, Answer::Overloaded));
        assert!(to_second.try_recv().is_err());
        assert!(answer(&mut calls, other, Answer::Leaving));
        assert_eq!(to_second.try_recv(), Ok(Answer::Leaving));
    }

    #[test]
    fn nobody_waits_where_the_part_has_ended() {
        let mut calls = Calls::new(false);
        let (port_of_part, mut answer) = port();
        assert!(calls.add(None, port_of_part).is_some());
        calls.close();
        assert!(calls.add(None, port().0).is_none());
        assert_eq!(answer.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }

    #[test]
    fn a_call_is_in_one_line_of_memory() {
        assert_eq!(size_of::<Call>(), 64);
    }

    #[test]
    fn no_call_of_the_driver_has_the_name_of_another() {
        for of_driver in [false, true] {
            let mut calls = Calls::new(of_driver);
            // Also when all numbers were used.
            for serial in [calls.serial, calls.serial | !DRIVERS] {
                calls.serial = serial;
                let token = calls.add(None, port().0).expect("it is open");
                assert_eq!(Calls::is_of_driver(token), of_driver);
                assert!(calls.take(token).is_some());
            }
        }
    }

    #[test]
    fn who_has_waited_too_long_is_let_go_with_what_it_asked_for() {
        let mut calls = Calls::new(true);
        let key = Key::new(Kind(1), "a");
        let (port_of_part, mut late) = port();
        let token = calls.add(Some(key.clone()), port_of_part).expect("room");
        let (port_of_actor, mut late_too) = port();
        calls.add(None, port_of_actor).expect("room");
        let (port_of_both, _late) = port();
        let adopted = calls.add(None, port_of_both).expect("room");
        assert!(calls.adopt(adopted, &key));
        assert_eq!(calls.tick(1), []);
        assert_eq!(
            calls.tick(1),
            [(token, key.clone()), (adopted, key.clone())]
        );
        assert!(!calls.adopt(adopted, &key));
        assert_eq!(late.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(
            late_too.try_recv(),
            Err(oneshot::error::TryRecvError::Closed)
        );
    }
}
