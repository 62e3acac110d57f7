//! Settings of topics by Kafka's names: which are known, what they may be, and what they mean here.
//!
//! All of Kafka's names are accepted, so that tools that set them work. Those that have no meaning on one node (replication
//! throttles, flush intervals: every write is synced) are kept and shown, and do nothing. What would mean something that is
//! not there yet (recompression) is refused by name.

use std::collections::BTreeMap;

use mainstem_catalog::{OFFSETS_TOPIC, Topic, TopicOwner};
use mainstem_log::{CompactionConfig, PartitionConfig};

use crate::BrokerConfig;

/// What a value must be.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Boolean,
    /// Whole number of at least this.
    Integer(i64),
    /// Number from 0 to 1.
    Ratio,
    /// One of these.
    OneOf(&'static [&'static str]),
    /// A list of these.
    ListOf(&'static [&'static str]),
    /// Anything.
    Text,
}

#[derive(Debug)]
struct Known {
    name: &'static str,
    kind: Kind,
    default: &'static str,
    what: &'static str,
}

const fn known(name: &'static str, kind: Kind, default: &'static str, what: &'static str) -> Known {
    Known { name, kind, default, what }
}

const MAX: &str = "9223372036854775807";
const COMPRESSION_TYPES: &[&str] = &["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"];

/// In alphabetical order.
const KNOWN: &[Known] = &[
    known(
        "cleanup.policy",
        Kind::ListOf(&["delete", "compact"]),
        "delete",
        "What becomes of old segments: delete after retention, compact to the last record of each key, or both.",
    ),
    known("compression.type", Kind::OneOf(COMPRESSION_TYPES), "producer", "Batches stay as the producer made them."),
    known(
        "delete.retention.ms",
        Kind::Integer(0),
        "86400000",
        "How long a tombstone stays after it was first compacted, so that readers hear of it.",
    ),
    known("file.delete.delay.ms", Kind::Integer(0), "60000", "Without effect."),
    known("flush.messages", Kind::Integer(1), MAX, "Without effect: every write is synced."),
    known("flush.ms", Kind::Integer(0), MAX, "Without effect: every write is synced."),
    known("follower.replication.throttled.replicas", Kind::Text, "", "Without effect."),
    known("index.interval.bytes", Kind::Integer(0), "4096", "Without effect."),
    known("leader.replication.throttled.replicas", Kind::Text, "", "Without effect."),
    known("local.retention.bytes", Kind::Integer(-2), "-2", "Without effect."),
    known("local.retention.ms", Kind::Integer(-2), "-2", "Without effect."),
    known("max.compaction.lag.ms", Kind::Integer(1), MAX, "Age at which a record is compacted at the latest."),
    known("max.message.bytes", Kind::Integer(0), "1048588", "The largest batch that is accepted."),
    known("message.timestamp.after.max.ms", Kind::Integer(0), MAX, "Without effect."),
    known("message.timestamp.before.max.ms", Kind::Integer(0), MAX, "Without effect."),
    known(
        "message.timestamp.type",
        Kind::OneOf(&["CreateTime", "LogAppendTime"]),
        "CreateTime",
        "Whether records keep the producer's time or get that of the append.",
    ),
    known(
        "min.cleanable.dirty.ratio",
        Kind::Ratio,
        "0.5",
        "Share of a partition that has to be new before it is compacted again.",
    ),
    known("min.compaction.lag.ms", Kind::Integer(0), "0", "Age below which a record is not compacted."),
    known("min.insync.replicas", Kind::Integer(1), "1", "Without effect on one node."),
    known("preallocate", Kind::Boolean, "false", "Without effect."),
    known("remote.log.copy.disable", Kind::Boolean, "false", "Without effect."),
    known("remote.log.delete.on.disable", Kind::Boolean, "false", "Without effect."),
    known("remote.storage.enable", Kind::Boolean, "false", "Without effect."),
    known("retention.bytes", Kind::Integer(-1), "-1", "Size of a partition from which old segments go; -1 is never."),
    known("retention.ms", Kind::Integer(-1), "-1", "Age from which segments go; -1 is never."),
    known("segment.bytes", Kind::Integer(14), "1073741824", "Size at which a segment is sealed."),
    known("segment.index.bytes", Kind::Integer(4), "10485760", "Without effect."),
    known("segment.jitter.ms", Kind::Integer(0), "0", "Without effect."),
    known("segment.ms", Kind::Integer(1), "604800000", "Age at which a segment of a compacted topic is sealed."),
    known("unclean.leader.election.enable", Kind::Boolean, "false", "Without effect on one node."),
];

/// One setting as DescribeConfigs tells it.
#[derive(Clone, Debug)]
pub(crate) struct Described {
    pub(crate) name: &'static str,
    pub(crate) value: String,
    pub(crate) is_set: bool,
    /// Kafka's number for the type of the value.
    pub(crate) kind: i8,
    pub(crate) what: &'static str,
}

/// Checks names and values as CreateTopics and IncrementalAlterConfigs take them; `entry_bytes_max` is the log's limit. The
/// error is for people.
pub fn check_topic_configs(configs: &BTreeMap<String, String>, entry_bytes_max: usize) -> Result<(), String> {
    configs.iter().try_for_each(|(name, value)| check_config(name, value))?;
    if let Some(bytes) = configs.get("max.message.bytes").and_then(|value| value.parse::<usize>().ok())
        && bytes > entry_bytes_max
    {
        return Err(format!(
            "Invalid value {bytes} for configuration max.message.bytes: it must be at most {entry_bytes_max}, the size of \
             the largest entry of the log"
        ));
    }
    let lag = |name: &str| configs.get(name).and_then(|value| value.parse::<i64>().ok());
    match (lag("min.compaction.lag.ms"), lag("max.compaction.lag.ms")) {
        (Some(min), Some(max)) if min > max => {
            Err(format!("min.compaction.lag.ms is {min}, which is more than max.compaction.lag.ms, {max}"))
        }
        _ => Ok(()),
    }
}

fn check_config(name: &str, value: &str) -> Result<(), String> {
    let Some(known) = KNOWN.iter().find(|known| known.name == name) else {
        return Err(format!("Unknown topic config name: {name}"));
    };
    let bad = |must: &str| Err(format!("Invalid value {value} for configuration {name}: it must be {must}"));
    match known.kind {
        Kind::Boolean if !matches!(value, "true" | "false") => return bad("true or false"),
        Kind::Integer(min) => match value.parse::<i64>() {
            Ok(number) if number >= min => {}
            _ => return bad(&format!("a whole number of at least {min}")),
        },
        Kind::Ratio => match value.parse::<f64>() {
            Ok(number) if (0.0..=1.0).contains(&number) => {}
            _ => return bad("a number from 0 to 1"),
        },
        Kind::OneOf(values) if !values.contains(&value) => return bad(&format!("one of {}", values.join(", "))),
        Kind::ListOf(values) if !list(value).all(|item| values.contains(&item)) => {
            return bad(&format!("a list of {}", values.join(", ")));
        }
        Kind::Boolean | Kind::OneOf(_) | Kind::ListOf(_) | Kind::Text => {}
    }
    match name {
        "compression.type" if value != "producer" => {
            Err("compression.type: batches are stored as the producer compressed them, only producer is possible"
                .into())
        }
        _ => Ok(()),
    }
}

fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// Whether the setting is a list, which IncrementalAlterConfigs can append to.
pub(crate) fn is_list(name: &str) -> bool {
    KNOWN.iter().any(|known| known.name == name && matches!(known.kind, Kind::ListOf(_)))
}

/// All settings of a topic, set or not.
pub(crate) fn describe(topic: &Topic, config: &BrokerConfig) -> Vec<Described> {
    let described = |known: &Known| {
        let set = topic.configs.get(known.name);
        Described {
            name: known.name,
            value: set.cloned().unwrap_or_else(|| default_of(known, topic, config)),
            is_set: set.is_some(),
            kind: match known.kind {
                Kind::Boolean => 1,
                Kind::OneOf(_) | Kind::Text => 2,
                Kind::Integer(_) if matches!(known.name, "max.message.bytes" | "segment.bytes") => 3,
                Kind::Integer(_) => 5,
                Kind::Ratio => 6,
                Kind::ListOf(_) => 7,
            },
            what: known.what,
        }
    };
    KNOWN.iter().map(described).collect()
}

fn default_of(known: &Known, topic: &Topic, config: &BrokerConfig) -> String {
    let is_kept = topic.owner != TopicOwner::Anyone;
    match known.name {
        "cleanup.policy" if is_compacted_by_itself(topic) => "compact".to_owned(),
        "max.message.bytes" => config.message_bytes_max.to_string(),
        "retention.ms" if !is_kept => config.retention_ms.unwrap_or(-1).to_string(),
        "segment.bytes" => segment_bytes_of(topic, config).to_string(),
        _ => known.default.to_owned(),
    }
}

/// The topic of group offsets.
fn is_offsets(topic: &Topic) -> bool {
    topic.owner == TopicOwner::Internal && topic.name == OFFSETS_TOPIC
}

/// Of the records of tables and of group offsets only the last one of each key counts when they are read back.
fn is_compacted_by_itself(topic: &Topic) -> bool {
    is_offsets(topic) || matches!(topic.owner, TopicOwner::Table(_))
}

/// Only sealed segments are compacted: those of tables are small, so that what a table was does not pile up.
const TABLE_SEGMENT_BYTES: u64 = 64 << 20;

fn segment_bytes_of(topic: &Topic, config: &BrokerConfig) -> u64 {
    match topic.owner {
        _ if is_offsets(topic) => config.offsets_topic_segment_bytes,
        TopicOwner::Table(_) => config.segment_bytes.min(TABLE_SEGMENT_BYTES),
        _ => config.segment_bytes,
    }
}

/// The settings that mean something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicSettings {
    /// `max.message.bytes`
    pub message_bytes_max: usize,
    /// `message.timestamp.type=LogAppendTime`
    pub is_log_append_time: bool,
    /// For the log.
    pub partition: PartitionConfig,
}

/// Below this a segment is not worth its files.
const SEGMENT_BYTES_MIN: u64 = 4096;

impl TopicSettings {
    /// Of a topic, with the broker's defaults. Topics of tables and internal ones are kept for ever unless they say
    /// otherwise.
    #[must_use]
    pub fn of(topic: &Topic, config: &BrokerConfig) -> Self {
        let number = |name: &str| topic.configs.get(name).and_then(|value| value.parse::<i64>().ok());
        let default_retention_ms = if topic.owner == TopicOwner::Anyone { config.retention_ms } else { None };
        let retention_ms = match number("retention.ms") {
            None => default_retention_ms,
            Some(ms) => (ms >= 0).then_some(ms),
        };
        let policy = topic.configs.get("cleanup.policy").map(String::as_str);
        let policy = policy.unwrap_or(if is_compacted_by_itself(topic) { "compact" } else { "delete" });
        let is_of_policy = |name: &str| list(policy).any(|of| of == name);
        let positive = |name: &str| number(name).and_then(|value| u64::try_from(value).ok());
        Self {
            message_bytes_max: positive("max.message.bytes")
                .map_or(config.message_bytes_max, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
            is_log_append_time: topic.configs.get("message.timestamp.type").is_some_and(|v| v == "LogAppendTime"),
            partition: PartitionConfig {
                segment_bytes: positive("segment.bytes")
                    .unwrap_or_else(|| segment_bytes_of(topic, config))
                    .max(SEGMENT_BYTES_MIN),
                retention_ms: retention_ms.filter(|_| is_of_policy("delete")),
                retention_bytes: positive("retention.bytes").filter(|_| is_of_policy("delete")),
                compaction: is_of_policy("compact").then(|| compaction_of(topic)),
            },
        }
    }
}

fn compaction_of(topic: &Topic) -> CompactionConfig {
    let number = |name: &str| topic.configs.get(name).and_then(|value| value.parse::<i64>().ok());
    let ratio = topic.configs.get("min.cleanable.dirty.ratio").and_then(|value| value.parse::<f64>().ok());
    let default = CompactionConfig::default();
    CompactionConfig {
        delete_retention_ms: number("delete.retention.ms").unwrap_or(default.delete_retention_ms),
        min_lag_ms: number("min.compaction.lag.ms").unwrap_or(default.min_lag_ms),
        max_lag_ms: number("max.compaction.lag.ms").filter(|lag| *lag < i64::MAX),
        min_dirty_millionths: ratio.map_or(default.min_dirty_millionths, |ratio| (ratio * 1e6) as u32),
        segment_ms: number("segment.ms").or(default.segment_ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_settings_are_sorted_and_their_defaults_pass_their_checks() {
        assert!(KNOWN.is_sorted_by_key(|known| known.name));
        for known in KNOWN {
            check_config(known.name, known.default).expect(known.name);
        }
    }

    #[test]
    fn a_batch_that_the_log_cannot_take_is_not_promised() {
        let check =
            |value: &str| check_topic_configs(&BTreeMap::from([("max.message.bytes".into(), value.into())]), 1000);
        check("1000").expect("the limit itself");
        for value in ["1001", "9223372036854775807"] {
            let error = check(value).expect_err(value);
            assert!(error.contains("at most 1000"), "{error}");
        }
    }

    #[test]
    fn bad_settings_are_refused_by_name() {
        for (name, value, says) in [
            ("no.such.thing", "1", "Unknown topic config name: no.such.thing"),
            ("retention.ms", "soon", "whole number"),
            ("retention.ms", "-2", "at least -1"),
            ("cleanup.policy", "shred", "list of delete, compact"),
            ("compression.type", "zstd", "only producer"),
            ("message.timestamp.type", "now", "one of CreateTime, LogAppendTime"),
            ("preallocate", "yes", "true or false"),
        ] {
            let error = check_config(name, value).expect_err(name);
            assert!(error.contains(says), "{error}");
        }
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let lags = [set("min.compaction.lag.ms", "9"), set("max.compaction.lag.ms", "8")].into();
        assert!(
            check_topic_configs(&lags, 1000).expect_err("min above max").contains("more than max.compaction.lag.ms")
        );
    }

    #[test]
    fn the_policy_says_what_becomes_of_old_segments() {
        let config = BrokerConfig { retention_ms: Some(77), ..BrokerConfig::default() };
        let settings = |name: &str, owner, configs: &[(&str, &str)]| {
            let configs = configs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let topic = Topic { id: uuid::Uuid::nil(), name: name.to_owned(), partitions: 1, owner, configs };
            TopicSettings::of(&topic, &config).partition
        };
        let delete = settings("t", TopicOwner::Anyone, &[]);
        assert_eq!((delete.retention_ms, delete.compaction), (Some(77), None));
        let both = [("cleanup.policy", "compact, delete"), ("retention.bytes", "9")];
        let both = settings("t", TopicOwner::Anyone, &both);
        assert_eq!((both.retention_ms, both.retention_bytes), (Some(77), Some(9)));
        assert_eq!(both.compaction, Some(CompactionConfig::default()));
        let configs = [
            ("cleanup.policy", "compact"),
            ("retention.ms", "5"),
            ("delete.retention.ms", "1"),
            ("min.compaction.lag.ms", "2"),
            ("max.compaction.lag.ms", "3"),
            ("min.cleanable.dirty.ratio", "0.25"),
            ("segment.ms", "4"),
        ];
        let compact = settings("t", TopicOwner::Anyone, &configs);
        let expected = CompactionConfig {
            delete_retention_ms: 1,
            min_lag_ms: 2,
            max_lag_ms: Some(3),
            min_dirty_millionths: 250_000,
            segment_ms: Some(4),
        };
        assert_eq!((compact.retention_ms, compact.compaction), (None, Some(expected)));
        let offsets = settings(OFFSETS_TOPIC, TopicOwner::Internal, &[]);
        assert_eq!(offsets.compaction, Some(CompactionConfig::default()));
        assert_eq!((offsets.retention_ms, offsets.segment_bytes), (None, config.offsets_topic_segment_bytes));
        let table = settings("t", TopicOwner::Table(mainstem_catalog::RelationId(7)), &[]);
        assert_eq!((table.compaction, table.segment_bytes), (Some(CompactionConfig::default()), TABLE_SEGMENT_BYTES));
        assert_eq!((table.retention_ms, table.retention_bytes), (None, None));
    }
}
