//! A view is installed key by key.

use super::*;

/// A keeper that looks at none of its keys by itself after an install.
fn keeper_of(keys: usize) -> Part {
    let mut part = Part::keeper_of(keys);
    part.shard.sweep_at_once(0);
    part
}

#[test]
fn the_barrier_waits_until_all_keys_were_looked_at() {
    let mut part = keeper_of(5);
    part.step(Input::Install(view(2, &["a@h", "b@h", "c@h"])));
    assert!(part.shard.is_healing());
    part.shard.sweep_at_once(1);
    let mut steps = 0;
    while part.shard.is_healing() {
        assert!(!part.shard.done_sent());
        part.step(Input::Heal);
        part.shard.audit().expect("the books are right");
        steps += 1;
    }
    assert!(part.shard.done_sent());
    assert!(steps >= 5);
}

#[test]
fn a_key_that_is_touched_is_looked_at_first() {
    let mut part = keeper_of(3);
    part.step(Input::Install(view(2, &["b@h", "c@h"])));
    assert!(
        part.shard
            .record(&part.key)
            .is_some_and(|rec| rec.3.is_some())
    );
    // Its owner is gone, which shows as soon as anybody asks.
    part.claimed("c@h");
    assert!(
        part.shard
            .record(&part.key)
            .is_some_and(|rec| rec.3.is_none())
    );
    let effects = part.step(Input::Heal);
    assert_eq!(part.copies_to("c@h", &effects).len(), 1);
    part.shard.audit().expect("the books are right");
}

#[test]
fn a_view_may_come_before_all_keys_were_looked_at_under_the_last() {
    let mut part = keeper_of(3);
    part.step(Input::Install(view(2, &["b@h", "c@h"])));
    part.claimed("c@h");
    part.shard.sweep_at_once(1_000);
    part.step(Input::Install(view(3, &["b@h", "c@h", "d@h"])));
    part.shard.audit().expect("the books are right");
    assert!(!part.shard.is_healing());
    assert!(!part.shard.done_sent());
}

#[test]
fn who_leaves_hands_everything_over_at_once() {
    let mut part = Part::owner_of_an_unacked_version();
    part.acked("b@h", 1);
    part.shard.sweep_at_once(1);
    part.step(Input::Install(leaving(2, &["a@h", "b@h", "c@h"], &["a@h"])));
    assert_eq!(part.shard.owns(&part.key), None);
}

#[test]
fn no_key_is_taken_for_looked_at_when_the_numbers_come_round() {
    let mut part = keeper_of(3);
    part.step(Input::Install(view(2, &["b@h", "c@h"])));
    part.shard.sweep.stamp = u16::MAX;
    part.shard.sweep_at_once(2);
    part.step(Input::Install(view(3, &["b@h", "c@h", "d@h"])));
    while part.shard.is_healing() {
        part.shard.audit().expect("the books are right");
        part.step(Input::Heal);
    }
    let is_orphan = |key: &Key| {
        let record = part.shard.record(key);
        record.is_some_and(|rec| rec.3.is_none())
    };
    assert!(part.shard.slots.iter().all(|(key, _)| is_orphan(key)));
}
