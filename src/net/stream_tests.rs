//! A link's stream between a socket and what ractor sees of it.

use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::super::cookie::Cookie;
use super::super::handshake::Face;
use super::super::link::{Stage, lock};
use super::super::{Event, NetConfig, frames};
use super::*;
use crate::net::frames::Ties;
use crate::protocol::types::{Member, NodeId};

const LIMIT: Duration = Duration::from_secs(30);
/// Two lanes of parts, and the one of control.
const LANES: usize = 3;

fn member(name: &str) -> Member {
    Member {
        id: NodeId::new(name, 1),
        addr: "h:1".into(),
    }
}

/// A link with its stream split as for ractor, and the peer's end.
struct Fixture {
    read: BoxRead,
    write: BoxWrite,
    peer: TcpStream,
    link: Arc<Link>,
    hub: Arc<Hub>,
    seen: Arc<Mutex<Vec<Event>>>,
}

impl Fixture {
    async fn start() -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let events = Arc::new(move |event| lock(&sink).push(event));
        let config = NetConfig::new(Cookie::of(b"secret"));
        let hub = Arc::new(Hub::new(config, member("alice@h"), LANES, events));
        let face = Face {
            member: member("bob@h"),
            boot: 1,
            tag: 2,
        };
        let link = Arc::new(Link::new(1, face, true, 3));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (peer, _) = listener.accept().await.unwrap();
        peer.set_nodelay(true).unwrap();
        link.attach_socket(&stream).unwrap();
        let stream = LinkStream {
            stream,
            link: Arc::clone(&link),
            hub: Arc::clone(&hub),
        };
        let (read, write) = Box::new(stream).split();
        Self {
            read,
            write,
            peer,
            link,
            hub,
            seen,
        }
    }

    /// The frames that were delivered.
    fn frames(&self) -> Vec<(usize, Vec<u8>)> {
        let seen = lock(&self.seen);
        let frame = |event: &Event| match event {
            Event::Frame { lane, bytes, .. } => Some((*lane, bytes.to_vec())),
            _ => None,
        };
        seen.iter().filter_map(frame).collect()
    }

    fn open(&self) {
        assert!(self.link.open(&self.hub.events));
    }
}

fn ractors(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u64).to_be_bytes()[..], body].concat()
}

fn part(lane: usize, body: &[u8]) -> Vec<u8> {
    [&frames::head(lane, Ties::default(), body.len())[..], body].concat()
}

/// Reads a frame as ractor does: its length, then so many bytes, in pieces.
async fn read_as_ractor(read: &mut BoxRead) -> io::Result<Vec<u8>> {
    let length = read.read_u64().await? as usize;
    let mut body = Vec::new();
    while body.len() < length {
        let mut chunk = vec![0; (length - body.len()).min(7)];
        let n = read.read(&mut chunk).await?;
        assert!(n > 0);
        body.extend_from_slice(&chunk[..n]);
    }
    Ok(body)
}

#[tokio::test]
async fn ractor_sees_its_own_frames_only_wherever_the_bytes_are_cut() {
    let mine = [vec![0x0a, 9], vec![0x12; 20], vec![0x1a; 3]];
    let bytes = [
        part(1, b"first"),
        ractors(&mine[0]),
        part(0, b""),
        part(0, &[0x12; 30]),
        ractors(&mine[1]),
        ractors(&mine[2]),
        part(1, b"last"),
        ractors(&mine[0]),
    ]
    .concat();
    let parts = [
        (1, b"first".to_vec()),
        (0, vec![]),
        (0, vec![0x12; 30]),
        (1, b"last".to_vec()),
    ];
    for cut in 1..bytes.len() {
        let mut f = Fixture::start().await;
        f.open();
        let (before, after) = bytes.split_at(cut);
        let mut peer = f.peer;
        let (before, after) = (before.to_vec(), after.to_vec());
        let sent = tokio::spawn(async move {
            peer.write_all(&before).await.unwrap();
            // The reader comes to the cut before the rest is there.
            tokio::task::yield_now().await;
            peer.write_all(&after).await.unwrap();
            peer
        });
        let all = async {
            for body in mine.iter().chain([&mine[0]]) {
                assert_eq!(read_as_ractor(&mut f.read).await.unwrap(), *body);
            }
        };
        timeout(LIMIT, all).await.unwrap();
        f.peer = sent.await.unwrap();
        assert_eq!(f.frames(), parts, "cut at {cut}");
        assert_eq!(f.link.arrived.load(Relaxed), 1);
    }
}

#[tokio::test]
async fn an_impossible_frame_ends_the_stream_after_what_came_before_it() {
    for (bad, oversized) in [
        ([frames::PART, 2, 0, 0, 0, 0, 0, 1], false),
        ([frames::PART, 0, 0, 7, 0, 0, 0, 1], false),
        ([frames::PART, 0, 0, 0, 1, 0, 0, 0], true),
        ([frames::PART + 1, 0, 0, 0, 0, 0, 0, 1], true),
    ] {
        let mut f = Fixture::start().await;
        f.open();
        let bytes = [&part(1, b"good"), &ractors(&[0x0a])[..], &bad].concat();
        f.peer.write_all(&bytes).await.unwrap();
        assert_eq!(read_as_ractor(&mut f.read).await.unwrap(), [0x0a]);
        let error = timeout(LIMIT, f.read.read_u64()).await.unwrap();
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::InvalidData);
        let counters = f.hub.tally.read();
        let expected = if oversized { (1, 0) } else { (0, 1) };
        assert_eq!((counters.oversized, counters.malformed), expected);
        assert_eq!(f.frames(), [(1, b"good".to_vec())]);
        assert!(f.link.ended.load(Relaxed));
    }
}

#[tokio::test]
async fn what_comes_early_waits_for_the_link_and_what_comes_late_is_dropped() {
    let mut f = Fixture::start().await;
    let early = [part(0, b"early"), ractors(&[0x0a])].concat();
    f.peer.write_all(&early).await.unwrap();
    read_as_ractor(&mut f.read).await.unwrap();
    assert!(lock(&f.seen).is_empty());
    f.open();
    assert_eq!(f.frames(), [(0, b"early".to_vec())]);
    f.link.mute();
    let late = [part(0, b"late"), ractors(&[0x0a])].concat();
    f.peer.write_all(&late).await.unwrap();
    read_as_ractor(&mut f.read).await.unwrap();
    assert_eq!(f.frames().len(), 1);
    assert_eq!(f.hub.tally.read().unknown_link, 1);
}

#[tokio::test]
async fn frames_that_came_together_are_due_together_and_here_if_they_are_few() {
    let mut f = Fixture::start().await;
    f.open();
    let due = |lanes, here| Event::Due { lanes, here };
    let long = vec![7; HERE_BYTES_MAX];
    let few = [part(0, b"one"), part(1, b"two"), ractors(&[0x0a])].concat();
    let many = [part(1, &long), part(0, b"one"), ractors(&[0x0a])].concat();
    for (sent, lanes, here) in [(few, 0b11, true), (many, 0b11, false)] {
        lock(&f.seen).clear();
        // However it is cut, all is due at last.
        f.peer.write_all(&sent).await.unwrap();
        read_as_ractor(&mut f.read).await.unwrap();
        let mut told = 0;
        let mut waits = 0;
        for event in lock(&f.seen).iter() {
            match event {
                Event::Frame { lane, .. } => waits |= 1 << lane,
                Event::Due { lanes, .. } => {
                    assert_eq!(*lanes, waits, "what is due was delivered before");
                    told |= std::mem::take(&mut waits);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((told, waits), (lanes, 0));
        let seen = lock(&f.seen);
        let of_one_read = seen.iter().filter(|event| **event == due(lanes, here));
        let reads = seen
            .iter()
            .filter(|event| matches!(event, Event::Due { .. }));
        assert!(of_one_read.count() == 1 || reads.count() > 1);
    }
}

#[tokio::test]
async fn a_flood_is_read_when_this_node_has_handled_what_came_before() {
    let f = Fixture::start().await;
    f.open();
    let mut peer = f.peer;
    let frames = 40;
    let sent = tokio::spawn(async move {
        for _ in 0..frames {
            peer.write_all(&part(0, &vec![1; 1024 * 1024]))
                .await
                .unwrap();
        }
        peer.write_all(&ractors(&[0x0a])).await.unwrap();
        peer
    });
    let mut read = f.read;
    let reading = tokio::spawn(async move { read_as_ractor(&mut read).await });
    let mut handled = 0;
    let handle = async {
        while handled < frames {
            if f.link.is_flooded() || sent.is_finished() {
                let arrived = std::mem::take(&mut *lock(&f.seen));
                let is_frame = |event: &&Event| matches!(event, Event::Frame { .. });
                let n = arrived.iter().filter(is_frame).count();
                assert!(n <= 18, "{n} at once");
                handled += n;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, handle).await.unwrap();
    assert_eq!(
        timeout(LIMIT, reading).await.unwrap().unwrap().unwrap(),
        [0x0a]
    );
}

#[tokio::test]
async fn the_end_waits_until_control_frames_are_handled() {
    let mut f = Fixture::start().await;
    f.open();
    let bytes = [ractors(&[0x12]), part(1, b"last")].concat();
    f.peer.write_all(&bytes).await.unwrap();
    f.peer.shutdown().await.unwrap();
    read_as_ractor(&mut f.read).await.unwrap();
    let link = Arc::clone(&f.link);
    let handle = async {
        while !link.ended.load(Relaxed) {
            tokio::task::yield_now().await;
        }
        count(&link.handled);
    };
    let end = async { tokio::join!(f.read.read_u64(), handle).0 };
    let end = timeout(LIMIT, end).await.unwrap();
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(f.link.handled.load(Relaxed), 1);
    assert_eq!(f.frames(), [(1, b"last".to_vec())]);
}

#[tokio::test]
async fn ractors_frames_leave_whole_however_it_writes_them() {
    let mut f = Fixture::start().await;
    f.open();
    let frame = ractors(&[0x12; 100]);
    f.link.out.expect(90).unwrap();
    for some in frame.chunks(13) {
        f.write.write_all(some).await.unwrap();
        f.link.send(1, Ties::default(), b"part".to_vec()).unwrap();
    }
    f.write.flush().await.unwrap();
    let sends = frame.chunks(13).count();
    let before = part(1, b"part").repeat(sends - 1);
    let expected = [before, frame, part(1, b"part")].concat();
    let mut read = vec![0; expected.len()];
    timeout(LIMIT, f.peer.read_exact(&mut read))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(read, expected);
    while f.link.out.frames() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_shutdown_comes_after_all_that_was_written() {
    let mut f = Fixture::start().await;
    f.open();
    let long = vec![5; 8_000_000];
    f.link.send(0, Ties::default(), long.clone()).unwrap();
    let frame = ractors(&[0x12; 300_000]);
    let end = async {
        f.write.write_all(&frame).await.unwrap();
        f.write.shutdown().await.unwrap();
    };
    let mut read = Vec::new();
    let both = async { tokio::join!(end, f.peer.read_to_end(&mut read)) };
    let ((), result) = timeout(LIMIT, both).await.unwrap();
    result.unwrap();
    assert!(read == [part(0, &long), frame].concat());
    assert_eq!(f.link.stage(), Stage::Up, "the other direction goes on");
}

#[tokio::test]
async fn when_ractor_ends_the_session_nothing_more_is_sent() {
    let f = Fixture::start().await;
    f.open();
    drop((f.read, f.write));
    assert!(f.link.send(0, Ties::default(), vec![1]).is_err());
    let mut peer = f.peer;
    let mut rest = Vec::new();
    timeout(LIMIT, peer.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
    assert!(rest.is_empty());
}
