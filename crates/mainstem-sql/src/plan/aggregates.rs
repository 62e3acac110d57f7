//! GROUP BY: DataFusion's aggregates as those that have an incremental form.

use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::expr::{AggregateFunction as PlannedFunction, Cast, NullTreatment, Sort as SortExpr};
use datafusion::logical_expr::utils::grouping_set_to_exprlist;
use datafusion::logical_expr::{Aggregate as PlannedAggregate, Expr, GroupingSet};

use super::convert::{Convert, fields, not_yet};
use super::over::sort_keys;
use super::window_close::Lineage;
use crate::error::{SqlError, sqlstate};
use crate::functions::check_deterministic;
use crate::graph::{Aggregate, AggregateFunction, Forget, GraphField, Literal, Moment, Operator, OperatorId, Scalar};

/// PostgreSQL's: 4,096 sets.
const CUBE_MAX: usize = 12;

impl Convert {
    pub(super) fn aggregate(&mut self, planned: &PlannedAggregate) -> Result<OperatorId, SqlError> {
        if let [Expr::GroupingSet(sets)] = planned.group_expr.as_slice() {
            return self.grouping_sets(planned, sets);
        }
        let input = self.plan(&planned.input)?;
        let over = planned.input.schema();
        // The schema has an expression that is named twice only once.
        let group = grouping_set_to_exprlist(&planned.group_expr)?;
        let group = group.into_iter().map(|expr| Scalar::from_expr(expr, over)).collect::<Result<Vec<_>, _>>()?;
        let schema = fields(&planned.schema)?;
        let results = schema.get(group.len()..).unwrap_or_default();
        let aggregates = planned
            .aggr_expr
            .iter()
            .zip(results)
            .map(|(expr, field)| convert(expr, over, field))
            .collect::<Result<Vec<_>, _>>()?;
        self.push_aggregate(group, aggregates, schema, input)
    }

    /// One aggregate for each set, with nulls for the columns that are not in it and DataFusion's `__grouping_id`: a bit for each
    /// of those, the last column's is the lowest.
    fn grouping_sets(&mut self, planned: &PlannedAggregate, sets: &GroupingSet) -> Result<OperatorId, SqlError> {
        let input = self.plan(&planned.input)?;
        let over = planned.input.schema();
        let distinct = sets.distinct_expr();
        let group = distinct.iter().map(|expr| Scalar::from_expr(expr, over)).collect::<Result<Vec<_>, _>>()?;
        if matches!(sets, GroupingSet::Cube(_)) && group.len() > CUBE_MAX {
            return Err(SqlError::new(sqlstate::TOO_MANY_COLUMNS, format!("CUBE is limited to {CUBE_MAX} elements")));
        }
        let members: Vec<Vec<bool>> = match sets {
            GroupingSet::Rollup(_) => (0..=group.len()).map(|n| (0..group.len()).map(|i| i < n).collect()).collect(),
            GroupingSet::Cube(_) => {
                (0..1_usize << group.len()).map(|n| (0..group.len()).map(|i| n >> i & 1 == 1).collect()).collect()
            }
            GroupingSet::GroupingSets(sets) => {
                sets.iter().map(|set| distinct.iter().map(|expr| set.contains(expr)).collect()).collect()
            }
        };
        let schema = fields(&planned.schema)?;
        let results = &schema[group.len() + 1..];
        let aggregates = planned.aggr_expr.iter().zip(results).map(|(expr, field)| convert(expr, over, field));
        let aggregates = aggregates.collect::<Result<Vec<_>, _>>()?;
        let mut parts = Vec::new();
        for member in members {
            let kept: Vec<usize> = (0..group.len()).filter(|place| member[*place]).collect();
            let mut columns: Vec<GraphField> = kept.iter().map(|place| schema[*place].clone()).collect();
            columns.extend(results.iter().cloned());
            let keys = kept.iter().map(|place| group[*place].clone()).collect();
            let part = self.push_aggregate(keys, aggregates.clone(), columns, input)?;
            let id = (0..group.len()).fold(0_u64, |id, place| id << 1 | u64::from(!member[place]));
            let mut picks = Vec::new();
            for (place, field) in schema[..group.len()].iter().enumerate() {
                picks.push(match kept.iter().position(|of| *of == place) {
                    Some(column) => Scalar::Column(column),
                    None => constant(&ScalarValue::Null, field)?,
                });
            }
            picks.push(constant(&ScalarValue::UInt64(Some(id)), &schema[group.len()])?);
            picks.extend((0..aggregates.len()).map(|place| Scalar::Column(kept.len() + place)));
            parts.push(self.project_scalars(picks, schema.clone(), part)?);
        }
        let lineage = vec![Lineage::Other; schema.len()];
        Ok(self.push(Operator::Union, parts, schema, false, lineage))
    }

    /// The aggregate, and above it what holds back open windows.
    pub(super) fn push_aggregate(
        &mut self,
        group: Vec<Scalar>,
        aggregates: Vec<Aggregate>,
        schema: Vec<GraphField>,
        input: OperatorId,
    ) -> Result<OperatorId, SqlError> {
        if self.emit.on_window_close && self.is_open[input.0 as usize] {
            if let Some(id) = self.closing_aggregate(&group, &aggregates, &schema, input)? {
                return Ok(id);
            }
        }
        let mut lineage: Vec<Lineage> = group.iter().map(|scalar| self.scalar_lineage(scalar, input)).collect();
        let settles = lineage.iter().enumerate().find_map(|(column, lineage)| Some((column, lineage.after_us()?)));
        lineage.resize(schema.len(), Lineage::Other);
        // Rows of a window that has closed come all at once.
        let is_revised = self.allows_lateness || self.emit.early_us.is_some();
        let append_only = settles.is_some() && !self.is_open[input.0 as usize] && !is_revised;
        let id = self.push(Operator::Aggregate { group, aggregates }, vec![input], schema, append_only, lineage);
        if let Some((column, after_us)) = settles {
            self.forget(id, Forget { input: 0, column, after_us });
        }
        Ok(id)
    }
}

/// A value of the field's type.
fn constant(value: &ScalarValue, field: &GraphField) -> Result<Scalar, SqlError> {
    let value = value.cast_to(&crate::graph::parse_type(&field.data_type)?)?;
    Ok(Scalar::Literal(Literal::from_value(&value)?))
}

fn convert(expr: &Expr, over: &DFSchema, field: &GraphField) -> Result<Aggregate, SqlError> {
    let Expr::AggregateFunction(PlannedFunction { func, params }) = expr.clone().unalias_nested().data else {
        return Err(not_yet(&expr.to_string()));
    };
    check_deterministic(func.name(), func.signature().volatility)?;
    let mut arguments = params.args;
    let function = function_of(func.name(), &mut arguments, &params.order_by, params.distinct)?;
    let ignore_nulls = params.null_treatment == Some(NullTreatment::IgnoreNulls);
    if params.null_treatment.is_some() && !function.takes_nulls() {
        return Err(not_yet(&format!("{}() with IGNORE NULLS or RESPECT NULLS", func.name())));
    }
    // Of equal values one is as good as all.
    let is_plain = matches!(
        function,
        AggregateFunction::Min
            | AggregateFunction::Max
            | AggregateFunction::BoolAnd
            | AggregateFunction::BoolOr
            | AggregateFunction::BitAnd
            | AggregateFunction::BitOr
    );
    if params.distinct && arguments.len() > 1 {
        return Err(not_yet(&format!("{}(DISTINCT) of several columns", func.name())));
    }
    let order = if function.is_ordered() { sort_keys(&params.order_by, over)? } else { vec![] };
    Ok(Aggregate {
        function,
        arguments: arguments.iter().map(|argument| Scalar::from_expr(argument, over)).collect::<Result<_, _>>()?,
        distinct: params.distinct && !is_plain,
        filter: params.filter.as_deref().map(|filter| Scalar::from_expr(filter, over)).transpose()?,
        order,
        ignore_nulls,
        result: field.data_type.clone(),
    })
}

/// The function by DataFusion's name. Arguments that have to be constants are taken out of `arguments` into it.
fn function_of(
    name: &str,
    arguments: &mut Vec<Expr>,
    order: &[SortExpr],
    is_distinct: bool,
) -> Result<AggregateFunction, SqlError> {
    if let Some(moment) = Moment::ALL.into_iter().find(|moment| moment.name() == name) {
        return Ok(AggregateFunction::Moment(moment));
    }
    Ok(match name {
        "count" => {
            // count(*) comes as the count of a constant.
            if !is_distinct {
                arguments.retain(|argument| !matches!(argument, Expr::Literal(value, _) if !value.is_null()));
            }
            AggregateFunction::Count
        }
        "sum" => AggregateFunction::Sum,
        "avg" => AggregateFunction::Avg,
        "min" => AggregateFunction::Min,
        "max" => AggregateFunction::Max,
        "median" => AggregateFunction::Median,
        "bool_and" => AggregateFunction::BoolAnd,
        "bool_or" => AggregateFunction::BoolOr,
        "bit_and" => AggregateFunction::BitAnd,
        "bit_or" => AggregateFunction::BitOr,
        "bit_xor" => AggregateFunction::BitXor,
        "percentile_cont" => {
            let descending = order.first().is_some_and(|key| !key.asc);
            let fraction = fraction(arguments.get(1))?;
            arguments.truncate(1);
            let fraction = if descending { 1.0 - fraction } else { fraction };
            AggregateFunction::PercentileCont { fraction_bits: fraction.to_bits() }
        }
        "array_agg" => AggregateFunction::ArrayAgg,
        "first_value" => AggregateFunction::FirstValue,
        "last_value" => AggregateFunction::LastValue,
        "string_agg" => {
            let delimiter = constant_of(arguments.get(1)).and_then(|value| value.cast_to(&DataType::Utf8).ok());
            let Some(ScalarValue::Utf8(Some(delimiter))) = delimiter else {
                return Err(SqlError::new(
                    sqlstate::INVALID_PARAMETER,
                    "the delimiter of string_agg() must be a constant in a materialized view",
                ));
            };
            arguments.truncate(1);
            AggregateFunction::StringAgg { delimiter }
        }
        "nth_value" => {
            let n = constant_of(arguments.get(1)).and_then(|value| value.cast_to(&DataType::Int64).ok());
            let Some(ScalarValue::Int64(Some(n))) = n.filter(|n| *n != ScalarValue::Int64(Some(0))) else {
                return Err(SqlError::new(
                    sqlstate::INVALID_PARAMETER,
                    "the place that nth_value() asks for must be a constant other than 0",
                ));
            };
            arguments.truncate(1);
            AggregateFunction::NthValue { n }
        }
        other => return Err(not_yet(&format!("aggregate function {other}()"))),
    })
}

/// The constant below casts.
fn constant_of(mut argument: Option<&Expr>) -> Option<ScalarValue> {
    while let Some(Expr::Cast(Cast { expr, .. })) = argument {
        argument = Some(expr);
    }
    match argument {
        Some(Expr::Literal(value, _)) => Some(value.clone()),
        _ => None,
    }
}

fn fraction(argument: Option<&Expr>) -> Result<f64, SqlError> {
    match constant_of(argument).and_then(|value| value.cast_to(&DataType::Float64).ok()) {
        Some(ScalarValue::Float64(Some(fraction))) if (0.0..=1.0).contains(&fraction) => Ok(fraction),
        _ => Err(SqlError::new(
            sqlstate::INVALID_PARAMETER,
            "the fraction of percentile_cont() must be a constant between 0 and 1",
        )),
    }
}
