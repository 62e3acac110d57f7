//! The embedded log as the engine's log: a cut is a CSN, a commit is one entry.
//!
//! Words: the *output cuts* are an internal topic of one partition with a fixed id; the newest record of a key (the output's
//! name) says where the output stands: `{"cut":N}`, or `{"cut":N,"to":M,"records":K}` with K records of the way to M. It is written in the entry that it belongs to, and read once, at the start.
//!
//! Always true here: what is read was durable; its checksums were verified; an output's cut moves only together with what it
//! stands for.

mod input;
mod output;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use mainstem_broker::Broker;
use mainstem_engine::Cut;
use mainstem_engine::input_log::{Ahead, LogError};
use mainstem_log::{CompactionConfig, Log, PartitionConfig, ReadError, TopicId, TopicPartition};
use parking_lot::Mutex;
use uuid::Uuid;

/// The internal topic of output cuts: fixed, and no topic of the catalog, since no client has business with it.
pub const OUTPUT_CUTS_TOPIC_ID: Uuid = Uuid::from_u128(0x6d61_696e_7374_656d_0000_0000_0000_0002);

const OUTPUT_CUTS: TopicPartition = TopicPartition { topic: TopicId(OUTPUT_CUTS_TOPIC_ID), partition: 0 };

/// Only sealed segments are compacted, and a start reads all that is left.
const OUTPUT_CUTS_SEGMENT_BYTES: u64 = 16 << 20;

/// Where an output stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Standing {
    cut: Cut,
    ahead: Option<Ahead>,
}

/// How many partitions a live topic has; 0 when there is no such topic.
pub type PartitionCount = Arc<dyn Fn(Uuid) -> i32 + Send + Sync>;

/// See the module's text. Implements [`mainstem_engine::InputLog`] and [`mainstem_engine::OutputLog`].
pub struct EmbeddedLog {
    log: Log,
    partitions: PartitionCount,
    /// Where outputs stand, counting commits that have their place and are not yet durable.
    committed: Mutex<HashMap<String, Standing>>,
}

impl fmt::Debug for EmbeddedLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedLog").field("visible", &self.log.visible()).finish_non_exhaustive()
    }
}

impl EmbeddedLog {
    /// Over the log and the definitions of a broker.
    pub fn of_broker(broker: &Broker) -> Result<EmbeddedLog, LogError> {
        let catalogs = broker.catalog_changes();
        let partitions = move |topic| catalogs.borrow().topic(topic).map_or(0, |topic| topic.partitions);
        EmbeddedLog::open(broker.log().clone(), Arc::new(partitions))
    }

    /// Over a log whose topics somebody else defines. Reads where the outputs stand.
    pub fn open(log: Log, partitions: PartitionCount) -> Result<EmbeddedLog, LogError> {
        // A record per commit of each output: the last one of each is enough. Their timestamps say nothing.
        let compaction = CompactionConfig { segment_ms: None, ..CompactionConfig::default() };
        let segment_bytes = OUTPUT_CUTS_SEGMENT_BYTES;
        let config = PartitionConfig { segment_bytes, compaction: Some(compaction), ..PartitionConfig::default() };
        log.create_partition(OUTPUT_CUTS, config);
        let committed = output::read_committed(&log)?;
        Ok(EmbeddedLog { log, partitions, committed: Mutex::new(committed) })
    }
}

fn log_error(error: ReadError, partition: TopicPartition) -> LogError {
    let (topic, number) = (partition.topic.0, partition.partition);
    match error {
        ReadError::UnknownPartition(_) => LogError::UnknownPartition { topic, partition: number },
        ReadError::OutOfRange { offset, start, .. } if offset < start => {
            LogError::Trimmed { topic, partition: number, offset, start }
        }
        ReadError::Damaged { offset, place, .. } => LogError::Damaged { topic, partition: number, offset, place },
        other => LogError::Failed(other.to_string()),
    }
}

fn text_of(bytes: &Bytes) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}
