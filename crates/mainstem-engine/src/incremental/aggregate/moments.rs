//! Variances, covariances, correlation and regression.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use mainstem_sql::Moment;

use super::accumulators::{Accumulate, Results, Selected};
use crate::delta::canonical_f64;
use crate::error::EngineError;
use crate::exact_moments::ExactMoments;
use crate::incremental::encoding::{StateReader, StateWriter};

#[derive(Debug)]
pub(super) struct Moments {
    moment: Moment,
    result: DataType,
    groups: Vec<ExactMoments>,
    heap_bytes: u64,
}

impl Moments {
    pub(super) fn new(moment: Moment, result: &DataType) -> Moments {
        Moments { moment, result: result.clone(), groups: Vec::new(), heap_bytes: 0 }
    }

    fn change(&mut self, group: usize, change: impl FnOnce(&mut ExactMoments)) {
        let moments = &mut self.groups[group];
        let before = moments.heap_bytes() as u64;
        change(moments);
        self.heap_bytes = self.heap_bytes + moments.heap_bytes() as u64 - before;
    }
}

impl Accumulate for Moments {
    fn resize(&mut self, groups: usize) {
        self.groups.resize_with(groups, ExactMoments::default);
    }

    fn update(&mut self, arguments: &[ArrayRef], selected: &Selected) -> u64 {
        let first = arguments[0].as_primitive::<Float64Type>().values();
        let second = arguments.get(1).map(|column| column.as_primitive::<Float64Type>().values());
        for (group, row, weight) in selected.iter() {
            self.change(group, |moments| match second {
                Some(second) => moments.add_pair(first[row], second[row], weight),
                None => moments.add(first[row], weight),
            });
        }
        0
    }

    fn results(&self, groups: &[u32]) -> Results {
        let groups = groups.iter().map(|group| &self.groups[*group as usize]);
        let values: ArrayRef = match self.moment {
            Moment::RegrCount => Arc::new(groups.map(|group| Some(group.count())).collect::<Int64Array>()),
            moment => Arc::new(groups.map(|group| group.value(moment).map(canonical_f64)).collect::<Float64Array>()),
        };
        (cast(&values, &self.result).expect("a number"), Vec::new())
    }

    fn clear(&mut self, group: u32) {
        self.change(group as usize, |moments| *moments = ExactMoments::default());
    }

    fn save(&self, group: u32, writer: &mut StateWriter<'_>) {
        self.groups[group as usize].encode(writer.buffer());
    }

    fn restore(&mut self, group: u32, reader: &mut StateReader<'_>) -> Result<(), EngineError> {
        let moments = ExactMoments::decode(reader.rest());
        let moments = moments.ok_or_else(|| EngineError::State("exact moments cannot be read".to_owned()))?;
        self.change(group as usize, |place| *place = moments);
        Ok(())
    }

    fn state_size(&self) -> (u64, u64) {
        (0, self.heap_bytes)
    }

    fn slot_bytes(&self) -> u64 {
        size_of::<ExactMoments>() as u64
    }
}
