//! Entries that are too large for one block: how they are cut.

use std::sync::Arc;

use mainstem_kafka_wire::batch::split;

use crate::sequence::QueuedPart;

/// The parts of an entry cut at batches, grouped so that each group has about `bytes_max` bytes, more only if one batch has.
pub(super) fn pieces_of(parts: &[QueuedPart], bytes_max: usize) -> Vec<Vec<QueuedPart>> {
    let mut groups: Vec<Vec<QueuedPart>> = Vec::new();
    let mut room = 0;
    for part in parts {
        let (mut begin, mut end) = (0, 0);
        let (mut base_offset, mut end_offset) = (part.base_offset, part.base_offset);
        for (header, bytes) in split(&part.batches).flatten() {
            if bytes.len() > room {
                push(&mut groups, part, begin..end, base_offset, end_offset);
                groups.push(Vec::new());
                (begin, base_offset) = (end, end_offset);
                room = bytes_max;
            }
            room = room.saturating_sub(bytes.len());
            end += bytes.len();
            end_offset += i64::from(header.last_offset_delta) + 1;
        }
        push(&mut groups, part, begin..end, base_offset, end_offset);
    }
    groups
}

fn push(
    groups: &mut [Vec<QueuedPart>],
    part: &QueuedPart,
    bytes: std::ops::Range<usize>,
    base_offset: i64,
    end_offset: i64,
) {
    if let (Some(group), false) = (groups.last_mut(), bytes.is_empty()) {
        let batches = part.batches.slice(bytes);
        group.push(QueuedPart { partition: Arc::clone(&part.partition), base_offset, end_offset, batches });
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use mainstem_kafka_wire::batch::Compression;
    use mainstem_kafka_wire::records::RecordBatchBuilder;

    use super::*;
    use crate::partition::Partition;
    use crate::{PartitionConfig, TopicId, TopicPartition};

    fn part(number: i32, base_offset: i64, batches: &[(usize, usize)]) -> QueuedPart {
        let mut all = Vec::new();
        let mut end_offset = base_offset;
        for (records, bytes) in batches {
            let mut builder = RecordBatchBuilder::new(Compression::None);
            for _ in 0..*records {
                builder.append(1, None, Some(&vec![1; *bytes]), &[]);
            }
            all.extend_from_slice(&builder.build());
            end_offset += i64::try_from(*records).unwrap();
        }
        let id = TopicPartition::new(TopicId(uuid::Uuid::from_u128(1)), number);
        let partition = Arc::new(Partition::new(id, PartitionConfig::default()));
        QueuedPart { partition, base_offset, end_offset, batches: Bytes::from(all) }
    }

    #[test]
    fn pieces_follow_one_another_and_are_all_there() {
        let parts =
            [part(0, 10, &[(2, 300), (3, 10), (1, 900), (5, 10)]), part(1, 0, &[(1, 50)]), part(2, 7, &[(9, 200)])];
        for bytes_max in [1, 100, 1_000, 2_000, 1 << 20] {
            let groups = pieces_of(&parts, bytes_max);
            assert!(groups.iter().all(|group| !group.is_empty()));
            for group in &groups {
                let bytes: usize = group.iter().map(|piece| piece.batches.len()).sum();
                let batches: usize = group.iter().map(|piece| split(&piece.batches).count()).sum();
                assert!(bytes <= bytes_max || batches == 1, "{bytes} of {bytes_max}");
            }
            for part in &parts {
                let pieces: Vec<_> =
                    groups.iter().flatten().filter(|piece| piece.partition.id == part.partition.id).collect();
                let mut next = part.base_offset;
                for piece in &pieces {
                    assert_eq!(piece.base_offset, next);
                    next = piece.end_offset;
                }
                assert_eq!(next, part.end_offset);
                let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.batches.to_vec()).collect();
                assert_eq!(bytes, part.batches);
            }
        }
    }
}
