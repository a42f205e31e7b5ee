//! From a finished handshake to ractor, and the look at a lost peer's port afterwards.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ractor_cluster::NodeServerMessage;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::hub::Hub;
use super::link::{Link, Stage};
use super::stream::LinkStream;

/// How long ractor may take until a session is ready.
const READY_MAX: Duration = Duration::from_secs(5);
/// How long a connection of the probe must stay open to show that somebody serves it.
const PROBE_SERVED: Duration = Duration::from_millis(150);
/// The pause before the probe connects again.
const PROBE_PAUSE: Duration = Duration::from_millis(10);

/// A registered link whose handshake is not over: forgotten if it is dropped before it is handed to ractor.
pub(super) struct Pending {
    hub: Arc<Hub>,
    /// The link.
    pub(super) link: Arc<Link>,
    handed_over: bool,
}

impl Pending {
    /// A link that was just registered.
    pub(super) fn new(hub: Arc<Hub>, link: Arc<Link>) -> Self {
        Self {
            hub,
            link,
            handed_over: false,
        }
    }

    /// Gives the stream to ractor, if the link is still wanted.
    pub(super) fn hand_over(mut self, stream: TcpStream) -> io::Result<Arc<Link>> {
        let (hub, link) = (Arc::clone(&self.hub), Arc::clone(&self.link));
        let is_server = !link.outbound;
        link.attach_socket(&stream)?;
        if link.stage() >= Stage::Closing {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "replaced by another link",
            ));
        }
        let server = hub
            .server()
            .ok_or_else(|| io::Error::other("the node server is not there"))?;
        let stream = LinkStream {
            stream,
            link: Arc::clone(&link),
            hub: Arc::clone(&hub),
        };
        server
            .cast(NodeServerMessage::ConnectionOpenedExternal {
                stream: Box::new(stream),
                is_server,
            })
            .map_err(|e| io::Error::other(e.to_string()))?;
        self.handed_over = true;
        let watched = Arc::clone(&link);
        let hub = Arc::clone(&hub);
        tokio::spawn(async move {
            let mut stages = watched.stages();
            if timeout(READY_MAX, stages.wait_for(|stage| *stage != Stage::Joining))
                .await
                .is_ok()
            {
                return;
            }
            tracing::warn!(peer = %watched.peer_id(), "the session does not get ready: it ends");
            watched.close();
            // If ractor never opened a session, it will never report its end either.
            if timeout(READY_MAX, stages.wait_for(|stage| *stage == Stage::Gone))
                .await
                .is_err()
            {
                watched.forgotten();
                hub.remove(&watched);
            }
        });
        Ok(link)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.handed_over {
            self.link.close();
            self.link.mute();
            self.link.forgotten();
            self.hub.remove(&self.link);
            self.hub.changed();
        }
    }
}

/// Whether nobody listens at that address: the process that did is gone.
///
/// A process that is being killed may close its connections before its listener, and a connection to the listener
/// then opens and breaks: that is tried again, until nobody listens or somebody serves us.
pub(super) async fn is_refused(addr: &str) -> bool {
    loop {
        match TcpStream::connect(addr).await {
            Err(e) => return e.kind() == io::ErrorKind::ConnectionRefused,
            // The system chose the very port as ours, and connected us with ourselves: nobody else is there.
            Ok(stream) if same_ends(&stream) => return true,
            Ok(mut stream) => {
                if timeout(PROBE_SERVED, stream.read_u8()).await.is_err() {
                    return false;
                }
                sleep(PROBE_PAUSE).await;
            }
        }
    }
}

/// Whether a connection leads to itself, which the system allows between two ports of its own choice.
pub(super) fn same_ends(stream: &TcpStream) -> bool {
    let ends: (io::Result<SocketAddr>, io::Result<SocketAddr>) =
        (stream.local_addr(), stream.peer_addr());
    matches!(ends, (Ok(local), Ok(peer)) if local == peer)
}
