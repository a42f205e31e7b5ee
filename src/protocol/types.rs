//! The vocabulary of the protocol: identities, keys and time, each a type of its own.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::defect::{Defect, Planted};

/// The longest name or address of a node that is read from a peer, in bytes: longer than any that a node can have.
const TEXT_BYTES_MAX: usize = 512;

/// The name of a node, `NAME@HOST`: it stays the same over restarts.
#[derive(Clone, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[expect(
    clippy::derived_hash_with_manual_eq,
    reason = "it compares what is hashed, but for what is the same memory"
)]
#[serde(try_from = "Arc<str>")]
pub struct NodeName(Arc<str>);

impl PartialEq for NodeName {
    /// Mostly both are copies of one.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl NodeName {
    /// Wraps a name as it is; who reads names from outside checks them first (see [`crate::config`]).
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The whole name, `NAME@HOST`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the `@`, which is how an operator calls the node.
    pub fn short(&self) -> &str {
        self.0.split('@').next().unwrap_or(&self.0)
    }
}

impl TryFrom<Arc<str>> for NodeName {
    type Error = &'static str;

    /// A name that a peer told: not longer than any can be.
    fn try_from(name: Arc<str>) -> Result<Self, &'static str> {
        if name.len() > TEXT_BYTES_MAX {
            return Err("no node's name is that long");
        }
        Ok(Self(name))
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One life of a node: its name, and an incarnation that strictly increases from life to life.
///
/// An evicted identity is never admitted again; the process wipes itself and takes a new incarnation.
#[derive(Clone, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[expect(
    clippy::derived_hash_with_manual_eq,
    reason = "it compares what is hashed, in another order"
)]
pub struct NodeId {
    /// The name, the same in every life.
    pub name: NodeName,
    /// Which life of that name this is.
    pub incarnation: u64,
}

impl PartialEq for NodeId {
    /// The incarnation first: no two nodes have the same but by chance.
    fn eq(&self, other: &Self) -> bool {
        self.incarnation == other.incarnation && self.name == other.name
    }
}

impl NodeId {
    /// The incarnation of a new life: a guess from the clock, and greater than that of the life before in any case.
    #[doc(hidden)]
    pub fn next_incarnation(clock: u64, before: Option<u64>, planted: Planted) -> u64 {
        match before {
            Some(before) if planted.has(Defect::Amnesia) => before,
            Some(before) => clock.max(before.saturating_add(1)),
            None => clock,
        }
    }

    /// The identity of one life of `name`.
    pub fn new(name: impl Into<Arc<str>>, incarnation: u64) -> Self {
        Self {
            name: NodeName::new(name),
            incarnation,
        }
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.name, self.incarnation)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A member as the others reach it: its identity, and the address that it listens on (`HOST:PORT`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Who it is.
    pub id: NodeId,
    /// Where it listens; a newer incarnation that answers there proves this one dead.
    #[serde(deserialize_with = "short")]
    pub addr: Arc<str>,
}

/// An address that a peer told: not longer than any can be.
fn short<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Arc<str>, D::Error> {
    let text = Arc::<str>::deserialize(from)?;
    if text.len() > TEXT_BYTES_MAX {
        return Err(serde::de::Error::custom("no address is that long"));
    }
    Ok(text)
}

/// Names one line of views. Minted at random by a node that starts alone, and by `forget --force`.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct ClusterId(pub u64);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Numbers the views of one cluster; each is decided once.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A reading of a node's own monotonic clock, or a span of it, in milliseconds.
///
/// The protocol has no clock: whoever drives it passes the time in.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Millis(pub u64);

impl std::ops::Add for Millis {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl std::ops::Sub for Millis {
    type Output = Self;
    /// The span from `other` to `self`, zero if `other` is later.
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

/// Which server type a key belongs to: a stable hash of the type's name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Kind(pub u32);

impl Kind {
    /// The kind of the server type called `name`, the same on every node.
    pub fn of(name: &str) -> Self {
        // The low half; the key's hash is seeded with it, so both halves count in the end.
        Self(xxhash_rust::xxh3::xxh3_64(name.as_bytes()) as u32)
    }
}

/// The longest name of an actor, in bytes.
pub const KEY_BYTES_MAX: usize = 255;

/// Names one actor in the cluster: its server type and its own name.
///
/// It is looked up several times for each request, so that it has its hash with it; and they are copied a lot, so that short
/// names are in the key itself.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "(Kind, SmolStr)", into = "(Kind, SmolStr)")]
pub struct Key {
    hash: u64,
    name: Unhashed,
}

/// A [`Key`] whose hash is elsewhere: there are millions of them at rest.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Unhashed {
    name: SmolStr,
    kind: Kind,
}

impl Unhashed {
    /// The key that has that hash.
    pub(crate) fn with(&self, hash: u64) -> Key {
        let name = self.clone();
        Key { hash, name }
    }

    /// The server type.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether it is that of that key.
    pub(crate) fn is(&self, key: KeyRef<'_>) -> bool {
        self.kind == key.kind && self.name.as_bytes() == key.name
    }
}

/// Whether there is nothing but printable ASCII in a name, as in most. All bytes are looked at, several at a time, instead of
/// one by one up to the first other one.
fn is_plain(name: &[u8]) -> bool {
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~');
    name.iter()
        .fold(true, |plain, byte| plain & is_plain(*byte))
}

impl Key {
    /// The key of the actor `name` of the server type `kind`.
    pub fn new(kind: Kind, name: impl Into<SmolStr>) -> Self {
        let name = name.into();
        let hash = KeyRef::new(kind, &name).hash;
        let name = Unhashed { name, kind };
        Self { hash, name }
    }

    /// Whether `name` can name an actor: 1 to [`KEY_BYTES_MAX`] bytes, without control characters.
    ///
    /// # Errors
    /// What is wrong with it, and what to do.
    pub fn check(name: &str) -> Result<(), &'static str> {
        if name.is_empty() {
            return Err("it is empty; give one of 1 to 255 bytes");
        }
        if name.len() > KEY_BYTES_MAX {
            return Err("it is longer than 255 bytes; give a shorter one");
        }
        if !is_plain(name.as_bytes()) && name.chars().any(char::is_control) {
            return Err("it has control characters; leave them out");
        }
        Ok(())
    }

    /// The same key, borrowed.
    pub fn borrowed(&self) -> KeyRef<'_> {
        KeyRef {
            hash: self.hash,
            kind: self.name.kind,
            name: self.name.name.as_bytes(),
        }
    }

    /// The bits that hashes of keys have. The others are free for what a table notes of a key; those tables go by the
    /// highest bits and by the lowest.
    pub const HASH_BITS: u64 = !(0b11 << 48);

    /// A hash of the whole key, the same on every node; of [62 bits](Self::HASH_BITS).
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The server type.
    pub fn kind(&self) -> Kind {
        self.name.kind
    }

    /// The actor's own name.
    pub fn name(&self) -> &str {
        &self.name.name
    }

    /// The key without its hash.
    pub(crate) fn into_unhashed(self) -> Unhashed {
        self.name
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    /// By name.
    fn cmp(&self, other: &Self) -> Ordering {
        self.name.cmp(&other.name)
    }
}

/// A [`Key`] whose name is another's: to look something up without an allocation.
#[derive(Clone, Copy, Debug)]
pub struct KeyRef<'a> {
    hash: u64,
    kind: Kind,
    /// Of a string, which is looked at as such only by who makes a key of it.
    name: &'a [u8],
}

impl<'a> KeyRef<'a> {
    /// The key of the actor `name` of the server type `kind`; the name is not [checked](Key::check).
    pub fn new(kind: Kind, name: &'a str) -> Self {
        Self::of(kind, name.as_bytes())
    }

    /// The same of a peer's bytes; none if they can name no actor.
    pub(crate) fn read(kind: Kind, name: &'a [u8]) -> Option<Self> {
        let is_name = |name: &[u8]| str::from_utf8(name).is_ok_and(|name| Key::check(name).is_ok());
        let is_short = (1..=KEY_BYTES_MAX).contains(&name.len());
        (is_short && is_plain(name) || is_name(name)).then(|| Self::of(kind, name))
    }

    fn of(kind: Kind, name: &'a [u8]) -> Self {
        let hash = xxhash_rust::xxh3::xxh3_64_with_seed(name, u64::from(kind.0));
        Self {
            hash: hash & Key::HASH_BITS,
            kind,
            name,
        }
    }

    /// A hash of the whole key, that of [`Key::hash`].
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Whether it is that key.
    pub fn is(&self, key: &Key) -> bool {
        self.hash == key.hash && key.name.is(*self)
    }

    /// The key itself.
    pub fn to_key(&self) -> Key {
        let name = str::from_utf8(self.name).expect("a name is a string");
        let (name, kind) = (name.into(), self.kind);
        Unhashed { name, kind }.with(self.hash)
    }
}

impl std::hash::Hash for Key {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// The hasher for maps by [`Key`], which has a good hash of its own.
#[derive(Clone, Default, Debug)]
pub struct KeyHasher(u64);

impl std::hash::Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes
            .iter()
            .for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = self.0.rotate_left(8) ^ hash;
    }
}

impl TryFrom<(Kind, SmolStr)> for Key {
    type Error = &'static str;

    /// A key of a peer: held to the same rules as one of a client.
    fn try_from((kind, name): (Kind, SmolStr)) -> Result<Self, &'static str> {
        Self::check(&name)?;
        Ok(Self::new(kind, name))
    }
}

impl From<Key> for (Kind, SmolStr) {
    fn from(key: Key) -> Self {
        (key.name.kind, key.name.name)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}/{}", self.kind().0, self.name())
    }
}

/// Names one request of a client, so that a retry is recognised (exactly once, invariant I3).
///
/// Whoever retries a request sends the same id again; two requests never share one.
// Packed, since requests are many and are passed on a lot: aligned to 16 bytes, each would take a quarter more. Written as
// 16 bytes, since the bytes of a number of variable length are written one by one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(from = "[u8; 16]", into = "[u8; 16]")]
#[repr(Rust, packed(8))]
pub struct RequestId(pub u128);

impl From<[u8; 16]> for RequestId {
    fn from(bytes: [u8; 16]) -> Self {
        Self(u128::from_le_bytes(bytes))
    }
}

impl From<RequestId> for [u8; 16] {
    fn from(id: RequestId) -> Self {
        id.0.to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_to_255_bytes_and_no_control_characters() {
        let longest = "x".repeat(KEY_BYTES_MAX);
        for name in ["a", " ~", "player 7@h", "\u{e9}\u{1f600}", &longest] {
            assert_eq!(Key::check(name), Ok(()), "{name:?}");
            let read = KeyRef::read(Kind(7), name.as_bytes());
            assert_eq!(read.map(|key| key.to_key()), Some(Key::new(Kind(7), name)));
        }
        let too_long = format!("{longest}x");
        for name in ["", &too_long, "a\n", "\0", "\u{7f}b", "\u{e9}\t", "b\u{85}"] {
            assert!(Key::check(name).is_err(), "{name:?}");
            assert!(KeyRef::read(Kind(7), name.as_bytes()).is_none());
        }
        assert!(KeyRef::read(Kind(7), b"a\xff").is_none());
    }

    #[test]
    fn a_key_is_the_same_wherever_its_hash_comes_from() {
        let key = Key::new(
            Kind(7),
            "a name that is longer than what is in the key itself",
        );
        let (hash, name) = (key.hash(), key.clone().into_unhashed());
        assert_eq!(hash & !Key::HASH_BITS, 0);
        assert_eq!(name.with(hash), key);
        assert_eq!(key.borrowed().to_key(), key);
        let other = Key::new(Kind(8), key.name());
        assert!(key.borrowed().is(&key) && name.is(key.borrowed()));
        assert!(!other.borrowed().is(&key) && !name.is(other.borrowed()));
        assert_ne!(other.hash(), hash);
        let written = postcard::to_stdvec(&key).expect("it has an encoding");
        assert_eq!(postcard::from_bytes(&written), Ok(key));
    }
}
