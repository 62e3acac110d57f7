//! What the tests of this crate share: seeds and random bytes.

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;
use rand::Rng;
use rand::rngs::SmallRng;
use uuid::Uuid;

/// The seed of a randomised test: `MAINSTEM_SEED` if set, else a new one; printed, so that a failure can be repeated.
pub(crate) fn seed() -> u64 {
    let seed = match std::env::var("MAINSTEM_SEED") {
        Ok(text) => text.parse().expect("MAINSTEM_SEED is a number"),
        Err(_) => std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0),
    };
    println!("MAINSTEM_SEED={seed}");
    seed
}

/// Up to `bytes_max` bytes: half of the time noise, else compressible.
pub(crate) fn random_bytes(rng: &mut SmallRng, bytes_max: usize) -> Vec<u8> {
    let count = rng.random_range(0..=bytes_max);
    if rng.random_bool(0.5) {
        (0..count).map(|_| rng.random()).collect()
    } else {
        b"mainstem ".iter().copied().cycle().take(count).collect()
    }
}

/// A short string, sometimes empty, sometimes with characters of several bytes.
pub(crate) fn random_text(rng: &mut SmallRng) -> StrBytes {
    let count = rng.random_range(0..12);
    StrBytes::from_string((0..count).map(|_| ['a', 'z', '.', '-', 'ß', '語'][rng.random_range(0..6)]).collect())
}

pub(crate) fn random_uuid(rng: &mut SmallRng) -> Uuid {
    Uuid::from_u128(rng.random())
}

/// Between 0 and `count_max` values.
pub(crate) fn random_vec<T>(rng: &mut SmallRng, count_max: usize, mut value: impl FnMut(&mut SmallRng) -> T) -> Vec<T> {
    (0..rng.random_range(0..=count_max)).map(|_| value(rng)).collect()
}

/// `None`, or a value.
pub(crate) fn random_option<T>(rng: &mut SmallRng, value: impl FnOnce(&mut SmallRng) -> T) -> Option<T> {
    if rng.random_bool(0.3) { None } else { Some(value(rng)) }
}

/// Copies of a message with random bytes overwritten, inserted or cut off.
pub(crate) fn damaged(rng: &mut SmallRng, message: &[u8]) -> Bytes {
    let mut bytes = message.to_vec();
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..=bytes.len());
        match rng.random_range(0..3) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, rng.random()),
            _ => {
                let value = [0xff, 0x7f, rng.random()][rng.random_range(0..3)];
                let end = bytes.len().min(at + rng.random_range(1..6));
                bytes[at..end].fill(value);
            }
        }
    }
    bytes.into()
}
