//! Joins of all kinds.
//!
//! A right join is a left join with its sides swapped. `IN` and `EXISTS` by equalities alone are inner joins with the distinct keys
//! of the other side, `NOT EXISTS` is a left join with them that keeps rows without partner; other conditions take semi and
//! anti joins. Within OR or CASE they are a column of true and false. Without any equality all rows have one key.

use datafusion::common::{DFSchema, JoinType, NullEquality, ScalarValue};
use datafusion::logical_expr::{FetchType, Join, LogicalPlan};

use super::convert::{Convert, not_yet};
use super::time_bounds::distances;
use super::window_close::Lineage;
use crate::error::SqlError;
use crate::graph::{Distance, GraphField, IsTest, JoinKind, Literal, Operator, OperatorId, Scalar};

impl Convert {
    pub(super) fn join(&mut self, join: &Join) -> Result<OperatorId, SqlError> {
        if join.null_aware {
            return Err(not_yet("NOT IN (subquery)").with_hint("Use NOT EXISTS, which also says what nulls mean."));
        }
        match join.join_type {
            JoinType::Inner => self.pairs(join, JoinKind::Inner),
            // That is how a scalar subquery is planned: of several rows it must be an error, not a join with all of them.
            JoinType::Left if join.on.is_empty() && join.filter.is_none() && !is_one_row(&join.right) => {
                Err(not_yet("a scalar subquery that may give several rows"))
            }
            JoinType::Left => self.pairs(join, JoinKind::Left),
            JoinType::Right => self.right(join),
            JoinType::LeftSemi | JoinType::RightSemi | JoinType::LeftAnti | JoinType::RightAnti => self.exists(join),
            JoinType::Full => self.pairs(join, JoinKind::Full),
            JoinType::LeftMark | JoinType::RightMark => self.mark(join),
        }
    }

    fn pairs(&mut self, join: &Join, kind: JoinKind) -> Result<OperatorId, SqlError> {
        let on = some_keys(keys(join)?)?;
        let (timed, filter) = match kind {
            JoinKind::Inner => Convert::split_clock(join.filter.as_ref()),
            _ => (None, join.filter.clone()),
        };
        let filter = filter.map(|filter| Scalar::from_expr(&filter, &both(join)?)).transpose()?;
        let left = self.plan(&join.left)?;
        let right = self.plan(&join.right)?;
        let pairs = self.push_join(kind, on, nulls_match(join), filter, left, right);
        timed.map_or(Ok(pairs), |timed| self.filter_by(&timed, &both(join)?, pairs))
    }

    fn right(&mut self, join: &Join) -> Result<OperatorId, SqlError> {
        let on = some_keys(swapped(keys(join)?))?;
        let (left_width, right_width) = (join.left.schema().fields().len(), join.right.schema().fields().len());
        let filter = filter_of(join, true)?;
        let left = self.plan(&join.left)?;
        let right = self.plan(&join.right)?;
        let turned = self.push_join(JoinKind::Left, on, nulls_match(join), filter, right, left);
        let order = (right_width..right_width + left_width).chain(0..right_width);
        self.pick(order, turned)
    }

    fn exists(&mut self, join: &Join) -> Result<OperatorId, SqlError> {
        let is_anti = matches!(join.join_type, JoinType::LeftAnti | JoinType::RightAnti);
        let sides = self.sides(join)?;
        if join.filter.is_some() {
            return self.half(join, if is_anti { JoinKind::Anti } else { JoinKind::Semi }, sides);
        }
        let width = self.nodes[sides.0.0 as usize].schema.len();
        let mut joined = self.with_marker(join, if is_anti { JoinKind::Left } else { JoinKind::Inner }, sides)?;
        if is_anti {
            let predicate = self.marker(joined, IsTest::Null);
            joined = self.same(Operator::Filter { predicate }, joined);
        }
        self.pick(0..width, joined)
    }

    /// A column that says whether there is a partner.
    fn mark(&mut self, join: &Join) -> Result<OperatorId, SqlError> {
        let sides = self.sides(join)?;
        let mut schema = self.nodes[sides.0.0 as usize].schema.clone();
        let width = schema.len();
        schema.push(internal_field("mark", "Boolean"));
        let with = |mark: Scalar| (0..width).map(Scalar::Column).chain([mark]).collect::<Vec<_>>();
        if join.filter.is_some() {
            let mut halves = Vec::new();
            for (kind, mark) in [(JoinKind::Semi, true), (JoinKind::Anti, false)] {
                let half = self.half(join, kind, sides)?;
                halves.push(self.project_scalars(with(boolean(mark)?), schema.clone(), half)?);
            }
            let lineage = vec![Lineage::Other; schema.len()];
            return Ok(self.push(Operator::Union, halves, schema, false, lineage));
        }
        let joined = self.with_marker(join, JoinKind::Left, sides)?;
        let mark = self.marker(joined, IsTest::NotNull);
        self.project_scalars(with(mark), schema, joined)
    }

    /// The side whose rows are given, and the one where partners are looked for.
    fn sides(&mut self, join: &Join) -> Result<(OperatorId, OperatorId), SqlError> {
        let (kept, other) = if keeps_right(join) { (&join.right, &join.left) } else { (&join.left, &join.right) };
        Ok((self.plan(kept)?, self.plan(other)?))
    }

    /// Rows of the kept side with or without a partner, by any condition.
    fn half(
        &mut self,
        join: &Join,
        kind: JoinKind,
        (kept, other): (OperatorId, OperatorId),
    ) -> Result<OperatorId, SqlError> {
        let filter = filter_of(join, keeps_right(join))?;
        Ok(self.push_join(kind, keys_from_kept(join)?, nulls_match(join), filter, kept, other))
    }

    /// A join of the kept side with the distinct keys of the other; in a left join the last column is true where there is such
    /// a key.
    fn with_marker(
        &mut self,
        join: &Join,
        kind: JoinKind,
        (kept, other): (OperatorId, OperatorId),
    ) -> Result<OperatorId, SqlError> {
        let (of_kept, mut of_other): (Vec<_>, Vec<_>) = keys_from_kept(join)?.into_iter().unzip();
        let mut schema = self.key_fields(&of_kept, kept, join)?;
        if kind == JoinKind::Left {
            of_other.push(boolean(true)?);
            schema.push(internal_field("is_there", "Boolean"));
        }
        let keys = self.project_scalars(of_other, schema, other)?;
        let keys = self.same(Operator::Distinct, keys);
        let on = of_kept.into_iter().enumerate().map(|(i, scalar)| (scalar, Scalar::Column(i))).collect();
        Ok(self.push_join(kind, on, nulls_match(join), None, kept, keys))
    }

    /// A test of the last column.
    fn marker(&self, joined: OperatorId, test: IsTest) -> Scalar {
        let last = self.nodes[joined.0 as usize].schema.len() - 1;
        Scalar::Is { test, argument: Box::new(Scalar::Column(last)) }
    }

    /// Fields of a projection to keys; both sides of an equality have one type.
    fn key_fields(&self, keys: &[Scalar], kept: OperatorId, join: &Join) -> Result<Vec<GraphField>, SqlError> {
        use datafusion::logical_expr::ExprSchemable;
        let field = |(i, scalar): (usize, &Scalar)| {
            if let Scalar::Column(column) = scalar {
                let field = &self.nodes[kept.0 as usize].schema[*column];
                return Ok(GraphField { name: format!("key_{i}"), metadata: Default::default(), ..field.clone() });
            }
            // Without any equality there is one key, true.
            let Some((left, right)) = join.on.get(i) else { return Ok(internal_field(&format!("key_{i}"), "Boolean")) };
            let data_type = if keeps_right(join) {
                right.get_type(join.right.schema())?
            } else {
                left.get_type(join.left.schema())?
            };
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
        let given = if kind.gives_pairs() { 2 } else { 1 };
        let of = |side: OperatorId| self.nodes[side.0 as usize].schema.clone();
        let sides = [of(left), of(right)];
        let distances = distances(&on, filter.as_ref(), &sides[0], &sides[1]);
        let mut settled = self.settled(left, right, &distances);
        let append_only =
            kind == JoinKind::Inner && [left, right].iter().all(|side| self.nodes[side.0 as usize].append_only);
        let schema: Vec<GraphField> = sides.into_iter().take(given).flatten().collect();
        let schema: Vec<_> = schema.into_iter().map(|field| GraphField { nullable: true, ..field }).collect();
        settled.lineage.truncate(schema.len());
        // Of several ranges the narrowest is not known; one with two ends is likely to be.
        let is_range = |distance: &&Distance| distance.least != distance.most || distance.least != Some(0);
        let ends = |distance: &&Distance| usize::from(distance.least.is_some()) + usize::from(distance.most.is_some());
        let range = distances.iter().filter(is_range).max_by_key(ends).copied();
        let operator = Operator::Join { kind, on, null_equals_null, filter, range };
        let id = self.push(operator, vec![left, right], schema, append_only, settled.lineage);
        settled.forgets.into_iter().for_each(|forget| self.forget(id, forget));
        id
    }
}

pub(super) fn internal_field(name: &str, data_type: &str) -> GraphField {
    GraphField { name: name.to_owned(), data_type: data_type.to_owned(), nullable: true, metadata: Default::default() }
}

fn keys(join: &Join) -> Result<Vec<(Scalar, Scalar)>, SqlError> {
    let (left_schema, right_schema) = (join.left.schema(), join.right.schema());
    let pair = |(left, right): &(datafusion::logical_expr::Expr, datafusion::logical_expr::Expr)| {
        Ok((Scalar::from_expr(left, left_schema)?, Scalar::from_expr(right, right_schema)?))
    };
    join.on.iter().map(pair).collect()
}

/// Whether it is the right side whose rows are given.
fn keeps_right(join: &Join) -> bool {
    matches!(join.join_type, JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark)
}

/// The keys of the kept side, each with that of the other. At least one.
fn keys_from_kept(join: &Join) -> Result<Vec<(Scalar, Scalar)>, SqlError> {
    let on = keys(join)?;
    some_keys(if keeps_right(join) { swapped(on) } else { on })
}

fn swapped(on: Vec<(Scalar, Scalar)>) -> Vec<(Scalar, Scalar)> {
    on.into_iter().map(|(left, right)| (right, left)).collect()
}

fn boolean(value: bool) -> Result<Scalar, SqlError> {
    Ok(Scalar::Literal(Literal::from_value(&ScalarValue::Boolean(Some(value)))?))
}

/// A join without equality compares all with all: all rows have one key.
pub(super) fn some_keys(on: Vec<(Scalar, Scalar)>) -> Result<Vec<(Scalar, Scalar)>, SqlError> {
    if on.is_empty() { Ok(vec![(boolean(true)?, boolean(true)?)]) } else { Ok(on) }
}

/// The condition over the columns of both sides, those of the right first if the sides are swapped.
fn filter_of(join: &Join, is_swapped: bool) -> Result<Option<Scalar>, SqlError> {
    let Some(filter) = &join.filter else { return Ok(None) };
    let schema = if is_swapped { join.right.schema().join(join.left.schema())? } else { both(join)? };
    Ok(Some(Scalar::from_expr(filter, &schema)?))
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
