//! The guardian: a small process beside each node that tells the other members when the node's process has ended.
//!
//! A node that falls silent may still live, so the others have to wait until its lease has run out before they hand its
//! actors to somebody else. A process whose end was *witnessed* is gone: nothing need be waited for. The operating
//! system is such a witness, but only on the spot; that a connection ended, or a new one is refused, proves nothing
//! (a firewall does that, too). So each node starts a child process, and leaves it its last will: what to tell
//! (an obituary that names this one life of the node, proven with the cookie), and whom.
//!
//! ```text
//!   node ── will, anew with each view ──▶ guardian        node's process ends: kill -9, out of memory, abort
//!                                            │  end of input, then another parent: the kernel reaped the node
//!                                            └── obituary ──▶ members: known dead, a view without it at once
//! ```
//!
//! Two things must have happened before the guardian speaks: its input ended, and the kernel gave it another parent,
//! which it does only when the last thread of the old one is gone. When the guardian is lost as well (with the whole
//! machine, its network, or by `pkill`), nobody speaks, and the lease runs out as ever.
//!
//! The name for such a message is MQTT's (last will); the reasoning is that of Falcon's spies (Leners et al., *Detecting
//! failures in distributed systems with the Falcon spy network*, SOSP 2011): a failure detector that is told by the layer
//! that knows, and otherwise waits.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::process::{CommandExt, parent_id};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::warn;

/// The longest will: the addresses of the largest view.
const WILL_MAX: u32 = 1 << 20;
/// How long the guardian waits for the kernel to reap its parent after its input has ended.
const REAPED_MAX: Duration = Duration::from_secs(60);
/// How often it looks meanwhile.
const REAPED_LOOK: Duration = Duration::from_millis(1);
/// How often a member is told, until it has confirmed, and how long each try may take.
const TRIES: usize = 3;
const TRY_MAX: Duration = Duration::from_secs(1);
/// How many members are told at a time.
const AT_A_TIME: usize = 64;

/// What a guardian shall do when its node's process has ended.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Will {
    /// The node's process.
    parent: u32,
    /// What to send.
    obituary: Vec<u8>,
    /// To whom.
    heirs: Vec<String>,
}

/// A node's hold on its guardian.
#[derive(Debug)]
pub(crate) struct Guardian {
    orders: Sender<Order>,
}

#[derive(Debug)]
enum Order {
    /// Replace the will.
    Entrust(Will),
    /// Withdraw it, and say when that is done.
    Dismiss(oneshot::Sender<()>),
}

impl Guardian {
    /// Starts the process.
    ///
    /// # Errors
    /// There is no such command, or the system does not start it.
    pub(crate) fn start(command: &[OsString]) -> io::Result<Self> {
        let (program, arguments) = command
            .split_first()
            .ok_or_else(|| io::Error::other("its command is empty"))?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            // It holds nothing open that somebody may wait for the end of.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A signal of the terminal, as Ctrl-C, is for the node.
            .process_group(0)
            .spawn()?;
        let (orders, given) = channel();
        // Of its own, since a pipe may block. It ends with this `Guardian`.
        thread::Builder::new()
            .name("guardian".to_owned())
            .spawn(move || pass_on(child, &given))?;
        Ok(Self { orders })
    }

    /// Replaces the will: whom to tell what.
    pub(crate) fn entrust(&self, obituary: Vec<u8>, heirs: Vec<String>) {
        let parent = std::process::id();
        // Without a guardian, which was said in the log, there is nobody to take it.
        let _ = self.orders.send(Order::Entrust(Will {
            parent,
            obituary,
            heirs,
        }));
    }

    /// There is nothing to be told any more: the guardian ends. Waits until it has been told so, or is gone, or does not
    /// listen; then it may speak all the same, once this process has ended.
    pub(crate) async fn dismiss(&self) {
        let (told, done) = oneshot::channel();
        let _ = self.orders.send(Order::Dismiss(told));
        let _ = timeout(TRY_MAX, done).await;
    }
}

/// Passes the orders on, until the guardian is dismissed, dropped by its node, or lost.
fn pass_on(mut child: Child, orders: &Receiver<Order>) {
    let Some(mut pipe) = child.stdin.take() else {
        return;
    };
    let mut write = |will| frame(&will).and_then(|bytes| pipe.write_all(&bytes));
    for order in orders {
        let written = match order {
            Order::Entrust(will) => write(Some(will)),
            Order::Dismiss(told) => {
                // Whoever is lost speaks no more.
                let _ = write(None);
                let _ = told.send(());
                break;
            }
        };
        if let Err(error) = written {
            warn!(%error, "the guardian is lost: should this process crash, the others wait until its lease has run out");
            break;
        }
    }
    drop(pipe);
    // Reaped, lest it stays as a zombie. What it came to is its own affair.
    let _ = child.wait();
}

fn frame(will: &Option<Will>) -> io::Result<Vec<u8>> {
    let body = postcard::to_stdvec(will).map_err(io::Error::other)?;
    let length = u32::try_from(body.len()).ok().filter(|n| *n <= WILL_MAX);
    let length = length.ok_or_else(|| io::Error::other("the will is too long"))?;
    Ok([&length.to_be_bytes()[..], &body].concat())
}

/// The guardian's whole life: for the program that [`Config::guardian`](crate::config::Config::guardian) names, which
/// must be started by the node. Reads wills from standard input, and carries the last one out if the node's process has
/// ended without withdrawing it. Returns when nothing is left to do: at most some seconds after the node.
pub fn watch() {
    let last = last_will(&mut io::stdin().lock());
    if let Some(will) = last
        && is_orphaned(&will)
    {
        will.carry_out();
    }
}

/// The last whole will that comes before the end of the input.
fn last_will(input: &mut impl Read) -> Option<Will> {
    let mut last = None;
    loop {
        match next_will(input) {
            Ok(will) => last = will,
            Err(_) => return last,
        }
    }
}

fn next_will(input: &mut impl Read) -> io::Result<Option<Will>> {
    let mut length = [0; 4];
    input.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > WILL_MAX {
        return Err(io::Error::other("the will is too long"));
    }
    let mut body = vec![0; length as usize];
    input.read_exact(&mut body)?;
    postcard::from_bytes(&body).map_err(io::Error::other)
}

/// Whether the kernel says that the node's process is gone: then this one has another parent.
fn is_orphaned(will: &Will) -> bool {
    let deadline = Instant::now() + REAPED_MAX;
    while parent_id() == will.parent {
        if Instant::now() >= deadline {
            return false; // the node lives, and only let go of us
        }
        thread::sleep(REAPED_LOOK);
    }
    true
}

impl Will {
    fn carry_out(&self) {
        for heirs in self.heirs.chunks(AT_A_TIME) {
            thread::scope(|scope| {
                for heir in heirs {
                    scope.spawn(|| (0..TRIES).any(|_| self.tell(heir).is_ok()));
                }
            });
        }
    }

    /// Tells one member, and waits until it has heard.
    fn tell(&self, heir: &str) -> io::Result<()> {
        let addr: SocketAddr = heir
            .to_socket_addrs()?
            .next()
            .ok_or(io::ErrorKind::NotFound)?;
        let mut stream = TcpStream::connect_timeout(&addr, TRY_MAX)?;
        stream.set_read_timeout(Some(TRY_MAX))?;
        stream.set_write_timeout(Some(TRY_MAX))?;
        stream.set_nodelay(true)?;
        stream.write_all(&self.obituary)?;
        stream.read_exact(&mut [0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn will(heirs: &[&str]) -> Will {
        Will {
            parent: std::process::id(),
            obituary: vec![1, 2, 3],
            heirs: heirs.iter().map(|heir| (*heir).to_owned()).collect(),
        }
    }

    fn written(wills: &[Option<Will>]) -> Vec<u8> {
        wills.iter().flat_map(|will| frame(will).unwrap()).collect()
    }

    #[test]
    fn the_last_whole_will_counts() {
        let mut input = written(&[Some(will(&["a:1"])), Some(will(&["b:2"]))]);
        assert_eq!(last_will(&mut &input[..]), Some(will(&["b:2"])));
        input.pop();
        assert_eq!(last_will(&mut &input[..]), Some(will(&["a:1"])));
        assert_eq!(last_will(&mut &input[..3]), None);
    }

    #[test]
    fn a_withdrawn_will_is_none() {
        let input = written(&[Some(will(&["a:1"])), None]);
        assert_eq!(last_will(&mut &input[..]), None);
    }

    #[test]
    fn what_is_no_will_ends_the_reading_without_room_for_it() {
        let mut input = written(&[Some(will(&["a:1"]))]);
        input.extend(u32::MAX.to_be_bytes());
        assert_eq!(last_will(&mut &input[..]), Some(will(&["a:1"])));
    }

    #[test]
    fn each_member_gets_the_obituary() {
        let listeners = [(); 3].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let addrs = listeners
            .each_ref()
            .map(|l| l.local_addr().unwrap().to_string());
        let will = will(&addrs.each_ref().map(String::as_str));
        thread::scope(|scope| {
            for listener in &listeners {
                scope.spawn(|| {
                    let (mut stream, _) = listener.accept().unwrap();
                    let mut got = [0; 3];
                    stream.read_exact(&mut got).unwrap();
                    assert_eq!(got, [1, 2, 3]);
                    stream.write_all(&[0]).unwrap();
                });
            }
            will.carry_out();
        });
    }
}
