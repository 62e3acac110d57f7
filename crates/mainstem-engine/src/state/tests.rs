//! Layers against a map: writes, reads, scans, checkpoints that succeed and fail, everything going to scratch.

use std::collections::BTreeMap;

use mainstem_catalog::RelationId;
use mainstem_state::open_memory;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;

#[test]
fn reads_see_what_was_written_and_the_store_exactly_what_was_handed_over() {
    for seed in 1..=30 {
        println!("MAINSTEM_SEED={seed}");
        let mut random = SmallRng::seed_from_u64(seed);
        let budget_bytes = if random.random_bool(0.5) { 0 } else { 1 << 20 };
        let root = StateRoot::new(open_memory(), budget_bytes, 0);
        let owner = |relation| Owner { relation: RelationId(relation), generation: 1 };
        let layers = Layers::new(root.clone(), owner(5), false);
        let beside = Space::of_operator(Layers::new(root.clone(), owner(6), false), 0, 0);
        let space = Space::of_operator(layers.clone(), 3, 0);
        let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let mut stored = model.clone();
        let mut in_flight: Option<(Handed, BTreeMap<Vec<u8>, Vec<u8>>)> = None;
        for _ in 0..400 {
            let key = vec![random.random_range(0..6_u8), random.random_range(0..6)];
            match random.random_range(0..20) {
                0 if in_flight.is_none() => in_flight = Some((layers.hand_over(), model.clone())),
                1 | 2 => {
                    if let Some((handed, then)) = in_flight.take() {
                        let is_durable = random.random_bool(0.6);
                        if is_durable {
                            root.store().apply(&mut handed.changes()).expect("applies");
                            stored = then;
                        }
                        handed.receipt().settle(is_durable);
                    }
                }
                3..7 => {
                    model.remove(&key);
                    space.delete(&key);
                }
                _ => {
                    let value = vec![random.random::<u8>(); random.random_range(0..400)];
                    space.put(&key, &value);
                    model.insert(key, value);
                }
            }
            beside.put(&[1], &[2]);
            let key = [random.random_range(0..6_u8), random.random_range(0..6)];
            assert_eq!(space.get(&key).expect("reads").as_ref(), model.get(key.as_slice()));
            let mut seen = Vec::new();
            space.scan(&key[..1], &mut |rest, value| seen.push((rest.to_vec(), value.to_vec()))).expect("reads");
            let under = model.iter().filter(|(other, _)| other[0] == key[0]);
            assert_eq!(seen, under.map(|(key, value)| (key[1..].to_vec(), value.clone())).collect::<Vec<_>>());
            let mut first = None;
            space
                .scan_from(&key, &mut |entry, _| {
                    first = Some(entry.to_vec());
                    false
                })
                .expect("reads");
            assert_eq!(first.as_ref(), model.range(key.to_vec()..).next().map(|(key, _)| key));
        }
        let in_store: BTreeMap<Vec<u8>, Vec<u8>> = root.store().scan(&[], None).map(Result::unwrap).collect();
        let expected = stored.iter().map(|(key, value)| (space.key(key), value.clone())).collect::<BTreeMap<_, _>>();
        assert_eq!(in_store, expected);
        assert_eq!(root.memory().spilled_bytes > 0, budget_bytes == 0);
    }
}

#[test]
fn numbers_have_the_order_of_their_bytes() {
    let numbers = [i64::MIN, -5, -1, 0, 1, 1 << 40, i64::MAX];
    assert!(numbers.map(ordered_i64).is_sorted());
    assert!(numbers.iter().all(|number| from_ordered_i64(&ordered_i64(*number)) == Some(*number)));
}
