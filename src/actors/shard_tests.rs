use std::collections::HashMap;

use ractor::{ActorCell, ActorId, ActorStatus};
use tokio::sync::oneshot;

use crate::config::Config;
use crate::protocol::defect::Planted;
use crate::protocol::placement::Placement;
use crate::protocol::shard::{Answer, Located, Ran, Request};
use crate::protocol::types::{ClusterId, Epoch, Key, Kind, Member, NodeId, NodeName};

use super::*;
use crate::actors::calls::{Caller, Refused, Waiting};
use crate::actors::resident::{Gate, Handling, Resident, Work};
use crate::actors::seats::Place;
use crate::net::until;

/// A player that takes its part along.
struct Bomb(Gate);

impl Resident for Bomb {
    fn gate(&self) -> &Gate {
        &self.0
    }

    fn ask(self: Arc<Self>, _: Request) -> Result<Option<Waiting>, Refused> {
        Ok(None)
    }

    fn give(self: Arc<Self>, _: Request) -> Option<Work> {
        None
    }

    fn go_on(&self, _: Handling) {}

    fn stop(&self) {}

    fn kill(self: Arc<Self>) -> bool {
        panic!("a bug of ours");
    }

    fn actor(&self) -> Option<ActorId> {
        None
    }
}

fn key() -> Key {
    Key::new(Kind::of("bomb"), "alice")
}

/// The actor of a part.
async fn start() -> (Arc<Part>, ActorCell) {
    let me = Member {
        id: NodeId {
            name: NodeName::new("a@h"),
            incarnation: 1,
        },
        addr: "127.0.0.1:1".into(),
    };
    let (cluster, config) = (ClusterId(1), Config::new("a@h"));
    let shared = Shared::new(
        me.id.clone(),
        cluster,
        config,
        HashMap::new(),
        Planted::NONE,
    );
    let shared = Arc::new(shared);
    let part = Arc::clone(&shared.parts[0]);
    let view = View::alone(cluster, me);
    let actor = ShardActor { index: 0, shared };
    let (actor, _) = Actor::spawn(None, actor, view).await.unwrap();
    part.inbox.bind(actor.clone());
    (part, actor.get_cell())
}

/// Waits until the actor has nothing to do.
async fn rests(part: &Part) {
    loop {
        while !part.inbox.claim() {
            tokio::task::yield_now().await;
        }
        let mut items = Vec::new();
        if !part.inbox.take(&mut items) {
            return;
        }
        part.inbox.hand_over();
    }
}

/// Asks the part to kill a player: whether it had one.
fn kill(part: &Part) -> oneshot::Receiver<bool> {
    let (port, answer) = oneshot::channel();
    part.inbox.put(Item::Kill { key: key(), port });
    answer
}

#[tokio::test]
async fn while_the_actor_rests_others_drive_the_part() {
    let (part, _actor) = start().await;
    rests(&part).await;
    let mut here = kill(&part);
    part.drive_here();
    assert_eq!(here.try_recv(), Ok(false));

    assert!(part.inbox.claim());
    let mut later = kill(&part);
    part.drive_here();
    assert!(later.try_recv().is_err(), "somebody else is at it");
    part.inbox.hand_over();
    assert_eq!(later.await, Ok(false));
}

/// A client that asks where a player is.
fn locate(part: &Arc<Part>) -> oneshot::Receiver<Result<Option<Located>, Answer>> {
    let (port, answer) = oneshot::channel();
    let waits = part.locate(key().borrowed(), port);
    waits.expect("there is room");
    answer
}

#[tokio::test]
async fn who_alone_waits_for_a_part_drives_it() {
    let (part, _actor) = start().await;
    rests(&part).await;
    let _first = locate(&part);
    assert!(!part.load.is_queued(), "it was taken in at once");
    let _second = locate(&part);
    assert!(part.load.is_queued(), "two wait: it is left to the actor");
    until("the actor has taken it in", || !part.load.is_queued()).await;
}

/// What the part starts must not end with the runtime of whoever asked.
#[tokio::test]
async fn who_waits_in_another_runtime_leaves_the_part_to_its_actor() {
    let (part, _actor) = start().await;
    rests(&part).await;
    let asks = Arc::clone(&part);
    let asked = std::thread::spawn(move || locate(&asks)).join();
    let _answer = asked.expect("it does not panic");
    assert!(part.load.is_queued());
    until("the actor has taken it in", || !part.load.is_queued()).await;
}

#[tokio::test]
async fn a_panic_of_who_drives_a_part_ends_its_actor_and_nobody_waits() {
    let (part, actor) = start().await;
    rests(&part).await;
    let gate = Gate::new(key(), Epoch(1), Place::default(), Arc::clone(&part));
    part.settle_in(Arc::new(Bomb(gate)));
    let killed = kill(&part);
    part.drive_here();
    assert!(killed.await.is_err());
    let has_ended = || actor.get_status() == ActorStatus::Stopped;
    until("the actor has ended", has_ended).await;
    let request = Request {
        id: None,
        payload: Default::default(),
        again: false,
        span: 0,
    };
    assert!(matches!(
        part.call(key().borrowed(), request),
        Err(Refused::Closed)
    ));
}

/// Whoever waits for what a player did gets an answer of its successor.
#[tokio::test]
async fn what_a_player_did_that_has_ended_does_not_count() {
    let (part, _actor) = start().await;
    let member = |name: &str| Member {
        id: NodeId::new(name, 1),
        addr: "127.0.0.1:1".into(),
    };
    let mut view = View::alone(ClusterId(1), member("a@h"));
    view.epoch = view.epoch.next();
    view.members.push(member("b@h"));
    let (placement, me) = (Placement::of(&view), member("a@h").id);
    let key = (0..100).map(|n| Key::new(Kind::of("bomb"), n.to_string()));
    let key = key.into_iter().find(|key| placement.home(key) == Some(&me));
    let key = key.expect("half of them are at home here");
    let request = || Request {
        id: None,
        payload: Default::default(),
        again: false,
        span: 0,
    };
    part.inbox.push(Item::Install(view));
    let _answer = part.call(key.borrowed(), request());
    let lives = || part.resident(&key);
    until("it lives here", || lives().is_some()).await;
    let seat = lives().expect("it was waited for");
    let whose = seat.gate().whose();
    part.inbox.push(Item::Ended { seat });
    until("it has ended", || lives().is_none()).await;

    let ran = Ran::Done {
        reply: Default::default(),
        data: Some(Default::default()),
    };
    assert!(part.load.admit(request().weight()));
    part.load.outcome(ran.weight());
    let (port, _answer) = oneshot::channel();
    part.inbox.push(Item::Served {
        whose,
        caller: Caller::New(port),
        request: request(),
        ran,
    });
    until("its successor lives here", || lives().is_some()).await;
}
