//! Disks that are full or fail.

use std::sync::Arc;

use mainstem_log::{AppendError, Csn, Urgency};
use mainstem_testkit::FaultKind;
use parking_lot::Mutex;

use crate::rig::{Rig, append, entry, partition, text_of, words};

#[test]
fn a_failed_sync_stops_the_log_and_reads_go_on() {
    let rig = Rig::new(1);
    let a = partition(1, 0);
    let (log, _) = rig.open(&[a]);
    append(&log, a, "kept");
    rig.disk.fail_nth(FaultKind::Sync, 1);
    let told = Arc::new(Mutex::new(Vec::new()));
    for word in ["x", "y"] {
        let told = Arc::clone(&told);
        let done = Box::new(move |result: Result<Csn, _>| told.lock().push(result.is_ok()));
        log.append(entry(vec![(a, words(word))]), Urgency::Ordinary, done).unwrap();
    }
    while log.commit_once() {}
    assert_eq!(*told.lock(), [false, false]);
    let Err(AppendError::Stopped(stopped)) = log.append_and_wait(entry(vec![(a, words("z"))]), Urgency::Ordinary)
    else {
        panic!("the log goes on after a failed sync");
    };
    assert!(stopped.reason.contains("log/commit-") && stopped.reason.contains("restart"), "{}", stopped.reason);
    assert_eq!(text_of(&log, a), "kept");
    assert!(log.checkpoint().is_err());
    drop(log);
    rig.disk.crash();
    let (log, report) = rig.open(&[a]);
    assert_eq!(report.damage, []);
    assert!(text_of(&log, a).starts_with("kept"));
    append(&log, a, "on");
}

#[test]
fn a_full_disk_refuses_writes_and_takes_them_again() {
    let rig = Rig::new(2);
    let a = partition(1, 0);
    let (log, _) = rig.open(&[a]);
    append(&log, a, "before");
    let used: usize = rig.disk.snapshot().values().map(Vec::len).sum();
    rig.disk.set_capacity(Some(used as u64 + (48 << 10)));
    let large = "f".repeat(2_000);
    let mut appended = 0;
    let refused = loop {
        match log.append_and_wait(entry(vec![(a, words(&large))]), Urgency::Ordinary) {
            Ok(_) => appended += 1,
            Err(error) => break error,
        }
        assert!(appended < 100, "the disk never fills");
    };
    assert!(matches!(refused, AppendError::DiskFull), "{refused}");
    assert!(appended > 2);
    // The small writes that help users out of it still go through.
    log.append_and_wait(entry(vec![(a, words("urgent"))]), Urgency::Reserve).unwrap();
    assert_eq!(log.counters().refused_for_space, 1);
    assert!(!log.has_space());
    rig.disk.set_capacity(None);
    assert!(log.has_space());
    append(&log, a, "after");
    assert!(text_of(&log, a).ends_with("urgent after"));
    drop(log);
    rig.disk.crash();
    let (log, report) = rig.open(&[a]);
    assert_eq!(report.damage, []);
    assert!(text_of(&log, a).ends_with("urgent after"));
}

#[test]
fn a_failing_read_of_the_disk_is_an_error_of_that_read_only() {
    let rig = Rig::new(3);
    let a = partition(1, 0);
    let (log, _) = rig.open(&[a]);
    append(&log, a, "one two");
    rig.disk.fail_nth(FaultKind::Read, 1);
    assert!(log.read(a, 0, 100, true).is_err());
    assert_eq!(text_of(&log, a), "one two");
    append(&log, a, "three");
}
