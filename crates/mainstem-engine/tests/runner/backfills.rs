//! Views that read history, and are killed while they do: they go on where a checkpoint had them, and end equal.

use std::time::Duration;

use mainstem_engine::Engine;
use mainstem_engine::backfill_pace::RATE_SETTING;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::random_runs::{events, table_changes};
use super::world::{Event1, Kind, PATIENCE, SOURCE_TOPIC, World};

fn history(world: &mut World, records: i64) {
    let event = |v| Some(Event1 { k: v % 5, v, ts: Some(v) });
    for from in (0..records).step_by(50) {
        let many = || (from..(from + 50).min(records)).map(event).collect();
        world.write_events([many(), many()]);
    }
}

fn rows_done(engine: &Engine) -> u64 {
    engine.jobs().iter().map(|job| job.rows_done).sum()
}

#[test]
fn a_killed_backfill_goes_on_where_the_checkpoint_had_it() {
    let mut world = World::new(1);
    history(&mut world, 2_000);
    world.write_table(&[(0, Some(7)), (3, Some(9))]);
    let (engine, _) = world.open();
    world.settings = vec![(RATE_SETTING.to_owned(), "3000".to_owned())];
    let joined = world.define(Kind::Joined);
    world.tell(&engine);
    while rows_done(&engine) < 1_000 {
        std::thread::sleep(Duration::from_millis(5));
    }
    // What it reads of the table changes while it reads.
    let cut = world.write_table(&[(0, Some(8)), (3, None), (4, Some(1))]);
    assert!(engine.wait_published_blocking(cut, PATIENCE));
    engine.checkpoint_now().expect("a checkpoint");
    let done = rows_done(&engine);
    assert!(done < 4_000, "it was to be caught in the middle");
    let held = world.log.held_from(SOURCE_TOPIC, 0).expect("what it has not read is held");
    assert!(held < 2_000);
    world.kill(engine);
    let (engine, report) = world.open();
    assert_eq!((report.views_restored, report.views_to_backfill), (0, 1), "{report:?}");
    let jobs = engine.jobs();
    assert!(jobs.iter().any(|job| job.relation == joined && job.rows_done >= 900), "{done} before, now {jobs:?}");
    world.check(&engine);
    engine.stop();
    let (engine, report) = world.open();
    assert_eq!((report.views_restored, report.views_to_backfill), (1, 0), "{report:?}");
    world.check(&engine);
}

/// Answers how many backfills a start found begun.
fn run(seed: u64) -> usize {
    println!("MAINSTEM_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = World::new(seed);
    world.config.slice_rows = 8;
    world.config.state_memory_bytes = [2 << 10, 64 << 10, 512 << 20][seed as usize % 3];
    let mut now = 0;
    for _ in 0..random.random_range(10..60) {
        let events = events(&mut random, &mut now);
        world.write_events(events);
    }
    let changes = table_changes(&mut random, &world);
    world.write_table(&changes);
    let (mut engine, _) = world.open();
    let by_key = world.define(Kind::ByKey);
    world.settings = vec![(RATE_SETTING.to_owned(), random.random_range(300..3000).to_string())];
    let kinds = [
        Kind::Joined,
        Kind::JoinedView(by_key),
        Kind::Closed,
        Kind::Early,
        Kind::Pairs,
        Kind::Filtered,
        Kind::Upcoming,
        Kind::Total(by_key),
    ];
    for kind in kinds.into_iter().filter(|_| random.random_bool(0.4)).collect::<Vec<_>>() {
        world.define(kind);
    }
    world.tell(&engine);
    let mut resumed = 0;
    for _ in 0..12 {
        std::thread::sleep(Duration::from_millis(random.random_range(0..30)));
        match random.random_range(0..6) {
            0 => {
                let events = events(&mut random, &mut now);
                world.write_events(events);
            }
            1 => {
                let changes = table_changes(&mut random, &world);
                world.write_table(&changes);
            }
            2 => world.write_tick(world.now_us.unwrap_or(0).max(now - 50) + 1),
            3 => {
                engine.checkpoint_now().expect("a checkpoint");
                engine = restart(&world, engine, true, &mut resumed);
            }
            kill => engine = restart(&world, engine, kill == 4, &mut resumed),
        }
    }
    world.check(&engine);
    let letters = world.letters();
    assert!(letters.values().all(|count| *count == 1), "twice: {letters:?}");
    assert_eq!(letters.into_keys().collect::<std::collections::BTreeSet<_>>(), world.poison());
    engine.stop();
    let (engine, report) = world.open();
    assert_eq!(report.views_to_backfill, 0, "{report:?}");
    world.check(&engine);
    resumed
}

fn restart(world: &World, engine: Engine, is_kill: bool, resumed: &mut usize) -> Engine {
    if is_kill {
        world.kill(engine);
    } else {
        engine.stop();
    }
    let (engine, report) = world.open();
    assert_eq!(report.warnings, [""; 0]);
    *resumed += report.backfills_resumed;
    engine
}

#[test]
fn backfills_end_equal_whatever_is_killed() {
    let seeds = match mainstem_testkit::seed_from_env("MAINSTEM_SEED", 0) {
        0 => 1..=24,
        seed => seed..=seed,
    };
    let resumed: usize = seeds.clone().map(run).sum();
    println!("{resumed} backfills were gone on with");
    assert!(seeds.count() == 1 || resumed > 10, "only {resumed}");
}
