//! Statements as types. Names are folded as PostgreSQL folds them: unquoted ones are in lower case.

use std::fmt;

use datafusion::sql::sqlparser::ast::{Expr, Query, SelectItem, TableWithJoins};
use mainstem_catalog::{Ident, IncludeKind, SinkFormat, SqlType};

use crate::plan::Emit;

/// A relation's name as written: the schema is absent unless it was given.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QualifiedName {
    /// `public` in `public.t`.
    pub schema: Option<Ident>,
    /// `t`.
    pub name: Ident,
}

impl fmt::Display for QualifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{schema}.")?;
        }
        f.write_str(&self.name)
    }
}

/// One statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// `CREATE SOURCE`
    CreateSource(CreateSource),
    /// `CREATE TABLE`
    CreateTable(CreateTable),
    /// `CREATE MATERIALIZED VIEW`
    CreateMaterializedView(CreateMaterializedView),
    /// `CREATE VIEW`
    CreateView(CreateView),
    /// `ALTER kind name ...`
    Alter(Alter),
    /// `CANCEL JOBS ids`
    CancelJobs(Vec<u32>),
    /// `DROP SOURCE | TABLE | VIEW | MATERIALIZED VIEW`
    Drop(DropRelations),
    /// `CREATE SINK`
    CreateSink(CreateSink),
    /// `DROP SINK`
    DropSinks(DropAttached),
    /// `CREATE INDEX`
    CreateIndex(CreateIndex),
    /// `DROP INDEX`
    DropIndexes(DropAttached),
    /// `INSERT`
    Insert(Insert),
    /// `UPDATE`
    Update(Update),
    /// `DELETE`
    Delete(Delete),
    /// `BEGIN`, `START TRANSACTION`
    Begin(TransactionModes),
    /// `COMMIT`, `END`
    Commit,
    /// `ROLLBACK`, `ABORT`
    Rollback,
    /// `SAVEPOINT name`
    Savepoint(Ident),
    /// `RELEASE SAVEPOINT name`
    ReleaseSavepoint(Ident),
    /// `ROLLBACK TO SAVEPOINT name`
    RollbackTo(Ident),
    /// `FLUSH`: waits until views show all that was written before.
    Flush,
    /// `WAIT`: waits until the session's views have read their history.
    Wait,
    /// `SET [SESSION | LOCAL] name = value`
    Set {
        /// `LOCAL`: until the end of the transaction.
        is_local: bool,
        /// In lower case, parts joined by points; `timezone` for `TIME ZONE`.
        name: String,
        /// Values joined by `, `; absent for DEFAULT.
        value: Option<String>,
    },
    /// `SET TRANSACTION ...`, `SET SESSION CHARACTERISTICS ...`: accepted.
    SetTransaction(TransactionModes),
    /// `RESET name`, `RESET ALL` (absent).
    Reset(Option<String>),
    /// `SHOW name`, `SHOW ALL` (name `all`).
    ShowVariable(String),
    /// `SHOW TABLES` and the like.
    ShowObjects {
        /// Of what.
        kind: ShowKind,
        /// `FROM schema`.
        schema: Option<Ident>,
        /// `LIKE 'pattern'`.
        like: Option<String>,
    },
    /// `SHOW CREATE kind name`
    ShowCreate {
        /// The kind, if said.
        kind: Option<RelationNoun>,
        /// Of what.
        name: QualifiedName,
    },
    /// `DESCRIBE name`, `SHOW COLUMNS FROM name`
    Describe(QualifiedName),
    /// `EXPLAIN [ANALYZE] [VERBOSE] [(options)] statement`
    Explain(Explain),
    /// `COPY`
    Copy(Copy),
    /// `SELECT`, `VALUES`, `WITH ...`, `TABLE name`
    Query(Box<Query>),
    /// `SUBSCRIBE`
    Subscribe(Subscribe),
    /// `DECLARE name CURSOR FOR query | SUBSCRIBE ...`
    Declare {
        /// The cursor's name.
        name: Ident,
        /// A query or a SUBSCRIBE.
        statement: Box<Statement>,
    },
    /// `FETCH | MOVE count FROM name [WITH (timeout = '1s')]`
    Fetch {
        /// The cursor's name.
        name: Ident,
        /// Rows forward; absent for ALL.
        count: Option<u64>,
        /// How long to wait for rows that are not there yet.
        timeout: Option<std::time::Duration>,
        /// `MOVE`: the rows are passed over.
        is_move: bool,
    },
    /// `CLOSE name`, `CLOSE ALL` (absent).
    Close(Option<Ident>),
    /// `DISCARD ALL | PLANS | SEQUENCES | TEMP`; whether it is ALL.
    Discard {
        /// `ALL`.
        is_all: bool,
    },
    /// `PREPARE name [(types)] AS statement`
    Prepare {
        /// Its name.
        name: Ident,
        /// Types of parameters, as far as given.
        types: Vec<SqlType>,
        /// What is prepared.
        statement: Box<Statement>,
    },
    /// `EXECUTE name [(values)]`
    Execute {
        /// Its name.
        name: Ident,
        /// Values of parameters.
        parameters: Vec<Expr>,
    },
    /// `DEALLOCATE name`, `DEALLOCATE ALL` (absent).
    Deallocate(Option<Ident>),
}

/// Kinds of relations in `DROP` and `SHOW CREATE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelationNoun {
    /// `SOURCE`
    Source,
    /// `TABLE`
    Table,
    /// `VIEW`
    View,
    /// `MATERIALIZED VIEW`
    MaterializedView,
    /// `SINK`
    Sink,
    /// `INDEX`
    Index,
}

impl RelationNoun {
    /// As in messages; the same words as `RelationKind::noun`.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            RelationNoun::Source => "source",
            RelationNoun::Table => "table",
            RelationNoun::View => "view",
            RelationNoun::MaterializedView => "materialized view",
            RelationNoun::Sink => "sink",
            RelationNoun::Index => "index",
        }
    }
}

/// What `SHOW` lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShowKind {
    /// `JOBS`
    Jobs,
    /// `TABLES`
    Tables,
    /// `SOURCES`
    Sources,
    /// `MATERIALIZED VIEWS`
    MaterializedViews,
    /// `VIEWS`
    Views,
    /// `SINKS`
    Sinks,
    /// `TOPICS`
    Topics,
    /// `SCHEMAS`
    Schemas,
    /// `DATABASES`
    Databases,
    /// `FUNCTIONS`
    Functions,
}

/// A column of CREATE SOURCE or CREATE TABLE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnDefinition {
    /// Its name.
    pub name: Ident,
    /// Its type.
    pub sql_type: SqlType,
    /// `NOT NULL`, or part of the primary key.
    pub not_null: bool,
    /// SQL text of the default.
    pub default: Option<String>,
}

/// `WATERMARK FOR column AS column - INTERVAL '..' [LATE INTO table] [IDLE TIMEOUT '..'] [ALLOWED LATENESS '..']`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatermarkClause {
    /// A timestamp or timestamptz column of the relation; checked.
    pub column: Ident,
    /// Zero or more.
    pub delay_us: i64,
    /// Zero or more.
    pub lateness_us: i64,
    /// More than zero.
    pub idle_timeout_us: Option<i64>,
    /// The table that keeps late rows.
    pub late_into: Option<QualifiedName>,
}

/// `INCLUDE kind [AS name]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncludeClause {
    /// What.
    pub kind: IncludeKind,
    /// The column's name: `_rw_kafka_partition` and the like unless given.
    pub name: Ident,
}

/// `CREATE SOURCE`, reading the embedded log, JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateSource {
    /// Its name.
    pub name: QualifiedName,
    /// `IF NOT EXISTS`
    pub if_not_exists: bool,
    /// Read from the record's value.
    pub columns: Vec<ColumnDefinition>,
    /// Event time.
    pub watermark: Option<WatermarkClause>,
    /// Further columns, after the others, in this order.
    pub includes: Vec<IncludeClause>,
    /// `WITH (topic = '..')`
    pub topic: String,
    /// The statement's text.
    pub sql: String,
}

/// `CREATE TABLE`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateTable {
    /// Its name.
    pub name: QualifiedName,
    /// `IF NOT EXISTS`
    pub if_not_exists: bool,
    /// Its columns.
    pub columns: Vec<ColumnDefinition>,
    /// Indexes into `columns`, in key order; empty when none was declared.
    pub primary_key: Vec<usize>,
    /// Event time.
    pub watermark: Option<WatermarkClause>,
    /// The statement's text.
    pub sql: String,
}

/// `CREATE MATERIALIZED VIEW`
#[derive(Clone, Debug, PartialEq)]
pub struct CreateMaterializedView {
    /// Its name.
    pub name: QualifiedName,
    /// `OR REPLACE`
    pub or_replace: bool,
    /// `IF NOT EXISTS`
    pub if_not_exists: bool,
    /// Names for the first columns.
    pub columns: Vec<Ident>,
    /// What it keeps.
    pub query: Box<Query>,
    /// `EMIT ON WINDOW CLOSE`
    pub emit_on_window_close: bool,
    /// `WITH EARLY EVERY '..'`
    pub early_us: Option<i64>,
    /// The statement's text.
    pub sql: String,
}

impl CreateMaterializedView {
    /// When it shows its windows.
    #[must_use]
    pub fn emit(&self) -> Emit {
        Emit { on_window_close: self.emit_on_window_close, early_us: self.early_us }
    }
}

/// `CREATE VIEW`
#[derive(Clone, Debug, PartialEq)]
pub struct CreateView {
    /// Its name.
    pub name: QualifiedName,
    /// `OR REPLACE`
    pub or_replace: bool,
    /// `IF NOT EXISTS`
    pub if_not_exists: bool,
    /// Names for the first columns.
    pub columns: Vec<Ident>,
    /// What it stands for.
    pub query: Box<Query>,
    /// The statement's text.
    pub sql: String,
}

/// `ALTER`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alter {
    /// `ADD COLUMN`
    AddColumn(AddColumn),
    /// `RENAME TO`
    Rename(Rename),
    /// `SET BACKFILL_RATE_LIMIT`, `PAUSE BACKFILL`, `RESUME BACKFILL` of a materialized view.
    Backfill {
        /// Which view.
        name: QualifiedName,
        /// `IF EXISTS`
        if_exists: bool,
        /// From now on.
        rate: BackfillRate,
    },
}

/// How fast a new view reads its history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackfillRate {
    /// Not at all.
    Paused,
    /// At most so many rows per second.
    RowsPerSecond(u32),
    /// As fast as it can.
    Resumed,
}

/// `ALTER TABLE | SOURCE [IF EXISTS] name ADD [COLUMN] [IF NOT EXISTS] column`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddColumn {
    /// A table or a source.
    pub kind: RelationNoun,
    /// Which.
    pub name: QualifiedName,
    /// `IF EXISTS`
    pub if_exists: bool,
    /// `IF NOT EXISTS`
    pub if_not_exists: bool,
    /// The column.
    pub column: ColumnDefinition,
    /// The column's text.
    pub text: String,
    /// Where it stands.
    pub position: usize,
}

/// `ALTER kind [IF EXISTS] name RENAME TO name`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    /// What it must be.
    pub kind: RelationNoun,
    /// Which.
    pub name: QualifiedName,
    /// `IF EXISTS`
    pub if_exists: bool,
    /// Its name from now on.
    pub to: Ident,
}

/// What a sink writes the changes of.
#[derive(Clone, Debug, PartialEq)]
pub enum SinkInput {
    /// `FROM name`
    Relation(QualifiedName),
    /// `AS query`
    Query(Box<Query>),
}

/// `CREATE SINK`, into a topic of the embedded log, JSON.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateSink {
    /// Its name.
    pub name: QualifiedName,
    /// `IF NOT EXISTS`
    pub if_not_exists: bool,
    /// What it follows.
    pub input: SinkInput,
    /// `WITH (topic = '..')`
    pub topic: String,
    /// Of a topic that is not there yet.
    pub partitions: Option<i32>,
    /// Columns of the records' key, if given.
    pub primary_key: Option<Vec<Ident>>,
    /// Leave out what is taken back.
    pub force_append_only: bool,
    /// Write what is there already.
    pub snapshot: bool,
    /// `schemas.enable`
    pub with_schema: bool,
    /// `FORMAT`
    pub format: SinkFormat,
    /// The statement's text.
    pub sql: String,
}

/// `CREATE INDEX`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateIndex {
    /// Its name.
    pub name: QualifiedName,
    /// `IF NOT EXISTS`
    pub if_not_exists: bool,
    /// Of which relation.
    pub of: QualifiedName,
    /// Its columns.
    pub columns: Vec<Ident>,
    /// `INCLUDE`: checked; an index has all columns.
    pub include: Vec<Ident>,
    /// The statement's text.
    pub sql: String,
}

/// `DROP SINK | INDEX [IF EXISTS] names`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropAttached {
    /// Which.
    pub names: Vec<QualifiedName>,
    /// `IF EXISTS`
    pub if_exists: bool,
}

/// `DROP kind [IF EXISTS] names [CASCADE | RESTRICT]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropRelations {
    /// What they must be.
    pub kind: RelationNoun,
    /// Which.
    pub names: Vec<QualifiedName>,
    /// `IF EXISTS`
    pub if_exists: bool,
    /// `CASCADE`
    pub cascade: bool,
}

/// `SET column = expression`; `DEFAULT` is the unquoted identifier `DEFAULT`.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// A column of the table.
    pub column: Ident,
    /// Over the table's row (and `excluded` in ON CONFLICT).
    pub value: Expr,
}

/// `INSERT`
#[derive(Clone, Debug, PartialEq)]
pub struct Insert {
    /// Into which table.
    pub table: QualifiedName,
    /// `AS alias`
    pub alias: Option<Ident>,
    /// Target columns; empty means all visible ones in order.
    pub columns: Vec<Ident>,
    /// VALUES or SELECT (a DEFAULT among values is the unquoted identifier `DEFAULT`); absent for DEFAULT VALUES.
    pub source: Option<Box<Query>>,
    /// `ON CONFLICT`
    pub on_conflict: Option<OnConflict>,
    /// `RETURNING`
    pub returning: Option<Vec<SelectItem>>,
}

/// `ON CONFLICT [(columns)] DO ...`
#[derive(Clone, Debug, PartialEq)]
pub struct OnConflict {
    /// Must be the primary key; empty when none were given.
    pub columns: Vec<Ident>,
    /// What to do.
    pub action: ConflictAction,
}

/// What `ON CONFLICT` does.
#[derive(Clone, Debug, PartialEq)]
pub enum ConflictAction {
    /// `DO NOTHING`
    Nothing,
    /// `DO UPDATE SET ... [WHERE ...]`
    Update {
        /// `SET`
        assignments: Vec<Assignment>,
        /// `WHERE`
        filter: Option<Expr>,
    },
}

/// `UPDATE`
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// Which table.
    pub table: QualifiedName,
    /// `AS alias`
    pub alias: Option<Ident>,
    /// `SET`
    pub assignments: Vec<Assignment>,
    /// `FROM`
    pub from: Vec<TableWithJoins>,
    /// `WHERE`
    pub filter: Option<Expr>,
    /// `RETURNING`
    pub returning: Option<Vec<SelectItem>>,
}

/// `DELETE`
#[derive(Clone, Debug, PartialEq)]
pub struct Delete {
    /// From which table.
    pub table: QualifiedName,
    /// `AS alias`
    pub alias: Option<Ident>,
    /// `USING`
    pub using: Vec<TableWithJoins>,
    /// `WHERE`
    pub filter: Option<Expr>,
    /// `RETURNING`
    pub returning: Option<Vec<SelectItem>>,
}

/// `EXPLAIN`
#[derive(Clone, Debug, PartialEq)]
pub struct Explain {
    /// `ANALYZE`: run it.
    pub analyze: bool,
    /// `VERBOSE`
    pub verbose: bool,
    /// What.
    pub statement: Box<Statement>,
}

/// `COPY`
#[derive(Clone, Debug, PartialEq)]
pub struct Copy {
    /// What is copied, and which way.
    pub target: CopyTarget,
    /// `FORMAT`
    pub format: CopyFormat,
    /// `HEADER`
    pub header: bool,
    /// `DELIMITER`: a tab for text and a comma for csv unless given.
    pub delimiter: char,
    /// `NULL`: `\N` for text and nothing for csv unless given.
    pub null: String,
    /// `QUOTE`, csv only.
    pub quote: char,
    /// `ESCAPE`, csv only; the quote unless given.
    pub escape: char,
}

/// What `COPY` copies.
#[derive(Clone, Debug, PartialEq)]
pub enum CopyTarget {
    /// `COPY table [(columns)] FROM STDIN`
    FromStdin {
        /// Into which table.
        table: QualifiedName,
        /// Target columns; empty means all visible ones.
        columns: Vec<Ident>,
    },
    /// `COPY (query) TO STDOUT`, `COPY relation [(columns)] TO STDOUT` as its query.
    ToStdout {
        /// What is written.
        query: Box<Query>,
    },
    /// `COPY (SUBSCRIBE ...) TO STDOUT`
    Changes {
        /// What is written as it changes.
        subscribe: Subscribe,
    },
}

/// `SUBSCRIBE`
#[derive(Clone, Debug, PartialEq)]
pub struct Subscribe {
    /// What is followed.
    pub target: SubscribeTarget,
    /// `SNAPSHOT`: the content comes first.
    pub snapshot: bool,
    /// `PROGRESS`: rows say how far it is.
    pub progress: bool,
    /// `ENVELOPE UPSERT (KEY (...))`; empty without.
    pub key: Vec<Ident>,
}

/// What SUBSCRIBE follows.
#[derive(Clone, Debug, PartialEq)]
pub enum SubscribeTarget {
    /// A table, view or source.
    Relation(QualifiedName),
    /// A query in parentheses.
    Query(Box<Query>),
}

/// Formats of `COPY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyFormat {
    /// PostgreSQL's text format.
    Text,
    /// CSV.
    Csv,
}

/// What BEGIN and SET TRANSACTION say, if they do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransactionModes {
    /// `READ ONLY` or `READ WRITE`.
    pub read_only: Option<bool>,
    /// `ISOLATION LEVEL SERIALIZABLE`, or one of the others: they all get repeatable read, which is stronger.
    pub serializable: Option<bool>,
}
