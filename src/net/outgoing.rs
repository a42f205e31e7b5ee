//! What waits to be written to one peer, in the order in which it is written: the frames of the parts, put here by who
//! sends them, and ractor's between them.
//!
//! ```text
//!   Free ──somebody adds a frame──▶ Taken ──all is written──▶ Free
//!    │                                │ ▲
//!    │ others follow    the socket is full  the socket has room: the writer's task goes on
//!    ▼                                ▼ │
//!   Soon ──the last of them, or the writer's task──▶     Blocked
//! ```
//! Who adds a frame writes it to the socket himself, at once, unless somebody writes already: that one takes it along. So a
//! lone frame waits for no task. Where other parts are about to send theirs ([`Groups`] knows) it waits for the last of
//! them, or until they had their turn, and frames that belong together leave together.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;

use super::frames::{self, Carries, Head, Ties};
use super::groups::{Groups, Lanes};
use super::link::lock;

/// The most frames that wait to be written to one peer.
const FRAMES_MAX: usize = 200_000;
/// The most bytes that wait to be written to one peer.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// With more than these, senders that can wait do.
const BYTES_ROOM: usize = 4 * 1024 * 1024;
/// With more than these, ractor's writer waits.
const RACTOR_AHEAD_MAX: u64 = 256 * 1024;
/// The most frames that are written at once.
const AT_ONCE_MAX: usize = 32;
/// How often who adds a frame takes along what others added meanwhile; then it is the writer's task's turn.
const ROUNDS_MAX: usize = 4;

/// With more bytes than these, a frame carries more than one message, mostly.
const LONE_BYTES: usize = 96;

/// How many turns those have who are expected, until what waits is written without theirs.
const TURNS_MAX: usize = 4;

/// Why a frame was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Untaken {
    /// The link is not up.
    Closed,
    /// Too much waits.
    Full,
}

/// Who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Whoever has something.
    Free,
    /// Somebody who is at it.
    Taken,
    /// The writer's task, when the socket has room.
    Blocked,
    /// The last of those who are expected, or the writer's task, when they had their turn.
    Soon,
}

/// A frame, or the rest of one.
struct Piece {
    /// Not of ractor's frames: they have theirs in the body.
    head: Option<Head>,
    body: Vec<u8>,
    /// How much of it is written.
    written: usize,
}

impl Piece {
    fn len(&self) -> usize {
        self.head.map_or(0, |head| head.len()) + self.body.len()
    }

    /// What is not written yet.
    fn rest(&self) -> [&[u8]; 2] {
        let head = self.head.as_ref().map_or(&[][..], |head| &head[..]);
        match self.written.checked_sub(head.len()) {
            None => [&head[self.written..], &self.body],
            Some(of_body) => [&[], &self.body[of_body..]],
        }
    }
}

/// What waits to be written to one peer.
pub(super) struct Outgoing {
    state: Mutex<State>,
    /// For the writer's task: it is its turn, or there will be none any more.
    task: Notify,
}

struct State {
    socket: Option<Arc<OwnedWriteHalf>>,
    /// Whether parts may send.
    is_open: bool,
    is_closed: bool,
    turn: Turn,
    /// Somebody looks at what waits soon, and writes it.
    is_held: bool,
    queue: VecDeque<Piece>,
    groups: Groups,
    /// Frames and bytes that were added here and are not written, also those that somebody is writing.
    frames: usize,
    bytes: usize,
    /// The lengths of frames that were given to ractor, and have not come from there yet.
    in_ractor: VecDeque<usize>,
    in_ractor_bytes: usize,
    /// All bytes that were ever added, and written.
    added: u64,
    written: u64,
    /// Where ractor's latest frame ends.
    ractor_until: u64,
    /// ractor's writer, and how much must be written before it goes on.
    waiter: Option<(u64, Waker)>,
}

impl Outgoing {
    /// Nothing waits, and there is no socket yet.
    pub(super) fn new() -> Arc<Self> {
        let state = State {
            socket: None,
            is_open: false,
            is_closed: false,
            turn: Turn::Free,
            is_held: false,
            queue: VecDeque::new(),
            groups: Groups::default(),
            frames: 0,
            bytes: 0,
            in_ractor: VecDeque::new(),
            in_ractor_bytes: 0,
            added: 0,
            written: 0,
            ractor_until: 0,
            waiter: None,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            task: Notify::new(),
        })
    }

    /// Where to write to, and the task that does when nobody else can. Its end is this one's.
    pub(super) fn attach(self: &Arc<Self>, socket: OwnedWriteHalf) {
        let mut state = lock(&self.state);
        if state.is_closed {
            return;
        }
        state.socket = Some(Arc::new(socket));
        drop(state);
        tokio::spawn(Arc::clone(self).run());
    }

    /// The link is up: from now on parts may send.
    pub(super) fn open(&self) {
        lock(&self.state).is_open = true;
    }

    /// Takes nothing more, forgets what waits, and lets go of the socket.
    pub(super) fn close(&self) {
        lock(&self.state).close();
        self.task.notify_one();
    }

    /// Whether a part may send a frame that asks; if not, [`arrived`](Self::arrived) says when it may.
    pub(super) fn may_ask(&self, lane: usize) -> bool {
        lock(&self.state).groups.may_ask(lane)
    }

    /// Adds a frame of a part, and writes it if that can be done at once and need not wait for others.
    pub(super) fn send(&self, lane: usize, ties: Ties, body: Vec<u8>) -> Result<(), Untaken> {
        let mut state = lock(&self.state);
        if !state.is_open || state.is_closed {
            return Err(Untaken::Closed);
        }
        let piece = Piece {
            head: Some(frames::head(lane, ties, body.len())),
            body,
            written: 0,
        };
        if !state.has_place_for(piece.len()) {
            return Err(Untaken::Full);
        }
        // The replies of one part to many requests: other parts are about to send theirs.
        let has_others = piece.len() > LONE_BYTES && ties == Ties::default();
        state.add(piece);
        state.groups.sends(lane, ties);
        self.write_or_wait(state, has_others);
        Ok(())
    }

    /// A part that may be expected has nothing to send.
    pub(super) fn pass(&self, lane: usize) {
        let mut state = lock(&self.state);
        state.groups.sends(lane, Ties::default());
        if state.turn == Turn::Soon {
            self.write_or_wait(state, false);
        }
    }

    /// Frames of the peer's have arrived: which parts may ask now, of those that wait for others.
    pub(super) fn arrived(&self, frames: impl Iterator<Item = (usize, Ties)>) -> Lanes {
        lock(&self.state).groups.arrived(frames)
    }

    /// Until what is returned is dropped, frames wait for others.
    pub(super) fn hold(&self) -> Held<'_> {
        lock(&self.state).is_held = true;
        Held(self)
    }

    /// Writes what waits, unless others are about to add to it.
    fn write_or_wait(&self, mut state: MutexGuard<'_, State>, has_others: bool) {
        let is_whole = state.groups.is_whole() && !has_others && !state.is_held;
        match state.turn {
            Turn::Soon if is_whole => state.turn = Turn::Free,
            Turn::Free if !is_whole => {
                state.turn = Turn::Soon;
                // Whoever holds it looks again anyway.
                if !state.is_held {
                    drop(state);
                    self.task.notify_one();
                }
                return;
            }
            Turn::Free | Turn::Taken | Turn::Blocked | Turn::Soon => {}
        }
        drop(state);
        self.write();
    }

    /// A frame of that length goes to ractor, from where it comes back as one of ractor's.
    pub(super) fn expect(&self, length: usize) -> Result<(), Untaken> {
        let mut state = lock(&self.state);
        if state.is_closed {
            return Err(Untaken::Closed);
        }
        if !state.has_place_for(length) {
            return Err(Untaken::Full);
        }
        state.in_ractor_bytes += length;
        state.in_ractor.push_back(length);
        Ok(())
    }

    /// Adds a whole frame of ractor's, with its head; it is written by the next [`write`](Self::write).
    pub(super) fn add_ractors(&self, frame: Vec<u8>, carries: Carries) {
        let mut state = lock(&self.state);
        if state.is_closed {
            return;
        }
        if carries == Carries::Node
            && let Some(length) = state.in_ractor.pop_front()
        {
            state.in_ractor_bytes -= length;
        }
        state.add(Piece {
            head: None,
            body: frame,
            written: 0,
        });
        state.ractor_until = state.added;
    }

    /// Waits until ractor's writer is not far ahead of the socket.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_written(cx, RACTOR_AHEAD_MAX)
    }

    /// Waits until all of ractor's frames are written.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_written(cx, 0)
    }

    fn poll_written(&self, cx: &mut Context<'_>, ahead: u64) -> Poll<io::Result<()>> {
        let mut state = lock(&self.state);
        if state.is_closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let until = state.ractor_until.saturating_sub(ahead);
        if state.written >= until {
            return Poll::Ready(Ok(()));
        }
        state.waiter = Some((until, cx.waker().clone()));
        Poll::Pending
    }

    /// Whether little enough waits.
    pub(super) fn has_room(&self) -> bool {
        let state = lock(&self.state);
        state.bytes + state.in_ractor_bytes < BYTES_ROOM
    }

    /// How many frames wait.
    pub(super) fn frames(&self) -> usize {
        let state = lock(&self.state);
        state.frames + state.in_ractor.len()
    }

    /// Writes what waits, as far as the socket takes it, unless that is somebody else's turn.
    pub(super) fn write(&self) {
        self.write_in_turn(Turn::Free, ROUNDS_MAX);
    }

    fn write_in_turn(&self, turn: Turn, rounds_max: usize) {
        let mut state = lock(&self.state);
        if state.turn != turn {
            return;
        }
        for _ in 0..rounds_max {
            if state.queue.is_empty() {
                state.turn = Turn::Free;
                return;
            }
            let Some(socket) = state.socket.clone() else {
                // It comes with ractor's session, or is gone for ever.
                state.turn = Turn::Free;
                return;
            };
            state.turn = Turn::Taken;
            let mut batch = std::mem::take(&mut state.queue);
            state.groups.written();
            drop(state);
            let (frames, bytes, result) = write_to(&socket, &mut batch);
            state = lock(&self.state);
            if state.is_closed {
                return;
            }
            state.frames -= frames;
            state.bytes -= bytes;
            state.written += bytes as u64;
            if result.is_err() {
                // Who reads from the socket comes to its end, too, and ends the link.
                state.close();
                break;
            }
            let written = state.written;
            if let Some((_, waker)) = state.waiter.take_if(|(until, _)| written >= *until) {
                waker.wake();
            }
            if !batch.is_empty() {
                batch.append(&mut state.queue);
                state.queue = batch;
                break;
            }
        }
        if !state.is_closed {
            state.turn = if state.queue.is_empty() {
                Turn::Free
            } else {
                Turn::Blocked
            };
        }
        let is_due = state.turn == Turn::Blocked || state.is_closed;
        drop(state);
        if is_due {
            self.task.notify_one();
        }
    }

    /// The writer's task.
    async fn run(self: Arc<Self>) {
        loop {
            let (turn, socket) = {
                let state = lock(&self.state);
                if state.is_closed {
                    return;
                }
                (state.turn, state.socket.clone())
            };
            let socket = match (turn, socket) {
                (Turn::Blocked, Some(socket)) => socket,
                (Turn::Soon, _) => {
                    for _ in 0..TURNS_MAX {
                        tokio::task::yield_now().await;
                        if lock(&self.state).groups.is_whole() {
                            break;
                        }
                    }
                    self.write_in_turn(Turn::Soon, ROUNDS_MAX);
                    continue;
                }
                (Turn::Free | Turn::Taken | Turn::Blocked, _) => {
                    self.task.notified().await;
                    continue;
                }
            };
            tokio::select! {
                ready = socket.writable() => if ready.is_err() {
                    return self.close();
                },
                // Closed, most likely.
                () = self.task.notified() => continue,
            }
            drop(socket);
            self.write_in_turn(Turn::Blocked, ROUNDS_MAX);
        }
    }
}

/// What is sent meanwhile leaves together, at the end.
pub(super) struct Held<'a>(&'a Outgoing);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.is_held = false;
        if state.turn == Turn::Soon {
            state.turn = Turn::Free;
            self.0.write_or_wait(state, false);
        }
    }
}

impl State {
    fn has_place_for(&self, length: usize) -> bool {
        self.frames + self.in_ractor.len() < FRAMES_MAX
            && self.bytes + self.in_ractor_bytes + length <= BYTES_MAX
    }

    fn add(&mut self, piece: Piece) {
        self.frames += 1;
        self.bytes += piece.len();
        self.added += piece.len() as u64;
        self.queue.push_back(piece);
    }

    fn close(&mut self) {
        self.is_closed = true;
        self.socket = None;
        self.queue = VecDeque::new();
        (self.frames, self.bytes) = (0, 0);
        self.in_ractor = VecDeque::new();
        self.in_ractor_bytes = 0;
        if let Some((_, waker)) = self.waiter.take() {
            waker.wake();
        }
    }
}

/// Writes what the socket takes: how many frames came to their end, and how many bytes these were.
fn write_to(
    socket: &OwnedWriteHalf,
    batch: &mut VecDeque<Piece>,
) -> (usize, usize, io::Result<()>) {
    let (mut frames, mut bytes) = (0, 0);
    while !batch.is_empty() {
        let mut slices = [IoSlice::new(&[]); 2 * AT_ONCE_MAX];
        let parts = batch.iter().take(AT_ONCE_MAX).flat_map(Piece::rest);
        let parts = parts.filter(|part| !part.is_empty());
        let mut count = 0;
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
            count += 1;
        }
        let mut n = match socket.try_write_vectored(&slices[..count]) {
            Ok(0) => return (frames, bytes, Err(io::ErrorKind::WriteZero.into())),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return (frames, bytes, Err(e)),
        };
        bytes += n;
        while let Some(first) = batch.front_mut() {
            let left = first.len() - first.written;
            if n < left {
                first.written += n;
                break;
            }
            n -= left;
            frames += 1;
            batch.pop_front();
        }
    }
    (frames, bytes, Ok(()))
}

#[cfg(test)]
#[path = "outgoing_tests.rs"]
mod tests;
