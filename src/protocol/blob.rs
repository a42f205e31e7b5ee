//! Bytes that are passed on as they are: calls, replies and states. Most are short, and there are many of them, so that a
//! short one is in the value itself: it costs no allocation, no count of its holders, and no look at other memory.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::hint::black_box;
use std::ops::Deref;

use bytes::Bytes;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest that is short: a value is not larger for it than for one that is shared.
pub(crate) const SHORT_MAX: usize = 3 * size_of::<usize>() - 1;

/// Bytes that do not change; a copy of long ones shares them.
#[derive(Clone)]
pub struct Blob(Repr);

#[derive(Clone)]
enum Repr {
    Short { len: u8, bytes: [u8; SHORT_MAX] },
    Long(Bytes),
}

impl Blob {
    /// No bytes.
    pub const EMPTY: Self = Self(Repr::Short {
        len: 0,
        bytes: [0; SHORT_MAX],
    });

    /// So many of these bytes.
    ///
    /// # Panics
    /// When there are not so many.
    pub(crate) fn short(bytes: [u8; SHORT_MAX], len: usize) -> Self {
        assert!(len <= SHORT_MAX, "no more than there are");
        let len = len as u8;
        Self(Repr::Short { len, bytes })
    }

    /// Reads the end of its own memory, so that it is near when it is needed.
    pub(crate) fn prefetch(&self) {
        if let Repr::Short { bytes, .. } = &self.0 {
            black_box(bytes[SHORT_MAX - 1]);
        }
    }
}

impl Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Repr::Short { len, bytes } => &bytes[..usize::from(*len)],
            Repr::Long(bytes) => bytes,
        }
    }
}

impl From<&[u8]> for Blob {
    /// A copy, with no room beside it.
    fn from(from: &[u8]) -> Self {
        match u8::try_from(from.len()) {
            Ok(len) if from.len() <= SHORT_MAX => {
                let mut bytes = [0; SHORT_MAX];
                bytes[..from.len()].copy_from_slice(from);
                Self(Repr::Short { len, bytes })
            }
            _ => Self(Repr::Long(Bytes::copy_from_slice(from))),
        }
    }
}

impl<const N: usize> From<&[u8; N]> for Blob {
    fn from(from: &[u8; N]) -> Self {
        from[..].into()
    }
}

impl From<Vec<u8>> for Blob {
    fn from(from: Vec<u8>) -> Self {
        if from.len() <= SHORT_MAX {
            from[..].into()
        } else {
            Self(Repr::Long(from.into()))
        }
    }
}

impl Default for Blob {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl PartialEq for Blob {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Blob {}

impl PartialOrd for Blob {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Blob {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

impl Hash for Blob {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.escape_ascii())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(self)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_bytes(Read)
    }
}

struct Read;

impl Visitor<'_> for Read {
    type Value = Blob;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Blob, E> {
        Ok(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_short_takes_no_more_room_than_what_is_shared() {
        assert_eq!(size_of::<Blob>(), size_of::<Bytes>());
    }

    #[test]
    fn long_or_short_it_is_the_same_bytes() {
        for len in [0, 1, SHORT_MAX, SHORT_MAX + 1, 1_000] {
            let bytes: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let blob = Blob::from(&bytes[..]);
            assert_eq!(*blob, *bytes);
            assert_eq!(blob, Blob::from(bytes.clone()));
            let written = postcard::to_stdvec(&blob).expect("it encodes");
            assert_eq!(postcard::from_bytes(&written), Ok(blob.clone()));
            assert_eq!(postcard::to_stdvec(&Bytes::from(bytes)), Ok(written));
        }
        assert!(Blob::from(b"a") < Blob::from(b"b"));
    }
}
