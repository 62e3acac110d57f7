//! Record batches: header, checks, all codecs, records and their headers.
//!
//! The first byte says what is put right before: bit 0 the batch length, bit 1 the checksum.

use bytes::Bytes;
use mainstem_kafka_wire::batch::{self, BatchHeader, Compression};
use mainstem_kafka_wire::records::{
    RecordBatchBuilder, Retained, empty_batch, for_each_record, records_with_limit, retain,
};

use crate::seal;

pub(super) const DECOMPRESSED_BYTES_MAX: usize = 1 << 20;

pub(super) fn run(data: &[u8]) {
    let Some((flags, batch)) = data.split_first() else { return };
    let mut batch = batch.to_vec();
    if flags & 1 != 0 && batch.len() >= batch::HEADER_BYTES {
        let length = i32::try_from(batch.len() - 12).expect("inputs are small");
        batch[8..12].copy_from_slice(&length.to_be_bytes());
    }
    if flags & 2 != 0 {
        seal::batches(&mut batch);
    }
    let batches = Bytes::from(batch);
    for found in batch::split(&batches) {
        let Ok((header, batch)) = found else { return };
        one(&header, batch);
    }
}

fn one(header: &BatchHeader, batch: Bytes) {
    assert_eq!(batch.len(), header.total_bytes());
    let is_valid = batch::validate(&batch).is_ok();
    assert!(!is_valid || batch::verify_crc(&batch), "a valid batch has a right checksum");
    let _ = (header.next_offset(), header.last_sequence());
    let mut visited = Vec::new();
    let whole = for_each_record(&batch, DECOMPRESSED_BYTES_MAX, |record| {
        let headers: Result<Vec<_>, _> = record.headers().collect();
        visited.push((record.offset, record.timestamp, headers.is_ok()));
    });
    let Ok(reader) = records_with_limit(&batch, DECOMPRESSED_BYTES_MAX) else {
        assert!(whole.is_err() && visited.is_empty(), "both readers refuse it");
        return;
    };
    let mut read = Vec::new();
    let mut is_whole = true;
    for record in reader {
        match record {
            Ok(record) => read.push((record.offset, record.timestamp)),
            Err(_) => is_whole = false,
        }
    }
    let malformed_headers = visited.iter().position(|(.., headers_are_good)| !headers_are_good);
    let expected: Vec<_> =
        visited.iter().take(malformed_headers.unwrap_or(visited.len())).map(|(at, time, _)| (*at, *time)).collect();
    assert_eq!(read, expected, "both readers see the same");
    assert_eq!(is_whole, whole.is_ok() && malformed_headers.is_none());
    compacted(header, &batch);
    let mut patched = batch.to_vec();
    batch::patch_base_offset(&mut patched, 7);
    batch::patch_leader_epoch(&mut patched, 0);
    batch::patch_log_append_time(&mut patched, 9);
    assert!(batch::verify_crc(&patched));
}

/// What compaction leaves of it is what it was asked to keep.
fn compacted(header: &BatchHeader, batch: &[u8]) {
    let offsets = |batch: &[u8]| {
        let mut offsets = Vec::new();
        let read = for_each_record(batch, DECOMPRESSED_BYTES_MAX, |record| offsets.push(record.offset));
        read.map(|()| offsets)
    };
    for horizon in [None, Some(7)] {
        let Ok(retained) = retain(batch, DECOMPRESSED_BYTES_MAX, horizon, |record| record.offset % 2 == 0) else {
            return;
        };
        let before = offsets(batch).expect("it was read to its end");
        let kept: Vec<i64> = before.iter().copied().filter(|offset| offset % 2 == 0).collect();
        match retained {
            Retained::Unchanged => assert_eq!(kept, before),
            Retained::Nothing => assert!(kept.is_empty()),
            Retained::Changed(batch) => {
                assert!(batch::verify_crc(&batch));
                assert_eq!(offsets(&batch), Ok(kept));
            }
        }
    }
    let empty = empty_batch(header.base_offset, header.last_offset_delta, Some(header));
    assert!(batch::verify_crc(&empty));
    assert_eq!(offsets(&empty), Ok(Vec::new()));
}

pub(super) fn batch_of(codec: Compression, count: usize) -> Bytes {
    let mut builder = RecordBatchBuilder::new(codec).producer(5, 0, 0);
    for i in 0..count {
        let value = format!("{{\"n\":{i},\"text\":\"{}\"}}", "mainstem ".repeat(i % 9));
        let headers: &[(&str, Option<&[u8]>)] = if i % 3 == 0 { &[("h", Some(b"v")), ("none", None)] } else { &[] };
        builder.append(1_000 + i as i64, (i % 2 == 0).then_some(b"key"), Some(value.as_bytes()), headers);
    }
    builder.build()
}

pub(super) fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for codec in Compression::ALL {
        for count in [1, 40] {
            for flags in [0, 3] {
                let bytes = [&[flags], &*batch_of(codec, count)].concat();
                seeds.push((format!("{codec:?}-{count}-{flags}").to_lowercase(), bytes));
            }
        }
    }
    let two = [&[3], &*batch_of(Compression::None, 2), &*batch_of(Compression::Lz4, 3)].concat();
    seeds.push(("two".to_owned(), two));
    seeds.extend(streamed());
    seeds
}

/// What other producers' libraries write: zstd without its size, raw snappy, lz4 with linked blocks and checksums.
fn streamed() -> Vec<(String, Vec<u8>)> {
    let raw_snappy = [&[9, 8 << 2][..], b"mainstem "].concat();
    let zstd = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58, 0x49, 0, 0];
    let zstd = [&zstd[..], b"mainstem "].concat();
    let lz4 = [&[0x04, 0x22, 0x4d, 0x18, 0x54, 0x40, 0, 9, 0, 0, 0x80][..], b"mainstem ", &[0; 12]].concat();
    let seed = |(name, code, payload): (&str, u8, Vec<u8>)| {
        let mut bytes = batch_of(Compression::None, 1)[..batch::HEADER_BYTES].to_vec();
        bytes[22] = code;
        (name.to_owned(), [&[3], &bytes[..], &payload].concat())
    };
    [("snappy-raw", 2, raw_snappy), ("zstd-stream", 4, zstd), ("lz4-linked", 3, lz4)].map(seed).to_vec()
}
