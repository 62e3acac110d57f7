//! Generated rows as changes: they arrive in a random order, and meanwhile arrived rows are updated and deleted.
//!
//! An update takes one value of a row from another generated row of its table, so that dates, words and references stay in
//! their domains; the primary key stays. A deleted row arrives again later.

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take;
use datafusion::prelude::SessionContext;
use mainstem_catalog::RelationId;
use mainstem_engine::Delta;
use rand::Rng;
use rand::rngs::SmallRng;

use super::{Table, batch_context};
use crate::stock::register;

/// Part of the steps that update or delete a row.
const CHANGES: f64 = 0.4;
/// Of these, the ones that delete.
const DELETES: f64 = 0.25;
/// Of these, the ones in any table whatever its size: the small ones are those that the others refer to.
const ANYWHERE: f64 = 0.01;

/// Tables with so few rows arrive in the first version, so that rows that refer to them find them.
const SMALL: usize = 100;
/// How many rows arrive before a deleted one at most.
const RETURN_WITHIN: usize = 1000;

const _: () = assert!(CHANGES >= 0.3, "at least 30 % of the steps take rows back");

/// What changed in one version, and a session over what the tables hold at its end.
pub(super) struct Version {
    pub(super) deltas: Vec<(RelationId, Delta)>,
    pub(super) context: SessionContext,
}

/// A row of the generator by its place, perhaps with one value of another.
#[derive(Clone, Copy)]
struct Row {
    origin: u32,
    changed: Option<(usize, u32)>,
}

struct Feed<'t> {
    tables: &'t [Table],
    /// Tables and places of rows that have not arrived.
    pending: Vec<(usize, u32)>,
    arrived: Vec<Vec<Row>>,
    /// Per table, of this version.
    changes: Vec<Vec<(Row, i64)>>,
}

/// The rows of the tables over so many versions.
pub(super) fn versions(tables: &[Table], count: usize, random: &mut SmallRng) -> Vec<Version> {
    let mut pending = Vec::new();
    for (place, table) in tables.iter().enumerate() {
        let rows = table.rows.num_rows();
        let until = if rows <= SMALL { 1.0 / count as f64 } else { 1.0 };
        pending.extend((0..rows as u32).map(|row| (random.random_range(0.0..until), (place, row))));
    }
    // The last one arrives first.
    pending.sort_by(|one: &(f64, _), other| other.0.total_cmp(&one.0));
    let pending: Vec<(usize, u32)> = pending.into_iter().map(|(_, row)| row).collect();
    let steps = (pending.len() as f64 / (1.0 - CHANGES)) as usize / count;
    let none = || vec![Vec::new(); tables.len()];
    let mut feed = Feed { tables, pending, arrived: none(), changes: vec![Vec::new(); tables.len()] };
    (0..count).map(|_| feed.version(steps, random)).collect()
}

impl Feed<'_> {
    fn version(&mut self, steps: usize, random: &mut SmallRng) -> Version {
        for _ in 0..steps {
            if random.random_bool(CHANGES) {
                self.change(random);
            } else if let Some((table, origin)) = self.pending.pop() {
                let row = Row { origin, changed: None };
                self.arrived[table].push(row);
                self.changes[table].push((row, 1));
            }
        }
        let context = batch_context();
        let mut deltas = Vec::new();
        for (place, table) in self.tables.iter().enumerate() {
            let (rows, weights): (Vec<Row>, Vec<i64>) = std::mem::take(&mut self.changes[place]).into_iter().unzip();
            deltas.push((table.id, Delta::new(batch(table, &rows), weights)));
            let content = batch(table, &self.arrived[place]).project(&table.visible()).unwrap();
            register(&context, &table.name, &content).unwrap();
        }
        Version { deltas, context }
    }

    /// Updates or deletes a row that has arrived, if the table that was drawn has one.
    fn change(&mut self, random: &mut SmallRng) {
        let table = self.drawn(random);
        let (of, arrived) = (&self.tables[table], &mut self.arrived[table]);
        let deletes = random.random_bool(DELETES);
        if arrived.is_empty() || (of.updated.is_empty() && !deletes) {
            return;
        }
        let row = arrived.swap_remove(random.random_range(0..arrived.len()));
        self.changes[table].push((row, -1));
        if deletes {
            let place = self.pending.len() - random.random_range(0..=self.pending.len().min(RETURN_WITHIN));
            self.pending.insert(place, (table, row.origin));
            return;
        }
        let column = of.updated[random.random_range(0..of.updated.len())];
        let donor = random.random_range(0..of.rows.num_rows() as u32);
        let updated = Row { origin: row.origin, changed: Some((column, donor)) };
        arrived.push(updated);
        self.changes[table].push((updated, 1));
    }

    fn drawn(&self, random: &mut SmallRng) -> usize {
        if random.random_bool(ANYWHERE) {
            return random.random_range(0..self.tables.len());
        }
        let mut row = random.random_range(0..self.arrived.iter().map(Vec::len).sum::<usize>().max(1));
        for (table, rows) in self.arrived.iter().enumerate() {
            if row < rows.len() {
                return table;
            }
            row -= rows.len();
        }
        0
    }
}

fn batch(table: &Table, rows: &[Row]) -> RecordBatch {
    let column = |place: usize| -> ArrayRef {
        let source = |row: &Row| match row.changed {
            Some((changed, donor)) if changed == place => donor,
            _ => row.origin,
        };
        let from = UInt32Array::from_iter_values(rows.iter().map(source));
        take(table.rows.column(place), &from, None).unwrap()
    };
    RecordBatch::try_new(table.rows.schema(), (0..table.columns.len()).map(column).collect()).unwrap()
}
