//! What a link delivers, and when.

use super::*;
use crate::protocol::types::Member;

fn peer() -> Face {
    Face {
        member: Member {
            id: NodeId::new("bob@h", 1),
            addr: "h:1".into(),
        },
        boot: 1,
        tag: 2,
    }
}

fn link() -> (Link, Events, Arc<Mutex<Vec<Event>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let events: Events = Arc::new(move |event| lock(&sink).push(event));
    (Link::new(1, peer(), true, 3), events, seen)
}

fn frame(n: u8) -> Event {
    Event::Frame {
        from: peer().member.id,
        lane: 0,
        bytes: Arrival::new(vec![n], &Arc::default()),
    }
}

fn up() -> Event {
    Event::LinkUp(peer().member)
}

fn down(refused: bool) -> Event {
    Event::LinkDown {
        peer: peer().member.id,
        refused,
    }
}

#[test]
fn early_frames_follow_the_link_up() {
    let (link, events, seen) = link();
    assert_eq!(link.deliver(0, vec![1], &events), Ok(false));
    assert_eq!(link.deliver(0, vec![2], &events), Ok(false));
    assert!(lock(&seen).is_empty());
    assert!(link.open(&events));
    assert_eq!(link.deliver(0, vec![3], &events), Ok(true));
    let due = Event::Due {
        lanes: 1,
        here: false,
    };
    assert_eq!(*lock(&seen), [up(), frame(1), frame(2), due, frame(3)]);
    assert_eq!(link.stage(), Stage::Up);
}

#[test]
fn the_end_is_told_once_and_nothing_follows_it() {
    let (link, events, seen) = link();
    link.open(&events);
    link.close();
    link.deliver(0, vec![1], &events).unwrap();
    assert!(link.finish(true, &events));
    assert!(!link.finish(false, &events));
    assert_eq!(link.deliver(0, vec![2], &events), Err(Undelivered::Down));
    assert_eq!(*lock(&seen), [up(), frame(1), down(true)]);
}

#[test]
fn a_muted_link_delivers_its_end_only() {
    let (link, events, seen) = link();
    link.open(&events);
    link.mute();
    assert_eq!(link.deliver(0, vec![1], &events), Err(Undelivered::Down));
    assert!(link.finish(false, &events));
    assert_eq!(*lock(&seen), [up(), down(false)]);
}

#[test]
fn a_link_that_never_came_up_has_no_end_to_tell() {
    let (link, events, seen) = link();
    link.deliver(0, vec![1], &events).unwrap();
    link.close();
    assert!(!link.open(&events), "closed before it was ready");
    assert!(!link.finish(false, &events));
    assert!(lock(&seen).is_empty());
}

#[test]
fn only_so_much_waits_for_the_link_up() {
    let (link, events, _) = link();
    for _ in 0..EARLY_MAX {
        link.deliver(0, Vec::new(), &events).unwrap();
    }
    assert_eq!(
        link.deliver(0, Vec::new(), &events),
        Err(Undelivered::TooEarly)
    );
}

#[test]
fn stages_only_go_forward() {
    let (link, _, _) = link();
    link.advance(Stage::Closing);
    link.advance(Stage::Up);
    assert_eq!(link.stage(), Stage::Closing);
    link.forgotten();
    link.close();
    assert_eq!(link.stage(), Stage::Gone);
}

#[test]
fn a_link_opens_once() {
    let (link, events, seen) = link();
    assert!(link.open(&events));
    assert!(!link.open(&events));
    link.deliver(0, vec![1], &events).unwrap();
    assert_eq!(*lock(&seen), [up(), frame(1)]);
}

#[test]
fn parts_send_while_the_link_is_up() {
    let (link, events, _) = link();
    assert_eq!(
        link.send(0, Ties::default(), vec![1]),
        Err(Untaken::Closed),
        "not yet"
    );
    link.open(&events);
    assert_eq!(link.send(0, Ties::default(), vec![1]), Ok(()));
    assert_eq!(link.out.frames(), 1);
    link.close();
    assert_eq!(
        link.send(0, Ties::default(), vec![1]),
        Err(Untaken::Closed),
        "no longer"
    );
    assert_eq!(link.out.frames(), 0, "nobody will write it");
}

#[test]
fn whoever_hears_of_the_link_can_send_at_once() {
    let link = Arc::new(Link::new(1, peer(), true, 3));
    let sent = Arc::new(Mutex::new(Vec::new()));
    let (from, to) = (Arc::clone(&link), Arc::clone(&sent));
    let events: Events = Arc::new(move |_| lock(&to).push(from.send(0, Ties::default(), vec![1])));
    assert!(link.open(&events));
    assert_eq!(*lock(&sent), [Ok(())]);
}

#[test]
fn very_short_frames_count_as_well() {
    let (link, events, seen) = link();
    link.open(&events);
    for _ in 0..=ARRIVED_BYTES_MAX / ARRIVED_COST {
        link.deliver(0, Vec::new(), &events).unwrap();
    }
    assert!(link.is_flooded());
    lock(&seen).clear();
    assert!(!link.is_flooded());
}
