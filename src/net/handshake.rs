//! The handshake: who speaks, in which version, knowing the cookie, and whether the link is to be.
//!
//! ```text
//!   initiator                                    acceptor
//!     Hello{versions, nonce, me, expect}  ──────▶
//!                                         ◀────── Challenge{version, nonce, me}
//!     Proof = MAC("initiator", both above) ─────▶          (a stranger never gets a MAC from the acceptor)
//!                                         ◀────── Verdict + MAC("acceptor", all above, verdict)
//!     Go                                  ──────▶          (the initiator has no other link, or gave it up)
//!                                         ◀────── Ready    (neither has the acceptor)
//!   instead of its next message, either side may send Refused(why) and close
//!
//!   guardian                                     acceptor
//!     Obituary{who} + MAC("obituary", who) ─────▶
//!                                         ◀────── Ready
//! ```
//! An obituary needs no challenge: that a life is over stays true, however often it is said.
//!
//! Both proofs cover the very bytes of both hellos, so names, incarnations, addresses, nonces and link tags, and the
//! role of the prover: a proof made in one role or for one connection is of no use in another. What follows the
//! handshake on the stream is neither encrypted nor authenticated byte by byte.

use std::io;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::cookie::Cookie;
use super::names;
use crate::protocol::types::{Member, NodeId, NodeName};

/// The versions of the wire protocol that this build speaks.
const VERSIONS: (u16, u16) = (2, 2);
/// The first bytes of every hello.
const MAGIC: [u8; 8] = *b"stkeeper";
/// The longest frame of the handshake.
const FRAME_MAX: usize = 4096;

/// What one side says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Face {
    /// Who it is in this life.
    pub(crate) member: Member,
    /// Random, the same in all lives of one process.
    pub(crate) boot: u64,
    /// Random: what frames to this side carry on this link. The initiator's also names the link.
    pub(crate) tag: u64,
}

/// Why a link is not to be. Told to the other side, so both can log it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum Refusal {
    /// No common version: the refusing side speaks these.
    #[error(
        "it speaks the versions {0} to {1} of the protocol; run the same release on both nodes"
    )]
    Version(u16, u16),
    /// The proof is wrong.
    #[error("the cookies differ; give both nodes the same cookie file")]
    Cookie,
    /// Both ends are the same process.
    #[error("both ends are the same process")]
    Myself,
    /// Two living processes have the same name: both ends, or one end and a node that is linked already.
    #[error("a living node has the same name; start one of the two under another")]
    NameInUse,
    /// The initiator wanted another node; this one is here.
    #[error("another node was asked for, this is {0}")]
    WrongName(NodeName),
    /// The refused life is over, or its number belongs to another process: this one is known already.
    #[error("that life is over, incarnation {0} is known; it goes on as a new one")]
    Stale(u64),
    /// There is a link already, or one is being made.
    #[error("they are connected already, or about to be")]
    AlreadyConnected,
    /// Not now: starting, stopping, or an old link does not end.
    #[error("busy; try again")]
    Busy,
    /// What was said makes no sense.
    #[error("what it says makes no sense")]
    Malformed,
}

/// How a handshake ends without a link.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    /// The connection broke.
    #[error("the connection broke in the handshake: {0}")]
    Io(#[from] io::Error),
    /// The other side does not speak this protocol.
    #[error("this is no statekeeper node: {0}")]
    NotANode(&'static str),
    /// The other side refused.
    #[error("the other side refused: {0}")]
    Refused(Refusal),
    /// We refused, and said so.
    #[error("this side refused: {0}")]
    Refusing(Refusal),
}

/// The acceptor's answer to a proven initiator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Verdict {
    /// It may be; the link that the acceptor already has with that name, if any. The initiator decides.
    Accept {
        /// The name of that link.
        have: Option<u64>,
    },
    /// It may not.
    Refuse(Refusal),
}

#[derive(Serialize, Deserialize)]
struct Hello {
    nonce: [u8; 32],
    face: Face,
    expect: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Challenge {
    version: u16,
    nonce: [u8; 32],
    face: Face,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Hello = 1,
    Challenge = 2,
    Proof = 3,
    Verdict = 4,
    Go = 5,
    Ready = 6,
    Refused = 7,
    Obituary = 8,
}

/// How somebody who connected begins.
pub(crate) enum Opening {
    /// He wants a link, and is proven.
    Request(Request),
    /// He knows, and proves that he may say so, that the process of that life has ended.
    Obituary(NodeId),
}

/// What an initiator has when the acceptor is proven and accepts.
#[derive(Debug)]
pub(crate) struct Proposal {
    /// The acceptor.
    pub(crate) peer: Face,
    /// The link that the acceptor already has with us.
    pub(crate) have: Option<u64>,
}

/// What an acceptor has when the initiator is proven.
pub(crate) struct Request {
    /// The initiator.
    pub(crate) peer: Face,
    hello: Vec<u8>,
    challenge: Vec<u8>,
}

/// The initiator's part up to the verdict.
pub(crate) async fn propose<S>(
    io: &mut S,
    cookie: &Cookie,
    us: &Face,
    expect: Option<&str>,
) -> Result<Proposal, Ended>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut hello = MAGIC.to_vec();
    hello.extend(VERSIONS.0.to_be_bytes());
    hello.extend(VERSIONS.1.to_be_bytes());
    hello.extend(encode(&Hello {
        nonce: rand::random(),
        face: us.clone(),
        expect: expect.map(str::to_owned),
    })?);
    send(io, Kind::Hello, &hello).await?;

    let challenge = receive(io, Kind::Challenge).await?;
    let theirs: Challenge = decode(&challenge)?;
    if !(VERSIONS.0..=VERSIONS.1).contains(&theirs.version) {
        return refuse(io, Refusal::Version(VERSIONS.0, VERSIONS.1)).await;
    }
    if let Err(refusal) = acquaint(us, &theirs.face) {
        return refuse(io, refusal).await;
    }
    if let Some(expect) = expect
        && !names::matches(expect, &theirs.face.member.id.name)
    {
        return refuse(io, Refusal::WrongName(theirs.face.member.id.name)).await;
    }
    send(
        io,
        Kind::Proof,
        &cookie.mac("initiator", &[&hello, &challenge]),
    )
    .await?;

    let mut verdict = receive(io, Kind::Verdict).await?;
    let Some(body) = verdict.len().checked_sub(32) else {
        return Err(Ended::NotANode("its verdict is too short"));
    };
    let proof = verdict.split_off(body);
    if !cookie.verify("acceptor", &[&hello, &challenge, &verdict], &proof) {
        return refuse(io, Refusal::Cookie).await;
    }
    match decode(&verdict)? {
        Verdict::Accept { have } => Ok(Proposal {
            peer: theirs.face,
            have,
        }),
        Verdict::Refuse(refusal) => Err(Ended::Refused(refusal)),
    }
}

/// The initiator commits itself, and waits until the acceptor is ready.
pub(crate) async fn go<S: AsyncRead + AsyncWrite + Unpin>(io: &mut S) -> Result<(), Ended> {
    send(io, Kind::Go, &[]).await?;
    receive(io, Kind::Ready).await.map(drop)
}

/// The bytes that tell an acceptor that the process of that life has ended. Whoever has them can say so: they go to
/// that node's own guardian, and to nobody else.
pub(crate) fn obituary(cookie: &Cookie, who: &NodeId) -> Result<Vec<u8>, Ended> {
    let mut body = MAGIC.to_vec();
    body.extend(encode(who)?);
    let proof = cookie.mac("obituary", &[&body]);
    body.extend(proof);
    frame(Kind::Obituary, &body)
}

/// The acceptor's part up to the proven request, or the obituary.
pub(crate) async fn receive_opening<S>(
    io: &mut S,
    cookie: &Cookie,
    us: &Face,
) -> Result<Opening, Ended>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (kind, first) = receive_any(io).await?;
    if kind == Kind::Obituary as u8 {
        let Some((body, proof)) = first.split_last_chunk::<32>() else {
            return Err(Ended::NotANode("its obituary is too short"));
        };
        if !cookie.verify("obituary", &[body], proof) {
            return refuse(io, Refusal::Cookie).await;
        }
        let who = body.strip_prefix(&MAGIC).unwrap_or_default();
        return decode(who).map(Opening::Obituary);
    }
    let request = receive_request(io, cookie, us, expected(Kind::Hello, kind, first)?).await?;
    Ok(Opening::Request(request))
}

async fn receive_request<S>(
    io: &mut S,
    cookie: &Cookie,
    us: &Face,
    hello: Vec<u8>,
) -> Result<Request, Ended>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Some((head, body)) = hello
        .split_at_checked(12)
        .filter(|(head, _)| head[..8] == MAGIC)
    else {
        return Err(Ended::NotANode("it does not begin as a node does"));
    };
    let (min, max) = (
        u16::from_be_bytes([head[8], head[9]]),
        u16::from_be_bytes([head[10], head[11]]),
    );
    let version = max.min(VERSIONS.1);
    if version < min.max(VERSIONS.0) {
        return refuse(io, Refusal::Version(VERSIONS.0, VERSIONS.1)).await;
    }
    let theirs: Hello = match decode(body) {
        Ok(hello) => hello,
        Err(_) => return refuse(io, Refusal::Malformed).await,
    };
    if let Err(refusal) = acquaint(us, &theirs.face) {
        return refuse(io, refusal).await;
    }
    let name = &us.member.id.name;
    if theirs
        .expect
        .is_some_and(|expect| !names::matches(&expect, name))
    {
        return refuse(io, Refusal::WrongName(name.clone())).await;
    }

    let challenge = encode(&Challenge {
        version,
        nonce: rand::random(),
        face: us.clone(),
    })?;
    send(io, Kind::Challenge, &challenge).await?;
    let proof = receive(io, Kind::Proof).await?;
    if !cookie.verify("initiator", &[&hello, &challenge], &proof) {
        return refuse(io, Refusal::Cookie).await;
    }
    Ok(Request {
        peer: theirs.face,
        hello,
        challenge,
    })
}

/// The acceptor proves itself with its verdict; when it accepts, it waits until the initiator has committed itself.
pub(crate) async fn answer<S>(
    io: &mut S,
    cookie: &Cookie,
    request: &Request,
    verdict: &Verdict,
) -> Result<(), Ended>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut body = encode(verdict)?;
    let proof = cookie.mac("acceptor", &[&request.hello, &request.challenge, &body]);
    body.extend(proof);
    send(io, Kind::Verdict, &body).await?;
    match verdict {
        Verdict::Accept { .. } => receive(io, Kind::Go).await.map(drop),
        Verdict::Refuse(refusal) => Err(Ended::Refusing(refusal.clone())),
    }
}

/// The acceptor is ready: what follows on the stream is ractor's.
pub(crate) async fn ready<S: AsyncRead + AsyncWrite + Unpin>(io: &mut S) -> Result<(), Ended> {
    send(io, Kind::Ready, &[]).await
}

/// Tells the other side why the link is not to be, instead of the next message.
pub(crate) async fn refuse<S, T>(io: &mut S, refusal: Refusal) -> Result<T, Ended>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Whether it gets there or not: it is refused.
    let _ = send(io, Kind::Refused, &encode(&refusal)?).await;
    let _ = io.shutdown().await;
    Err(Ended::Refusing(refusal))
}

/// Checks what the other side says about itself, before anything is proven.
fn acquaint(us: &Face, them: &Face) -> Result<(), Refusal> {
    if !names::valid(them.member.id.name.as_str()) || !names::valid_address(&them.member.addr) {
        return Err(Refusal::Malformed);
    }
    if them.boot == us.boot {
        return Err(Refusal::Myself);
    }
    if them.member.id.name == us.member.id.name {
        return Err(Refusal::NameInUse);
    }
    Ok(())
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Ended> {
    postcard::to_stdvec(value).map_err(|e| Ended::Io(io::Error::other(e)))
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Ended> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(Ended::NotANode("what it says cannot be decoded")),
    }
}

/// A frame is the length of the rest (two bytes), its kind (one byte), and a body.
async fn send<S: AsyncWrite + Unpin>(io: &mut S, kind: Kind, body: &[u8]) -> Result<(), Ended> {
    io.write_all(&frame(kind, body)?).await?;
    io.flush().await?;
    Ok(())
}

fn frame(kind: Kind, body: &[u8]) -> Result<Vec<u8>, Ended> {
    let length = body.len() + 1;
    if length > FRAME_MAX {
        return Err(Ended::Io(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the handshake frame is too long",
        )));
    }
    let mut frame = Vec::with_capacity(length + 2);
    frame.extend((length as u16).to_be_bytes());
    frame.push(kind as u8);
    frame.extend(body);
    Ok(frame)
}

/// Reads exactly one frame, of that kind; never a byte more, since ractor's frames may follow.
async fn receive<S: AsyncRead + Unpin>(io: &mut S, wanted: Kind) -> Result<Vec<u8>, Ended> {
    let (kind, body) = receive_any(io).await?;
    expected(wanted, kind, body)
}

async fn receive_any<S: AsyncRead + Unpin>(io: &mut S) -> Result<(u8, Vec<u8>), Ended> {
    let length = usize::from(io.read_u16().await?);
    if length == 0 || length > FRAME_MAX {
        return Err(Ended::NotANode("its frames have impossible lengths"));
    }
    let mut frame = vec![0; length];
    io.read_exact(&mut frame).await?;
    let kind = frame.remove(0);
    if kind == Kind::Refused as u8 {
        return Err(Ended::Refused(decode(&frame)?));
    }
    Ok((kind, frame))
}

fn expected(wanted: Kind, kind: u8, body: Vec<u8>) -> Result<Vec<u8>, Ended> {
    if kind != wanted as u8 {
        return Err(Ended::NotANode("it says something else than expected"));
    }
    Ok(body)
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
