use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type};
use mainstem_catalog::RelationId;
use mainstem_state::open_memory;
use rand::rngs::{SmallRng, StdRng};
use rand::{Rng, SeedableRng};

use super::*;
use crate::state::{Owner, StateRoot};

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("name", DataType::Utf8, true), Field::new("id", DataType::Int64, false)]))
}

fn rows(of: &[(i64, Option<String>)]) -> RecordBatch {
    let names: StringArray = of.iter().map(|(_, name)| name.as_deref()).collect();
    let ids: Int64Array = of.iter().map(|(id, _)| Some(*id)).collect();
    RecordBatch::try_new(schema(), vec![Arc::new(names), Arc::new(ids)]).expect("fits the schema")
}

fn read(batch: &RecordBatch) -> Vec<(i64, Option<String>)> {
    let names = batch.column(0).as_string::<i32>();
    let ids = batch.column(1).as_primitive::<Int64Type>();
    let name = |row| names.is_valid(row).then(|| names.value(row).to_owned());
    (0..batch.num_rows()).map(|row| (ids.value(row), name(row))).collect()
}

#[test]
fn a_keyed_collection_is_a_map_at_every_version() {
    let mut random = StdRng::seed_from_u64(mainstem_testkit::seed_from_env("MAINSTEM_SEED", 1));
    let mut collection = Collection::new(schema(), KeyKind::Columns(vec![1]));
    let mut model: BTreeMap<i64, Option<String>> = BTreeMap::new();
    let mut kept = Vec::new();
    for cut in 1..300 {
        let (mut changed, mut weights) = (Vec::new(), Vec::new());
        for id in (0..random.random_range(0..20))
            .map(|_| random.random_range(0..100))
            .collect::<std::collections::BTreeSet<_>>()
        {
            if let Some(old) = model.remove(&id) {
                changed.push((id, old));
                weights.push(-1);
            }
            if random.random_bool(0.6) {
                let name = random.random_bool(0.9).then(|| format!("n{}", random.random_range(0..1000)));
                model.insert(id, name.clone());
                changed.push((id, name));
                weights.push(1);
            }
        }
        collection.apply(Cut(cut), &Delta::new(rows(&changed), weights));
        kept.push((collection.version(), model.clone()));
    }
    assert!(collection.chunks.len() < 12, "{} chunks", collection.chunks.len());
    for pair in kept.windows(2) {
        let mut moved = model_rows(&pair[0].1);
        for delta in pair[1].0.since(&pair[0].0, 3) {
            for (row, weight) in read(&delta.rows).into_iter().zip(delta.weights.iter()) {
                *moved.entry(row).or_default() += weight;
            }
        }
        moved.retain(|_, weight| *weight != 0);
        assert_eq!(moved, model_rows(&pair[1].1));
    }
    for (version, model) in kept {
        let found: Vec<_> = version.scan(None, 7).flat_map(|batch| read(&batch)).collect();
        assert_eq!(found, model.clone().into_iter().collect::<Vec<_>>());
        assert_eq!(version.len(), model.len() as u64);
        let all: Vec<_> = (0..100).map(|id| (id, None)).collect();
        let keys = version.key_of(&rows(&all));
        let (batch, places) = version.get_many(keys.iter());
        let found = read(&batch);
        for (id, place) in places.iter().enumerate() {
            let expected = model.get(&(id as i64)).map(|name| (id as i64, name.clone()));
            assert_eq!(place.map(|place| found[place].clone()), expected);
            assert_eq!(version.get(keys.get(id)).map(|batch| read(&batch).remove(0)), expected);
        }
    }
}

fn model_rows(model: &BTreeMap<i64, Option<String>>) -> BTreeMap<(i64, Option<String>), i64> {
    model.iter().map(|(id, name)| ((*id, name.clone()), 1)).collect()
}

#[test]
fn rows_come_as_often_as_they_are_there() {
    let mut collection = Collection::new(schema(), KeyKind::WholeRow);
    let many = rows(&[(1, Some("a".into())), (2, None), (1, Some("a".into()))]);
    collection.apply(Cut(1), &Delta::new(many, vec![3, 2, 2]));
    collection.apply(Cut(2), &Delta::new(rows(&[(2, None), (1, Some("a".into()))]), vec![-2, -1]));
    let version = collection.version();
    assert_eq!((version.len(), version.cut), (4, Cut(2)));
    let batches: Vec<_> = version.scan(Some(&[1]), 3).collect();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [3, 1]);
    assert_eq!(version.scan(Some(&[]), 100).map(|batch| batch.num_rows()).sum::<usize>(), 4);
    assert!(version.get(version.key_of(&rows(&[(2, None)])).get(0)).is_none());
    assert!(version.get(version.key_of(&rows(&[(1, Some("a".into()))])).get(0)).is_some());

    assert!(Block::decode(&[1; 40]).is_err());
}

/// Chunks of many blocks, which memory has no room for; readers that stay behind; restarts at checkpoints.
#[test]
fn content_in_a_store_is_what_it_is_in_memory_and_its_chunks_are_written_once() {
    for seed in 1..=10 {
        println!("MAINSTEM_SEED={seed}");
        let mut random = SmallRng::seed_from_u64(seed);
        let root = StateRoot::new(open_memory(), 4096, 0);
        let owner = Owner { relation: RelationId(7), generation: 1 };
        let attached = |is_stored: bool, cut: Cut, state: &ContentState| {
            let mut collection = Collection::new(schema(), KeyKind::Columns(vec![1]));
            collection.attach(&Layers::new(root.clone(), owner, is_stored), cut, state).expect("attaches");
            collection
        };
        let mut stored = attached(false, Cut::ZERO, &ContentState::default());
        let mut model = BTreeMap::new();
        let mut readers = Vec::new();
        for cut in 1..120 {
            let mut changes = Vec::new();
            for _ in 0..random.random_range(0..20) {
                let id = random.random_range(0..400);
                let new = random.random_bool(0.8).then(|| Some(format!("{id} {}", random.random::<u64>())));
                if changes.iter().any(|((changed, _), _)| *changed == id) {
                    continue;
                }
                let before = match new.clone() {
                    Some(new) => model.insert(id, new),
                    None => model.remove(&id),
                };
                changes.extend(before.map(|before| ((id, before), -1)));
                changes.extend(new.map(|new| ((id, new), 1)));
            }
            let (new, weights): (Vec<_>, Vec<i64>) = changes.into_iter().unzip();
            stored.apply(Cut(cut), &Delta::new(rows(&new), weights));
            if random.random_bool(0.2) {
                let kept = stored.keep(None).expect("attached");
                let handed = stored.layers().expect("attached").hand_over();
                root.store().apply(&mut handed.changes()).expect("applies");
                handed.receipt().settle(true);
                if random.random_bool(0.5) {
                    readers.clear();
                    stored = attached(true, kept.cut, &kept.content);
                }
            }
            if random.random_bool(0.1) {
                readers.push((stored.version(), model.clone()));
            }
            for (version, then) in readers.iter().chain([&(stored.version(), model.clone())]) {
                let all: BTreeMap<_, _> =
                    version.scan(None, 50).flat_map(|batch| read(&batch)).map(|row| (row, 1)).collect();
                assert_eq!(all, model_rows(then));
                let id = random.random_range(0..400);
                let key = version.key_of(&rows(&[(id, None)]));
                let found = version.get(key.get(0)).map(|batch| read(&batch));
                assert_eq!(found, then.get(&id).map(|name| vec![(id, name.clone())]));
            }
        }
        readers.clear();
        drop(stored);
    }
}
