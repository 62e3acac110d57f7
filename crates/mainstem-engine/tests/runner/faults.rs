//! What is broken is told, and does not break the rest.

use mainstem_catalog::{Column, Origin, RelationId, SqlType};
use mainstem_engine::{EngineError, InputLog, PinnedRelation};
use mainstem_state::{CheckpointWriter, Disk, SectionKey, open_files};

use super::world::{Event1, Kind, PATIENCE, SOURCE, SOURCE_TOPIC, TABLE, World, graph_of, rows_of};

fn event(v: i64) -> Option<Event1> {
    Some(Event1 { k: v % 3, v, ts: Some(v) })
}

#[test]
fn a_view_whose_graph_is_not_understood_fails_by_name_and_the_others_run() {
    let mut world = World::new(1);
    world.define(Kind::ByKey);
    let id = world.catalog.next_relation_id();
    let mut json = graph_of(Kind::ByKey).0.to_json();
    json["version"] = serde_json::json!(99);
    let column = Column { name: "k".into(), sql_type: SqlType::BigInt, nullable: true, hidden: false, default: None };
    world.define_graph(id, Some(json), vec![column.clone()], &[SOURCE]);
    let above = world.catalog.next_relation_id();
    world.define_graph(above, Some(graph_of(Kind::Total(id)).0.to_json()), vec![column], &[id]);
    let (engine, _) = world.open();
    world.write_events([vec![event(1), event(2)], vec![event(3)]]);
    world.check(&engine);
    for id in [id, above] {
        let error = engine.wait_ready_blocking(id, PATIENCE).expect_err("it cannot run");
        assert!(matches!(&error, EngineError::ViewFailed { .. }), "{error}");
        assert!(engine.pin(&[id]).is_err());
    }
    let error = engine.wait_ready_blocking(id, PATIENCE).expect_err("it cannot run").to_string();
    assert!(error.contains("version 99"), "{error}");
    assert_eq!(engine.jobs().len(), 2);
}

#[test]
fn an_error_stands_until_its_row_is_gone_and_shows_in_views_above() {
    let mut world = World::new(2);
    let divided = world.define(Kind::Divided);
    let (engine, _) = world.open();
    world.write_table(&[(1, Some(0)), (2, Some(5))]);
    world.check(&engine);
    let pinned = engine.pin(&[divided, TABLE]).expect("ready");
    let PinnedRelation::Collection(_, Some(error)) = &pinned.relations[&divided] else { panic!("an error stands") };
    assert!(error.to_lowercase().contains("divi"), "{error}");
    assert!(matches!(&pinned.relations[&TABLE], PinnedRelation::Collection(_, None)));
    engine.checkpoint_now().expect("a checkpoint");
    world.kill(engine);
    let (engine, _) = world.open();
    world.check(&engine);
    world.write_table(&[(1, Some(4))]);
    world.check(&engine);
    assert_eq!(engine.stats().relations[&divided].errors, 0);
}

#[test]
fn a_damaged_partition_ends_there_and_the_other_goes_on() {
    let mut world = World::new(3);
    let filtered = world.define(Kind::Filtered);
    let (engine, _) = world.open();
    world.log.damage(SOURCE_TOPIC, 0, 20);
    world.write_events([(0..50).map(|_| event(9)).collect(), (0..50).map(|_| event(9)).collect()]);
    let cut = world.write_events([vec![event(9)], vec![event(9)]]);
    assert!(engine.wait_published_blocking(cut, PATIENCE));
    let pinned = engine.pin(&[filtered]).expect("ready");
    let PinnedRelation::Collection(version, _) = &pinned.relations[&filtered] else { panic!("a view") };
    assert_eq!(version.len(), 20 + 51);
    let errors = &engine.stats().relations[&SOURCE].input_errors;
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains("damaged at offset 20") && errors[0].contains("byte 7"), "{errors:?}");
}

#[test]
fn reads_that_fail_are_tried_again_and_nothing_is_lost() {
    let mut world = World::new(4);
    world.define(Kind::ByKey);
    let (engine, _) = world.open();
    world.log.fail_reads(3);
    world.write_events([(0..50).map(event).collect(), (0..50).map(event).collect()]);
    world.check(&engine);
    // An engine that is dropped while the log fails ends nevertheless.
    world.log.fail_reads(u64::MAX);
    world.write_events([vec![event(1)], vec![event(2)]]);
    world.kill(engine);
    world.log.fail_reads(0);
    let (engine, _) = world.open();
    world.check(&engine);
}

#[test]
fn a_view_made_again_from_less_history_than_it_had_says_so() {
    let mut world = World::new(6);
    let before = world.define(Kind::Filtered);
    let (engine, _) = world.open();
    world.write_events([(0..50).map(|_| event(9)).collect(), (0..50).map(|_| event(9)).collect()]);
    world.check(&engine);
    engine.checkpoint_now().expect("a checkpoint");
    world.kill(engine);
    // Retention goes on with what the checkpoint holds; the view does not care.
    world.log.trim(SOURCE_TOPIC, 1, 30);
    let (engine, report) = world.open();
    assert_eq!(report.views_restored, 1);
    world.check(&engine);
    let (origin, holds) = engine.origin_of(&[SOURCE, TABLE, before]);
    assert_eq!(origin, [Origin { source: SOURCE, partition: 1, offset: 30, compacted_below: 0 }]);
    assert_eq!(holds.len(), 2);
    world.kill(engine);
    // The checkpoint is lost, and a view is there that was created after the trim.
    for file in world.disk.files() {
        world.disk.remove_file(&file).expect("removes");
    }
    let after = world.catalog.next_relation_id();
    let (graph, columns) = graph_of(Kind::Filtered);
    world.define_graph_from(after, Some(graph.to_json()), columns, &[SOURCE], origin);
    let (engine, report) = world.open();
    assert_eq!(report.views_restored, 0);
    for id in [before, after] {
        engine.wait_ready_blocking(id, PATIENCE).expect("both run");
    }
    assert!(engine.wait_published_blocking(world.log.newest(), PATIENCE));
    let pinned = engine.pin(&[before, after]).expect("ready");
    let error = |id| match &pinned.relations[&id] {
        PinnedRelation::Collection(version, error) => (version.len(), error.clone()),
        PinnedRelation::Source { .. } => panic!("a view"),
    };
    let (rows, told) = error(before);
    let told = told.expect("it misses history");
    assert!(told.contains("offsets 0 to 29 of partition 1") && told.contains("create it again"), "{told}");
    assert_eq!((rows, error(after)), (70, (70, None)));
}

#[test]
fn unknown_relations_and_stopped_engines_say_so() {
    let world = World::new(5);
    let (engine, _) = world.open();
    assert!(matches!(engine.pin(&[RelationId(1)]), Err(EngineError::UnknownRelation(1))));
    engine.stop();
    assert!(matches!(engine.checkpoint_now(), Err(EngineError::Stopped)));
    let pinned = engine.pin(&[SOURCE, TABLE]).expect("what was published stays readable");
    let PinnedRelation::Source { positions } = &pinned.relations[&SOURCE] else { panic!("a source") };
    assert_eq!(positions, &[(0, 0, 0), (1, 0, 0)]);
}

#[test]
fn checkpoints_of_builds_before_the_store_are_told_of_and_go_with_the_first_new_one() {
    let mut world = World::new(7);
    world.define(Kind::ByKey);
    world.write_events([(0..50).map(event).collect(), Vec::new()]);
    let mut writer = CheckpointWriter::create(world.disk.mount(), "engine", 3).expect("begins");
    writer.section(&SectionKey::new(0, 0, "meta"), b"{\"cut\":1,\"row_format\":\"arrow-row-58\"}").expect("writes");
    writer.finish().expect("finishes");
    let (engine, report) = world.open();
    assert_eq!((report.views_restored, report.warnings.len()), (0, 1));
    assert!(report.warnings[0].contains("earlier build"), "{report:?}");
    world.check(&engine);
    engine.checkpoint_now().expect("a checkpoint");
    world.kill(engine);
    assert!(world.disk.files().iter().all(|file| file.starts_with("engine/state/")), "{:?}", world.disk.files());
    let (engine, report) = world.open();
    assert_eq!((report.views_restored, report.warnings.len()), (1, 0));
    world.check(&engine);
}

#[test]
fn a_store_that_is_found_damaged_while_the_engine_runs_is_emptied_and_history_read_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut world = World::new(8);
    world.config.state_path = Some(directory.path().to_owned());
    world.config.state_memory_bytes = 1 << 10;
    world.define(Kind::ByKey);
    world.define(Kind::Filtered);
    let (engine, _) = world.open();
    world.write_events([(0..500).map(event).collect(), (0..500).map(event).collect()]);
    world.check(&engine);
    engine.checkpoint_now().expect("a checkpoint");
    world.kill(engine);
    let (engine, report) = world.open();
    assert_eq!((report.views_restored, report.warnings.len()), (2, 0));
    for file in std::fs::read_dir(directory.path().join("store/tables")).expect("lists") {
        let path = file.expect("a file").path();
        let mut bytes = std::fs::read(&path).expect("reads");
        // The blocks of data begin the file.
        let data = bytes.len() / 2;
        bytes[..data].iter_mut().for_each(|byte| *byte ^= 0x40);
        std::fs::write(&path, bytes).expect("writes");
    }
    // Reads meet the damage; views are not ready from then on until they are back.
    world.write_events([(0..50).map(event).collect(), (0..50).map(event).collect()]);
    let begun = std::time::Instant::now();
    while engine.stats().state.emptied == 0 {
        assert!(begun.elapsed() < PATIENCE, "the damage is not noticed");
        std::thread::yield_now();
    }
    world.check(&engine);
    engine.checkpoint_now().expect("a checkpoint");
    world.kill(engine);
    let (engine, report) = world.open();
    assert_eq!((report.views_restored, report.warnings.len()), (2, 0));
    world.check(&engine);
}

#[test]
fn a_checkpoint_writes_what_changed_however_much_there_is() {
    let written = |events: i64| {
        let mut world = World::new(9);
        world.define(Kind::ByKey);
        world.define(Kind::Filtered);
        let (engine, _) = world.open();
        let every = |v: i64| Some(Event1 { k: v, v, ts: Some(v) });
        world.write_events([(0..events).map(every).collect(), (0..events).map(every).collect()]);
        world.check(&engine);
        engine.checkpoint_now().expect("a checkpoint");
        let first = engine.stats().checkpoint_bytes;
        world.write_events([(0..20).map(every).collect(), (0..20).map(every).collect()]);
        world.check(&engine);
        engine.checkpoint_now().expect("a checkpoint");
        (first, engine.stats().checkpoint_bytes)
    };
    let (small, large) = (written(200), written(20_000));
    println!("{small:?} bytes for the first and the second checkpoint; with a hundred times the rows {large:?}");
    assert!(large.0 > 50 * small.0, "{small:?} {large:?}");
    assert!(large.1 < small.1 * 3 / 2, "{small:?} {large:?}");
}

#[test]
fn what_is_held_of_a_dropped_view_can_be_read_after_a_checkpoint_and_goes_when_it_is_let_go() {
    let mut world = World::new(10);
    world.config.state_memory_bytes = 1 << 10;
    world.define(Kind::ByKey);
    let filtered = world.define(Kind::Filtered);
    let entries_of_filtered = |world: &World| {
        let state = open_files(world.disk.mount(), &format!("{}/state", world.config.directory)).expect("a store");
        let [from, until] = [filtered.0, filtered.0 + 1].map(|id| [&[1][..], &id.to_be_bytes()].concat());
        state.store.scan(&from, Some(&until)).count()
    };
    let (engine, _) = world.open();
    let every = |v: i64| Some(Event1 { k: v, v, ts: Some(v) });
    world.write_events([(0..2000).map(every).collect(), (0..2000).map(every).collect()]);
    world.check(&engine);
    engine.checkpoint_now().expect("a checkpoint");
    world.kill(engine);
    assert!(entries_of_filtered(&world) > 0);
    let (engine, report) = world.open();
    assert_eq!(report.views_restored, 2);
    let pinned = engine.pin(&[filtered]).expect("ready");
    let (expected, _) = world.expected(Kind::Filtered);
    world.drop_view(filtered);
    world.tell(&engine);
    let mut checkpoint = |v: i64| {
        world.write_events([vec![every(v)], vec![]]);
        world.check(&engine);
        engine.checkpoint_now().expect("a checkpoint");
    };
    (0..3).for_each(&mut checkpoint);
    let PinnedRelation::Collection(version, None) = &pinned.relations[&filtered] else { panic!("a view") };
    assert_eq!(rows_of(version), expected);
    assert_eq!(engine.stats().state.emptied, 0);
    drop(pinned);
    checkpoint(3);
    world.kill(engine);
    assert_eq!(entries_of_filtered(&world), 0);
    let (engine, report) = world.open();
    assert_eq!((report.views_restored, report.warnings), (1, Vec::new()));
    world.check(&engine);
}
