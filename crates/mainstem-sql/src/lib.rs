//! SQL text and a snapshot of the catalog in; typed statements, plans and operator graphs out. Never does I/O.
//!
//! - [`parse`]: RisingWave's dialect over DataFusion's parser, statements as types.
//! - [`plan_view`]: the query of a materialized view as an operator [`Graph`] that is stored and never planned again.
//! - [`arrow_types`]: the one mapping between SQL types and Arrow's.
//!
//! Always true here: the same text and the same catalog give the same result; nothing depends on a clock, on randomness
//! or on the machine. What a view cannot hold is refused with the name of the construct.

pub mod arrow_types;
mod dialect;
pub mod error;
pub mod functions;
pub mod graph;
pub mod parse;
pub mod plan;
pub mod statement;
pub mod text;

pub use arrow_types::{arrow_field, arrow_schema, sql_type};
pub use error::SqlError;
pub use functions::{scalar_function, window_function};
pub use graph::{
    Aggregate, AggregateFunction, ClockUse, Distance, Forget, Frame, FrameBound, FrameUnits, Graph, GraphField, IsTest,
    JoinKind, Literal, LiteralValue, Moment, Nearest, Node, Operator, OperatorId, Scalar, SortKey, TimeComparison,
    WindowFunction, unique_key,
};
pub use parse::{located, parse, parse_expression, parse_query};
pub use plan::{
    Emit, Purpose, QueryPlan, ViewPlan, at_time, constant, output_names, plan_query, plan_view, planning_state,
    rewrite_query, rewrite_versions, rewrite_windows, session_config, session_state_builder, stands_for_asof,
};
pub use statement::{QualifiedName, Statement};
