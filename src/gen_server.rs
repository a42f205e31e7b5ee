//! What a user implements: a server in the sense of Erlang's `gen_server`, whose state survives its node.

use std::future::Future;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::supervisor::Restart;

/// A kind of actor. Each key names one actor of that kind in the whole cluster.
///
/// Calls of one actor are handled one after the other. What [`handle_call`](Self::handle_call) leaves in the
/// state is backed up on other nodes before the caller gets the reply. A panic ends the actor: its caller gets
/// [`CallError::Crashed`](crate::CallError::Crashed), the supervisor starts the actor again with the state of
/// its last backup, and nobody else notices.
///
/// The same types must be registered on every node, since an actor may come back on any of them.
pub trait GenServer: Send + Sync + 'static {
    /// Names the kind on the wire; must be the same on every node, and unique among the registered kinds.
    const NAME: &'static str;

    /// What is backed up. It must survive being serialized and deserialized unchanged.
    type State: Serialize + DeserializeOwned + Send + 'static;
    /// A request.
    type Call: Serialize + DeserializeOwned + Send + 'static;
    /// The answer to a request.
    type Reply: Serialize + DeserializeOwned + Send + 'static;

    /// The state of an actor that was never called before.
    fn init(&self, key: &str) -> Self::State;

    /// Handles one call. When the state is the same as before, byte for byte, nothing is written.
    ///
    /// It may run in the task of who called, and should neither compute long nor block its thread (see
    /// [`NodeBuilder::register`](crate::NodeBuilder::register)).
    ///
    /// Whatever it does besides changing the state may happen more than once: a crash or the loss of the node
    /// before the backup makes the caller (or its retry) start over from the last backup.
    fn handle_call(
        &self,
        key: &str,
        call: Self::Call,
        state: &mut Self::State,
    ) -> impl Future<Output = Self::Reply> + Send;

    /// When and how often a crashed actor of this kind is started again.
    fn restart(&self) -> Restart {
        Restart::default()
    }
}
