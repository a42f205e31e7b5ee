//! `--connect`: joins a cluster at the start, even if its nodes start at the same time.

use std::time::{Duration, Instant};

use statekeeper::protocol::members::Failure;
use statekeeper::{ConnectError, Node};
use tokio::time::sleep;

use crate::log::Log;
use crate::render;

/// The first wait before another attempt; it doubles up to the longest.
const WAIT_MIN: Duration = Duration::from_millis(500);
const WAIT_MAX: Duration = Duration::from_secs(10);
/// For how long a node that does not answer is tried.
const TRY_FOR: Duration = Duration::from_secs(600);

/// Connects to each of `peers`. Returns after the first attempts; those that nobody answered are repeated in the
/// background, until this node is in a cluster.
pub(crate) async fn join(node: &Node, peers: &[String], log: &Log) {
    let mut silent = Vec::new();
    for peer in peers {
        if let Err(failure) = node.connect(peer).await {
            log.line(&render::error(&format!("--connect {peer}: {failure}")));
            if is_silence(&failure) {
                silent.push(peer.clone());
            }
        }
    }
    if !silent.is_empty() && node.nodes().is_empty() {
        log.line(&format!(
            "trying again in the background: {}",
            silent.join(", ")
        ));
        tokio::spawn(keep_trying(node.clone(), silent, log.clone()));
    }
}

async fn keep_trying(node: Node, peers: Vec<String>, log: Log) {
    let deadline = Instant::now() + TRY_FOR;
    let mut wait = WAIT_MIN;
    while Instant::now() < deadline {
        sleep(wait).await;
        wait = WAIT_MAX.min(wait * 2);
        for peer in &peers {
            if !node.nodes().is_empty() {
                return;
            }
            match node.connect(peer).await {
                Ok(()) => {
                    log.line(&format!("connected to {peer}"));
                    return;
                }
                Err(failure) if is_silence(&failure) => {}
                Err(failure) => {
                    log.line(&render::error(&format!("--connect {peer}: {failure}")));
                    return;
                }
            }
        }
    }
    log.line(&render::error(&format!(
        "--connect: nobody answered in {} s; 'connect' tries again",
        TRY_FOR.as_secs()
    )));
}

/// Whether the peer may only not be up yet.
fn is_silence(failure: &ConnectError) -> bool {
    match failure {
        // A name that nobody has on this machine may be taken soon.
        ConnectError::Address(_)
        | ConnectError::Unreachable { .. }
        | ConnectError::Refused(Failure::NoAnswer) => true,
        ConnectError::Myself(_)
        | ConnectError::Cookie { .. }
        | ConnectError::Refused(_)
        | ConnectError::Stopped => false,
    }
}
