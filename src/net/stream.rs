//! The byte stream of a link as ractor gets it. Between ractor's frames are those of the parts: they are taken out here
//! and delivered at once, and written here without a way through ractor's actors. The first impossible frame ends it.
//!
//! The end of the stream is held back until the gateway has handled all frames before it: ractor's sessions stop at
//! once when the stream ends, and what waits in their mailboxes is lost, such as a node's farewell.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ractor_cluster::{BoxRead, BoxWrite, ClusterBidiStream};
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::{Instant, Sleep, sleep};

use super::counters::count;
use super::frames::{Carries, Frame, Impossible, Meter, Splitter, Step};
use super::groups::Lanes;
use super::hub::Hub;
use super::link::Link;

/// What is read at once.
const READ_BUFFER: usize = 64 * 1024;
/// With so few bytes, frames are handled by the task that has read them: to wake other threads for them would take longer.
/// More of them are for as many threads as there are.
const HERE_BYTES_MAX: usize = 32 * 1024;
/// How often is read before other tasks have their turn.
const READS_MAX: usize = 4;
/// What is taken from ractor at once.
const WRITE_MAX: usize = 64 * 1024;
/// How long the end of a stream is held back at most.
const HANDLED_MAX: Duration = Duration::from_millis(500);
/// How often it is looked whether all before it is handled.
const HANDLED_LOOK: Duration = Duration::from_millis(1);

/// The stream of one link, after its handshake.
pub(super) struct LinkStream {
    /// The connection.
    pub(super) stream: TcpStream,
    /// Its link.
    pub(super) link: Arc<Link>,
    /// Where the frames go.
    pub(super) hub: Arc<Hub>,
}

impl ClusterBidiStream for LinkStream {
    fn split(self: Box<Self>) -> (BoxRead, BoxWrite) {
        let (read, write) = self.stream.into_split();
        self.link.out.attach(write);
        let reader = Reader {
            socket: read,
            buffer: vec![0; READ_BUFFER].into(),
            unread: 0..0,
            splitter: Splitter::new(self.hub.control_lane()),
            link: Arc::clone(&self.link),
            hub: self.hub,
            end: None,
            pause: None,
        };
        let writer = Writer {
            meter: Meter::default(),
            frame: Vec::new(),
            link: self.link,
        };
        (Box::new(reader), Box::new(writer))
    }

    fn peer_label(&self) -> Option<String> {
        Some(self.link.label.clone())
    }

    fn local_label(&self) -> Option<String> {
        None
    }
}

struct Reader {
    socket: OwnedReadHalf,
    buffer: Box<[u8]>,
    /// What of the buffer was read from the socket and is not used yet.
    unread: std::ops::Range<usize>,
    splitter: Splitter,
    link: Arc<Link>,
    hub: Arc<Hub>,
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

    /// Delivers the parts' frames that were read, up to the first bytes for ractor, which `buf` gets. False if all was
    /// for the parts.
    fn use_read(&mut self, buf: &mut ReadBuf<'_>) -> Result<bool, Impossible> {
        let mut frames = SmallVec::new();
        let result = self.split(buf, &mut frames);
        self.deliver(frames);
        result
    }

    /// Those that came together are known before the first of them is handled.
    fn deliver(&self, frames: SmallVec<[Frame; 4]>) {
        if frames.is_empty() {
            return;
        }
        let ties = frames.iter().map(|frame| (frame.lane, frame.ties));
        let may_ask = self.link.out.arrived(ties);
        let (mut lanes, mut bytes) = (0, 0);
        for Frame { lane, body, .. } in frames {
            bytes += body.len();
            lanes |= Lanes::from(self.hub.deliver(&self.link, lane, body)) << lane;
        }
        let here = bytes <= HERE_BYTES_MAX;
        let held = here.then(|| self.link.out.hold());
        self.hub.due(lanes, may_ask, here);
        drop(held);
    }

    /// Takes the parts' frames out of what was read, up to the first bytes for ractor.
    fn split(
        &mut self,
        buf: &mut ReadBuf<'_>,
        frames: &mut SmallVec<[Frame; 4]>,
    ) -> Result<bool, Impossible> {
        while !self.unread.is_empty() {
            let unread = &self.buffer[self.unread.clone()];
            match self.splitter.next(unread, buf.remaining())? {
                Step::Part(n, frame) => {
                    self.unread.start += n;
                    frames.extend(frame);
                }
                Step::Ractor(n, carries) => {
                    buf.put_slice(&unread[..n]);
                    self.unread.start += n;
                    if carries == Some(Carries::Node) {
                        count(&self.link.arrived);
                    }
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Reads what the socket has.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut space = ReadBuf::new(&mut self.buffer);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut space))?;
        self.unread = 0..space.filled().len();
        Poll::Ready(Ok(()))
    }

    /// Ends the link for what came.
    fn refuse(&self, impossible: Impossible) -> io::Error {
        self.link.ended.store(true, Relaxed);
        count(match impossible {
            Impossible::Oversized => &self.hub.tally.oversized,
            Impossible::Malformed => &self.hub.tally.malformed,
        });
        tracing::warn!(peer = %self.link.peer_id(), reason = ?impossible, "an impossible frame: the link ends");
        io::Error::new(io::ErrorKind::InvalidData, "impossible frame")
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..READS_MAX {
            if this.end.is_some() {
                return this.poll_end(cx);
            }
            match this.use_read(buf) {
                Ok(true) => return Poll::Ready(Ok(())),
                Ok(false) => {}
                Err(impossible) => return Poll::Ready(Err(this.refuse(impossible))),
            }
            ready!(this.poll_room(cx));
            let result = ready!(this.poll_fill(cx));
            if result.is_err() || this.unread.is_empty() {
                this.link.ended.store(true, Relaxed);
                this.end = Some(End {
                    result,
                    until: Instant::now() + HANDLED_MAX,
                    look: Box::pin(sleep(HANDLED_LOOK)),
                });
            }
        }
        // There may be more: this is asked again, after the others had their turn.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

struct Writer {
    meter: Meter,
    /// The frame that ractor is writing: it is passed on whole, so that no other comes in between.
    frame: Vec<u8>,
    link: Arc<Link>,
}

impl Writer {
    /// What `ended` says of the link is known before ractor hears of it.
    fn heard(&self, result: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
        if let Poll::Ready(Err(_)) = &result {
            self.link.ended.store(true, Relaxed);
        }
        result
    }
}

impl AsyncWrite for Writer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.heard(this.link.out.poll_room(cx)))?;
        let all = &buf[..buf.len().min(WRITE_MAX)];
        let mut rest = all;
        while !rest.is_empty() {
            let (n, carries) = match this.meter.next(rest) {
                Ok(next) => next,
                // A frame of ours that the peer would not take ends the link here.
                Err(impossible) => {
                    tracing::error!(peer = %this.link.peer_id(), reason = ?impossible, "own frame is impossible");
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "impossible frame",
                    )));
                }
            };
            this.frame.extend_from_slice(&rest[..n]);
            rest = &rest[n..];
            if let Some(carries) = carries {
                let frame = std::mem::take(&mut this.frame);
                this.link.out.add_ractors(frame, carries);
            }
        }
        this.link.out.write();
        Poll::Ready(Ok(all.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.heard(self.link.out.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.heard(self.link.out.poll_flush(cx)))?;
        self.link.close_gently();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Writer {
    /// ractor has ended the session: nothing more is written.
    fn drop(&mut self) {
        self.link.out.close();
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
