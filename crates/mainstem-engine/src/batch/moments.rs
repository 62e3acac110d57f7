//! Variances, covariances, correlation and regression of batch queries, by the same exact sums as those of views.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type};
use datafusion::common::{Result, ScalarValue, internal_datafusion_err, not_impl_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, ReversedUDAF, Signature, Volatility};
use mainstem_sql::Moment;

use crate::delta::canonical_f64;
use crate::exact_moments::ExactMoments;

/// The functions to register in place of DataFusion's.
pub(super) fn all() -> Vec<Arc<AggregateUDF>> {
    let function = |moment: Moment| {
        let aliases: &[&str] = match moment {
            Moment::VarSamp => &["var_sample", "var_samp", "variance"],
            Moment::VarPop => &["var_population"],
            Moment::StddevSamp => &["stddev_samp"],
            Moment::CovarSamp => &["covar"],
            _ => &[],
        };
        let aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
        let signature = Signature::exact(vec![DataType::Float64; moment.arguments()], Volatility::Immutable);
        Arc::new(AggregateUDF::new_from_impl(Function { moment, aliases, signature }))
    };
    Moment::ALL.into_iter().map(function).collect()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Function {
    moment: Moment,
    aliases: Vec<String>,
    signature: Signature,
}

impl AggregateUDFImpl for Function {
    fn name(&self) -> &str {
        self.moment.name()
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(if self.moment == Moment::RegrCount { DataType::Int64 } else { DataType::Float64 })
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            return not_impl_err!("{}(DISTINCT) is not supported", self.name());
        }
        Ok(Box::new(Moments { moment: self.moment, moments: ExactMoments::default() }))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(vec![Field::new(format_state_name(args.name, "moments"), DataType::Binary, true).into()])
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }
}

#[derive(Debug)]
struct Moments {
    moment: Moment,
    moments: ExactMoments,
}

impl Moments {
    fn add(&mut self, values: &[ArrayRef], weight: i64) {
        let first = values[0].as_primitive::<Float64Type>();
        let second = values.get(1).map(|column| column.as_primitive::<Float64Type>());
        for row in (0..first.len()).filter(|row| first.is_valid(*row)) {
            match second {
                None => self.moments.add(first.value(row), weight),
                Some(second) if second.is_valid(row) => {
                    self.moments.add_pair(first.value(row), second.value(row), weight);
                }
                Some(_) => {}
            }
        }
    }
}

impl Accumulator for Moments {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.add(values, 1);
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.add(values, -1);
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(match self.moment {
            Moment::RegrCount => ScalarValue::Int64(Some(self.moments.count())),
            moment => ScalarValue::Float64(self.moments.value(moment).map(canonical_f64)),
        })
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.moments.heap_bytes()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let mut bytes = Vec::new();
        self.moments.encode(&mut bytes);
        Ok(vec![ScalarValue::Binary(Some(bytes))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for mut bytes in states[0].as_binary::<i32>().iter().flatten() {
            let other = ExactMoments::decode(&mut bytes);
            self.moments.merge(&other.ok_or_else(|| internal_datafusion_err!("state of exact moments"))?);
        }
        Ok(())
    }
}
