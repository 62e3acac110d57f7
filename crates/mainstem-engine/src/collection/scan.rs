//! Reading a version: chunks merged in order, weights added up.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};

use super::Layout;
use super::chunk::Chunk;
use crate::delta::Delta;

#[derive(Debug)]
struct Cursor {
    chunk: Arc<Chunk>,
    sign: i64,
    next: usize,
    end: usize,
}

impl Cursor {
    fn key(&self) -> &[u8] {
        self.chunk.key(self.next)
    }
}

/// Entries of several chunks in order, equal rows added up, zeros left out.
#[derive(Debug)]
struct Merge {
    /// Cursors that have entries left.
    cursors: Vec<Cursor>,
}

/// An entry of a merge: a row by chunk and place, and its weight.
struct Merged {
    chunk: Arc<Chunk>,
    entry: usize,
    weight: i64,
}

impl Merge {
    fn new(chunks: Vec<(Arc<Chunk>, i64)>) -> Merge {
        let cursors = chunks.into_iter().map(|(chunk, sign)| Cursor { end: chunk.len(), chunk, sign, next: 0 });
        Merge { cursors: cursors.filter(|cursor| cursor.next < cursor.end).collect() }
    }

    /// Only entries from the first bytes on, and before the second ones; none: to the end.
    fn within(chunks: &[Arc<Chunk>], from: &[u8], before: Option<&[u8]>) -> Merge {
        let cursor = |chunk: &Arc<Chunk>| {
            let end = before.map_or(chunk.len(), |before| chunk.lower_bound(before));
            Cursor { chunk: chunk.clone(), sign: 1, next: chunk.lower_bound(from), end }
        };
        Merge { cursors: chunks.iter().map(cursor).filter(|cursor| cursor.next < cursor.end).collect() }
    }
}

impl Iterator for Merge {
    type Item = Merged;

    fn next(&mut self) -> Option<Merged> {
        loop {
            let mut least: Option<usize> = None;
            for (index, cursor) in self.cursors.iter().enumerate() {
                if least.is_none_or(|least| cursor.key() < self.cursors[least].key()) {
                    least = Some(index);
                }
            }
            let first = &self.cursors[least?];
            let (chunk, entry) = (first.chunk.clone(), first.next);
            let row = chunk.key(entry);
            let mut weight = 0;
            self.cursors.retain_mut(|cursor| {
                if cursor.key() == row {
                    weight += cursor.sign * cursor.chunk.weight_at(cursor.next);
                    cursor.next += 1;
                }
                cursor.next < cursor.end
            });
            if weight != 0 {
                return Some(Merged { chunk, entry, weight });
            }
        }
    }
}

/// The rows of a version, see [`super::Version::scan`].
#[derive(Debug)]
pub struct Scan {
    layout: Arc<Layout>,
    merge: Merge,
    projection: Option<Vec<usize>>,
    schema: SchemaRef,
    batch_rows: usize,
    /// A row that did not fit the last batch, and how often it is still to come.
    rest: Option<(Arc<Chunk>, usize, usize)>,
}

impl Scan {
    pub(super) fn new(
        layout: Arc<Layout>,
        chunks: Vec<(Arc<Chunk>, i64)>,
        projection: Option<&[usize]>,
        batch_rows: usize,
    ) -> Scan {
        Scan::of_merge(layout, Merge::new(chunks), projection, batch_rows)
    }

    /// Rows whose bytes are in a range.
    pub(super) fn within(
        layout: Arc<Layout>,
        (chunks, from, before): (&[Arc<Chunk>], &[u8], Option<&[u8]>),
        projection: Option<&[usize]>,
        batch_rows: usize,
    ) -> Scan {
        Scan::of_merge(layout, Merge::within(chunks, from, before), projection, batch_rows)
    }

    fn of_merge(layout: Arc<Layout>, merge: Merge, projection: Option<&[usize]>, batch_rows: usize) -> Scan {
        assert!(batch_rows > 0, "a batch has rows");
        let schema = match projection {
            None => layout.schema.clone(),
            Some(columns) => {
                Arc::new(Schema::new(columns.iter().map(|c| layout.schema.field(*c).clone()).collect::<Vec<_>>()))
            }
        };
        let projection = projection.map(<[usize]>::to_vec);
        Scan { layout, merge, projection, schema, batch_rows, rest: None }
    }

    /// The schema of the batches.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The next rows, by chunk, place and count; fewer than `batch_rows` only at the end.
    fn gather(&mut self) -> (Vec<(Arc<Chunk>, usize, usize)>, usize) {
        let (mut runs, mut rows) = (Vec::new(), 0);
        while rows < self.batch_rows {
            let next = self.rest.take().or_else(|| {
                self.merge.next().map(|merged| {
                    let count = usize::try_from(merged.weight).expect("a version holds no row less than zero times");
                    (merged.chunk, merged.entry, count)
                })
            });
            let Some((chunk, entry, count)) = next else { break };
            let taken = count.min(self.batch_rows - rows);
            if taken < count {
                self.rest = Some((chunk.clone(), entry, count - taken));
            }
            rows += taken;
            runs.push((chunk, entry, taken));
        }
        (runs, rows)
    }
}

impl Iterator for Scan {
    type Item = RecordBatch;

    fn next(&mut self) -> Option<RecordBatch> {
        let (runs, rows) = self.gather();
        if rows == 0 {
            return None;
        }
        if self.schema.fields().is_empty() {
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            return Some(
                RecordBatch::try_new_with_options(self.schema.clone(), Vec::new(), &options).expect("no columns"),
            );
        }
        let bytes: Vec<&[u8]> =
            runs.iter().flat_map(|(chunk, entry, count)| std::iter::repeat_n(chunk.key(*entry), *count)).collect();
        let batch = self.layout.decode(bytes.into_iter());
        Some(match &self.projection {
            None => batch,
            Some(columns) => batch.project(columns).expect("columns of the schema"),
        })
    }
}

/// The entries of a version, or of what lies between two, with their weights; see [`super::Version::deltas`].
#[derive(Debug)]
pub struct Deltas {
    layout: Arc<Layout>,
    merge: Merge,
    batch_rows: usize,
}

impl Deltas {
    pub(super) fn new(layout: Arc<Layout>, chunks: Vec<(Arc<Chunk>, i64)>, batch_rows: usize) -> Deltas {
        assert!(batch_rows > 0, "a delta has rows");
        Deltas { layout, merge: Merge::new(chunks), batch_rows }
    }
}

impl Iterator for Deltas {
    type Item = Delta;

    fn next(&mut self) -> Option<Delta> {
        let entries: Vec<Merged> = self.merge.by_ref().take(self.batch_rows).collect();
        if entries.is_empty() {
            return None;
        }
        let rows = self.layout.decode(entries.iter().map(|merged| merged.chunk.key(merged.entry)));
        Some(Delta { rows, weights: entries.iter().map(|merged| merged.weight).collect() })
    }
}
