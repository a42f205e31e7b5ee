//! What ractor runs for us: the node server, the gateway of the control lane, and the root that watches over them.
//!
//! ```text
//!   root ── NodeServer ── one session per link ── a shadow of the peer's gateway
//!     └──── gateway                              (the only remotable actor of the process)
//! ```
//! None of them is restarted: peers hold references to this very gateway, and the node server takes all sessions
//! with it. The gateway can only fail by a bug of ours, so that the node goes down loudly instead: [`Event::Failed`].

use std::sync::Arc;

use ractor::message::{BoxedDowncastErr, SerializedMessage};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent, pg};
use ractor_cluster::node::{NodeConnectionMode, NodeServerSessionInformation};
use ractor_cluster::{
    IncomingEncryptionMode, NodeEventSubscription, NodeServer, NodeServerMessage,
};

use super::counters::count;
use super::hub::Hub;
use super::names::LOOPBACK;

/// The scope of our process group.
const SCOPE: &str = "statekeeper";
/// The name of our subscription to the node server's events.
const SUBSCRIPTION: &str = "statekeeper";
/// The group of the gateway.
const GROUP: &str = "control";

/// What the gateway gets: the one message of the process that travels.
///
/// Encoded by hand, which costs no copy; ractor's derive would copy every frame twice.
#[derive(Debug)]
pub(super) enum Envelope {
    /// A frame, and the receiver's tag of the link in its last eight bytes.
    Frame(Vec<u8>),
    /// What no node of ours sends.
    Alien,
}

impl ractor::Message for Envelope {
    fn serializable() -> bool {
        true
    }

    fn serialize(self) -> Result<SerializedMessage, BoxedDowncastErr> {
        match self {
            Self::Frame(args) => Ok(SerializedMessage::Cast {
                variant: String::new(),
                args,
                metadata: None,
            }),
            Self::Alien => Err(BoxedDowncastErr),
        }
    }

    fn deserialize(message: SerializedMessage) -> Result<Self, BoxedDowncastErr> {
        Ok(match message {
            SerializedMessage::Cast { args, .. } => Self::Frame(args),
            SerializedMessage::Call { .. } | SerializedMessage::CallReply(..) => Self::Alien,
        })
    }
}

/// The control lane's end in this process.
struct Gateway {
    hub: Arc<Hub>,
}

impl Actor for Gateway {
    type Msg = Envelope;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Envelope>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<Envelope>,
        message: Envelope,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Envelope::Frame(bytes) => self.hub.control(bytes),
            Envelope::Alien => count(&self.hub.tally.malformed),
        }
        Ok(())
    }
}

/// The root has no messages: it only watches. (A private type that is not remotable.)
pub(super) enum Nothing {}

impl ractor::Message for Nothing {}

/// Starts the others, and watches over them.
pub(super) struct Root {
    hub: Arc<Hub>,
}

impl Actor for Root {
    type Msg = Nothing;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Nothing>, (): ()) -> Result<(), ActorProcessingErr> {
        let gateway = Gateway {
            hub: Arc::clone(&self.hub),
        };
        let (gateway, _) = Actor::spawn_linked(None, gateway, (), myself.get_cell()).await?;
        pg::join_scoped(SCOPE.to_owned(), GROUP.to_owned(), vec![gateway.get_cell()]);
        // The name is new at every start, so that a session which a former process left half open at a peer never
        // competes with ours. The host is the boot's number: ractor takes two nodes of the same host and port for one.
        let boot = format!("{:016x}", self.hub.boot);
        let server = NodeServer::new(
            0,
            self.hub.config.cookie.for_ractor(),
            format!("{}.{boot}", self.hub.me().id.name.short()),
            boot,
            Some(IncomingEncryptionMode::Raw),
            Some(NodeConnectionMode::Isolated),
        )
        .with_listen_addr(LOOPBACK)
        .with_max_inbound_frame_size(super::frames::FRAME_MAX);
        let (server, _) = Actor::spawn_linked(None, server, (), myself.get_cell()).await?;
        server.cast(NodeServerMessage::SubscribeToEvents {
            id: SUBSCRIPTION.to_owned(),
            subscription: Box::new(Sessions {
                hub: Arc::clone(&self.hub),
            }),
        })?;
        self.hub.set_server(server);
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<Nothing>,
        message: Nothing,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        match message {}
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Nothing>,
        event: SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(actor, error) => {
                self.hub.failed(&format!("{:?}: {error}", actor.get_id()))
            }
            SupervisionEvent::ActorTerminated(actor, _, reason) => {
                self.hub.failed(&format!(
                    "{:?} ended: {}",
                    actor.get_id(),
                    reason.unwrap_or_default()
                ));
            }
            SupervisionEvent::ActorStarted(_)
            | SupervisionEvent::ProcessGroupChanged(_)
            | SupervisionEvent::PidLifecycleEvent(_) => {}
        }
        Ok(())
    }
}

/// Starts all of it.
pub(super) async fn start(hub: Arc<Hub>) -> Result<ActorRef<Nothing>, ractor::SpawnErr> {
    Actor::spawn(None, Root { hub }, ())
        .await
        .map(|(root, _)| root)
}

/// The gateway of the node of that session.
fn gateway_of(node: ractor_cluster::NodeId) -> Option<ActorRef<Envelope>> {
    pg::get_scoped_members(&SCOPE.to_owned(), &GROUP.to_owned())
        .into_iter()
        .find(|cell| matches!(cell.get_id(), ActorId::Remote { node_id, .. } if node_id == node))
        .map(ActorRef::from)
}

/// Ties ractor's sessions to our links, by the label of the stream.
struct Sessions {
    hub: Arc<Hub>,
}

impl NodeEventSubscription for Sessions {
    fn node_session_opened(&self, session: NodeServerSessionInformation) {
        match self.hub.link_of(&session.peer_addr) {
            Some(link) => link.attach_session(session.actor),
            None => self.hub.stranger(&session),
        }
    }

    fn node_session_authenticated(&self, _: NodeServerSessionInformation) {}

    fn node_session_ready(&self, session: NodeServerSessionInformation) {
        if let Some(link) = self.hub.link_of(&session.peer_addr) {
            self.hub.link_ready(&link, gateway_of(session.node_id));
        }
    }

    fn node_session_disconnected(&self, session: NodeServerSessionInformation) {
        if let Some(link) = self.hub.link_of(&session.peer_addr) {
            self.hub.link_closed(&link);
        }
    }
}
