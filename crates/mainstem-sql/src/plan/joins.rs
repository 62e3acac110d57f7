//! Joins: all kinds by inner and left joins.
//!
//! A right join is a left join with its sides swapped. `IN` and `EXISTS` are inner joins with the distinct keys of the other
//! side; `NOT EXISTS` is a left join with them that keeps rows without partner.

use datafusion::common::{DFSchema, JoinType, NullEquality, ScalarValue};
use datafusion::logical_expr::{FetchType, Join, LogicalPlan};

use super::convert::{Convert, not_yet};
use super::window_close::Lineage;
use crate::error::SqlError;
use crate::graph::{GraphField, IsTest, JoinKind, Literal, Operator, OperatorId, Scalar};

impl Convert {
    pub(super) fn join(&mut self, join: &Join) -> Result<OperatorId, SqlError> {
        if join.null_aware {
            return Err(not_yet("NOT IN (subquery)").with_hint("Use NOT EXISTS, which also says what nulls mean."));
        }
        match join.join_type {
            JoinType::Inner => self.pairs(join, JoinKind::Inner),
            JoinType::Left => self.pairs(join, JoinKind::Left),
            JoinType::Right => self.right(join),
            JoinType::LeftSemi | JoinType::RightSemi | JoinType::LeftAnti | JoinType::RightAnti => self.exists(join),
            JoinType::Full => Err(not_yet("FULL JOIN")),
            JoinType::LeftMark | JoinType::RightMark => Err(not_yet("IN or EXISTS within OR, CASE or the select list")),
        }
    }

    fn pairs(&mut self, join: &Join, kind: JoinKind) -> Result<OperatorId, SqlError> {
        let on = keys(join)?;
        let filter = join.filter.as_ref().map(|filter| Scalar::from_expr(filter, &both(join)?)).transpose()?;
        let on = self.some_keys(on, join)?;
        let left = self.plan(&join.left)?;
        let right = self.plan(&join.right)?;
        Ok(self.push_join(kind, on, nulls_match(join), filter, left, right))
    }

    /// A join without equality compares all with all. It is done only where one side is one row: a scalar subquery.
    fn some_keys(&self, on: Vec<(Scalar, Scalar)>, join: &Join) -> Result<Vec<(Scalar, Scalar)>, SqlError> {
        if !on.is_empty() {
            return Ok(on);
        }
        if is_one_row(&join.right) || (join.join_type == JoinType::Inner && is_one_row(&join.left)) {
            let one = Scalar::Literal(Literal::from_value(&ScalarValue::Boolean(Some(true)))?);
            return Ok(vec![(one.clone(), one)]);
        }
        let what = match (&join.filter, join.join_type) {
            (Some(_), _) => "a join without an equality",
            (None, JoinType::Left) => "a scalar subquery that may give several rows",
            (None, _) => "a cross join",
        };
        Err(not_yet(what).with_hint("Add a condition a.x = b.y to the join."))
    }

    fn right(&mut self, join: &Join) -> Result<OperatorId, SqlError> {
        let on: Vec<_> = keys(join)?.into_iter().map(|(left, right)| (right, left)).collect();
        if on.is_empty() {
            return Err(not_yet("a right join without an equality"));
        }
        let (left_width, right_width) = (join.left.schema().fields().len(), join.right.schema().fields().len());
        let both = join.right.schema().join(join.left.schema());
        let filter = match &join.filter {
            Some(filter) => Some(Scalar::from_expr(filter, &both?)?),
            None => None,
        };
        let left = self.plan(&join.left)?;
        let right = self.plan(&join.right)?;
        let swapped = self.push_join(JoinKind::Left, on, nulls_match(join), filter, right, left);
        let order = (right_width..right_width + left_width).chain(0..right_width);
        self.pick(order, swapped)
    }

    fn exists(&mut self, join: &Join) -> Result<OperatorId, SqlError> {
        let is_swapped = matches!(join.join_type, JoinType::RightSemi | JoinType::RightAnti);
        let is_anti = matches!(join.join_type, JoinType::LeftAnti | JoinType::RightAnti);
        let (kept, other) = if is_swapped { (&join.right, &join.left) } else { (&join.left, &join.right) };
        let mut on = keys(join)?;
        if is_swapped {
            on = on.into_iter().map(|(left, right)| (right, left)).collect();
        }
        if join.filter.is_some() {
            return Err(not_yet("IN or EXISTS with a condition on both sides that is no equality"));
        }
        if on.is_empty() {
            return Err(not_yet("EXISTS without an equality to the outer query"));
        }
        let kept = self.plan(kept)?;
        let other = self.plan(other)?;
        let width = self.nodes[kept.0 as usize].schema.len();
        let (of_kept, mut of_other): (Vec<_>, Vec<_>) = on.into_iter().unzip();
        let mut schema = self.key_fields(&of_kept, kept, join)?;
        let marker = of_other.len();
        if is_anti {
            of_other.push(Scalar::Literal(Literal::from_value(&ScalarValue::Boolean(Some(true)))?));
            schema.push(internal_field("is_there", "Boolean"));
        }
        let keys = self.project_scalars(of_other, schema, other)?;
        let keys = self.same(Operator::Distinct, keys);
        let on = of_kept.into_iter().enumerate().map(|(i, scalar)| (scalar, Scalar::Column(i))).collect();
        let kind = if is_anti { JoinKind::Left } else { JoinKind::Inner };
        let mut joined = self.push_join(kind, on, nulls_match(join), None, kept, keys);
        if is_anti {
            let argument = Box::new(Scalar::Column(width + marker));
            joined = self.same(Operator::Filter { predicate: Scalar::Is { test: IsTest::Null, argument } }, joined);
        }
        self.pick(0..width, joined)
    }

    /// Fields of a projection to keys; both sides of an equality have one type.
    fn key_fields(&self, keys: &[Scalar], kept: OperatorId, join: &Join) -> Result<Vec<GraphField>, SqlError> {
        use datafusion::logical_expr::ExprSchemable;
        let is_swapped = matches!(join.join_type, JoinType::RightSemi | JoinType::RightAnti);
        let field = |(i, scalar): (usize, &Scalar)| {
            if let Scalar::Column(column) = scalar {
                let field = &self.nodes[kept.0 as usize].schema[*column];
                return Ok(GraphField { name: format!("key_{i}"), metadata: Default::default(), ..field.clone() });
            }
            let (left, right) = &join.on[i];
            let data_type =
                if is_swapped { right.get_type(join.right.schema())? } else { left.get_type(join.left.schema())? };
            Ok(internal_field(&format!("key_{i}"), &crate::graph::type_text(&data_type)?))
        };
        keys.iter().enumerate().map(field).collect()
    }

    /// Some of a node's columns.
    fn pick(&mut self, columns: impl Iterator<Item = usize>, input: OperatorId) -> Result<OperatorId, SqlError> {
        let columns: Vec<usize> = columns.collect();
        let schema = columns.iter().map(|column| self.nodes[input.0 as usize].schema[*column].clone()).collect();
        self.project_scalars(columns.into_iter().map(Scalar::Column).collect(), schema, input)
    }

    fn push_join(
        &mut self,
        kind: JoinKind,
        on: Vec<(Scalar, Scalar)>,
        null_equals_null: bool,
        filter: Option<Scalar>,
        left: OperatorId,
        right: OperatorId,
    ) -> OperatorId {
        let sides = [left.0 as usize, right.0 as usize];
        let schema = sides.iter().flat_map(|side| self.nodes[*side].schema.clone());
        let schema = schema.map(|field| GraphField { nullable: true, ..field }).collect();
        let mut lineage: Vec<Lineage> = self.lineage[sides[0]].clone();
        lineage.extend_from_slice(&self.lineage[sides[1]]);
        let append_only = kind == JoinKind::Inner && sides.iter().all(|side| self.nodes[*side].append_only);
        let operator = Operator::Join { kind, on, null_equals_null, filter };
        self.push(operator, vec![left, right], schema, append_only, lineage)
    }
}

fn internal_field(name: &str, data_type: &str) -> GraphField {
    GraphField { name: name.to_owned(), data_type: data_type.to_owned(), nullable: true, metadata: Default::default() }
}

fn keys(join: &Join) -> Result<Vec<(Scalar, Scalar)>, SqlError> {
    let (left_schema, right_schema) = (join.left.schema(), join.right.schema());
    let pair = |(left, right): &(datafusion::logical_expr::Expr, datafusion::logical_expr::Expr)| {
        Ok((Scalar::from_expr(left, left_schema)?, Scalar::from_expr(right, right_schema)?))
    };
    join.on.iter().map(pair).collect()
}

fn both(join: &Join) -> Result<DFSchema, SqlError> {
    Ok(join.left.schema().join(join.right.schema())?)
}

fn nulls_match(join: &Join) -> bool {
    join.null_equality == NullEquality::NullEqualsNull
}

/// Whether a plan gives at most one row, whatever happens.
fn is_one_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        LogicalPlan::Projection(projection) => is_one_row(&projection.input),
        LogicalPlan::Filter(filter) => is_one_row(&filter.input),
        LogicalPlan::Limit(limit) => {
            matches!(limit.get_fetch_type(), Ok(FetchType::Literal(Some(0 | 1)))) || is_one_row(&limit.input)
        }
        LogicalPlan::SubqueryAlias(alias) => is_one_row(&alias.input),
        LogicalPlan::Subquery(subquery) => is_one_row(&subquery.subquery),
        LogicalPlan::EmptyRelation(empty) => empty.produce_one_row,
        LogicalPlan::Values(values) => values.values.len() == 1,
        _ => false,
    }
}
