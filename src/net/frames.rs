//! The frames in a link's bytes: those of ractor, and between them those of the parts of the key space.
//!
//! ```text
//!   ractor's    length: 8 bytes, big endian                          so many bytes of protobuf
//!   a part's    1, lane, ties, 0, length: 4 bytes, big endian        so many bytes for that part
//! ```
//! No frame of ractor's is so long that its first byte is not 0: the first byte tells which of the two a frame is.

use super::PAYLOAD_MAX;

/// The longest frame of ractor's, the same as its default.
pub(super) const FRAME_MAX: u64 = ractor_cluster::DEFAULT_MAX_INBOUND_FRAME_SIZE;
/// The first byte of a part's frame.
pub(super) const PART: u8 = 1;
/// The most lanes, so that each has its bit.
pub(super) const LANES_MAX: usize = 64;

/// The bytes before a frame.
pub(super) type Head = [u8; 8];

const _: () = assert!(FRAME_MAX < (PART as u64) << 56 && PAYLOAD_MAX <= u32::MAX as usize);

/// What a frame of ractor's carries, as its first byte says: the field of ractor's `NetworkMessage`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Carries {
    Auth = 0x0a,
    Node = 0x12,
    Control = 0x1a,
}

/// Why a frame cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Impossible {
    Oversized,
    Malformed,
}

/// Follows the frames of ractor's in one direction.
#[derive(Debug, Default)]
pub(super) struct Meter {
    head: Head,
    head_filled: usize,
    /// Bytes of the frame's body that are still to come.
    body_left: u64,
    carries: Option<Carries>,
}

impl Meter {
    /// Goes on by these bytes, but not beyond the end of the frame: by how many, and what it carries if it ends there.
    pub(super) fn next(&mut self, bytes: &[u8]) -> Result<(usize, Option<Carries>), Impossible> {
        let mut rest = bytes;
        if self.head_filled < self.head.len() {
            fill(&mut self.head, &mut self.head_filled, &mut rest);
            if self.head_filled < self.head.len() {
                return Ok((bytes.len(), None));
            }
            self.body_left = u64::from_be_bytes(self.head);
            if self.body_left > FRAME_MAX {
                return Err(Impossible::Oversized);
            }
            if self.body_left == 0 {
                return Err(Impossible::Malformed);
            }
        }
        let Some(first) = rest.first() else {
            return Ok((bytes.len(), None));
        };
        let carries = match self.carries {
            Some(carries) => carries,
            None => match first {
                0x0a => Carries::Auth,
                0x12 => Carries::Node,
                0x1a => Carries::Control,
                _ => return Err(Impossible::Malformed),
            },
        };
        let n = usize::try_from(self.body_left)
            .unwrap_or(usize::MAX)
            .min(rest.len());
        let taken = bytes.len() - rest.len() + n;
        self.body_left -= n as u64;
        if self.body_left == 0 {
            *self = Self::default();
            return Ok((taken, Some(carries)));
        }
        self.carries = Some(carries);
        Ok((taken, None))
    }

    /// Whether the next byte is the first of a frame.
    fn is_between(&self) -> bool {
        self.head_filled == 0
    }
}

/// How a part's frame hangs together with those of the other direction: see [`groups`](super::groups).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Ties {
    /// Its sender waits, before it sends the next one of that lane, until it hears that this one was taken in.
    pub(crate) asks: bool,
    /// It says that one was.
    pub(crate) answers: bool,
}

impl Ties {
    /// Of a frame that answers, and asks nothing.
    pub(super) const ANSWERS: Self = Self {
        asks: false,
        answers: true,
    };

    fn to_bits(self) -> u8 {
        u8::from(self.asks) | u8::from(self.answers) << 1
    }

    fn from_bits(bits: u8) -> Option<Self> {
        (bits < 4).then_some(Self {
            asks: bits & 1 != 0,
            answers: bits & 2 != 0,
        })
    }
}

/// The head of a part's frame.
pub(super) fn head(lane: usize, ties: Ties, length: usize) -> Head {
    debug_assert!(lane < LANES_MAX && length <= PAYLOAD_MAX);
    let [a, b, c, d] = (length as u32).to_be_bytes();
    [PART, lane as u8, ties.to_bits(), 0, a, b, c, d]
}

/// The lane, the ties and the length that a head says, if it is one of a part's frame.
fn read_head(head: Head, parts: usize) -> Result<(usize, Ties, usize), Impossible> {
    let [PART, lane, ties, 0, length @ ..] = head else {
        return Err(Impossible::Malformed);
    };
    let lane = usize::from(lane);
    let Some(ties) = Ties::from_bits(ties).filter(|_| lane < parts) else {
        return Err(Impossible::Malformed);
    };
    match usize::try_from(u32::from_be_bytes(length)) {
        Ok(length) if length <= PAYLOAD_MAX => Ok((lane, ties, length)),
        _ => Err(Impossible::Oversized),
    }
}

/// A whole frame of a part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Frame {
    /// For which part.
    pub(super) lane: usize,
    /// How it hangs together with others.
    pub(super) ties: Ties,
    /// What it says.
    pub(super) body: Vec<u8>,
}

/// What the next bytes of a link are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// So many are ractor's, and end a frame that carries this.
    Ractor(usize, Option<Carries>),
    /// So many are of a part's frame; the frame if they end it.
    Part(usize, Option<Frame>),
}

/// Tells the frames of the parts from ractor's.
#[derive(Debug)]
pub(super) struct Splitter {
    /// How many lanes have frames of their own.
    parts: usize,
    meter: Meter,
    part: Part,
}

/// A part's frame that is being read.
#[derive(Debug, Default)]
struct Part {
    head: Head,
    head_filled: usize,
    lane: usize,
    ties: Ties,
    length: usize,
    /// Grows by what arrives, whatever the head says.
    body: Vec<u8>,
}

impl Splitter {
    pub(super) fn new(parts: usize) -> Self {
        Self {
            parts,
            meter: Meter::default(),
            part: Part::default(),
        }
    }

    /// Goes on by these bytes, at least one and at most to the end of the frame; by no more than `ractor_max` that
    /// are ractor's.
    pub(super) fn next(&mut self, bytes: &[u8], ractor_max: usize) -> Result<Step, Impossible> {
        let is_part = self.part.head_filled > 0
            || self.meter.is_between() && bytes.first().is_some_and(|first| *first == PART);
        if is_part {
            let (n, frame) = self.part.next(bytes, self.parts)?;
            return Ok(Step::Part(n, frame));
        }
        let (n, carries) = self.meter.next(&bytes[..bytes.len().min(ractor_max)])?;
        Ok(Step::Ractor(n, carries))
    }
}

impl Part {
    fn next(&mut self, bytes: &[u8], parts: usize) -> Result<(usize, Option<Frame>), Impossible> {
        let mut rest = bytes;
        if self.head_filled < self.head.len() {
            fill(&mut self.head, &mut self.head_filled, &mut rest);
            if self.head_filled < self.head.len() {
                return Ok((bytes.len(), None));
            }
            (self.lane, self.ties, self.length) = read_head(self.head, parts)?;
        }
        let n = rest.len().min(self.length - self.body.len());
        let taken = bytes.len() - rest.len() + n;
        self.body.extend_from_slice(&rest[..n]);
        if self.body.len() < self.length {
            return Ok((taken, None));
        }
        let Self {
            lane, ties, body, ..
        } = std::mem::take(self);
        Ok((taken, Some(Frame { lane, ties, body })))
    }
}

/// Moves bytes into a head until it is full or they are all.
fn fill(head: &mut Head, filled: &mut usize, bytes: &mut &[u8]) {
    let (some, rest) = bytes.split_at(bytes.len().min(head.len() - *filled));
    head[*filled..*filled + some.len()].copy_from_slice(some);
    *filled += some.len();
    *bytes = rest;
}

#[cfg(test)]
#[path = "frames_tests.rs"]
mod tests;
