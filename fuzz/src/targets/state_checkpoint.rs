//! A checkpoint file of the engine.
//!
//! The first byte's bit 0 says that the checksums are put right before.

use std::sync::Arc;

use mainstem_state::{CheckpointReader, CheckpointWriter, Disk, Open, Section, SectionKey};
use mainstem_testkit::SimDisk;

use crate::seal;

const DIR: &str = "engine";

pub(super) fn run(data: &[u8]) {
    let Some((flags, bytes)) = data.split_first() else { return };
    let mut bytes = bytes.to_vec();
    if flags & 1 != 0 {
        seal::state(&mut bytes);
    }
    let disk = SimDisk::new(1);
    disk.create_dir_all(DIR).expect("a directory");
    let path = format!("{DIR}/checkpoint-{:020}", 1);
    let file = disk.open(&path, Open::Create).expect("a file");
    file.write_at(&bytes, 0).expect("it takes the bytes");
    let Some(sections) = read(&*disk, 1) else { return };
    write(&disk, 2, &sections);
    assert_eq!(read(&*disk, 2), Some(sections), "what was read is written and read as it was");
}

fn read(disk: &dyn Disk, sequence: u64) -> Option<Vec<Section>> {
    let mut reader = CheckpointReader::open(disk, DIR, sequence).ok()?;
    let mut sections = Vec::new();
    while let Some(section) = reader.next_section().ok()? {
        sections.push(section);
    }
    Some(sections)
}

fn write(disk: &Arc<SimDisk>, sequence: u64, sections: &[Section]) {
    let disk: Arc<dyn Disk> = disk.clone();
    let mut writer = CheckpointWriter::create(disk, DIR, sequence).expect("it begins");
    for section in sections {
        writer.section(&section.key, &section.bytes).expect("it writes");
    }
    writer.finish().expect("it ends");
}

pub(super) fn seeds() -> Vec<(String, Vec<u8>)> {
    let section = |relation, operator, name: &str, bytes: &[u8]| Section {
        key: SectionKey::new(relation, operator, name),
        bytes: bytes.to_vec(),
    };
    let cases = [
        ("empty", vec![]),
        ("one", vec![section(16_384, 1, "rows", b"some rows")]),
        ("three", vec![section(0, 0, "", b""), section(1, 2, "a", &[7; 300]), section(1, 2, "a", b"again")]),
    ];
    let mut seeds = Vec::new();
    for (name, sections) in cases {
        let disk = SimDisk::new(1);
        write(&disk, 1, &sections);
        let bytes = disk.snapshot().into_values().next().expect("one file");
        seeds.push((name.to_owned(), [&[0], &bytes[..]].concat()));
        seeds.push((format!("{name}-sealed"), [&[1], &bytes[..]].concat()));
    }
    seeds
}
