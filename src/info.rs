//! What a node tells about itself and its actors.

use crate::protocol::members::Status;
use crate::protocol::types::{ClusterId, Epoch, NodeName};

/// The cluster as one node sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ViewInfo {
    /// The line of views.
    pub cluster: ClusterId,
    /// The view's number in it.
    pub epoch: Epoch,
    /// All members, sorted by name.
    pub members: Vec<NodeName>,
    /// Those of them that are leaving.
    pub leaving: Vec<NodeName>,
    /// What this node is doing.
    pub status: Status,
    /// Members that this node lacks when it is suspended.
    pub waiting_for: Vec<NodeName>,
    /// Losses of more nodes than there are backups: the epoch, and who vanished. What they alone held is lost.
    pub possible_loss: Vec<(Epoch, Vec<NodeName>)>,
}

/// Where an actor and its copies are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whereis {
    /// The node of the actor; none when it is at rest in its keepers.
    pub node: Option<NodeName>,
    /// The nodes of its keepers.
    pub keepers: Vec<NodeName>,
    /// How often its state was written.
    pub version: u64,
}

/// An actor on this node.
#[derive(Clone, Debug)]
pub struct LocalServer<S> {
    /// Its key.
    pub key: String,
    /// Its state as last handed to its keepers.
    pub state: S,
    /// The nodes of its keepers.
    pub keepers: Vec<NodeName>,
    /// How often its state was written.
    pub version: u64,
}
