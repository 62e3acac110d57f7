//! What hangs on a relation without being one that can be read: sinks (a relation's changes as a topic) and indexes (a
//! relation's rows in another order).
//!
//! They take their ids and names from the same space as relations, so that a name says one thing.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Ident, RelationId};

/// What the records of a sink are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkFormat {
    /// `FORMAT PLAIN`: each new row once; nothing is taken back.
    Plain,
    /// `FORMAT UPSERT`: the last row of a key, a tombstone when there is none.
    Upsert,
    /// `FORMAT DEBEZIUM`: before and after.
    Debezium,
}

impl SinkFormat {
    /// As in SQL, in lower case.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            SinkFormat::Plain => "plain",
            SinkFormat::Upsert => "upsert",
            SinkFormat::Debezium => "debezium",
        }
    }
}

/// `CREATE SINK`: what changes in a table or materialized view, as records of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sink {
    /// Never reused; of the same space as relations' ids.
    pub id: RelationId,
    /// `public` for now.
    pub schema: Ident,
    /// Unique among relations, sinks and indexes of the schema.
    pub name: Ident,
    /// The table or materialized view.
    pub from: RelationId,
    /// Where the records go.
    pub topic: Uuid,
    /// The topic's name, which topics keep.
    pub topic_name: String,
    /// What the records are.
    pub format: SinkFormat,
    /// Indexes of the columns that make a record's key; none: records have no key.
    pub key: Option<Vec<usize>>,
    /// Whether the key is known to be unique from what `from` is; if not, it is checked for each changed key.
    pub is_key_unique: bool,
    /// Whether what is there at the creation is written too.
    pub snapshot: bool,
    /// `force_append_only`: what is taken back is left out.
    pub force_append_only: bool,
    /// Whether each record carries its schema, as Kafka Connect's JSON converter writes it.
    pub with_schema: bool,
    /// `AS SELECT`: the materialized view that keeps the query goes with the sink.
    pub owns_view: bool,
    /// The statement that made it.
    pub sql: String,
}

/// `CREATE INDEX`: the rows of a table or materialized view once more, sorted by some columns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// Never reused; of the same space as relations' ids.
    pub id: RelationId,
    /// `public` for now.
    pub schema: Ident,
    /// Unique among relations, sinks and indexes of the schema.
    pub name: Ident,
    /// The table or materialized view.
    pub of: RelationId,
    /// Indexes of the columns, in order.
    pub columns: Vec<usize>,
    /// The statement that made it.
    pub sql: String,
}
