//! The last offset of each key, in bounded memory.
//!
//! A key is known by 16 bytes of its SHA-256, which nobody can make collide: two keys taken for one would lose a record.

use sha2::{Digest, Sha256};

/// What a key is known by.
pub(super) type KeyHash = (u64, u64);

/// Not an offset: the slot is free.
const FREE: i64 = -1;
/// Fewer slots are not worth a pass.
const SLOTS_MIN: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Slot {
    hash: KeyHash,
    offset: i64,
}

/// A table of open addressing, of one size all its life.
#[derive(Debug)]
pub(super) struct KeyMap {
    slots: Vec<Slot>,
    keys: usize,
}

pub(super) fn hash_of(key: &[u8]) -> KeyHash {
    let digest = Sha256::digest(key);
    let half = |at: usize| digest.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
    (half(0), half(8))
}

impl KeyMap {
    /// For at most `keys_max` keys, in at most about `bytes_max` bytes.
    pub(super) fn new(keys_max: u64, bytes_max: usize) -> Self {
        let wanted = usize::try_from(keys_max.saturating_mul(4) / 3).unwrap_or(usize::MAX);
        let slots = wanted.min(bytes_max / size_of::<Slot>()).max(SLOTS_MIN);
        Self { slots: vec![Slot { hash: (0, 0), offset: FREE }; slots], keys: 0 }
    }

    /// Remembers that `offset` is the last one of the key; false when there is no room for another key.
    pub(super) fn put(&mut self, hash: KeyHash, offset: i64) -> bool {
        let is_full = self.keys >= self.slots.len() / 4 * 3;
        let at = self.find(hash);
        let Some(slot) = self.slots.get_mut(at) else { return false };
        if slot.offset == FREE {
            if is_full {
                return false;
            }
            self.keys += 1;
        }
        *slot = Slot { hash, offset };
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys == 0
    }

    /// The last offset of the key.
    pub(super) fn get(&self, hash: KeyHash) -> Option<i64> {
        self.slots.get(self.find(hash)).map(|slot| slot.offset).filter(|offset| *offset != FREE)
    }

    /// The slot of the key, or the free one where it belongs. A quarter of the slots is always free.
    fn find(&self, hash: KeyHash) -> usize {
        let slots = self.slots.len();
        let mut at = usize::try_from((u128::from(hash.0) * slots as u128) >> 64).unwrap_or(0);
        while let Some(slot) = self.slots.get(at) {
            if slot.offset == FREE || slot.hash == hash {
                break;
            }
            at = if at + 1 == slots { 0 } else { at + 1 };
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_offset_of_each_key_is_found_and_a_full_table_takes_no_new_key() {
        let mut map = KeyMap::new(1_000_000, 24 * 100);
        let taken = (0..100_i64).take_while(|i: &i64| map.put(hash_of(&i.to_le_bytes()), *i)).count() as i64;
        assert_eq!(taken, 75);
        for i in 0..taken {
            assert!(map.put(hash_of(&i.to_le_bytes()), 1_000 + i), "a known key always has room");
        }
        for i in 0..100_i64 {
            assert_eq!(map.get(hash_of(&i.to_le_bytes())), (i < taken).then_some(1_000 + i), "{i}");
        }
    }

    #[test]
    fn a_table_is_no_larger_than_its_keys_need() {
        assert_eq!(KeyMap::new(300, 1 << 30).slots.len(), 400);
        assert_eq!(KeyMap::new(0, 0).slots.len(), SLOTS_MIN);
    }
}
