//! A logical plan as operators, from the leaves up.
//!
//! Always true here: a node's output has the columns of its plan's schema, in the same order, so that an expression's
//! column is its index there.

use std::collections::BTreeMap;

use datafusion::common::DFSchema;
use datafusion::logical_expr::{
    Distinct, EmptyRelation, Expr, FetchType, Limit, LogicalPlan, Projection, SkipType, TableScan, Union, Unnest,
    Values,
};
use mainstem_catalog::{Column, Dependency, RelationKind};

use super::over::sort_keys;
use super::relations::scanned;
use super::window_close::{Emit, Lineage};
use crate::error::{SqlError, sqlstate};
use crate::graph::{GRAPH_VERSION, Graph, GraphField, Literal, Node, Operator, OperatorId, Scalar, SortKey};

/// A graph that is being made.
pub(super) struct Convert {
    pub(super) emit: Emit,
    /// Some source that late rows are taken out of has ALLOWED LATENESS.
    pub(super) allows_lateness: bool,
    pub(super) nodes: Vec<Node>,
    /// Per node and column: what it has to do with event time.
    pub(super) lineage: Vec<Vec<Lineage>>,
    /// Per node: rows of a watermarked source come through that no window has closed.
    pub(super) is_open: Vec<bool>,
    pub(super) depends_on: Vec<Dependency>,
    /// Two streams were joined without a bound on their times.
    pub(super) has_unbounded_join: bool,
    /// The join whose rows are the view's, for EMIT ON WINDOW CLOSE.
    pub(super) top_join: Option<*const LogicalPlan>,
}

/// LIMIT and OFFSET on their way down to the ORDER BY that they belong to.
#[derive(Clone, Copy)]
struct Window {
    limit: Option<u64>,
    offset: u64,
}

impl Convert {
    pub(super) fn new(emit: Emit) -> Convert {
        let (nodes, lineage, is_open, depends_on) = Default::default();
        let (has_unbounded_join, top_join) = (false, None);
        Convert { emit, allows_lateness: false, nodes, lineage, is_open, depends_on, has_unbounded_join, top_join }
    }

    /// The whole graph; its output node carries the names of the view's columns.
    pub(super) fn graph(
        mut self,
        plan: &LogicalPlan,
        columns: &[Column],
    ) -> Result<(Graph, Vec<Dependency>), SqlError> {
        self.top_join = Convert::top_join(plan).filter(|_| self.emit.on_window_close).map(std::ptr::from_ref);
        let output = self.plan(plan)?;
        self.check_closed(output)?;
        self.check_clock()?;
        let settings = BTreeMap::from([("time_zone".to_owned(), "UTC".to_owned())]);
        let mut graph = Graph { version: GRAPH_VERSION, nodes: self.nodes, output, settings };
        for (field, column) in graph.nodes[output.0 as usize].schema.iter_mut().zip(columns) {
            field.name.clone_from(&column.name);
        }
        Ok((graph, self.depends_on))
    }

    pub(super) fn plan(&mut self, plan: &LogicalPlan) -> Result<OperatorId, SqlError> {
        let id = self.node_of(plan)?;
        let is_top = self.top_join.is_some_and(|top| std::ptr::eq(top, plan));
        if is_top && self.is_open[id.0 as usize] { self.closing_join(plan, id) } else { Ok(id) }
    }

    fn node_of(&mut self, plan: &LogicalPlan) -> Result<OperatorId, SqlError> {
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan),
            LogicalPlan::SubqueryAlias(alias) => self.plan(&alias.input),
            LogicalPlan::Subquery(subquery) => self.plan(&subquery.subquery),
            LogicalPlan::Projection(projection) => {
                let input = self.plan(&projection.input)?;
                self.project(projection, input)
            }
            LogicalPlan::Filter(filter) => {
                let input = self.plan(&filter.input)?;
                self.filter_by(&filter.predicate, filter.input.schema(), input)
            }
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::Union(union) => self.union(union),
            LogicalPlan::Distinct(Distinct::All(input)) => {
                let of_rows = fields(input.schema())?;
                let input = self.plan(input)?;
                if self.emit.on_window_close {
                    // As groups, which are given when their window closes, and forgotten.
                    let group = (0..of_rows.len()).map(Scalar::Column).collect();
                    return self.push_aggregate(group, vec![], of_rows, input);
                }
                Ok(self.same(Operator::Distinct, input))
            }
            LogicalPlan::Distinct(Distinct::On(_)) => Err(SqlError::new(sqlstate::INTERNAL, "DISTINCT ON was left")),
            // A view has no order; an order with a limit is found by the limit.
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => self.plan(&sort.input),
            LogicalPlan::Sort(sort) => {
                self.top(plan, Window { limit: sort.fetch.map(|fetch| fetch as u64), offset: 0 })
            }
            LogicalPlan::Limit(limit) => self.limit(limit),
            LogicalPlan::Unnest(unnest) => self.unnest(unnest),
            LogicalPlan::Values(values) => self.values(values),
            LogicalPlan::EmptyRelation(empty) => self.empty(empty),
            LogicalPlan::Window(window) => self.over(window),
            LogicalPlan::Extension(extension) => self.extension(extension),
            LogicalPlan::RecursiveQuery(_) => Err(not_yet("WITH RECURSIVE")),
            other => Err(not_yet(&other.display().to_string())),
        }
    }

    fn scan(&mut self, scan: &TableScan) -> Result<OperatorId, SqlError> {
        let internal = |what: &str| SqlError::new(sqlstate::INTERNAL, format!("scan of {}: {what}", scan.table_name));
        let source = scanned(&scan.source).ok_or_else(|| internal("not a relation"))?;
        if !scan.filters.is_empty() || scan.fetch.is_some() {
            return Err(internal("filters were pushed into it"));
        }
        let relation = &source.relation;
        let columns: Vec<usize> = match &scan.projection {
            Some(projection) => projection.iter().map(|index| source.columns[*index]).collect(),
            None => source.columns.clone(),
        };
        self.depends_on.push(Dependency::Relation(relation.id));
        let append_only = match &relation.kind {
            RelationKind::Source(_) => true,
            RelationKind::MaterializedView(view) => match &view.graph {
                Some(json) => {
                    let graph = Graph::from_json(json)?;
                    graph.node(graph.output).append_only
                }
                None => false,
            },
            RelationKind::Table(_) | RelationKind::View(_) => false,
        };
        let schema = fields(&scan.projected_schema)?;
        let lineage = self.input_lineage(relation, &columns);
        let input = self.push(Operator::Input { relation: relation.id, columns }, vec![], schema, append_only, lineage);
        self.drop_late(relation, input)
    }

    fn project(&mut self, projection: &Projection, input: OperatorId) -> Result<OperatorId, SqlError> {
        let over = projection.input.schema();
        let expressions =
            projection.expr.iter().map(|expr| Scalar::from_expr(expr, over)).collect::<Result<Vec<_>, _>>()?;
        self.project_scalars(expressions, fields(&projection.schema)?, input)
    }

    /// A projection, unless it would change nothing; one that only picks columns is taken into the next.
    pub(super) fn project_scalars(
        &mut self,
        expressions: Vec<Scalar>,
        schema: Vec<GraphField>,
        input: OperatorId,
    ) -> Result<OperatorId, SqlError> {
        if let Some((picked, below)) = self.take_pick(input) {
            let expressions = expressions.iter().map(|scalar| scalar.with_columns(&|column| picked[column])).collect();
            return self.project_scalars(expressions, schema, below);
        }
        let of_input = &self.nodes[input.0 as usize].schema;
        let is_same = expressions.len() == of_input.len()
            && expressions.iter().enumerate().all(|(i, expression)| *expression == Scalar::Column(i))
            && schema.iter().zip(of_input).all(|(new, old)| new.metadata == old.metadata);
        if is_same {
            return Ok(input);
        }
        let lineage = expressions.iter().map(|expression| self.scalar_lineage(expression, input)).collect();
        let append_only = self.nodes[input.0 as usize].append_only;
        Ok(self.push(Operator::Project { expressions }, vec![input], schema, append_only, lineage))
    }

    /// Takes a projection off again that does nothing but pick columns; what it picks, and from which node.
    fn take_pick(&mut self, id: OperatorId) -> Option<(Vec<usize>, OperatorId)> {
        let node = self.nodes.last().filter(|node| node.id == id)?;
        let Operator::Project { expressions } = &node.operator else { return None };
        let column = |scalar: &Scalar| if let Scalar::Column(column) = scalar { Some(*column) } else { None };
        let picked = expressions.iter().map(column).collect::<Option<Vec<_>>>()?;
        let below = node.inputs[0];
        self.nodes.pop();
        self.lineage.pop();
        self.is_open.pop();
        Some((picked, below))
    }

    fn union(&mut self, union: &Union) -> Result<OperatorId, SqlError> {
        let inputs = union.inputs.iter().map(|input| self.plan(input)).collect::<Result<Vec<_>, _>>()?;
        if let [only] = inputs.as_slice() {
            return Ok(*only);
        }
        let schema = fields(&union.schema)?;
        for input in &inputs {
            let differs = |(a, b): (&GraphField, &GraphField)| a.data_type != b.data_type;
            if self.nodes[input.0 as usize].schema.iter().zip(&schema).any(differs) {
                return Err(SqlError::new(sqlstate::TYPE_MISMATCH, "UNION of different types"));
            }
        }
        let append_only = inputs.iter().all(|input| self.nodes[input.0 as usize].append_only);
        let mut lineage = self.lineage[inputs[0].0 as usize].clone();
        for input in &inputs[1..] {
            let other = &self.lineage[input.0 as usize];
            lineage.iter_mut().zip(other).for_each(|(one, other)| *one = one.of_both(*other));
        }
        Ok(self.push(Operator::Union, inputs, schema, append_only, lineage))
    }

    fn limit(&mut self, limit: &Limit) -> Result<OperatorId, SqlError> {
        let (SkipType::Literal(offset), FetchType::Literal(count)) = (limit.get_skip_type()?, limit.get_fetch_type()?)
        else {
            return Err(not_yet("LIMIT or OFFSET with an expression"));
        };
        let window = Window { limit: count.map(|count| count as u64), offset: offset as u64 };
        self.top(&limit.input, window)
    }

    /// The plan's rows within LIMIT and OFFSET: by its ORDER BY if it has one, which may be below a projection.
    fn top(&mut self, plan: &LogicalPlan, window: Window) -> Result<OperatorId, SqlError> {
        match plan {
            LogicalPlan::SubqueryAlias(alias) => self.top(&alias.input, window),
            LogicalPlan::Projection(projection) if is_ordered(&projection.input) => {
                let input = self.top(&projection.input, window)?;
                self.project(projection, input)
            }
            LogicalPlan::Sort(sort) if sort.fetch.is_none() || window.offset == 0 => {
                let input = self.plan(&sort.input)?;
                let keys = sort_keys(&sort.expr, sort.input.schema())?;
                let limit = [window.limit, sort.fetch.map(|fetch| fetch as u64)].into_iter().flatten().min();
                Ok(self.top_n(keys, Window { limit, ..window }, input))
            }
            other => {
                let input = self.plan(other)?;
                Ok(self.top_n(vec![], window, input))
            }
        }
    }

    fn top_n(&mut self, keys: Vec<SortKey>, window: Window, input: OperatorId) -> OperatorId {
        let id = self.same(Operator::TopN { keys, limit: window.limit, offset: window.offset }, input);
        self.nodes[id.0 as usize].append_only = false;
        // A row is given or not depending on rows of any time.
        self.lineage[id.0 as usize].fill(Lineage::Other);
        id
    }

    fn unnest(&mut self, unnest: &Unnest) -> Result<OperatorId, SqlError> {
        let input = self.plan(&unnest.input)?;
        let [(column, list)] = unnest.list_type_columns.as_slice() else {
            return Err(not_yet("unnest() of several columns"));
        };
        let width = unnest.schema.fields().len();
        let is_plain = list.depth == 1 && unnest.struct_type_columns.is_empty() && !unnest.options.preserve_nulls;
        if !is_plain || width != self.nodes[input.0 as usize].schema.len() {
            return Err(not_yet("unnest() of nested lists or structs"));
        }
        let mut lineage = self.lineage[input.0 as usize].clone();
        lineage[*column] = lineage[*column].item();
        let append_only = self.nodes[input.0 as usize].append_only;
        let schema = fields(&unnest.schema)?;
        Ok(self.push(Operator::Unnest { column: *column }, vec![input], schema, append_only, lineage))
    }

    fn values(&mut self, values: &Values) -> Result<OperatorId, SqlError> {
        let constant = |(expr, field): (&Expr, &std::sync::Arc<arrow::datatypes::Field>)| match expr {
            Expr::Literal(value, _) => Literal::from_value(&value.cast_to(field.data_type())?),
            other => Err(not_yet(&format!("VALUES with {other}"))),
        };
        let rows = values
            .values
            .iter()
            .map(|row| row.iter().zip(values.schema.fields().iter()).map(constant).collect())
            .collect::<Result<Vec<_>, _>>()?;
        self.constant(rows, &values.schema)
    }

    fn empty(&mut self, empty: &EmptyRelation) -> Result<OperatorId, SqlError> {
        let is_row = empty.produce_one_row;
        if is_row && !empty.schema.fields().is_empty() {
            return Err(SqlError::new(sqlstate::INTERNAL, "a row of nothing with columns"));
        }
        self.constant(if is_row { vec![vec![]] } else { vec![] }, &empty.schema)
    }

    fn constant(&mut self, rows: Vec<Vec<Literal>>, schema: &DFSchema) -> Result<OperatorId, SqlError> {
        let schema = fields(schema)?;
        let lineage = vec![Lineage::Other; schema.len()];
        Ok(self.push(Operator::Constant { rows }, vec![], schema, true, lineage))
    }

    /// An operator that keeps its input's columns.
    pub(super) fn same(&mut self, operator: Operator, input: OperatorId) -> OperatorId {
        let Node { schema, append_only, .. } = self.nodes[input.0 as usize].clone();
        let lineage = self.lineage[input.0 as usize].clone();
        self.push(operator, vec![input], schema, append_only, lineage)
    }

    pub(super) fn push(
        &mut self,
        operator: Operator,
        inputs: Vec<OperatorId>,
        schema: Vec<GraphField>,
        append_only: bool,
        lineage: Vec<Lineage>,
    ) -> OperatorId {
        let id = OperatorId(u32::try_from(self.nodes.len()).expect("a statement has fewer operators"));
        let is_open = inputs.iter().any(|input| self.is_open[input.0 as usize]);
        debug_assert_eq!(schema.len(), lineage.len());
        self.nodes.push(Node { id, operator, inputs, schema, append_only, forgets: vec![] });
        self.lineage.push(lineage);
        self.is_open.push(is_open);
        id
    }
}

fn is_ordered(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Sort(_) => true,
        LogicalPlan::SubqueryAlias(alias) => is_ordered(&alias.input),
        LogicalPlan::Projection(projection) => is_ordered(&projection.input),
        _ => false,
    }
}

/// Columns of a plan. All are nullable: what DataFusion infers is not kept under outer joins by every rule.
pub(super) fn fields(schema: &DFSchema) -> Result<Vec<GraphField>, SqlError> {
    let field = |field: &std::sync::Arc<arrow::datatypes::Field>| {
        let mut field = GraphField { nullable: true, ..GraphField::from_arrow(field)? };
        for (function, name) in [("hop_starts", "window_start"), ("cumulate_ends", "window_end")] {
            if field.name.starts_with(&format!("__unnest_placeholder({function}(")) {
                name.clone_into(&mut field.name);
            }
        }
        Ok(field)
    };
    schema.fields().iter().map(field).collect()
}

/// "X is not incremental yet"
pub(super) fn not_yet(what: &str) -> SqlError {
    SqlError::not_supported(format!("{what} is not incremental yet"))
        .with_hint("It can be used in a SELECT over views, tables and sources.")
}
