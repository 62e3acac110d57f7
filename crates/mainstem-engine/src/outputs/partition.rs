//! Which partition a key belongs to, as Kafka's own producers choose it, so that all who write a topic agree.

/// `DefaultPartitioner` of Kafka's Java client for records with a key.
///
/// # Panics
/// If there are no partitions.
#[must_use]
pub fn partition_of(key: &[u8], partitions: i32) -> i32 {
    i32::try_from(murmur2(key) & 0x7fff_ffff).expect("31 bits") % partitions
}

/// MurmurHash2 as in `org.apache.kafka.common.utils.Utils`.
fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k = (k ^ k >> 24).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    if !rest.is_empty() {
        for (place, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * place);
        }
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ hash >> 13).wrapping_mul(M);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use super::{murmur2, partition_of};

    /// From `UtilsTest.testMurmur2` of Kafka.
    #[test]
    fn keys_hash_as_in_kafka() {
        let cases: [(&str, i32); 7] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
            ("", 275_646_681),
        ];
        for (key, hash) in cases {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
        assert_eq!(partition_of(b"21", 7), (-973_932_308_i32 & 0x7fff_ffff) % 7);
    }
}
