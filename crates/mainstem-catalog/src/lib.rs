//! Definitions - topics, sources, tables, views, sinks, indexes - as a pure state machine: events in, snapshot out.
//!
//! Every change of a definition is an [`Event`], written as a record of the internal topic [`CATALOG_TOPIC`] in the
//! entry that it belongs to, and applied here in CSN order. [`Catalog`] is the state after some prefix of those events;
//! applying the same events gives the same catalog. No I/O, no clock, no randomness: ids and times come in the events.
//!
//! Always true here: names are unique among live topics, and among live relations of a schema; an id is never reused;
//! every dependency of a live relation is live; an event that would break this is refused and changes nothing.

mod attached;
mod catalog;
mod event;
mod flow;
mod relation;
mod replacement;
mod topic;
mod types;

pub use attached::{Index, Sink, SinkFormat};
pub use catalog::{Catalog, Refused};
pub use event::{Event, decode, encode};
pub use relation::{
    Column, Dependency, Encoding, Ident, Include, IncludeKind, LATE_OFFSET_COLUMN, LATE_PARTITION_COLUMN,
    LATE_WATERMARK_COLUMN, Origin, Relation, RelationId, RelationKind, SourceDefinition, TableDefinition,
    ViewDefinition, Watermark,
};
pub use replacement::Replacement;
pub use topic::{Topic, TopicName, TopicOwner, check_topic_name};
pub use types::SqlType;

use uuid::Uuid;

/// The internal topic that holds the definitions. One partition, never deleted.
pub const CATALOG_TOPIC: &str = "__mainstem_catalog";
/// Its id: fixed, since it cannot be looked up in itself.
pub const CATALOG_TOPIC_ID: Uuid = Uuid::from_u128(0x6d61_696e_7374_656d_0000_0000_0000_0001);
/// Kafka's topic of committed group offsets.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";
/// Records of sources that did not decode, with topic, partition, offset and reason.
pub const DEAD_LETTERS_TOPIC: &str = "__mainstem_dead_letters";
/// What the clock showed, about once a second, while a view needs to know: views read the time from here, not from a clock.
pub const TICKS_TOPIC: &str = "__mainstem_ticks";
/// Its id: fixed, so that whoever has the log alone finds it.
pub const TICKS_TOPIC_ID: Uuid = Uuid::from_u128(0x6d61_696e_7374_656d_0000_0000_0000_0003);
/// Partitions of sources that had no records for their IDLE TIMEOUT.
pub const IDLE_TOPIC: &str = "__mainstem_idle_partitions";
/// Its id, fixed for the same reason.
pub const IDLE_TOPIC_ID: Uuid = Uuid::from_u128(0x6d61_696e_7374_656d_0000_0000_0000_0004);
