//! One frontier: what is pinned together belongs together; readers see their own writes; backfills stand aside.

use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use mainstem_engine::{Cut, InputLog, PinnedRelation, Version};

use super::world::{Event1, Kind, PATIENCE, SOURCE, SOURCE_TOPIC, TABLE, World};

fn sum_of_column(version: &Version, column: usize) -> i64 {
    let batches = version.scan(Some(&[column]), 100);
    let sum =
        |batch: arrow::array::RecordBatch| batch.column(0).as_primitive::<Int64Type>().iter().flatten().sum::<i64>();
    batches.map(sum).sum()
}

/// Money moves between accounts, two rows per entry: no pin may see it half moved, in the table or in any view.
#[test]
fn the_sum_of_all_accounts_never_changes_in_any_relation_of_a_pin() {
    let mut world = World::new(1);
    let total = world.define(Kind::TableTotal);
    let by_key = world.define(Kind::ByKey);
    let chained = world.define(Kind::Total(by_key));
    let accounts: Vec<_> = (0..10).map(|id| (id, Some(100))).collect();
    let (engine, _) = world.open();
    let start = world.write_table(&accounts);
    assert!(engine.wait_published_blocking(start, PATIENCE));
    for id in [total, by_key, chained] {
        engine.wait_ready_blocking(id, PATIENCE).expect("ready");
    }
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut cuts = std::collections::BTreeSet::new();
            while !is_done.load(Ordering::Acquire) || cuts.len() < 2 {
                let pinned = engine.pin(&[total, TABLE, by_key, chained]).expect("ready");
                let version = |id| match &pinned.relations[&id] {
                    PinnedRelation::Collection(version, None) => version.clone(),
                    other => panic!("{other:?}"),
                };
                assert_eq!(sum_of_column(&version(total), 0), 1000, "at {}", pinned.cut);
                assert_eq!(sum_of_column(&version(TABLE), 1), 1000, "at {}", pinned.cut);
                assert_eq!(sum_of_column(&version(by_key), 1), sum_of_column(&version(chained), 0));
                assert_eq!(sum_of_column(&version(by_key), 2), sum_of_column(&version(chained), 1));
                cuts.insert(pinned.cut);
            }
            cuts.len()
        });
        for round in 0..400 {
            let (from, to) = (round % 10, (round * 7 + 3) % 10);
            if from != to {
                let (a, b) = (world.table[&from] - 1, world.table[&to] + 1);
                world.write_table(&[(from, Some(a)), (to, Some(b))]);
            }
            let event = |v| Some(Event1 { k: round % 3, v, ts: Some(round) });
            let cut = world.write_events([vec![event(round)], vec![event(-1)]]);
            if round % 20 == 0 {
                assert!(engine.wait_published_blocking(cut, PATIENCE));
            }
        }
        is_done.store(true, Ordering::Release);
        assert!(reader.join().expect("no pin was wrong") >= 2);
    });
    world.check(&engine);
}

#[test]
fn a_backfill_stands_aside_and_tells_how_far_it_is() {
    let mut world = World::new(2);
    let event = |v| Some(Event1 { k: v % 5, v, ts: Some(v) });
    for entry in 0..50 {
        let many = |from: i64| (from..from + 100).map(event).collect();
        world.write_events([many(entry * 100), many(entry * 100)]);
    }
    let total = world.define(Kind::TableTotal);
    world.log.set_gate(Some(1000));
    let (engine, _) = world.open();
    assert!(engine.wait_published_blocking(world.log.newest(), PATIENCE));
    let by_key = world.define(Kind::ByKey);
    let chained = world.define(Kind::Total(by_key));
    let closed = world.define(Kind::Closed);
    world.tell(&engine);
    // The lane goes on while the backfills stand at the gate.
    for round in 0..20 {
        let cut = world.write_table(&[(round, Some(round))]);
        assert!(engine.wait_published_blocking(cut, PATIENCE), "the lane waits for a backfill");
    }
    assert!(engine.pin(&[total]).is_ok());
    assert!(engine.pin(&[by_key]).expect_err("not ready").to_string().contains("still being created"));
    let jobs = engine.jobs();
    let states: Vec<_> = jobs.iter().map(|job| (job.relation, job.state.as_str())).collect();
    assert_eq!(states, [(by_key, "running"), (chained, "waiting"), (closed, "running")]);
    assert_eq!(jobs[0].rows_total, 10_000);
    assert!(jobs[0].rows_done <= 2_000, "{jobs:?}");
    // A kill does not touch what is ready.
    engine.checkpoint_now().expect("a checkpoint");
    let reads = world.log.reads();
    world.log.set_gate(None);
    world.kill(engine);
    let (engine, report) = world.open();
    assert_eq!((report.views_restored, report.views_to_backfill), (1, 3), "{report:?}");
    world.check(&engine);
    assert!(engine.jobs().is_empty());
    assert!(world.log.reads() > reads);
    // A view that joined is in the next checkpoint.
    engine.stop();
    let (engine, report) = world.open();
    assert_eq!((report.views_restored, report.views_to_backfill), (4, 0), "{report:?}");
    assert_eq!(engine.stats().relations[&SOURCE].rows_in, 10_000);
    world.check(&engine);
}

#[test]
fn a_restart_reads_only_what_came_after_the_checkpoint() {
    let mut world = World::new(3);
    world.define(Kind::ByKey);
    let (engine, _) = world.open();
    let event = |v| Some(Event1 { k: v % 5, v, ts: Some(v) });
    world.write_events([(0..5000).map(event).collect(), (0..5000).map(event).collect()]);
    world.check(&engine);
    let at = engine.checkpoint_now().expect("a checkpoint");
    // The view that joined has asked for one of its own before.
    let taken = engine.stats().checkpoints;
    assert_eq!(engine.checkpoint_now().expect("the same one"), at);
    assert_eq!(engine.stats().checkpoints, taken);
    engine.checkpoint_now().expect("nothing new");
    // Not late: what is late is written again, to a table.
    world.write_events([vec![event(5001)], vec![event(5002)]]);
    world.check(&engine);
    world.kill(engine);
    let reads = world.log.reads();
    let (engine, report) = world.open();
    assert_eq!((report.replay_from, report.newest), (at, Cut(at.0 + 1)));
    world.check(&engine);
    assert_eq!(world.log.reads() - reads, 2, "one read per partition");
    // Holds follow the checkpoint before the newest.
    engine.checkpoint_now().expect("a second checkpoint");
    engine.stop();
    let (engine, _) = world.open();
    assert_eq!(world.log.held_from(SOURCE_TOPIC, 0), Some(5001));
    assert_eq!(engine.stats().relations[&SOURCE].rows_in, 10_002);
    world.kill(engine);
    assert_eq!(world.log.held_from(SOURCE_TOPIC, 0), None);
}
