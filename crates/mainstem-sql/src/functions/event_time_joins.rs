//! The marks of joins in event time. They stand at the head of a join's condition until the planner has taken them off; they
//! are never computed.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::{Result, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

/// `asof_match([condition])`: the join is an ASOF JOIN.
pub(crate) const ASOF_MATCH: &str = "asof_match";
/// `system_time_as_of(time)`: the join is with the version of this time.
pub(crate) const SYSTEM_TIME_AS_OF: &str = "system_time_as_of";

pub(super) fn all() -> Vec<Arc<ScalarUDF>> {
    let mark = |name| {
        let signature = Signature::one_of(
            vec![datafusion::logical_expr::TypeSignature::Nullary, datafusion::logical_expr::TypeSignature::Any(1)],
            Volatility::Immutable,
        );
        Arc::new(ScalarUDF::new_from_impl(Mark { name, signature }))
    };
    vec![mark(ASOF_MATCH), mark(SYSTEM_TIME_AS_OF)]
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Mark {
    name: &'static str,
    signature: Signature,
}

impl ScalarUDFImpl for Mark {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        plan_err!("{}() stands only at the head of the condition of an inner or left join", self.name)
    }
}
