//! Which frames of the parts leave together. Every part has one frame in flight to a peer; sent one by one, each of them,
//! and each answer, would cost both nodes a packet and the waking of a thread, which is more than what is in it.
//!
//! ```text
//!   parts of this node              the peer's
//!     0 ──┐                          ┌──▶ 0 ──┐
//!     1 ──┼── one group in flight ───┼──▶ 1 ──┼── their answers, together ──▶ the next group
//!     2 ──┘                          └──▶ 2 ──┘
//! ```
//! While a group is in flight, other parts wait with what they have to ask, as a part waits while its frame is. When the
//! last answer has arrived, all that were answered or waited are expected; the last of them to send, or to pass, writes
//! for all. Answers leave when all are there that the peer asked for together. A lone frame waits for nobody.

use super::frames::Ties;

/// A set of lanes.
pub(super) type Lanes = u64;

/// The groups of one link, in both directions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Groups {
    /// Asked, and not written yet.
    asking: Lanes,
    /// Asked, and not answered.
    flying: Lanes,
    /// Those that wait until the group is answered.
    waiting: Lanes,
    /// Those that are about to send or to pass.
    expected: Lanes,
    /// Those of the peer's that are not answered.
    owed: Lanes,
}

impl Groups {
    /// Whether a part may ask now; else it waits, and is told when it may.
    pub(super) fn may_ask(&mut self, lane: usize) -> bool {
        // Its own that it has given up does not count.
        let may = self.flying & !(1 << lane) == 0;
        if !may {
            self.waiting |= 1 << lane;
        }
        may
    }

    /// A part sends a frame, or passes.
    pub(super) fn sends(&mut self, lane: usize, ties: Ties) {
        self.asking |= u64::from(ties.asks) << lane;
        self.expected &= !(1 << lane);
        self.owed &= !(u64::from(ties.answers) << lane);
    }

    /// Whether nobody is about to add to what waits to be written.
    pub(super) fn is_whole(&self) -> bool {
        self.expected | self.owed == 0
    }

    /// What waits is written, whoever is expected.
    pub(super) fn written(&mut self) {
        self.flying |= std::mem::take(&mut self.asking);
        (self.expected, self.owed) = (0, 0);
    }

    /// Frames of the peer's have arrived: which parts may ask now, of those that waited for others.
    pub(super) fn arrived(&mut self, frames: impl Iterator<Item = (usize, Ties)>) -> Lanes {
        let mut answers = 0;
        for (lane, ties) in frames {
            self.owed |= u64::from(ties.asks) << lane;
            answers |= u64::from(ties.answers) << lane;
        }
        if answers == 0 {
            return 0;
        }
        self.flying &= !answers;
        self.expected |= answers;
        if self.flying != 0 {
            return 0;
        }
        let waited = std::mem::take(&mut self.waiting);
        self.expected |= waited;
        waited & !answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKS: Ties = Ties {
        asks: true,
        answers: false,
    };

    /// A group of these parts is in flight.
    fn in_flight(lanes: &[usize]) -> Groups {
        let mut groups = Groups::default();
        for lane in lanes {
            assert!(groups.may_ask(*lane));
            groups.sends(*lane, ASKS);
        }
        assert!(groups.is_whole());
        groups.written();
        groups
    }

    fn arrived(groups: &mut Groups, ties: Ties, lanes: &[usize]) -> Lanes {
        groups.arrived(lanes.iter().map(|lane| (*lane, ties)))
    }

    #[test]
    fn a_lone_frame_waits_for_nobody() {
        let mut groups = in_flight(&[1]);
        for lane in [1, 2, 2] {
            assert_eq!(arrived(&mut groups, Ties::ANSWERS, &[1, 2]), 0);
            // The others have nothing to say.
            for other in [1, 2] {
                groups.sends(other, Ties::default());
            }
            assert!(groups.may_ask(lane));
            groups.sends(lane, ASKS);
            assert!(groups.is_whole());
            groups.written();
        }
    }

    #[test]
    fn who_comes_while_a_group_is_in_flight_waits_for_all_its_answers() {
        let mut groups = in_flight(&[0, 1]);
        assert!(!groups.may_ask(2));
        assert_eq!(arrived(&mut groups, Ties::ANSWERS, &[0]), 0);
        assert!(!groups.may_ask(0), "the second is not answered");
        assert_eq!(arrived(&mut groups, Ties::ANSWERS, &[1]), 0b101);
        assert!(groups.may_ask(2));
    }

    #[test]
    fn a_group_is_whole_when_all_who_are_expected_have_sent_or_passed() {
        let mut groups = in_flight(&[0, 1]);
        assert!(!groups.may_ask(3));
        assert_eq!(arrived(&mut groups, Ties::ANSWERS, &[0, 1]), 0b1000);
        groups.sends(1, ASKS);
        groups.sends(3, ASKS);
        assert!(!groups.is_whole());
        groups.sends(0, Ties::default());
        assert!(groups.is_whole());
        groups.written();
        assert!(!groups.may_ask(0));
    }

    #[test]
    fn answers_leave_when_all_are_there() {
        let mut groups = Groups::default();
        assert_eq!(arrived(&mut groups, ASKS, &[0, 2]), 0);
        groups.sends(2, Ties::ANSWERS);
        assert!(!groups.is_whole());
        // It only asks, and the answer is owed.
        groups.sends(0, ASKS);
        assert!(!groups.is_whole());
        groups.sends(0, Ties::ANSWERS);
        assert!(groups.is_whole());
    }

    #[test]
    fn what_is_written_without_those_who_are_expected_waits_for_them_no_more() {
        let mut groups = in_flight(&[0, 1]);
        arrived(&mut groups, Ties::ANSWERS, &[0, 1]);
        groups.sends(0, ASKS);
        groups.written();
        assert!(groups.is_whole());
        assert!(!groups.may_ask(1));
    }

    #[test]
    fn a_part_that_gave_its_frame_up_does_not_wait_for_it() {
        let mut groups = in_flight(&[1]);
        assert!(groups.may_ask(1));
    }
}
