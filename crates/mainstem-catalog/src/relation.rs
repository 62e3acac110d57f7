//! Relations of SQL: sources, tables, views, materialized views.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::SqlType;

/// A relation's id, also its PostgreSQL oid. Starts at 16384 and is never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RelationId(pub u32);

impl RelationId {
    /// The first one that users' relations get, as PostgreSQL's.
    pub const FIRST: RelationId = RelationId(16384);
}

/// A name as resolved: unquoted names are folded to lower case by the parser, quoted ones kept.
pub type Ident = String;

/// A column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name, unique in the relation.
    pub name: Ident,
    /// Its type.
    pub sql_type: SqlType,
    /// Whether it may be null.
    pub nullable: bool,
    /// Not shown by `SELECT *`: the hidden row id of a table without primary key.
    pub hidden: bool,
    /// For tables: SQL text of the default, deterministic or evaluated at INSERT.
    pub default: Option<String>,
}

/// Event time: `WATERMARK FOR column AS column - delay [LATE INTO table] [IDLE TIMEOUT '..'] [ALLOWED LATENESS '..']`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    /// Index of a timestamp or timestamptz column.
    pub column: usize,
    /// How far the watermark stays behind the largest value seen in a partition.
    pub delay_us: i64,
    /// How far below its partition's watermark a row may be without being late.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lateness_us: i64,
    /// A partition without records for this long is logged as idle, and holds no window open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout_us: Option<i64>,
    /// The table that late rows are written to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_into: Option<RelationId>,
}

/// In a table of late rows: the partition of the record that the row came from.
pub const LATE_PARTITION_COLUMN: &str = "late_partition";
/// In a table of late rows: the record's offset.
pub const LATE_OFFSET_COLUMN: &str = "late_offset";
/// In a table of late rows: the watermark that the row's partition had before it.
pub const LATE_WATERMARK_COLUMN: &str = "late_watermark";

impl Watermark {
    /// `WATERMARK FOR column AS column - delay`, without anything behind it.
    #[must_use]
    pub fn new(column: usize, delay_us: i64) -> Watermark {
        Watermark { column, delay_us, lateness_us: 0, idle_timeout_us: None, late_into: None }
    }
}

/// What of a record besides its value becomes a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IncludeKind {
    /// `INCLUDE key`: bytea, or the declared type when the key is text.
    Key,
    /// `INCLUDE partition`: integer here, varchar in RisingWave.
    Partition,
    /// `INCLUDE offset`: bigint.
    Offset,
    /// `INCLUDE timestamp`: timestamptz, the record's.
    Timestamp,
}

/// One `INCLUDE` clause: fills the column at this index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Include {
    /// What is included.
    pub kind: IncludeKind,
    /// Index into [`Relation::columns`].
    pub column: usize,
}

/// How record values are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// `FORMAT PLAIN ENCODE JSON`
    PlainJson,
}

/// `CREATE SOURCE`: the records of a topic as an append-only relation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceDefinition {
    /// The topic's id (the name may be taken by another topic later).
    pub topic: Uuid,
    /// The topic's name when it was created, for messages.
    pub topic_name: String,
    /// How values are read.
    pub encoding: Encoding,
    /// Columns not from the value.
    pub includes: Vec<Include>,
    /// Event time, if declared.
    pub watermark: Option<Watermark>,
}

/// `CREATE TABLE`: rows are JSON records in a topic of the table's name; the last record of a key rules, a null value
/// deletes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableDefinition {
    /// The topic's id.
    pub topic: Uuid,
    /// The topic's name.
    pub topic_name: String,
    /// Indexes of the primary key's columns, in key order; a hidden row id when none was declared.
    pub primary_key: Vec<usize>,
    /// Event time, if declared.
    pub watermark: Option<Watermark>,
}

/// `CREATE VIEW` and `CREATE MATERIALIZED VIEW`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewDefinition {
    /// The query, as text with resolved names.
    pub query: String,
    /// Whether `EMIT ON WINDOW CLOSE` was given.
    pub emit_on_window_close: bool,
    /// For materialized views: the versioned operator graph of `mainstem-sql`, as JSON; it is not planned again.
    pub graph: Option<serde_json::Value>,
    /// Session settings that the query's meaning depends on (time zone, search path), stored with it.
    pub settings: Vec<(String, String)>,
    /// For materialized views: where the history of its sources began when it was created, for partitions where that was not
    /// offset 0. What is made again from less is not the view.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origin: Vec<Origin>,
}

impl ViewDefinition {
    /// Where the view's history of this partition begins.
    #[must_use]
    pub fn origin_of(&self, source: RelationId, partition: i32) -> Origin {
        let is_it = |origin: &&Origin| origin.source == source && origin.partition == partition;
        let none = Origin { source, partition, offset: 0, compacted_below: 0 };
        self.origin.iter().find(is_it).copied().unwrap_or(none)
    }
}

/// Where one partition of a view's source began when the view was made. One that is not listed began at 0, whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The source.
    pub source: RelationId,
    /// Partition of its topic.
    pub partition: i32,
    /// The first offset that belongs to the view.
    pub offset: i64,
    /// Below this offset compaction had removed records already.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub compacted_below: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// What kind of relation it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RelationKind {
    /// `CREATE SOURCE`
    Source(SourceDefinition),
    /// `CREATE TABLE`
    Table(TableDefinition),
    /// `CREATE VIEW`
    View(ViewDefinition),
    /// `CREATE MATERIALIZED VIEW`
    MaterializedView(ViewDefinition),
}

impl RelationKind {
    /// As PostgreSQL and RisingWave call it in messages: `source`, `table`, `view`, `materialized view`.
    #[must_use]
    pub fn noun(&self) -> &'static str {
        match self {
            RelationKind::Source(_) => "source",
            RelationKind::Table(_) => "table",
            RelationKind::View(_) => "view",
            RelationKind::MaterializedView(_) => "materialized view",
        }
    }
}

/// What a relation needs to exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dependency {
    /// Another relation.
    Relation(RelationId),
    /// A topic.
    Topic(Uuid),
}

/// A relation as defined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relation {
    /// Never reused.
    pub id: RelationId,
    /// `public` for now.
    pub schema: Ident,
    /// Unique in the schema.
    pub name: Ident,
    /// Columns in order, hidden ones last.
    pub columns: Vec<Column>,
    /// What kind, with what belongs to it.
    pub kind: RelationKind,
    /// What it needs.
    pub depends_on: Vec<Dependency>,
    /// The statement that made it, for SHOW CREATE.
    pub sql: String,
}

impl Relation {
    /// The topic that this relation reads or owns.
    #[must_use]
    pub fn topic(&self) -> Option<Uuid> {
        match &self.kind {
            RelationKind::Source(source) => Some(source.topic),
            RelationKind::Table(table) => Some(table.topic),
            RelationKind::View(_) | RelationKind::MaterializedView(_) => None,
        }
    }

    /// Event time, if it is a source or table that declares it.
    #[must_use]
    pub fn watermark(&self) -> Option<&Watermark> {
        match &self.kind {
            RelationKind::Source(source) => source.watermark.as_ref(),
            RelationKind::Table(table) => table.watermark.as_ref(),
            RelationKind::View(_) | RelationKind::MaterializedView(_) => None,
        }
    }

    /// Index of a column by name.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// The view's definition, if it is a materialized view.
    #[must_use]
    pub fn materialized(&self) -> Option<&ViewDefinition> {
        match &self.kind {
            RelationKind::MaterializedView(view) => Some(view),
            _ => None,
        }
    }
}
