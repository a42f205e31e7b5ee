//! The protocol, pure and deterministic: inputs in, effects out. No clock, no randomness, no input or output.
//!
//! Two machines: [`members::Members`] agrees on views and holds the lease, one per node; [`shard::Shard`]
//! keeps owners and records of one part of the key space, [`SHARDS`] per node. The same code is model-checked,
//! simulated and run.
//!
//! # The rules
//!
//! **Placement.** Rank is rendezvous hashing over node *names* among the active members (members that are not
//! leaving). The *home* of a key is rank 0; its *keepers* are the first `backups` active members that are not the
//! owner; a record without an owner lives on the first `backups + 1`. The home is the owner or its first keeper, so
//! that its record doubles as the directory entry: to find or to claim an actor, a node asks its home, in one round
//! trip.
//!
//! **Owner.** A request goes to the actor, what changes goes to every keeper with a version, and the answer waits
//! until each of them has that version *and* this node has a lease. The actor goes on meanwhile; later answers wait
//! for their own versions.
//!
//! **Directory.** Only the home answers claims, and only with authority: it was the home in every view since, and
//! including, the last one whose barrier it completed, or every member has told it what it has of that key. A grant is
//! not an acknowledgement of a copy; the owner confirms it with a put. A node that has put the actor to rest claims it
//! again like any other.
//!
//! **A new view.** An owner puts its state to the keepers that lack it; a record without a live, confirmed owner is
//! passed on to where such records live; whoever has all its acknowledgements says *done* to all. When everybody's
//! *done* has arrived, the barrier is complete: authority is whole, and surplus records are dropped, not before.
//!
//! **Views.** One instance of single-decree Paxos per epoch, whose acceptors are the members of the view before. A
//! quorum is a majority, or exactly half when all the others are *known dead*: a newer incarnation answers at the
//! same address, the operator vouches for it (`forget`), it declined this cluster, it bade farewell, its guardian
//! witnessed the end of its process (see [`crate::guardian`]), or it shows a view of another cluster that it belongs to
//! without this node. So the survivor of two goes on with the restarted
//! other, and a lone node stops.
//!
//! **Lease.** A pong counts for its pinger for L from when the ping was *sent*; the ponger promises not to vote the
//! pinger out for G > L. A node answers clients while a strict majority of pongs counts, its own included unless it
//! voted for the next view. A vote waits until the promises to all that it evicts have run out, unless they are
//! known dead.
//!
//! **Messages** may get lost, arrive twice and overtake each other; only who sent them is proven. (A connection keeps
//! them in order, and loses them only with itself. No rule counts on that.)
//!
//! # Rules that came later
//!
//! Found by running, simulating and checking this code; the reasons stand at the code.
//!
//! - A proposal names whom it evicts already in its *prepare*, so that acceptors stop ponging those and promise only
//!   when their own promises have run out: the cluster answers on while it waits for an eviction.
//! - After a time without a majority a node evicts nobody for one suspicion time: it has heard nobody, not they.
//! - A node that was evicted while alive waits longer and longer between two attempts to come back, so that a link
//!   that stays broken does not change views for ever.
//! - A *done* says whether the sender has heard the receiver's; whoever has not, is told again.
//! - A home without authority asks all members what they have of a key that is claimed, and grants the newest when all have
//!   answered: a barrier for one key, so that nobody waits for the copies of all. The argument is in `shard/inquiry.rs`.
//! - A request may be forwarded without a claim, to whoever the driver believes to be the owner (a *hint*; a new view
//!   makes one of what was forwarded under the old one). It may be wrong in any way: who is forwarded a request for a key
//!   that it does not own asks the home, and follows no hint, so that requests do not go round and round.
//! - A view is installed key by key, and a key that is touched before its turn is looked at first: `shard/sweep.rs`.
//! - Who sends a Hold has the copy: whoever gets it, and has the same, need not send it back.
//! - A leaver whose barrier is complete bids farewell: being known dead spares the others the wait for its lease.
//! - A lease is of one view: a part answers only when it has installed the view that the node is leased in. The parts
//!   hear of views and of evictions later than the membership, and what they own may be another's by then.
//! - Where only one member is active no copies can be made: its barrier completes, and it answers nobody.
//! - An actor that nobody asks for long goes to rest, when its keepers have its state and the barrier is complete: its
//!   owner becomes a record without an owner, one version later, and sends Holds to the first `backups + 1` until all of
//!   them have acknowledged; only then a surplus record is dropped. From then on 'at most one owner in an epoch' (I1,
//!   I1') reads 'at a time': versions, not epochs alone, tell which of two owners of one epoch is the later one.
//! - A client of the owner's node gives the actor its request past the part. What the actor did counts from when the
//!   part has heard of it; if the part has given up the actor by then, it never happened. An actor answers by itself
//!   what it read, if all keepers have the version that it read, and the node has the lease of their view.
//! - Puts and Holds are acknowledged by the frame: what says that a frame was taken in names those that are not kept. It
//!   counts in the epoch that the frame was sent and taken in, like the single acknowledgements that it stands for.
//! - A node that forwards a request gives it an id, and says with it how far back ids of its own may be asked for again. The
//!   actor forgets the replies to those before, which were heard, and does not carry them out when they come once more,
//!   late: `ring.rs`.
//! - A claim says how many actors its sender has put to rest, and the grant repeats that: a grant of before a rest is
//!   void. The argument is in `shard/rest.rs`.

pub mod agreement;
pub mod blob;
#[doc(hidden)]
pub mod defect;
pub mod lease;
pub mod members;
pub mod placement;
pub mod ring;
pub mod shard;
pub mod types;
pub mod view;

/// Into how many independent parts the key space is divided. A part has its own owners, records, barrier and
/// stream of messages, so that nodes work on several at once. The same on every node: it is part of the
/// wire protocol.
pub const SHARDS: usize = 4;
