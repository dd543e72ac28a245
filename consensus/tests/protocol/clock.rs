//! Clocks that are wrong, and promises of times.

use kimberlite_consensus::{Input, Message, Superblock};

use crate::scene::{Actor, Scene};

const DAY_US: i64 = 86_400_000_000;

fn committed(actor: &Actor) -> i64 {
    actor.replica.tip().unwrap().time_us
}

/// A cluster that has ordered one thing and was quiet since, with a promise behind it.
fn promised() -> (Scene, usize, i64) {
    let (mut scene, leader) = Scene::started(3);
    scene.request(leader);
    scene.pass(3_000);
    let closed = scene.actors[leader].replica.closed_us();
    assert!(closed > committed(&scene.actors[leader]) + 1_000_000, "it moves on in silence");
    (scene, leader, closed)
}

#[test]
fn a_primary_whose_clock_jumps_orders_with_the_time_of_the_others() {
    for jump in [-DAY_US, DAY_US] {
        let (mut scene, leader) = Scene::started(3);
        let before = scene.request(leader).time_us;
        scene.pass(100);
        scene.actors[leader].clock_us = jump;
        scene.pass(100);
        let now = scene.now.cast_signed() * 1000;
        let after = scene.request(leader).time_us;
        assert!(after > before && (after - now).abs() < 100_000, "{jump}: {after} at {now}");
        assert!(scene.actors[leader].replica.is_corrected());
    }
}

#[test]
fn a_jump_between_two_looks_at_the_clock_moves_little() {
    let (mut scene, leader) = Scene::started(3);
    scene.actors[leader].clock_us = DAY_US;
    let now = scene.now.cast_signed() * 1000;
    assert!(scene.request(leader).time_us < now + 100_000);
}

#[test]
fn a_backup_whose_clock_jumps_moves_nothing() {
    let (mut scene, leader) = Scene::started(3);
    scene.actors[(leader + 1) % 3].clock_us = DAY_US;
    scene.pass(100);
    let now = scene.now.cast_signed() * 1000;
    assert!((scene.request(leader).time_us - now).abs() < 100_000);
    assert!(!scene.actors[leader].replica.is_corrected());
}

#[test]
fn a_primary_that_knows_no_other_clock_takes_no_requests() {
    let mut scene = Scene::new(3);
    scene.pass_with(2_000, |e| !matches!(e.message, Message::Reading { .. }));
    let primary = |a: &Actor| a.replica.is_primary();
    assert!(scene.actors.iter().any(primary), "the rest goes on");
    assert_eq!(scene.leader(), None);
    scene.pass(200);
    assert!(scene.leader().is_some());
}

#[test]
fn a_promise_waits_for_a_quorum_of_disks() {
    let (mut scene, leader, _) = promised();
    let told = scene.actors[leader].replica.closed_us();
    // Nobody else says that it has more.
    scene.pass_with(350, |e| !matches!(e.message, Message::Close { .. }));
    scene.pass_with(350, |e| !matches!(e.message, Message::Close { .. }));
    assert_eq!(scene.leader(), Some(leader));
    assert!(scene.actors[leader].replica.promised_us() > told, "more was promised");
    assert_eq!(scene.actors[leader].replica.closed_us(), told);
    scene.pass(200);
    assert!(scene.actors[leader].replica.closed_us() > told);
}

#[test]
fn backups_tell_what_the_primary_does() {
    let (mut scene, leader, closed) = promised();
    scene.pass(100);
    for backup in (0..3).filter(|r| *r != leader) {
        assert!(scene.actors[backup].replica.closed_us() >= closed);
    }
}

#[test]
fn what_is_under_way_is_not_closed() {
    let (mut scene, leader, closed) = promised();
    let quiet = |scene: &mut Scene, ms| {
        scene.pass_with(ms, |e| !matches!(e.message, Message::PrepareOk { .. }));
    };
    let header = scene.request(leader);
    assert!(header.time_us > closed);
    quiet(&mut scene, 3_000);
    for actor in &scene.actors {
        assert!(actor.replica.closed_us() < header.time_us, "it is not committed");
    }
    // Nor what the driver builds.
    scene.pass(3_000);
    let leader = scene.leader().unwrap();
    let before = scene.actors[leader].replica.promised_us();
    let building_us = Some(before + 10);
    scene.now += 3_000;
    let wall_us = scene.wall_us(leader);
    scene.step(leader, Input::Clock { wall_us, building_us });
    assert_eq!(scene.actors[leader].replica.promised_us(), before);
}

#[test]
fn a_new_primary_keeps_what_the_old_one_promised() {
    let (mut scene, old, closed) = promised();
    let alive = move |e: &kimberlite_consensus::Envelope| {
        usize::from(e.from.0) != old && usize::from(e.to.0) != old
    };
    // All clocks go back, and the old primary is gone.
    scene.actors.iter_mut().for_each(|a| a.clock_us = -DAY_US);
    scene.pass_with(3_000, alive);
    let new = scene.actors.iter().position(|a| a.replica.leads() && a.replica.id().0 != old as u8);
    let header = scene.request(new.unwrap());
    assert!(header.time_us > closed, "{} behind {closed}", header.time_us);
}

#[test]
fn a_cluster_that_crashed_keeps_what_it_promised() {
    let (mut scene, _, closed) = promised();
    scene.actors.iter_mut().for_each(|a| a.clock_us = -DAY_US);
    (0..3).for_each(|r| scene.restart(r));
    scene.pass(3_000);
    let leader = scene.leader().unwrap();
    assert!(scene.request(leader).time_us > closed);
}

#[test]
fn a_replaced_disk_does_not_forget_a_promise_for_the_others() {
    let (mut scene, leader, closed) = promised();
    let replaced = (leader + 1) % 3;
    scene.replace_disk(replaced);
    scene.pass(3_000);
    assert!(scene.actors[replaced].replica.is_let_in());
    let reset = scene.actors[replaced].replica.tip().unwrap();
    assert!(reset.members.is_some() && reset.time_us > closed, "all that follows is later");
}

#[test]
fn one_alone_promises_what_is_durable_and_keeps_it() {
    let mut scene = Scene::new(1);
    scene.now = 5_000;
    scene.look(0);
    assert_eq!(scene.actors[0].replica.closed_us(), 0, "not before it is durable");
    scene.disk(0);
    assert_eq!(scene.actors[0].replica.closed_us(), 5_000_000);
    scene.actors[0].clock_us = -4_000_000;
    scene.restart(0);
    assert_eq!(scene.actors[0].replica.closed_us(), 5_000_000);
    assert_eq!(scene.request(0).time_us, 5_000_001);
    scene.disk(0);
    assert_eq!(scene.actors[0].replica.closed_us(), 5_000_001, "all up to the last op is closed");
    let Superblock { closed_us, .. } = scene.actors[0].superblock;
    assert_eq!(closed_us, 5_000_000);
}
