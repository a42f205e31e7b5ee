//! Clients that go on while the cluster changes, and what they saw at any time: answers and the longest wait, per
//! slot of 10 ms. All processes of a bench count from the same time of the machine's clock.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use statekeeper::Node;
use tokio::task::JoinHandle;

use super::Res;
use super::player::{Call, Player, name};

const SLOT_US: u64 = 10_000;
/// Half an hour; what comes later counts in the last slot.
const SLOTS: usize = 180_000;
const HISTOGRAMS: usize = 16;
const LATENCY_MAX_US: u64 = 600_000_000;
/// After a failure a client waits that long.
const PAUSE: Duration = Duration::from_millis(5);

/// The microseconds of the machine's clock.
pub(crate) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    })
}

#[derive(Default)]
struct Slot {
    answers: AtomicU32,
    worst_us: AtomicU32,
}

/// Whom the clients of one node ask.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whom {
    /// The players of this node: from, to.
    pub(crate) own: (usize, usize),
    /// One request in so many is for any player.
    pub(crate) stranger_in: u32,
    pub(crate) all: usize,
}

/// The clients of one node.
pub(crate) struct Timeline {
    start_us: u64,
    stop: AtomicBool,
    slots: Vec<Slot>,
    failed: AtomicU64,
    reason: Mutex<String>,
    latencies: Vec<Mutex<Histogram<u64>>>,
}

/// What came of a window of time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Window {
    pub(crate) answers: u64,
    pub(crate) worst_us: u64,
    /// How long it was: whole slots.
    pub(crate) us: u64,
}

impl Timeline {
    /// Starts the clients.
    pub(crate) fn start(
        node: &Node,
        in_flight: usize,
        whom: Whom,
        start_us: u64,
    ) -> Res<(Arc<Self>, Vec<JoinHandle<()>>)> {
        let histogram = || Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).map(Mutex::new);
        let timeline = Arc::new(Self {
            start_us,
            stop: AtomicBool::new(false),
            slots: (0..SLOTS).map(|_| Slot::default()).collect(),
            failed: AtomicU64::new(0),
            reason: Mutex::default(),
            latencies: (0..HISTOGRAMS)
                .map(|_| histogram())
                .collect::<Result<_, _>>()?,
        });
        let client = |number| tokio::spawn(timeline.clone().client(node.clone(), number, whom));
        let clients = (0..in_flight).map(client).collect();
        Ok((timeline, clients))
    }

    async fn client(self: Arc<Self>, node: Node, number: usize, whom: Whom) {
        let mut dice = SmallRng::seed_from_u64(number as u64);
        let mut asked = now_us();
        while !self.stop.load(Relaxed) {
            let player = if dice.random_ratio(1, whom.stranger_in) {
                dice.random_range(0..whom.all)
            } else {
                dice.random_range(whom.own.0..whom.own.1)
            };
            let answer = node
                .call::<Player>(&name("player", player), Call::Reward(1))
                .await;
            let answered = now_us();
            match answer {
                Ok(_) => self.record(number, answered, answered.saturating_sub(asked)),
                Err(reason) => {
                    self.failed.fetch_add(1, Relaxed);
                    *self.reason.lock().expect("no client panicked") = reason.to_string();
                    tokio::time::sleep(PAUSE).await;
                }
            }
            asked = now_us();
        }
    }

    fn record(&self, client: usize, answered: u64, us: u64) {
        let slot = self.slot(answered);
        self.slots[slot].answers.fetch_add(1, Relaxed);
        let short = u32::try_from(us).unwrap_or(u32::MAX);
        if self.slots[slot].worst_us.load(Relaxed) < short {
            self.slots[slot].worst_us.fetch_max(short, Relaxed);
        }
        let mut latency = self.latencies[client % HISTOGRAMS]
            .lock()
            .expect("no client panicked");
        latency.saturating_record(us.max(1));
    }

    fn slot(&self, at_us: u64) -> usize {
        let slot = at_us.saturating_sub(self.start_us) / SLOT_US;
        usize::try_from(slot).unwrap_or(SLOTS).min(SLOTS - 1)
    }

    /// The clients end, each after its answer.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// How many requests failed, and the last reason.
    pub(crate) fn failed(&self) -> (u64, String) {
        let reason = self.reason.lock().expect("no client panicked");
        (self.failed.load(Relaxed), reason.clone())
    }

    /// What was answered in the slots of that time.
    pub(crate) fn window(&self, from_us: u64, to_us: u64) -> Window {
        let slots = &self.slots[self.slot(from_us)..=self.slot(to_us)];
        slots.iter().fold(Window::default(), |sum, slot| Window {
            answers: sum.answers + u64::from(slot.answers.load(Relaxed)),
            worst_us: sum.worst_us.max(slot.worst_us.load(Relaxed).into()),
            us: sum.us + SLOT_US,
        })
    }

    /// The 50th and the 99th percentile of the latencies since the last time.
    pub(crate) fn latency(&self) -> Res<(u64, u64)> {
        let mut sum = Histogram::new_with_bounds(1, LATENCY_MAX_US, 3)?;
        for latency in &self.latencies {
            let mut latency = latency.lock().expect("no client panicked");
            sum.add(&*latency)?;
            latency.reset();
        }
        Ok((sum.value_at_quantile(0.5), sum.value_at_quantile(0.99)))
    }
}
