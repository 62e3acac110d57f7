//! The memory of fetched records: who reads slowly, or not at all, must not fill it.
//!
//! Always true here: what is counted is what is alive, until the last reference to it is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// An answer may take this part of what is free.
const PART: usize = 8;
/// Less is not worth an answer.
const ANSWER_BYTES_MIN: usize = 64 << 10;

/// Fetched records that are in memory, in bytes.
#[derive(Debug, Default)]
pub(crate) struct Fetched {
    bytes: AtomicUsize,
}

/// Records that are counted as long as they live.
struct Counted {
    records: Bytes,
    by: Arc<Fetched>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.records
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.by.bytes.fetch_sub(self.records.len(), Ordering::Relaxed);
    }
}

impl Fetched {
    /// How many bytes the next answer may hold; none when there is no room.
    pub(crate) fn room(&self, bytes_max: usize) -> Option<usize> {
        let free = bytes_max.checked_sub(self.bytes.load(Ordering::Relaxed)).filter(|free| *free > 0)?;
        Some((free / PART).max(ANSWER_BYTES_MIN))
    }

    /// The same records, counted.
    pub(crate) fn count(self: &Arc<Self>, records: Bytes) -> Bytes {
        self.bytes.fetch_add(records.len(), Ordering::Relaxed);
        Bytes::from_owner(Counted { records, by: Arc::clone(self) })
    }

    /// Bytes that are alive.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_counted_until_the_last_reference_is_gone() {
        let fetched = Arc::new(Fetched::default());
        let limit = 8 << 20;
        assert_eq!(fetched.room(limit), Some(1 << 20));
        let one = fetched.count(Bytes::from(vec![0; 8 << 20]));
        let part = one.slice(..10);
        drop(one);
        assert_eq!((fetched.bytes(), fetched.room(limit)), (8 << 20, None));
        drop(part);
        assert_eq!((fetched.bytes(), fetched.room(limit)), (0, Some(1 << 20)));
        let _most = fetched.count(Bytes::from(vec![0; (8 << 20) - 1]));
        assert_eq!(fetched.room(limit), Some(64 << 10), "a little room is enough for a small answer");
    }
}
