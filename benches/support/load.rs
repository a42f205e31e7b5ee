//! Clients in closed loop, and the lines in which a process of the bench is asked for them.
//!
//! ```text
//!   measure PATH IN_FLIGHT MILLISECONDS  ->  sample COUNT UNCOUNTED ELAPSED_US P50 P99 P999
//!   check                                ->  right, or wrong REASON
//!   allocations                          ->  how many there were so far, or -
//! ```
//!
//! Latencies are in microseconds. UNCOUNTED are the rewards that were answered before or after the measured time.

use std::fmt;
use std::io::BufRead;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{Notify, mpsc};

use super::{Failed, Res};

/// How many players each path has.
pub(crate) const PLAYERS: usize = 10_000;
/// How long the clients ask before it counts.
const WARM_UP: Duration = Duration::from_millis(300);
const HISTOGRAMS: usize = 16;
/// The longest latency that is told from a longer one.
const LATENCY_MAX_US: u64 = 60_000_000;

/// What a measurement came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) count: u64,
    pub(crate) uncounted: u64,
    pub(crate) elapsed_us: u64,
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
}

impl Sample {
    /// All rewards that the processes spent time and bytes on.
    pub(crate) fn all(&self) -> f64 {
        (self.count + self.uncounted) as f64
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            count,
            uncounted,
            elapsed_us,
            p50,
            p99,
            p999,
        } = self;
        write!(
            f,
            "sample {count} {uncounted} {elapsed_us} {p50} {p99} {p999}"
        )
    }
}

impl FromStr for Sample {
    type Err = Failed;

    fn from_str(line: &str) -> Res<Self> {
        let numbers: Vec<u64> = line
            .strip_prefix("sample ")
            .ok_or_else(|| format!("no sample: {line}"))?
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        let [count, uncounted, elapsed_us, p50, p99, p999] = numbers[..] else {
            return Err(format!("no sample: {line}").into());
        };
        Ok(Self {
            count,
            uncounted,
            elapsed_us,
            p50,
            p99,
            p999,
        })
    }
}

/// Asks one player, and takes note of what it was given. One value for all clients of a path, so that asking costs
/// them nothing but the request.
pub(crate) trait Give: Send + Sync + 'static {
    /// Asks the player of that number.
    fn give(&self, at: usize) -> impl Future<Output = Res<()>> + Send;
}

/// `in_flight` clients ask players at random. What is answered while `wait` runs counts: it starts when all clients are
/// there, and have asked for a while.
pub(crate) async fn closed_loop(
    in_flight: usize,
    wait: Duration,
    give: Arc<impl Give>,
) -> Res<Sample> {
    let clock = Arc::new(Clock::new()?);
    let clients: Vec<_> = (0..in_flight)
        .map(|client| tokio::spawn(one(client, clock.clone(), give.clone())))
        .collect();
    clock.enter(WARMING);
    tokio::time::sleep(WARM_UP).await;
    let start = Instant::now();
    clock.enter(COUNTING);
    tokio::time::sleep(wait).await;
    clock.enter(OVER);
    let elapsed = start.elapsed();
    let mut uncounted = 0;
    for client in clients {
        uncounted += client.await??;
    }
    let latency = clock.sum()?;
    Ok(Sample {
        count: latency.len(),
        uncounted,
        elapsed_us: u64::try_from(elapsed.as_micros())?,
        p50: latency.value_at_quantile(0.5),
        p99: latency.value_at_quantile(0.99),
        p999: latency.value_at_quantile(0.999),
    })
}

const WAITING: u8 = 0;
const WARMING: u8 = 1;
const COUNTING: u8 = 2;
const OVER: u8 = 3;

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The number of this thread among those that clients run on.
    static THREAD: usize = THREADS.fetch_add(1, Ordering::Relaxed);
}

/// What the clients share: where in the measurement they are, and what they measured.
struct Clock {
    phase: AtomicU8,
    go: Notify,
    /// One for each thread, or few: with one for each client, of 140 KiB, they would spend the measured time on those.
    latencies: Vec<Mutex<Histogram<u64>>>,
}

impl Clock {
    fn new() -> Res<Self> {
        let histogram = || Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).map(Mutex::new);
        Ok(Self {
            phase: AtomicU8::new(WAITING),
            go: Notify::new(),
            latencies: (0..HISTOGRAMS)
                .map(|_| histogram())
                .collect::<Result<_, _>>()?,
        })
    }

    fn enter(&self, phase: u8) {
        self.phase.store(phase, Ordering::Release);
        self.go.notify_waiters();
    }

    fn phase(&self) -> u8 {
        self.phase.load(Ordering::Acquire)
    }

    async fn started(&self) {
        let go = self.go.notified();
        if self.phase() == WAITING {
            go.await;
        }
    }

    fn sum(&self) -> Res<Histogram<u64>> {
        let mut sum = Histogram::new_with_bounds(1, LATENCY_MAX_US, 3)?;
        for latency in &self.latencies {
            sum.add(&*latency.lock().expect("no client panicked"))?;
        }
        Ok(sum)
    }
}

/// One client; how many of its answers came before or after the measured time.
async fn one(client: usize, clock: Arc<Clock>, give: Arc<impl Give>) -> Res<u64> {
    let mut dice = SmallRng::seed_from_u64(client as u64);
    let mut uncounted = 0;
    clock.started().await;
    let mut asked = Instant::now();
    while clock.phase() != OVER {
        give.give(dice.random_range(0..PLAYERS)).await?;
        let answered = Instant::now();
        if clock.phase() == COUNTING {
            let us = u64::try_from((answered - asked).as_micros()).unwrap_or(u64::MAX);
            let latency = &clock.latencies[THREAD.with(|thread| *thread) % HISTOGRAMS];
            let mut latency = latency.lock().expect("no client panicked");
            latency.saturating_record(us.max(1));
        } else {
            uncounted += 1;
        }
        asked = answered;
    }
    Ok(uncounted)
}

/// The lines of standard input, until it ends.
pub(crate) fn lines() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// `PATH IN_FLIGHT MILLISECONDS`.
pub(crate) fn order(line: &str) -> Res<(&str, usize, Duration)> {
    let words: Vec<&str> = line.split(' ').collect();
    let ["measure", path, in_flight, ms] = words[..] else {
        return Err(format!("not understood: {line}").into());
    };
    Ok((path, in_flight.parse()?, Duration::from_millis(ms.parse()?)))
}
