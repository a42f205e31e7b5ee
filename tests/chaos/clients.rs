//! The clients: each calls through every node, and asks again elsewhere under the same id where no answer comes.
//!
//! A node remembers the last 32 ids of a player. So that no copy of a request that still lies somewhere can outlive
//! its id, a player gets no new call while one of its open ids is that old ([`Tickets`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::dice::Dice;
use super::fleet::Fleet;
use super::history::{Call, Outcome};
use super::process::Reply;
use super::support::load;
use super::support::node::lock;

/// How many players are called at a time; now and then a new one takes the place of one of them.
const PLAYERS: usize = 24;
/// How many of them stay.
const LASTING: usize = 8;
/// How many calls may follow an open id: fewer than a node remembers, by what several clients begin at once.
const FOLLOWERS_MAX: u64 = 20;
/// How long copies of a call whose fate nobody told may lie around once the cluster is whole again.
const STALE_AFTER: Duration = Duration::from_secs(10);
/// How long the clients wait for the answers that are still due at the end: longer than a node's own time-out.
const LATE_MAX: Duration = Duration::from_secs(15);

/// Which ids of each player may still be carried out.
#[derive(Default)]
struct Tickets {
    players: BTreeMap<String, Player>,
}

#[derive(Default)]
struct Player {
    /// Calls so far, and those of them that have copies on their way,
    begun: u64,
    open: BTreeSet<u64>,
    /// or may have, for all that anybody knows.
    lost: BTreeSet<u64>,
}

impl Tickets {
    /// Begins one more call, if no open one is too old; its number.
    fn begin(&mut self, player: &str) -> Option<u64> {
        let player = self.players.entry(player.to_owned()).or_default();
        let oldest = player.open.first().into_iter().chain(player.lost.first());
        if oldest
            .min()
            .is_some_and(|oldest| player.begun - oldest >= FOLLOWERS_MAX)
        {
            return None;
        }
        player.begun += 1;
        Some(player.begun)
    }

    /// From now on copies of that call are on their way.
    fn open(&mut self, player: &str, number: u64) {
        self.players
            .entry(player.to_owned())
            .or_default()
            .open
            .insert(number);
    }

    /// All copies of that call were answered, or at least nobody will answer any more.
    fn close(&mut self, player: &str, number: u64, answered: bool) {
        let player = self.players.entry(player.to_owned()).or_default();
        player.open.remove(&number);
        if !answered {
            player.lost.insert(number);
        }
    }
}

/// What the clients of one run share.
pub(crate) struct Clients<'a> {
    fleet: &'a Fleet,
    tickets: Mutex<Tickets>,
    /// Those that are called now, and all that ever were.
    players: Mutex<Vec<String>>,
    named: AtomicU64,
    ids: AtomicU64,
    calls: Mutex<Vec<Call>>,
    wrong: Mutex<Vec<Wrong>>,
    stop: AtomicBool,
}

/// What must never be answered, and when it was.
#[derive(Clone, Debug)]
pub(crate) struct Wrong {
    pub(crate) from: Duration,
    pub(crate) until: Duration,
    pub(crate) what: String,
}

/// The copies of a call that were not answered when its client went on.
struct Tail {
    /// Its place among the calls.
    call: usize,
    ticket: Option<u64>,
    replies: Receiver<Reply>,
    due: usize,
    answered: bool,
}

impl<'a> Clients<'a> {
    pub(crate) fn new(fleet: &'a Fleet) -> Self {
        Self {
            fleet,
            tickets: Mutex::default(),
            players: Mutex::new((0..PLAYERS).map(|i| format!("p{i}")).collect()),
            named: AtomicU64::new(PLAYERS as u64),
            ids: AtomicU64::new(0),
            calls: Mutex::default(),
            wrong: Mutex::default(),
            stop: AtomicBool::new(false),
        }
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// All calls so far; those under way are not among them.
    pub(crate) fn calls(&self) -> Vec<Call> {
        lock(&self.calls).clone()
    }

    pub(crate) fn wrong(&self) -> Vec<Wrong> {
        lock(&self.wrong).clone()
    }

    /// Some players that are called now.
    pub(crate) fn some_players(&self, dice: &mut Dice, count: usize) -> Vec<String> {
        let players = lock(&self.players);
        (0..count).filter_map(|_| dice.pick(&players)).collect()
    }

    /// The cluster has been whole for a while: no copy of an earlier call is on its way any more.
    pub(crate) fn settled(&self) {
        for player in lock(&self.tickets).players.values_mut() {
            player.lost.clear();
        }
    }

    /// Calls until it is told to stop.
    pub(crate) fn run(&self, client: usize, mut dice: Dice) {
        let mut tails: Vec<Tail> = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            tails.retain_mut(|tail| !self.look(tail));
            let player = self.player(&mut dice);
            let begun = lock(&self.tickets).begin(&player);
            if let Some(ticket) = begun {
                let reward = dice.percent(65).then_some(ticket);
                tails.push(self.call(client, player, reward, &mut dice));
            }
            thread::sleep(Duration::from_millis(dice.between(1, 12)));
        }
        let deadline = Instant::now() + LATE_MAX;
        while !tails.is_empty() && Instant::now() < deadline {
            tails.retain_mut(|tail| !self.look(tail));
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn player(&self, dice: &mut Dice) -> String {
        let mut players = lock(&self.players);
        // Some are busier than others.
        let at = (dice.between(0, 100) * dice.between(0, 100)) as usize * PLAYERS / 10_000;
        // The busiest are called all the time.
        if at >= LASTING && dice.percent(2) {
            players[at] = format!("p{}", self.named.fetch_add(1, Ordering::Relaxed));
        }
        players[at].clone()
    }

    /// One call, a reward if it has a ticket, else a read; tried until it is answered or given up.
    fn call(&self, client: usize, player: String, ticket: Option<u64>, dice: &mut Dice) -> Tail {
        let (to, replies) = channel();
        let id = ticket.map(|_| self.ids.fetch_add(1, Ordering::Relaxed) + 1);
        // Sums of such amounts differ, and a single one is never mistaken for two.
        let amount = ticket.map_or(0, |_| dice.between(1 << 39, 1 << 40) as i64);
        let line = match id {
            Some(id) => format!("reward_player {player} {amount} --id {id}"),
            None => format!("reward_player {player} 0"),
        };
        if let Some(ticket) = ticket {
            lock(&self.tickets).open(&player, ticket);
        }
        let mut call = Call {
            id,
            client,
            player,
            amount,
            invoked: self.fleet.now(),
            returned: Duration::MAX,
            settled: Duration::MAX,
            tries: Vec::new(),
            outcome: Outcome::Unknown,
        };
        let mut due = 0;
        let mut certain = true;
        // Some give up while their request is still on its way.
        let patience = match dice.between(0, 3) {
            0 => dice.between(100, 1_500),
            _ => dice.between(3_000, 12_000),
        };
        let give_up = Instant::now() + Duration::from_millis(patience);
        while Instant::now() < give_up && !matches!(call.outcome, Outcome::Total(_)) {
            if self.ask(&mut call, &line, &to, dice) {
                due += 1;
                // Impatient now and then: then two nodes have the same request at the same time.
                let patience = match dice.between(0, 4) {
                    0 => dice.between(5, 100),
                    1 => dice.between(100, 500),
                    _ => dice.between(500, 3_000),
                };
                let until = Instant::now() + Duration::from_millis(patience);
                let (heard, told) = self.listen(&mut call, &replies, until);
                due -= heard;
                certain &= told;
            }
            if !matches!(call.outcome, Outcome::Total(_)) {
                thread::sleep(Duration::from_millis(dice.between(5, 60)));
            }
        }
        call.returned = self.fleet.now();
        if call.outcome == Outcome::Unknown && certain && due == 0 {
            call.outcome = Outcome::Refused;
        }
        // A client that asks again although it was answered.
        let answered = matches!(call.outcome, Outcome::Total(_));
        if answered && ticket.is_some() && dice.percent(8) && self.ask(&mut call, &line, &to, dice)
        {
            due += 1;
        }
        let mut calls = lock(&self.calls);
        calls.push(call);
        Tail {
            call: calls.len() - 1,
            ticket,
            replies,
            due,
            answered: certain,
        }
    }

    /// Asks some node; false if none runs.
    fn ask(&self, call: &mut Call, line: &str, to: &Sender<Reply>, dice: &mut Dice) -> bool {
        let mut nodes = self.fleet.nodes();
        if let (Some((last, _)), true) = (call.tries.last(), nodes.len() > 1) {
            nodes.retain(|node| node.name() != last);
        }
        let Some(node) = dice.pick(&nodes) else {
            return false;
        };
        if call.id.is_none() {
            // A read that is forwarded takes a place in the player's memory, every time.
            lock(&self.tickets).begin(&call.player);
        }
        call.tries.push((node.name().to_owned(), "…".to_owned()));
        node.send(line, call.tries.len() - 1, to);
        true
    }

    /// Waits for the answer to the last try, and takes those to earlier ones. How many there were, and whether
    /// each told what happened.
    fn listen(&self, call: &mut Call, replies: &Receiver<Reply>, until: Instant) -> (usize, bool) {
        let (mut heard, mut certain) = (0, true);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match replies.recv_timeout(left) {
                Ok(reply) => {
                    let last = reply.tag + 1 == call.tries.len();
                    heard += 1;
                    certain &= self.take(call, reply);
                    if last || matches!(call.outcome, Outcome::Total(_)) {
                        return (heard, certain);
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    return (heard, certain);
                }
            }
        }
    }

    /// Takes one answer; whether it tells what happened.
    fn take(&self, call: &mut Call, Reply { tag, lines }: Reply) -> bool {
        let text = lines.map_or_else(|| "ended".to_owned(), |lines| lines.join(" / "));
        text.clone_into(&mut call.tries[tag].1);
        if text == "ended" {
            return false;
        }
        let what = match (load::outcome_of(&text), &call.outcome) {
            (load::Outcome::Total(total), Outcome::Total(first)) => {
                if total == *first || call.id.is_none() {
                    return true;
                }
                format!("one id, two answers: {call}")
            }
            (load::Outcome::Total(total), Outcome::Refused | Outcome::Unknown) => {
                call.outcome = Outcome::Total(total);
                return true;
            }
            (load::Outcome::Refused(_), _) => return true,
            (load::Outcome::Unknown(_), _) => return false,
            (load::Outcome::Wrong(_), _) => format!("no answer to that: {call}"),
        };
        lock(&self.wrong).push(Wrong {
            from: call.invoked,
            until: self.fleet.now(),
            what,
        });
        true
    }

    /// Takes the late answers of a call; true once all are there.
    fn look(&self, tail: &mut Tail) -> bool {
        let mut calls = lock(&self.calls);
        let call = &mut calls[tail.call];
        while tail.due > 0 {
            match tail.replies.try_recv() {
                Ok(reply) => {
                    tail.due -= 1;
                    let before = call.outcome.clone();
                    tail.answered &= self.take(call, reply);
                    // Its client had given up: for him it stays unknown until he hears, which is now.
                    if call.outcome != before {
                        call.returned = self.fleet.now();
                    }
                }
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => tail.due = 0,
            }
        }
        let stale = if tail.answered {
            Duration::ZERO
        } else {
            STALE_AFTER
        };
        call.settled = self.fleet.now() + stale;
        if let Some(ticket) = tail.ticket {
            lock(&self.tickets).close(&call.player, ticket, tail.answered);
        }
        true
    }
}
