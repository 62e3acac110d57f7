//! Both stores against a sorted map: ingestions, scans, reopening, power loss, damage.

use std::collections::BTreeMap;
use std::path::Path;

use mainstem_state::{Change, Opened, StateError, StateStore, after_prefix, open_files, open_lsm};
use mainstem_testkit::{SimDisk, seed_from_env};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn seeds(count: u64) -> Vec<u64> {
    match seed_from_env("MAINSTEM_SEED", 0) {
        0 => (1..=count).collect(),
        seed => vec![seed],
    }
}

/// Few different keys, some of them longer than a tree's may be and equal for most of their length.
fn key(random: &mut StdRng) -> Vec<u8> {
    let mut key = vec![random.random_range(0..4), random.random_range(0..30)];
    if random.random_bool(0.1) {
        key.extend(std::iter::repeat_n(7, 70_000));
        key.push(random.random_range(0..4));
    }
    key
}

fn changes(random: &mut StdRng) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
    let value = |random: &mut StdRng| {
        let length = if random.random_bool(0.05) { 100_000 } else { random.random_range(0..50) };
        random.random_bool(0.7).then(|| vec![random.random(); length])
    };
    (0..random.random_range(1..60)).map(|_| (key(random), value(random))).collect()
}

fn apply(store: &dyn StateStore, changes: &BTreeMap<Vec<u8>, Option<Vec<u8>>>) -> Result<u64, StateError> {
    store.apply(&mut changes.iter().map(|(key, value)| Ok((key.clone(), value.clone()))))
}

fn apply_to_model(model: &mut Map, changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>) {
    for (key, value) in changes {
        match value {
            Some(value) => model.insert(key, value),
            None => model.remove(&key),
        };
    }
}

fn check(random: &mut StdRng, store: &dyn StateStore, model: &Map) {
    let all: Vec<_> = store.scan(&[], None).map(|entry| entry.expect("reads")).collect();
    assert!(all.iter().map(|(key, value)| (key, value)).eq(model.iter()), "{} and {} entries", all.len(), model.len());
    let (from, until) = (key(random), key(random));
    let some: Vec<_> = store.scan(&from, Some(&until)).map(|entry| entry.expect("reads").0).collect();
    let expected = model.keys().filter(|key| **key >= from && **key < until).cloned();
    assert_eq!(some, expected.collect::<Vec<_>>());
    let keys: Vec<Vec<u8>> = (0..20).map(|_| key(random)).collect();
    let found = store.get_many(&keys.iter().map(Vec::as_slice).collect::<Vec<_>>()).expect("reads");
    assert!(found.iter().map(Option::as_ref).eq(keys.iter().map(|key| model.get(key))));
    let prefixes = [&keys[0][..1], &keys[1], &[]];
    let mut counts = [0; 3];
    store.scan_many(&prefixes, &mut |place, _, _| counts[place] += 1).expect("reads");
    assert_eq!(counts, prefixes.map(|prefix| model.keys().filter(|key| key.starts_with(prefix)).count()));
}

#[test]
fn the_tree_holds_what_a_sorted_map_does_and_again_when_it_is_opened_without_having_been_closed() {
    for seed in seeds(2) {
        println!("MAINSTEM_SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let directory = tempfile::tempdir().expect("a directory");
        let open = |path: &Path| {
            let opened = open_lsm(path, 1 << 20).expect("opens");
            assert_eq!(opened.warnings, [""; 0]);
            opened.store
        };
        let mut copy = None;
        let (mut store, mut model) = (open(directory.path()), Map::new());
        for _ in 0..50 {
            match random.random_range(0..10) {
                0 => {
                    // As a kill leaves it: its files as they are now, the process still has them open.
                    let killed = tempfile::tempdir().expect("a directory");
                    copy_all(directory.path(), killed.path());
                    check(&mut random, &*open(killed.path()), &model);
                    copy = Some(killed);
                }
                1 => {
                    drop(store);
                    store = open(directory.path());
                }
                2 => store.maintain().expect("compacts"),
                3 => {
                    // One that fails on its way leaves no trace.
                    let fails = || Err(StateError::Damaged { place: "here".to_owned(), meaning: "a test".to_owned() });
                    let all = changes(&mut random).into_iter().map(Ok).chain([fails()]);
                    assert!(store.apply(&mut { all }).is_err());
                }
                _ => {
                    let changes = changes(&mut random);
                    apply(&*store, &changes).expect("applies");
                    apply_to_model(&mut model, changes);
                }
            }
            check(&mut random, &*store, &model);
        }
        drop(copy);
        store.clear().expect("clears");
        check(&mut random, &*store, &Map::new());
    }
}

fn copy_all(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("lists") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            std::fs::create_dir(&to).expect("makes");
            copy_all(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).expect("copies");
        }
    }
}

#[test]
fn an_ingestion_of_the_tree_is_there_as_a_whole_or_not_at_all_whatever_was_written_of_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let opened = open_lsm(directory.path(), 1 << 20).expect("opens");
    let value = |from: u8| (0..200_u8).map(move |key| (vec![key], Some(vec![key ^ from; 2000])));
    opened.store.apply(&mut value(1).map(Ok)).expect("applies");
    // Copies are made while the second ingestion is written, more and more of it.
    let mut copies = Vec::new();
    let mut second = value(2).inspect(|(key, _)| {
        if key[0] % 20 == 0 {
            let killed = tempfile::tempdir().expect("a directory");
            copy_all(directory.path(), killed.path());
            copies.push(killed);
        }
    });
    opened.store.apply(&mut second.by_ref().map(Ok)).expect("applies");
    assert_eq!(copies.len(), 10);
    for killed in copies {
        let opened = open_lsm(killed.path(), 1 << 20).expect("opens");
        assert_eq!(opened.warnings, [""; 0]);
        let all: Vec<Change> =
            opened.store.scan(&[], None).map(|e| e.map(|(k, v)| (k, Some(v)))).map(Result::unwrap).collect();
        assert_eq!(all, value(1).collect::<Vec<_>>());
    }
}

#[test]
fn damage_to_the_tree_is_an_error_or_empties_it_and_never_an_answer() {
    let mut random = StdRng::seed_from_u64(seed_from_env("MAINSTEM_SEED", 5));
    let directory = tempfile::tempdir().expect("a directory");
    let value: Vec<Change> = (0..200_u8).map(|key| (vec![key], Some(vec![key; 500]))).collect();
    open_lsm(directory.path(), 0).expect("opens").store.apply(&mut value.iter().cloned().map(Ok)).expect("applies");
    let (mut emptied, mut refused, mut unharmed) = (0, 0, 0);
    for _ in 0..60 {
        let damaged = tempfile::tempdir().expect("a directory");
        copy_all(directory.path(), damaged.path());
        let files: Vec<_> =
            ["store/tables", "store"].iter().flat_map(|part| files_in(&damaged.path().join(part))).collect();
        let file = &files[random.random_range(0..files.len())];
        let mut bytes = std::fs::read(file).expect("reads");
        let at = random.random_range(0..bytes.len());
        bytes[at] ^= 1 << random.random_range(0..8);
        std::fs::write(file, bytes).expect("writes");
        let opened = match std::panic::catch_unwind(|| open_lsm(damaged.path(), 0)) {
            Ok(opened) => opened.expect("opens, perhaps empty"),
            Err(_) => panic!("a panic from a flipped bit in {}", file.display()),
        };
        if !opened.warnings.is_empty() {
            assert!(opened.store.scan(&[], None).next().is_none());
            emptied += 1;
            continue;
        }
        match opened.store.scan(&[], None).collect::<Result<Vec<_>, _>>() {
            Err(_) => refused += 1,
            Ok(all) => {
                let all: Vec<Change> = all.into_iter().map(|(key, value)| (key, Some(value))).collect();
                assert!(all == value, "wrong content after a flipped bit at {at} of {}", file.display());
                unharmed += 1;
            }
        }
    }
    println!("{emptied} emptied, {refused} refused, {unharmed} unharmed");
    assert!(emptied > 0 && refused > 0);
}

fn files_in(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).expect("lists").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = entries.filter(|path| path.is_file()).collect();
    files.sort();
    files
}

#[test]
fn scratch_is_gone_at_the_next_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let opened = open_lsm(directory.path(), 1 << 20).expect("opens");
    let scratch = opened.scratch.create().expect("makes");
    apply(&*scratch, &BTreeMap::from([(vec![1], Some(vec![2]))])).expect("applies");
    assert_eq!(scratch.get_many(&[&[1]]).expect("reads"), [Some(vec![2])]);
    let second = opened.scratch.create().expect("makes");
    assert_eq!(second.get_many(&[&[1]]).expect("reads"), [None]);
    assert_eq!(std::fs::read_dir(directory.path().join("scratch")).expect("is there").count(), 2);
    drop(second);
    assert_eq!(std::fs::read_dir(directory.path().join("scratch")).expect("is there").count(), 1);
    std::mem::forget(scratch);
    let opened = open_lsm(directory.path(), 1 << 20).expect("opens");
    assert!(!directory.path().join("scratch").exists());
    assert!(opened.store.scan(&[], None).next().is_none());
}

#[test]
fn files_hold_the_last_ingestion_whenever_the_power_goes() {
    for seed in seeds(40) {
        println!("MAINSTEM_SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let disk = SimDisk::new(seed);
        let open = || {
            let Opened { store, warnings, .. } = open_files(disk.mount(), "engine/state").expect("opens");
            assert_eq!(warnings, [""; 0]);
            store
        };
        let (mut store, mut model) = (open(), Map::new());
        for _ in 0..80 {
            match random.random_range(0..10) {
                0 => {
                    drop(store);
                    disk.crash();
                    store = open();
                }
                1 => store.maintain().expect("removes"),
                2 => {
                    // The power goes in the middle of one.
                    let changes = changes(&mut random);
                    disk.crash_after(random.random_range(1..12));
                    let applied = apply(&*store, &changes).is_ok();
                    drop(store);
                    disk.crash();
                    store = open();
                    let mut with = model.clone();
                    apply_to_model(&mut with, changes);
                    let all: Map = store.scan(&[], None).map(|entry| entry.expect("reads")).collect();
                    assert!(all == with || all == model && !applied, "all of it, or nothing if it failed");
                    model = all;
                }
                _ => {
                    let changes = changes(&mut random);
                    apply(&*store, &changes).expect("applies");
                    apply_to_model(&mut model, changes);
                }
            }
            check(&mut random, &*store, &model);
        }
        store.maintain().expect("removes");
        let files = disk.files();
        let at = random.random_range(0..files.len());
        let length = disk.snapshot()[&files[at]].len() as u64;
        disk.corrupt(&files[at], random.random_range(0..length), 4).expect("flips");
        let opened = open_files(disk.mount(), "engine/state").expect("opens");
        assert_eq!(opened.warnings.len(), 1, "a flipped bit is seen");
        check(&mut random, &*opened.store, &Map::new());
        let again = open_files(disk.mount(), "engine/state").expect("opens");
        assert_eq!(again.warnings, [""; 0]);
    }
}

#[test]
fn a_prefix_ends_where_the_next_begins() {
    assert_eq!(after_prefix(&[1, 2]), Some(vec![1, 3]));
    assert_eq!(after_prefix(&[1, 255]), Some(vec![2]));
    assert_eq!(after_prefix(&[255, 255]), None);
    assert_eq!(after_prefix(&[]), None);
}

#[test]
fn many_ingestions_of_the_same_keys_take_no_more_of_the_disk_than_a_few() {
    let directory = tempfile::tempdir().expect("a directory");
    let opened = open_lsm(directory.path(), 1 << 20).expect("opens");
    let value = |round: u8| (0..200_u8).map(move |key| (vec![key], Some(vec![key ^ round; 1000])));
    let mut most = 0;
    for round in 0..60 {
        opened.store.apply(&mut value(round).map(Ok)).expect("applies");
        opened.store.maintain().expect("compacts");
        most = most.max(opened.store.disk_bytes());
    }
    let all = opened.store.scan(&[], None).map(|entry| entry.expect("reads")).map(|(key, value)| (key, Some(value)));
    assert!(all.eq(value(59)));
    println!("{most} bytes at most, {} in the end", opened.store.disk_bytes());
    assert!(most < 8 * 200 * 1000, "{most}");
}
