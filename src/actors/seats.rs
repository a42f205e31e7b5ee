//! The players of a part as its driver has them: whose outcomes count. An outcome names the place of its player here, so that
//! the driver touches nothing that clients write to, and the life of that player: what one did that has ended since does not
//! count, whoever has its key or its place now.

use std::hint::black_box;
use std::sync::Arc;

use slab::Slab;

use crate::protocol::types::Epoch;

use super::resident::Resident;

/// Where a player is, and which one of those that were ever there.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Place {
    at: u32,
    life: u32,
}

/// A player that lives here.
pub(super) struct Seated {
    life: u32,
    /// The owner's generation.
    pub(super) gen_: Epoch,
    pub(super) seat: Arc<dyn Resident>,
}

/// All that live here.
#[derive(Default)]
pub(super) struct Seats {
    seats: Slab<Seated>,
    /// How many there were; a number comes again when nobody remembers the life that had it.
    lives: u32,
}

impl Seats {
    /// The place of the player that is inserted next.
    pub(super) fn next(&mut self) -> Place {
        self.lives = self.lives.wrapping_add(1);
        Place {
            at: self.seats.vacant_key() as u32,
            life: self.lives,
        }
    }

    /// A player moves in, at the place that it was given.
    pub(super) fn insert(&mut self, seat: Arc<dyn Resident>) {
        let (Place { at, life }, gen_) = (seat.gate().place, seat.gate().gen_);
        let inserted = self.seats.insert(Seated { life, gen_, seat });
        assert_eq!(inserted, at as usize, "a player is where it was told");
    }

    /// The player of that place, if it lives.
    pub(super) fn get(&self, place: Place) -> Option<&Seated> {
        let seated = self.seats.get(place.at as usize)?;
        (seated.life == place.life).then_some(seated)
    }

    /// It lives no more.
    pub(super) fn remove(&mut self, place: Place) -> Option<Seated> {
        self.get(place)?;
        Some(self.seats.remove(place.at as usize))
    }

    /// Nobody does.
    pub(super) fn clear(&mut self) {
        self.seats.clear();
    }

    /// Reads what [`get`](Self::get) is going to read.
    pub(super) fn prefetch(&self, places: impl Iterator<Item = Place>) {
        for place in places {
            black_box(self.seats.get(place.at as usize).map(|seated| seated.life));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lease::Lease;
    use super::super::part::Part;
    use super::super::resident::{Gate, Stranger};
    use super::*;
    use crate::protocol::types::{Key, Kind, NodeName};

    fn player(seats: &mut Seats, gen_: Epoch) -> Place {
        let part = Arc::new(Part::new(0, 1, 1, Arc::new(Lease::new())));
        let place = seats.next();
        let gate = Gate::new(Key::new(Kind(1), "a"), gen_, place, part);
        seats.insert(Arc::new(Stranger::new(gate, NodeName::new("a@h"))));
        place
    }

    #[test]
    fn what_one_did_that_has_ended_counts_for_nobody() {
        let mut seats = Seats::default();
        let gen_at = |seats: &Seats, place| seats.get(place).map(|seated| seated.gen_);
        let first = player(&mut seats, Epoch(1));
        let other = player(&mut seats, Epoch(2));
        assert_eq!(gen_at(&seats, first), Some(Epoch(1)));
        assert_eq!(gen_at(&seats, other), Some(Epoch(2)));
        assert!(seats.remove(first).is_some());
        assert!(seats.remove(first).is_none());
        let next = player(&mut seats, Epoch(3));
        assert_eq!(next.at, first.at);
        assert_eq!(gen_at(&seats, next), Some(Epoch(3)));
        assert_eq!(gen_at(&seats, first), None);
        assert!(seats.remove(first).is_none());
        seats.clear();
        assert_eq!(gen_at(&seats, other), None);
        assert_ne!(player(&mut seats, Epoch(4)), other);
    }
}
