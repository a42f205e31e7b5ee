//! What a node is told at its start: its name, where it listens, whom it trusts, and its timings.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::StartError;

pub use crate::protocol::members::{OnPossibleLoss, Timings};

/// The first and the last port that a node takes by itself; the first is also the port that other machines
/// are expected to listen on.
pub const PORTS: std::ops::RangeInclusive<u16> = 21_500..=21_999;

/// What a node is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// `NAME` or `NAME@HOST`; the host defaults to the machine's short host name.
    pub name: String,
    /// Where to listen; loopback and the first free port of [`PORTS`] if not given.
    pub listen: Option<SocketAddr>,
    /// The file of the shared secret; `~/.statekeeper.cookie` if not given, made at the first start.
    pub cookie_file: Option<PathBuf>,
    /// How to run this node's guardian: a program, which calls [`guardian::watch`](crate::guardian::watch), and its
    /// arguments. None: after a crash of this process the others wait until its lease has run out.
    pub guardian: Option<Vec<OsString>>,
    /// How many backups each actor has, each on another node: 1 to 7.
    pub backups: usize,
    /// Heartbeat, lease, suspicion and the like.
    pub timings: Timings,
    /// What the survivors do when more nodes vanished at once than the backups survive. The same on all nodes.
    pub on_possible_loss: OnPossibleLoss,
    /// How long a call waits for its reply until its outcome is unknown.
    pub call_timeout: Duration,
    /// An actor that nobody has asked for that long goes to rest: it ends, its records stay, and the next request, on any
    /// node, brings it back. Zero: none ever does.
    pub idle: Duration,
    /// The most requests that wait on this node, give or take one for each of its threads; further ones are refused as
    /// overloaded.
    pub waiting_max: usize,
    /// The most bytes of requests, replies and messages that wait on this node, in all its queues together; a request
    /// counts some 0.5 KiB more than its call. Whatever would go beyond is refused as overloaded, whoever asked.
    /// At least [`WAITING_BYTES_MIN`]. What is on its way from or to another node comes on top: up to 32 MiB each.
    pub waiting_bytes_max: usize,
}

/// The least [`Config::waiting_bytes_max`]: in each part of the key space, one largest call and its reply must fit in.
pub const WAITING_BYTES_MIN: usize = 64 * 1024 * 1024;

/// The most backups of one actor.
const BACKUPS_MAX: usize = 7;

impl Config {
    /// The defaults for a node of that name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            listen: None,
            cookie_file: None,
            guardian: None,
            backups: 1,
            timings: Timings::default(),
            on_possible_loss: OnPossibleLoss::default(),
            call_timeout: Duration::from_secs(10),
            idle: Duration::from_secs(600),
            waiting_max: 100_000,
            waiting_bytes_max: 256 * 1024 * 1024,
        }
    }

    /// Whether the parts fit together.
    ///
    /// # Errors
    /// [`StartError::Timings`], [`StartError::Backups`] and [`StartError::Waiting`].
    pub(crate) fn check(&self) -> Result<(), StartError> {
        let t = &self.timings;
        if t.heartbeat.0 == 0 {
            return Err(StartError::Timings("the heartbeat must be at least 1 ms"));
        }
        if t.lease.0 < 3 * t.heartbeat.0 {
            return Err(StartError::Timings(
                "the lease must last at least three heartbeats",
            ));
        }
        // A rate drift of 20 % between two clocks is what the protocol stands.
        if t.promise.0 * 5 < t.lease.0 * 6 {
            return Err(StartError::Timings(
                "the promise must last at least 1.2 times the lease",
            ));
        }
        if t.suspicion < t.lease {
            return Err(StartError::Timings(
                "the suspicion must not come before the lease ends",
            ));
        }
        if !(1..=BACKUPS_MAX).contains(&self.backups) {
            return Err(StartError::Backups(BACKUPS_MAX));
        }
        if self.waiting_bytes_max < WAITING_BYTES_MIN {
            return Err(StartError::Waiting(WAITING_BYTES_MIN));
        }
        Ok(())
    }
}
