//! Pairs of rows with equal keys: inner joins, left and full joins, which keep rows without partner, semi and anti joins, which
//! give nothing but left rows with or without one.
//!
//! Each side holds its rows by the bytes of their key. A delta on one side meets the other side's rows as they are, then
//! goes into its own side: first left, then right, so that every pair is met once, a join with itself included. Pairs are
//! built and filtered in pieces of bounded size.
//!
//! All but inner joins also count, for each left row, the weight of its partners (its *degree*), full joins also for each right
//! row. A row is given with nulls for the other side, or alone, exactly as long as its degree is zero; in a semi join as long
//! as it is not.
//!
//! If the condition bounds how far a column of one side lies from one of the other, the rows of a key are kept in the order of that
//! column, and a delta meets only those within the distance. Rows that are settled in event time are forgotten, without output.
//!
//! State entry: u8 side (0 left, 1 right), key bytes, row bytes, i64 weight, i64 degree; in the space side, key, row -> i64
//! weight, i64 degree. The rows of one side under one key are a unit: in memory as a whole or not at all, written row by row.
//! What is forgotten when it is settled is in the space under 2 + side, i64 what it is settled by, key, row as well.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, new_null_array};
use arrow::datatypes::{Schema, SchemaRef};
use hashbrown::HashTable;
use mainstem_sql::{Distance, Forget, JoinKind};

use super::encoding::{StateReader, StateWriter};
use super::stateless::{of_type, ordinals};
use super::units::{Residence, StoredDue};
use super::{ByteMap, Context, Operate, STATE_HASHER, byte_map};
use crate::delta::{Delta, EncodedRows, RowKeys, batch_of, take_rows};
use crate::error::EngineError;
use crate::scalar::{CompiledScalar, RowErrors, evaluate_all, mask};
use crate::state::Space;

const KIND: u8 = 5;
/// Entries of the space that say what is due begin with this and the side.
const DUE: u8 = 2;
/// Pairs built at once.
const PAIRS_MAX: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Join {
    schema: SchemaRef,
    /// Columns of both sides: what the filter is over.
    pairs: SchemaRef,
    kind: JoinKind,
    null_equals_null: bool,
    filter: Option<CompiledScalar>,
    range: Option<Distance>,
    sides: [Side; 2],
    residence: Residence,
}

/// What a join is made of, see [`Join::new`].
#[derive(Debug)]
pub(super) struct JoinParts {
    pub(super) kind: JoinKind,
    pub(super) null_equals_null: bool,
    pub(super) filter: Option<CompiledScalar>,
    pub(super) range: Option<Distance>,
    /// Input schema and key expressions of each side.
    pub(super) sides: [(SchemaRef, Vec<CompiledScalar>); 2],
}

/// The rows of one input.
#[derive(Debug)]
struct Side {
    schema: SchemaRef,
    on: Vec<CompiledScalar>,
    key_keys: RowKeys,
    row_keys: RowKeys,
    entries: Vec<Entry>,
    free: Vec<u32>,
    by_row: HashTable<u32>,
    by_key: ByteMap<Bucket>,
    bytes: u64,
    /// The column by which the rows of a key are ordered.
    order: Option<usize>,
    /// The column by which rows are settled, with how long after that.
    forget: Option<(usize, i64)>,
    /// Rows in memory by what they are settled by.
    due: BTreeSet<(i64, u32)>,
    stored_due: StoredDue,
}

/// The rows under one key. With a space there may be none: then it is known that there are none.
#[derive(Debug)]
struct Bucket {
    rows: Rows,
    used: u32,
}

/// Memory that a bucket takes beside its key and rows, about.
const BUCKET_BYTES: u64 = 40;

#[derive(Debug)]
enum Rows {
    /// In no order.
    Any(Vec<u32>),
    /// By their value in a column.
    Ordered(BTreeSet<(i64, u32)>),
}

#[derive(Debug)]
struct Entry {
    row: Box<[u8]>,
    weight: i64,
    degree: i64,
    /// Its place among the rows of its key, or its value in the column that orders them.
    place: i64,
    /// What it is settled by, if it is forgotten then.
    due: i64,
}

/// Where a row stands: its value in the column of the order, and in that by which it is settled; 0 without.
#[derive(Clone, Copy, Debug, Default)]
struct Stands {
    order: i64,
    due: i64,
}

/// A delta's rows as bytes.
struct Keyed {
    delta: Delta,
    keys: EncodedRows,
    rows: EncodedRows,
    /// Rows whose key can match at all.
    can_match: Vec<bool>,
    stands: Vec<Stands>,
}

/// Pairs that are not built yet: rows of the delta, entries of the other side.
#[derive(Default)]
struct Pairs {
    own: Vec<u32>,
    other: Vec<u32>,
}

impl Join {
    pub(super) fn new(schema: &SchemaRef, parts: JoinParts) -> Result<Join, EngineError> {
        let [left, right] = parts.sides;
        let types = |on: &[CompiledScalar]| on.iter().map(|key| key.data_type().clone()).collect::<Vec<_>>();
        if types(&left.1) != types(&right.1) {
            return Err(EngineError::Graph(format!("a join compares {:?} with {:?}", types(&left.1), types(&right.1))));
        }
        let pairs = if parts.kind.gives_pairs() {
            schema.clone()
        } else {
            Arc::new(Schema::new(left.0.fields().iter().chain(right.0.fields()).cloned().collect::<Vec<_>>()))
        };
        Ok(Join {
            schema: schema.clone(),
            pairs,
            kind: parts.kind,
            null_equals_null: parts.null_equals_null,
            filter: parts.filter,
            range: parts.range,
            sides: [
                Side::new(0, left.0, left.1, parts.range.map(|range| range.left))?,
                Side::new(1, right.0, right.1, parts.range.map(|range| range.right))?,
            ],
            residence: Residence::default(),
        })
    }

    /// Brings what both sides have under the keys into memory.
    fn load(&mut self, keyed: &Keyed, context: &mut Context<'_>) {
        let (now, space) = (self.residence.now, context.space.filter(|_| self.residence.is_partial));
        let keys = || (0..keyed.delta.len()).filter(|row| keyed.can_match[*row]).map(|row| keyed.keys.get(row));
        for (place, side) in self.sides.iter_mut().enumerate() {
            for key in keys() {
                if let Some(bucket) = side.by_key.get_mut(key) {
                    bucket.used = now;
                } else if let Some(space) = space {
                    side.open(key).used = now;
                    context.loaded(side.load(place, key, space));
                    space.root().count_loaded(1);
                }
            }
        }
    }

    /// Whether the degrees of this side's rows are counted.
    fn counts(&self, side: usize) -> bool {
        match self.kind {
            JoinKind::Inner => false,
            JoinKind::Left | JoinKind::Semi | JoinKind::Anti => side == 0,
            JoinKind::Full => true,
        }
    }

    fn keyed(&self, port: usize, delta: &Delta, context: &mut Context<'_>) -> Keyed {
        let side = &self.sides[port];
        let (delta, values) = evaluate_all(&side.on, delta, context.errors);
        let nulls: Vec<_> = values.iter().filter_map(|column| column.logical_nulls()).collect();
        let is_null = |row: usize| nulls.iter().any(|nulls| nulls.is_null(row));
        let mut can_match: Vec<bool> = (0..delta.len()).map(|row| self.null_equals_null || !is_null(row)).collect();
        let stands = side.stands(delta.rows.columns(), &mut can_match);
        Keyed {
            keys: side.key_keys.encode(&values, delta.len()),
            rows: side.row_keys.encode(delta.rows.columns(), delta.len()),
            can_match,
            stands,
            delta,
        }
    }

    /// The columns of pairs from those of the two sides.
    fn output(&self, port: usize, own: Vec<ArrayRef>, other: Vec<ArrayRef>, weights: Vec<i64>) -> Delta {
        let (left, right) = if port == 0 { (own, other) } else { (other, own) };
        let columns = left.into_iter().chain(right).zip(self.pairs.fields());
        let columns = columns.map(|(column, field)| of_type(&column, field.data_type())).collect();
        let rows = batch_of(&self.pairs, columns, weights.len()).expect("columns of both inputs");
        Delta::new(rows, weights)
    }

    /// Builds the pairs, filters them, and adds the weights of partners: `own_degrees` by row of the delta, or
    /// `other_degrees` by entry of the other side.
    fn build(&self, port: usize, keyed: &Keyed, pairs: &mut Pairs, met: &mut Met, context: &mut Context<'_>) {
        if pairs.own.is_empty() {
            return;
        }
        let other = &self.sides[1 - port];
        let own_columns = take_rows(&keyed.delta.rows, &pairs.own).columns().to_vec();
        let other_rows = pairs.other.iter().map(|entry| &*other.entries[*entry as usize].row);
        let other_columns = other.row_keys.decode_columns(other_rows);
        let weight =
            |(own, entry): (&u32, &u32)| keyed.delta.weights[*own as usize] * other.entries[*entry as usize].weight;
        let weights = pairs.own.iter().zip(&pairs.other).map(weight).collect();
        let all = self.output(port, own_columns, other_columns, weights);
        *context.touched += all.len() as u64;
        let (passed, given) = match &self.filter {
            None => (None, all),
            Some(filter) => {
                let mask = mask(filter, &all, context.errors);
                let given = all.filter(&mask);
                (Some(mask), given)
            }
        };
        if self.kind != JoinKind::Inner {
            for (place, (own, entry)) in pairs.own.iter().zip(&pairs.other).enumerate() {
                if passed.as_ref().is_some_and(|mask| !(mask.is_valid(place) && mask.value(place))) {
                    continue;
                }
                if self.counts(port) {
                    met.own_degrees[*own as usize] += other.entries[*entry as usize].weight;
                }
                if self.counts(1 - port) {
                    met.other_degrees.push((*entry, *own, keyed.delta.weights[*own as usize]));
                }
            }
        }
        if self.kind.gives_pairs() {
            met.out.push(given);
        }
        pairs.own.clear();
        pairs.other.clear();
    }

    /// Rows of one side with nulls for the other, or alone.
    fn one_sided(&self, side: usize, own: Vec<ArrayRef>, weights: Vec<i64>) -> Delta {
        if !self.kind.gives_pairs() {
            let columns = own.into_iter().zip(self.schema.fields());
            let columns = columns.map(|(column, field)| of_type(&column, field.data_type())).collect();
            let rows = batch_of(&self.schema, columns, weights.len()).expect("columns of the left input");
            return Delta::new(rows, weights);
        }
        let other = self.sides[1 - side].schema.fields();
        let other = other.iter().map(|field| new_null_array(field.data_type(), weights.len())).collect();
        self.output(side, own, other, weights)
    }

    /// The values of the other side that can match this one.
    fn within(&self, port: usize, value: i64) -> Option<std::ops::RangeInclusive<(i64, u32)>> {
        let Distance { least, most, .. } = self.range?;
        let (from, to) = match port {
            0 => (least, most),
            _ => (most.map(i64::saturating_neg), least.map(i64::saturating_neg)),
        };
        let from = from.map_or(i64::MIN, |from| value.saturating_add(from));
        let to = to.map_or(i64::MAX, |to| value.saturating_add(to));
        (from <= to).then_some((from, 0)..=(to, u32::MAX))
    }

    /// Puts the delta into its own side, and gives the rows that lost or gained all their partners by it.
    fn store(&mut self, port: usize, keyed: &Keyed, met: &mut Met, space: Option<&Space>) {
        let (now, keeps_empty) = (self.residence.now, self.residence.is_partial);
        let mut alone = Pairs::default();
        for row in 0..keyed.delta.len() {
            let degree = met.own_degrees[row];
            if keyed.can_match[row] {
                let (weight, stands) = (keyed.delta.weights[row], keyed.stands[row]);
                let (key, row) = (keyed.keys.get(row), keyed.rows.get(row));
                let counts = self.sides[port].adjust(key, row, (weight, degree), stands, keeps_empty);
                if let Some(bucket) = self.sides[port].by_key.get_mut(key) {
                    bucket.used = now;
                }
                if let Some(space) = space {
                    write(space, port, key, row, counts);
                    self.sides[port].write_due(stands.due, [key, row], weight, counts, space);
                }
            }
            if self.counts(port) && (degree == 0) != (self.kind == JoinKind::Semi) {
                alone.own.push(row as u32);
            }
        }
        if !alone.own.is_empty() {
            let rows = keyed.delta.take(&alone.own);
            met.out.push(self.one_sided(port, rows.rows.columns().to_vec(), rows.weights.to_vec()));
        }
        let is_semi = self.kind == JoinKind::Semi;
        let other = &mut self.sides[1 - port];
        let (mut changed, mut weights) = (Vec::new(), Vec::new());
        for (entry, _, change) in &met.other_degrees {
            let entry_of = &mut other.entries[*entry as usize];
            let was_alone = entry_of.degree == 0;
            entry_of.degree += change;
            let is_alone = entry_of.degree == 0;
            if was_alone != is_alone {
                changed.push(*entry);
                weights.push(if is_alone == is_semi { -entry_of.weight } else { entry_of.weight });
            }
        }
        if let Some(space) = space {
            for (entry, own, _) in &met.other_degrees {
                let entry = &other.entries[*entry as usize];
                let key = keyed.keys.get(*own as usize);
                write(space, 1 - port, key, &entry.row, Some((entry.weight, entry.degree)));
            }
        }
        if !changed.is_empty() {
            let other = &self.sides[1 - port];
            let rows = changed.iter().map(|entry| &*other.entries[*entry as usize].row);
            let columns = other.row_keys.decode_columns(rows);
            met.out.push(self.one_sided(1 - port, columns, weights));
        }
    }
}

/// Of a key of one side, what its entries in the space begin with.
fn prefix(side: usize, key: &[u8]) -> Vec<u8> {
    [&[side as u8][..], key].concat()
}

fn write(space: &Space, side: usize, key: &[u8], row: &[u8], counts: Option<(i64, i64)>) {
    let entry = [&[side as u8][..], key, row].concat();
    match counts {
        None => space.delete(&entry),
        Some((weight, degree)) => space.put(&entry, &[weight.to_le_bytes(), degree.to_le_bytes()].concat()),
    }
}

/// What a delta met on the other side.
#[derive(Default)]
struct Met {
    out: Vec<Delta>,
    own_degrees: Vec<i64>,
    /// Entries of the other side, the row of the delta that each met, and the change of the entry's degree.
    other_degrees: Vec<(u32, u32, i64)>,
}

impl Operate for Join {
    fn apply(&mut self, port: usize, delta: &Delta, context: &mut Context<'_>) -> Vec<Delta> {
        let mut given = Vec::new();
        self.apply_in_parts(port, delta, context, &mut |piece| given.push(piece));
        given
    }

    fn apply_in_parts(&mut self, port: usize, delta: &Delta, context: &mut Context<'_>, give: &mut dyn FnMut(Delta)) {
        let keyed = self.keyed(port, delta, context);
        self.load(&keyed, context);
        let mut met = Met { own_degrees: vec![0; keyed.delta.len()], ..Met::default() };
        let mut pairs = Pairs::default();
        for row in (0..keyed.delta.len()).filter(|row| keyed.can_match[*row]) {
            let Some(partners) = self.sides[1 - port].by_key.get(keyed.keys.get(row)) else { continue };
            let mut meet = |partner: u32| {
                pairs.own.push(row as u32);
                pairs.other.push(partner);
                if pairs.own.len() >= PAIRS_MAX {
                    self.build(port, &keyed, &mut pairs, &mut met, context);
                    met.out.drain(..).for_each(&mut *give);
                }
            };
            match &partners.rows {
                Rows::Any(partners) => partners.iter().for_each(|partner| meet(*partner)),
                Rows::Ordered(partners) => {
                    if let Some(range) = self.within(port, keyed.stands[row].order) {
                        partners.range(range).for_each(|(_, partner)| meet(*partner));
                    }
                }
            }
        }
        self.build(port, &keyed, &mut pairs, &mut met, context);
        self.store(port, &keyed, &mut met, context.space);
        *context.touched += keyed.delta.len() as u64;
        met.out.drain(..).for_each(give);
    }

    fn finish(&mut self, _context: &mut Context<'_>) -> Vec<Delta> {
        self.residence.tick();
        Vec::new()
    }

    fn uses_space(&self) -> bool {
        true
    }

    fn attach(&mut self, space: &Space) -> Result<(), EngineError> {
        self.residence.attach(space);
        self.sides.iter_mut().for_each(|side| side.stored_due.attach(space));
        Ok(())
    }

    fn shrink(&mut self, bytes: u64) -> u64 {
        let (now, held) = (self.residence.now, self.state_size().1);
        let ages = self.sides.iter().flat_map(|side| side.by_key.values()).map(|bucket| now.wrapping_sub(bucket.used));
        let mut eviction = self.residence.choose(held, bytes, ages);
        let mut evicted = 0;
        for side in &mut self.sides {
            let goes = |(key, bucket): (&Box<[u8]>, &Bucket)| {
                eviction.takes(now.wrapping_sub(bucket.used)).then(|| key.clone())
            };
            let gone: Vec<Box<[u8]>> = side.by_key.iter().filter_map(goes).collect();
            evicted += gone.len() as u64;
            gone.iter().for_each(|key| side.evict(key));
        }
        evicted
    }

    fn state_size(&self) -> (u64, u64) {
        let rows: u64 = self.sides.iter().map(|side| (side.entries.len() - side.free.len()) as u64).sum();
        let bytes: u64 = self.sides.iter().map(|side| side.bytes).sum();
        (rows, bytes + rows * 48)
    }

    fn save(&self, out: &mut dyn FnMut(&[u8])) {
        let mut writer = StateWriter::new(KIND, out);
        for (place, side) in self.sides.iter().enumerate() {
            for (key, bucket) in &side.by_key {
                for entry in bucket.rows.all().into_iter().map(|entry| &side.entries[entry as usize]) {
                    writer.u8(place as u8);
                    writer.bytes(key);
                    writer.bytes(&entry.row);
                    writer.i64(entry.weight);
                    writer.i64(entry.degree);
                    writer.end_entry();
                }
            }
        }
        writer.finish();
    }

    fn restore_keys(&mut self, section: &[u8], is_kept: &dyn Fn(&[u8]) -> bool) -> Result<(), EngineError> {
        let mut reader = StateReader::new(KIND, section)?;
        let mut rows: [Vec<Saved<'_>>; 2] = Default::default();
        while !reader.is_done() {
            let place = reader.u8()? as usize;
            let (key, row) = (reader.bytes()?, reader.bytes()?);
            let (weight, degree) = (reader.i64()?, reader.i64()?);
            if !is_kept(key) {
                continue;
            }
            let side = rows.get_mut(place);
            let side = side.ok_or_else(|| EngineError::State(format!("a join has no side {place}")))?;
            side.push((key, row, weight, degree));
        }
        for (side, rows) in self.sides.iter_mut().zip(rows) {
            let mut all = vec![true; rows.len()];
            let columns = match side.order.is_some() || side.forget.is_some() {
                true => side.row_keys.decode_columns(rows.iter().map(|row| row.1)),
                false => Vec::new(),
            };
            let stands = side.stands(&columns, &mut all);
            for ((key, row, weight, degree), stands) in rows.into_iter().zip(stands) {
                side.adjust(key, row, (weight, degree), stands, false);
            }
        }
        Ok(())
    }

    fn forgets(&mut self, forgets: &[Forget]) {
        for forget in forgets {
            self.sides[forget.input].forget = Some((forget.column, forget.after_us));
        }
    }

    fn retire(&mut self, horizon_us: i64) {
        self.sides.iter_mut().for_each(|side| side.retire(horizon_us));
    }

    fn retire_stored(&mut self, horizon_us: i64, space: &Space) -> Result<(), EngineError> {
        for (place, side) in self.sides.iter_mut().enumerate() {
            let Some((_, after_us)) = side.forget else { continue };
            for rest in side.stored_due.take(horizon_us.saturating_sub(after_us), space)? {
                space.delete(&prefix(place, &rest));
            }
        }
        Ok(())
    }
}

/// Key, row, weight and degree.
type Saved<'a> = (&'a [u8], &'a [u8], i64, i64);

impl Rows {
    fn all(&self) -> Vec<u32> {
        match self {
            Rows::Any(rows) => rows.clone(),
            Rows::Ordered(rows) => rows.iter().map(|(_, row)| *row).collect(),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Rows::Any(rows) => rows.is_empty(),
            Rows::Ordered(rows) => rows.is_empty(),
        }
    }
}

impl Side {
    fn new(place: u8, schema: SchemaRef, on: Vec<CompiledScalar>, order: Option<usize>) -> Result<Side, EngineError> {
        let failed = |error: arrow::error::ArrowError| EngineError::Graph(error.to_string());
        let types: Vec<_> = on.iter().map(|key| key.data_type().clone()).collect();
        Ok(Side {
            key_keys: RowKeys::of_types(&types).map_err(failed)?,
            row_keys: RowKeys::new(&schema).map_err(failed)?,
            schema,
            on,
            entries: Vec::new(),
            free: Vec::new(),
            by_row: HashTable::new(),
            by_key: byte_map(),
            bytes: 0,
            order,
            forget: None,
            due: BTreeSet::new(),
            stored_due: StoredDue::new(DUE + place),
        })
    }

    /// Where rows stand. One without a value there matches nothing.
    fn stands(&self, columns: &[ArrayRef], can_match: &mut [bool]) -> Vec<Stands> {
        let mut stands = vec![Stands::default(); can_match.len()];
        let mut read = |column: Option<usize>, set: fn(&mut Stands, i64)| {
            let Some(column) = column else { return };
            let values: Int64Array = ordinals(&columns[column]);
            for (row, stands) in stands.iter_mut().enumerate() {
                can_match[row] &= values.is_valid(row);
                set(stands, if values.is_valid(row) { values.value(row) } else { 0 });
            }
        };
        read(self.order, |stands, value| stands.order = value);
        read(self.forget.map(|(column, _)| column), |stands, value| stands.due = value);
        stands
    }

    /// Forgets what is settled.
    fn retire(&mut self, horizon_us: i64) {
        let Some((_, after_us)) = self.forget else { return };
        let later = self.due.split_off(&(horizon_us.saturating_sub(after_us), 0));
        let mut gone: Vec<u32> = std::mem::replace(&mut self.due, later).into_iter().map(|(_, at)| at).collect();
        gone.sort_unstable();
        for piece in gone.chunks(PAIRS_MAX) {
            let rows = self.row_keys.decode(piece.iter().map(|at| &*self.entries[*at as usize].row));
            let mut none = RowErrors::default();
            let rows = Delta::from_inserts(rows).with_schema(&self.schema);
            let (left, values) = evaluate_all(&self.on, &rows, &mut none);
            assert_eq!(left.len(), piece.len(), "keys that were computed before");
            let keys = self.key_keys.encode(&values, left.len());
            for (row, at) in piece.iter().enumerate() {
                let hash = STATE_HASHER.hash_one(&*self.entries[*at as usize].row);
                if let Ok(found) = self.by_row.find_entry(hash, |other| other == at) {
                    found.remove();
                }
                self.forget(keys.get(row), *at, false);
            }
        }
    }

    /// Notes when a row that came is settled, or that it has gone.
    fn write_due(&mut self, due: i64, rest: [&[u8]; 2], weight: i64, counts: Option<(i64, i64)>, space: &Space) {
        if self.forget.is_none() {
            return;
        }
        match counts {
            None => self.stored_due.delete(due, &rest.concat(), space),
            Some((sum, _)) if sum == weight => self.stored_due.put(due, &rest.concat(), space),
            Some(_) => {}
        }
    }

    /// The bucket of a key, made when there is none.
    fn open(&mut self, key: &[u8]) -> &mut Bucket {
        let (bytes, is_ordered) = (&mut self.bytes, self.order.is_some());
        self.by_key.entry_ref(key).or_insert_with(|| {
            *bytes += key.len() as u64 + BUCKET_BYTES;
            let rows = if is_ordered { Rows::Ordered(BTreeSet::new()) } else { Rows::Any(Vec::new()) };
            Bucket { rows, used: 0 }
        })
    }

    /// Reads the rows of a key.
    fn load(&mut self, place: usize, key: &[u8], space: &Space) -> Result<(), EngineError> {
        let (mut rows, mut failed): (Vec<(Box<[u8]>, i64, i64)>, _) = (Vec::new(), Ok(()));
        space.scan(&prefix(place, key), &mut |row, value| match value.split_first_chunk::<8>() {
            Some((weight, degree)) if degree.len() == 8 => {
                let degree = i64::from_le_bytes(degree.try_into().expect("8 bytes"));
                rows.push((row.into(), i64::from_le_bytes(*weight), degree));
            }
            _ => failed = Err(EngineError::State("a row of a join cannot be read".to_owned())),
        })?;
        failed?;
        let columns = match self.order.is_some() || self.forget.is_some() {
            true => self.row_keys.decode_columns(rows.iter().map(|row| &*row.0)),
            false => Vec::new(),
        };
        let stands = self.stands(&columns, &mut vec![true; rows.len()]);
        for ((row, weight, degree), stands) in rows.into_iter().zip(stands) {
            self.adjust(key, &row, (weight, degree), stands, true);
        }
        Ok(())
    }

    /// Adds to the weight of a row; a row that is new has this degree, one whose weight gets zero is forgotten. Answers the
    /// row's weight and degree then.
    fn adjust(
        &mut self,
        key: &[u8],
        row: &[u8],
        (weight, degree): (i64, i64),
        stands: Stands,
        keeps_empty: bool,
    ) -> Option<(i64, i64)> {
        let hash = STATE_HASHER.hash_one(row);
        let found = self.by_row.find_entry(hash, |entry| &*self.entries[*entry as usize].row == row);
        if let Ok(found) = found {
            let at = *found.get();
            let entry = &mut self.entries[at as usize];
            entry.weight += weight;
            if entry.weight != 0 {
                return Some((entry.weight, entry.degree));
            }
            found.remove();
            self.forget(key, at, keeps_empty);
            return None;
        }
        let place = match &self.open(key).rows {
            Rows::Any(rows) => rows.len() as i64,
            Rows::Ordered(_) => stands.order,
        };
        let entry = Entry { row: row.into(), weight, degree, place, due: stands.due };
        self.bytes += row.len() as u64;
        let at = match self.free.pop() {
            Some(at) => {
                self.entries[at as usize] = entry;
                at
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as u32
            }
        };
        match &mut self.open(key).rows {
            Rows::Any(rows) => rows.push(at),
            Rows::Ordered(rows) => {
                rows.insert((place, at));
            }
        }
        if self.forget.is_some() {
            self.due.insert((stands.due, at));
        }
        let entries = &self.entries;
        self.by_row.insert_unique(hash, at, |other| STATE_HASHER.hash_one(&*entries[*other as usize].row));
        Some((weight, degree))
    }

    fn forget(&mut self, key: &[u8], at: u32, keeps_empty: bool) {
        let row = std::mem::take(&mut self.entries[at as usize].row);
        self.bytes -= row.len() as u64;
        self.due.remove(&(self.entries[at as usize].due, at));
        let place = self.entries[at as usize].place;
        let bucket = self.by_key.get_mut(key).expect("a row stands under its key");
        match &mut bucket.rows {
            Rows::Any(rows) => {
                rows.swap_remove(place as usize);
                if let Some(moved) = rows.get(place as usize) {
                    self.entries[*moved as usize].place = place;
                }
            }
            Rows::Ordered(rows) => {
                rows.remove(&(place, at));
            }
        }
        if bucket.rows.is_empty() && !keeps_empty {
            self.by_key.remove(key);
            self.bytes -= key.len() as u64 + BUCKET_BYTES;
        }
        self.free.push(at);
    }

    /// Drops a bucket from memory.
    fn evict(&mut self, key: &[u8]) {
        let Some(bucket) = self.by_key.remove(key) else { return };
        self.bytes -= key.len() as u64 + BUCKET_BYTES;
        for at in bucket.rows.all() {
            let row = std::mem::take(&mut self.entries[at as usize].row);
            self.bytes -= row.len() as u64;
            self.due.remove(&(self.entries[at as usize].due, at));
            if let Ok(found) = self.by_row.find_entry(STATE_HASHER.hash_one(&*row), |entry| *entry == at) {
                found.remove();
            }
            self.free.push(at);
        }
    }
}
