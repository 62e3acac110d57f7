//! Aggregates of groups.

use serde::{Deserialize, Serialize};

use super::{Scalar, SortKey};

/// One aggregate of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aggregate {
    /// Which.
    pub function: AggregateFunction,
    /// Over the input; types are already what the function works on.
    pub arguments: Vec<Scalar>,
    /// Of distinct argument values only.
    pub distinct: bool,
    /// Only rows for which this is true.
    pub filter: Option<Scalar>,
    /// In which order the rows are taken, by the functions that ask for one; total as far as the result tells.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub order: Vec<SortKey>,
    /// Of `array_agg`, `first_value`, `last_value`, `nth_value`: pass over nulls, which the others always do.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ignore_nulls: bool,
    /// The type of the result, as DataFusion has it.
    pub result: String,
}

/// Aggregate functions that have an incremental form. Nulls among the arguments are left out by all of them.
///
/// The types are DataFusion's: `sum` over integers is Int64, over unsigned ones UInt64, over floats Float64, over
/// Decimal128(p, s) Decimal128(min(38, p + 10), s); it wraps on overflow of an integer. `avg` is Float64, or
/// Decimal128(min(38, p + 4), min(38, s + 4)) over decimals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AggregateFunction {
    /// Rows, or rows where no argument is null.
    Count,
    /// Sum; null for no values.
    Sum,
    /// Mean; null for no values.
    Avg,
    /// Smallest.
    Min,
    /// Largest.
    Max,
    /// `percentile_cont(fraction) WITHIN GROUP (ORDER BY x)`. The one argument is x, a float (DataFusion casts
    /// integers and decimals to Float64); the fraction is already `1 - fraction` for a descending order.
    ///
    /// DataFusion 54's value over the sorted non-null values v[0..n]: none gives null, one gives itself, fraction 0 the
    /// smallest, 1 the largest; else with `index = fraction * (n - 1)`, `lower = floor(index)`, `upper = ceil(index)`:
    /// v[lower] if they are the same, else `v[lower] + (v[upper] - v[lower]) * weight` in f64, where the weight is
    /// quantised: `((index - lower) * 1e6) as usize as f64 / 1e6`. Order is IEEE total order.
    PercentileCont {
        /// Bits of the f64, between 0 and 1.
        fraction_bits: u64,
    },
    /// DataFusion 54's median, of the argument's own type: floats (it casts integers to Float64), or decimals. An odd number of values gives the
    /// middle one; an even number `(low + high) / 2` of the two middle ones, in the native type, truncating; if the sum
    /// overflows `low / 2 + high / 2 + (low % 2 + high % 2) / 2`. Decimals on their unscaled integers.
    Median,
    /// All true.
    BoolAnd,
    /// Any true.
    BoolOr,
    /// Bits of all.
    BitAnd,
    /// Bits of any.
    BitOr,
    /// Bits of an odd number.
    BitXor,
    /// A list of the values, nulls included; null for no rows.
    ArrayAgg,
    /// The texts that are not null with the delimiter between them; null for none.
    StringAgg {
        /// Between two texts.
        delimiter: String,
    },
    /// The value of the first row.
    FirstValue,
    /// The value of the last row.
    LastValue,
    /// The value of row `n` from the start, counted from 1; a negative one from the end.
    NthValue {
        /// Not 0.
        n: i64,
    },
    /// Variances, covariances, correlation and regression. Arguments are floats.
    Moment(Moment),
}

/// Functions of the counts, sums, sums of squares and of products. Of two arguments the first is y, the second x. Null where
/// PostgreSQL has null; computed from exact sums, and rounded at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// `var_samp`
    VarSamp,
    /// `var_pop`
    VarPop,
    /// `stddev_samp`
    StddevSamp,
    /// `stddev_pop`
    StddevPop,
    /// `covar_samp`
    CovarSamp,
    /// `covar_pop`
    CovarPop,
    /// `corr`
    Corr,
    /// `regr_slope`
    RegrSlope,
    /// `regr_intercept`
    RegrIntercept,
    /// `regr_count`
    RegrCount,
    /// `regr_r2`
    RegrR2,
    /// `regr_avgx`
    RegrAvgx,
    /// `regr_avgy`
    RegrAvgy,
    /// `regr_sxx`
    RegrSxx,
    /// `regr_syy`
    RegrSyy,
    /// `regr_sxy`
    RegrSxy,
}

impl Moment {
    /// All of them.
    pub const ALL: [Moment; 16] = [
        Moment::VarSamp,
        Moment::VarPop,
        Moment::StddevSamp,
        Moment::StddevPop,
        Moment::CovarSamp,
        Moment::CovarPop,
        Moment::Corr,
        Moment::RegrSlope,
        Moment::RegrIntercept,
        Moment::RegrCount,
        Moment::RegrR2,
        Moment::RegrAvgx,
        Moment::RegrAvgy,
        Moment::RegrSxx,
        Moment::RegrSyy,
        Moment::RegrSxy,
    ];

    /// DataFusion's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Moment::VarSamp => "var",
            Moment::VarPop => "var_pop",
            Moment::StddevSamp => "stddev",
            Moment::StddevPop => "stddev_pop",
            Moment::CovarSamp => "covar_samp",
            Moment::CovarPop => "covar_pop",
            Moment::Corr => "corr",
            Moment::RegrSlope => "regr_slope",
            Moment::RegrIntercept => "regr_intercept",
            Moment::RegrCount => "regr_count",
            Moment::RegrR2 => "regr_r2",
            Moment::RegrAvgx => "regr_avgx",
            Moment::RegrAvgy => "regr_avgy",
            Moment::RegrSxx => "regr_sxx",
            Moment::RegrSyy => "regr_syy",
            Moment::RegrSxy => "regr_sxy",
        }
    }

    /// How many arguments.
    #[must_use]
    pub fn arguments(self) -> usize {
        match self {
            Moment::VarSamp | Moment::VarPop | Moment::StddevSamp | Moment::StddevPop => 1,
            _ => 2,
        }
    }
}

impl Aggregate {
    /// Of all rows, in any order. `result` is Arrow's text of the type.
    #[must_use]
    pub fn new(function: AggregateFunction, arguments: Vec<Scalar>, result: String) -> Aggregate {
        Aggregate { function, arguments, distinct: false, filter: None, order: vec![], ignore_nulls: false, result }
    }
}

impl AggregateFunction {
    /// SQL's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            AggregateFunction::Count => "count",
            AggregateFunction::Sum => "sum",
            AggregateFunction::Avg => "avg",
            AggregateFunction::Min => "min",
            AggregateFunction::Max => "max",
            AggregateFunction::PercentileCont { .. } => "percentile_cont",
            AggregateFunction::Median => "median",
            AggregateFunction::BoolAnd => "bool_and",
            AggregateFunction::BoolOr => "bool_or",
            AggregateFunction::BitAnd => "bit_and",
            AggregateFunction::BitOr => "bit_or",
            AggregateFunction::BitXor => "bit_xor",
            AggregateFunction::ArrayAgg => "array_agg",
            AggregateFunction::StringAgg { .. } => "string_agg",
            AggregateFunction::FirstValue => "first_value",
            AggregateFunction::LastValue => "last_value",
            AggregateFunction::NthValue { .. } => "nth_value",
            AggregateFunction::Moment(moment) => moment.name(),
        }
    }

    /// Whether the result depends on the order of the rows.
    #[must_use]
    pub fn is_ordered(&self) -> bool {
        matches!(
            self,
            AggregateFunction::ArrayAgg
                | AggregateFunction::StringAgg { .. }
                | AggregateFunction::FirstValue
                | AggregateFunction::LastValue
                | AggregateFunction::NthValue { .. }
        )
    }

    /// Whether rows with a null argument count.
    #[must_use]
    pub fn takes_nulls(&self) -> bool {
        self.is_ordered() && !matches!(self, AggregateFunction::StringAgg { .. })
    }
}
