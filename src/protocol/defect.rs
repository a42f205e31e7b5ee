//! Deliberate defects: each breaks one rule of the protocol on purpose, so that the checks prove that they can fail.
//!
//! A defect is planted where a machine is made, and asked for by one small expression at the rule that it breaks. Only
//! builds with debug assertions can plant one: in any other a [`Planted`] takes no room, and holds nothing.

use std::fmt;
use std::str::FromStr;

macro_rules! defects {
    ($($(#[$meta:meta])* $name:ident,)*) => {
        /// A rule that is broken on purpose.
        #[doc(hidden)]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Defect {
            $($(#[$meta])* $name,)*
        }

        impl Defect {
            /// All of them: first those of the data, then of the views, then of the leases.
            pub const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

defects! {
    /// The home has authority without waiting for the barrier.
    NoBarrier,
    /// The home waits for the barrier only to say 'nobody owns it'; a record that it holds is granted at once.
    KnownRecordsAtOnce,
    /// Keepers take writes of earlier epochs, owners count acknowledgements of earlier epochs.
    NoEpochCheckOnPut,
    /// A node accepts a grant of an earlier epoch.
    LateGrant,
    /// A home that asks all members who has a key decides when one of them has answered.
    PartialInquiry,
    /// A sync passes on the records whose owner left the view, not those whose grant was never confirmed.
    OnlyDeadOwnersPushed,
    /// A record that does not belong here any more is dropped at the install, not when the barrier is complete.
    DropAtInstall,
    /// A node is done when its copies were sent, not when they were acknowledged.
    DoneWithoutAcks,
    /// A record without an owner gets no second copy.
    NoOrphanCopy,
    /// An owner sends its state if its keepers differ from those of the view before, whatever was acknowledged.
    PushByDiff,
    /// Authority is carried over if the home did not change, also when the barrier before never completed.
    CarryWithoutComplete,
    /// The owner answers before its keepers acknowledged.
    ReplyBeforeAck,
    /// An actor answers a read by itself, whether or not what it reads is backed up.
    ReadAhead,
    /// The actor does not hear the ids of requests, so that it recognises no retry.
    NoDedup,
    /// A retry is answered at once, whether or not what its first try changed is backed up.
    DedupReplyAtOnce,
    /// An evicted identity may be admitted again.
    Readmit,
    /// The home grants to another member while a grant to a first one is not confirmed.
    RegrantUnconfirmed,
    /// The owner takes the grant for the acknowledgement of the home's copy.
    GrantIsAck,
    /// A node that puts an actor to rest drops its own copy before the others are acknowledged.
    RestWithoutAcks,
    /// The record of an actor at rest has the version that its owner put last.
    RestSameVersion,
    /// A node takes a grant that answers a claim from before it put the actor to rest.
    GrantBeforeRest,
    /// A node that forwards requests says that it has heard the answers to all before, whether or not it has.
    UnheardForgotten,
    /// An actor carries out a request that comes late, when its reply was heard and forgotten.
    LateRequest,

    /// Those that live suffice to decide if all the others are known dead, however many these are.
    UnboundedDead,
    /// A restarted process goes on under the identity of the life before, and remembers nothing.
    Amnesia,
    /// A proposer does not wait for promises.
    NoPhase1,
    /// Half of the members suffice, known dead or not.
    Half,
    /// A lost connection counts as a death.
    WrongDead,
    /// A node that is not a member may propose, and count the votes.
    Outsider,

    /// Votes do not wait until the promises to the evicted ran out.
    NoWait,
    /// The members of a view get no fresh promise when it is installed.
    NoGrace,
    /// A node that voted goes on ponging, and counts itself.
    NoWedge,
    /// A node that voted pongs nobody, but counts itself.
    WedgeButSelf,
    /// Votes wait for half of the promise.
    ShortWait,
}

impl FromStr for Defect {
    type Err = UnknownDefect;

    fn from_str(name: &str) -> Result<Self, UnknownDefect> {
        let named = |defect: &&Self| format!("{defect:?}") == name;
        let found = Self::ALL.iter().find(named).copied();
        found.ok_or_else(|| UnknownDefect(name.to_owned()))
    }
}

/// There is no defect of that name.
#[doc(hidden)]
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownDefect(String);

impl fmt::Display for UnknownDefect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "no defect is called '{}'; there are {:?}",
            self.0,
            Defect::ALL
        )
    }
}

impl std::error::Error for UnknownDefect {}

/// The defect of a machine: none, but in tests.
#[doc(hidden)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Planted {
    #[cfg(debug_assertions)]
    defect: Option<Defect>,
}

impl Planted {
    /// No defect.
    pub const NONE: Self = Self {
        #[cfg(debug_assertions)]
        defect: None,
    };
}

#[cfg(debug_assertions)]
impl Planted {
    /// Whether the machine has that defect.
    pub fn has(self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    /// The defect, if there is one.
    pub fn get(self) -> Option<Defect> {
        self.defect
    }
}

#[cfg(not(debug_assertions))]
impl Planted {
    /// Never.
    pub const fn has(self, _: Defect) -> bool {
        false
    }
}

#[cfg(debug_assertions)]
impl From<Defect> for Planted {
    fn from(defect: Defect) -> Self {
        Self {
            defect: Some(defect),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_defect_is_found_by_its_name() {
        assert_eq!(Defect::ALL.len(), 34);
        for defect in Defect::ALL {
            assert_eq!(format!("{defect:?}").parse(), Ok(*defect));
        }
        let unknown = "None".parse::<Defect>().map_err(|e| e.to_string());
        assert!(unknown.is_err_and(|e| e.starts_with("no defect is called 'None'; there are [NoBarrier, ")));
    }

    #[test]
    #[cfg(not(debug_assertions))]
    fn a_release_build_has_no_room_for_a_defect() {
        assert_eq!(size_of::<Planted>(), 0);
    }
}
