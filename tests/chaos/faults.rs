//! The faults: what is done to a cluster, in an order that the seed says, and never more at once than the plan's
//! backups can bear, unless that is the point.

use std::thread;
use std::time::Duration;

use super::dice::Dice;
use super::fleet::Fleet;

/// Longer than the nodes' suspicion: whoever is silent that long is left behind.
const LONG_MS: (u64, u64) = (2_500, 5_000);
/// Shorter: nobody needs to notice.
const SHORT_MS: (u64, u64) = (100, 1_700);

/// Just before the others agree on a view without it.
const SPREAD_MS: (u64, u64) = (1_300, 2_100);

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A process is killed, and started again when the others went on without it.
    Kill,
    /// A process is killed and started again at once.
    Restart,
    /// A process is frozen for less than it takes to suspect it.
    FreezeShort,
    /// A process is frozen until the others went on without it, and beyond.
    FreezeLong,
    /// A cable is pulled, and soon plugged in again.
    CutShort,
    /// A cable is pulled until the others went on without that machine, and beyond.
    CutLong,
    /// Two machines cannot hear each other, all others hear both.
    Between,
    /// One machine does not hear another one, which hears it.
    OneWay,
    /// Two machines cannot hear each other, and then one of them hears nobody: it is voted out with a lease in hand,
    /// and nobody can tell it.
    Spreading,
    /// What one machine sends vanishes, it hears everybody.
    Mute,
    /// One machine hears nobody, everybody hears it.
    Deaf,
    /// The smaller part cannot hear the larger one: 2/1, 3/1, 3/2.
    Split,
    /// No part is a majority: 1/1/1, 2/2, 2/2/1.
    Shatter,
    /// A node leaves in good order and comes back.
    Leave,
    /// One after the other leaves and comes back.
    Rolling,
    /// A new node joins; when all are there, one leaves.
    Join,
    /// A node is killed while a new one joins.
    KillAtJoin,
    /// Actors are killed on their nodes.
    KillActors,
    /// Two processes are killed at the same moment.
    KillTwo,
    /// A process is frozen and another one killed.
    FreezeAndKill,
}

impl Fault {
    /// Those that cost one node at a time.
    pub(crate) const SINGLE: [Self; 16] = [
        Self::Kill,
        Self::Restart,
        Self::FreezeShort,
        Self::FreezeLong,
        Self::CutShort,
        Self::CutLong,
        Self::Between,
        Self::OneWay,
        Self::Mute,
        Self::Deaf,
        Self::Shatter,
        Self::Leave,
        Self::Rolling,
        Self::Join,
        Self::KillAtJoin,
        Self::KillActors,
    ];
    /// Those that can cost two.
    pub(crate) const DOUBLE: [Self; 4] = [
        Self::KillTwo,
        Self::FreezeAndKill,
        Self::Split,
        Self::Spreading,
    ];

    /// How many nodes may lose what they hold.
    pub(crate) fn costs(self, nodes: usize) -> usize {
        match self {
            // Of three, the two that are left cannot vote one of them out.
            Self::Spreading => nodes.min(4) - 2,
            Self::KillTwo | Self::FreezeAndKill => 2,
            Self::Split => (nodes - 1) / 2,
            Self::FreezeShort | Self::CutShort | Self::Leave | Self::Rolling | Self::KillActors => {
                0
            }
            Self::Kill
            | Self::Restart
            | Self::FreezeLong
            | Self::CutLong
            | Self::Between
            | Self::OneWay
            | Self::Mute
            | Self::Deaf
            | Self::Shatter
            | Self::Join
            | Self::KillAtJoin => 1,
        }
    }

    /// Does it, and undoes it. Then all nodes run, and nothing is cut.
    pub(crate) fn apply(self, fleet: &Fleet, dice: &mut Dice) -> Result<(), String> {
        let mut names = fleet.running();
        shuffle(&mut names, dice);
        let (one, rest) = names.split_first().ok_or("no node runs")?;
        let two = rest.first().ok_or("one node runs")?;
        let rest = sorted(rest);
        let others = sorted(&names[2..]);
        let half = (names.len() - 1) / 2;
        fleet.note(format!("fault {self:?}: {one}, {two}"));
        match self {
            Self::Kill => {
                fleet.kill(one);
                fleet.wait_members(&rest)?;
                pause(dice, (0, 1_000));
                fleet.start(one);
            }
            Self::Restart => {
                fleet.kill(one);
                fleet.start(one);
            }
            Self::FreezeShort => {
                fleet.freeze(one);
                pause(dice, SHORT_MS);
            }
            Self::FreezeLong => {
                fleet.freeze(one);
                fleet.wait_members(&rest)?;
                pause(dice, (0, 3_000));
            }
            Self::CutShort => {
                fleet.unplug(one);
                pause(dice, SHORT_MS);
            }
            Self::CutLong => {
                fleet.unplug(one);
                fleet.wait_members(&rest)?;
                pause(dice, (0, 3_000));
            }
            Self::Between => {
                fleet.split(&[vec![one.clone()], vec![two.clone()]]);
                pause(dice, LONG_MS);
            }
            Self::OneWay => {
                fleet.silence(one, two);
                pause(dice, LONG_MS);
            }
            Self::Spreading => {
                fleet.split(&[vec![one.clone()], vec![two.clone()]]);
                pause(dice, SPREAD_MS);
                rest.iter().for_each(|other| fleet.silence(other, one));
                pause(dice, LONG_MS);
            }
            Self::Mute => {
                rest.iter().for_each(|other| fleet.silence(one, other));
                pause(dice, LONG_MS);
            }
            Self::Deaf => {
                rest.iter().for_each(|other| fleet.silence(other, one));
                pause(dice, LONG_MS);
            }
            Self::Split => {
                let (few, many) = names.split_at(half);
                fleet.note(format!("{few:?} / {many:?}"));
                fleet.split(&[few.to_vec(), many.to_vec()]);
                fleet.wait_members(&sorted(many))?;
                pause(dice, (0, 2_000));
            }
            Self::Shatter => {
                let parts: Vec<Vec<String>> =
                    names.chunks(names.len() / 2).map(<[_]>::to_vec).collect();
                fleet.note(format!("{parts:?}"));
                fleet.split(&parts);
                pause(dice, LONG_MS);
            }
            Self::Leave => {
                fleet.leave(one)?;
                pause(dice, (0, 500));
                fleet.start(one);
                fleet.connect(one)?;
            }
            Self::Rolling => {
                for name in sorted(&names) {
                    fleet.leave(&name)?;
                    fleet.start(&name);
                    fleet.connect(&name)?;
                    fleet.wait_serving()?;
                }
            }
            Self::Join => match dice.pick(&fleet.idle()) {
                Some(new) => {
                    fleet.start(&new);
                    fleet.connect(&new)?;
                }
                None => fleet.leave(one)?,
            },
            Self::KillAtJoin => {
                if let Some(new) = dice.pick(&fleet.idle()) {
                    fleet.start(&new);
                    fleet.connect(&new)?;
                }
                fleet.kill(one);
                pause(dice, (0, 3_000));
                fleet.start(one);
            }
            Self::KillActors => names.iter().for_each(|name| fleet.kill_actors(name)),
            Self::KillTwo => {
                fleet.kill(one);
                fleet.kill(two);
                fleet.wait_members(&others)?;
                fleet.start(one);
                fleet.start(two);
            }
            Self::FreezeAndKill => {
                fleet.freeze(one);
                pause(dice, (0, 2_500));
                fleet.kill(two);
                fleet.wait_members(&others)?;
                fleet.start(two);
            }
        }
        fleet.heal();
        fleet.note("all is repaired");
        fleet.wait_serving()
    }
}

fn pause(dice: &mut Dice, (from, to): (u64, u64)) {
    thread::sleep(Duration::from_millis(dice.between(from, to)));
}

fn shuffle(names: &mut [String], dice: &mut Dice) {
    for at in (1..names.len()).rev() {
        names.swap(at, dice.between(0, at as u64 + 1) as usize);
    }
}

fn sorted(names: &[String]) -> Vec<String> {
    let mut names = names.to_vec();
    names.sort();
    names
}
