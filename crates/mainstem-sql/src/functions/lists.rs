//! Functions of lists that DataFusion does not have.

use std::sync::Arc;

use arrow::array::{Array, AsArray, ListArray, UInt64Array};
use arrow::compute::take;
use arrow::datatypes::DataType;
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

/// `only_item(list)`: the item of a list of one, null for none; more are an error. It stands above a scalar subquery.
pub(crate) const ONLY_ITEM: &str = "__only_item";

pub(super) fn all() -> Vec<Arc<ScalarUDF>> {
    let signature = Signature::any(1, Volatility::Immutable);
    vec![Arc::new(ScalarUDF::new_from_impl(OnlyItem { signature }))]
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct OnlyItem {
    signature: Signature,
}

impl ScalarUDFImpl for OnlyItem {
    fn name(&self) -> &str {
        ONLY_ITEM
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [DataType::List(item)] => Ok(item.data_type().clone()),
            _ => plan_err!("{ONLY_ITEM}() takes a list"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let list = args.args[0].to_array(args.number_rows)?;
        let list: &ListArray = list.as_list();
        let mut places = Vec::with_capacity(list.len());
        for row in 0..list.len() {
            let length = if list.is_valid(row) { list.value_length(row) } else { 0 };
            places.push(match length {
                0 => None,
                1 => Some(list.value_offsets()[row] as u64),
                _ => return exec_err!("more than one row returned by a subquery used as an expression"),
            });
        }
        Ok(ColumnarValue::Array(take(list.values(), &UInt64Array::from(places), None)?))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, ListArray};
    use arrow::datatypes::{Field, Int64Type};
    use datafusion::common::config::ConfigOptions;

    use super::*;

    fn call(lists: &[Option<Vec<Option<i64>>>]) -> Result<ColumnarValue> {
        let list: ListArray = ListArray::from_iter_primitive::<Int64Type, _, _>(lists.iter().cloned());
        let args = ScalarFunctionArgs {
            number_rows: lists.len(),
            arg_fields: vec![Arc::new(Field::new("l", list.data_type().clone(), true))],
            args: vec![ColumnarValue::Array(Arc::new(list))],
            return_field: Arc::new(Field::new("i", DataType::Int64, true)),
            config_options: Arc::new(ConfigOptions::new()),
        };
        all()[0].inner().invoke_with_args(args)
    }

    #[test]
    fn one_item_or_none() {
        let result = call(&[Some(vec![Some(7)]), None, Some(vec![]), Some(vec![None])]).unwrap();
        let expected = Int64Array::from(vec![Some(7), None, None, None]);
        assert_eq!(result.into_array(4).unwrap().as_primitive::<Int64Type>(), &expected);
        let error = call(&[Some(vec![Some(7), None])]).unwrap_err();
        assert!(error.to_string().contains("more than one row"), "{error}");
    }
}
