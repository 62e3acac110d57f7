//! The rows at the places offset..offset + limit of an order.
//!
//! Rows are ordered by the sort keys, then by the whole row. Each changed row is put into or taken out of an ordered
//! multiset; what enters and what leaves the window follows from its rank, so the work is the number of changed rows times
//! the logarithm of the state, whatever the limit.
//!
//! State: all rows. Entry: ordered bytes (sort key, row, u32 length of the sort key), i64 count. The length at the end
//! never decides an order: the bytes before it are never equal for two different rows. In the space: ordered bytes -> i64
//! count; all of them come into memory with the first change after a start, and stay.

use arrow::array::ArrayRef;
use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;

use super::encoding::{StateReader, StateWriter};
use super::multiset::OrderedMultiset;
use super::stateless::keyed_delta;
use super::{ByteMap, Context, Operate, adjust, byte_map};
use crate::delta::{Delta, RowKeys};
use crate::error::EngineError;
use crate::scalar::{CompiledScalar, evaluate_all};
use crate::state::{Space, count_of};

const KIND: u8 = 3;
/// Stands for no limit; sums with it do not overflow.
const UNLIMITED: i64 = i64::MAX / 4;

#[derive(Debug)]
pub(super) struct TopN {
    schema: SchemaRef,
    expressions: Vec<CompiledScalar>,
    sort_keys: RowKeys,
    row_keys: RowKeys,
    /// The places of the window.
    from: i64,
    until: i64,
    rows: OrderedMultiset,
    /// This version's changes.
    pending: ByteMap<i64>,
    /// The space has rows that are not in memory: all of them.
    is_stored: bool,
}

impl TopN {
    pub(super) fn new(
        schema: &SchemaRef,
        keys: Vec<(CompiledScalar, SortOptions)>,
        limit: Option<u64>,
        offset: u64,
    ) -> Result<TopN, EngineError> {
        let failed = |error: arrow::error::ArrowError| EngineError::Graph(error.to_string());
        let types: Vec<_> = keys.iter().map(|(key, options)| (key.data_type().clone(), *options)).collect();
        let bounded = |value: u64| i64::try_from(value).unwrap_or(UNLIMITED).min(UNLIMITED);
        let from = bounded(offset);
        Ok(TopN {
            schema: schema.clone(),
            expressions: keys.into_iter().map(|(key, _)| key).collect(),
            sort_keys: RowKeys::ordered(&types).map_err(failed)?,
            row_keys: RowKeys::new(schema).map_err(failed)?,
            from,
            until: from + limit.map_or(UNLIMITED, bounded),
            rows: OrderedMultiset::default(),
            pending: byte_map(),
            is_stored: false,
        })
    }

    fn load(&mut self, context: &mut Context<'_>) {
        let Some(space) = context.space.filter(|_| std::mem::take(&mut self.is_stored)) else { return };
        let mut failed = Ok(());
        let scanned = space.scan(&[], &mut |key, count| match count_of(count) {
            Ok(count) => self.rows.adjust(key, count),
            Err(error) => failed = Err(error),
        });
        context.loaded(scanned.and(failed));
        space.root().count_loaded(self.rows.distinct() as u64);
    }

    /// What changes in the window when `count` copies of `key` come in at the place `at` of a sequence that has none of
    /// them there yet (`without`); each change multiplied by `sign`.
    fn shift(
        &self,
        key: &[u8],
        at: i64,
        count: i64,
        sign: i64,
        without: &OrderedMultiset,
        out: &mut ByteMap<i64>,
    ) -> u64 {
        let mut visited = 1;
        if at >= self.until || count <= 0 {
            return visited;
        }
        let entered = (at + count).min(self.until) - at.max(self.from);
        if entered > 0 {
            adjust(out, key, sign * entered);
        }
        // Rows before `at` that were just before the window do not move; rows between `at` and the window move into it.
        without.visit_ranks(at.max(self.from - count), self.from.min(self.until - count), &mut |key, count| {
            adjust(out, key, sign * count);
            visited += 1;
        });
        without.visit_ranks(at.max(self.from).max(self.until - count), self.until, &mut |key, count| {
            adjust(out, key, -sign * count);
            visited += 1;
        });
        visited
    }
}

/// Bytes by which rows are ordered, see the module's text.
pub(super) fn ordered_bytes(sort_key: &[u8], row: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(sort_key);
    out.extend_from_slice(row);
    out.extend_from_slice(&(sort_key.len() as u32).to_le_bytes());
}

/// The row in its ordered bytes.
pub(super) fn row_of(ordered: &[u8]) -> &[u8] {
    let (rest, length) = ordered.split_last_chunk::<4>().expect("ordered bytes end with a length");
    &rest[u32::from_le_bytes(*length) as usize..]
}

impl Operate for TopN {
    fn apply(&mut self, _port: usize, delta: &Delta, context: &mut Context<'_>) -> Vec<Delta> {
        let (left, values): (Delta, Vec<ArrayRef>) = evaluate_all(&self.expressions, delta, context.errors);
        let sort = self.sort_keys.encode(&values, left.len());
        let rows = self.row_keys.encode(left.rows.columns(), left.len());
        let mut ordered = Vec::new();
        for row in 0..left.len() {
            ordered_bytes(sort.get(row), rows.get(row), &mut ordered);
            adjust(&mut self.pending, &ordered, left.weights[row]);
        }
        Vec::new()
    }

    fn finish(&mut self, context: &mut Context<'_>) -> Vec<Delta> {
        let pending = std::mem::replace(&mut self.pending, byte_map());
        if !pending.is_empty() {
            self.load(context);
        }
        let mut changes = byte_map();
        for (key, weight) in &pending {
            // The copies that come or go stand behind the `kept` ones that stay.
            let kept = self.rows.count(key).min(self.rows.count(key) + weight);
            let at = self.rows.rank(key) + kept;
            if *weight < 0 {
                self.rows.adjust(key, *weight);
            }
            let sign = weight.signum();
            *context.touched += self.shift(key, at, weight.abs(), sign, &self.rows, &mut changes);
            if *weight > 0 {
                self.rows.adjust(key, *weight);
            }
            if let Some(space) = context.space {
                space.put_count(key, self.rows.count(key));
            }
        }
        let rows: Vec<(&[u8], i64)> = changes.iter().map(|(key, weight)| (row_of(key), *weight)).collect();
        vec![keyed_delta(&self.row_keys, &rows, &self.schema)]
    }

    fn uses_space(&self) -> bool {
        true
    }

    fn attach(&mut self, space: &Space) -> Result<(), EngineError> {
        self.is_stored = !space.is_new();
        Ok(())
    }

    fn state_size(&self) -> (u64, u64) {
        (self.rows.distinct() as u64, self.rows.heap_bytes() as u64)
    }

    fn save(&self, out: &mut dyn FnMut(&[u8])) {
        let mut writer = StateWriter::new(KIND, out);
        self.rows.for_each(&mut |key, count| {
            writer.bytes(key);
            writer.i64(count);
            writer.end_entry();
        });
        writer.finish();
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), EngineError> {
        let mut reader = StateReader::new(KIND, section)?;
        while !reader.is_done() {
            let key = reader.bytes()?;
            self.rows.adjust(key, reader.i64()?);
        }
        Ok(())
    }
}
