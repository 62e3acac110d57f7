//! How much of its state a restart reads: none. By a command, how long it takes with a gigabyte of it:
//! `MAINSTEM_STATE_EVENTS=7000000 cargo test -p mainstem-engine --test engine -- restart --nocapture`.

use std::time::Instant;

use mainstem_engine::PinnedRelation;

use super::world::{Event1, Kind, PATIENCE, World};

#[test]
fn a_restart_reads_no_state_and_answers_at_once() {
    let events: i64 = std::env::var("MAINSTEM_STATE_EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000);
    let directory = tempfile::tempdir().expect("a directory");
    let mut world = World::new(1);
    world.config.state_path = Some(directory.path().to_owned());
    world.config.state_memory_bytes = 64 << 20;
    (world.config.slice_rows, world.config.read_bytes_max) = (16 << 10, 1 << 20);
    let by_key = world.define(Kind::ByKey);
    let filtered = world.define(Kind::Filtered);
    let (engine, _) = world.open();
    let event = |v: i64| Some(Event1 { k: v, v, ts: Some(v) });
    for begin in (0..events).step_by(10_000) {
        let all = || (begin..(begin + 10_000).min(events)).map(event);
        let [even, odd] =
            [0, 1].map(|rest| all().filter(|event| event.is_some_and(|event| event.v % 2 == rest)).collect());
        let cut = world.write_events([even, odd]);
        assert!(engine.wait_published_blocking(cut, PATIENCE * 10));
    }
    engine.checkpoint_now().expect("a checkpoint");
    engine.stop();

    let begun = Instant::now();
    let (engine, report) = world.open();
    assert_eq!((report.views_restored, report.views_to_backfill, report.warnings.len()), (2, 0, 0));
    for id in [by_key, filtered] {
        engine.wait_ready_blocking(id, PATIENCE).expect("ready");
    }
    let opened = begun.elapsed();
    let pinned = engine.pin(&[by_key, filtered]).expect("ready");
    let mut rows = 0;
    for content in pinned.relations.values() {
        let PinnedRelation::Collection(version, None) = content else { panic!("a view without errors") };
        assert!(version.len() as i64 >= events - 6);
        let first = version.scan(None, 100).next().expect("rows");
        rows += first.num_rows();
        assert!(version.get(version.key_of(&first.slice(50, 1)).get(0)).is_some());
    }
    let answered = begun.elapsed();
    let after = engine.stats().state;
    println!(
        "{events} events, {} bytes of state on disk: opened after {opened:?}, answered after {answered:?}; {after:?}",
        after.disk_bytes
    );
    assert_eq!((rows, after.loaded_units), (200, 0));
    assert!(after.used_bytes < 8 << 20, "{after:?}");
    let cut = world.write_events([(0..10).map(event).collect(), Vec::new()]);
    assert!(engine.wait_published_blocking(cut, PATIENCE));
    assert_eq!(engine.stats().state.loaded_units, 10, "what the records touch is loaded");
}
