//! What is written to a socket, in which order, and what waits meanwhile.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::net::until;

const LIMIT: Duration = Duration::from_secs(30);

/// Outgoing to a socket, and its other end.
async fn connected() -> (Arc<Outgoing>, TcpStream, OwnedReadHalf) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (theirs, _) = listener.accept().await.unwrap();
    let (read, write) = ours.into_split();
    let out = Outgoing::new();
    out.attach(write);
    out.open();
    (out, theirs, read)
}

/// Sends ones until the socket takes them at once.
async fn gets_ready(out: &Outgoing) {
    until("the socket is ready", || {
        out.send(0, Ties::default(), vec![1]).unwrap();
        out.frames() == 0
    })
    .await;
}

async fn read_frame(from: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut head = [0; 8];
    from.read_exact(&mut head).await.unwrap();
    let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    let mut body = vec![0; length as usize];
    from.read_exact(&mut body).await.unwrap();
    (head[1], body)
}

fn ractors(n: u8, length: usize) -> Vec<u8> {
    [&(length as u64).to_be_bytes()[..], &vec![n; length]].concat()
}

/// ractor's writer, as far as waiting is concerned.
struct Flush(Arc<Outgoing>);

impl std::future::Future for Flush {
    type Output = io::Result<()>;

    fn poll(self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush(cx)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_of_many_senders_stay_whole_and_in_the_order_of_their_lane() {
    const FRAMES: usize = 2_000;
    let (out, mut theirs, _read) = connected().await;
    let senders: Vec<_> = (0..4)
        .map(|lane| {
            let out = Arc::clone(&out);
            tokio::task::spawn_blocking(move || {
                for n in 0..FRAMES {
                    let mut body = n.to_be_bytes().to_vec();
                    // Now and then one that no socket takes at once.
                    let length = if n % 500 == 7 { 6_000_000 } else { n % 300 };
                    body.resize(8 + length, lane as u8);
                    while !out.has_room() {
                        std::thread::yield_now();
                    }
                    out.send(lane, Ties::default(), body).unwrap();
                }
            })
        })
        .collect();
    let mut next = [0; 4];
    for _ in 0..4 * FRAMES {
        let (lane, body) = timeout(LIMIT, read_frame(&mut theirs)).await.unwrap();
        let expected = next[usize::from(lane)];
        assert_eq!(body[..8], usize::to_be_bytes(expected));
        assert!(body[8..].iter().all(|byte| *byte == lane));
        next[usize::from(lane)] += 1;
    }
    assert_eq!(next, [FRAMES; 4]);
    for sender in senders {
        sender.await.unwrap();
    }
    until("all is written", || out.frames() == 0).await;
    assert_eq!(lock(&out.state).bytes, 0);
    assert_eq!(lock(&out.state).turn, Turn::Free);
}

#[tokio::test]
async fn a_lone_frame_is_written_by_its_sender() {
    let (out, mut theirs, _read) = connected().await;
    gets_ready(&out).await;
    // No task has its turn between the two.
    out.send(1, Ties::default(), vec![2]).unwrap();
    assert_eq!(out.frames(), 0);
    loop {
        match read_frame(&mut theirs).await {
            (0, body) => assert_eq!(body, [1]),
            other => break assert_eq!(other, (1, vec![2])),
        }
    }
}

const ASKS: Ties = Ties {
    asks: true,
    answers: false,
};

#[tokio::test]
async fn what_belongs_together_is_written_by_the_last_of_its_senders() {
    let (out, mut theirs, _read) = connected().await;
    let answers = |lane| (lane, Ties::ANSWERS);
    for lane in [0, 1] {
        out.send(lane, ASKS, vec![1]).unwrap();
    }
    until("they are written", || out.frames() == 0).await;
    assert_eq!(out.arrived([0, 1].map(answers).into_iter()), 0);
    // No task has its turn between these.
    out.send(1, ASKS, vec![2]).unwrap();
    assert_eq!(out.frames(), 1);
    out.send(0, ASKS, vec![3]).unwrap();
    assert_eq!(out.frames(), 0);
    assert_eq!(out.arrived([0, 1].map(answers).into_iter()), 0);
    out.send(0, ASKS, vec![4]).unwrap();
    assert_eq!(out.frames(), 1);
    out.pass(1);
    assert_eq!(out.frames(), 0);
    for n in [1, 1, 2, 3, 4] {
        assert_eq!(read_frame(&mut theirs).await.1, [n]);
    }
}

#[tokio::test]
async fn what_is_sent_while_it_is_held_leaves_at_the_end() {
    let (out, mut theirs, _read) = connected().await;
    gets_ready(&out).await;
    let held = out.hold();
    for n in [2, 3] {
        out.send(n, Ties::default(), vec![n as u8]).unwrap();
    }
    // The task does not write them, either.
    tokio::task::yield_now().await;
    assert_eq!(out.frames(), 2);
    drop(held);
    assert_eq!(out.frames(), 0);
    let mut bodies = Vec::new();
    while bodies.last() != Some(&3) {
        bodies.extend(timeout(LIMIT, read_frame(&mut theirs)).await.unwrap().1);
    }
    assert!(bodies.ends_with(&[1, 2, 3]));
}

#[tokio::test]
async fn who_is_expected_and_does_not_come_is_not_waited_for() {
    let (out, mut theirs, _read) = connected().await;
    let both = [0, 1].map(|lane| (lane, ASKS));
    assert_eq!(out.arrived(both.into_iter()), 0);
    out.send(0, Ties::ANSWERS, vec![7]).unwrap();
    assert_eq!(out.frames(), 1);
    let (_, body) = timeout(LIMIT, read_frame(&mut theirs)).await.unwrap();
    assert_eq!(body, [7]);
}

#[tokio::test]
async fn what_a_peer_does_not_read_is_counted_and_limited() {
    let (out, mut theirs, _read) = connected().await;
    let body = vec![7; 1024 * 1024];
    let mut sent = 0;
    while out.send(0, Ties::default(), body.clone()).is_ok() {
        sent += 1;
    }
    assert_eq!(
        out.send(0, Ties::default(), body.clone()),
        Err(Untaken::Full)
    );
    assert_eq!(out.expect(2 * body.len()), Err(Untaken::Full));
    assert!(!out.has_room());
    assert!(lock(&out.state).bytes <= BYTES_MAX);
    assert!(
        lock(&out.state).bytes + body.len() + 8 > BYTES_MAX,
        "the place is used"
    );
    for _ in 0..sent {
        let (_, read) = timeout(LIMIT, read_frame(&mut theirs)).await.unwrap();
        assert!(read == body);
    }
    until("all is written", || out.frames() == 0).await;
    assert!(out.has_room());
}

#[tokio::test]
async fn ractors_frames_are_written_before_its_flush_ends() {
    let (out, mut theirs, _read) = connected().await;
    assert!(Flush(Arc::clone(&out)).await.is_ok(), "there is nothing");
    out.send(2, Ties::default(), vec![1; 10_000_000]).unwrap();
    out.expect(50).unwrap();
    let frames = out.frames();
    out.add_ractors(ractors(0x12, 70), Carries::Node);
    assert_eq!(
        out.frames(),
        frames,
        "the same frame, out of ractor's hands now"
    );
    out.add_ractors(ractors(0x0a, 5), Carries::Auth);
    out.write();
    assert!(
        timeout(Duration::ZERO, Flush(Arc::clone(&out)))
            .await
            .is_err(),
        "what is before them is not read"
    );
    let read = async {
        let (lane, body) = read_frame(&mut theirs).await;
        assert_eq!((lane, body.len()), (2, 10_000_000));
        let mut rest = vec![0; 78 + 13];
        theirs.read_exact(&mut rest).await.unwrap();
        assert_eq!(rest, [ractors(0x12, 70), ractors(0x0a, 5)].concat());
    };
    let both = async { tokio::join!(read, Flush(Arc::clone(&out))) };
    let ((), flushed) = timeout(LIMIT, both).await.unwrap();
    assert!(flushed.is_ok());
    assert_eq!(out.frames(), 0);
}

#[tokio::test]
async fn nothing_is_taken_after_the_end() {
    let (out, mut theirs, _read) = connected().await;
    out.send(0, Ties::default(), vec![0; 15_000_000]).unwrap();
    out.add_ractors(ractors(0x12, 70), Carries::Node);
    let flush = tokio::spawn(Flush(Arc::clone(&out)));
    tokio::task::yield_now().await;
    out.close();
    assert!(timeout(LIMIT, flush).await.unwrap().unwrap().is_err());
    assert_eq!(out.send(0, Ties::default(), vec![1]), Err(Untaken::Closed));
    assert_eq!(out.expect(1), Err(Untaken::Closed));
    assert_eq!(out.frames(), 0);
    // The task lets go of the socket, so that the peer reads the end.
    let mut rest = Vec::new();
    timeout(LIMIT, theirs.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
    assert!(rest.len() < 15_000_000);
    until("the task has ended", || Arc::strong_count(&out) == 1).await;
}

#[tokio::test]
async fn a_broken_socket_ends_it() {
    let (out, theirs, _read) = connected().await;
    drop(theirs);
    until("the link is closed", || {
        out.send(0, Ties::default(), vec![1]) == Err(Untaken::Closed)
    })
    .await;
    assert!(Flush(out).await.is_err());
}

#[test]
fn before_the_link_is_up_only_ractor_writes() {
    let out = Outgoing::new();
    assert_eq!(out.send(0, Ties::default(), vec![1]), Err(Untaken::Closed));
    out.add_ractors(ractors(0x0a, 5), Carries::Auth);
    out.write();
    assert_eq!(out.frames(), 1, "it waits for the socket");
}
