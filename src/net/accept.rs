//! Taking links: the listener, and the acceptor's side of each handshake.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::arbiter;
use super::counters::count;
use super::handshake::{self, Ended, Opening, Refusal, Verdict};
use super::hub::{Hub, Registered};
use super::link::lock;
use super::names::loopback;
use super::{Event, NetConfig};
use crate::error::StartError;

/// The most connections that have not proven themselves yet.
const UNPROVEN_MAX: usize = 64;
/// How long a handshake may take in all.
const HANDSHAKE_MAX: Duration = Duration::from_secs(3);
/// The pause when the system has no connection to give, as with too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Binds the listener: the given address, or the best port of our range.
///
/// Without an address it is the port that this name had before, then one that no other name had, then any.
pub(super) async fn bind(config: &NetConfig) -> Result<TcpListener, StartError> {
    if let Some(addr) = config.listen {
        let failed = |source| StartError::Listen {
            addr: addr.to_string(),
            source,
        };
        return TcpListener::bind(addr).await.map_err(failed);
    }
    let before = config
        .before
        .filter(|addr| addr.ip().is_loopback())
        .map(|addr| addr.port());
    let before = before.filter(|port| config.ports.contains(port));
    let (taken, free): (Vec<u16>, Vec<u16>) = config
        .ports
        .clone()
        .partition(|port| config.avoid.contains(port));
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for port in before.into_iter().chain(free).chain(taken) {
        match TcpListener::bind(loopback(port)).await {
            Ok(listener) => return Ok(listener),
            Err(e) => last = e,
        }
    }
    let addr = format!(
        "127.0.0.1, ports {} to {}",
        config.ports.start(),
        config.ports.end()
    );
    Err(StartError::Listen { addr, source: last })
}

/// The connections that have not proven themselves yet, the oldest first.
///
/// Where there are too many, the oldest has to go: an honest handshake takes milliseconds, so that clients who stay
/// silent push each other out, and nobody else.
#[derive(Default)]
struct Unproven {
    next: u64,
    tasks: BTreeMap<u64, AbortHandle>,
}

/// Accepts until it is aborted.
pub(super) async fn run(hub: Arc<Hub>, listener: TcpListener) {
    let unproven = Arc::new(Mutex::new(Unproven::default()));
    loop {
        let (stream, addr) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        count(&hub.tally.accepted);
        let mut waiting = lock(&unproven);
        if waiting.tasks.len() >= UNPROVEN_MAX
            && let Some((_, oldest)) = waiting.tasks.pop_first()
        {
            oldest.abort();
            count(&hub.tally.crowded);
            if let Some(suppressed) = hub.refusals.strangers.pass() {
                tracing::warn!(
                    suppressed,
                    "too many handshakes at a time: the oldest is given up"
                );
            }
        }
        waiting.next += 1;
        let place = Place {
            number: waiting.next,
            unproven: Arc::clone(&unproven),
        };
        let number = place.number;
        let task = tokio::spawn(handshake_within_time(Arc::clone(&hub), stream, addr, place));
        // The task cannot have left its place before it is there: it needs the lock for that.
        waiting.tasks.insert(number, task.abort_handle());
    }
}

/// A place among the unproven, left when this is dropped.
struct Place {
    number: u64,
    unproven: Arc<Mutex<Unproven>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.unproven).tasks.remove(&self.number);
    }
}

async fn handshake_within_time(hub: Arc<Hub>, stream: TcpStream, addr: SocketAddr, place: Place) {
    match timeout(HANDSHAKE_MAX, serve(&hub, stream, addr, place)).await {
        Ok(Ok(())) => {}
        Ok(Err(ended)) => hub.log_ended(&ended, &addr.to_string(), false),
        Err(_) => hub.log_ended(
            &Ended::Io(io::ErrorKind::TimedOut.into()),
            &addr.to_string(),
            false,
        ),
    }
}

async fn serve(
    hub: &Arc<Hub>,
    mut stream: TcpStream,
    addr: SocketAddr,
    place: Place,
) -> Result<(), Ended> {
    stream.set_nodelay(true)?;
    let attempt = hub.begin();
    let cookie = &hub.config.cookie;
    let request = match handshake::receive_opening(&mut stream, cookie, &attempt.us).await? {
        Opening::Request(request) => request,
        Opening::Obituary(who) => {
            tracing::info!(node = %attempt.us.member.id, peer = %who, "its process has ended, says its guardian");
            (hub.events)(Event::Died(who));
            return handshake::ready(&mut stream).await;
        }
    };
    drop(place);
    let peer = &request.peer.member.id;
    let verdict = match hub.admit(&request.peer) {
        Err(refusal) => Verdict::Refuse(refusal),
        Ok(()) => arbiter::verdict(&attempt.us.member.id.name, &peer.name, hub.existing(peer)),
    };
    match handshake::answer(&mut stream, cookie, &request, &verdict).await {
        // Told after both have proven themselves: our own life is over as the peer knows it.
        Err(Ended::Refused(Refusal::Stale(known))) => {
            (hub.events)(Event::Stale { known });
            return Err(Ended::Refused(Refusal::Stale(known)));
        }
        answered => answered?,
    }
    let have = match verdict {
        Verdict::Accept { have } => have,
        Verdict::Refuse(refusal) => return Err(Ended::Refusing(refusal)),
    };
    let decide = |me: &_, existing| arbiter::accept(me, &peer.name, existing, have);
    let pending = match hub.register(&attempt, &request.peer, false, decide) {
        Registered::Taken(pending) => pending,
        Registered::Kept => return handshake::refuse(&mut stream, Refusal::AlreadyConnected).await,
        Registered::Void => return handshake::refuse(&mut stream, Refusal::Busy).await,
    };
    if !hub.settle(&pending.link).await {
        return handshake::refuse(&mut stream, Refusal::Busy).await;
    }
    handshake::ready(&mut stream).await?;
    tracing::debug!(peer = %peer, %addr, "handshake accepted");
    pending.hand_over(stream)?;
    Ok(())
}

impl Hub {
    /// Counts and logs how a handshake ended without a link.
    pub(super) fn log_ended(&self, ended: &Ended, addr: &str, initiated: bool) {
        let (tally, logs) = (&self.tally, &self.refusals);
        let (counter, throttle) = match ended {
            Ended::Io(_) => (&tally.unfinished, &logs.strangers),
            Ended::NotANode(_) => (&tally.not_a_node, &logs.strangers),
            Ended::Refused(refusal) | Ended::Refusing(refusal) => match refusal {
                Refusal::Version(..) => (&tally.refused_version, &logs.version),
                Refusal::Cookie => (&tally.refused_cookie, &logs.cookie),
                Refusal::Myself | Refusal::NameInUse | Refusal::WrongName(_) => {
                    (&tally.refused_name, &logs.name)
                }
                Refusal::Stale(_) => (&tally.refused_stale, &logs.stale),
                Refusal::AlreadyConnected | Refusal::Busy => {
                    (&tally.refused_duplicate, &logs.strangers)
                }
                Refusal::Malformed => (&tally.not_a_node, &logs.strangers),
            },
        };
        count(counter);
        let quiet = matches!(ended, Ended::Io(_))
            || matches!(
                ended,
                Ended::Refused(Refusal::AlreadyConnected)
                    | Ended::Refusing(Refusal::AlreadyConnected)
            );
        if quiet {
            tracing::debug!(peer = %addr, initiated, reason = %ended, "handshake not finished");
        } else if let Some(suppressed) = throttle.pass() {
            tracing::warn!(node = %self.me().id, peer = %addr, initiated, suppressed, reason = %ended, "no link");
        }
    }
}
