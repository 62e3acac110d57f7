//! Reading a version: chunks merged in order, weights added up.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};

use super::Layout;
use super::chunk::{Chunk, Cursor, Entry};
use crate::delta::Delta;

/// Entries of several chunks in order, equal rows added up, zeros left out.
#[derive(Debug)]
struct Merge {
    /// Cursors that have entries left, each with the sign of its weights.
    cursors: Vec<(Cursor, i64)>,
    /// Entries from here on are not wanted.
    before: Option<Box<[u8]>>,
}

/// Whether the cursor stands at an entry that is wanted.
fn has_more(cursor: &Cursor, before: Option<&[u8]>) -> bool {
    cursor.entry().is_some_and(|(row, _)| before.is_none_or(|before| row < before))
}

/// An entry of a merge: a row and its weight.
struct Merged {
    entry: Entry,
    weight: i64,
}

impl Merge {
    fn new(chunks: Vec<(Arc<Chunk>, i64)>) -> Merge {
        Merge::of(chunks.into_iter().map(|(chunk, sign)| (Cursor::new(chunk), sign)), None)
    }

    /// Only entries from the first bytes on, and before the second ones; none: to the end.
    fn within(chunks: &[Arc<Chunk>], from: &[u8], before: Option<&[u8]>) -> Merge {
        Merge::of(chunks.iter().map(|chunk| (chunk.seek(from), 1)), before.map(Into::into))
    }

    fn of(cursors: impl Iterator<Item = (Cursor, i64)>, before: Option<Box<[u8]>>) -> Merge {
        let cursors = cursors.filter(|(cursor, _)| has_more(cursor, before.as_deref())).collect();
        Merge { cursors, before }
    }
}

impl Iterator for Merge {
    type Item = Merged;

    fn next(&mut self) -> Option<Merged> {
        loop {
            fn row(of: &(Cursor, i64)) -> Option<&[u8]> {
                of.0.entry().map(|(row, _)| row)
            }
            let least = self.cursors.iter().min_by(|a, b| row(a).cmp(&row(b)));
            let entry = least?.0.take()?;
            let mut weight = 0;
            let before = self.before.as_deref();
            self.cursors.retain_mut(|(cursor, sign)| {
                if let Some((row, own)) = cursor.entry()
                    && row == entry.row()
                {
                    weight += *sign * own;
                    cursor.advance();
                }
                has_more(cursor, before)
            });
            if weight != 0 {
                return Some(Merged { entry, weight });
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
    rest: Option<(Entry, usize)>,
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

    /// The next rows, each with its count; fewer than `batch_rows` only at the end.
    fn gather(&mut self) -> (Vec<(Entry, usize)>, usize) {
        let (mut runs, mut rows) = (Vec::new(), 0);
        while rows < self.batch_rows {
            let next = self.rest.take().or_else(|| {
                self.merge.next().map(|merged| {
                    let count = usize::try_from(merged.weight).expect("a version holds no row less than zero times");
                    (merged.entry, count)
                })
            });
            let Some((entry, count)) = next else { break };
            let taken = count.min(self.batch_rows - rows);
            if taken < count {
                self.rest = Some((entry.clone(), count - taken));
            }
            rows += taken;
            runs.push((entry, taken));
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
            runs.iter().flat_map(|(entry, count)| std::iter::repeat_n(entry.row(), *count)).collect();
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
        let rows = self.layout.decode(entries.iter().map(|merged| merged.entry.row()));
        Some(Delta { rows, weights: entries.iter().map(|merged| merged.weight).collect() })
    }
}
