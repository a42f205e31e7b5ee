//! One real `Net` against strangers and against peers that know the cookie and misbehave.
//!
//! The only test of the process that starts a `Net`: there can be one at a time.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

use super::handshake::{Ended, Face, Refusal, go, propose};
use super::*;

const LIMIT: Duration = Duration::from_secs(10);

fn cookie() -> Cookie {
    Cookie::of(b"secret")
}

fn mallory(incarnation: u64, boot: u64) -> Face {
    let member = Member {
        id: NodeId::new("mallory@h", incarnation),
        addr: "127.0.0.1:1".into(),
    };
    Face {
        member,
        boot,
        tag: boot,
    }
}

async fn start() -> (Net, UnboundedReceiver<Event>) {
    let (sink, events) = tokio::sync::mpsc::unbounded_channel();
    let mut config = NetConfig::new(cookie());
    config.listen = Some(names::loopback(0));
    let me = |addr: SocketAddr| Member {
        id: NodeId::new("alice@h", 1),
        addr: addr.to_string().into(),
    };
    // The receiver lives as long as the test.
    let events_to = Arc::new(move |event| drop(sink.send(event)));
    (Net::start(config, me, 2, events_to).await.unwrap(), events)
}

async fn until(net: &Net, what: &str, reached: impl Fn(&Counters) -> bool) {
    let look = async {
        while !reached(&net.counters()) {
            tokio::task::yield_now().await;
        }
    };
    assert!(
        timeout(LIMIT, look).await.is_ok(),
        "{what}: {:?}",
        net.counters()
    );
}

/// Whether the other side closes the connection, reading what it still says.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    timeout(LIMIT, stream.read_to_end(&mut rest)).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_and_misbehaving_peers_do_no_harm() {
    let (net, mut events) = start().await;
    let connect = || async { TcpStream::connect(net.local_addr()).await.unwrap() };

    // A second one in this process is refused.
    let config = NetConfig::new(cookie());
    let me = |addr: SocketAddr| Member {
        id: NodeId::new("other@h", 1),
        addr: addr.to_string().into(),
    };
    assert!(matches!(
        Net::start(config, me, 2, Arc::new(|_| {})).await,
        Err(StartError::Other(_))
    ));

    // Garbage is no node.
    let mut stream = connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    assert!(is_closed(&mut stream).await);
    until(&net, "garbage", |counters| counters.not_a_node == 1).await;

    // More silent clients than there are places push each other out, and do not keep a node out.
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(connect().await);
    }
    let mut stream = connect().await;
    let proposal = propose(&mut stream, &cookie(), &mallory(5, 1), Some("alice"))
        .await
        .unwrap();
    assert_eq!(&*proposal.peer.member.addr, net.local_addr().to_string());
    assert!(net.counters().crowded >= 200 - 64);
    drop(stream);
    drop(silent);

    // Another cookie.
    let ended = propose(
        &mut connect().await,
        &Cookie::of(b"other"),
        &mallory(6, 2),
        None,
    )
    .await;
    assert!(
        matches!(ended, Err(Ended::Refused(Refusal::Cookie))),
        "{ended:?}"
    );
    until(&net, "cookie", |counters| counters.refused_cookie == 1).await;

    // A life that is over. (The one above was not proven, and does not count.)
    let ended = propose(&mut connect().await, &cookie(), &mallory(5, 3), None).await;
    assert!(
        matches!(ended, Err(Ended::Refused(Refusal::Stale(5)))),
        "{ended:?}"
    );
    until(&net, "stale", |counters| counters.refused_stale == 1).await;

    // With a link of its own, impossible frames end that link only.
    for (n, header) in [u64::MAX, frames::FRAME_MAX + 1, 0].into_iter().enumerate() {
        let mut stream = connect().await;
        propose(&mut stream, &cookie(), &mallory(10 + n as u64, 10), None)
            .await
            .unwrap();
        go(&mut stream).await.unwrap();
        stream.write_all(&header.to_be_bytes()).await.unwrap();
        assert!(is_closed(&mut stream).await);
    }
    until(&net, "lengths", |counters| {
        (counters.oversized, counters.malformed) == (2, 1)
    })
    .await;

    // So do frames of parts that cannot be: there is one part. Good ones are of no use on a link that is not ready.
    let good = [&frames::head(0, Ties::default(), 2)[..], b"hi"].concat();
    for (n, head) in [
        frames::head(1, Ties::default(), 1),
        [frames::PART, 0, 4, 0, 0, 0, 0, 1],
        [frames::PART, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
    ]
    .into_iter()
    .enumerate()
    {
        let mut stream = connect().await;
        propose(&mut stream, &cookie(), &mallory(15 + n as u64, 10), None)
            .await
            .unwrap();
        go(&mut stream).await.unwrap();
        stream.write_all(&good).await.unwrap();
        stream.write_all(&head).await.unwrap();
        assert!(is_closed(&mut stream).await);
    }
    until(&net, "heads", |counters| {
        (counters.oversized, counters.malformed) == (3, 3)
    })
    .await;

    // More of them than wait for a link to get ready.
    let mut stream = connect().await;
    propose(&mut stream, &cookie(), &mallory(19, 10), None)
        .await
        .unwrap();
    go(&mut stream).await.unwrap();
    // The other side ends it before all is written.
    let _ = stream.write_all(&good.repeat(20_000)).await;
    until(&net, "too early", |counters| counters.congested >= 1).await;
    assert!(is_closed(&mut stream).await);

    // So does a frame that has a good head and cannot be decoded.
    let mut stream = connect().await;
    propose(&mut stream, &cookie(), &mallory(20, 10), None)
        .await
        .unwrap();
    go(&mut stream).await.unwrap();
    stream
        .write_all(&[0, 0, 0, 0, 0, 0, 0, 3, 0x12, 0xff, 0xff])
        .await
        .unwrap();
    assert!(is_closed(&mut stream).await);
    until(&net, "protobuf", |counters| counters.malformed == 4).await;

    // And a newer link of the same node replaces an older one that never gets ready.
    let mut old = connect().await;
    propose(&mut old, &cookie(), &mallory(21, 10), None)
        .await
        .unwrap();
    go(&mut old).await.unwrap();
    let mut new = connect().await;
    let mut face = mallory(21, 10);
    face.tag = 11;
    assert_eq!(
        propose(&mut new, &cookie(), &face, None)
            .await
            .unwrap()
            .have,
        Some(10)
    );
    go(&mut new).await.unwrap();
    assert!(is_closed(&mut old).await);
    drop(new);

    // Dialling: nobody, itself, no node.
    let addr = net.local_addr().to_string();
    assert!(matches!(
        net.dial(None, &addr).await,
        Err(DialError::Myself(_))
    ));
    assert!(matches!(
        net.dial(Some("alice@h"), "127.0.0.1:1").await,
        Err(DialError::Myself(_))
    ));
    assert!(matches!(
        net.dial(None, "127.0.0.1:1").await,
        Err(DialError::Refused { .. })
    ));
    assert!(matches!(
        net.dial(None, "no address").await,
        Err(DialError::Unreachable { .. })
    ));

    assert!(
        !net.send(&mallory(21, 10).member.id, 0, Ties::default(), vec![1]),
        "there is no link"
    );
    assert!(events.try_recv().is_err(), "no link ever came up");
    net.stop().await;
    assert!(
        TcpStream::connect(net.local_addr()).await.is_err(),
        "the listener is closed"
    );
}
