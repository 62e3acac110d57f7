//! OVER windows, and what is made of row numbers: DISTINCT ON, the first rows of each group.

use arrow::datatypes::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::logical_expr::expr::{NullTreatment, Sort as SortExpr, WindowFunction as PlannedFunction};
use datafusion::logical_expr::{
    Distinct, DistinctOn, Expr, ExprFunctionExt, LogicalPlan, LogicalPlanBuilder, Operator as BinaryOperator, Window,
    lit,
};

use super::convert::{Convert, fields, not_yet};
use super::time_bounds::in_terms_of;
use super::window_close::Lineage;
use crate::error::SqlError;
use crate::functions::check_deterministic;
use crate::graph::{Forget, Frame, GraphField, Operator, OperatorId, Scalar, SortKey, WindowFunction};

/// What two functions share if one operator can compute both.
type Layout = (Vec<Scalar>, Vec<SortKey>);

impl Convert {
    pub(super) fn over(&mut self, window: &Window) -> Result<OperatorId, SqlError> {
        let input = self.plan(&window.input)?;
        let over = window.input.schema();
        let schema = fields(&window.schema)?;
        let width = over.fields().len();
        let mut groups: Vec<(Layout, Vec<(usize, WindowFunction)>)> = Vec::new();
        for (place, expr) in window.window_expr.iter().enumerate() {
            let (layout, function) = window_function(expr, over, &schema[width + place])?;
            match groups.iter_mut().find(|(known, _)| *known == layout) {
                Some((_, functions)) => functions.push((place, function)),
                None => groups.push((layout, vec![(place, function)])),
            }
        }
        let is_by_window = groups.iter().all(|((partition, _), _)| self.has_window(partition, input));
        let functions = groups.iter().flat_map(|((_, order), of)| of.iter().map(|(_, of)| (order.as_slice(), of)));
        // Of a window that is closed all values are there: whoever groups by it waits for that.
        let passed = if is_by_window { input } else { self.passed_rows(functions, input)? };
        let (is_passed, input) = (passed != input, passed);
        // One operator behind the other; then the functions in the order of the plan.
        let (mut last, mut places) = (input, (0..width).collect::<Vec<_>>());
        places.resize(schema.len(), 0);
        for ((partition, order), functions) in groups {
            let mut columns = self.nodes[last.0 as usize].schema.clone();
            for (place, _) in &functions {
                places[width + place] = columns.len();
                columns.push(schema[width + place].clone());
            }
            let functions = functions.into_iter().map(|(_, function)| function).collect();
            last = self.push_over((partition, order), functions, columns, last, is_passed);
        }
        let picks = places.into_iter().map(Scalar::Column).collect();
        self.project_scalars(picks, schema, last)
    }

    fn push_over(
        &mut self,
        (partition, order): Layout,
        functions: Vec<WindowFunction>,
        schema: Vec<GraphField>,
        input: OperatorId,
        is_passed: bool,
    ) -> OperatorId {
        // A row's functions are settled when all rows of its partition are; of rows that the watermark has passed they are.
        let settles =
            partition.iter().enumerate().find_map(|(place, scalar)| match self.scalar_lineage(scalar, input) {
                Lineage::Settles { is, after_us } if is.is_value() => Some((place, is, after_us)),
                _ => None,
            });
        let later = |lineage: &Lineage| match (lineage, settles) {
            (lineage, _) if is_passed => *lineage,
            (Lineage::Settles { is, after_us }, Some((_, by, by_us))) => {
                let later_us = if *is == by { by_us } else { in_terms_of(*is, by, by_us) };
                Lineage::Settles { is: *is, after_us: later_us.max(*after_us) }
            }
            _ => Lineage::Other,
        };
        let mut lineage: Vec<Lineage> = self.lineage[input.0 as usize].iter().map(later).collect();
        lineage.resize(schema.len(), Lineage::Other);
        let operator = Operator::Over { partition, order, functions, limit: None };
        let id = self.push(operator, vec![input], schema, false, lineage);
        if let Some((column, _, after_us)) = settles {
            self.forget(id, Forget { input: 0, column, after_us });
        }
        id
    }

    /// Rows for which the predicate is true. If it asks for the first rows of each partition below, no others are numbered.
    pub(super) fn filter(&mut self, predicate: Scalar, input: OperatorId) -> OperatorId {
        let conjuncts = match &predicate {
            Scalar::And(conjuncts) => conjuncts.as_slice(),
            one => std::slice::from_ref(one),
        };
        for (column, bound) in conjuncts.iter().filter_map(upper_bound) {
            self.limit_rows(column, bound, input);
        }
        self.same(Operator::Filter { predicate }, input)
    }

    /// Nodes are a tree while they are made: nobody else reads what stands below this one.
    fn limit_rows(&mut self, mut column: usize, bound: u64, mut at: OperatorId) {
        loop {
            let node = &mut self.nodes[at.0 as usize];
            match &mut node.operator {
                Operator::Project { expressions } => match expressions[column] {
                    Scalar::Column(below) => column = below,
                    _ => return,
                },
                Operator::Filter { .. } => {}
                Operator::Over { functions, limit, .. } => {
                    let is_number = |function: &WindowFunction| function.name == "row_number";
                    if column + functions.len() >= node.schema.len() && functions.iter().all(is_number) {
                        *limit = Some(limit.map_or(bound, |limit| limit.min(bound)));
                    }
                    return;
                }
                _ => return,
            }
            at = node.inputs[0];
        }
    }
}

/// DISTINCT ON as the first rows of groups, by row_number(). DataFusion 54 moves a condition from above it below it.
pub(super) fn numbered_distinct_on(plan: LogicalPlan) -> Result<LogicalPlan, SqlError> {
    let rewritten = plan.transform_up_with_subqueries(|plan| match plan {
        LogicalPlan::Distinct(Distinct::On(distinct)) => first_rows(distinct).map(Transformed::yes),
        other => Ok(Transformed::no(other)),
    })?;
    Ok(rewritten.data)
}

fn first_rows(distinct: DistinctOn) -> datafusion::common::Result<LogicalPlan> {
    let DistinctOn { on_expr, select_expr, sort_expr, input, .. } = distinct;
    let order = sort_expr.unwrap_or_default();
    let function = crate::functions::window_function("row_number").expect("one of ours");
    let number = Expr::from(PlannedFunction::new(function, vec![]));
    let number = number.partition_by(on_expr).order_by(order.clone()).build()?;
    let numbered = LogicalPlanBuilder::from(input.as_ref().clone()).window([number])?.build()?;
    let column = Column::from(numbered.schema().qualified_field(numbered.schema().fields().len() - 1));
    let mut first = LogicalPlanBuilder::from(numbered).filter(Expr::Column(column).eq(lit(1_i64)))?;
    if !order.is_empty() {
        // For a LIMIT above it.
        first = first.sort(order)?;
    }
    first.project(select_expr)?.build()
}

/// The column and the bound of `column <= bound` and the like.
fn upper_bound(conjunct: &Scalar) -> Option<(usize, u64)> {
    let Scalar::Binary { op, left, right } = conjunct else { return None };
    let (column, literal, op) = match (uncast(left), uncast(right)) {
        (Scalar::Column(column), Scalar::Literal(literal)) => (*column, literal, *op),
        (Scalar::Literal(literal), Scalar::Column(column)) => (*column, literal, op.swap()?),
        _ => return None,
    };
    // A fraction would have to be rounded, up or down by the operator.
    let value = literal.to_value().ok().filter(|value| value.data_type().is_integer())?;
    let ScalarValue::Int64(Some(value)) = value.cast_to(&DataType::Int64).ok()? else { return None };
    let bound = match op {
        BinaryOperator::LtEq | BinaryOperator::Eq => value,
        BinaryOperator::Lt => value.checked_sub(1)?,
        _ => return None,
    };
    Some((column, u64::try_from(bound).unwrap_or(0)))
}

/// Casts of row numbers change nothing.
fn uncast(scalar: &Scalar) -> &Scalar {
    match scalar {
        Scalar::Cast { argument, .. } => uncast(argument),
        Scalar::Function { name, arguments, .. } if name == crate::functions::PG_CAST => match arguments.as_slice() {
            [argument, ..] => uncast(argument),
            [] => scalar,
        },
        other => other,
    }
}

fn window_function(expr: &Expr, over: &DFSchema, field: &GraphField) -> Result<(Layout, WindowFunction), SqlError> {
    let Expr::WindowFunction(function) = expr.clone().unalias_nested().data else {
        return Err(not_yet(&expr.to_string()));
    };
    let PlannedFunction { fun, params } = *function;
    check_deterministic(fun.name(), fun.signature().volatility)?;
    let scalars = |list: &[Expr]| list.iter().map(|expr| Scalar::from_expr(expr, over)).collect::<Result<Vec<_>, _>>();
    let layout = (scalars(&params.partition_by)?, sort_keys(&params.order_by, over)?);
    let name = fun.name().to_owned();
    if crate::functions::window_function(&name).is_none() {
        return Err(not_yet(&format!("{name}() OVER")));
    }
    let function = WindowFunction {
        name,
        arguments: scalars(&params.args)?,
        distinct: params.distinct,
        ignore_nulls: params.null_treatment == Some(NullTreatment::IgnoreNulls),
        filter: params.filter.as_deref().map(|filter| Scalar::from_expr(filter, over)).transpose()?,
        frame: Frame::from_planned(&params.window_frame)?,
        result: field.data_type.clone(),
    };
    Ok((layout, function))
}

pub(super) fn sort_keys<'a>(
    keys: impl IntoIterator<Item = &'a SortExpr>,
    over: &DFSchema,
) -> Result<Vec<SortKey>, SqlError> {
    let key = |key: &SortExpr| {
        let expression = Scalar::from_expr(&key.expr, over)?;
        Ok(SortKey { expression, descending: !key.asc, nulls_first: key.nulls_first })
    };
    keys.into_iter().map(key).collect()
}
