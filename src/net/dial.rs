//! Making links: the initiator's side, from the address to `LinkUp`.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::arbiter;
use super::counters::count;
use super::handover::{Pending, same_ends};
use super::handshake::{self, Ended, Refusal};
use super::hub::{Hub, Registered};
use super::link::{Stage, lock};
use super::names;
use crate::protocol::types::{Member, NodeName};

/// The most dials at a time.
const DIALS_MAX: usize = 256;
/// The most addresses of one host name that are tried.
const ADDRESSES_MAX: usize = 4;

/// What a dial comes to, when it has.
type Outcome = Option<Result<Member, DialError>>;

/// The dials under way, by what is expected and where.
pub(super) type Dials = HashMap<(Option<String>, String), watch::Receiver<Outcome>>;

/// Why there is no link. Nothing was left behind; an existing link is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DialError {
    /// Nobody answers there, or the connection broke. Try again.
    #[error("cannot reach {addr}: {reason}")]
    Unreachable {
        /// Where.
        addr: String,
        /// Why not, and what to do.
        reason: String,
    },
    /// The operating system there says that nobody listens.
    #[error("nobody listens at {addr}: start the node there, or check the address")]
    Refused {
        /// Where.
        addr: String,
    },
    /// One of the two refused the other's proof. A retry is of no use.
    #[error("{addr} has another cookie: give both nodes the same cookie file")]
    Cookie {
        /// Where.
        addr: String,
    },
    /// The two speak no common version. A retry is of no use.
    #[error(
        "{addr} speaks another version of the protocol ({min} to {max}): run the same release on both nodes"
    )]
    Version {
        /// Where.
        addr: String,
        /// The first version that the other speaks.
        min: u16,
        /// The last one.
        max: u16,
    },
    /// Somebody answers, but not as a node does. A retry is of no use.
    #[error("what listens at {addr} is no statekeeper node: check the address")]
    NotANode {
        /// Where.
        addr: String,
    },
    /// Another node is there.
    #[error("the node at {addr} is called {found}: ask for that name, or check the address")]
    WrongName {
        /// Where.
        addr: String,
        /// Who is there.
        found: NodeName,
    },
    /// This very process.
    #[error("this is {0} itself; name another node")]
    Myself(NodeName),
    /// The other knows a later life of us: take an incarnation above that one, then dial again.
    #[error(
        "a later life of this node is known there (incarnation {known}): it has to go on as a new one"
    )]
    Stale {
        /// The latest that the other knows.
        known: u64,
    },
    /// We know a later life of the other; it was told. Try again when it has taken a new incarnation.
    #[error(
        "{name} answers with an incarnation that is over ({known} is known): it takes a new one; try again"
    )]
    Outdated {
        /// The other.
        name: NodeName,
        /// The latest that we know.
        known: u64,
    },
    /// Another process, at that address or connected to it, has our name (or the dialled one's).
    #[error(
        "a living node at {addr}, or connected to it, has the same name: start one of the two under another name"
    )]
    NameInUse {
        /// Where.
        addr: String,
    },
    /// One of the two is not ready for it. Try again.
    #[error("{addr} is busy: try again")]
    Busy {
        /// Where.
        addr: String,
    },
    /// No link within the time. It may still come up.
    #[error(
        "no answer from {addr} within {timeout_ms} ms: check the address and the network, or try again"
    )]
    TimedOut {
        /// Where.
        addr: String,
        /// The time.
        timeout_ms: u64,
    },
    /// This node is stopping.
    #[error("this node is stopping")]
    Stopped,
}

/// Dials, or joins a dial to the same place that is under way.
pub(super) async fn dial(
    hub: &Arc<Hub>,
    expect: Option<&str>,
    addr: &str,
) -> Result<Member, DialError> {
    let expected =
        |member: &Member| expect.is_none_or(|expect| names::matches(expect, &member.id.name));
    let full_name = expect.is_some_and(|expect| expect.contains('@'));
    if let Some(member) = hub.up(|member| expected(member) && (full_name || *member.addr == *addr))
    {
        return Ok(member);
    }
    let me = hub.me();
    if full_name && expected(&me) {
        return Err(DialError::Myself(me.id.name));
    }
    let mut outcome = {
        let mut dials = lock(&hub.dials);
        let key = (expect.map(str::to_owned), addr.to_owned());
        match dials.get(&key) {
            Some(outcome) => outcome.clone(),
            None if dials.len() >= DIALS_MAX => {
                return Err(DialError::Busy {
                    addr: addr.to_owned(),
                });
            }
            None => {
                let (done, outcome) = watch::channel(None);
                dials.insert(key.clone(), outcome.clone());
                // A task of its own, so that a caller who gives up does not take the link from the others.
                tokio::spawn(run(Arc::clone(hub), key, done));
                outcome
            }
        }
    };
    match outcome.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(result)) => result.clone(),
        // The dial's task is gone without a word: the runtime is shutting down.
        Ok(None) | Err(_) => Err(DialError::Stopped),
    }
}

async fn run(hub: Arc<Hub>, key: (Option<String>, String), done: watch::Sender<Outcome>) {
    let (expect, addr) = &key;
    let limit = hub.config.dial_timeout;
    let timeout_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    let result = match timeout(limit, connect_and_agree(&hub, expect.as_deref(), addr)).await {
        Ok(result) => result,
        Err(_) => Err(DialError::TimedOut {
            addr: addr.clone(),
            timeout_ms,
        }),
    };
    lock(&hub.dials).remove(&key);
    // Nobody may wait any more.
    let _ = done.send(Some(result));
}

async fn connect_and_agree(
    hub: &Arc<Hub>,
    expect: Option<&str>,
    addr: &str,
) -> Result<Member, DialError> {
    let unreachable = |e: io::Error| match e.kind() {
        io::ErrorKind::ConnectionRefused => DialError::Refused {
            addr: addr.to_owned(),
        },
        _ => DialError::Unreachable {
            addr: addr.to_owned(),
            reason: advice(&e),
        },
    };
    let mut stream = connect(addr).await.map_err(unreachable)?;
    let attempt = hub.begin();
    let proposal =
        match handshake::propose(&mut stream, &hub.config.cookie, &attempt.us, expect).await {
            Ok(proposal) => proposal,
            Err(Ended::Refused(Refusal::AlreadyConnected)) => {
                return other_link(hub, expect, addr).await;
            }
            Err(ended) => return Err(explain(hub, ended, addr)),
        };
    let peer = proposal.peer.member.clone();
    if let Err(refusal) = hub.admit(&proposal.peer) {
        tell(&mut stream, refusal.clone()).await;
        let name = peer.id.name;
        return Err(match &refusal {
            Refusal::Stale(known) => DialError::Outdated {
                name,
                known: *known,
            },
            _ => explain(hub, Ended::Refusing(refusal), addr),
        });
    }
    let decide =
        |me: &NodeName, existing| arbiter::commit(me, &peer.id.name, existing, proposal.have);
    let pending = match hub.register(&attempt, &proposal.peer, true, decide) {
        Registered::Taken(pending) => pending,
        Registered::Kept => {
            tell(&mut stream, Refusal::AlreadyConnected).await;
            count(&hub.tally.refused_duplicate);
            return other_link(hub, Some(peer.id.name.as_str()), addr).await;
        }
        Registered::Void => {
            tell(&mut stream, Refusal::Busy).await;
            return Err(DialError::Busy {
                addr: addr.to_owned(),
            });
        }
    };
    if !hub.settle(&pending.link).await {
        tell(&mut stream, Refusal::Busy).await;
        return Err(DialError::Busy {
            addr: addr.to_owned(),
        });
    }
    let mut stages = pending.link.stages();
    let went = tokio::select! {
        went = handshake::go(&mut stream) => went,
        // The peer's own link took this one's place.
        _ = stages.wait_for(|stage| *stage >= Stage::Closing) => Err(Ended::Refused(Refusal::AlreadyConnected)),
    };
    match went {
        Ok(()) => {}
        // The other side took, or keeps, the link that it initiates itself.
        Err(Ended::Refused(Refusal::AlreadyConnected)) => {
            drop(pending);
            return other_link(hub, Some(peer.id.name.as_str()), addr).await;
        }
        Err(ended) => return Err(explain(hub, ended, addr)),
    }
    open(hub, pending, stream, addr).await
}

/// Hands the stream to ractor, and waits until the link is up.
async fn open(
    hub: &Arc<Hub>,
    pending: Pending,
    stream: TcpStream,
    addr: &str,
) -> Result<Member, DialError> {
    let peer = pending.link.peer.member.clone();
    if let Ok(link) = pending.hand_over(stream)
        && let Ok(stage) = link
            .stages()
            .wait_for(|stage| *stage != Stage::Joining)
            .await
            .map(|stage| *stage)
        && stage == Stage::Up
    {
        return Ok(peer);
    }
    // It was replaced by a link that the peer initiated, or it broke: then this ends with the dial's time.
    other_link(hub, Some(peer.id.name.as_str()), addr).await
}

/// Waits for the link that stays in place of this one.
async fn other_link(hub: &Arc<Hub>, expect: Option<&str>, addr: &str) -> Result<Member, DialError> {
    let mut changes = hub.changes();
    loop {
        let is_it = |member: &Member| match expect {
            Some(expect) => names::matches(expect, &member.id.name),
            None => *member.addr == *addr,
        };
        if let Some(member) = hub.up(is_it) {
            return Ok(member);
        }
        if changes.changed().await.is_err() {
            return Err(DialError::Stopped);
        }
    }
}

async fn tell(stream: &mut TcpStream, refusal: Refusal) {
    // It is refused, whether the other side hears of it or not.
    let _ = handshake::refuse::<_, ()>(stream, refusal).await;
}

async fn connect(addr: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for addr in tokio::net::lookup_host(addr).await?.take(ADDRESSES_MAX) {
        match TcpStream::connect(addr).await {
            Ok(stream) if same_ends(&stream) => last = io::ErrorKind::ConnectionRefused.into(),
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn advice(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe => {
            "it closed the connection; it may be stopping, or have too many connections: try again"
                .to_owned()
        }
        _ => format!("{error}; check the address and the network"),
    }
}

/// Counts, logs, and says what a handshake's end means for who dialled.
fn explain(hub: &Hub, ended: Ended, addr: &str) -> DialError {
    hub.log_ended(&ended, addr, true);
    let addr = addr.to_owned();
    match ended {
        Ended::Io(e) => DialError::Unreachable {
            addr,
            reason: advice(&e),
        },
        Ended::NotANode(_) => DialError::NotANode { addr },
        Ended::Refused(Refusal::Stale(known)) => DialError::Stale { known },
        Ended::Refused(refusal) | Ended::Refusing(refusal) => match refusal {
            Refusal::Version(min, max) => DialError::Version { addr, min, max },
            Refusal::Cookie => DialError::Cookie { addr },
            Refusal::Myself => DialError::Myself(hub.me().id.name),
            Refusal::NameInUse => DialError::NameInUse { addr },
            Refusal::WrongName(found) => DialError::WrongName { addr, found },
            Refusal::Stale(_) | Refusal::AlreadyConnected | Refusal::Busy => {
                DialError::Busy { addr }
            }
            Refusal::Malformed => DialError::NotANode { addr },
        },
    }
}
