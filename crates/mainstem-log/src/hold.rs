//! Holds: what keeps retention away from offsets that a reader still needs.
//!
//! Always true here: while a [`Hold`] lives, no record at or above its offset is removed from its partition.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::TopicPartition;

/// All holds of a log.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    offsets: BTreeMap<(TopicPartition, u64), i64>,
    next_id: u64,
}

/// Keeps a partition's records from an offset on. Let go by dropping it.
pub struct Hold {
    holds: Arc<Holds>,
    partition: TopicPartition,
    id: u64,
}

impl Holds {
    pub(crate) fn hold(holds: &Arc<Self>, partition: TopicPartition, from_offset: i64) -> Hold {
        let mut held = holds.held.lock();
        let id = held.next_id;
        held.next_id += 1;
        held.offsets.insert((partition, id), from_offset);
        Hold { holds: Arc::clone(holds), partition, id }
    }

    /// Has `remove` told below which offset it may remove; `i64::MAX` when nothing is held. No hold begins meanwhile: whoever
    /// holds first and then looks for the start finds what is left.
    pub(crate) fn below_limit<T>(&self, partition: TopicPartition, remove: impl FnOnce(i64) -> T) -> T {
        let held = self.held.lock();
        let of_partition = held.offsets.range((partition, 0)..=(partition, u64::MAX));
        remove(of_partition.map(|(_, offset)| *offset).min().unwrap_or(i64::MAX))
    }
}

impl Hold {
    /// Lets go of the records below `offset`. Never moves back.
    pub fn advance(&self, offset: i64) {
        if let Some(held) = self.holds.held.lock().offsets.get_mut(&(self.partition, self.id)) {
            *held = offset.max(*held);
        }
    }

    /// The first offset that is kept.
    pub fn offset(&self) -> i64 {
        self.holds.held.lock().offsets.get(&(self.partition, self.id)).copied().unwrap_or(i64::MAX)
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hold({} from {})", self.partition, self.offset())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.holds.held.lock().offsets.remove(&(self.partition, self.id));
    }
}
