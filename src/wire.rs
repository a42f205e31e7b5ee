//! The bytes between nodes: versioned envelopes, decoded by code that returns an error, never panics, and never
//! allocates by what the sender claims (postcard borrows from the input, and serde caps what it reserves).
//!
//! ```text
//!   frame of a part:  version, cluster, epoch, number, taken, message, message, …
//!   control frame:    version, message
//! ```

use std::cell::Cell;

use postcard::ser_flavors::Flavor;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::WAITING_BYTES_MIN;
use crate::error::Crash;
use crate::protocol::SHARDS;
use crate::protocol::blob::{Blob, SHORT_MAX};
use crate::protocol::members;
use crate::protocol::ring::Raw;
use crate::protocol::shard::{Copied, Msg};
use crate::protocol::types::{ClusterId, Epoch, Key, KeyRef, Kind};

/// The version of everything in this file. Nodes of different versions refuse each other's frames.
const VERSION: u8 = 6;

/// The most bytes of messages in one frame before the next one is begun. A message may be larger by itself.
pub(crate) const FRAME_BYTES: usize = 256 * 1024;

/// The largest control message.
const CONTROL_BYTES_MAX: usize = 1024 * 1024;

/// The largest state, call or reply: well below what the transport takes in one piece.
pub(crate) const VALUE_BYTES_MAX: usize = 4 * 1024 * 1024;

// One largest call and its reply fit into what may wait in one part, beside the share of parked messages.
const _: () = assert!(WAITING_BYTES_MIN >= SHARDS * 4 * VALUE_BYTES_MAX);

/// Why bytes are not what they should be. Nothing of them was used beyond the messages before the defect.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    /// Another version of the protocol.
    #[error("version {0} instead of {VERSION}: run the same version on every node")]
    Version(u8),
    /// Not an encoding of what it should be.
    #[error("malformed")]
    Malformed,
}

/// What a frame says besides its messages.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Header {
    version: u8,
    /// The sender's cluster.
    pub(crate) cluster: ClusterId,
    /// The epoch of the messages, and of what `taken` says.
    pub(crate) epoch: Epoch,
    /// The frame's number, if its sender waits until it hears that the frame was taken in; 0 otherwise. No two frames
    /// of one life of a node have the same.
    pub(crate) number: u64,
    /// A frame of the receiver that the sender has taken in.
    pub(crate) taken: Option<Taken>,
}

/// A frame was taken in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Taken {
    /// Which.
    pub(crate) number: u64,
    /// What became of its Puts and Holds: as so many acknowledgements, in a few bytes.
    pub(crate) copies: Copies,
}

/// What became of the Puts and Holds of a frame.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Copies {
    /// None of them counts: the receiver is in another epoch than they were.
    Void,
    /// All are kept but for these, by their place among those of the frame.
    Kept { but: Vec<u32> },
}

impl Header {
    pub(crate) fn new(cluster: ClusterId, epoch: Epoch, number: u64, taken: Option<Taken>) -> Self {
        Self {
            version: VERSION,
            cluster,
            epoch,
            number,
            taken,
        }
    }
}

/// The most room that a [`Frame`] keeps for the next one.
const FRAME_ROOM_MAX: usize = 64 * 1024;

/// A frame being written; afterwards it is empty, and has room for the next one.
#[derive(Debug, Default)]
pub(crate) struct Frame {
    body: Vec<u8>,
}

impl Frame {
    /// Appends a message.
    pub(crate) fn push(&mut self, msg: &Msg) {
        append(msg, &mut self.body);
    }

    /// Appends a Put or a Hold, as [`push`](Self::push) would: there are many of them, and no message to begin with.
    pub(crate) fn copy(&mut self, key: &Key, copied: Copied<'_>) {
        let Copied {
            is_hold,
            gen_,
            ver,
            data,
        } = copied;
        let tag = if is_hold { HOLD } else { PUT };
        append(
            &(tag, key.kind(), key.name(), gen_, ver, Raw(data)),
            &mut self.body,
        );
    }

    /// Whether the frame should be sent before more is added.
    pub(crate) fn is_full(&self) -> bool {
        self.body.len() >= FRAME_BYTES
    }

    /// How many bytes of messages are in it.
    pub(crate) fn len(&self) -> usize {
        self.body.len()
    }

    /// The bytes to send.
    pub(crate) fn finish(&mut self, header: Header) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.body.len() + 40);
        append(&header, &mut bytes);
        bytes.extend_from_slice(&self.body);
        self.body.clear();
        self.body.shrink_to(FRAME_ROOM_MAX);
        bytes
    }
}

/// Reads a frame: its header, and its messages up to the end or the first defect.
pub(crate) fn read_frame(bytes: &[u8]) -> Result<(Header, Messages<'_>), DecodeError> {
    check_version(bytes)?;
    let (header, rest) = postcard::take_from_bytes(bytes).map_err(|_| DecodeError::Malformed)?;
    Ok((header, Messages { rest }))
}

/// What postcard writes before a [`Msg::Put`].
const PUT: u8 = 3;

/// What it writes before a [`Msg::Hold`].
const HOLD: u8 = 5;

/// A message of a frame; of a Put or a Hold, which there are many of, nothing is copied.
#[derive(Debug)]
pub(crate) enum Read<'a> {
    /// A [`Msg::Put`], or a [`Msg::Hold`].
    Copy(KeyRef<'a>, Copied<'a>),
    /// Any other.
    Other(Msg),
}

impl Read<'_> {
    /// Which key it is about.
    pub(crate) fn key(&self) -> Option<KeyRef<'_>> {
        match self {
            Self::Copy(key, _) => Some(*key),
            Self::Other(msg) => msg.key().map(Key::borrowed),
        }
    }

    /// The message itself.
    pub(crate) fn into_msg(self) -> Msg {
        match self {
            Self::Copy(key, copied) => copied.to_msg(key.to_key()),
            Self::Other(msg) => msg,
        }
    }
}

/// The messages of a frame.
#[derive(Debug)]
pub(crate) struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    fn take(&mut self) -> Option<Read<'a>> {
        let tag = self.rest[0];
        let (read, rest) = if tag == PUT || tag == HOLD {
            type Copy<'a> = (u8, Kind, &'a [u8], Epoch, u64, &'a [u8]);
            let (copy, rest) = postcard::take_from_bytes::<Copy<'a>>(self.rest).ok()?;
            let (_, kind, name, gen_, ver, data) = copy;
            let key = KeyRef::read(kind, name)?;
            let copied = Copied {
                is_hold: tag == HOLD,
                gen_,
                ver,
                data,
            };
            (Read::Copy(key, copied), rest)
        } else {
            let (msg, rest) = postcard::take_from_bytes(self.rest).ok()?;
            (Read::Other(msg), rest)
        };
        self.rest = rest;
        Some(read)
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Read<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        Some(self.take().ok_or_else(|| {
            self.rest = &[];
            DecodeError::Malformed
        }))
    }
}

/// The bytes of a control message.
pub(crate) fn control(msg: &members::Msg) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    append(msg, &mut bytes);
    bytes
}

/// Reads a control message.
pub(crate) fn read_control(bytes: &[u8]) -> Result<members::Msg, DecodeError> {
    check_version(bytes)?;
    // No view is that large; a list of tiny entries would be many times larger in memory.
    if bytes.len() > CONTROL_BYTES_MAX {
        return Err(DecodeError::Malformed);
    }
    postcard::from_bytes(&bytes[1..]).map_err(|_| DecodeError::Malformed)
}

fn check_version(bytes: &[u8]) -> Result<(), DecodeError> {
    match bytes.first() {
        Some(&VERSION) => Ok(()),
        Some(&other) => Err(DecodeError::Version(other)),
        None => Err(DecodeError::Malformed),
    }
}

fn append<T: Serialize>(value: &T, to: &mut Vec<u8>) {
    write(value, to).expect("our own messages have an encoding");
}

/// Appends the encoding of a value.
fn write<T: Serialize + ?Sized>(value: &T, to: &mut Vec<u8>) -> postcard::Result<()> {
    postcard::serialize_with_flavor(value, Appended(to))
}

/// Where postcard writes to: its own ways to append to a vector pass it on by value, and grow it byte by byte.
struct Appended<'a>(&'a mut Vec<u8>);

impl Flavor for Appended<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Why the owner's node did not carry a call out; travels as the protocol's opaque reason.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum CallFailure {
    /// The actor crashed on it.
    Crashed(Crash),
    /// Nobody registered that server type there.
    NoSuchType(String),
    /// The call, the reply or the state has no encoding, or is too large.
    Codec(String),
}

/// A value being encoded. Most are short, and are where they are passed on from.
struct Encoded {
    short: [u8; SHORT_MAX],
    len: usize,
    /// Longer ones are in the thread's buffer.
    long: Option<Vec<u8>>,
}

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The most room that is kept in it for the next value.
const BUFFER_MAX: usize = 64 * 1024;

impl Encoded {
    /// Encodes a value of a server type, within [`VALUE_BYTES_MAX`].
    #[inline(always)]
    fn new<T: Serialize>(value: &T) -> Result<Self, String> {
        let mut this = Self {
            short: [0; SHORT_MAX],
            len: 0,
            long: None,
        };
        postcard::serialize_with_flavor(value, Encoder(&mut this))
            .map_err(|e| format!("serializing failed: {e}"))?;
        let len = this.bytes().len();
        if len > VALUE_BYTES_MAX {
            return Err(format!("{len} bytes, and the limit is {VALUE_BYTES_MAX}"));
        }
        Ok(this)
    }

    fn bytes(&self) -> &[u8] {
        match &self.long {
            None => &self.short[..self.len],
            Some(long) => long,
        }
    }

    #[inline(always)]
    fn into_blob(self) -> Blob {
        match self.long {
            None => Blob::short(self.short, self.len),
            Some(long) => {
                // What waits is counted by its length: no room beside it.
                let blob = Blob::from(&long[..]);
                give_back(long);
                blob
            }
        }
    }

    #[cold]
    fn grow(&mut self) -> &mut Vec<u8> {
        // Taken, not borrowed: how a value is serialized is user code.
        let mut long = BUFFER.take();
        long.clear();
        long.extend_from_slice(&self.short[..self.len]);
        self.long.insert(long)
    }
}

fn give_back(long: Vec<u8>) {
    if long.capacity() <= BUFFER_MAX {
        BUFFER.set(long);
    }
}

struct Encoder<'a>(&'a mut Encoded);

impl Flavor for Encoder<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        let Encoded { short, len, long } = &mut *self.0;
        if long.is_none()
            && let Some(room) = short.get_mut(*len..*len + bytes.len())
        {
            room.copy_from_slice(bytes);
            *len += bytes.len();
        } else {
            let long = match long {
                Some(long) => long,
                None => self.0.grow(),
            };
            long.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Encodes a value of a server type, within [`VALUE_BYTES_MAX`].
pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Blob, String> {
    Encoded::new(value).map(Encoded::into_blob)
}

/// The same, unless it has that encoding.
pub(crate) fn encode_if_changed<T: Serialize>(
    value: &T,
    before: &[u8],
) -> Result<Option<Blob>, String> {
    let encoded = Encoded::new(value)?;
    if encoded.bytes() != before {
        return Ok(Some(encoded.into_blob()));
    }
    if let Some(long) = encoded.long {
        give_back(long);
    }
    Ok(None)
}

/// Decodes a value of a server type.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    postcard::from_bytes(bytes).map_err(|e| format!("deserializing failed: {e}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::shard::{Answer, Report, Request};
    use crate::protocol::types::RequestId;

    fn header() -> Header {
        let copies = Copies::Kept { but: vec![3, 300] };
        Header::new(ClusterId(7), Epoch(3), 2, Some(Taken { number: 9, copies }))
    }

    fn key(name: &str) -> Key {
        Key::new(Kind::of("player"), name)
    }

    fn messages() -> Vec<Msg> {
        let data = Blob::from(b"state");
        let id = Some(RequestId(1 << 100));
        vec![
            Msg::Claim {
                key: key("a"),
                rests: 3,
            },
            Msg::Put {
                key: key("b"),
                gen_: Epoch(3),
                ver: 300,
                data: data.clone(),
            },
            Msg::Hold {
                key: key("b"),
                gen_: Epoch(2),
                ver: 1,
                data: data.clone(),
            },
            Msg::Forward {
                key: key("c"),
                token: 9,
                request: Request {
                    id,
                    payload: data,
                    again: true,
                    span: 300,
                },
            },
            Msg::Reply {
                token: 9,
                answer: Answer::Overloaded,
            },
            Msg::Done { heard: true },
            Msg::Inquire { key: key("d") },
            Msg::Report {
                key: key("d"),
                report: Report::Copy {
                    gen_: Epoch(2),
                    ver: 1,
                    data: Blob::from(b"copy"),
                },
            },
        ]
    }

    #[test]
    fn a_frame_reads_back_as_it_was_written() {
        let mut frame = Frame::default();
        messages().iter().for_each(|msg| frame.push(msg));
        let bytes = frame.finish(header());
        let (read, messages_read) = read_frame(&bytes).expect("a frame");
        assert_eq!(read, header());
        assert_eq!(
            messages_read
                .map(|read| read.map(Read::into_msg))
                .collect::<Result<Vec<_>, _>>()
                .expect("messages"),
            messages()
        );
    }

    #[test]
    fn a_finished_frame_is_empty_and_keeps_a_little_room() {
        let mut frame = Frame::default();
        for bytes in [10, 2 * FRAME_ROOM_MAX] {
            let (mut state, mut once) = (Vec::new(), Frame::default());
            state.resize(bytes, 7);
            for frame in [&mut frame, &mut once] {
                frame.copy(&key("b"), copied(false, &state));
            }
            assert_eq!(frame.finish(header()), once.finish(header()));
            assert_eq!(frame.len(), 0);
            assert!((1..=FRAME_ROOM_MAX).contains(&frame.body.capacity()));
        }
    }

    #[test]
    fn a_truncated_frame_yields_what_came_before_the_cut_and_then_one_error() {
        let mut frame = Frame::default();
        messages().iter().for_each(|msg| frame.push(msg));
        let bytes = frame.finish(header());
        for cut in 0..bytes.len() {
            let Ok((_, read)) = read_frame(&bytes[..cut]) else {
                continue;
            };
            let read: Vec<_> = read.map(|read| read.map(Read::into_msg)).collect();
            let whole = read.iter().take_while(|msg| msg.is_ok()).count();
            assert!(read.len() - whole <= 1);
            for (msg, expected) in read.iter().take(whole).zip(messages()) {
                assert_eq!(msg.as_ref().ok(), Some(&expected));
            }
        }
    }

    #[test]
    fn another_version_is_named() {
        assert_eq!(
            read_control(&[9, 1, 2]).err(),
            Some(DecodeError::Version(9))
        );
        assert_eq!(read_frame(&[]).err(), Some(DecodeError::Malformed));
    }

    #[test]
    fn a_claimed_length_reserves_nothing() {
        // A Put whose state claims to be 2^63 bytes long.
        let mut frame = Frame::default();
        frame.push(&Msg::Put {
            key: key("b"),
            gen_: Epoch(1),
            ver: 1,
            data: Blob::EMPTY,
        });
        let mut bytes = frame.finish(header());
        bytes.pop();
        bytes.extend_from_slice(&[0xff; 9]);
        bytes.push(0x01);
        let (_, mut read) = read_frame(&bytes).expect("the header is whole");
        assert_eq!(
            read.next().map(Result::err),
            Some(Some(DecodeError::Malformed))
        );
        assert!(read.next().is_none());
    }

    fn copied(is_hold: bool, data: &[u8]) -> Copied<'_> {
        Copied {
            is_hold,
            gen_: Epoch(1_000),
            ver: 2_000_000,
            data,
        }
    }

    #[test]
    fn a_copy_is_written_without_a_message_as_it_is_with_one() {
        let (mut with, mut without) = (Frame::default(), Frame::default());
        for is_hold in [false, true] {
            let copied = copied(is_hold, b"state");
            without.copy(&key("b"), copied);
            with.push(&copied.to_msg(key("b")));
        }
        assert_eq!(with.finish(header()), without.finish(header()));
    }

    #[test]
    fn a_put_of_a_name_that_no_actor_has_is_malformed() {
        let mut frame = Frame::default();
        frame.copy(&key("a\nb"), copied(false, b""));
        let bytes = frame.finish(header());
        let (_, mut read) = read_frame(&bytes).expect("the header is whole");
        assert!(read.next().is_some_and(|read| read.is_err()));
    }

    #[test]
    fn a_reward_of_a_name_of_16_bytes_costs_at_most_48_bytes() {
        let mut frame = Frame::default();
        let snapshot = [0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
        frame.copy(&key("player0123456789"), copied(false, &snapshot));
        assert!(frame.body.len() <= 48, "{}", frame.body.len());
    }

    #[test]
    fn a_value_has_one_encoding_however_long_it_is() {
        let lengths = [
            0,
            1,
            SHORT_MAX - 1,
            SHORT_MAX,
            SHORT_MAX + 1,
            127,
            200,
            BUFFER_MAX + 1,
        ];
        for length in lengths.into_iter().chain(lengths) {
            let value = ("x".repeat(length), 300_u64, "y".repeat(length % 7));
            let written = postcard::to_stdvec(&value).expect("it has an encoding");
            let encoded = encode(&value).expect("it is not too long");
            assert_eq!(*encoded, *written);
            assert_eq!(encode_if_changed(&value, &written), Ok(None));
            let mut before = written.clone();
            before[length / 2] ^= 1;
            for before in [&before[..], &written[1..]] {
                let changed = encode_if_changed(&value, before);
                assert_eq!(changed, Ok(Some(encoded.clone())));
            }
        }
        let too_long = "x".repeat(VALUE_BYTES_MAX);
        assert!(encode(&too_long).is_err_and(|reason| reason.contains("the limit is 4194304")));
        assert!(encode_if_changed(&too_long, b"").is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..512), ours: bool) {
            if ours && !bytes.is_empty() {
                bytes[0] = VERSION;
            }
            let _ = read_control(&bytes);
            if let Ok((_, messages)) = read_frame(&bytes) {
                let _ = messages.count();
            }
            let _ = decode::<CallFailure>(&bytes);
            let _ = decode::<crate::protocol::ring::Snapshot>(&bytes);
        }

        /// Valid frames with a few bytes changed, cut or doubled: as close to the real ones as hostile bytes come.
        #[test]
        fn a_frame_that_was_touched_never_panics_nor_says_more_than_it_holds(
            changes in proptest::collection::vec((any::<usize>(), any::<u8>(), 0_u8..3), 1..8),
        ) {
            let mut frame = Frame::default();
            messages().iter().for_each(|msg| frame.push(msg));
            let mut bytes = frame.finish(header());
            for (at, with, how) in changes {
                let at = at % bytes.len().max(1);
                match how {
                    0 if !bytes.is_empty() => bytes[at] ^= with,
                    1 => bytes.truncate(at),
                    _ => {
                        let tail = bytes[at.min(bytes.len())..].to_vec();
                        bytes.extend(tail);
                    }
                }
                bytes.truncate(4_096);
            }
            if let Ok((_, messages)) = read_frame(&bytes) {
                // Every message takes a byte at least, and what it carries is in the frame.
                let mut carried = 0;
                for read in messages.flatten() {
                    carried += 1;
                    let msg = read.into_msg();
                    if let Msg::Put { data, .. } | Msg::Grant { data, .. } | Msg::Hold { data, .. } = msg {
                        carried += data.len();
                    }
                }
                prop_assert!(carried <= bytes.len());
            }
            let _ = read_control(&bytes);
        }
    }
}
