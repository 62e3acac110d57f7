//! The operator graph of a materialized view: what is stored in the catalog and run by the engine.
//!
//! A graph is a list of nodes in topological order, inputs before their users. A node names an operator, its inputs and
//! the schema of what it gives. Scalars inside name the columns of their input by index. Everything is plain data with a
//! version; a graph is made once, when the view is created, and never planned again: an upgrade reads the old graph.
//!
//! Always true here: ids are the places in the list; an operator's output columns follow the rules given at [`Operator`];
//! a graph that was written is read back equal, floats by their bits.

mod aggregate;
mod check;
mod explain;
mod key;
mod literal;
mod scalar;
mod window;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use mainstem_catalog::RelationId;
use serde::{Deserialize, Serialize};

use crate::error::{SqlError, sqlstate};

pub use aggregate::{Aggregate, AggregateFunction, Moment};
pub use key::unique_key;
pub use literal::{Literal, LiteralValue};
pub use scalar::{IsTest, Scalar};
pub use window::{Frame, FrameBound, FrameUnits, WindowFunction};

/// The version of graphs that this code writes, and the newest that it reads. Version 2 has functions OVER windows, ordered
/// aggregates and moments; version 3 joins in event time, temporal filters and early results. A graph of an older version is
/// one of a newer that does without.
pub const GRAPH_VERSION: u32 = 3;

/// The operators of one view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Graph {
    /// [`GRAPH_VERSION`] of the code that wrote it.
    pub version: u32,
    /// In topological order; a node's id is its place here.
    pub nodes: Vec<Node>,
    /// The node whose output is the view.
    pub output: OperatorId,
    /// Settings that the meaning of functions depends on (`datafusion.execution.time_zone`, ...).
    pub settings: BTreeMap<String, String>,
}

/// A node's id, stable for the life of the view: operators keep their state under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OperatorId(pub u32);

/// One operator in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its place in [`Graph::nodes`].
    pub id: OperatorId,
    /// What it does.
    pub operator: Operator,
    /// Where its rows come from, in order.
    pub inputs: Vec<OperatorId>,
    /// What its rows are.
    pub schema: Vec<GraphField>,
    /// Whether it never takes a row back, whatever happens, as long as its inputs keep what they promise.
    pub append_only: bool,
    /// State that is of no more use, by event time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forgets: Vec<Forget>,
}

/// State that belongs to the value of a timestamp column is of no more use once the watermark is greater than the value and
/// `after_us`: nothing that belongs to it comes any more, nor is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forget {
    /// Which input; 0 for operators that have one.
    pub input: usize,
    /// Of an aggregate one of the group columns, of OVER one of the partition's, else a column of the input.
    pub column: usize,
    /// Microseconds.
    pub after_us: i64,
}

fn at_the_end() -> i64 {
    -1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_at_the_end(after_us: &i64) -> bool {
    *after_us == -1
}

/// A column of a node's output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphField {
    /// For people; operators use indexes.
    pub name: String,
    /// Arrow's text of the type; parses back.
    pub data_type: String,
    /// Whether it may be null.
    pub nullable: bool,
    /// The field's metadata (see `arrow_types`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// What a node does with its inputs' rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operator {
    /// The changes of a relation; output: those of its columns (hidden and included ones too), in this order.
    Input {
        /// A source, table or materialized view.
        relation: RelationId,
        /// Indexes into the relation's columns.
        columns: Vec<usize>,
    },
    /// VALUES, SELECT without FROM: rows that are there from the start.
    Constant {
        /// Each as long as the schema.
        rows: Vec<Vec<Literal>>,
    },
    /// Rows for which the predicate is true. Output: the input's columns.
    Filter {
        /// A boolean over the input.
        predicate: Scalar,
    },
    /// Output: the expressions.
    Project {
        /// Over the input.
        expressions: Vec<Scalar>,
    },
    /// A row per item of a list column, which is replaced by the item; null and the empty list give no row.
    Unnest {
        /// Index of the list column.
        column: usize,
    },
    /// Groups. Output: group columns, then aggregates. Without group columns there is always exactly one row.
    Aggregate {
        /// Over the input.
        group: Vec<Scalar>,
        /// Over the input.
        aggregates: Vec<Aggregate>,
    },
    /// Pairs of rows, or rows with or without a partner. Output: columns of the left input, then, if it gives pairs, of the right.
    Join {
        /// What is given.
        kind: JoinKind,
        /// Equalities: the first over the left input, the second over the right. At least one.
        on: Vec<(Scalar, Scalar)>,
        /// Whether a null key matches a null key.
        null_equals_null: bool,
        /// What else must be true for a pair to match, over left ++ right.
        filter: Option<Scalar>,
        /// What the condition says about two columns: only rows within it are met.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        range: Option<Distance>,
    },
    /// Left rows, each with the nearest right row in time that has equal keys. Of several with that time the first in key order
    /// of the whole row. A null among what is compared matches nothing. Output: columns of the left input, then of the right.
    AsOf {
        /// Whether left rows that match nothing are given, with nulls.
        is_outer: bool,
        /// Equalities: the first over the left input, the second over the right. At least one.
        on: Vec<(Scalar, Scalar)>,
        /// Over the left input, and over the right; of one type.
        times: (Scalar, Scalar),
        /// Which is looked for.
        nearest: Nearest,
    },
    /// UNION ALL of any number of inputs.
    Union,
    /// Each row once.
    Distinct,
    /// Rows `offset .. offset + limit` in key order, ties broken by the whole row in key order of all columns.
    TopN {
        /// Over the input.
        keys: Vec<SortKey>,
        /// Absent: all after the offset.
        limit: Option<u64>,
        /// Rows skipped.
        offset: u64,
    },
    /// Functions over the rows of the same partition, in the order of the keys, ties broken by the whole row in key order.
    /// Output: the input's columns, then the functions. A partition that a change touches is computed again.
    Over {
        /// Over the input.
        partition: Vec<Scalar>,
        /// Over the input.
        order: Vec<SortKey>,
        /// At least one.
        functions: Vec<WindowFunction>,
        /// Only this many rows of each partition are asked for, the first ones; the functions are all row_number() then.
        limit: Option<u64>,
    },
    /// Directly above the Input of a source with watermark: takes out rows below their own partition's watermark.
    DropLate {},
    /// Holds rows until the watermark is greater than the column `window_end` and `after_us`, then gives them, for good unless
    /// lateness is allowed.
    EmitOnClose {
        /// Index of a timestamp column.
        window_end: usize,
        /// Microseconds; -1 when the watermark has only to reach the end.
        #[serde(default = "at_the_end", skip_serializing_if = "is_at_the_end")]
        after_us: i64,
        /// What is held is given as well, as it is when the clock enters another interval of this length.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        early_us: Option<i64>,
    },
    /// Rows for which a comparison with the time is true; they come and go with the ticks. Output: the input's columns.
    Temporal {
        /// A timestamp or date over the input.
        value: Scalar,
        /// How it must be to the bound.
        comparison: TimeComparison,
        /// A value of the same type over one column, a timestamptz: the time.
        bound: Scalar,
        /// Whether the bound never goes back as the time goes on: a row that is out of date need not be kept then.
        is_steady: bool,
    },
}

/// How a value must be to a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeComparison {
    /// `>`
    After,
    /// `>=`
    NotBefore,
    /// `<`
    Before,
    /// `<=`
    NotAfter,
}

impl TimeComparison {
    /// Whether it holds.
    #[must_use]
    pub fn holds(self, value: i64, bound: i64) -> bool {
        match self {
            TimeComparison::After => value > bound,
            TimeComparison::NotBefore => value >= bound,
            TimeComparison::Before => value < bound,
            TimeComparison::NotAfter => value <= bound,
        }
    }

    /// Whether it is true of values above the bound.
    #[must_use]
    pub fn is_lower_bound(self) -> bool {
        matches!(self, TimeComparison::After | TimeComparison::NotBefore)
    }

    /// As SQL writes it.
    #[must_use]
    pub fn symbol(self) -> &'static str {
        match self {
            TimeComparison::After => ">",
            TimeComparison::NotBefore => ">=",
            TimeComparison::Before => "<",
            TimeComparison::NotAfter => "<=",
        }
    }
}

/// What a graph needs of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClockUse {
    /// Nothing.
    None,
    /// The newest tick: what was before it does not matter.
    Newest,
    /// What there was at each tick.
    Each,
}

/// Kinds of joins. A right join is a left join with its sides swapped and a projection above it; IN and EXISTS by equalities
/// alone are joins with the distinct keys of the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JoinKind {
    /// Pairs.
    Inner,
    /// Pairs, and left rows without partner with nulls for the right.
    Left,
    /// Pairs, and rows of either side without partner with nulls for the other.
    Full,
    /// Left rows with a partner, alone.
    Semi,
    /// Left rows without partner, alone.
    Anti,
}

/// How far a column of the right side lies from one of the left: `least <= right - left <= most`. Timestamps in microseconds, or
/// integers. Without one of the ends it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distance {
    /// A column of the left side.
    pub left: usize,
    /// A column of the right side, of the same type.
    pub right: usize,
    /// At least.
    pub least: Option<i64>,
    /// At most.
    pub most: Option<i64>,
}

/// Which right row an [`Operator::AsOf`] gives, by its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Nearest {
    /// The latest that is not later than the left row.
    AtOrBefore,
    /// The latest that is earlier.
    Before,
    /// The first that is not earlier.
    AtOrAfter,
    /// The first that is later.
    After,
}

impl JoinKind {
    /// Whether the output has the columns of the right side.
    #[must_use]
    pub fn gives_pairs(self) -> bool {
        !matches!(self, JoinKind::Semi | JoinKind::Anti)
    }
}

/// One key of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SortKey {
    /// Over the input.
    pub expression: Scalar,
    /// Largest first.
    pub descending: bool,
    /// Nulls before the others.
    pub nulls_first: bool,
}

impl Graph {
    /// The node with this id.
    ///
    /// # Panics
    /// If the id is not of this graph.
    #[must_use]
    pub fn node(&self, id: OperatorId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// The schema of the view.
    pub fn output_schema(&self) -> Result<SchemaRef, SqlError> {
        self.node(self.output).arrow_schema()
    }

    /// The relations that are read, each once, in order of id.
    #[must_use]
    pub fn relations(&self) -> Vec<RelationId> {
        let mut relations: Vec<_> = self
            .nodes
            .iter()
            .filter_map(|node| match &node.operator {
                Operator::Input { relation, .. } => Some(*relation),
                _ => None,
            })
            .collect();
        relations.sort_unstable();
        relations.dedup();
        relations
    }

    /// What it needs of the clock.
    #[must_use]
    pub fn clock_use(&self) -> ClockUse {
        let of = |node: &Node| match &node.operator {
            Operator::EmitOnClose { early_us: Some(_), .. } => ClockUse::Each,
            Operator::Temporal { .. } => ClockUse::Newest,
            _ => ClockUse::None,
        };
        self.nodes.iter().map(of).max().unwrap_or(ClockUse::None)
    }

    /// How often windows that are open are shown, if they are.
    #[must_use]
    pub fn early_us(&self) -> Option<i64> {
        self.nodes.iter().find_map(|node| match node.operator {
            Operator::EmitOnClose { early_us, .. } => early_us,
            _ => None,
        })
    }

    /// For the catalog.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("a graph is plain data")
    }

    /// From the catalog. A graph of a newer version, or one that breaks this module's rules, is an error.
    pub fn from_json(json: &serde_json::Value) -> Result<Graph, SqlError> {
        let internal = |message: String| SqlError::new(sqlstate::INTERNAL, message);
        let version = json.get("version").and_then(serde_json::Value::as_u64).unwrap_or(0);
        if version == 0 || version > u64::from(GRAPH_VERSION) {
            return Err(internal(format!(
                "operator graph has version {version}; this program reads up to {GRAPH_VERSION}"
            )));
        }
        let graph: Graph = Graph::deserialize(json).map_err(|error| internal(format!("operator graph: {error}")))?;
        graph.check().map_err(|reason| internal(format!("operator graph: {reason}")))?;
        Ok(graph)
    }
}

impl Node {
    /// The Arrow schema of the output.
    pub fn arrow_schema(&self) -> Result<SchemaRef, SqlError> {
        let fields = self.schema.iter().map(GraphField::to_arrow).collect::<Result<Vec<_>, _>>()?;
        Ok(Arc::new(Schema::new(fields)))
    }
}

impl GraphField {
    /// From Arrow. A type whose text does not parse back is refused.
    pub fn from_arrow(field: &Field) -> Result<GraphField, SqlError> {
        Ok(GraphField {
            name: field.name().clone(),
            data_type: type_text(field.data_type())?,
            nullable: field.is_nullable(),
            metadata: field.metadata().iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        })
    }

    /// To Arrow.
    pub fn to_arrow(&self) -> Result<Field, SqlError> {
        let field = Field::new(&self.name, parse_type(&self.data_type)?, self.nullable);
        Ok(field.with_metadata(self.metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect()))
    }
}

/// The text under which a type is stored; [`parse_type`] reads it back.
pub fn type_text(data_type: &DataType) -> Result<String, SqlError> {
    let text = data_type.to_string();
    match text.parse::<DataType>() {
        Ok(parsed) if parsed == *data_type => Ok(text),
        _ => Err(SqlError::not_supported(format!("values of type {text} cannot be kept in a view"))),
    }
}

/// Reads what [`type_text`] wrote.
pub fn parse_type(text: &str) -> Result<DataType, SqlError> {
    let error = |error| SqlError::new(sqlstate::INTERNAL, format!("operator graph: type {text}: {error}"));
    text.parse::<DataType>().map_err(error)
}
