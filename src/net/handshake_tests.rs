//! The handshake over pairs of streams in memory: no ractor, no clock.

use proptest::prelude::*;
use tokio::io::{DuplexStream, duplex};

use super::*;

fn face(name: &str, boot: u64) -> Face {
    let member = Member {
        id: NodeId::new(name, boot),
        addr: "127.0.0.1:21500".into(),
    };
    Face {
        member,
        boot,
        tag: 1000 + boot,
    }
}

fn alice() -> Face {
    face("alice@h", 1)
}

fn bob() -> Face {
    face("bob@h", 2)
}

fn cookie() -> Cookie {
    Cookie::of(b"secret")
}

fn requested(opening: Opening) -> Request {
    match opening {
        Opening::Request(request) => request,
        Opening::Obituary(who) => panic!("an obituary of {who}"),
    }
}

/// What an acceptor with the cookie `secret` makes of these bytes.
async fn opened(bytes: &[u8]) -> Result<Opening, Ended> {
    let (mut one, mut two) = duplex(64 * 1024);
    one.write_all(bytes).await.unwrap();
    drop(one);
    receive_opening(&mut two, &cookie(), &bob()).await
}

async fn accept(
    mut io: DuplexStream,
    cookie: Cookie,
    us: Face,
    verdict: Verdict,
) -> Result<Face, Ended> {
    let request = requested(receive_opening(&mut io, &cookie, &us).await?);
    answer(&mut io, &cookie, &request, &verdict).await?;
    ready(&mut io).await?;
    Ok(request.peer)
}

async fn connect(
    mut io: DuplexStream,
    cookie: Cookie,
    us: Face,
    expect: Option<&str>,
) -> Result<Proposal, Ended> {
    let proposal = propose(&mut io, &cookie, &us, expect).await?;
    go(&mut io).await?;
    Ok(proposal)
}

/// Runs both sides, and returns how each ended.
async fn meet(
    initiator: (Cookie, Face, Option<&str>),
    acceptor: (Cookie, Face, Verdict),
) -> (Result<Proposal, Ended>, Result<Face, Ended>) {
    let (one, two) = duplex(64 * 1024);
    tokio::join!(
        connect(one, initiator.0, initiator.1, initiator.2),
        accept(two, acceptor.0, acceptor.1, acceptor.2)
    )
}

const YES: Verdict = Verdict::Accept { have: None };

#[tokio::test]
async fn two_with_the_same_cookie_learn_who_the_other_is() {
    let verdict = Verdict::Accept { have: Some(7) };
    let (proposal, peer) = meet((cookie(), alice(), Some("bob")), (cookie(), bob(), verdict)).await;
    let proposal = proposal.unwrap();
    assert_eq!((proposal.peer, proposal.have), (bob(), Some(7)));
    assert_eq!(peer.unwrap(), alice());
}

#[tokio::test]
async fn another_cookie_is_refused_and_both_sides_know_why() {
    let (proposal, peer) = meet(
        (Cookie::of(b"other"), alice(), None),
        (cookie(), bob(), YES),
    )
    .await;
    assert!(
        matches!(proposal, Err(Ended::Refused(Refusal::Cookie))),
        "{proposal:?}"
    );
    assert!(
        matches!(peer, Err(Ended::Refusing(Refusal::Cookie))),
        "{peer:?}"
    );
}

#[tokio::test]
async fn an_acceptor_without_the_cookie_is_found_out_and_told() {
    let (one, mut two) = duplex(4096);
    let impostor = async move {
        let hello = receive(&mut two, Kind::Hello).await.unwrap();
        let challenge = encode(&Challenge {
            version: 2,
            nonce: [0; 32],
            face: bob(),
        })
        .unwrap();
        send(&mut two, Kind::Challenge, &challenge).await.unwrap();
        // It has nothing better than to send back the very proof that it was given.
        let proof = receive(&mut two, Kind::Proof).await.unwrap();
        let mut verdict = encode(&YES).unwrap();
        verdict.extend(proof);
        send(&mut two, Kind::Verdict, &verdict).await.unwrap();
        drop(hello);
        receive(&mut two, Kind::Go).await
    };
    let (proposal, told) = tokio::join!(connect(one, cookie(), alice(), None), impostor);
    assert!(
        matches!(proposal, Err(Ended::Refusing(Refusal::Cookie))),
        "{proposal:?}"
    );
    assert!(
        matches!(told, Err(Ended::Refused(Refusal::Cookie))),
        "{told:?}"
    );
}

#[tokio::test]
async fn a_proof_is_of_no_use_on_another_connection_or_for_another_name() {
    // The same hello and the same proof again meet another nonce of the acceptor.
    let (mut one, two) = duplex(4096);
    let (mut three, four) = duplex(4096);
    let first = tokio::spawn(accept(two, cookie(), bob(), YES));
    let second = tokio::spawn(accept(four, cookie(), bob(), YES));
    let mut hello = MAGIC.to_vec();
    hello.extend([0, 2, 0, 2]);
    hello.extend(
        encode(&Hello {
            nonce: [1; 32],
            face: alice(),
            expect: None,
        })
        .unwrap(),
    );
    send(&mut one, Kind::Hello, &hello).await.unwrap();
    send(&mut three, Kind::Hello, &hello).await.unwrap();
    let challenge = receive(&mut one, Kind::Challenge).await.unwrap();
    receive(&mut three, Kind::Challenge).await.unwrap();
    let proof = cookie().mac("initiator", &[&hello, &challenge]);
    send(&mut three, Kind::Proof, &proof).await.unwrap();
    assert!(matches!(
        second.await.unwrap(),
        Err(Ended::Refusing(Refusal::Cookie))
    ));
    send(&mut one, Kind::Proof, &proof).await.unwrap();
    receive(&mut one, Kind::Verdict).await.unwrap();
    drop(one);
    assert!(matches!(first.await.unwrap(), Err(Ended::Io(_))));
}

#[tokio::test]
async fn a_verdict_cannot_be_forged() {
    let (mut one, two) = duplex(4096);
    let (three, mut four) = duplex(4096);
    // Somebody in between turns the acceptor's refusal into an acceptance.
    let relay = async move {
        for (from_one, kind) in [
            (true, Kind::Hello),
            (false, Kind::Challenge),
            (true, Kind::Proof),
        ] {
            let (from, to) = if from_one {
                (&mut one, &mut four)
            } else {
                (&mut four, &mut one)
            };
            let frame = receive(from, kind).await.unwrap();
            send(to, kind, &frame).await.unwrap();
        }
        let verdict = receive(&mut four, Kind::Verdict).await.unwrap();
        let mut forged = encode(&YES).unwrap();
        forged.extend(&verdict[verdict.len() - 32..]);
        send(&mut one, Kind::Verdict, &forged).await.unwrap();
        receive(&mut one, Kind::Go).await
    };
    let no = Verdict::Refuse(Refusal::Stale(9));
    let (proposal, _, told) = tokio::join!(
        connect(two, cookie(), alice(), None),
        accept(three, cookie(), bob(), no),
        relay
    );
    assert!(
        matches!(proposal, Err(Ended::Refusing(Refusal::Cookie))),
        "{proposal:?}"
    );
    assert!(matches!(told, Err(Ended::Refused(Refusal::Cookie))));
}

#[tokio::test]
async fn a_refusing_verdict_reaches_the_initiator() {
    let no = Verdict::Refuse(Refusal::Stale(9));
    let (proposal, peer) = meet((cookie(), alice(), None), (cookie(), bob(), no)).await;
    assert!(
        matches!(proposal, Err(Ended::Refused(Refusal::Stale(9)))),
        "{proposal:?}"
    );
    assert!(
        matches!(peer, Err(Ended::Refusing(Refusal::Stale(9)))),
        "{peer:?}"
    );
}

#[tokio::test]
async fn a_node_that_dials_itself_is_told_so() {
    let (proposal, peer) = meet((cookie(), alice(), None), (cookie(), alice(), YES)).await;
    assert!(
        matches!(proposal, Err(Ended::Refused(Refusal::Myself))),
        "{proposal:?}"
    );
    assert!(
        matches!(peer, Err(Ended::Refusing(Refusal::Myself))),
        "{peer:?}"
    );
}

#[tokio::test]
async fn two_processes_of_one_name_refuse_each_other() {
    let other = face("alice@h", 3);
    let (proposal, peer) = meet((cookie(), alice(), None), (cookie(), other, YES)).await;
    assert!(
        matches!(proposal, Err(Ended::Refused(Refusal::NameInUse))),
        "{proposal:?}"
    );
    assert!(
        matches!(peer, Err(Ended::Refusing(Refusal::NameInUse))),
        "{peer:?}"
    );
}

#[tokio::test]
async fn another_name_than_expected_is_refused_with_the_one_found() {
    for expect in ["carol", "bob@other", "bo"] {
        let (proposal, _) = meet((cookie(), alice(), Some(expect)), (cookie(), bob(), YES)).await;
        let found = NodeName::new("bob@h");
        assert!(
            matches!(proposal, Err(Ended::Refused(Refusal::WrongName(name))) if name == found),
            "{expect}"
        );
    }
}

#[tokio::test]
async fn no_common_version_is_refused_with_what_is_spoken() {
    for versions in [[0, 3, 0, 9], [0, 0, 0, 1], [0, 9, 0, 1]] {
        let (mut one, two) = duplex(4096);
        let acceptor = tokio::spawn(accept(two, cookie(), bob(), YES));
        let mut hello = MAGIC.to_vec();
        hello.extend(versions);
        hello.extend(b"whatever that version says");
        send(&mut one, Kind::Hello, &hello).await.unwrap();
        let refused = receive(&mut one, Kind::Challenge).await;
        assert!(
            matches!(refused, Err(Ended::Refused(Refusal::Version(2, 2)))),
            "{refused:?}"
        );
        assert!(matches!(
            acceptor.await.unwrap(),
            Err(Ended::Refusing(Refusal::Version(2, 2)))
        ));
    }
}

#[tokio::test]
async fn a_later_version_that_still_speaks_ours_is_accepted() {
    let (mut one, two) = duplex(4096);
    let acceptor = tokio::spawn(accept(two, cookie(), bob(), YES));
    let mut hello = MAGIC.to_vec();
    hello.extend([0, 2, 0, 9]);
    hello.extend(
        encode(&Hello {
            nonce: [1; 32],
            face: alice(),
            expect: None,
        })
        .unwrap(),
    );
    send(&mut one, Kind::Hello, &hello).await.unwrap();
    let challenge: Challenge = decode(&receive(&mut one, Kind::Challenge).await.unwrap()).unwrap();
    assert_eq!(challenge.version, 2);
    acceptor.abort();
}

#[tokio::test]
async fn names_and_addresses_that_make_no_sense_are_refused() {
    for (name, addr) in [
        ("a", "h:1"),
        ("a@h\n", "h:1"),
        ("a@h", "h"),
        ("a@h", "h:0"),
        ("a@h", "h\u{1b}[31m:1"),
    ] {
        let mut us = face(name, 1);
        us.member.addr = addr.into();
        let (proposal, _) = meet((cookie(), us, None), (cookie(), bob(), YES)).await;
        assert!(
            matches!(proposal, Err(Ended::Refused(Refusal::Malformed))),
            "{name:?} {addr:?} {proposal:?}"
        );
    }
}

#[tokio::test]
async fn not_a_byte_after_the_handshake_is_swallowed() {
    let (mut one, mut two) = duplex(4096);
    let (cookie_1, cookie_2) = (cookie(), cookie());
    let initiator = async move {
        propose(&mut one, &cookie_1, &alice(), None).await.unwrap();
        go(&mut one).await.unwrap();
        one.write_all(b"from the initiator").await.unwrap();
        let mut rest = [0; 17];
        one.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"from the acceptor");
    };
    let acceptor = async move {
        let request = requested(receive_opening(&mut two, &cookie_2, &bob()).await.unwrap());
        answer(&mut two, &cookie_2, &request, &YES).await.unwrap();
        ready(&mut two).await.unwrap();
        two.write_all(b"from the acceptor").await.unwrap();
        let mut rest = [0; 18];
        two.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"from the initiator");
    };
    tokio::join!(initiator, acceptor);
}

/// Feeds `bytes` to one side, and returns how it ends once they are read and the stream has ended.
fn ends_with(bytes: &[u8], as_acceptor: bool) -> Ended {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (mut one, two) = duplex(256 * 1024);
        one.write_all(bytes).await.unwrap();
        one.shutdown().await.unwrap();
        if as_acceptor {
            accept(two, cookie(), bob(), YES).await.unwrap_err()
        } else {
            connect(two, cookie(), bob(), None).await.unwrap_err()
        }
    })
}

proptest! {
    #[test]
    fn arbitrary_bytes_end_the_handshake_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..10_000)) {
        ends_with(&bytes, true);
        ends_with(&bytes, false);
    }

    #[test]
    fn arbitrary_frames_end_the_handshake_without_harm(
        frames in prop::collection::vec((0_u8..9, prop::collection::vec(any::<u8>(), 0..200)), 0..5),
        hello in any::<bool>(),
    ) {
        let mut bytes = Vec::new();
        for (kind, body) in frames {
            let magic = if hello && kind == 1 { &b"stkeeper\0\x01\0\x01"[..] } else { &[] };
            let length = u16::try_from(1 + magic.len() + body.len()).unwrap();
            bytes.extend(length.to_be_bytes());
            bytes.push(kind);
            bytes.extend(magic);
            bytes.extend(body);
        }
        ends_with(&bytes, true);
        ends_with(&bytes, false);
    }
}

#[tokio::test]
async fn an_obituary_needs_the_cookie() {
    let dead = NodeId::new("alice@h", 1);
    let forged = obituary(&Cookie::of(b"another"), &dead).unwrap();
    assert!(matches!(
        opened(&forged).await,
        Err(Ended::Refusing(Refusal::Cookie))
    ));
    let genuine = obituary(&cookie(), &dead).unwrap();
    assert!(matches!(opened(&genuine).await, Ok(Opening::Obituary(who)) if who == dead));
}

proptest! {
    /// Of another life, or another name, it says nothing.
    #[test]
    fn an_obituary_that_was_touched_is_none(at in 0_usize..80, with in 1_u8..) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut bytes = obituary(&cookie(), &NodeId::new("alice@h", 1)).unwrap();
        let at = at % bytes.len();
        bytes[at] ^= with;
        prop_assert!(runtime.block_on(opened(&bytes)).is_err());
    }
}
