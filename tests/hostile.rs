//! Messages that no node of ours sends, by the thousand: cut, changed, moved to other epochs, senders and keys, or
//! made up. Nothing of that may end a node, make it hold more than its limits, or spoil its books.
//!
//! Each run is a seed: a cluster of machines with valid traffic, of which the hostile messages are made.
//! `HOSTILE_SECONDS=600 cargo test --test hostile` runs longer, `HOSTILE_SEED=17 cargo test --test hostile` one seed.

#[path = "hostile/mod.rs"]
mod hostile;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use hostile::{members, parts};

/// How long each loop runs by itself.
const SECONDS: u64 = 10;
/// How many seeds it runs at least, however slow the machine is.
const SEEDS_MIN: u64 = 50;

/// Runs one seed after the other until the time is up.
fn for_seeds(what: &str, run: impl Fn(u64)) {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    if let Some(seed) = number("HOSTILE_SEED") {
        return run(seed);
    }
    let until = Instant::now() + Duration::from_secs(number("HOSTILE_SECONDS").unwrap_or(SECONDS));
    let mut seeds = 0;
    for seed in 1.. {
        if catch_unwind(AssertUnwindSafe(|| run(seed))).is_err() {
            panic!("{what}: seed {seed}; HOSTILE_SEED={seed} cargo test --test hostile {what}");
        }
        seeds += 1;
        if seeds >= SEEDS_MIN && Instant::now() >= until {
            break;
        }
    }
    eprintln!("{what}: {seeds} seeds");
}

/// Keeps what a node did not survive: add the file to `tests/corpus`, where every run tries it again.
fn keep<T: Serialize>(what: &str, seed: u64, attacks: &[T]) {
    let bytes = postcard::to_stdvec(attacks).expect("an encoding");
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{what}-{seed}"));
    std::fs::write(&file, bytes).expect("a file");
    eprintln!("kept in {}; it belongs into tests/corpus", file.display());
}

/// What was kept of the attacks on `what`.
fn kept<T: DeserializeOwned>(what: &str) -> Vec<Vec<T>> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut files: Vec<_> = std::fs::read_dir(corpus)
        .expect("the corpus")
        .map(|entry| entry.expect("a file").path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with(what))
        })
        .collect();
    files.sort();
    let read = |path: &PathBuf| {
        let bytes = std::fs::read(path).expect("a file");
        postcard::from_bytes(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    files.iter().map(read).collect()
}

#[test]
fn whatever_happens_what_waits_is_counted_and_in_the_end_released() {
    for_seeds("whatever_happens", |seed| {
        let mut world = parts::World::new(seed);
        for _ in 0..1_500 {
            world.stir();
        }
        assert!(
            world.refused.is_empty(),
            "honest nodes are believed: {:?}",
            world.refused
        );
        world.heal();
        assert_eq!(world.is_released(), Ok(()), "{:?}", world.answers);
        for kind in ["reply", "overloaded", "unknown"] {
            assert!(world.answers.contains_key(kind), "no {kind} at all");
        }
    });
}

#[test]
fn no_message_of_a_peer_ends_a_part_or_makes_it_hold_more_than_its_limit() {
    let (refused, seeds) = (Cell::new(0), Cell::new(0));
    for_seeds("no_message_of_a_peer", |seed| {
        let mut world = parts::World::new(seed);
        let mut attacks: Vec<parts::Attack> = Vec::new();
        let run = catch_unwind(AssertUnwindSafe(|| {
            for _ in 0..1_500 {
                world.stir();
                if let Some(attack) = world.attack() {
                    attacks.push(attack.clone());
                    world.suffer(&attack);
                }
            }
        }));
        if run.is_err() {
            keep("parts", seed, &attacks);
        }
        assert!(run.is_ok());
        refused.set(refused.get() + world.refused.values().sum::<u64>());
        seeds.set(seeds.get() + 1);
    });
    assert!(refused.get() > seeds.get(), "hardly anything was refused");
}

#[test]
fn what_was_kept_of_attacks_on_parts_does_no_harm() {
    for attacks in kept::<parts::Attack>("parts") {
        let mut world = parts::World::new(1);
        for attack in attacks {
            world.stir();
            world.suffer(&attack);
        }
    }
}

#[test]
fn no_message_of_a_peer_ends_a_membership_or_makes_it_grow_without_bound() {
    let (refused, seeds) = (Cell::new(0), Cell::new(0));
    for_seeds("no_message_of_a_peer_ends_a_membership", |seed| {
        let mut world = members::World::new(seed);
        assert!(world.united(), "the cluster forms");
        assert_eq!(world.refused, 0, "honest nodes are believed");
        let mut attacks: Vec<members::Attack> = Vec::new();
        let run = catch_unwind(AssertUnwindSafe(|| {
            for _ in 0..300 {
                world.stir();
                if let Some(attack) = world.attack() {
                    attacks.push(attack.clone());
                    world.suffer(&attack);
                }
            }
            world.check_sizes();
        }));
        if run.is_err() {
            keep("members", seed, &attacks);
        }
        assert!(run.is_ok());
        refused.set(refused.get() + world.refused);
        seeds.set(seeds.get() + 1);
    });
    assert!(refused.get() > seeds.get(), "hardly anything was refused");
}

#[test]
fn what_was_kept_of_attacks_on_memberships_does_no_harm() {
    for attacks in kept::<members::Attack>("members") {
        let mut world = members::World::new(1);
        for attack in attacks {
            world.stir();
            world.suffer(&attack);
        }
        world.check_sizes();
    }
}
