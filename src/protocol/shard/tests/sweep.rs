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
    let mut part = keeper_of(20);
    // Where this node was the home before, it would grant the key.
    let is_elsewhere = |key: &Key| part.shard.placement.home(key) == Some(&id("a@h"));
    let keys = part.shard.slots.iter().map(|(key, _)| key);
    let of_another = keys.into_iter().find(is_elsewhere);
    part.key = of_another.expect("some of twenty have another home");
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
    assert!(part.shard.slots.iter().all(|(key, _)| is_orphan(&key)));
}

#[test]
fn who_joins_leaves_most_keys_as_they_are() {
    let mut part = keeper_of(100);
    part.shard.sweep_at_once(10);
    part.step(Input::Install(view(2, &["a@h", "b@h", "c@h", "d@h"])));
    while part.shard.is_healing() {
        part.step(Input::Heal);
        part.shard.audit().expect("the books are right");
    }
    let Shard { placement, me, .. } = &part.shard;
    let mut passed = 0;
    for (key, slot) in part.shard.slots.iter() {
        let key = &key;
        let belongs = placement.is_top(key, 1, me);
        assert_ne!(belongs, part.shard.sweep.surplus.contains(key));
        assert_eq!(belongs, slot.stamp() != part.shard.sweep.stamp);
        passed += usize::from(belongs);
    }
    assert!((50..95).contains(&passed), "{passed} of 100 stay here");
}

#[test]
fn what_a_keeper_lacks_is_put_again_though_the_ranking_is_the_same() {
    let names = ["a@h", "b@h", "c@h", "d@h"];
    let mut part = Part::in_view("a@h", view(1, &names[..3]), ranked(&names));
    part.ask(1, request(1));
    part.ran("one", Some("1"));
    part.shard.sweep_at_once(0);
    let effects = part.step(Input::Install(view(2, &names)));
    assert_eq!(part.copies_to("b@h", &effects).len(), 1);
    part.shard.sweep_at_once(1);
    while part.shard.is_healing() {
        part.step(Input::Heal);
    }
    assert!(!part.shard.done_sent());
    part.acked("b@h", 1);
    assert!(part.shard.done_sent());
}

#[test]
fn a_record_without_an_owner_is_passed_on_though_its_ranking_is_the_same() {
    let names = ["a@h", "b@h", "c@h", "d@h"];
    let mut part = Part::in_view("b@h", view(1, &names[..3]), ranked(&names));
    let hold = part.hold(1, 1, "1");
    part.hear("a@h", hold);
    let effects = part.step(Input::Install(view(2, &names)));
    assert_eq!(part.copies_to("a@h", &effects).len(), 1);
    assert!(!part.shard.done_sent());
}

#[test]
fn a_joiner_gets_the_copies_of_which_it_is_the_keeper_now() {
    let names = ["a@h", "d@h", "b@h", "c@h"];
    let before = ["a@h", "b@h", "c@h"];
    let mut part = Part::in_view("a@h", view(1, &before), ranked(&names));
    part.ask(1, request(1));
    part.ran("one", Some("1"));
    part.acked("b@h", 1);
    let effects = part.step(Input::Install(view(2, &names)));
    assert_eq!(part.copies_to("d@h", &effects).len(), 1);
    assert!(!part.shard.done_sent());
}

#[test]
fn slots_that_move_meanwhile_are_looked_at() {
    for swept in 1..30 {
        let mut part = keeper_of(28);
        let slots = part.shard.slots.iter();
        let old: Vec<Key> = slots.map(|(key, _)| key.clone()).collect();
        part.step(Input::Install(view(2, &["b@h", "c@h"])));
        part.shard.sweep_at_once(swept);
        part.step(Input::Heal);
        let moves = part.shard.slots.moves();
        for n in 0..100 {
            part.key = Key::new(Kind(3), format!("new{n}"));
            part.put("c@h", 2, 1, "1");
        }
        assert_ne!(part.shard.slots.moves(), moves);
        while part.shard.is_healing() {
            part.step(Input::Heal);
        }
        part.shard.audit().expect("the books are right");
        let record = |key| part.shard.record(key);
        let is_orphan = |key| record(key).is_some_and(|rec| rec.3.is_none());
        assert!(old.iter().all(is_orphan));
    }
}

#[test]
fn every_key_is_looked_at_once_before_the_numbers_come_round() {
    let mut part = keeper_of(20);
    part.shard.sweep.stamp = u16::MAX - 1;
    part.shard.sweep_at_once(1_000);
    part.step(Input::Install(view(2, &["a@h", "b@h", "c@h", "d@h"])));
    let mut slots = part.shard.slots.values();
    assert!(slots.all(|slot| slot.stamp() == u16::MAX));
}
