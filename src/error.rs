//! What can go wrong, one enum per operation. Every text says what to do next.

use std::io;
use std::path::PathBuf;

use crate::protocol::members::Failure;
use crate::protocol::types::NodeName;

/// Why a node could not start. Nothing was left behind.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The node's name is not `NAME` or `NAME@HOST`.
    #[error("'{name}' is not a node name: {reason}")]
    Name {
        /// The name as given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A running node of this user on this machine has that name.
    #[error(
        "a node called {name} already runs here (process {pid}); choose another name, or stop it first"
    )]
    NameInUse {
        /// The name.
        name: NodeName,
        /// The process that has it.
        pid: u32,
    },
    /// The address is taken, or not ours.
    #[error("cannot listen on {addr}: {source}; choose another address with --listen ADDR:PORT")]
    Listen {
        /// The address.
        addr: String,
        /// What the operating system says.
        source: io::Error,
    },
    /// The cookie file cannot be used.
    #[error("cookie file {}: {reason}", path.display())]
    Cookie {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// The timings contradict each other.
    #[error("timings: {0}")]
    Timings(&'static str),
    /// Too few or too many backups.
    #[error("an actor has 1 to {0} backups; give another number with --backups")]
    Backups(usize),
    /// Too few bytes may wait for the largest call to be carried.
    #[error("at least {0} bytes must be able to wait; give more with --waiting-bytes")]
    Waiting(usize),
    /// Two server types have the same name, or names with the same hash.
    #[error("server type {0} is registered twice, or its name collides with another's; rename it")]
    Registered(&'static str),
    /// The runtime directory or an actor of the node could not be made.
    #[error("cannot start: {0}")]
    Other(String),
}

/// Why a node could not be connected. Both sides go on as before.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not a node name, or no node of that name is known on this machine.
    #[error("{0}")]
    Address(String),
    /// The node itself.
    #[error("this is {0} itself; name another node")]
    Myself(NodeName),
    /// Nobody answers, or somebody that is no node.
    #[error("cannot reach {peer}: {reason}")]
    Unreachable {
        /// Who was asked for.
        peer: String,
        /// Why not, and what to do.
        reason: String,
    },
    /// The two do not have the same cookie.
    #[error("{peer} refused the cookie: give both nodes the same cookie file")]
    Cookie {
        /// Who was asked for.
        peer: String,
    },
    /// The cluster did not take it.
    #[error(transparent)]
    Refused(#[from] Failure),
    /// The node has stopped.
    #[error("this node has stopped")]
    Stopped,
}

/// Why a call has no reply. Only [`CallError::Unknown`] and [`CallError::Lost`] leave open whether it was carried
/// out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// This node is in no cluster, so that nothing could be backed up. Not carried out.
    #[error("this node is alone: 'connect' it to another node first, a backup needs two")]
    Alone,
    /// Too few members answer. Not carried out.
    #[error("suspended: waiting for {}", waiting_for(.0))]
    Suspended(Vec<NodeName>),
    /// More nodes vanished at once than the backups survive, and nobody has accepted that yet. Not carried out.
    #[error("refused, something may be lost with {}: 'accept_loss' goes on without it", names(.0))]
    PossibleLoss(Vec<NodeName>),
    /// This node leaves or has left. Not carried out; ask another node.
    #[error("this node is leaving; ask another node")]
    Leaving,
    /// The actor crashed while it handled the call. Its state is that of before the call.
    #[error("{0}")]
    Crashed(Crash),
    /// No reply came in time. It may have been carried out, or not: a retry with the same request id is safe.
    #[error(
        "no answer within {timeout_ms} ms: the outcome is unknown; ask again, with the same request id to be safe"
    )]
    Unknown {
        /// How long it was waited for.
        timeout_ms: u64,
    },
    /// The node that had it went away or forgot it before it answered. It may have been carried out, or not.
    #[error(
        "the answer got lost: the outcome is unknown; ask again, with the same request id to be safe"
    )]
    Lost,
    /// Too many requests wait already. Not carried out.
    #[error("overloaded, try again: too many requests wait on this node")]
    Overloaded,
    /// The key is empty, longer than 255 bytes, or has control characters. Not carried out.
    #[error("bad name: {0}")]
    Key(&'static str),
    /// The owner's node has no such server type. Not carried out.
    #[error("the server type is not registered on {0}; register the same types on every node")]
    NoSuchType(NodeName),
    /// The call or its reply cannot be encoded or decoded, or is larger than a frame. The state did not change.
    #[error("cannot be carried: {0}")]
    Codec(String),
}

fn names(nodes: &[NodeName]) -> String {
    let names: Vec<&str> = nodes.iter().map(NodeName::short).collect();
    names.join(", ")
}

/// Whom a suspended node waits for, and what to do about it.
fn waiting_for(lacking: &[NodeName]) -> String {
    let names: Vec<&str> = lacking.iter().map(NodeName::short).collect();
    match names.as_slice() {
        [] => "a majority to answer: try again".to_owned(),
        [one] => format!("{one}: restart it, or 'forget {one}' if it is gone for good"),
        [one, ..] => {
            format!(
                "{}: restart them, or 'forget {one}' and so on if they are gone for good",
                names.join(", ")
            )
        }
    }
}

/// The report of a crash, as a supervisor prints it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, thiserror::Error)]
#[error("{kind} '{key}' on {node} crashed: {reason}")]
pub struct Crash {
    /// The server type.
    pub kind: String,
    /// The actor's key.
    pub key: String,
    /// Where it ran.
    pub node: String,
    /// The panic's message, and where in the source it came from.
    pub reason: String,
}
