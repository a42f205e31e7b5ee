//! What kind of run a seed is: everything that is decided before it begins.

use statekeeper::protocol::defect::Planted;

use super::dice::Dice;
use super::network::Weather;

/// Clocks run at these rates, in thousandths. The lease stands any two whose rates differ by less than a quarter of the
/// slower one, since a promise is a quarter longer than a lease.
const RATE_MIN: u64 = 900;
const RATE_MAX: u64 = 1_110;

/// The kind of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub planted: Planted,
    pub backups: usize,
    /// How many nodes there are at first.
    pub nodes: usize,
    pub clients: usize,
    pub keys: usize,
    /// How often a client gives a request no id, in percent: then nodes that forward it do.
    pub anonymous: u64,
    /// The mean time between two operations of a client.
    pub client_pace: u64,
    /// For how long faults happen.
    pub safety_ms: u64,
    pub fault_pace: u64,
    /// Never more faults at once than the backups must survive.
    pub gentle: bool,
    pub weather: Weather,
    /// How often a witness tells of the end of a process, in percent.
    pub witnessed: u64,
    /// How slow actors are at worst, in milliseconds, and how often one of them ends, in percent.
    pub actor_delay_max: u64,
    pub actor_ends: u64,
    /// How many places a part looks at at once after an install, and how much later, at worst, it goes on.
    pub swept_at_once: usize,
    pub heal_delay_max: u64,
    /// How often an actor that may go to rest does so at a tick, in percent.
    pub rests: u64,
    /// All clocks are right, or each has a rate of its own.
    drifts: bool,
}

impl Plan {
    /// Most runs are short and small; some are long, with many nodes.
    pub fn new(dice: &mut Dice, planted: Planted) -> Self {
        let large = dice.percent(30);
        let backups = if dice.percent(15) { 2 } else { 1 };
        let (nodes_max, safety_ms) = if large {
            (7, dice.between(8_000, 25_000))
        } else {
            (4, dice.between(3_000, 8_000))
        };
        let weather = if dice.percent(30) {
            Weather::stormy(dice)
        } else {
            Weather::CALM
        };
        Self {
            planted,
            backups,
            nodes: dice.between(3, nodes_max + 1) as usize,
            clients: dice.between(2, 7) as usize,
            keys: dice.between(1, 13) as usize,
            anonymous: 8,
            client_pace: dice.between(20, 400),
            safety_ms,
            fault_pace: dice
                .pick(&[200, 400, 1_000, 2_500, 5_000])
                .unwrap_or_default(),
            gentle: dice.percent(60),
            weather,
            witnessed: dice.pick(&[0, 50, 90]).unwrap_or_default(),
            actor_delay_max: dice.pick(&[1, 3, 20, 200]).unwrap_or_default(),
            actor_ends: dice.pick(&[0, 0, 1, 5]).unwrap_or_default(),
            swept_at_once: dice.pick(&[1, 3, 1_000]).unwrap_or_default(),
            heal_delay_max: dice.pick(&[1, 5, 30]).unwrap_or_default(),
            rests: 0,
            drifts: dice.percent(50),
        }
    }

    /// The rate of one node's clock.
    pub fn rate(&self, dice: &mut Dice) -> u64 {
        if !self.drifts {
            return 1_000;
        }
        let rates = [RATE_MIN, RATE_MAX, dice.between(RATE_MIN, RATE_MAX + 1)];
        dice.pick(&rates).unwrap_or_default()
    }
}
