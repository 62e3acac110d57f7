//! Random programs of writes, new and dropped views, checkpoints, stops and kills.

use std::path::PathBuf;

use mainstem_engine::{Cut, Engine, InputLog};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::world::{Event1, Kind, PATIENCE, SOURCE, World};

fn seeds() -> Vec<u64> {
    match mainstem_testkit::seed_from_env("MAINSTEM_SEED", 0) {
        0 => (1..=60).collect(),
        seed => vec![seed],
    }
}

pub(crate) fn events(random: &mut StdRng, now: &mut i64) -> [Vec<Option<Event1>>; 2] {
    let many = if random.random_bool(0.1) { 200 } else { 12 };
    // Now and then only one partition gets something: they begin at different entries.
    let mut events = [Vec::new(), Vec::new()];
    let only = random.random_bool(0.5).then(|| random.random_range(0..2));
    for (_, part) in events.iter_mut().enumerate().filter(|(at, _)| only.is_none_or(|only| only == *at)) {
        for _ in 0..random.random_range(0..many) {
            *now += random.random_range(0..4);
            let event = Event1 {
                k: random.random_range(0..6),
                v: random.random_range(-5..15),
                ts: random.random_bool(0.95).then(|| (*now + random.random_range(-90..10)).max(0)),
            };
            part.push(random.random_bool(0.95).then_some(event));
        }
    }
    events
}

fn new_view(random: &mut StdRng, world: &mut World) {
    let of = |world: &mut World, kind: Kind| {
        let found = world.views.iter().find(|(_, found)| **found == kind).map(|(id, _)| *id);
        found.unwrap_or_else(|| world.define(kind))
    };
    let kind = match random.random_range(0..12) {
        0 => Kind::ByKey,
        1 => Kind::TableTotal,
        2 => Kind::Divided,
        3 => Kind::Filtered,
        4 => Kind::Closed,
        5 => Kind::Pairs,
        6..8 => Kind::Both(of(world, Kind::ByKey), of(world, Kind::TableTotal)),
        8..10 => Kind::Early,
        10 => Kind::Upcoming,
        _ => Kind::Total(of(world, Kind::ByKey)),
    };
    world.define(kind);
}

/// Changes that keep the sum of the table, or make and delete rows.
pub(crate) fn table_changes(random: &mut StdRng, world: &World) -> Vec<(i64, Option<i64>)> {
    (0..random.random_range(1..8))
        .map(|_| {
            let id = random.random_range(0..20);
            let is_delete = world.table.contains_key(&id) && random.random_bool(0.3);
            (id, (!is_delete).then(|| random.random_range(-3..30)))
        })
        .collect()
}

fn step(random: &mut StdRng, world: &mut World, now: &mut i64, engine: Engine) -> Engine {
    match random.random_range(0..100) {
        0..4 => {
            world.write_idle(random.random_range(0..2), random.random_bool(0.2));
            engine
        }
        4..9 => {
            let now_us = world.now_us.unwrap_or(0).max(*now - random.random_range(0..100)) + 1;
            world.write_tick(now_us);
            engine
        }
        9..42 => {
            let events = events(random, now);
            if !events.iter().all(Vec::is_empty) {
                world.write_events(events);
            }
            engine
        }
        42..60 => {
            let changes = table_changes(random, world);
            world.write_table(&changes);
            engine
        }
        60..70 => {
            new_view(random, world);
            world.tell(&engine);
            engine
        }
        70..73 => {
            if let Some(id) = world.views.keys().copied().nth(random.random_range(0..world.views.len().max(1))) {
                world.drop_view(id);
                world.tell(&engine);
            }
            engine
        }
        73..80 => {
            world.check(&engine);
            engine
        }
        80..86 => {
            engine.checkpoint_now().expect("a checkpoint");
            engine
        }
        86..90 => {
            // A view that begins may be behind the others.
            let published = if engine.jobs().is_empty() { engine.published() } else { Cut::ZERO };
            engine.stop();
            let (engine, report) = world.open();
            assert!(report.checkpoint >= published, "{published} {report:?}");
            assert_eq!(report.warnings, [""; 0]);
            engine
        }
        90..92 => {
            world.kill(engine);
            let has_checkpoint = damage_newest_checkpoint(random, world);
            let (engine, report) = world.open();
            assert_eq!(report.warnings.is_empty(), !has_checkpoint, "{report:?}");
            // From here on the newest is whole again.
            world.write_table(&[(0, Some(1))]);
            assert!(engine.wait_published_blocking(world.log.newest(), PATIENCE));
            engine.checkpoint_now().expect("a checkpoint");
            engine
        }
        _ => {
            world.kill(engine);
            let (engine, report) = world.open();
            assert_eq!((report.replay_from, report.warnings.len()), (report.checkpoint, 0));
            assert_eq!(engine.stats().replay_started_at, report.checkpoint);
            engine
        }
    }
}

fn damage_newest_checkpoint(random: &mut StdRng, world: &World) -> bool {
    let files = world.disk.snapshot();
    let newest = files.iter().rev().find(|(name, _)| !name.ends_with(".unfinished"));
    let Some((name, bytes)) = newest else { return false };
    let at = random.random_range(0..bytes.len() as u64);
    world.disk.corrupt(name, at, 1 << random.random_range(0..8)).expect("flips");
    true
}

fn run(seed: u64, state_path: Option<PathBuf>) {
    println!("MAINSTEM_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = World::new(seed);
    // With hardly any memory for state, with some, with enough.
    world.config.state_memory_bytes = [2 << 10, 64 << 10, 512 << 20][seed as usize % 3];
    world.config.state_path = state_path;
    let mut now = 0;
    let (mut engine, _) = world.open();
    for _ in 0..80 {
        engine = step(&mut random, &mut world, &mut now, engine);
    }
    world.define(Kind::Closed);
    world.define(Kind::Filtered);
    world.tell(&engine);
    world.check(&engine);
    let letters = world.letters();
    assert!(letters.values().all(|count| *count == 1), "twice: {letters:?}");
    assert_eq!(letters.into_keys().collect::<std::collections::BTreeSet<_>>(), world.poison());
    let late = world.late_rows();
    assert!(late.values().all(|count| *count == 1), "twice: {late:?}");
    assert_eq!(late.into_keys().collect::<std::collections::BTreeSet<_>>(), world.late_places());
    let stats = engine.stats().relations;
    let source = &stats[&SOURCE];
    assert_eq!((source.late, source.dead_letters), (world.late(), world.poison().len() as u64));
    engine.stop();
    let (engine, report) = world.open();
    // The views that read nothing since the checkpoint have nothing to replay.
    assert_eq!(report.views_to_backfill, 0, "{report:?}");
    world.check(&engine);
    let after = &engine.stats().relations[&SOURCE];
    assert_eq!((after.late, after.dead_letters), (world.late(), world.poison().len() as u64));
}

#[test]
fn views_equal_their_definitions_whenever_they_are_made_and_whatever_is_killed() {
    seeds().into_iter().for_each(|seed| run(seed, None));
}

#[test]
fn the_same_holds_with_the_state_in_a_tree_on_a_real_disk() {
    for seed in seeds().into_iter().take(6) {
        let directory = tempfile::tempdir().expect("a directory");
        run(seed, Some(directory.path().to_owned()));
    }
}
