//! The clients of this node that wait for an answer from one part. A call costs no timer: what waits is bounded, so
//! that the part looks through all of it from time to time.

use std::sync::{Mutex, MutexGuard};

use slab::Slab;
use tokio::sync::oneshot;

use crate::net::lock;
use crate::protocol::shard::{Answer, Located};
use crate::protocol::types::Key;

/// Where an answer goes.
pub(crate) enum Port {
    /// To who called an actor.
    Call(oneshot::Sender<Answer>),
    /// To who calls an actor, and does not wait yet: see [`Calls::wait`].
    Early(Option<Answer>),
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

/// Those who wait. Dropping their ports tells them that the outcome is unknown.
pub(crate) struct Calls {
    max: usize,
    waiting: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    calls: Slab<Call>,
    /// How many there were; a token is used once.
    serial: u32,
    /// The part's clock.
    tick: u64,
    closed: bool,
}

struct Call {
    serial: u32,
    since: u64,
    /// What to give up with it; none if the actor itself has the request.
    key: Option<Key>,
    port: Port,
}

impl Calls {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            waiting: Mutex::default(),
        }
    }

    /// Adds one that waits, and gives it its name.
    pub(crate) fn add(&self, key: Option<Key>, port: Port) -> Result<u64, Refused> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(Refused::Closed);
        }
        if waiting.calls.len() >= self.max {
            return Err(Refused::Full);
        }
        waiting.serial = waiting.serial.wrapping_add(1);
        let (serial, since) = (waiting.serial, waiting.tick);
        let place = waiting.calls.insert(Call {
            serial,
            since,
            key,
            port,
        });
        Ok(token_of(serial, place))
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.lock().calls.len()
    }

    /// Who has called an actor early now waits, if it must; none if it would wait in vain.
    pub(crate) fn wait(&self, token: u64) -> Option<Waiting> {
        let mut waiting = self.lock();
        let call = waiting.get_mut(token)?;
        if let Port::Early(None) = &call.port {
            let (port, answer) = oneshot::channel();
            call.port = Port::Call(port);
            return Some(Waiting::Later(answer));
        }
        match waiting.take(token)? {
            Port::Early(answer) => answer.map(Waiting::Answered),
            Port::Call(_) | Port::Locate(_) => None,
        }
    }

    /// The part has the request now: it is to be given up with the call. False if nobody waits for it any more.
    pub(crate) fn adopt(&self, token: u64, key: &Key) -> bool {
        let mut waiting = self.lock();
        let call = waiting.get_mut(token);
        if let Some(call) = call {
            call.key = Some(key.clone());
            return true;
        }
        false
    }

    /// Answers one, if it still waits.
    pub(crate) fn answer(&self, token: u64, answer: Answer) {
        let port = self.lock().settle(token, answer);
        if let Some((port, answer)) = port {
            port.answer(answer);
        }
    }

    /// Answers many.
    pub(crate) fn answer_all(&self, answers: &mut Vec<(u64, Answer)>) {
        let mut ports = Vec::with_capacity(answers.len());
        {
            let mut waiting = self.lock();
            let settled = answers
                .drain(..)
                .filter_map(|(token, answer)| waiting.settle(token, answer));
            ports.extend(settled);
        }
        // Read first, all at once, what was last used by the threads that wait: as `Shard::prefetch`.
        for (port, _) in &ports {
            if let Port::Call(port) = port {
                std::hint::black_box(port.is_closed());
            }
        }
        for (port, answer) in ports {
            port.answer(answer);
        }
    }

    /// Takes out who asked where an actor is.
    pub(crate) fn found(&self, token: u64, found: Option<Located>) {
        if let Some(Port::Locate(port)) = self.lock().take(token) {
            let _ = port.send(Ok(found));
        }
    }

    /// One tick of the part's clock has passed: takes out those that have waited for more than `patience` ticks, and
    /// returns what to give up.
    pub(crate) fn tick(&self, patience: u64) -> Vec<(u64, Key)> {
        let mut late = Vec::new();
        let mut waiting = self.lock();
        waiting.tick += 1;
        let now = waiting.tick;
        waiting.calls.retain(|place, call| {
            let waits = now - call.since <= patience;
            if !waits && let Some(key) = call.key.take() {
                late.push((token_of(call.serial, place), key));
            }
            waits
        });
        late
    }

    /// Nobody will answer any more.
    pub(crate) fn close(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        waiting.calls = Slab::new();
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        lock(&self.waiting)
    }
}

impl Open {
    /// Takes out whom an answer is for, unless that does not wait yet.
    fn settle(&mut self, token: u64, answer: Answer) -> Option<(Port, Answer)> {
        if let Port::Early(early) = &mut self.get_mut(token)?.port {
            *early = Some(answer);
            return None;
        }
        Some((self.take(token)?, answer))
    }

    fn take(&mut self, token: u64) -> Option<Port> {
        self.get_mut(token)?;
        Some(self.calls.remove(place_of(token)).port)
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
    fn answer(self, answer: Answer) {
        // Whoever gave up does not listen.
        match self {
            Self::Call(port) => drop(port.send(answer)),
            // It takes the answer itself.
            Self::Early(_) => {}
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
        let calls = Calls::new(2);
        let (first, mut to_first) = port();
        let token = calls.add(None, first).expect("room");
        calls.answer(token, Answer::Overloaded);
        assert_eq!(to_first.try_recv(), Ok(Answer::Overloaded));
        let (second, mut to_second) = port();
        let other = calls.add(None, second).expect("room");
        calls.answer(token, Answer::Overloaded);
        assert!(to_second.try_recv().is_err());
        calls.answer_all(&mut vec![
            (token, Answer::Unknown),
            (other, Answer::Leaving),
        ]);
        assert_eq!(to_second.try_recv(), Ok(Answer::Leaving));
    }

    #[test]
    fn no_more_wait_than_may() {
        let calls = Calls::new(1);
        assert!(calls.add(None, port().0).is_ok());
        assert_eq!(calls.add(None, port().0), Err(Refused::Full));
        calls.close();
        assert_eq!(calls.add(None, port().0), Err(Refused::Closed));
    }

    #[test]
    fn who_has_waited_too_long_is_let_go_with_what_it_asked_for() {
        let calls = Calls::new(9);
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
