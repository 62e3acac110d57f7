//! Aggregates whose result depends on the order of the rows: array_agg, string_agg, first_value, last_value, nth_value.
//!
//! The rows of a group are an ordered multiset of sort key and value, see `top_n`; rows that the sort keys leave equal are
//! ordered by their value, so that the result is one.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, StringArray};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{SortOptions, cast};
use arrow::datatypes::{DataType, Field};
use mainstem_sql::AggregateFunction as Function;

use super::accumulators::{Accumulate, Results, Selected};
use super::ordered::{Multisets, decode_some, entries_of_sets};
use crate::delta::RowKeys;
use crate::error::EngineError;
use crate::incremental::encoding::{StateReader, StateWriter};
use crate::incremental::multiset::OrderedMultiset;
use crate::incremental::top_n::{ordered_bytes, row_of};

#[derive(Debug)]
pub(super) struct InOrder {
    function: Function,
    data_type: DataType,
    result: DataType,
    sort_keys: RowKeys,
    values: RowKeys,
    sets: Multisets,
}

impl InOrder {
    /// None when the function is no such, or gives another type than its argument's.
    pub(super) fn new(
        function: &Function,
        argument: &DataType,
        order: &[(DataType, SortOptions)],
        result: &DataType,
    ) -> Result<Option<InOrder>, EngineError> {
        let is_fit = match (function, result) {
            (Function::ArrayAgg, DataType::List(item)) => item.data_type() == argument,
            (Function::StringAgg { .. }, _) => argument.is_string() && result.is_string(),
            _ => function.is_ordered() && result == argument,
        };
        let failed = |error: arrow::error::ArrowError| EngineError::Graph(error.to_string());
        let sort_keys = RowKeys::ordered(order).map_err(failed)?;
        let values = RowKeys::of_types(std::slice::from_ref(argument)).map_err(failed)?;
        let (function, data_type, result) = (function.clone(), argument.clone(), result.clone());
        Ok(is_fit.then(|| InOrder { function, data_type, result, sort_keys, values, sets: Multisets::default() }))
    }

    /// All values of the groups, one after the other in order, and where each group ends.
    fn all(&self, groups: &[u32]) -> (ArrayRef, Vec<i32>) {
        let (mut keys, mut ends) = (Vec::new(), Vec::new());
        for group in groups {
            self.set(*group).for_each(&mut |key, count| {
                keys.extend(std::iter::repeat_n(row_of(key), usize::try_from(count).unwrap_or(0)));
            });
            ends.push(i32::try_from(keys.len()).expect("a list fits into memory"));
        }
        let values = self.values.decode_columns(keys.iter().copied()).remove(0);
        (values, ends)
    }

    fn set(&self, group: u32) -> &OrderedMultiset {
        &self.sets.groups[group as usize]
    }

    fn lists(&self, groups: &[u32]) -> ArrayRef {
        let (values, ends) = self.all(groups);
        let offsets: Vec<i32> = std::iter::once(0).chain(ends).collect();
        let nulls: NullBuffer = groups.iter().map(|group| self.set(*group).total() != 0).collect();
        let DataType::List(item) = &self.result else { unreachable!("checked when it was made") };
        let item = Arc::new(Field::clone(item).with_nullable(true));
        Arc::new(ListArray::new(item, OffsetBuffer::new(offsets.into()), values, Some(nulls)))
    }

    fn texts(&self, groups: &[u32], delimiter: &str) -> ArrayRef {
        let (values, ends) = self.all(groups);
        let values = cast(&values, &DataType::Utf8).expect("a string");
        let values = values.as_string::<i32>();
        let mut start = 0;
        let texts: StringArray = ends
            .iter()
            .map(|end| {
                let parts: Vec<&str> = (start..*end as usize).map(|row| values.value(row)).collect();
                start = *end as usize;
                (!parts.is_empty()).then(|| parts.join(delimiter))
            })
            .collect();
        cast(&texts, &self.result).expect("a string")
    }
}

impl Accumulate for InOrder {
    fn resize(&mut self, groups: usize) {
        self.sets.groups.resize_with(groups, OrderedMultiset::default);
    }

    /// `arguments`: the value, then the columns of the order.
    fn update(&mut self, arguments: &[ArrayRef], selected: &Selected) -> u64 {
        let rows = arguments[0].len();
        let values = self.values.encode(&arguments[..1], rows);
        let sort = self.sort_keys.encode(&arguments[1..], rows);
        let mut ordered = Vec::new();
        for (group, row, weight) in selected.iter() {
            ordered_bytes(sort.get(row), values.get(row), &mut ordered);
            self.sets.change(group, &ordered, weight);
        }
        selected.rows.len() as u64
    }

    fn results(&self, groups: &[u32]) -> Results {
        let nth = |place: &dyn Fn(i64) -> i64| {
            let chosen = groups.iter().map(|group| {
                let set = self.set(*group);
                let place = place(set.total());
                (place >= 0).then(|| set.select(place)).flatten().map(row_of)
            });
            decode_some(&self.values, &self.data_type, &chosen.collect::<Vec<_>>())
        };
        let values = match &self.function {
            Function::ArrayAgg => self.lists(groups),
            Function::StringAgg { delimiter } => self.texts(groups, delimiter),
            Function::LastValue => nth(&|total| total - 1),
            Function::NthValue { n } => nth(&|total| if *n > 0 { *n - 1 } else { total + *n }),
            _ => nth(&|_| 0),
        };
        (values, Vec::new())
    }

    fn clear(&mut self, group: u32) {
        self.sets.clear(group);
    }

    fn save(&self, group: u32, writer: &mut StateWriter<'_>) {
        self.sets.save(group, writer);
    }

    fn restore(&mut self, group: u32, reader: &mut StateReader<'_>) -> Result<(), EngineError> {
        self.sets.restore(group, reader)
    }

    fn state_size(&self) -> (u64, u64) {
        self.sets.state_size()
    }

    entries_of_sets!();
}
