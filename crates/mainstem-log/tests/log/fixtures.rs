//! Directories that earlier programs have left: each version of the formats opens, and holds what it held.
//!
//! `MAINSTEM_WRITE_FIXTURE=name cargo test -p mainstem-log --test log fixtures` writes one with the program as it is; do that
//! when a format gets a new version, before anything is released with it, and never change one that is there.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mainstem_disk::{RealDisk, SystemClock};
use mainstem_kafka_wire::batch::Compression;
use mainstem_log::{Log, TopicPartition, Urgency, scrub};

use crate::rig::{Rig, append, batch, compact, compacted, config, entry, keyed, partition, records_from, segments};

const EXPECTED: &str = "expected.txt";

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn of() -> [TopicPartition; 3] {
    [partition(1, 0), partition(1, 1), partition(2, 7)]
}

/// All records of the partitions, a line each.
fn content(log: &Log) -> String {
    let mut text = String::new();
    for id in of() {
        let Some(state) = log.partition(id) else { continue };
        writeln!(text, "{id} from {}", state.start_offset).unwrap();
        for record in records_from(log, id, state.start_offset).unwrap() {
            let shown = |bytes: &Option<bytes::Bytes>| {
                bytes.as_ref().map_or("-".to_owned(), |bytes| String::from_utf8_lossy(bytes).replace('x', ""))
            };
            writeln!(text, "  {} {} {} {}", record.offset, record.timestamp, shown(&record.key), shown(&record.value))
                .unwrap();
        }
    }
    text
}

/// A bit of everything that the formats can say.
fn fill(rig: &mut Rig) -> Log {
    rig.config.placed_bytes_min = 3_000;
    let [a, b, c] = of();
    let (log, _) = rig.open(&of());
    log.create_partition(c, compacted(600));
    for i in 0..60 {
        append(&log, if i % 3 == 0 { b } else { a }, &format!("value-{i}"));
        let key = format!("k{}", i % 4);
        let value = (i % 8 != 7).then(|| format!("v{i}"));
        let keyed = keyed(Compression::ALL[i % 5], &[(&key, value.as_deref())], 1_000, None);
        log.append_and_wait(entry(vec![(c, keyed)]), Urgency::Ordinary).unwrap();
    }
    log.checkpoint().unwrap();
    compact(&log);
    log.delete_records(a, Some(5)).unwrap();
    log.checkpoint().unwrap();
    // Behind the checkpoint: an idempotent producer, a placed part, a spooled entry.
    let both = |i: i32| [a, b].map(|id| (id, batch(&[format!("tail-{i}").into_bytes()], 2_000, Some((7, 0, i)))));
    for i in 0..4 {
        log.append_and_wait(entry(both(i).to_vec()), Urgency::Ordinary).unwrap();
    }
    let large = |word: &str, bytes: usize| batch(&[format!("{word}{}", "x".repeat(bytes)).into_bytes()], 3_000, None);
    log.append_and_wait(entry(vec![(a, large("placed", 4_000))]), Urgency::Ordinary).unwrap();
    let spooled: Vec<u8> = (0..5).flat_map(|i| large(&format!("spooled-{i}-"), 2_500)).collect();
    log.append_and_wait(entry(vec![(b, spooled.into())]), Urgency::Ordinary).unwrap();
    append(&log, a, "the-last");
    log
}

fn copy(from: &Path, to: &Path) {
    for found in std::fs::read_dir(from).unwrap() {
        let found = found.unwrap();
        let target = to.join(found.file_name());
        if found.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy(&found.path(), &target);
        } else if found.file_name() != EXPECTED {
            std::fs::copy(found.path(), target).unwrap();
        }
    }
}

#[test]
fn a_directory_of_each_version_opens_and_holds_what_it_held() {
    if let Ok(name) = std::env::var("MAINSTEM_WRITE_FIXTURE") {
        let mut rig = Rig::new(1);
        let log = fill(&mut rig);
        let mut files: BTreeMap<String, Vec<u8>> = rig.disk.snapshot();
        files.insert(EXPECTED.to_owned(), content(&log).into_bytes());
        for (path, bytes) in files {
            let path = directory().join(&name).join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }
    let mut versions = 0;
    for fixture in std::fs::read_dir(directory()).unwrap() {
        let fixture = fixture.unwrap().path();
        let name = fixture.display();
        let expected = std::fs::read_to_string(fixture.join(EXPECTED)).unwrap();
        let copied = tempfile::tempdir().unwrap();
        copy(&fixture, copied.path());
        let disk = || Arc::new(RealDisk::new(copied.path()).unwrap());
        let clock = Arc::new(SystemClock::default());
        let found = scrub(disk(), clock.clone(), config(), &mut |_| ()).unwrap();
        assert_eq!(found.damage, [], "{name}");
        for life in 0..2 {
            let (log, report) = Log::open(disk(), clock.clone(), config()).unwrap();
            assert_eq!(report.damage, [], "{name}");
            for id in of() {
                log.create_partition(id, segments(2_000));
            }
            let content = content(&log);
            let (more, old): (Vec<&str>, Vec<&str>) = content.lines().partition(|line| line.ends_with(" more"));
            assert_eq!(old, expected.lines().collect::<Vec<_>>(), "{name}");
            assert_eq!(more.len(), 3 * life, "{name}");
            for id in of() {
                append(&log, id, "more");
            }
            log.stop();
        }
        versions += 1;
    }
    assert!(versions >= 3, "{versions} fixtures");
}
