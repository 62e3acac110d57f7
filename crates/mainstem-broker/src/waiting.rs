//! Fetches that wait for records, woken by the log when a partition they ask for has grown.

use std::sync::Arc;

use ahash::AHashMap;
use mainstem_log::TopicPartition;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Who waits for which partition.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    by_partition: Mutex<AHashMap<TopicPartition, Vec<Arc<Notify>>>>,
}

impl Waiting {
    /// Waits for these until the answer is dropped. What grows after this call is noticed, so the caller looks once
    /// more before it waits.
    pub(crate) fn register(self: &Arc<Self>, partitions: Vec<TopicPartition>) -> Registered {
        let notify = Arc::new(Notify::new());
        let mut by_partition = self.by_partition.lock();
        for partition in &partitions {
            by_partition.entry(*partition).or_default().push(Arc::clone(&notify));
        }
        drop(by_partition);
        Registered { waiting: Arc::clone(self), partitions, notify }
    }

    /// These partitions have grown. Runs on the log's commit thread.
    pub(crate) fn wake(&self, grown: &[(TopicPartition, i64)]) {
        let by_partition = self.by_partition.lock();
        if by_partition.is_empty() {
            return;
        }
        for (partition, _) in grown {
            for waiter in by_partition.get(partition).into_iter().flatten() {
                waiter.notify_one();
            }
        }
    }
}

/// One fetch that waits.
#[derive(Debug)]
pub(crate) struct Registered {
    waiting: Arc<Waiting>,
    partitions: Vec<TopicPartition>,
    notify: Arc<Notify>,
}

impl Registered {
    /// Returns when one of the partitions has grown since the last call. Cancel-safe.
    pub(crate) async fn grown(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut by_partition = self.waiting.by_partition.lock();
        for partition in &self.partitions {
            let Some(waiters) = by_partition.get_mut(partition) else { continue };
            waiters.retain(|waiter| !Arc::ptr_eq(waiter, &self.notify));
            if waiters.is_empty() {
                by_partition.remove(partition);
            }
        }
    }
}
