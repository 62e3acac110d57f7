//! Sinks: at every committed version the topic, replayed from its start, is the view; each record is there once; whatever is
//! killed, and wherever between two commits.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use mainstem_catalog::{Event, RelationId, Sink, SinkFormat, Topic, TopicOwner};
use mainstem_engine::outputs::{output_name, partition_of};
use mainstem_engine::{Cut, Engine, InputLog};
use mainstem_state::Disk;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use uuid::Uuid;

use super::random_runs::{events, table_changes};
use super::world::{Kind, PATIENCE, Row, World};

type Rows = BTreeMap<Row, usize>;

/// A sink, and what it must write.
#[derive(Clone, Debug)]
struct Sunk {
    sink: Sink,
    kind: Kind,
}

/// The world with sinks, and what views held after each entry.
struct Run {
    world: World,
    sinks: BTreeMap<RelationId, Sunk>,
    history: BTreeMap<Cut, HashMap<Kind, Rows>>,
    /// Of the last write.
    last: Cut,
}

impl Run {
    fn new(seed: u64, commit_bytes: usize) -> Run {
        let mut world = World::new(seed);
        world.config.output_commit_bytes = commit_bytes;
        let mut run = Run { world, sinks: BTreeMap::new(), history: BTreeMap::new(), last: Cut::ZERO };
        run.note();
        run
    }

    /// What views hold now, whether they are there or not.
    fn note(&mut self) {
        let kinds = [Kind::ByKey, Kind::TableTotal, Kind::Divided, Kind::Filtered, Kind::Closed];
        let rows = kinds.map(|kind| (kind, self.world.expected(kind).0));
        self.history.insert(self.last, HashMap::from(rows));
    }

    fn held_at(&self, kind: Kind, cut: Cut) -> Rows {
        self.history.range(..=cut).next_back().expect("the beginning").1[&kind].clone()
    }

    fn define(
        &mut self,
        kind: Kind,
        format: SinkFormat,
        key: Option<Vec<usize>>,
        change: impl FnOnce(&mut Sink),
    ) -> RelationId {
        let from = self.world.views.iter().find(|(_, other)| **other == kind).map(|(id, _)| *id);
        let from = from.unwrap_or_else(|| self.world.define(kind));
        let id = self.world.catalog.next_relation_id();
        let topic = Uuid::from_u128(1000 + u128::from(id.0));
        let partitions = 3;
        self.world.log.create_topic(topic, partitions);
        let name = format!("sink_{}", id.0);
        let (owner, configs) = (TopicOwner::Anyone, BTreeMap::new());
        let made = Topic { id: topic, name: name.clone(), partitions, owner, configs };
        let mut sink = Sink {
            id,
            schema: "public".to_owned(),
            name: name.clone(),
            from,
            topic,
            topic_name: name,
            format,
            key,
            is_key_unique: false,
            snapshot: true,
            force_append_only: false,
            with_schema: false,
            owns_view: false,
            sql: String::new(),
        };
        change(&mut sink);
        self.world.catalog.apply(&Event::TopicCreated { topic: made }).expect("a new topic");
        self.world.catalog.apply(&Event::SinkCreated { sink: Box::new(sink.clone()) }).expect("a new sink");
        self.sinks.insert(id, Sunk { sink, kind });
        id
    }

    fn drop_sink(&mut self, id: RelationId) {
        self.world.catalog.apply(&Event::SinksDropped { sinks: vec![id] }).expect("drops");
        let sunk = self.sinks.remove(&id).expect("it was there");
        // What it has written stays right.
        self.check_sink(&sunk, None);
    }

    /// Everything is published and written, and right.
    fn check(&self, engine: &Engine) {
        self.world.check(engine);
        let newest = self.world.log.newest();
        assert!(engine.wait_published_blocking(newest, PATIENCE));
        assert!(engine.wait_sinks_written(newest, PATIENCE), "nothing is in the way");
        let stats = engine.stats().sinks;
        for sunk in self.sinks.values() {
            let stands = &stats[&sunk.sink.id];
            assert_eq!(stands.state, "running", "{sunk:?}");
            self.check_sink(sunk, Some(stands.committed));
        }
    }

    /// Replays the sink's topic commit by commit.
    fn check_sink(&self, sunk: &Sunk, committed: Option<Cut>) {
        let Sunk { sink, kind } = sunk;
        let mut replay = Replay::default();
        let (mut at, mut seen) = (Cut::ZERO, BTreeSet::new());
        for commit in self.world.log.sunk(&output_name(sink.id)) {
            assert_eq!(commit.step.expected, at);
            if at == Cut::ZERO && !sink.snapshot {
                assert!(commit.records.is_empty(), "what was there is not wanted");
                replay.rows = self.held_at(*kind, commit.step.new);
            }
            for (partition, record) in commit.records {
                if let Some(key) = &record.key {
                    assert_eq!(partition, partition_of(key, 3), "{key:?}");
                }
                replay.take(sink, record.key, record.value, &mut seen);
            }
            at = commit.step.new;
            if commit.step.ahead.is_none() {
                let held = self.held_at(*kind, at);
                let steps = self.world.log.sunk(&output_name(sink.id));
                let steps: Vec<_> = steps.into_iter().map(|commit| (commit.step, commit.records.len())).collect();
                assert_eq!(replay.rows, held, "{kind:?} at {at}, of {sink:?} after {steps:?}");
            }
        }
        if let Some(committed) = committed {
            assert_eq!(at, committed);
            let now = self.held_at(*kind, self.world.log.newest());
            assert_eq!(replay.rows, now, "{} {kind:?}", sink.format.text());
        }
    }
}

/// What a consumer makes of a topic.
#[derive(Default)]
struct Replay {
    by_key: BTreeMap<Bytes, Row>,
    rows: Rows,
}

impl Replay {
    fn take(&mut self, sink: &Sink, key: Option<Bytes>, value: Option<Bytes>, seen: &mut BTreeSet<(u64, u64)>) {
        let parsed = value.as_ref().map(|value| serde_json::from_slice::<Value>(value).expect("JSON"));
        match (sink.format, parsed) {
            (SinkFormat::Plain, Some(row)) => self.add(row_of(&row)),
            (SinkFormat::Plain, None) => panic!("a tombstone in a plain topic"),
            (SinkFormat::Upsert, row) => {
                let key = key.expect("a key");
                let row = row.as_ref().map(row_of);
                let before = self.by_key.get(&key).cloned();
                assert_ne!(before, row, "a record that says nothing new, or is there twice: {key:?}");
                self.set(key, row);
            }
            (SinkFormat::Debezium, None) => {
                assert!(!self.by_key.contains_key(&key.expect("a key")), "a tombstone follows its delete");
            }
            (SinkFormat::Debezium, Some(envelope)) => {
                let key = key.expect("a key");
                let row = |name: &str| (!envelope[name].is_null()).then(|| row_of(&envelope[name]));
                let (before, after) = (row("before"), row("after"));
                // Without the snapshot a consumer does not know what was there.
                if sink.snapshot || self.by_key.contains_key(&key) {
                    assert_eq!(self.by_key.get(&key), before.as_ref(), "{envelope}");
                }
                let op = match (&before, &after) {
                    (None, Some(_)) => ["c", "r"].as_slice(),
                    (Some(_), Some(_)) => &["u"],
                    _ => &["d"],
                };
                assert!(op.contains(&envelope["op"].as_str().expect("text")), "{envelope}");
                let source = |name: &str| envelope["source"][name].as_u64().expect("a number");
                assert!(seen.insert((source("csn"), source("ordinal"))), "twice: {envelope}");
                if !sink.snapshot
                    && let Some(before) = before
                {
                    self.by_key.insert(key.clone(), before);
                }
                self.set(key, after);
            }
        }
    }

    fn set(&mut self, key: Bytes, row: Option<Row>) {
        let before = match row.clone() {
            Some(row) => self.by_key.insert(key, row),
            None => self.by_key.remove(&key),
        };
        if let Some(before) = before {
            let count = self.rows.get_mut(&before).expect("the row was there");
            *count -= 1;
            if *count == 0 {
                self.rows.remove(&before);
            }
        }
        row.into_iter().for_each(|row| self.add(row));
    }

    fn add(&mut self, row: Row) {
        *self.rows.entry(row).or_default() += 1;
    }
}

/// The members in their order; a timestamp as microseconds.
fn row_of(value: &Value) -> Row {
    let object = value.as_object().expect("an object");
    (0..object.len()).map(|place| number_of(&object[&format!("c{place}")])).collect()
}

fn number_of(value: &Value) -> Option<i64> {
    let Some(text) = value.as_str() else { return value.as_i64() };
    let time = text.strip_prefix("1970-01-01T00:00:").expect("a time of the tests");
    let (seconds, fraction) = time.split_once('.').unwrap_or((time, ""));
    let micros: i64 = format!("{fraction:0<6}").parse().expect("digits");
    Some(seconds.parse::<i64>().expect("digits") * 1_000_000 + micros)
}

fn new_sink(random: &mut StdRng, run: &mut Run) {
    let keyed = if random.random_bool(0.5) { SinkFormat::Upsert } else { SinkFormat::Debezium };
    let (kind, format, key) = match random.random_range(0..8) {
        0 | 1 => (Kind::ByKey, keyed, Some(vec![0])),
        2 => (Kind::TableTotal, keyed, Some(vec![])),
        3 => (Kind::Divided, keyed, Some(vec![0])),
        // A key that the view is not sorted by.
        4 => (Kind::Filtered, keyed, Some(vec![1, 0])),
        5 => (Kind::Filtered, SinkFormat::Plain, None),
        6 => (Kind::Filtered, SinkFormat::Plain, Some(vec![2])),
        // Within the lateness allowed its rows are taken back.
        _ => (Kind::Closed, keyed, Some(vec![0])),
    };
    let (snapshot, is_key_unique) = (random.random_bool(0.8), random.random_bool(0.3));
    run.define(kind, format, key, |sink| {
        // An upsert topic without its beginning cannot be replayed alone.
        sink.snapshot = snapshot || sink.format != SinkFormat::Plain;
        sink.is_key_unique = is_key_unique;
    });
}

fn restart(random: &mut StdRng, run: &Run, engine: Engine) -> Engine {
    match random.random_range(0..10) {
        0..3 => engine.stop(),
        3 => {
            // No checkpoint is left: all is read again from the start.
            run.world.kill(engine);
            for file in run.world.disk.files() {
                run.world.disk.remove_file(&file).expect("removes");
                // Or the next kill brings it back, and with it a checkpoint that knows nothing of what was written since.
                let directory = file.rsplit_once('/').map_or("", |(directory, _)| directory);
                run.world.disk.sync_dir(directory).expect("syncs");
            }
            run.world.log.let_sinks_commit(None);
            return run.world.open().0;
        }
        _ => {}
    }
    run.world.kill(engine);
    run.world.log.let_sinks_commit(None);
    run.world.open().0
}

fn step(random: &mut StdRng, run: &mut Run, now: &mut i64, engine: Engine) -> Engine {
    match random.random_range(0..100) {
        0..35 => {
            let events = events(random, now);
            if !events.iter().all(Vec::is_empty) {
                run.last = run.world.write_events(events);
                run.note();
            }
        }
        35..60 => {
            let changes = table_changes(random, &run.world);
            run.last = run.world.write_table(&changes);
            run.note();
        }
        60..70 => {
            new_sink(random, run);
            run.world.tell(&engine);
        }
        70..73 => {
            if let Some(id) = run.sinks.keys().copied().nth(random.random_range(0..run.sinks.len().max(1))) {
                run.drop_sink(id);
                run.world.tell(&engine);
            }
        }
        73..78 => {
            run.world.log.let_sinks_commit(None);
            run.check(&engine);
        }
        78..84 => {
            run.world.log.let_sinks_commit(None);
            // A sink may be in the middle of what it wrote before the restart.
            let _ = engine.checkpoint_now();
        }
        84..90 => run.world.log.let_sinks_commit(Some(random.random_range(0..6))),
        _ => return restart(random, run, engine),
    }
    engine
}

fn run(seed: u64) {
    println!("MAINSTEM_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let commit_bytes = if random.random_bool(0.7) { random.random_range(200..2000) } else { 1 << 20 };
    let mut run = Run::new(seed, commit_bytes);
    let mut now = 0;
    let (mut engine, _) = run.world.open();
    for _ in 0..80 {
        engine = step(&mut random, &mut run, &mut now, engine);
    }
    run.world.log.let_sinks_commit(None);
    run.check(&engine);
    engine.stop();
    let (engine, _) = run.world.open();
    run.check(&engine);
}

#[test]
fn a_topic_is_its_view_at_every_version_whatever_is_killed() {
    let seeds = match mainstem_testkit::seed_from_env("MAINSTEM_SEED", 0) {
        0 => (1..=60).collect(),
        seed => vec![seed],
    };
    seeds.into_iter().for_each(run);
}

fn event(k: i64, v: i64) -> Option<super::world::Event1> {
    Some(super::world::Event1 { k, v, ts: Some(v) })
}

#[test]
fn a_key_that_is_not_unique_stops_its_sink_with_the_reason_and_no_other() {
    let mut run = Run::new(1, 1 << 20);
    let good = run.define(Kind::ByKey, SinkFormat::Upsert, Some(vec![0]), |_| ());
    // `SELECT p, "offset", k`: many rows of one k.
    let bad = run.define(Kind::Filtered, SinkFormat::Upsert, Some(vec![2]), |_| ());
    let (engine, _) = run.world.open();
    run.last = run.world.write_events([vec![event(1, 9)], vec![]]);
    run.note();
    assert!(engine.wait_published_blocking(run.world.log.newest(), PATIENCE));
    assert!(engine.wait_sinks_written(run.world.log.newest(), PATIENCE), "one row of the key");
    run.last = run.world.write_events([vec![event(1, 10)], vec![]]);
    run.note();
    let state = |engine: &Engine, id| {
        assert!(engine.wait_published_blocking(run.world.log.newest(), PATIENCE));
        assert!(
            engine.wait_sinks_written(run.world.log.newest(), PATIENCE),
            "a sink that has failed is not waited for"
        );
        engine.stats().sinks[&id].state.clone()
    };
    let reason = state(&engine, bad);
    assert!(reason.starts_with("failed: ") && reason.contains("more than one row with the key (c2) = (1)"), "{reason}");
    assert_eq!(state(&engine, good), "running");
    // It stays so: what was not written since is not forgotten by a restart.
    engine.checkpoint_now().expect("a checkpoint");
    run.world.kill(engine);
    let (engine, _) = run.world.open();
    assert_eq!(state(&engine, bad), reason);
    assert_eq!(state(&engine, good), "running");
    run.check_sink(&run.sinks[&good], None);
    run.check_sink(&run.sinks[&bad], None);
}

#[test]
fn a_log_that_takes_nothing_holds_back_checkpoints_and_loses_nothing() {
    let mut run = Run::new(2, 1 << 20);
    let id = run.define(Kind::ByKey, SinkFormat::Debezium, Some(vec![0]), |sink| sink.is_key_unique = true);
    let (engine, _) = run.world.open();
    run.last = run.world.write_events([(0..20).map(|v| event(v % 5, v)).collect(), vec![]]);
    run.note();
    run.check(&engine);
    engine.checkpoint_now().expect("a checkpoint");
    run.world.log.let_sinks_commit(Some(0));
    run.last = run.world.write_events([vec![event(7, 1), event(1, 3)], vec![]]);
    run.note();
    // Views go on, and what was written before can still be read.
    run.world.check(&engine);
    let error = engine.checkpoint_now().expect_err("it would forget what was not written").to_string();
    assert!(error.contains("lets no sink commit"), "{error}");
    assert!(engine.stats().sinks[&id].state.starts_with("waiting"));
    run.world.kill(engine);
    let (engine, _) = run.world.open();
    run.world.log.let_sinks_commit(None);
    run.check(&engine);
    engine.checkpoint_now().expect("nothing is in the way");
}

#[test]
fn a_plain_sink_of_a_view_that_takes_rows_back_stops_unless_it_may_leave_them_out() {
    let mut run = Run::new(3, 1 << 20);
    let strict = run.define(Kind::ByKey, SinkFormat::Plain, None, |_| ());
    let lenient = run.define(Kind::ByKey, SinkFormat::Plain, None, |sink| sink.force_append_only = true);
    let (engine, _) = run.world.open();
    for v in [1, 2, 3] {
        run.last = run.world.write_events([vec![event(1, v)], vec![]]);
        let newest = run.world.log.newest();
        assert!(engine.wait_published_blocking(newest, PATIENCE));
        assert!(engine.wait_sinks_written(newest, PATIENCE), "written");
    }
    let stats = engine.stats().sinks;
    assert!(stats[&strict].state.contains("has taken back a row"), "{stats:?}");
    assert_eq!((stats[&lenient].records, stats[&lenient].left_out), (3, 2));
    let records: Vec<Row> = run
        .world
        .log
        .sunk(&output_name(lenient))
        .into_iter()
        .flat_map(|commit| commit.records)
        .map(|(_, record)| row_of(&serde_json::from_slice(&record.value.expect("a row")).expect("JSON")))
        .collect();
    let row = |count, sum| vec![Some(1), Some(count), Some(sum)];
    assert_eq!(records, [row(1, 1), row(2, 3), row(3, 6)]);
}
