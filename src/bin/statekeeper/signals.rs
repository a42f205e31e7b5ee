//! The signals that the program heeds.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a shell that fell to a signal returns: 128 and the signal's number.
const KILLED: i32 = 128;

/// SIGINT, SIGTERM and SIGHUP, which do not end the process as long as this exists.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// Heeds them from now on; earlier ones are forgotten.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next of them. Can be given up and called again.
    pub(crate) async fn any(&mut self) -> Received {
        tokio::select! {
            _ = self.interrupt.recv() => Received::Interrupt,
            _ = self.terminate.recv() => Received::Terminate,
            _ = self.hangup.recv() => Received::Hangup,
        }
    }
}

/// What was received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Received {
    /// Somebody pressed Ctrl-C (and the line editor did not take it), or sent that signal.
    Interrupt,
    /// Somebody wants the process to end.
    Terminate,
    /// The terminal is gone.
    Hangup,
}

impl Received {
    /// The exit code of a process that ends at once because of it.
    pub(crate) fn code(self) -> i32 {
        let kind = match self {
            Self::Interrupt => SignalKind::interrupt(),
            Self::Terminate => SignalKind::terminate(),
            Self::Hangup => SignalKind::hangup(),
        };
        KILLED + kind.as_raw_value()
    }
}
