use std::collections::BTreeSet;

use super::*;

const SEEDS: u64 = 300;

fn write_new(disk: &SimDisk, path: &str, bytes: &[u8]) -> Arc<dyn DiskFile> {
    let file = disk.open(path, Open::Create).unwrap();
    file.write_at(bytes, 0).unwrap();
    file
}

fn synced(disk: &SimDisk, path: &str, bytes: &[u8]) -> Arc<dyn DiskFile> {
    let file = write_new(disk, path, bytes);
    file.sync_data().unwrap();
    disk.sync_dir("").unwrap();
    file
}

/// All states that `run` leaves behind over many seeds and a crash.
fn outcomes<T: Ord>(run: impl Fn(&SimDisk) -> T) -> BTreeSet<T> {
    (0..SEEDS).map(|seed| run(&SimDisk::new(seed))).collect()
}

fn kind<T>(result: io::Result<T>) -> io::ErrorKind {
    match result {
        Ok(_) => panic!("the operation should have failed"),
        Err(error) => error.kind(),
    }
}

#[test]
fn what_was_synced_survives_every_crash_whatever_follows_it() {
    let left = outcomes(|disk| {
        let file = synced(disk, "a", &[7; 1000]);
        file.write_at(&[8; 5000], 1000).unwrap();
        disk.crash();
        disk.snapshot()["a"][..1000].to_vec()
    });
    assert_eq!(left, BTreeSet::from([vec![7; 1000]]));
}

#[test]
fn an_unsynced_write_is_kept_lost_or_torn_at_any_sector_and_byte() {
    let left = outcomes(|disk| {
        let file = synced(disk, "a", &[1; 2048]);
        file.write_at(&[2; 2048], 0).unwrap();
        disk.crash();
        disk.snapshot()["a"].clone()
    });
    assert!(left.contains([1; 2048].as_slice()), "lost");
    assert!(left.contains([2; 2048].as_slice()), "kept");
    let at_sectors = |bytes: &Vec<u8>| bytes.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0]));
    let is_prefix = |bytes: &Vec<u8>| bytes.is_sorted_by(|left, right| left >= right);
    assert!(left.iter().any(|bytes| at_sectors(bytes) && is_prefix(bytes) && bytes.contains(&1) && bytes.contains(&2)));
    assert!(left.iter().any(|bytes| !at_sectors(bytes)), "torn inside a sector");
    assert!(left.iter().any(|bytes| !is_prefix(bytes)), "a later sector without an earlier one");
    assert!(left.iter().all(|bytes| bytes.len() == 2048));
}

#[test]
fn writes_to_two_files_survive_independently() {
    let left = outcomes(|disk| {
        let (a, b) = (synced(disk, "a", b"-"), synced(disk, "b", b"-"));
        a.write_at(b"1", 0).unwrap();
        b.write_at(b"2", 0).unwrap();
        disk.crash();
        let files = disk.snapshot();
        (files["a"] == b"1", files["b"] == b"2")
    });
    assert_eq!(left.len(), 4, "{left:?}");
}

#[test]
fn without_reordering_a_crash_keeps_a_prefix_of_the_changes() {
    let left = outcomes(|disk| {
        disk.set_reordering(false);
        let (a, b) = (synced(disk, "a", b"---"), synced(disk, "b", b"---"));
        for (step, file) in [&a, &b, &a, &b, &a].into_iter().enumerate() {
            file.write_at(b"x", step as u64 / 2).unwrap();
        }
        disk.crash();
        let files = disk.snapshot();
        let at = |step: usize| if step.is_multiple_of(2) { files["a"][step / 2] } else { files["b"][step / 2] };
        (0..5).map(|step| at(step) == b'x').collect::<Vec<bool>>()
    });
    assert_eq!(left.len(), 6, "every prefix and nothing else: {left:?}");
    assert!(left.iter().all(|kept| kept.is_sorted_by(|earlier, later| earlier >= later)), "{left:?}");
}

#[test]
fn lengths_persist_or_not_until_they_are_synced() {
    let left = outcomes(|disk| {
        let (cut, grown) = (synced(disk, "cut", &[1; 100]), synced(disk, "grown", &[1; 100]));
        cut.set_len(10).unwrap();
        grown.allocate(200).unwrap();
        disk.crash();
        let files = disk.snapshot();
        assert_eq!(files["grown"][..100], [1; 100]);
        assert!(files["grown"][100..].iter().all(|byte| *byte == 0));
        (files["cut"].len(), files["grown"].len() == 200)
    });
    assert_eq!(left, BTreeSet::from([(10, false), (10, true), (100, false), (100, true)]));

    let left = outcomes(|disk| {
        let file = synced(disk, "a", &[1; 100]);
        file.set_len(10).unwrap();
        file.sync_data().unwrap();
        disk.crash();
        disk.snapshot()["a"].clone()
    });
    assert_eq!(left, BTreeSet::from([vec![1; 10]]));
}

#[test]
fn a_new_name_is_certain_only_after_its_directory_was_synced() {
    let names = |sync_dir: bool| {
        outcomes(move |disk| {
            write_new(disk, "a", b"a").sync_data().unwrap();
            if sync_dir {
                disk.sync_dir("").unwrap();
            }
            disk.crash();
            disk.files()
        })
    };
    assert_eq!(names(true), BTreeSet::from([vec!["a".to_owned()]]));
    assert_eq!(names(false), BTreeSet::from([vec![], vec!["a".to_owned()]]));
}

#[test]
fn a_rename_is_atomic_and_never_loses_both_files() {
    let left = outcomes(|disk| {
        synced(disk, "current", b"old");
        write_new(disk, "next", b"new").sync_data().unwrap();
        disk.rename("next", "current").unwrap();
        disk.crash();
        disk.snapshot().into_iter().collect::<Vec<_>>()
    });
    let file = |name: &str, bytes: &[u8]| (name.to_owned(), bytes.to_vec());
    let expected = BTreeSet::from([
        vec![file("current", b"new")],
        vec![file("current", b"old")],
        vec![file("current", b"old"), file("next", b"new")],
    ]);
    assert_eq!(left, expected);
}

#[test]
fn a_name_made_where_a_lost_rename_came_from_does_not_replace_the_durable_file() {
    let left = outcomes(|disk| {
        synced(disk, "log", b"synced");
        disk.rename("log", "recycled").unwrap();
        write_new(disk, "log", b"second").sync_data().unwrap();
        disk.crash();
        disk.snapshot().into_values().any(|bytes| bytes == b"synced")
    });
    assert_eq!(left, BTreeSet::from([true]));
}

#[test]
fn a_rename_between_directories_is_settled_by_either_sync() {
    for dir in ["from", "to"] {
        let left = outcomes(|disk| {
            disk.create_dir_all("from").unwrap();
            disk.create_dir_all("to").unwrap();
            disk.sync_dir("").unwrap();
            write_new(disk, "from/a", b"a").sync_data().unwrap();
            disk.sync_dir("from").unwrap();
            disk.rename("from/a", "to/a").unwrap();
            disk.sync_dir(dir).unwrap();
            disk.crash();
            disk.files()
        });
        assert_eq!(left, BTreeSet::from([vec!["to/a".to_owned()]]), "{dir}");
    }
}

#[test]
fn a_removed_name_may_come_back_until_its_directory_is_synced() {
    let names = |sync_dir: bool| {
        outcomes(move |disk| {
            disk.create_dir_all("dir/sub").unwrap();
            for path in ["dir/a", "dir/sub/b"] {
                write_new(disk, path, b"x").sync_data().unwrap();
            }
            for dir in ["", "dir", "dir/sub"] {
                disk.sync_dir(dir).unwrap();
            }
            disk.remove_dir_all("dir").unwrap();
            assert!(disk.files().is_empty());
            if sync_dir {
                disk.sync_dir("").unwrap();
            }
            disk.crash();
            disk.files().len()
        })
    };
    assert_eq!(names(true), BTreeSet::from([0]));
    assert_eq!(names(false), BTreeSet::from([0, 1, 2]));
}

#[test]
fn old_files_and_mounts_are_stale_after_a_crash() {
    let disk = SimDisk::new(1);
    let process = disk.mount();
    let file = synced(&process, "a", b"a");
    disk.crash();
    assert_eq!(kind(file.read_at(&mut [0], 0)), io::ErrorKind::Other);
    assert_eq!(kind(file.write_at(b"b", 0)), io::ErrorKind::Other);
    assert_eq!(kind(process.open("a", Open::Read)), io::ErrorKind::Other);
    assert_eq!(disk.mount().open("a", Open::Read).unwrap().read_to_end().unwrap(), b"a");
}

#[test]
fn power_fails_at_the_operation_named_and_stays_off_until_the_crash() {
    let left = outcomes(|disk| {
        let file = synced(disk, "a", b"--");
        disk.crash_after(2);
        file.write_at(b"1", 0).unwrap();
        assert!(!disk.is_off());
        let error = file.write_at(b"2", 1).unwrap_err();
        assert_eq!(error.to_string(), "simulated crash");
        assert!(disk.is_off());
        assert_eq!(kind(file.len()), io::ErrorKind::Other);
        assert_eq!(kind(file.sync_data()), io::ErrorKind::Other);
        disk.crash();
        assert!(disk.open("a", Open::Read).is_ok());
        disk.snapshot()["a"].clone()
    });
    assert!(left.contains(b"-2".as_slice()), "the operation in flight can survive: {left:?}");
    assert!(left.contains(b"1-".as_slice()), "and can be lost: {left:?}");
}

#[test]
fn the_sync_in_flight_when_power_fails_makes_nothing_certain() {
    let left = outcomes(|disk| {
        let file = synced(disk, "a", b"-");
        file.write_at(b"1", 0).unwrap();
        disk.crash_after(1);
        file.sync_data().unwrap_err();
        disk.crash();
        disk.snapshot()["a"].clone()
    });
    assert_eq!(left.len(), 2);
}

#[test]
fn after_a_failed_sync_a_later_one_brings_no_certainty_for_what_it_covered() {
    let left = outcomes(|disk| {
        let file = synced(disk, "a", b"---");
        file.write_at(b"11", 0).unwrap();
        disk.fail_nth(FaultKind::Sync, 1);
        assert_eq!(file.sync_data().unwrap_err().to_string(), "simulated I/O error");
        file.write_at(b"22", 1).unwrap();
        file.sync_data().unwrap();
        assert_eq!(disk.snapshot()["a"], b"122");
        disk.crash();
        disk.snapshot()["a"].clone()
    });
    assert_eq!(left, BTreeSet::from([b"-22".to_vec(), b"122".to_vec()]));
}

#[test]
fn a_fault_strikes_the_nth_operation_of_its_kind_once() {
    let disk = SimDisk::new(1);
    let file = synced(&disk, "a", b"ab");
    disk.fail_nth(FaultKind::Write, 2);
    file.write_at(b"1", 0).unwrap();
    file.read_at(&mut [0], 0).unwrap();
    file.write_at(b"2", 0).unwrap_err();
    file.write_at(b"3", 0).unwrap();
    disk.fail_nth(FaultKind::Read, 1);
    file.read_at(&mut [0], 0).unwrap_err();
    disk.fail_nth(FaultKind::Any, 1);
    disk.sync_dir("").unwrap_err();
    disk.sync_dir("").unwrap();
    disk.fail_nth(FaultKind::Write, 1);
    disk.rename("a", "b").unwrap_err();
    assert_eq!(disk.files(), ["a"]);
    disk.fail_nth(FaultKind::Any, 1);
    disk.clear_faults();
    disk.rename("a", "b").unwrap();
}

#[test]
fn a_full_disk_takes_what_fits_and_what_was_allocated() {
    let disk = SimDisk::new(1);
    disk.set_capacity(Some(100));
    let (a, b) = (disk.open("a", Open::CreateNew).unwrap(), disk.open("b", Open::CreateNew).unwrap());
    a.allocate(60).unwrap();
    assert_eq!(disk.available_bytes().unwrap(), 40);
    assert_eq!(kind(b.write_at(&[1; 50], 0)), io::ErrorKind::StorageFull);
    assert_eq!(b.len().unwrap(), 40);
    assert_eq!(kind(disk.open("c", Open::CreateNew)), io::ErrorKind::StorageFull);
    a.write_at(&[1; 60], 0).unwrap();
    assert_eq!(kind(a.write_at(&[1], 60)), io::ErrorKind::StorageFull);
    assert_eq!(kind(a.allocate(61)), io::ErrorKind::StorageFull);
    disk.remove_file("b").unwrap();
    a.write_at(&[1; 40], 60).unwrap();
    a.set_len(10).unwrap();
    a.set_len(1_000).unwrap();
    assert_eq!(disk.available_bytes().unwrap(), 90, "a length alone takes no room");
    disk.set_capacity(None);
    a.write_at(&[1; 1_000], 0).unwrap();
}

#[test]
fn decay_shows_now_and_after_a_crash_until_it_is_overwritten() {
    let disk = SimDisk::new(1);
    let file = synced(&disk, "a", &[0; 4]);
    disk.corrupt("a", 2, 0x81).unwrap();
    assert_eq!(file.read_to_end().unwrap(), [0, 0, 0x81, 0]);
    disk.crash();
    assert_eq!(disk.snapshot()["a"], [0, 0, 0x81, 0]);
    disk.open("a", Open::Write).unwrap().write_at(&[5], 2).unwrap();
    assert_eq!(disk.snapshot()["a"], [0, 0, 5, 0]);
    assert_eq!(kind(disk.corrupt("a", 4, 1)), io::ErrorKind::InvalidInput);
    assert_eq!(kind(disk.corrupt("b", 0, 1)), io::ErrorKind::NotFound);
}

#[test]
fn ignored_syncs_lose_data() {
    let left = outcomes(|disk| {
        disk.ignore_sync(true);
        synced(disk, "a", b"a");
        disk.crash();
        disk.snapshot().into_iter().collect::<Vec<_>>()
    });
    assert!(left.contains(&vec![]));
}

#[test]
fn opening_listing_and_renaming_answer_as_the_operating_system_does() {
    let disk = SimDisk::new(1);
    assert_eq!(kind(disk.open("a", Open::Read)), io::ErrorKind::NotFound);
    assert_eq!(kind(disk.open("a", Open::Write)), io::ErrorKind::NotFound);
    assert_eq!(kind(disk.open("d/a", Open::Create)), io::ErrorKind::NotFound);
    assert_eq!(kind(disk.list("d")), io::ErrorKind::NotFound);
    disk.create_dir_all("d/e").unwrap();
    disk.create_dir_all("d/e").unwrap();
    write_new(&disk, "d/a", b"a");
    assert_eq!(kind(disk.open("d/a", Open::CreateNew)), io::ErrorKind::AlreadyExists);
    assert_eq!(kind(disk.open("d", Open::Write)), io::ErrorKind::IsADirectory);
    assert_eq!(kind(disk.create_dir_all("d/a/b")), io::ErrorKind::NotADirectory);
    assert_eq!(kind(disk.rename("d", "d/e/d")), io::ErrorKind::InvalidInput);
    assert_eq!(kind(disk.rename("d/a", "d/e")), io::ErrorKind::IsADirectory);
    assert_eq!(kind(disk.open("../a", Open::Create)), io::ErrorKind::InvalidInput);
    assert_eq!(kind(disk.open("d/a", Open::Read).unwrap().write_at(b"x", 0)), io::ErrorKind::PermissionDenied);
    let entry = |name: &str, is_dir| DirEntry { name: name.to_owned(), is_dir };
    assert_eq!(disk.list("d").unwrap(), [entry("a", false), entry("e", true)]);
    let file = disk.open("d/a", Open::Write).unwrap();
    disk.rename("d/a", "b").unwrap();
    file.write_at(b"!", 1).unwrap();
    assert_eq!(disk.open("b", Open::Read).unwrap().read_to_end().unwrap(), b"a!", "a file follows its rename");
    disk.remove_file("b").unwrap();
    assert_eq!(file.read_to_end().unwrap(), b"a!", "an open file outlives its name");
    assert_eq!(kind(disk.remove_file("b")), io::ErrorKind::NotFound);
    assert_eq!(kind(disk.remove_dir_all("b")), io::ErrorKind::NotFound);
}

/// A program of random operations, drawn from a seed of its own.
fn run_program(disk: &SimDisk, steps: u64) {
    let mut draw = crate::random::SplitMix::new(99);
    let path = |at: u64| ["a", "b", "d/a", "d/b"][at as usize];
    for step in 0..steps {
        let (one, two) = (path(draw.below(4)), path(draw.below(4)));
        drop(disk.create_dir_all("d"));
        match draw.below(9) {
            0 => drop(disk.rename(one, two)),
            1 => drop(disk.remove_file(one)),
            2 => drop(disk.sync_dir(["", "d"][draw.below(2) as usize])),
            3 if draw.chance(20) => disk.crash(),
            4 => disk.fail_nth(FaultKind::Any, 1 + draw.below(50)),
            other => {
                let Ok(file) = disk.open(one, Open::Create) else { continue };
                let bytes = vec![step as u8; draw.below(2_000) as usize];
                drop(file.write_at(&bytes, draw.below(3_000)));
                drop(if other == 5 { file.set_len(draw.below(3_000)) } else { file.sync_data() });
                drop(file.read_to_end());
            }
        }
    }
}

#[test]
fn the_same_seed_and_calls_give_the_same_disk_and_another_seed_another() {
    let run = |seed| {
        let disk = SimDisk::new(seed);
        run_program(&disk, 2_000);
        (disk.trace_hash(), disk.op_count(), disk.snapshot())
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1).2, run(2).2);
    assert_ne!(run(1).0, run(2).0);
}

#[test]
fn the_trace_sees_each_difference_in_data_order_and_outcome() {
    let trace = |run: fn(&SimDisk)| {
        let disk = SimDisk::new(1);
        run(&disk);
        disk.trace_hash()
    };
    let traces = BTreeSet::from([
        trace(|disk| drop(synced(disk, "a", b"1"))),
        trace(|disk| drop(synced(disk, "a", b"2"))),
        trace(|disk| drop(synced(disk, "b", b"1"))),
        trace(|disk| drop(write_new(disk, "a", b"1"))),
        trace(|disk| {
            disk.fail_nth(FaultKind::Sync, 1);
            write_new(disk, "a", b"1").sync_data().unwrap_err();
        }),
        trace(|disk| {
            synced(disk, "a", b"1");
            disk.crash();
        }),
    ]);
    assert_eq!(traces.len(), 6);
}
