//! Players in actors of their own and in shared ones, without a machine: what their part would hear.

use std::collections::HashMap;
use std::iter;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, ActorStatus, SupervisionEvent};
use serde::{Deserialize, Serialize};
use tokio::runtime::{self, Handle};
use tokio::sync::Semaphore;
use tokio::sync::oneshot::error::TryRecvError;

use super::*;
use crate::actors::calls::{Calls, Refused, Waiting};
use crate::actors::contain::contained;
use crate::actors::lease::Lease;
use crate::actors::part::{Given, TOGETHER_MAX};
use crate::actors::player::{Hosted, ServerType, Start};
use crate::actors::resident::{Gate, Resident, Stranger};
use crate::actors::seats::Place;
use crate::net::until;
use crate::protocol::blob::Blob;
use crate::protocol::shard::{Answer, Ran, Request};
use crate::protocol::types::{
    ClusterId, Epoch, Key, Kind, Member, Millis, NodeId, NodeName, RequestId,
};
use crate::protocol::view::View;
use crate::wire::{self, CallFailure};

/// In actors of their own, and in a shared one.
const WAYS: [bool; 2] = [false, true];

/// Replies with the sum of all numbers so far; 0 panics, a negative one waits for a permit first, 77 does so without letting
/// its thread go, 88 computes for some time, 99 has a player killed.
struct Sums {
    permits: Arc<Semaphore>,
    victim: Arc<OnceLock<Arc<dyn Resident>>>,
    /// Where its handlers run.
    runtime: runtime::Id,
}

impl GenServer for Sums {
    const NAME: &'static str = "sums";
    type State = i64;
    type Call = i64;
    type Reply = i64;

    fn init(&self, _key: &str) -> i64 {
        0
    }

    async fn handle_call(&self, _key: &str, number: i64, sum: &mut i64) -> i64 {
        assert_ne!(number, 0, "nothing to add");
        assert_eq!(Handle::current().id(), self.runtime, "a foreign runtime");
        if number < 0 {
            self.permits.acquire().await.expect("never closed").forget();
        }
        if number == 77 {
            // Not for ever: a test that fails must end.
            for _ in 0..60_000 {
                if let Ok(permit) = self.permits.try_acquire() {
                    permit.forget();
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        if number == 88 {
            std::thread::sleep(2 * TOGETHER_MAX);
        }
        if number == 99 {
            let victim = self.victim.get().cloned();
            victim.expect("the test has named it").kill();
        }
        *sum += number.abs();
        *sum
    }
}

/// Its states do not go quietly.
struct Sulking;

#[derive(Serialize, Deserialize)]
struct Sulk;

impl Drop for Sulk {
    fn drop(&mut self) {
        panic!("a destructor of the user's");
    }
}

impl GenServer for Sulking {
    const NAME: &'static str = "sulking";
    type State = Sulk;
    type Call = i64;
    type Reply = i64;

    fn init(&self, _key: &str) -> Sulk {
        Sulk
    }

    async fn handle_call(&self, _key: &str, number: i64, _sulk: &mut Sulk) -> i64 {
        number
    }
}

/// The players that have an actor of their own.
type Own = Arc<Mutex<HashMap<ActorId, Arc<dyn Resident>>>>;

/// The part's actor, which only supervises here: what it hears of the end of a player is for the part as well.
struct Supervisor {
    part: Arc<Part>,
    own: Own,
}

impl Actor for Supervisor {
    type Msg = Wake;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Wake>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Wake>,
        event: SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(actor, _) = event {
            let seat = lock(&self.own).remove(&actor.get_id());
            let seat = seat.expect("only the actors of players fail");
            self.part.inbox.push(driver::Item::Ended { seat });
        }
        Ok(())
    }
}

struct Bench {
    part: Arc<Part>,
    permits: Arc<Semaphore>,
    victim: Arc<OnceLock<Arc<dyn Resident>>>,
    types: Arc<Hosted<Sums>>,
    supervisor: ActorRef<Wake>,
    own: Own,
    /// What the part has heard, and was not looked at.
    heard: Mutex<VecDeque<driver::Item>>,
}

impl Bench {
    /// Players that share their actor, or not.
    async fn new(shared: bool) -> Self {
        Self::with(1_000, shared).await
    }

    /// With room for so many clients that wait.
    async fn with(waiting_max: usize, shared: bool) -> Self {
        let permits = Arc::new(Semaphore::new(0));
        let victim = Arc::default();
        let part = Part::new(0, waiting_max, 1 << 20, Arc::new(Lease::new()));
        let (part, own) = (Arc::new(part), Own::default());
        let supervisor = Supervisor {
            part: part.clone(),
            own: own.clone(),
        };
        Self {
            part,
            types: Arc::new(Hosted::new(
                Sums {
                    permits: permits.clone(),
                    victim: Arc::clone(&victim),
                    runtime: Handle::current().id(),
                },
                shared,
            )),
            permits,
            victim,
            heard: Mutex::default(),
            supervisor: Actor::spawn(None, supervisor, ()).await.unwrap().0,
            own,
        }
    }

    /// The part gives its players requests, and sees to it.
    fn give(&self, mut requests: Vec<Given>) {
        self.part.give(&mut requests);
        Part::see_to_given(iter::once(&self.part));
    }

    /// A new player.
    fn player(&self, name: &str) -> Arc<dyn Resident> {
        self.player_of(self.types.clone(), name)
    }

    /// A new player of some type.
    fn player_of(&self, types: Arc<dyn ServerType>, name: &str) -> Arc<dyn Resident> {
        let key = Key::new(Kind::of(types.name()), name);
        let start = Start {
            gate: Gate::new(key, Epoch(1), Place::default(), Arc::clone(&self.part)),
            data: Blob::EMPTY,
            ver: 0,
            node: NodeName::new("a@h"),
        };
        // Not ended before it is known.
        let mut own = lock(&self.own);
        let seat = types.start(start, self.supervisor.get_cell());
        if let Some(actor) = seat.actor() {
            own.insert(actor, seat.clone());
        }
        self.part.settle_in(seat.clone());
        seat
    }

    /// A client asks.
    fn ask(&self, name: &str, number: i64) -> Option<Waiting> {
        self.try_to_ask(name, number).unwrap()
    }

    /// How many bytes wait, and how many clients.
    fn waits(&self) -> (usize, usize) {
        (self.part.load.bytes(), self.part.load.calls())
    }

    fn try_to_ask(&self, name: &str, number: i64) -> Result<Option<Waiting>, Refused> {
        let key = Key::new(Kind::of(Sums::NAME), name);
        self.part.call(key.borrowed(), request(number))
    }

    /// What the part hears next.
    async fn hears(&self) -> String {
        let mut item = None;
        until("the part hears something", || {
            item = self.heard();
            item.is_some()
        })
        .await;
        said(item.expect("it was waited for"))
    }

    /// So much that the part hears, in any order.
    async fn hears_of(&self, count: usize) -> Vec<String> {
        let mut heard = Vec::new();
        while heard.len() < count {
            heard.push(self.hears().await);
        }
        heard.sort_unstable();
        heard
    }

    /// The next item of the part, if there is one.
    fn heard(&self) -> Option<driver::Item> {
        let mut heard = lock(&self.heard);
        let mut items = Vec::new();
        self.part.inbox.take(&mut items);
        heard.extend(items);
        heard.pop_front()
    }
}

fn request(number: i64) -> Request {
    Request {
        id: None,
        payload: wire::encode(&number).unwrap(),
        again: false,
        span: 0,
    }
}

fn said(item: driver::Item) -> String {
    match item {
        driver::Item::Served { whose, ran, .. } => {
            format!("{} {}", whose.key.name(), outcome(&ran))
        }
        driver::Item::Ran { whose, ran } => format!("{} gave {}", whose.key.name(), outcome(&ran)),
        driver::Item::Ended { seat } => format!("{} ended", name(&seat)),
        driver::Item::Request { key, request, .. } => {
            let number: i64 = wire::decode(&request.payload).unwrap();
            format!("{} was asked {number}", key.name())
        }
        _ => "something else".to_owned(),
    }
}

fn name(seat: &Arc<dyn Resident>) -> &str {
    seat.gate().key.name()
}

fn outcome(ran: &Ran) -> String {
    match ran {
        Ran::Done { reply, .. } => wire::decode::<i64>(reply).unwrap().to_string(),
        Ran::Failed(_) => "failed".to_owned(),
        Ran::Unknown => "unknown".to_owned(),
    }
}

#[tokio::test]
async fn a_panic_ends_one_player_and_no_other() {
    for shared in WAYS {
        let bench = Bench::new(shared).await;
        let (bad, _good) = (bench.player("bad"), bench.player("good"));
        let _answers = [
            bench.ask("bad", 0),
            bench.ask("good", 2),
            bench.ask("good", 3),
        ];
        let heard = bench.hears_of(4).await;
        assert_eq!(heard, ["bad ended", "bad failed", "good 2", "good 5"]);
        // What comes late is for its successor: a client's request goes to the part, the part's own stays with the part.
        assert!(bad.give(request(4)).is_none());
        let _late = bench.ask("bad", 7);
        assert_eq!(bench.hears().await, "bad was asked 7");
    }
}

#[tokio::test]
async fn while_one_waits_the_others_go_on_and_its_own_requests_keep_their_order() {
    for shared in WAYS {
        let bench = Bench::new(shared).await;
        let (_slow, _quick) = (bench.player("slow"), bench.player("quick"));
        let _answers = [
            bench.ask("slow", -10),
            bench.ask("slow", -20),
            bench.ask("slow", 5),
            bench.ask("quick", 1),
        ];
        assert_eq!(bench.hears().await, "quick 1");
        bench.permits.add_permits(1);
        assert_eq!(bench.hears().await, "slow 10");
        let _again = bench.ask("quick", 1);
        assert_eq!(bench.hears().await, "quick 2");
        bench.permits.add_permits(1);
        assert_eq!(bench.hears().await, "slow 30");
        assert_eq!(bench.hears().await, "slow 35");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_blocks_its_thread_holds_up_what_others_were_given_until_there_is_more() {
    for shared in WAYS {
        let bench = Bench::new(shared).await;
        let (slow, quick) = (bench.player("slow"), bench.player("quick"));
        bench.give(vec![(slow, request(77)), (quick.clone(), request(1))]);
        bench.give(Vec::new());
        assert_eq!(bench.hears().await, "quick gave 1");
        bench.give(vec![(quick, request(1))]);
        assert_eq!(bench.hears().await, "quick gave 2");
        bench.permits.add_permits(1);
        assert_eq!(bench.hears().await, "slow gave 77");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_blocks_its_thread_holds_up_other_parts_until_they_are_driven_again() {
    for shared in WAYS {
        let (bench, other) = (Bench::new(shared).await, Bench::new(shared).await);
        let (slow, quick) = (bench.player("slow"), other.player("quick"));
        bench.part.give(&mut vec![(slow, request(77))]);
        other.part.give(&mut vec![(quick, request(1))]);
        Part::see_to_given([&bench.part, &other.part].into_iter());
        other.give(Vec::new());
        assert_eq!(other.hears().await, "quick gave 1");
        bench.permits.add_permits(1);
        assert_eq!(bench.hears().await, "slow gave 77");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_whose_players_compute_have_a_task_each() {
    for shared in WAYS {
        let new = || Bench::new(shared);
        let benches = [new().await, new().await, new().await];
        for (bench, number) in benches.iter().zip([88, 77, 1]) {
            let player = bench.player("one");
            bench.part.give(&mut vec![(player, request(number))]);
        }
        Part::see_to_given(benches.iter().map(|bench| &bench.part));
        let [first, second, third] = benches;
        assert_eq!(first.hears().await, "one gave 88");
        // The second one blocks the thread of its task.
        assert_eq!(third.hears().await, "one gave 1");
        second.permits.add_permits(1);
        assert_eq!(second.hears().await, "one gave 77");
    }
}

/// The part knows what came of a request by its place among those that it gave.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_given_is_handled_in_that_order_whichever_task_comes_first() {
    // No more of them each time than there is room for what they come to.
    for shared in [WAYS; 20].concat() {
        let bench = Bench::new(shared).await;
        let player = bench.player("one");
        let numbers = || (100..500).map(i64::from);
        for number in numbers() {
            bench.give(vec![(player.clone(), request(number))]);
        }
        let mut sum = 0;
        for number in numbers() {
            sum += number;
            assert_eq!(bench.hears().await, format!("one gave {sum}"));
        }
    }
}

#[tokio::test]
async fn one_that_is_killed_while_it_waits_gives_its_requests_back() {
    for shared in WAYS {
        let bench = Bench::new(shared).await;
        let seat = bench.player("slow");
        let _answers = [bench.ask("slow", -10), bench.ask("slow", 5)];
        seat.clone().kill();
        let heard = bench.hears_of(3).await;
        assert_eq!(
            heard,
            ["slow ended", "slow was asked -10", "slow was asked 5"]
        );
        // Its end is told once.
        seat.kill();
        let _other = bench.player("other");
        let _answer = bench.ask("other", 1);
        assert_eq!(bench.hears().await, "other 1");
    }
}

#[tokio::test]
async fn one_that_its_part_stops_says_nothing() {
    for shared in WAYS {
        let bench = Bench::new(shared).await;
        let (seat, _other) = (bench.player("gone"), bench.player("other"));
        let _first = bench.ask("gone", 1);
        assert_eq!(bench.hears().await, "gone 1");
        seat.stop();
        assert!(seat.give(request(2)).is_none());
        let _answer = bench.ask("other", 1);
        assert_eq!(bench.hears().await, "other 1");
    }
}

/// The state of one player after so many requests from all sides: one after the other, told to the part in that order.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_player_did_is_told_in_order_whoever_asked() {
    const CLIENTS: i64 = 4;
    const REQUESTS: i64 = 100;
    for shared in WAYS {
        let bench = Arc::new(Bench::new(shared).await);
        let seat = bench.player("one");
        let clients = (0..CLIENTS).map(|client| {
            let (bench, seat) = (Arc::clone(&bench), seat.clone());
            tokio::spawn(async move {
                for n in 0..REQUESTS {
                    if (client + n) % 3 == 0 {
                        if let Some(work) = seat.clone().give(request(1)) {
                            work.begin();
                        }
                    } else {
                        // Only so many may wait for one player.
                        while bench.try_to_ask("one", 1).is_err() {
                            tokio::task::yield_now().await;
                        }
                    }
                    tokio::task::yield_now().await;
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.unwrap();
        }
        for sum in 1..=CLIENTS * REQUESTS {
            let heard = bench.hears().await;
            assert_eq!(heard.split(' ').next_back(), Some(&*sum.to_string()));
        }
    }
}

/// Whoever reads what is backed up has the answer at once, and nothing of the request is left.
#[tokio::test]
async fn a_read_of_what_is_backed_up_waits_for_nobody() {
    for shared in WAYS {
        let bench = Bench::new(shared).await;
        let _player = bench.player("one");
        let id = Some(RequestId(7));
        let again = |bench: &Bench| {
            let key = Key::new(Kind::of(Sums::NAME), "one");
            let request = Request { id, ..request(5) };
            bench.part.call(key.borrowed(), request).unwrap()
        };
        assert!(matches!(again(&bench), Some(Waiting::Later(_))));
        let Some(driver::Item::Served { whose, request, .. }) = bench.heard() else {
            unreachable!("it has changed");
        };
        let seat = bench.part.resident(&whose.key);
        let seat = seat.expect("it lives here");
        bench.part.load.taken(request.weight());
        // Known, but not backed up; then backed up.
        assert!(matches!(again(&bench), Some(Waiting::Later(_))));
        assert_eq!(bench.hears().await, "one 5");
        bench.part.load.taken(request.weight());
        assert_eq!(bench.part.load.calls(), 2);
        let member = Member {
            id: NodeId::new("a@h", 1),
            addr: Arc::from("h:1"),
        };
        let view = View::alone(ClusterId(7), member);
        bench.part.lease.set(&view, Millis(u64::MAX));
        seat.gate().set_backed_up(&view, 1);
        let before = bench.waits();
        let Some(Waiting::Answered(Answer::Reply(reply))) = again(&bench) else {
            unreachable!("nobody has to be asked");
        };
        assert_eq!(wire::decode(&reply), Ok(5_i64));
        assert!(bench.heard().is_none());
        assert_eq!(bench.waits(), before);
    }
}

/// Who finds no room is refused before anything is done.
#[tokio::test]
async fn where_too_many_wait_nothing_is_handled() {
    for shared in WAYS {
        let bench = Bench::with(1, shared).await;
        let _player = bench.player("one");
        let _first = bench.ask("one", 1);
        assert_eq!(bench.hears().await, "one 1");
        let before = bench.waits();
        let refused = bench.try_to_ask("one", 1);
        assert!(matches!(refused, Err(Refused::Full)));
        assert_eq!(bench.waits(), before);
        assert!(bench.heard().is_none());
    }
}

/// A player that hangs does not use up its part.
#[tokio::test]
async fn where_too_many_wait_for_one_player_the_others_are_handled() {
    for shared in WAYS {
        let bench = Bench::with(200, shared).await;
        let _players = (bench.player("slow"), bench.player("quick"));
        let waiting: Vec<_> = (0..bench.part.key_max)
            .map(|_| bench.ask("slow", -1))
            .collect();
        assert!(matches!(waiting[..], [Some(Waiting::Later(_)), ..]));
        let before = bench.waits();
        let refused = bench.try_to_ask("slow", -1);
        assert!(matches!(refused, Err(Refused::Full)));
        assert_eq!(bench.waits(), before);
        let _answer = bench.ask("quick", 1);
        assert_eq!(bench.hears().await, "quick 1");
    }
}

/// A part that ends while a client is at work for it: the client hears that nobody will answer, and its handler ends.
#[tokio::test]
async fn where_the_part_has_ended_nobody_waits() {
    for shared in WAYS {
        let bench = Bench::new(shared).await;
        let _players = (bench.player("quick"), bench.player("slow"));
        bench.part.inbox.close();
        bench.part.calls(Calls::close);
        let Some(Waiting::Later(mut answer)) = bench.ask("quick", 1) else {
            unreachable!("its player is there");
        };
        assert_eq!(answer.try_recv(), Err(TryRecvError::Closed));
        let before = bench.waits();
        assert!(bench.ask("slow", -1).is_none());
        assert_eq!(bench.waits(), before);
        bench.permits.add_permits(1);
        tokio::task::yield_now().await;
        assert_eq!(bench.permits.available_permits(), 1);
    }
}

/// A node that does not know a server type says so, whoever asks for a player of it.
#[tokio::test]
async fn where_a_type_is_not_registered_everybody_hears_that() {
    let bench = Bench::new(true).await;
    let key = Key::new(Kind::of("foreign"), "one");
    let gate = Gate::new(
        key.clone(),
        Epoch(1),
        Place::default(),
        Arc::clone(&bench.part),
    );
    let seat: Arc<dyn Resident> = Arc::new(Stranger::new(gate, NodeName::new("a@h")));
    bench.part.settle_in(Arc::clone(&seat));
    let told = |reason: &[u8]| {
        let failure = wire::decode::<CallFailure>(reason).unwrap();
        assert!(matches!(failure, CallFailure::NoSuchType(node) if node == "a@h"));
    };
    let before = bench.waits();
    let asked = bench.part.call(key.borrowed(), request(1)).unwrap();
    let Some(Waiting::Answered(Answer::Failed(reason))) = asked else {
        unreachable!("nobody has to be asked");
    };
    told(&reason);
    assert_eq!(bench.waits(), before);
    assert!(!Arc::clone(&seat).kill());
    assert!(seat.give(request(1)).is_none());
    let Some(driver::Item::Ran { whose, ran }) = bench.heard() else {
        unreachable!("the part has asked");
    };
    let Ran::Failed(reason) = ran else {
        unreachable!("there is no player");
    };
    told(&reason);
    assert_eq!(whose.key.name(), "one");
}

/// What a handler starts must not end with the runtime of whoever asked.
#[tokio::test]
async fn a_client_in_another_runtime_leaves_the_work_to_this_one() {
    for shared in WAYS {
        leaves_the_work(shared).await;
    }
}

/// The same where the threads of this one are known.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_client_on_a_thread_of_another_runtime_leaves_the_work_to_this_one() {
    for shared in WAYS {
        tokio::spawn(leaves_the_work(shared)).await.unwrap();
    }
}

async fn leaves_the_work(shared: bool) {
    let bench = Arc::new(Bench::new(shared).await);
    let _player = bench.player("one");
    assert!(bench.part.drive(|_| ()).is_err(), "nobody drives it");
    let asks = Arc::clone(&bench);
    let elsewhere = move || {
        let runtime = runtime::Builder::new_current_thread().build();
        runtime
            .unwrap()
            .block_on(async move { drop(asks.ask("one", 1)) });
    };
    std::thread::spawn(elsewhere).join().unwrap();
    assert_eq!(bench.hears().await, "one 1");
    let _here = bench.ask("one", 1);
    assert_eq!(bench.heard().map(said).as_deref(), Some("one 2"));
}

/// A handler that asks another player: each panic has its own report.
#[tokio::test]
async fn a_handler_inside_of_a_handler_is_left_to_the_host() {
    for shared in WAYS {
        let bench = Bench::new(shared).await;
        let _player = bench.player("inner");
        let outer = std::pin::pin!(async {
            drop(bench.ask("inner", 0));
            panic!("the outer one");
        });
        let report: Result<(), String> = contained(outer).await;
        let report = report.expect_err("it panics");
        assert!(report.starts_with("the outer one"), "{report}");
        assert_eq!(bench.hears().await, "inner failed");
    }
}

/// Handlers that wait end with their part.
#[tokio::test]
async fn nobody_goes_on_where_the_part_has_ended() {
    for shared in WAYS {
        let bench = Bench::new(shared).await;
        let _player = bench.player("slow");
        let _answer = bench.ask("slow", -10);
        bench.part.close();
        bench.permits.add_permits(1);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(bench.permits.available_permits(), 1);
    }
}

/// However much waits for one player, others get their turn: here who kills it.
#[tokio::test]
async fn many_requests_of_one_player_do_not_hold_up_its_actor() {
    const REQUESTS: usize = 200;
    for shared in WAYS {
        let bench = Bench::with(10_000, shared).await;
        drop(bench.victim.set(bench.player("slow")));
        let _first = bench.ask("slow", -1);
        let _then = bench.ask("slow", 99);
        let _others = [(); REQUESTS].map(|()| bench.ask("slow", 1));
        bench.permits.add_permits(1);
        let mut handled = 0;
        loop {
            match bench.hears().await {
                ended if ended == "slow ended" => break,
                heard => handled += usize::from(!heard.contains("was asked")),
            }
        }
        assert!(handled < REQUESTS, "it was killed after {handled}");
    }
}

/// The own actor of a player ends with it, however that ends; one that is shared does not.
#[tokio::test]
async fn an_own_actor_ends_with_its_player() {
    for shared in WAYS {
        let bench = Bench::new(shared).await;
        bench.player("stopped").stop();
        bench.player("killed").kill();
        bench.player("crashed");
        drop(bench.ask("crashed", 0));
        let heard = bench.hears_of(3).await;
        assert_eq!(heard, ["crashed ended", "crashed failed", "killed ended"]);
        let left = || bench.supervisor.get_children().len() == usize::from(shared);
        until("own actors have ended", left).await;
    }
}

/// What an actor has not taken when it ends goes back to the part; here it never begins.
#[tokio::test]
async fn a_request_in_an_inbox_that_nobody_reads_goes_back() {
    for shared in WAYS {
        let bench = Bench::new(shared).await;
        bench.supervisor.stop(None);
        let has_ended = || bench.supervisor.get_status() == ActorStatus::Stopped;
        until("the supervisor has ended", has_ended).await;
        let _player = bench.player("one");
        let inside = std::pin::pin!(async { drop(bench.ask("one", 3)) });
        contained(inside).await.expect("no panic");
        assert_eq!(bench.hears().await, "one was asked 3");
    }
}

/// Whoever is the last to know a player drops the user's state.
#[tokio::test]
async fn a_destructor_that_panics_harms_nobody() {
    for shared in WAYS {
        let bench = Bench::new(shared).await;
        let types = Arc::new(Hosted::new(Sulking, shared));
        let seat = bench.player_of(types, "one");
        let key = Key::new(Kind::of(Sulking::NAME), "one");
        let _answer = bench.part.call(key.borrowed(), request(5)).unwrap();
        assert_eq!(bench.hears().await, "one 5");
        drop(seat);
        let seat = bench.part.resident(&key).expect("it lives here");
        bench.part.move_out(&seat);
        drop(seat);
        bench.supervisor.stop(None);
        let has_ended = || bench.supervisor.get_status() == ActorStatus::Stopped;
        until("the supervisor has ended", has_ended).await;
    }
}

#[tokio::test]
async fn a_player_is_busy_as_long_as_clients_wait_for_it() {
    for shared in WAYS {
        let bench = Bench::new(shared).await;
        let seat = bench.player("one");
        let is_busy = || seat.gate().is_busy();
        let _first = bench.ask("one", -1);
        let _second = bench.ask("one", 2);
        assert!(is_busy());
        bench.permits.add_permits(1);
        assert_eq!(bench.hears().await, "one 1");
        assert_eq!(bench.hears().await, "one 3");
        assert!(!is_busy());
        // The part has ended.
        bench.part.calls(Calls::close);
        assert!(bench.ask("one", -1).is_none());
        assert!(!is_busy());
    }
}
