//! Topics: names, owners, settings.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::RelationId;

/// A topic's name, checked by [`check_topic_name`].
pub type TopicName = String;

/// Who may write to a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TopicOwner {
    /// Any Kafka client.
    Anyone,
    /// Only SQL statements on this table.
    Table(RelationId),
    /// Only Mainstem itself: catalog, group offsets, dead letters.
    Internal,
}

/// A topic as defined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// Never reused.
    pub id: Uuid,
    /// Unique among live topics.
    pub name: TopicName,
    /// Number of partitions, at least 1. Only grows.
    pub partitions: i32,
    /// Who may write.
    pub owner: TopicOwner,
    /// Settings that differ from the defaults, by Kafka's names (`retention.ms`, `segment.bytes`, ...).
    pub configs: BTreeMap<String, String>,
}

/// Why a topic's name is not acceptable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidTopicName(pub String);

impl fmt::Display for InvalidTopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidTopicName {}

/// Kafka's rule: 1 to 249 of `[a-zA-Z0-9._-]`, not `.` or `..`.
pub fn check_topic_name(name: &str) -> Result<(), InvalidTopicName> {
    let problem = if name.is_empty() {
        "is empty".to_owned()
    } else if name == "." || name == ".." {
        format!("cannot be {name:?}")
    } else if name.len() > 249 {
        format!("has {} characters, 249 at most", name.len())
    } else if let Some(bad) = name.chars().find(|c| !c.is_ascii_alphanumeric() && !"._-".contains(*c)) {
        format!("has {bad:?}; allowed are letters, digits, '.', '_' and '-'")
    } else {
        return Ok(());
    };
    Err(InvalidTopicName(format!("topic name {problem}")))
}
