//! One view's operators, wired.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, BooleanArray};
use arrow::compute::SortOptions;
use arrow::datatypes::{Schema, SchemaRef};
use mainstem_catalog::RelationId;
use mainstem_sql::graph::parse_type;
use mainstem_sql::{Graph, Node, Operator, OperatorId, Scalar, SqlError};

use super::aggregate::{Aggregate, AggregateParts};
use super::asof::{AsOf, AsOfParts};
use super::distinct::Distinct;
use super::emit_on_close::EmitOnClose;
use super::join::{Join, JoinParts};
use super::over::{Over, OverParts};
use super::sharded::{Routing, Sharded, Shards};
use super::stateless::{Constant, DropLate, Filter, Project, Union, Unnest};
use super::temporal::{Temporal, TemporalParts, time_schema};
use super::top_n::TopN;
use super::units::Saved;
use super::{Context, Operate};
use crate::delta::Delta;
use crate::error::EngineError;
use crate::scalar::{CompiledScalar, Compiler, RowErrors};
use crate::state::{Layers, Space};
use crate::watermark::Times;

/// The trailing boolean column of inputs with a watermark: whether the row is late in its own partition.
pub const LATE_COLUMN: &str = "__late";

/// Outputs collected within a version are merged when this many rows, and twice as many as after the last merge, wait.
const MERGE_ROWS: usize = 256 * 1024;
/// While an operator gives, those after it run when this many rows wait for them.
const WAITING_ROWS_MAX: usize = 128 * 1024;

/// The operators of one view with their state.
#[derive(Debug)]
pub struct Circuit {
    nodes: Vec<Wired>,
    /// Of the output, as the graph has it.
    schema: SchemaRef,
    tally: Tally,
}

/// What has come out of a version so far.
#[derive(Debug, Default)]
struct Tally {
    /// Place of the output node, and its schema.
    output: usize,
    schema: Option<SchemaRef>,
    /// What it gave.
    given: Vec<Delta>,
    given_rows: usize,
    merged_rows: usize,
    errors: RowErrors,
    late: u64,
    /// Rows that wait for operators.
    waiting: usize,
    /// Why state could not be read.
    failure: Option<EngineError>,
}

/// A node in its place.
#[derive(Debug)]
struct Wired {
    id: OperatorId,
    schema: SchemaRef,
    source: Option<Source>,
    operator: Option<Box<dyn Operate>>,
    /// Nodes that read this one, and on which of their inputs.
    users: Vec<(usize, usize)>,
    pending: Vec<(usize, Delta)>,
    touched: u64,
    space: Option<Space>,
    /// What of an operator that does not use its space itself was written there last.
    saved: Saved,
    /// For tests of tests: what it gives lacks the retractions.
    drops_retractions: bool,
}

#[derive(Debug)]
struct Source {
    relation: RelationId,
    columns: Vec<usize>,
    /// Whether the mark of late rows goes along.
    keeps_late: bool,
}

/// What a version changed.
#[derive(Clone, Debug)]
pub struct VersionOutput {
    /// Changes of the view's rows, consolidated.
    pub output: Delta,
    /// Changes of the view's errors, by message, with weights.
    pub errors: Vec<(String, i64)>,
    /// Rows left out because they were late.
    pub late: u64,
}

/// What an operator has done and holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperatorStats {
    /// Which.
    pub id: OperatorId,
    /// Rows processed, and rows read from or written to state, since the circuit was made.
    pub rows_touched: u64,
    /// Rows held.
    pub state_rows: u64,
    /// About how many bytes they take.
    pub state_bytes: u64,
}

impl Circuit {
    /// The operators of a graph, without state: nothing has come in yet, no version has been finished.
    pub fn new(graph: &Graph) -> Result<Circuit, EngineError> {
        Circuit::with_shards(graph, Shards::ONE)
    }

    /// The same, with so many shards of each operator that can have several: large deltas are worked on in parallel. What
    /// comes out is the same for any number.
    pub fn with_shards(graph: &Graph, shards: Shards) -> Result<Circuit, EngineError> {
        graph.check().map_err(EngineError::Graph)?;
        let compiler = Compiler::new(&graph.settings)?;
        let schemas: Vec<SchemaRef> = graph
            .nodes
            .iter()
            .map(|node| node.arrow_schema().map(|schema| nullable(&schema)).map_err(sql_error))
            .collect::<Result<_, _>>()?;
        let mut nodes: Vec<Wired> = Vec::new();
        for (place, node) in graph.nodes.iter().enumerate() {
            let builder = Builder { graph, compiler: &compiler, schemas: &schemas };
            let source = match &node.operator {
                Operator::Input { relation, columns } => {
                    let keeps_late = builder.feeds_drop_late(node.id)?;
                    Some(Source { relation: *relation, columns: columns.clone(), keeps_late })
                }
                _ => None,
            };
            nodes.push(Wired {
                id: node.id,
                schema: schemas[place].clone(),
                operator: if source.is_some() { None } else { Some(builder.build_sharded(node, shards)?) },
                source,
                users: Vec::new(),
                pending: Vec::new(),
                touched: 0,
                space: None,
                saved: Saved::default(),
                drops_retractions: false,
            });
            for (port, input) in node.inputs.iter().enumerate() {
                nodes[input.0 as usize].users.push((place, port));
            }
        }
        Ok(Circuit {
            nodes,
            schema: graph.output_schema().map_err(sql_error)?,
            tally: Tally {
                output: graph.output.0 as usize,
                schema: Some(schemas[graph.output.0 as usize].clone()),
                ..Tally::default()
            },
        })
    }

    /// The schema of the output.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// One slice of a relation's changes: all its columns in catalog order, perhaps followed by [`LATE_COLUMN`]. Goes to
    /// every input of the graph on that relation.
    pub fn push(&mut self, input: RelationId, delta: &Delta) {
        let delta = delta.canonical();
        for place in 0..self.nodes.len() {
            let node = &self.nodes[place];
            let Some(source) = node.source.as_ref().filter(|source| source.relation == input) else { continue };
            let mut columns = source.columns.clone();
            let last = delta.rows.num_columns().saturating_sub(1);
            let is_marked = delta.schema().fields().get(last).is_some_and(|field| field.name() == LATE_COLUMN);
            let projected = if source.keeps_late && is_marked {
                columns.push(last);
                delta.project(&columns)
            } else {
                delta.project(&columns).with_schema(&node.schema)
            };
            let (node, after) = self.nodes[place..].split_first_mut().expect("the place of a node");
            let outlet = Outlet { place, users: &node.users, drops_retractions: node.drops_retractions };
            outlet.route(projected, after, &mut self.tally);
        }
        run(&mut self.nodes, 0, &mut self.tally, Times::default(), false);
    }

    /// [`Circuit::finish_version_at`] where no lateness is allowed and no clock is needed.
    pub fn finish_version(&mut self, watermark_us: Option<i64>) -> VersionOutput {
        self.finish_version_at(Times::of_watermark(watermark_us))
    }

    /// End of a version: what it changed. The times are the least of those of the graph's inputs that have event time; none
    /// of them goes back.
    pub fn finish_version_at(&mut self, times: Times) -> VersionOutput {
        run(&mut self.nodes, 0, &mut self.tally, times, true);
        if let Some(horizon_us) = times.horizon_us {
            self.retire(horizon_us);
        }
        let tally = &mut self.tally;
        let mut output = Delta::consolidate(&self.nodes[tally.output].schema, &tally.given);
        let columns = output.rows.columns().iter().zip(self.schema.fields());
        if columns.into_iter().all(|(column, field)| field.is_nullable() || column.null_count() == 0) {
            output = output.with_schema(&self.schema);
        }
        tally.given.clear();
        (tally.given_rows, tally.merged_rows) = (0, 0);
        VersionOutput { output, errors: tally.errors.take(), late: std::mem::take(&mut tally.late) }
    }

    /// Rows processed, and rows read from or written to state, since the circuit was made.
    pub fn rows_touched(&self) -> u64 {
        self.nodes.iter().map(|node| node.touched).sum()
    }

    /// Rows held by all operators.
    pub fn state_rows(&self) -> u64 {
        self.operator_stats().iter().map(|stats| stats.state_rows).sum()
    }

    /// About how many bytes all operators hold.
    pub fn state_bytes(&self) -> u64 {
        self.operator_stats().iter().map(|stats| stats.state_bytes).sum()
    }

    /// The same by operator, in the graph's order.
    pub fn operator_stats(&self) -> Vec<OperatorStats> {
        let stats = |node: &Wired| {
            let (state_rows, state_bytes) = node.operator.as_ref().map_or((0, 0), |operator| operator.state_size());
            OperatorStats { id: node.id, rows_touched: node.touched, state_rows, state_bytes }
        };
        self.nodes.iter().map(stats).collect()
    }

    /// The state of all operators as of the last finished version, in sections of about a MiB: each belongs to an operator,
    /// an operator may have any number of them. Must not be called between a push and the end of its version.
    pub fn save(&self, out: &mut dyn FnMut(OperatorId, &[u8])) {
        assert!(self.tally.given.is_empty(), "state is saved between versions");
        for node in &self.nodes {
            if let Some(operator) = &node.operator {
                operator.save(&mut |section| out(node.id, section));
            }
        }
    }

    /// A circuit of the same graph in the state that the sections hold: it gives the same outputs from then on.
    pub fn restore<B: AsRef<[u8]>>(
        graph: &Graph,
        sections: impl IntoIterator<Item = (OperatorId, B)>,
    ) -> Result<Circuit, EngineError> {
        Circuit::restore_with_shards(graph, Shards::ONE, sections)
    }

    /// The same with so many shards, however many there were when the sections were saved.
    pub fn restore_with_shards<B: AsRef<[u8]>>(
        graph: &Graph,
        shards: Shards,
        sections: impl IntoIterator<Item = (OperatorId, B)>,
    ) -> Result<Circuit, EngineError> {
        let mut circuit = Circuit::with_shards(graph, shards)?;
        for (id, section) in sections {
            let node = circuit.nodes.get_mut(id.0 as usize).and_then(|node| node.operator.as_mut());
            let node = node.ok_or_else(|| EngineError::State(format!("there is no operator {}", id.0)))?;
            node.restore(section.as_ref())?;
        }
        Ok(circuit)
    }

    /// Keeps the state of all operators in the spaces of an owner, from what is there. Nothing has been pushed yet. Operators
    /// that use their space read nothing of it before a delta asks for it.
    pub fn attach(&mut self, layers: &Arc<Layers>) -> Result<(), EngineError> {
        for node in &mut self.nodes {
            let Some(operator) = &mut node.operator else { continue };
            let space = Space::of_operator(layers.clone(), node.id.0, 0);
            match operator.uses_space() {
                true => operator.attach(&space)?,
                false => node.saved = Saved::load(&space, &mut **operator)?,
            }
            node.space = Some(space);
        }
        Ok(())
    }

    /// After this the spaces have all state, as of the last finished version.
    pub fn flush(&mut self) {
        assert!(self.tally.given.is_empty(), "state is written between versions");
        for node in &mut self.nodes {
            if let (Some(operator), Some(space)) = (&node.operator, &node.space)
                && !operator.uses_space()
            {
                node.saved.write(space, &**operator);
            }
        }
    }

    /// Drops from memory what the spaces have until about this many bytes are left. Between versions.
    pub fn shrink(&mut self, bytes: u64) {
        let held: Vec<u64> = self.operator_stats().iter().map(|stats| stats.state_bytes).collect();
        let all = held.iter().sum::<u64>().max(1);
        for (node, held) in self.nodes.iter_mut().zip(held) {
            if let (Some(operator), Some(space)) = (&mut node.operator, &node.space)
                && operator.uses_space()
            {
                let part = u128::from(held) * u128::from(bytes) / u128::from(all);
                let evicted = operator.shrink(part as u64);
                space.root().count_evicted(evicted);
            }
        }
    }

    /// Why state could not be read; if there is a reason, nothing that the circuit gave since can be used.
    pub fn take_failure(&mut self) -> Option<EngineError> {
        self.tally.failure.take()
    }

    /// Breaks an operator: from now on what it gives lacks the retractions. Exists so that tests can prove that they would
    /// notice.
    #[doc(hidden)]
    pub fn break_operator(&mut self, id: OperatorId) {
        self.nodes[id.0 as usize].drops_retractions = true;
    }
}

impl Circuit {
    fn retire(&mut self, horizon_us: i64) {
        for node in &mut self.nodes {
            let Some(operator) = &mut node.operator else { continue };
            operator.retire(horizon_us);
            let retired = node.space.as_ref().map_or(Ok(()), |space| operator.retire_stored(horizon_us, space));
            if let Err(error) = retired {
                self.tally.failure.get_or_insert(error);
            }
        }
    }
}

impl Tally {
    /// The output node gave this.
    fn give(&mut self, delta: Delta) {
        self.given_rows += delta.len();
        self.given.push(delta);
        if self.given_rows > MERGE_ROWS.max(2 * self.merged_rows)
            && let Some(schema) = &self.schema
        {
            let merged = Delta::consolidate(schema, &self.given);
            (self.given_rows, self.merged_rows) = (merged.len(), merged.len());
            self.given = vec![merged];
        }
    }
}

/// Where what a node gives goes.
struct Outlet<'a> {
    place: usize,
    users: &'a [(usize, usize)],
    drops_retractions: bool,
}

impl Outlet<'_> {
    /// Hands what the node gave to its users, which are all among the nodes after it.
    fn route(&self, mut delta: Delta, after: &mut [Wired], tally: &mut Tally) {
        if self.drops_retractions {
            let kept: BooleanArray = delta.weights.iter().map(|weight| Some(*weight > 0)).collect();
            delta = delta.filter(&kept);
        }
        if delta.is_empty() {
            return;
        }
        if self.place == tally.output {
            tally.give(delta.clone());
        }
        for (user, port) in self.users {
            tally.waiting += delta.len();
            after[user - self.place - 1].pending.push((*port, delta.clone()));
        }
    }
}

/// Runs every node on what waits for it, inputs before users; at the end of a version lets each finish as well. `first` is the
/// place of the first of these nodes, which are all up to the last. Where an operator gives much, what is after it runs in
/// between, so that not all of it has to be held.
fn run(nodes: &mut [Wired], first: usize, tally: &mut Tally, times: Times, is_end: bool) {
    for index in 0..nodes.len() {
        let (node, after) = nodes[index..].split_first_mut().expect("the index of a node");
        let place = first + index;
        let Wired { operator: Some(operator), users, pending, touched, space, drops_retractions, .. } = node else {
            continue;
        };
        let outlet = Outlet { place, users, drops_retractions: *drops_retractions };
        let (mut errors, mut late, mut failure) = (RowErrors::default(), 0, None);
        let mut context = Context {
            errors: &mut errors,
            touched,
            late: &mut late,
            times,
            space: space.as_ref(),
            failure: &mut failure,
        };
        for (port, delta) in std::mem::take(pending) {
            *context.touched += delta.len() as u64;
            tally.waiting -= delta.len();
            operator.apply_in_parts(port, &delta, &mut context, &mut |piece| {
                outlet.route(piece, after, tally);
                if tally.waiting > WAITING_ROWS_MAX {
                    run(after, place + 1, tally, times, false);
                }
            });
        }
        if is_end {
            for delta in operator.finish(&mut context) {
                outlet.route(delta, after, tally);
            }
        }
        tally.late += late;
        if let Some(failure) = failure {
            tally.failure.get_or_insert(failure);
        }
        for (message, weight) in errors.take() {
            tally.errors.add(message, weight);
        }
    }
}

/// Makes the operators of a graph.
struct Builder<'a> {
    graph: &'a Graph,
    compiler: &'a Compiler,
    schemas: &'a [SchemaRef],
}

impl Builder<'_> {
    /// Whether an input's users are DropLate. Mixed users would need the mark and not need it.
    fn feeds_drop_late(&self, id: OperatorId) -> Result<bool, EngineError> {
        let users = self.graph.nodes.iter().filter(|node| node.inputs.contains(&id));
        let dropping: Vec<bool> = users.map(|node| matches!(node.operator, Operator::DropLate {})).collect();
        match (dropping.contains(&true), dropping.contains(&false) || self.graph.output == id) {
            (true, true) => Err(EngineError::Graph(format!("input {} feeds DropLate and another operator", id.0))),
            (is_dropping, _) => Ok(is_dropping),
        }
    }

    fn input(&self, node: &Node, port: usize) -> &SchemaRef {
        &self.schemas[node.inputs[port].0 as usize]
    }

    /// The operator, as several shards where rows can be told apart by a key or need no state.
    fn build_sharded(&self, node: &Node, shards: Shards) -> Result<Box<dyn Operate>, EngineError> {
        let columns = |port: usize| (0..self.input(node, port).fields().len()).map(Scalar::Column).collect::<Vec<_>>();
        let keys: Vec<Vec<Scalar>> = match &node.operator {
            Operator::Aggregate { group, .. } => vec![group.clone()],
            Operator::Join { on, .. } | Operator::AsOf { on, .. } => {
                vec![on.iter().map(|pair| pair.0.clone()).collect(), on.iter().map(|pair| pair.1.clone()).collect()]
            }
            Operator::Distinct => vec![columns(0)],
            Operator::Over { partition, .. } => vec![partition.clone()],
            _ => Vec::new(),
        };
        let takes_ranges =
            matches!(&node.operator, Operator::Filter { .. } | Operator::Project { .. } | Operator::Unnest { .. });
        let has_keys = !keys.is_empty() && keys.iter().all(|keys| !keys.is_empty());
        if shards.count < 2 || !(takes_ranges || has_keys) {
            return self.operator(node);
        }
        let routing = if takes_ranges {
            Routing::Rows
        } else {
            let compile = |(port, keys): (usize, &Vec<Scalar>)| self.compiler.compile_all(keys, self.input(node, port));
            Routing::by(keys.iter().enumerate().map(compile).collect::<Result<_, _>>()?)?
        };
        let operators = (0..shards.count).map(|_| self.operator(node)).collect::<Result<Vec<_>, _>>()?;
        Ok(Box::new(Sharded::new(routing, operators, shards.parallel_rows)))
    }

    /// The operator, told what it may forget.
    fn operator(&self, node: &Node) -> Result<Box<dyn Operate>, EngineError> {
        let mut operator = self.build(node)?;
        operator.forgets(&node.forgets);
        Ok(operator)
    }

    fn build(&self, node: &Node) -> Result<Box<dyn Operate>, EngineError> {
        let schema = &self.schemas[node.id.0 as usize];
        Ok(match &node.operator {
            Operator::Input { .. } => unreachable!("inputs are sources"),
            Operator::Constant { rows } => Box::new(Constant::new(rows, schema)?),
            Operator::Filter { predicate } => {
                let predicate = self.compiler.compile(predicate, self.input(node, 0))?;
                Box::new(Filter { predicate, schema: schema.clone() })
            }
            Operator::Project { expressions } => {
                let expressions = self.compiler.compile_all(expressions, self.input(node, 0))?;
                Box::new(Project { expressions, schema: schema.clone() })
            }
            Operator::Unnest { column } => Box::new(Unnest { column: *column, schema: schema.clone() }),
            Operator::Aggregate { group, aggregates } => self.aggregate(node, group, aggregates)?,
            Operator::Join { kind, on, null_equals_null, filter, range } => {
                let (left, right) = (self.input(node, 0), self.input(node, 1));
                let filter = filter.as_ref().map(|filter| self.compiler.compile(filter, &pairs(left, right)));
                let parts = JoinParts {
                    kind: *kind,
                    null_equals_null: *null_equals_null,
                    filter: filter.transpose()?,
                    range: *range,
                    sides: [
                        (left.clone(), self.compiler.compile_all(on.iter().map(|pair| &pair.0), left)?),
                        (right.clone(), self.compiler.compile_all(on.iter().map(|pair| &pair.1), right)?),
                    ],
                };
                Box::new(Join::new(schema, parts)?)
            }
            Operator::AsOf { is_outer, on, times, nearest } => {
                let side = |port: usize, keys: Vec<&Scalar>, time: &Scalar| {
                    let input = self.input(node, port);
                    let keys = self.compiler.compile_all(keys, input)?;
                    Ok::<_, EngineError>((input.clone(), keys, self.compiler.compile(time, input)?))
                };
                let sides = [
                    side(0, on.iter().map(|pair| &pair.0).collect(), &times.0)?,
                    side(1, on.iter().map(|pair| &pair.1).collect(), &times.1)?,
                ];
                Box::new(AsOf::new(schema, AsOfParts { is_outer: *is_outer, nearest: *nearest, sides })?)
            }
            Operator::Union => Box::new(Union { schema: schema.clone() }),
            Operator::Distinct => Box::new(Distinct::new(schema)?),
            Operator::TopN { keys, limit, offset } => {
                Box::new(TopN::new(schema, self.sort_keys(keys, self.input(node, 0))?, *limit, *offset)?)
            }
            Operator::Over { partition, order, functions, limit } => {
                let input = self.input(node, 0);
                let function = |function: &mainstem_sql::WindowFunction| {
                    let filter = function.filter.as_ref().map(|filter| self.compiler.compile(filter, input));
                    let arguments = self.compiler.compile_all(&function.arguments, input)?;
                    Ok((function.clone(), arguments, filter.transpose()?))
                };
                let parts = OverParts {
                    partition: self.compiler.compile_all(partition, input)?,
                    order: self.sort_keys(order, input)?,
                    functions: functions.iter().map(function).collect::<Result<Vec<_>, EngineError>>()?,
                    limit: *limit,
                };
                Box::new(Over::new(input, schema, parts)?)
            }
            Operator::DropLate {} => Box::new(DropLate { schema: schema.clone() }),
            Operator::EmitOnClose { window_end, after_us, early_us } => {
                Box::new(EmitOnClose::new(schema, *window_end, *after_us, *early_us)?)
            }
            Operator::Temporal { value, comparison, bound, is_steady } => {
                let parts = TemporalParts {
                    value: self.compiler.compile(value, self.input(node, 0))?,
                    comparison: *comparison,
                    bound: self.compiler.compile(bound, &time_schema())?,
                    is_steady: *is_steady,
                };
                Box::new(Temporal::new(schema, parts)?)
            }
        })
    }

    fn sort_keys(
        &self,
        keys: &[mainstem_sql::SortKey],
        input: &SchemaRef,
    ) -> Result<Vec<(CompiledScalar, SortOptions)>, EngineError> {
        let key = |key: &mainstem_sql::SortKey| {
            let options = SortOptions { descending: key.descending, nulls_first: key.nulls_first };
            Ok((self.compiler.compile(&key.expression, input)?, options))
        };
        keys.iter().map(key).collect()
    }

    fn aggregate(
        &self,
        node: &Node,
        group: &[Scalar],
        aggregates: &[mainstem_sql::Aggregate],
    ) -> Result<Box<dyn Operate>, EngineError> {
        let input = self.input(node, 0);
        let part = |aggregate: &mainstem_sql::Aggregate| {
            let filter = aggregate.filter.as_ref().map(|filter| self.compiler.compile(filter, input)).transpose()?;
            Ok(AggregateParts {
                function: aggregate.function.clone(),
                order: self.sort_keys(&aggregate.order, input)?,
                ignore_nulls: aggregate.ignore_nulls,
                arguments: self.compiler.compile_all(&aggregate.arguments, input)?,
                is_distinct: aggregate.distinct,
                filter,
                result: parse_type(&aggregate.result).map_err(sql_error)?,
            })
        };
        let parts = aggregates.iter().map(part).collect::<Result<Vec<_>, EngineError>>()?;
        let group_columns = self.compiler.compile_all(group, input)?;
        let is_append_only = self.graph.node(node.inputs[0]).append_only;
        let ends = self.window_ends().get(&node.id).copied().filter(|column| *column < group.len());
        let schema = &self.schemas[node.id.0 as usize];
        Ok(Box::new(Aggregate::new(schema, group_columns, parts, is_append_only, ends)?))
    }

    /// Aggregates whose groups are of no more use once their window is closed, with the output column that ends the window:
    /// those that only EmitOnClose reads, directly or through filters and projections.
    fn window_ends(&self) -> BTreeMap<OperatorId, usize> {
        let mut found = BTreeMap::new();
        for node in &self.graph.nodes {
            // Graphs of version 3 say it themselves.
            let Operator::EmitOnClose { window_end, after_us: -1, .. } = node.operator else { continue };
            let (mut column, mut below) = (window_end, self.graph.node(node.inputs[0]));
            loop {
                let readers = self.graph.nodes.iter().filter(|reader| reader.inputs.contains(&below.id)).count();
                if readers != 1 || self.graph.output == below.id {
                    break;
                }
                match &below.operator {
                    Operator::Aggregate { .. } => {
                        found.insert(below.id, column);
                        break;
                    }
                    Operator::Filter { .. } => {}
                    Operator::Project { expressions } => match expressions[column] {
                        Scalar::Column(of) => column = of,
                        _ => break,
                    },
                    _ => break,
                }
                below = self.graph.node(below.inputs[0]);
            }
        }
        found
    }
}

/// The columns of both inputs of a join, for its filter.
fn pairs(left: &SchemaRef, right: &SchemaRef) -> SchemaRef {
    let fields = left.fields().iter().chain(right.fields()).cloned();
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The schema with all columns nullable. Inside a circuit nothing rests on a column being declared not null: DataFusion's
/// inference of it is a hint, and a null where none was promised must not stop the view.
fn nullable(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn sql_error(error: SqlError) -> EngineError {
    EngineError::Graph(error.message)
}
