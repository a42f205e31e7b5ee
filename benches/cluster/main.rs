//! Rewards per second, with everything of the protocol on, beside what else there is: measured in one run, in turn.
//!
//! ```text
//!   this process ──orders──▶ bench_node1 ⇄ bench_node2, bench_node3     one backup; the clients are in the first
//!               ├──────────▶ pair_node1  ⇄ pair_node2,  pair_node3      the same with two backups
//!               ├──────────▶ thread_node1 ⇄ thread_node2, thread_node3  the same with one thread in each node
//!               ├──────────▶ naive owner ⇄ naive keepers                ractor_cluster alone
//!               └──────────▶ erl owner   ⇄ erl keepers, twice           plain, and batched by hand; if `erl` is here
//! ```
//!
//! All processes are on loopback; those that are not measured are idle. Clients ask in closed loop. Each figure is a
//! median of the rounds, and each round has new processes: how one lies in memory makes it faster or slower by a tenth, as
//! long as it lives. At the end of each every total is checked: a lost or doubled reward fails the bench.
//!
//! `alloc` is the allocations of all processes of the path together, per reward. Counting them costs time, so that the
//! bench `allocations` does that, in a short run of its own, when `--allocations` is given.
//!
//! `cpu` is the time of all processes of the path together, `wire` the bytes on loopback in both directions with the
//! headers of TCP and IP, both per reward.
//!
//! # What bounds it
//!
//! Profiles of the node with the clients (perf, cpu-clock, 1,024 in flight, one keeper, 2026-11-28): that process has 80 %
//! of the processor time or more. No function has more than 13 %: the time goes where memory is cold. A reward touches about
//! a dozen cache lines of its player, its slot, its gate and its queues, three times: when it is served, sent and
//! acknowledged, about a millisecond apart, and 10,000 players do not fit into the caches. With 1,100 players a reward took
//! 1.9 us of processor time instead of 2.7, a call of the floor 0.9 instead of 1.4. The floor touches its actor once.
//!
//! So the parts read ahead (`src/protocol/shard/prefetch.rs`): what the next 64 steps will read is read at once, and the
//! misses overlap. How many do is a matter of how many instructions are between two reads. Names are compared, slots looked
//! into and what they point to followed only after all reads before that are under way: this alone took reading ahead from
//! 16 % of the time to 4, and made 790,000 rewards a second of 680,000.
//!
//! Where nothing can be read ahead, since a client asks for one player at a time, few reads must wait for another one: the
//! state of a player is in its place, not behind it, which made 880,000 of 820,000. Calls, replies and states of up to 23
//! bytes are in their values, and no queue asks the allocator for its first item (which alone made 817,000 of 780,000): of
//! 8.5 allocations of a reward at its player's node 3.2 are left. Each part has its own copies of the peers'
//! names, whose counts of holders had gone from core to core twice a reward. (The floor itself moves between 0.5 and 1.6
//! million a second, with the machine and its neighbours: of all figures the ratio to the floor is the least steady.)
//!
//! The client's task handles the request of a player of its own node that is not at work. It did so in shared actors first,
//! and those were twice as fast as an actor each, which took a message to the player's mailbox, a task to switch to, and
//! the cold lines of both. Now both ways are the same, and differ in memory. What is left in that process: the clients 50 %
//! (12 % the look at the player, half of it its one cold gate; the handler, its encodings and its outcome 21 %), the parts'
//! rounds 36 % (5 % the kernel's sending). On one core instead of two a reward took an eighth less: cache lines that pass
//! from core to core, of the locks and queues between clients and parts, and of the tasks themselves. One lock for the
//! clients that wait and for the part's inbox was tried: fewer uses, but longer waits, 5 % less.
//!
//! One such line was tokio's: that a handler may run in the client's task, which must be one of the node's runtime, was
//! asked for every call, and that counts one more user of the runtime, and one less. Without it a read in shared actors
//! takes a third less (interleaved runs, 1.3 and 2.1 million a second), so threads are marked.
//!
//! With more players it is the memory that is looked at for nothing. With a million on three nodes, 5 % of the time of all
//! nodes (perf, 2026-11-29) went to each tick's look at the keys written since the last one, nearly all of them acknowledged
//! and cold by then. Now the part counts how many of a tick's keys lag (`src/protocol/shard/lagging.rs`), and looks at none
//! where none does: 305,000 rewards a second instead of 255,000 (64 in flight on each node).
//!
//! With 64 in flight the kernel had half of the time (perf, 2026-11-28): a packet, its answer, and the threads that both
//! wake cost some 30 us of both nodes together, whatever is in them. Four parts with a frame each to two peers had some
//! seven rewards in one. So the frames of all parts to one peer leave together (`src/net/groups.rs`), and their answers
//! too: a fifth to a quarter less time per reward. Two parts instead of four do almost as well, and on a larger machine would
//! keep two cores busy instead of four.
//!
//! What was left of that time was threads that wake each other within a node: the reader of a link woke the actors of four
//! parts, and tokio a second thread for them. Now the reader handles a few frames itself (`Part::drive_here` in
//! `src/actors/part.rs`), and all that the parts send meanwhile leaves in one packet. Calls of futex went from 20,000 a
//! second to 4,000, changes of context from 40,000 to 23,000, at a third more rewards (README has the figures). One worker
//! thread in each node instead of two takes a sixth less still: that is the second thread of the node with the clients.
//! Holding back what a part has to ask until the clients that were just answered have asked again makes one packet of 20
//! rewards instead of 16, and not more rewards. A shorter slice of the scheduler (`sched_setattr`) changed nothing.
//!
//! That threads which are woken interrupt others, of another node on the same machine mostly, costs as well, and waking a
//! core that sleeps takes a virtual machine some 30 us. With all of it under `chrt --batch 0`, where they wait for their
//! turn, 64 in flight had a p99 that was a tenth to a quarter lower, and a fifth to a third more rewards where any of three
//! nodes was asked, with 1,024 a twentieth more; but the player's own node a tenth less with 1,024, since keepers begin
//! when it has nothing left to do, and each waits for the other (2026-11-30). A node that has its machine for itself
//! interrupts nobody; where nodes share one, it is a choice. Another one is to give each its share of the cores, which is
//! one thread here: that is the row `any of three, one thread`. With two in each, a reward took 5.1 us of processor time
//! instead of 4.0 (perf, 1,024 in flight): 0.25 went to changes of context, 0.15 to blocks of memory that another thread
//! gives back than had taken them, and the rest, everywhere, to cache lines that pass from core to core. Whether what other
//! nodes ask is handled by the task that read it or by one of its own makes no difference. A node that is asked alone needs
//! all cores.
//!
//! Threads that yield before they sleep, or look again for 5 to 50 us, do about as well with 64, but worse with one (54 us
//! instead of 36).
//!
//! Where any of three nodes is asked, the forwarded ids made the difference: 32 of them, with their replies, were in every
//! write. Encoded one by one they took a fifth of the owner's time; kept as they are written, a tenth. Now a node says which
//! of its requests are over, and those are forgotten (`src/protocol/ring.rs`): a sixth less time, and 90 bytes on the wire
//! instead of 450. Hints take the question to the home away, and hash tables the trees of forwarded requests: together a
//! quarter less. Then each request woke the actor of its player, a third of what it cost: a message, a task, and the cold
//! lines of both. Now one task handles what a round of the part has for all its players (`Part::give` in
//! `src/actors/part.rs`): 385,000 rewards a second instead of 248,000. Its players are read ahead, all of a frame, and a
//! request at work is in one block of memory, not in two. What is left has no summit: of 100 parts of the time the node that
//! was asked has 50, and the kernel 15. So each step was made a little shorter (2026-11-30): a key is looked up once where it
//! was looked up twice, requests under way lie where the last ones lay instead of in blocks of their own, a hint is found by
//! the hash alone and read ahead, a frame grows in the room of the one before, and no step is moved into a value of its own
//! first: 294,000 rewards a second instead of 271,000, and 623,000 instead of 541,000 at the player's own node (medians of six
//! interleaved runs on a virtual Intel Xeon).
//!
//! Which reads are awaited nevertheless, the addresses of the samples tell, counted one by one (`perf script -F ip`; 2026-11-30):
//! a request that waits for the keepers lay in three lines, of which one had been read ahead, in a block that could begin in
//! the middle of a line; and each look at a table read some bits of hashes, then the entry, before the next look began. Now
//! the places come first, guessed by those bits, then the entries, then what they point to, and the first request that waits
//! is with what else it needs of its player. Together 7 % less processor time (paired runs of half a second, of the programs
//! before and after side by side, on a busy virtual AMD EPYC: two runs there differ by half, such pairs by a tenth).
//! What is left of that kind is at the clients, 11 % for the look at the player, and 7 % for the bench's own names and counts.
//! Tried and dropped: names drawn a request ahead and counts by thread (4 % slower: more memory in all); reading ahead of the
//! places of the calls that are answered; huge pages everywhere.
//!
//! The same holds for what a player shares with its part and its clients: it is in the player's place too. Whoever finds a
//! player reads some of every line that it is about to use, before it compares the name: that one line after the other was
//! awaited took a tenth of the time. A client that waits sends along where its answer goes, instead of taking a place in a
//! list that both cores lock: together 3 % less processor time at the player's own node, and 5 % where any of three nodes
//! is asked. What is read ahead is read without asking first what it is: a branch that is guessed wrong each other time
//! undoes it.
//!
//! With a thousand players instead of ten thousand the floor is twice as quick, and a reward hardly quicker: what is read
//! ahead is awaited no more, and what bounds a reward is what is done for it. So the release build was counted under
//! callgrind (`--instr-atstart=no` and `callgrind_control -i on` for the node with the clients, by the call): 8,500
//! instructions at the owner and 1,600 at the keeper, now 7,160 and 1,200. A tenth was hashes of keys that were computed
//! again for each look at a table; then names looked at byte by byte, values encoded in one place and copied through two
//! others, effects of 128 bytes that were moved in and out of a list, empty queues that were dropped. And of the
//! instructions that `perf annotate` shows to wait, the longest were atomic counts: each waits until all that was written
//! before has arrived, in lines that another core had mostly. The name of the keeper in each effect, a reference to the
//! player in each outcome, and a count of who waits that nobody needed were together a twentieth of the time. All of it
//! made 811,000 rewards a second of 671,000, and 429,000 of 350,000 where any of three nodes is asked. That the program is
//! optimised as one unit (`Cargo.toml`) had made 935,000 of 904,000. Of 100 instructions that are left, the client's task
//! has 41, with the handler in it, the owner's part 39, and the keeper 14. Tried and dropped: short values in three words
//! instead of four, which are written at odd places and read as words at once (a tenth slower).
//!
//! What would move the bound next, each by some hundredths: places in the table instead of keys, for what waits for a peer;
//! fewer moves of items of 180 bytes; a Put that is written and read without a codec. mimalloc gives blocks whose size is
//! no power of two from the next larger class, by a slower path, since Rust asks for an alignment; with `mi_malloc` instead
//! nothing was faster. Reading ahead what a tick looks at again made nothing faster either.
//!
//! Where any of three nodes is asked, a reward takes 3.1 us of processor time with two threads in each, and 2.5 with one
//! (2026-12-01): there are six threads on two cores, and two in the node that is asked alone, or in the other two alone,
//! cost nearly as much. Frames are as large either way, but there are three times as many changes of context, since tokio
//! wakes the other thread for each second task. So what the players of all four parts were given by a frame is one task,
//! which the thread that read the frame runs next: a quarter fewer calls of futex, a sixth fewer changes of context, and
//! some 4 % more requests, with one thread in each node 7 to 14 %. Handled by the reader itself they were some more with 64
//! in flight, but a handler that computes long would have held up the link. Tried and dropped: threads tied to cores (5 %
//! at most, on a machine that is no one's alone); tokio's `event_interval` of 256 instead of 61 (nothing); clients that
//! leave their request to a task which reads the players of 64 of them ahead (5 % more rewards at the player's own node, 5
//! % less where any is asked; and one that computes long would hold up the others); the player read ahead before the call
//! is encoded (nothing). The kernel's BBR, where that is the machine's choice, costs this path 5 to 9 % against reno or
//! cubic, and no other.
//!
//! What these comparisons need: two clusters of the same program differ by up to a tenth for as long as they live, so
//! that new ones are started several times, in any order, and each time measured in turn.
//!
//! One at a time, waking threads bounds it: two C programs that do nothing but send each other 100 and 60 bytes took 57 to
//! 70 us on both cores and 15 on one (virtual AMD EPYC, 2026-11-30), a reward 30 to 39 on both, since the scheduler has both
//! nodes on one of them now and then, and 24 on one, where the plain Erlang program took 60. What is left beside: each node
//! waits, reads and writes once. The reader of an answer drives the part, the client is the player, and drives the part as
//! well if no other waits for it: reader and client are left of the five tasks of an actor each, reader, part, client, player,
//! part. (The last one was a twentieth: 25 us on one core instead of 24.)
//!
//! `cargo bench --bench cluster [-- --json] [--seconds N] [--repeat N] [--in-flight N,N] [--paths NAME,NAME]
//! [--allocations] [--plot FILE.svg]`

mod drive;
mod naive;
mod node;
mod report;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "the other benches use more of it")]
mod support;
mod system;

use std::process::ExitCode;

/// Many small states and messages, as in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    support::main(drive::play, drive::drive)
}

/// Nobody counts here, since counting costs time.
fn allocations() -> String {
    "-".to_owned()
}
