use super::*;
use crate::records::RecordBatchBuilder;

fn batch_of(values: &[&str]) -> Vec<u8> {
    let mut builder = RecordBatchBuilder::new(Compression::None).producer(7, 3, i32::MAX - 1);
    for (index, value) in values.iter().enumerate() {
        builder.append(1_000 + index as i64, None, Some(value.as_bytes()), &[]);
    }
    builder.build().to_vec()
}

#[test]
fn a_header_comes_back_as_it_was_written() {
    let bytes = batch_of(&["a", "b", "c"]);
    let header = validate(&bytes).unwrap();
    assert_eq!(header.to_bytes().as_slice(), &bytes[..HEADER_BYTES]);
    assert_eq!(header.total_bytes(), bytes.len());
    assert_eq!((header.base_offset, header.last_offset(), header.next_offset()), (0, 2, 3));
    assert_eq!((header.producer_id, header.producer_epoch, header.record_count), (7, 3, 3));
    assert_eq!((header.base_timestamp, header.max_timestamp), (1_000, 1_002));
    assert!(!header.is_transactional() && !header.is_control() && !header.is_log_append_time());
}

#[test]
fn sequences_wrap_to_zero_after_the_largest_number() {
    for (base, delta, last) in [
        (0, 0, 0),
        (5, 2, 7),
        (i32::MAX, 0, i32::MAX),
        (i32::MAX, 1, 0),
        (i32::MAX - 1, 4, 2),
        (i32::MAX, i32::MAX, i32::MAX - 1),
        (-1, 4, -1),
    ] {
        let mut header = BatchHeader::parse(&batch_of(&["a"])).unwrap();
        header.base_sequence = base;
        header.last_offset_delta = delta;
        assert_eq!(header.last_sequence(), last, "{base} + {delta}");
    }
}

#[test]
fn what_is_wrong_with_a_batch_is_named() {
    let good = batch_of(&["a", "b"]);
    let changed = |at: usize, bytes: &[u8], with_crc: bool| {
        let mut batch = good.clone();
        batch[at..at + bytes.len()].copy_from_slice(bytes);
        if with_crc {
            patch_crc(&mut batch);
        }
        validate(&batch).unwrap_err()
    };
    assert_eq!(validate(&[]), Err(BatchError::Truncated { needed: HEADER_BYTES, have: 0 }));
    assert_eq!(validate(&good[..60]), Err(BatchError::Truncated { needed: HEADER_BYTES, have: 60 }));
    let cut = &good[..good.len() - 1];
    assert_eq!(validate(cut), Err(BatchError::Truncated { needed: good.len(), have: good.len() - 1 }));
    let longer = [good.as_slice(), &[0, 0]].concat();
    assert_eq!(validate(&longer), Err(BatchError::TrailingBytes { extra: 2 }));
    assert_eq!(changed(MAGIC_AT, &[1], true), BatchError::UnknownMagic(1));
    let mut old_and_short = [0; 20];
    old_and_short[MAGIC_AT] = 1;
    assert_eq!(validate(&old_and_short), Err(BatchError::UnknownMagic(1)));
    assert_eq!(changed(BATCH_LENGTH_AT, &48i32.to_be_bytes(), true), BatchError::BadLength(48));
    assert_eq!(changed(BATCH_LENGTH_AT, &i32::MIN.to_be_bytes(), true), BatchError::BadLength(i32::MIN));
    assert!(matches!(changed(HEADER_BYTES, &[9], false), BatchError::CrcMismatch { .. }));
    assert!(matches!(changed(CRC_AT, &[9], false), BatchError::CrcMismatch { .. }));
    for codec in 5..8 {
        assert_eq!(changed(ATTRIBUTES_AT, &[0, codec], true), BatchError::UnknownCodec(codec));
    }
    for (count, delta) in [(3, 1), (2, 2), (0, -1), (-1, -2), (i32::MIN, i32::MAX)] {
        let mut batch = good.clone();
        put(&mut batch, LAST_OFFSET_DELTA_AT, i32::to_be_bytes(delta));
        put(&mut batch, RECORD_COUNT_AT, i32::to_be_bytes(count));
        patch_crc(&mut batch);
        assert_eq!(validate(&batch), Err(BatchError::RecordCount { count, last_offset_delta: delta }));
    }
}

#[test]
fn every_flipped_bit_under_the_crc_is_seen() {
    let good = batch_of(&["abc"]);
    assert!(verify_crc(&good));
    for at in CRC_AT..good.len() {
        for bit in 0..8 {
            let mut batch = good.clone();
            batch[at] ^= 1 << bit;
            assert!(!verify_crc(&batch), "byte {at} bit {bit}");
            assert!(validate(&batch).is_err(), "byte {at} bit {bit}");
        }
    }
}

#[test]
fn patches_keep_or_renew_the_crc() {
    let mut batch = batch_of(&["a", "b"]);
    let before = validate(&batch).unwrap();
    patch_base_offset(&mut batch, 1 << 40);
    patch_leader_epoch(&mut batch, 17);
    let placed = validate(&batch).unwrap();
    assert_eq!(placed, BatchHeader { base_offset: 1 << 40, leader_epoch: 17, ..before });
    assert_eq!(placed.next_offset(), (1 << 40) + 2);
    patch_log_append_time(&mut batch, 5_000);
    let stamped = validate(&batch).unwrap();
    assert!(stamped.is_log_append_time());
    assert_ne!(stamped.crc, before.crc);
    assert_eq!((stamped.base_timestamp, stamped.max_timestamp), (1_000, 5_000));
}

#[test]
fn batches_are_split_until_the_first_that_is_not_whole() {
    let (first, second) = (batch_of(&["a"]), batch_of(&["b", "c"]));
    let both = Bytes::from([first.as_slice(), &second].concat());
    let found: Vec<_> = split(&both).map(|item| item.unwrap().1).collect();
    assert_eq!(found, [first.clone(), second.clone()]);
    assert_eq!(found[1].as_ptr(), both[first.len()..].as_ptr(), "nothing is copied");
    for cut in 1..second.len() {
        let items: Vec<_> = split(&both.slice(..both.len() - cut)).collect();
        assert_eq!(items.len(), 2, "{cut}");
        assert!(items[0].is_ok() && matches!(items[1], Err(BatchError::Truncated { .. })), "{cut}");
    }
    assert_eq!(split(&Bytes::new()).count(), 0);
}
