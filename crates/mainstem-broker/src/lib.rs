//! Kafka's semantics over the log: request in, response out; and the catalog's sequencer.
//!
//! Words: a *frame* is one request or response without or with its four byte length; a *topic* is looked up in the
//! catalog by name or id, its partitions live in the log under its id; the *sequencer* is the one place where the catalog
//! changes; the *coordinator* keeps consumer groups.
//!
//! Always true here:
//! - record batches stay opaque: their header is read and their CRC checked, nothing else, on the way in and out;
//! - an answer that claims that something was written (acks 1 and -1, offset commits, topics made) is given after it
//!   is durable;
//! - nothing above the high watermark is told to anybody;
//! - definitions change one after the other, each as one entry of the catalog's topic;
//! - no sockets, and no time or randomness but from the traits of `mainstem-disk` (waiting uses tokio's timer).

// Time comes in as an argument or from a trait, so that a seed replays what happens here.
#![deny(clippy::disallowed_methods)]

mod broker;
mod chunk;
mod codec;
mod config;
pub mod coordinator;
mod fetch;
mod fetched;
mod groups;
mod metadata;
mod offsets;
mod produce;
mod producer_ids;
mod sequencer;
mod status;
mod topic_config;
mod topics;
mod waiting;

pub use broker::{Answered, Broker, ClientInfo, CloseConnection, OpenError, Reply};
pub use chunk::Chunk;
pub use config::BrokerConfig;
pub use sequencer::{Change, ChangeError};
pub use status::{BrokerCounters, ConnectionGuard, GroupPartition, GroupStatus};
pub use topic_config::{TopicSettings, check_topic_configs};
