//! The byte stream of a link as ractor gets it: counts its frames, and ends it at the first impossible one.
//!
//! ractor's frames are a length (8 bytes, big endian) and that many bytes of protobuf. Reading is buffered, since
//! ractor reads the length by itself.
//!
//! The end of the stream is held back until the gateways have handled all frames before it: ractor's sessions stop at
//! once when the stream ends, and what waits in their mailboxes is lost, such as a node's farewell.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ractor_cluster::{BoxRead, BoxWrite, ClusterBidiStream};
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, Sleep, sleep};

use super::counters::{Tally, count};
use super::link::Link;

/// The longest frame, the same as ractor's default.
pub(super) const FRAME_MAX: u64 = ractor_cluster::DEFAULT_MAX_INBOUND_FRAME_SIZE;
/// What is read at once.
const READ_BUFFER: usize = 64 * 1024;
/// How long the end of a stream is held back at most.
const HANDLED_MAX: Duration = Duration::from_millis(500);
/// How often it is looked whether all before it is handled.
const HANDLED_LOOK: Duration = Duration::from_millis(1);

/// What a frame carries, as its first byte says: the field of ractor's `NetworkMessage`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Carries {
    Auth = 0x0a,
    Node = 0x12,
    Control = 0x1a,
}

/// Why a frame cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Impossible {
    Oversized,
    Malformed,
}

/// Follows the frames of one direction.
#[derive(Debug, Default)]
struct Meter {
    head: [u8; 8],
    head_filled: usize,
    /// Bytes of the frame's body that are still to come.
    body_left: u64,
    carries: Option<Carries>,
}

impl Meter {
    /// Goes on by these bytes, and calls `whole` for every frame that they complete.
    fn follow(
        &mut self,
        mut bytes: &[u8],
        mut whole: impl FnMut(Carries),
    ) -> Result<(), Impossible> {
        while !bytes.is_empty() {
            if self.head_filled < self.head.len() {
                let n = bytes.len().min(self.head.len() - self.head_filled);
                self.head[self.head_filled..self.head_filled + n].copy_from_slice(&bytes[..n]);
                self.head_filled += n;
                bytes = &bytes[n..];
                if self.head_filled == self.head.len() {
                    self.body_left = u64::from_be_bytes(self.head);
                    if self.body_left > FRAME_MAX {
                        return Err(Impossible::Oversized);
                    }
                    if self.body_left == 0 {
                        return Err(Impossible::Malformed);
                    }
                }
                continue;
            }
            let carries = match self.carries {
                Some(carries) => carries,
                None => match bytes[0] {
                    0x0a => Carries::Auth,
                    0x12 => Carries::Node,
                    0x1a => Carries::Control,
                    _ => return Err(Impossible::Malformed),
                },
            };
            let n = usize::try_from(self.body_left)
                .unwrap_or(usize::MAX)
                .min(bytes.len());
            self.body_left -= n as u64;
            bytes = &bytes[n..];
            if self.body_left == 0 {
                whole(carries);
                *self = Self::default();
            } else {
                self.carries = Some(carries);
            }
        }
        Ok(())
    }
}

/// The stream of one link, after its handshake.
pub(super) struct LinkStream {
    /// The connection.
    pub(super) stream: TcpStream,
    /// Its link.
    pub(super) link: Arc<Link>,
    /// The counts.
    pub(super) tally: Arc<Tally>,
}

impl ClusterBidiStream for LinkStream {
    fn split(self: Box<Self>) -> (BoxRead, BoxWrite) {
        let (read, write) = self.stream.into_split();
        let inner = BufReader::with_capacity(READ_BUFFER, read);
        let reader = Reader {
            inner,
            meter: Meter::default(),
            link: Arc::clone(&self.link),
            tally: self.tally,
            end: None,
            pause: None,
        };
        (
            Box::new(reader),
            Box::new(Writer {
                inner: write,
                meter: Meter::default(),
                link: self.link,
            }),
        )
    }

    fn peer_label(&self) -> Option<String> {
        Some(self.link.label.clone())
    }

    fn local_label(&self) -> Option<String> {
        None
    }
}

struct Reader {
    inner: BufReader<OwnedReadHalf>,
    meter: Meter,
    link: Arc<Link>,
    tally: Arc<Tally>,
    end: Option<End>,
    /// Until when it is not looked whether the peer may go on.
    pause: Option<Pin<Box<Sleep>>>,
}

/// The end of a stream, held back.
struct End {
    result: io::Result<()>,
    until: Instant,
    look: Pin<Box<Sleep>>,
}

impl Reader {
    /// Waits while this node has not handled what came before: the stream fills up, and the peer has to wait.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.link.is_flooded() {
            let pause = self
                .pause
                .get_or_insert_with(|| Box::pin(sleep(HANDLED_LOOK)));
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        self.pause = None;
        Poll::Ready(())
    }

    /// The end, once all that came before it is handled, or that took too long.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(end) = &mut self.end else {
            return Poll::Ready(Ok(()));
        };
        loop {
            let is_handled = self.link.handled.load(Relaxed) >= self.link.arrived.load(Relaxed);
            if is_handled || Instant::now() >= end.until {
                return Poll::Ready(std::mem::replace(&mut end.result, Ok(())));
            }
            ready!(end.look.as_mut().poll(cx));
            end.look.as_mut().reset(Instant::now() + HANDLED_LOOK);
        }
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.end.is_some() {
            return this.poll_end(cx);
        }
        ready!(this.poll_room(cx));
        let before = buf.filled().len();
        let result = ready!(Pin::new(&mut this.inner).poll_read(cx, buf));
        let new = &buf.filled()[before..];
        if result.is_err() || (new.is_empty() && buf.remaining() > 0) {
            this.link.ended.store(true, Relaxed);
            let look = Box::pin(sleep(HANDLED_LOOK));
            this.end = Some(End {
                result,
                until: Instant::now() + HANDLED_MAX,
                look,
            });
            return this.poll_end(cx);
        }
        let link = &this.link;
        let whole = |carries| {
            if carries == Carries::Node {
                count(&link.arrived);
            }
        };
        if let Err(impossible) = this.meter.follow(new, whole) {
            this.link.ended.store(true, Relaxed);
            count(match impossible {
                Impossible::Oversized => &this.tally.oversized,
                Impossible::Malformed => &this.tally.malformed,
            });
            tracing::warn!(peer = %this.link.peer_id(), reason = ?impossible, "an impossible frame: the link ends");
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "impossible frame",
            )));
        }
        Poll::Ready(Ok(()))
    }
}

struct Writer {
    inner: OwnedWriteHalf,
    meter: Meter,
    link: Arc<Link>,
}

impl AsyncWrite for Writer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        match ready!(Pin::new(&mut this.inner).poll_write(cx, buf)) {
            Ok(n) => {
                let link = &this.link;
                let whole = |carries| {
                    if carries == Carries::Node {
                        link.written();
                    }
                };
                // A frame of ours that the peer would not take ends the link there.
                if let Err(impossible) = this.meter.follow(&buf[..n], whole) {
                    tracing::error!(peer = %this.link.peer_id(), reason = ?impossible, "own frame is impossible");
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "impossible frame",
                    )));
                }
                Poll::Ready(Ok(n))
            }
            Err(e) => {
                this.link.ended.store(true, Relaxed);
                Poll::Ready(Err(e))
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(body: &[u8]) -> Vec<u8> {
        [&(body.len() as u64).to_be_bytes()[..], body].concat()
    }

    fn follow(meter: &mut Meter, bytes: &[u8]) -> (Vec<Carries>, Result<(), Impossible>) {
        let mut whole = Vec::new();
        let result = meter.follow(bytes, |carries| whole.push(carries));
        (whole, result)
    }

    #[test]
    fn frames_are_followed_however_they_are_cut() {
        let bytes = [frame(&[0x0a]), frame(&[0x12, 1, 2, 3]), frame(&[0x1a; 300])].concat();
        for cut in 1..bytes.len() {
            let mut meter = Meter::default();
            let mut whole = Vec::new();
            for part in bytes.chunks(cut) {
                let (some, result) = follow(&mut meter, part);
                assert_eq!(result, Ok(()));
                whole.extend(some);
            }
            assert_eq!(
                whole,
                [Carries::Auth, Carries::Node, Carries::Control],
                "{cut}"
            );
        }
    }

    #[test]
    fn empty_oversized_and_unknown_frames_are_impossible() {
        for (bytes, expected) in [
            (frame(&[]), Impossible::Malformed),
            (frame(&[0x22, 0]), Impossible::Malformed),
            (
                (FRAME_MAX + 1).to_be_bytes().to_vec(),
                Impossible::Oversized,
            ),
            (b"GET / HT".to_vec(), Impossible::Oversized),
        ] {
            assert_eq!(
                follow(&mut Meter::default(), &bytes),
                (vec![], Err(expected))
            );
        }
        assert_eq!(
            follow(&mut Meter::default(), &FRAME_MAX.to_be_bytes()),
            (vec![], Ok(()))
        );
    }
}
