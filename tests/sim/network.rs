//! Connections between processes. As a rule a connection is ordered and reliable in each of its lanes, until it ends:
//! then whatever was under way is lost. Behind a cut nothing arrives, neither messages nor the news that it ended.
//!
//! In stormy weather single messages get lost, arrive twice, or overtake each other, of the parts and of the
//! membership alike: the machines promise to stand that, and count on nothing that a connection promises but who sent
//! a message.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use statekeeper::protocol::members;
use statekeeper::protocol::shard;
use statekeeper::protocol::types::{ClusterId, Epoch, NodeId};

use super::dice::Dice;

/// Where a process can be: an address.
pub type Place = usize;

/// Numbers connections.
pub type LinkId = u64;

/// What travels.
#[derive(Clone, Debug)]
pub enum Payload {
    Control(members::Msg),
    Data {
        part: usize,
        cluster: ClusterId,
        epoch: Epoch,
        msg: shard::Msg,
    },
}

impl Payload {
    /// Messages of one lane stay in order; the driver sends answers ahead of requests.
    fn lane(&self) -> usize {
        match self {
            Self::Control(_) => 0,
            Self::Data { part, msg, .. } => {
                let answers = matches!(
                    msg,
                    shard::Msg::PutAck { .. }
                        | shard::Msg::HoldAck { .. }
                        | shard::Msg::OwnerIs { .. }
                        | shard::Msg::Grant { .. }
                        | shard::Msg::Reply { .. }
                        | shard::Msg::Located { .. }
                        | shard::Msg::Report { .. }
                );
                1 + 2 * part + usize::from(answers)
            }
        }
    }
}

/// What happens to single messages.
#[derive(Clone, Debug)]
pub struct Weather {
    /// The longest delay of a message, in milliseconds.
    pub delay_max: u64,
    /// How many of a thousand messages get lost, and how many arrive twice.
    lost: u64,
    doubled: u64,
    /// Whether messages overtake each other.
    reordered: bool,
}

impl Weather {
    pub const CALM: Self = Self {
        delay_max: 5,
        lost: 0,
        doubled: 0,
        reordered: false,
    };

    pub fn stormy(dice: &mut Dice) -> Self {
        Self {
            delay_max: dice.pick(&[5, 30, 150]).unwrap_or_default(),
            lost: dice.pick(&[0, 5, 30, 100]).unwrap_or_default(),
            doubled: dice.pick(&[0, 20, 200]).unwrap_or_default(),
            reordered: dice.percent(70),
        }
    }
}

/// One end of a connection.
#[derive(Clone, Debug)]
pub struct End {
    pub place: Place,
    /// The process, by its number; another one may listen at the same place later.
    pub process: u64,
    pub id: NodeId,
}

#[derive(Debug)]
struct Link {
    ends: [End; 2],
    /// By receiving end and lane: when the last message arrives.
    last: BTreeMap<(usize, usize), u64>,
    /// By receiving end: arrived at a cut, in order.
    stalled: [VecDeque<Payload>; 2],
}

/// A message that arrives.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub link: LinkId,
    /// Which end receives it.
    pub end: usize,
    pub payload: Payload,
}

/// All connections.
#[derive(Debug)]
pub struct Network {
    links: BTreeMap<LinkId, Link>,
    next: LinkId,
    /// From where nothing reaches where.
    cuts: BTreeSet<(Place, Place)>,
    pub weather: Weather,
}

impl Network {
    pub fn new() -> Self {
        Self {
            links: BTreeMap::new(),
            next: 1,
            cuts: BTreeSet::new(),
            weather: Weather::CALM,
        }
    }

    pub fn is_cut(&self, from: Place, to: Place) -> bool {
        self.cuts.contains(&(from, to))
    }

    /// Whether the two places reach each other.
    pub fn is_open(&self, a: Place, b: Place) -> bool {
        !self.is_cut(a, b) && !self.is_cut(b, a)
    }

    pub fn is_whole(&self) -> bool {
        self.cuts.is_empty()
    }

    pub fn cut(&mut self, from: Place, to: Place) {
        self.cuts.insert((from, to));
    }

    /// Ends the cut; returns what was held up by it, to arrive now.
    pub fn heal(&mut self, from: Place, to: Place) -> Vec<Arrival> {
        self.cuts.remove(&(from, to));
        let mut freed = Vec::new();
        for (id, link) in &mut self.links {
            for end in 0..2 {
                if (link.ends[1 - end].place, link.ends[end].place) == (from, to) {
                    let held = std::mem::take(&mut link.stalled[end]);
                    freed.extend(held.into_iter().map(|payload| Arrival {
                        link: *id,
                        end,
                        payload,
                    }));
                }
            }
        }
        freed
    }

    pub fn cuts(&self) -> Vec<(Place, Place)> {
        self.cuts.iter().copied().collect()
    }

    pub fn connect(&mut self, a: End, b: End) -> LinkId {
        let id = self.next;
        self.next += 1;
        let stalled = [VecDeque::new(), VecDeque::new()];
        self.links.insert(
            id,
            Link {
                ends: [a, b],
                last: BTreeMap::new(),
                stalled,
            },
        );
        id
    }

    /// Ends a connection; returns its ends, if it was there.
    pub fn close(&mut self, id: LinkId) -> Option<[End; 2]> {
        self.links.remove(&id).map(|link| link.ends)
    }

    /// The connections of a process.
    pub fn of(&self, process: u64) -> Vec<LinkId> {
        let mine = |link: &Link| link.ends.iter().any(|end| end.process == process);
        self.links
            .iter()
            .filter(|(_, link)| mine(link))
            .map(|(id, _)| *id)
            .collect()
    }

    pub fn all(&self) -> Vec<LinkId> {
        self.links.keys().copied().collect()
    }

    /// Whether two processes are connected.
    pub fn joins(&self, a: u64, b: u64) -> Option<LinkId> {
        let both = |link: &Link| {
            let [x, y] = &link.ends;
            (x.process, y.process) == (a, b) || (x.process, y.process) == (b, a)
        };
        self.links
            .iter()
            .find(|(_, link)| both(link))
            .map(|(id, _)| *id)
    }

    /// When a message of that process arrives, each time that it does; never if the connection has ended.
    pub fn send(
        &mut self,
        now: u64,
        id: LinkId,
        process: u64,
        payload: Payload,
        dice: &mut Dice,
    ) -> [Option<(u64, Arrival)>; 2] {
        let Some(link) = self.links.get_mut(&id) else {
            return [None, None];
        };
        let Weather {
            delay_max,
            lost,
            doubled,
            reordered,
        } = self.weather;
        if lost > 0 && dice.between(0, 1_000) < lost {
            return [None, None];
        }
        let end = usize::from(link.ends[0].process == process);
        let arrival = |payload| Arrival {
            link: id,
            end,
            payload,
        };
        let twin = (doubled > 0 && dice.between(0, 1_000) < doubled)
            .then(|| (now + 1 + dice.between(0, 1_000), arrival(payload.clone())));
        let mut at = now + 1 + dice.between(0, delay_max);
        if !reordered {
            let last = link.last.entry((end, payload.lane())).or_default();
            at = at.max(*last);
            *last = at;
        }
        [Some((at, arrival(payload))), twin]
    }

    /// A message reaches its end: who gets it from whom; none if it is lost or held up.
    pub fn arrive(&mut self, arrival: Arrival) -> Option<(End, NodeId, Payload)> {
        let Arrival { link, end, payload } = arrival;
        let link = self.links.get_mut(&link)?;
        let (to, from) = (&link.ends[end], &link.ends[1 - end]);
        if self.cuts.contains(&(from.place, to.place)) || !link.stalled[end].is_empty() {
            link.stalled[end].push_back(payload);
            return None;
        }
        Some((to.clone(), from.id.clone(), payload))
    }
}
