//! Independent views do not wait for one another, and are read together all the same.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use mainstem_catalog::RelationId;
use mainstem_engine::{Cut, Engine, InputLog, PinnedRelation, Version};

use super::world::{Event1, Kind, PATIENCE, TABLE, World};

fn event(k: i64, v: i64) -> Option<Event1> {
    Some(Event1 { k, v, ts: Some(v) })
}

fn sum_of(engine: &Engine, id: RelationId, column: usize) -> i64 {
    let pinned = engine.pin(&[id]).expect("ready");
    let PinnedRelation::Collection(version, None) = &pinned.relations[&id] else { panic!("a view") };
    sum(version, column)
}

fn sum(version: &Version, column: usize) -> i64 {
    let batches = version.scan(Some(&[column]), 1000);
    batches.map(|batch| batch.column(0).as_primitive::<Int64Type>().iter().flatten().sum::<i64>()).sum()
}

/// Until the relation shows the cut, whatever others do.
fn wait_for(engine: &Engine, ids: &[RelationId], cut: Cut) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let waiting = async { tokio::time::timeout(PATIENCE, engine.wait_published_of(ids, cut)).await };
    runtime.block_on(waiting).expect("in time").expect("goes on");
}

/// Every record of the hot key meets every other: more than a million pairs in one version.
#[test]
fn a_hot_key_with_a_million_matches_freezes_no_other_view() {
    let mut world = World::new(1);
    world.config.slice_rows = 64 << 10;
    let pairs = world.define(Kind::Pairs);
    let filtered = world.define(Kind::Filtered);
    let total = world.define(Kind::TableTotal);
    let (engine, _) = world.open();
    let hot =
        world.write_events([(0..1000).map(|v| event(7, v)).collect(), (1000..2000).map(|v| event(7, v)).collect()]);
    // Until the join is through, the others go on.
    let (mut rounds, mut beside) = (0, 0);
    while engine.published() < hot || rounds < 20 {
        rounds += 1;
        let cut = world.write_table(&[(rounds % 50, Some(rounds))]);
        world.write_events([vec![event(rounds, 9)], vec![]]);
        wait_for(&engine, &[TABLE, total, filtered], cut);
        assert_eq!(sum_of(&engine, total, 0), world.table.values().sum::<i64>());
        beside += i32::from(engine.published() < hot);
    }
    assert!(beside > 0, "the other lanes waited");
    // Read together, they are read at one cut.
    let pinned = engine.pin(&[pairs, total, filtered]).expect("ready");
    assert!(pinned.cut >= hot, "{}", pinned.cut);
    world.check(&engine);
}

#[test]
fn a_transaction_of_a_million_rows_is_one_version_and_delays_no_other_lane() {
    const ROWS: i64 = 1_000_000;
    let mut world = World::new(2);
    world.config.slice_rows = 16 << 10;
    world.config.read_bytes_max = 1 << 20;
    let by_key = world.define(Kind::ByKey);
    let total = world.define(Kind::TableTotal);
    let (engine, _) = world.open();
    let start = world.write_table(&[(1, Some(1))]);
    assert!(engine.wait_published_blocking(start, PATIENCE));
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            while !is_done.load(Ordering::Acquire) {
                seen.insert(sum_of(&engine, by_key, 1));
            }
            seen
        });
        let half = |partition: i64| (0..ROWS / 2).map(|v| event((v + partition) % 100, v)).collect();
        let cut = world.write_events([half(0), half(1)]);
        let (mut rounds, mut beside) = (0, 0);
        while engine.published() < cut || rounds < 3 {
            rounds += 1;
            let at = world.write_table(&[(rounds % 10, Some(rounds))]);
            wait_for(&engine, &[total, TABLE], at);
            beside += i32::from(engine.published() < cut);
        }
        assert!(beside > 0, "the other lane waited");
        assert!(engine.wait_published_blocking(world.log.newest(), PATIENCE));
        assert_eq!(sum_of(&engine, by_key, 1), ROWS);
        is_done.store(true, Ordering::Release);
        let seen = reader.join().expect("no panic");
        assert!(seen.iter().all(|rows| [0, ROWS].contains(rows)), "a part of an entry was seen: {seen:?}");
    });
    world.check(&engine);
}

#[test]
fn a_view_over_two_lanes_makes_them_one_and_shows_both() {
    let mut world = World::new(3);
    let by_key = world.define(Kind::ByKey);
    let total = world.define(Kind::TableTotal);
    let (engine, _) = world.open();
    for round in 0..30 {
        world.write_events([vec![event(round % 3, round)], vec![event(1, 1)]]);
        world.write_table(&[(round, Some(round))]);
    }
    let both = world.define(Kind::Both(by_key, total));
    world.tell(&engine);
    for round in 0..30 {
        world.write_events([vec![event(round % 3, round)], vec![]]);
        world.write_table(&[(round, Some(2 * round))]);
    }
    world.check(&engine);
    // What one shows follows from what the others show, at whatever cut they are read.
    for round in 0..100 {
        world.write_events([vec![event(round % 3, round)], vec![]]);
        world.write_table(&[(round % 7, Some(round))]);
        let pinned = engine.pin(&[both, total, by_key, TABLE]).expect("ready");
        let version = |id| match &pinned.relations[&id] {
            PinnedRelation::Collection(version, None) => version.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(sum(&version(both), 0), sum(&version(total), 0) + sum(&version(by_key), 2), "at {}", pinned.cut);
        assert_eq!(sum(&version(total), 0), sum(&version(TABLE), 1), "at {}", pinned.cut);
    }
    engine.checkpoint_now().expect("a checkpoint");
    world.kill(engine);
    let (engine, report) = world.open();
    assert_eq!((report.views_restored, report.views_to_backfill), (3, 0), "{report:?}");
    world.check(&engine);
    world.drop_view(both);
    world.tell(&engine);
    world.write_table(&[(1, Some(1))]);
    world.check(&engine);
    engine.stop();
    let (engine, report) = world.open();
    assert_eq!((report.views_restored, report.views_to_backfill), (2, 0), "{report:?}");
    world.check(&engine);
}
