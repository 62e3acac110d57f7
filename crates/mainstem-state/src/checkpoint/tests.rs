use mainstem_testkit::{SimDisk, seed_from_env};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

fn sections(of: u64) -> Vec<Section> {
    let section = |i: u64| Section {
        key: SectionKey::new(of as u32, i as u32, format!("part {i}")),
        bytes: vec![(of + i) as u8; (i * 300_000) as usize],
    };
    (0..of % 5 + 2).map(section).collect()
}

fn write(disk: &Arc<SimDisk>, sequence: u64) -> Result<u64, CheckpointError> {
    let mut writer = CheckpointWriter::create(disk.clone(), "engine", sequence)?;
    for Section { key, bytes } in sections(sequence) {
        writer.section(&key, &bytes)?;
    }
    writer.finish()
}

fn read(disk: &SimDisk, sequence: u64) -> Result<Vec<Section>, CheckpointError> {
    let mut reader = CheckpointReader::open(disk, "engine", sequence)?;
    let mut found = Vec::new();
    while let Some(section) = reader.next_section()? {
        found.push(section);
    }
    Ok(found)
}

#[test]
fn what_was_written_is_read_and_older_ones_go_when_told() {
    let disk = SimDisk::new(1);
    assert!(newest(&*disk, "engine").expect("no directory is no checkpoint").is_empty());
    for sequence in [1, 2, 10] {
        write(&disk, sequence).expect("writes");
    }
    assert_eq!(newest(&*disk, "engine").expect("lists"), [10, 2, 1]);
    assert_eq!(read(&disk, 10).expect("whole"), sections(10));
    remove_older(&*disk, "engine", 2).expect("removes");
    assert_eq!(newest(&*disk, "engine").expect("lists"), [10, 2]);
}

#[test]
fn any_flipped_bit_is_seen() {
    let disk = SimDisk::new(2);
    let bytes = write(&disk, 3).expect("writes");
    let mut random = StdRng::seed_from_u64(seed_from_env("MAINSTEM_SEED", 3));
    let place = "engine/checkpoint-00000000000000000003";
    let somewhere: Vec<u64> = (0..100).map(|_| random.random_range(0..bytes)).collect();
    for at in (0..100).chain(somewhere).chain(bytes - 30..bytes) {
        let mask = 1 << random.random_range(0..8);
        disk.corrupt(place, at, mask).expect("flips");
        assert!(read(&disk, 3).is_err(), "byte {at} mask {mask}");
        disk.corrupt(place, at, mask).expect("flips back");
    }
    assert_eq!(read(&disk, 3).expect("whole again"), sections(3));
}

#[test]
fn after_power_loss_at_any_write_the_newest_that_is_found_is_whole() {
    let seed = seed_from_env("MAINSTEM_SEED", 4);
    for crash_after in 1..40 {
        let disk = SimDisk::new(seed.wrapping_add(crash_after));
        write(&disk, 1).expect("writes");
        disk.crash_after(crash_after);
        let finished = write(&disk, 2).is_ok();
        disk.crash();
        let found = newest(&*disk, "engine").expect("lists");
        assert!(found == [1] && !finished || found == [2, 1], "{found:?} after {crash_after}");
        for sequence in found {
            assert_eq!(read(&disk, sequence).expect("whole"), sections(sequence));
        }
        write(&disk, 3).expect("goes on after the crash");
        assert_eq!(read(&disk, 3).expect("whole"), sections(3));
    }
}
