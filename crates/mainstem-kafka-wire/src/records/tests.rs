use std::io::Write;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::batch::{patch_crc, patch_log_append_time, validate};
use crate::testing::{random_bytes, seed};

const LIMIT: usize = 1 << 20;

#[derive(Clone, Debug, PartialEq)]
struct Given {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

fn random_optional(rng: &mut SmallRng, bytes_max: usize) -> Option<Vec<u8>> {
    if rng.random_bool(0.2) { None } else { Some(random_bytes(rng, bytes_max)) }
}

fn random_given(rng: &mut SmallRng) -> Vec<Given> {
    let count = if rng.random_bool(0.1) { rng.random_range(1..2_000) } else { rng.random_range(1..40) };
    let bytes_max = *[0, 5, 100, 3_000].get(rng.random_range(0..4)).unwrap();
    (0..count)
        .map(|_| Given {
            timestamp: if rng.random_bool(0.05) { rng.random() } else { rng.random_range(0..1_000_000) },
            key: random_optional(rng, 20),
            value: random_optional(rng, bytes_max),
            headers: (0..rng.random_range(0..3))
                .map(|_| (["x", "trace", "", "é"][rng.random_range(0..4)].to_string(), random_optional(rng, 10)))
                .collect(),
        })
        .collect()
}

fn build(given: &[Given], codec: Compression) -> Bytes {
    let mut builder = RecordBatchBuilder::new(codec);
    for record in given {
        let headers: Vec<_> = record.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
        builder.append(record.timestamp, record.key.as_deref(), record.value.as_deref(), &headers);
    }
    assert_eq!(builder.len(), given.len());
    let (estimated, batch) = (builder.estimated_bytes(), builder.build());
    if codec == Compression::None {
        assert_eq!(estimated, batch.len());
    }
    batch
}

fn read_back(batch: &Bytes, limit: usize) -> Result<Vec<Given>, BatchError> {
    let mut found = Vec::new();
    for record in records_with_limit(batch, limit)? {
        let record = record?;
        assert_eq!(record.offset, found.len() as i64);
        found.push(Given {
            timestamp: record.timestamp,
            key: record.key.map(Vec::from),
            value: record.value.map(Vec::from),
            headers: record
                .headers
                .into_iter()
                .map(|(name, value)| (String::from_utf8(name.to_vec()).unwrap(), value.map(Vec::from)))
                .collect(),
        });
    }
    Ok(found)
}

fn visit_all(batch: &[u8], limit: usize) -> Result<Vec<Given>, BatchError> {
    let mut found = Vec::new();
    let mut failed = None;
    for_each_record(batch, limit, |record| {
        let headers: Result<_, _> = record
            .headers()
            .map(|header| header.map(|(name, value)| (name.to_string(), value.map(<[u8]>::to_vec))))
            .collect();
        match headers {
            Ok(headers) => found.push(Given {
                timestamp: record.timestamp,
                key: record.key.map(<[u8]>::to_vec),
                value: record.value.map(<[u8]>::to_vec),
                headers,
            }),
            Err(error) => failed = Some(error),
        }
    })?;
    failed.map_or(Ok(found), Err)
}

/// A batch with `payload` as its records, of any codec.
fn batch_around(payload: &[u8], codec: Compression, record_count: i32) -> Bytes {
    let mut builder = RecordBatchBuilder::default();
    builder.append(0, None, None, &[]);
    let mut header = BatchHeader::parse(&builder.build()).unwrap();
    header.attributes = codec.code();
    header.batch_length = (payload.len() + 49) as i32;
    header.record_count = record_count;
    header.last_offset_delta = record_count - 1;
    let mut bytes = [header.to_bytes().as_slice(), payload].concat();
    patch_crc(&mut bytes);
    bytes.into()
}

#[test]
fn random_batches_come_back_through_every_codec() {
    let mut rng = SmallRng::seed_from_u64(seed());
    for round in 0..60 {
        let given = random_given(&mut rng);
        for codec in Compression::ALL {
            let batch = build(&given, codec);
            let header = validate(&batch).unwrap();
            assert_eq!(header.compression(), Ok(codec));
            assert_eq!(header.record_count as usize, given.len());
            assert_eq!(header.max_timestamp, given.iter().map(|record| record.timestamp).max().unwrap());
            assert_eq!(read_back(&batch, 1 << 26).unwrap(), given, "round {round} {codec:?}");
            assert_eq!(visit_all(&batch, 1 << 26).unwrap(), given, "round {round} {codec:?}");
        }
    }
}

#[test]
fn uncompressed_records_are_slices_of_the_batch() {
    let mut builder = RecordBatchBuilder::default();
    builder.append(1, Some(b"key"), Some(b"value"), &[("name", Some(b"header"))]);
    let batch = builder.build();
    let range = batch.as_ptr_range();
    let record = records(&batch).unwrap().next().unwrap().unwrap();
    let (name, header) = record.headers[0].clone();
    for part in [record.key.unwrap(), record.value.unwrap(), name, header.unwrap()] {
        assert!(range.contains(&part.as_ptr()));
    }
}

#[test]
fn log_append_time_is_the_time_of_every_record() {
    let given = random_given(&mut SmallRng::seed_from_u64(seed()));
    for codec in Compression::ALL {
        let mut batch = build(&given, codec).to_vec();
        patch_log_append_time(&mut batch, 77);
        validate(&batch).unwrap();
        assert!(visit_all(&batch, 1 << 26).unwrap().iter().all(|record| record.timestamp == 77));
        assert!(read_back(&batch.into(), 1 << 26).unwrap().iter().all(|record| record.timestamp == 77));
    }
}

#[test]
fn batches_of_another_implementation_are_read() {
    use kafka_protocol::records as theirs;
    let given: Vec<theirs::Record> = (0..50)
        .map(|index| theirs::Record {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: 0,
            producer_id: -1,
            producer_epoch: -1,
            timestamp_type: theirs::TimestampType::Creation,
            offset: index,
            sequence: -1 + index as i32,
            timestamp: 1_700_000_000_000 + index * index,
            key: Some(Bytes::from(format!("k{index}"))),
            value: (index % 7 != 0).then(|| Bytes::from(format!("value {index}"))),
            headers: Default::default(),
        })
        .collect();
    let mut encoded = bytes::BytesMut::new();
    let options = theirs::RecordEncodeOptions { version: 2, compression: theirs::Compression::None };
    theirs::RecordBatchEncoder::encode(&mut encoded, &given, &options).unwrap();
    let batch = encoded.freeze();
    validate(&batch).unwrap();
    let found: Vec<_> = records(&batch).unwrap().map(Result::unwrap).collect();
    assert_eq!(found.len(), given.len());
    for (found, given) in found.iter().zip(&given) {
        assert_eq!((found.offset, found.timestamp), (given.offset, given.timestamp));
        assert_eq!((&found.key, &found.value), (&given.key, &given.value));
    }
    let ours = build(&random_given(&mut SmallRng::seed_from_u64(seed())), Compression::None);
    let read = theirs::RecordBatchDecoder::decode(&mut ours.clone()).unwrap();
    let expected: Vec<_> = records(&ours).unwrap().map(|record| record.unwrap().value).collect();
    assert_eq!(read.records.into_iter().map(|record| record.value).collect::<Vec<_>>(), expected);
}

/// The uncompressed records of a batch of 5,000 records, compressible and longer than an lz4 window.
fn plain_payload() -> (Vec<u8>, Vec<Given>) {
    let given: Vec<_> = (0..5_000)
        .map(|index| Given {
            timestamp: index,
            key: Some(format!("key {}", index % 100).into_bytes()),
            value: Some(format!("a value that repeats itself, number {}", index * index).into_bytes()),
            headers: vec![],
        })
        .collect();
    (build(&given, Compression::None)[HEADER_BYTES..].to_vec(), given)
}

#[test]
fn framings_of_other_producers_are_read() {
    let (plain, given) = plain_payload();
    let (start, end) = plain.split_at(plain.len() / 2);
    let lz4 = |parts: &[&[u8]], mode, checksums: bool| {
        let mut out = Vec::new();
        for part in parts {
            let info = lz4_flex::frame::FrameInfo::new()
                .block_size(lz4_flex::frame::BlockSize::Max64KB)
                .block_mode(mode)
                .content_size(checksums.then_some(part.len() as u64))
                .block_checksums(checksums)
                .content_checksum(checksums);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, &mut out);
            encoder.write_all(part).unwrap();
            encoder.finish().unwrap();
        }
        out
    };
    let zstd = |parts: &[&[u8]], has_size: bool| {
        let mut out = Vec::new();
        for part in parts {
            let mut encoder = zstd::stream::write::Encoder::new(&mut out, 3).unwrap();
            if has_size {
                encoder.set_pledged_src_size(Some(part.len() as u64)).unwrap();
            }
            encoder.write_all(part).unwrap();
            encoder.finish().unwrap();
        }
        out
    };
    let gzip = |parts: &[&[u8]]| {
        let mut out = Vec::new();
        for part in parts {
            let mut encoder = flate2::write::GzEncoder::new(&mut out, flate2::Compression::fast());
            encoder.write_all(part).unwrap();
            encoder.finish().unwrap();
        }
        out
    };
    use lz4_flex::frame::BlockMode::{Independent, Linked};
    let cases = [
        ("raw snappy", Compression::Snappy, snap::raw::Encoder::new().compress_vec(&plain).unwrap()),
        ("lz4 linked", Compression::Lz4, lz4(&[&plain], Linked, false)),
        ("lz4 linked, sums", Compression::Lz4, lz4(&[&plain], Linked, true)),
        ("lz4 sums", Compression::Lz4, lz4(&[&plain], Independent, true)),
        ("lz4 two frames", Compression::Lz4, lz4(&[start, end], Independent, true)),
        ("lz4 two frames linked", Compression::Lz4, lz4(&[start, end], Linked, false)),
        ("zstd streamed", Compression::Zstd, zstd(&[&plain], false)),
        ("zstd two frames", Compression::Zstd, zstd(&[start, end], true)),
        ("gzip two members", Compression::Gzip, gzip(&[start, end])),
    ];
    for (case, codec, payload) in cases {
        let batch = batch_around(&payload, codec, given.len() as i32);
        assert!(read_back(&batch, plain.len()).unwrap() == given, "{case}: at the limit");
        assert!(visit_all(&batch, plain.len()).unwrap() == given, "{case}");
        let limit = plain.len() - 1;
        assert_eq!(read_back(&batch, limit), Err(BatchError::TooLarge { limit }), "{case}: above the limit");
        for cut in 1..40 {
            let cut = batch_around(&payload[..payload.len() - cut], codec, given.len() as i32);
            let _ = visit_all(&cut, LIMIT);
            assert_eq!(read_back(&cut, LIMIT).is_ok(), visit_all(&cut, LIMIT).is_ok(), "{case}");
        }
    }
}

#[test]
fn a_decompression_bomb_stops_at_the_limit() {
    let bomb = vec![0u8; 64 << 20];
    for codec in Compression::ALL {
        let mut payload = Vec::new();
        crate::compression::compress(codec, &bomb, &mut payload);
        let batch = batch_around(&payload, codec, 1);
        for limit in [0, 1, 1_000, LIMIT] {
            assert_eq!(records_with_limit(&batch, limit).err(), Some(BatchError::TooLarge { limit }), "{codec:?}");
        }
    }
}

#[test]
fn a_snappy_block_that_claims_more_than_it_can_hold_is_refused_before_room_is_made() {
    let mut claim = Vec::new();
    varint::write_u32(&mut claim, LIMIT as u32);
    claim.extend([0x00, b'x']);
    let error = records_with_limit(&batch_around(&claim, Compression::Snappy, 1), LIMIT).err();
    let reason = "a block cannot hold what it claims".to_owned();
    assert_eq!(error, Some(BatchError::Decompress { codec: Compression::Snappy, reason }));
    // Long runs come nearest to the bound.
    for plain in [vec![7; 1 << 16], b"ab".repeat(1 << 15)] {
        let mut payload = Vec::new();
        crate::compression::compress(Compression::Snappy, &plain, &mut payload);
        assert_eq!(decompress(Compression::Snappy, &payload, 1 << 16), Ok(plain));
    }
}

#[test]
fn malformed_records_are_errors_with_their_index() {
    let varint = |value: i32| {
        let mut out = Vec::new();
        varint::write_i32(&mut out, value);
        out
    };
    let good: Vec<u8> = vec![12, 0, 0, 0, 1, 1, 0];
    let cases: [(&str, Vec<u8>, i32, &str); 12] = [
        ("empty", vec![], 0, "length"),
        ("negative", varint(-5), 0, "negative length"),
        ("too long", varint(i32::MAX), 0, "longer than the batch"),
        ("no attributes", vec![0], 0, "attributes"),
        ("no timestamp", vec![2, 0], 0, "timestamp delta"),
        ("no offset", vec![4, 0, 0], 0, "offset delta"),
        ("key beyond", [vec![16, 0, 0, 0], varint(i32::MAX)].concat(), 0, "key"),
        ("negative key", vec![8, 0, 0, 0, 3], 0, "key"),
        ("value beyond", vec![12, 0, 0, 0, 1, 20, 0], 0, "value"),
        ("header count", vec![10, 0, 0, 0, 1, 1], 0, "header count"),
        ("header", vec![12, 0, 0, 0, 1, 1, 2], 0, "header"),
        ("trailing", vec![14, 0, 0, 0, 1, 1, 0, 9], 0, "bytes after the headers"),
    ];
    for (case, payload, index, reason) in cases {
        let found = records(&batch_around(&payload, Compression::None, 1)).unwrap().next();
        assert_eq!(found, Some(Err(BatchError::BadRecord { index, reason })), "{case}");
        let second = batch_around(&[good.clone(), payload.clone()].concat(), Compression::None, 2);
        let items: Vec<_> = records(&second).unwrap().collect();
        assert_eq!(items.len(), 2, "{case}");
        assert_eq!(items[1], Err(BatchError::BadRecord { index: 1, reason }), "{case}");
    }
    let trailing = batch_around(&[good.clone(), good].concat(), Compression::None, 1);
    let last = records(&trailing).unwrap().last();
    assert_eq!(last, Some(Err(BatchError::BadRecord { index: 1, reason: "bytes after the last record" })));
}

#[test]
fn random_damage_is_never_a_panic() {
    let mut rng = SmallRng::seed_from_u64(seed());
    for _ in 0..40 {
        let given = random_given(&mut rng);
        for codec in Compression::ALL {
            let good = build(&given, codec);
            for _ in 0..12 {
                let mut bytes = good.to_vec();
                for _ in 0..rng.random_range(1..6) {
                    let at = rng.random_range(0..bytes.len());
                    bytes[at] = rng.random();
                }
                if rng.random_bool(0.3) {
                    bytes.truncate(rng.random_range(0..bytes.len()));
                }
                let _ = validate(&bytes);
                let found = visit_all(&bytes, LIMIT);
                let bytes = Bytes::from(bytes);
                if let Ok(reader) = records_with_limit(&bytes, LIMIT) {
                    let owned: Result<Vec<_>, _> = reader.collect();
                    assert_eq!(owned.is_ok(), found.is_ok());
                }
                crate::batch::split(&bytes).for_each(drop);
            }
            let noise = random_bytes(&mut rng, 500);
            let _ = visit_all(&batch_around(&noise, codec, rng.random()), LIMIT);
        }
    }
}

#[test]
fn decompressed_bytes_never_take_more_room_than_the_limit() {
    let mut rng = SmallRng::seed_from_u64(seed());
    for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        for _ in 0..200 {
            let plain = random_bytes(&mut rng, 200_000);
            let mut payload = Vec::new();
            crate::compression::compress(codec, &plain, &mut payload);
            let limit = rng.random_range(0..250_000);
            for _ in 0..rng.random_range(0..3) {
                let at = rng.random_range(0..payload.len().max(1));
                payload.get_mut(at).map(|byte| *byte = rng.random());
            }
            if let Ok(out) = decompress(codec, &payload, limit) {
                assert!(out.capacity() <= limit, "{codec:?}: {} > {limit}", out.capacity());
            }
        }
    }
}

fn kept_of(given: &[Given], keep: impl Fn(usize) -> bool) -> Vec<(i64, Given)> {
    given.iter().enumerate().filter(|(i, _)| keep(*i)).map(|(i, given)| (i as i64, given.clone())).collect()
}

fn read_sparse(batch: &Bytes) -> Vec<(i64, Given)> {
    let given = |record: Record| Given {
        timestamp: record.timestamp,
        key: record.key.map(Vec::from),
        value: record.value.map(Vec::from),
        headers: record
            .headers
            .iter()
            .map(|(name, value)| (String::from_utf8(name.to_vec()).unwrap(), value.as_deref().map(Vec::from)))
            .collect(),
    };
    records(batch).unwrap().map(|record| record.unwrap()).map(|record| (record.offset, given(record))).collect()
}

#[test]
fn what_is_retained_of_a_batch_is_as_it_was_through_every_codec() {
    let mut rng = SmallRng::seed_from_u64(seed());
    for round in 0..60 {
        for codec in Compression::ALL {
            let given = random_given(&mut rng);
            let batch = build(&given, codec);
            let kept: Vec<bool> = given.iter().map(|_| rng.random_bool(0.5)).collect();
            let horizon = (round % 2 == 0).then_some(77_000);
            let mut asked = 0;
            let retained = retain(&batch, 256 << 20, horizon, |record| {
                asked += 1;
                kept[record.offset as usize]
            });
            assert_eq!(asked, given.len());
            let expected = kept_of(&given, |i| kept[i]);
            let has_tombstone = expected.iter().any(|(_, given)| given.key.is_some() && given.value.is_none());
            match retained.unwrap() {
                Retained::Nothing => assert!(expected.is_empty()),
                Retained::Unchanged => {
                    assert_eq!(expected.len(), given.len());
                    assert!(horizon.is_none() || !has_tombstone);
                }
                Retained::Changed(changed) => {
                    assert!(crate::batch::verify_crc(&changed));
                    assert_eq!(read_sparse(&changed), expected);
                    let (was, is) = (BatchHeader::parse(&batch).unwrap(), BatchHeader::parse(&changed).unwrap());
                    assert_eq!(is.compression(), Ok(codec));
                    assert_eq!((is.base_offset, is.next_offset()), (was.base_offset, was.next_offset()));
                    assert_eq!(is.delete_horizon_ms(), horizon.filter(|_| has_tombstone));
                    assert_eq!(is.max_timestamp, expected.iter().map(|(_, given)| given.timestamp).max().unwrap());
                }
            }
        }
    }
}

#[test]
fn retaining_keeps_producers_and_append_time_and_an_empty_batch_covers_its_offsets() {
    let mut builder = RecordBatchBuilder::new(Compression::Lz4).producer(9, 2, 40);
    for i in 0..5 {
        builder.append(10 + i, Some(&[i as u8]), None, &[]);
    }
    let mut batch = builder.build().to_vec();
    patch_log_append_time(&mut batch, 5_000);
    let Ok(Retained::Changed(changed)) = retain(&batch, LIMIT, Some(9_000), |record| record.offset == 3) else {
        panic!("four of five records go");
    };
    let header = BatchHeader::parse(&changed).unwrap();
    assert_eq!(
        (header.producer_id, header.producer_epoch, header.base_sequence, header.last_sequence()),
        (9, 2, 40, 44)
    );
    assert_eq!((header.record_count, header.max_timestamp, header.delete_horizon_ms()), (1, 5_000, Some(9_000)));
    let found: Vec<_> = records(&changed).unwrap().map(|record| record.unwrap()).collect();
    assert_eq!((found.len(), found[0].offset, found[0].timestamp), (1, 3, 5_000));
    assert_eq!(retain(&batch, LIMIT, None, |_| false), Ok(Retained::Nothing));

    let empty = empty_batch(7, 90, Some(&header));
    assert!(crate::batch::verify_crc(&empty));
    assert_eq!(records(&empty).unwrap().count(), 0);
    let header = BatchHeader::parse(&empty).unwrap();
    assert_eq!((header.base_offset, header.next_offset(), header.producer_id), (7, 98, 9));
    assert_eq!((header.compression(), header.delete_horizon_ms()), (Ok(Compression::None), None));
}

#[test]
fn a_batch_whose_records_lie_outside_its_offsets_is_not_taken_apart() {
    // Two records that both claim the second place.
    let payload = [&[12, 0, 0, 2, 1, 1, 0][..], &[12, 0, 0, 2, 1, 1, 0]].concat();
    let batch = batch_around(&payload, Compression::None, 2);
    assert!(matches!(retain(&batch, LIMIT, None, |_| true), Err(BatchError::BadRecord { index: 1, reason: "offset" })));
}
