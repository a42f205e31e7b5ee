//! What the tests with real processes share: nodes of the built program, each a process of its own, in a sandbox
//! that no other test and no user's node sees.
//!
//! ```text
//!   Cluster ──► Node ──► a process: lines in, lines out, the log to a file
//!      ▲          └────► Sandbox: HOME, runtime directory, a loopback address of its own
//!   Load: one client per node, and a ledger of what each was answered
//! ```

pub(crate) mod cluster;
pub(crate) mod load;
pub(crate) mod namespaces;
pub(crate) mod node;
pub(crate) mod sandbox;

use std::thread;
use std::time::{Duration, Instant};

/// How long anything is waited for: far more than it takes, since the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// How often a condition is looked at that nobody announces.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until `condition` holds; fails with `what` if it never does.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::sleep(LOOK_EVERY);
    }
}

/// Waits until `look` finds something; fails with `what` if it never does.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    wait_until(what, || {
        found = look();
        found.is_some()
    });
    found.expect("it was just found")
}
