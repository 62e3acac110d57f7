//! Queries of benchmarks as materialized views over changing data: at the end of every version a view equals batch.
//!
//! Words: a *suite* is tables with generated rows, and queries over them. Its rows arrive over several versions (`changes`);
//! each query is a view of its own, kept by a circuit that is restarted from its saved state between some versions.
//!
//! Batch is the session that SELECT runs in: DataFusion's optimizer and operators, with PostgreSQL's meaning of literals and
//! types. So the same text means the same on both sides, and all that is kept differs.
//!
//! Always true here: what is refused, known to differ or without rows is listed with its reason, and the test fails when
//! a list says more than is so.

mod changes;
mod nexmark;
mod tpcds;
mod tpch;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, UInt32Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use datafusion::execution::FunctionRegistry;
use datafusion::prelude::SessionContext;
use mainstem_catalog::{Catalog, Column, Ident, RelationId, SqlType};
use mainstem_engine::Delta;
use mainstem_engine::batch::exact_aggregates;
use mainstem_sql::{Purpose, Statement, arrow_schema, parse, session_config, session_state_builder};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::incremental::{seeds, sliced};
use crate::stock::{View, add_table, answer, difference_text};
use changes::Version;

/// Versions that the rows of a suite arrive in.
const VERSIONS: usize = 5;
/// How far two floats of one value may be apart, as a part of it, where the order of additions shows.
const FLOAT_ERROR: f64 = 1e-9;

/// A table and the rows that its generator made.
#[derive(Debug)]
struct Table {
    id: RelationId,
    name: String,
    columns: Vec<Column>,
    primary_key: Vec<usize>,
    /// Columns that updates change: all but the key, unless the suite says less.
    updated: Vec<usize>,
    /// All columns, the hidden one too.
    rows: RecordBatch,
}

impl Table {
    fn visible(&self) -> Vec<usize> {
        (0..self.columns.len()).filter(|place| !self.columns[*place].hidden).collect()
    }
}

/// The tables of CREATE TABLE statements, with the rows that `lines` gives for each name: values parted by bars, a bar at
/// the end or none, nothing for NULL.
fn tables(definitions: &str, mut lines: impl FnMut(&str) -> Vec<String>) -> Vec<Table> {
    let mut tables = Vec::new();
    for (place, statement) in parse(definitions).unwrap().into_iter().enumerate() {
        let Statement::CreateTable(create) = statement else { panic!("not a table: {statement:?}") };
        let name = create.name.name;
        let column = |(name, sql_type, hidden): (_, _, bool)| Column {
            name,
            sql_type,
            nullable: !hidden,
            hidden,
            default: None,
        };
        let mut columns: Vec<Column> =
            create.columns.into_iter().map(|of| column((of.name, of.sql_type, false))).collect();
        let mut arrays = columns_of(&lines(&name), &columns);
        let mut primary_key = create.primary_key;
        if primary_key.is_empty() {
            primary_key.push(columns.len());
            columns.push(column(("_row_id".to_owned(), SqlType::BigInt, true)));
            arrays.push(Arc::new(Int64Array::from_iter_values(0..arrays[0].len() as i64)));
        }
        let rows = RecordBatch::try_new(arrow_schema(&columns), arrays).unwrap();
        let updated = (0..columns.len()).filter(|column| !primary_key.contains(column)).collect();
        tables.push(Table { id: RelationId(16384 + place as u32), name, columns, primary_key, updated, rows });
    }
    tables
}

fn columns_of(lines: &[String], columns: &[Column]) -> Vec<ArrayRef> {
    let split = |line: &String| line.split('|').map(str::to_owned).collect::<Vec<_>>();
    let rows: Vec<Vec<String>> = lines.iter().map(split).collect();
    let typed = |(place, column): (usize, &Column)| {
        let texts = rows.iter().map(|row| Some(row[place].as_str()).filter(|text| !text.is_empty()));
        let texts: StringArray = texts.collect();
        let values = cast(&texts, arrow_schema(std::slice::from_ref(column)).field(0).data_type()).unwrap();
        assert_eq!(values.null_count(), texts.null_count(), "values of {} in {:?}", column.name, rows.first());
        values
    };
    columns.iter().enumerate().map(typed).collect()
}

/// A session as SELECT has it, without tables.
fn batch_context() -> SessionContext {
    let config = session_config(Purpose::Query).with_target_partitions(1);
    let mut state = session_state_builder(Purpose::Query).with_config(config).build();
    for function in exact_aggregates() {
        state.register_udaf(function).unwrap();
    }
    SessionContext::new_with_state(state)
}

/// One query of a suite.
#[derive(Debug)]
struct Query {
    name: String,
    text: String,
    /// What DataFusion is asked.
    batch_text: String,
    /// Names for the view's columns, if the text has one twice.
    columns: Vec<Ident>,
}

impl Query {
    fn new(name: String, text: String) -> Query {
        Query { name, batch_text: text.clone(), text, columns: Vec::new() }
    }
}

/// The queries in a folder beside this file: `q1.sql` is q1.
fn queries(folder: &str) -> Vec<Query> {
    let folder = format!("{}/tests/suites/{folder}", env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if name.starts_with('q') {
            found.push(Query::new(name, std::fs::read_to_string(&path).unwrap()));
        }
    }
    found.sort_by_key(|query| query.name[1..].parse::<u32>().unwrap());
    found
}

/// What became of one query.
#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    /// Not planned as a view.
    Refused(String),
    /// The first difference from batch.
    Different(String),
    /// Equal at every version; most rows with a value that a version had.
    Equal { rows: usize },
}

/// Whether floats must be equal to the last bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Floats {
    Exact,
    Close,
}

/// Plans a query and runs it over the versions.
async fn run(catalog: &Catalog, query: &Query, versions: &[Version], floats: Floats, random: &mut SmallRng) -> Outcome {
    match View::plan(catalog, &query.text, &query.columns) {
        Ok(mut view) => {
            // Half of them run with their state out of memory between versions.
            if random.random_bool(0.5) {
                view.spill();
            }
            compare(view, query, versions, floats, random).await
        }
        Err(reason) => Outcome::Refused(reason),
    }
}

/// Compares a view with batch at the end of every version. Where one side is an error, both must be.
async fn compare(
    mut view: View,
    query: &Query,
    versions: &[Version],
    floats: Floats,
    random: &mut SmallRng,
) -> Outcome {
    let mut most = 0;
    for (number, version) in versions.iter().enumerate() {
        let mut slices = Vec::new();
        for (relation, delta) in &version.deltas {
            let sliced = sliced(random, delta).into_iter().map(|slice| (*relation, slice));
            let place = random.random_range(0..=slices.len());
            slices.splice(place..place, sliced);
        }
        slices.iter().for_each(|(relation, slice)| view.push(*relation, slice));
        let kept = view.finish_version();
        let expected = match (kept, answer(&version.context, &query.batch_text, view.schema()).await) {
            (Ok(()), Ok(expected)) => expected,
            (Err(_), Err(_)) => continue,
            (Ok(()), Err(error)) => return Outcome::Different(format!("version {number}: an error in batch: {error}")),
            (Err(error), Ok(_)) => {
                return Outcome::Different(format!("version {number}: an error in the view: {error}"));
            }
        };
        let extra = view.minus(&expected);
        if !extra.is_empty() && (floats == Floats::Exact || !is_close(&extra)) {
            return Outcome::Different(format!("version {number}: {}", difference_text(&extra)));
        }
        most = most.max(with_values(&expected));
        if random.random_bool(0.4) {
            view.reopen();
        }
    }
    Outcome::Equal { rows: most }
}

/// Rows that are not all null: an aggregate without groups has a row over nothing too.
fn with_values(rows: &Delta) -> usize {
    (0..rows.len()).filter(|row| rows.rows.columns().iter().any(|column| column.is_valid(*row))).count()
}

/// Whether the rows of both signs pair up so that only floats differ, and those little.
fn is_close(extra: &Delta) -> bool {
    let is_float = |place: &usize| extra.rows.column(*place).data_type() == &DataType::Float64;
    let (floats, rest): (Vec<usize>, Vec<usize>) = (0..extra.rows.num_columns()).partition(is_float);
    // Sorted by what must be equal.
    let extra = extra.project(&[rest.clone(), floats].concat());
    let extra = Delta::consolidate(&extra.schema(), &[extra]);
    let of_sign = |sign: i64| {
        let weights = (0..).zip(extra.weights.iter()).filter(|(_, weight)| weight.signum() == sign);
        let rows = weights.flat_map(|(row, weight)| std::iter::repeat_n(row, weight.unsigned_abs() as usize));
        arrow::compute::take_record_batch(&extra.rows, &UInt32Array::from_iter_values(rows)).unwrap()
    };
    let (more, less) = (of_sign(1), of_sign(-1));
    let are_close = |(one, other): (Option<f64>, Option<f64>)| match (one, other) {
        (Some(one), Some(other)) => (one - other).abs() <= FLOAT_ERROR * one.abs().max(other.abs()),
        (one, other) => one == other,
    };
    more.num_rows() == less.num_rows()
        && more.columns().iter().zip(less.columns()).enumerate().all(|(place, (one, other))| match place < rest.len() {
            true => one == other,
            false => one.as_primitive::<Float64Type>().iter().zip(other.as_primitive::<Float64Type>()).all(are_close),
        })
}

/// The queries of a suite that do not equal batch with rows, each with the reason.
#[derive(Debug)]
struct Exceptions {
    /// Refused as views, with a part of the message.
    refused: &'static [(&'static str, &'static str)],
    /// Different from batch, with a part of the difference.
    known: &'static [(&'static str, &'static str)],
    /// Equal, but without rows at this scale.
    empty: &'static [(&'static str, &'static str)],
}

/// Runs all queries of a suite and checks what becomes of each.
async fn check(tables: &[Table], queries: &[Query], exceptions: &Exceptions) {
    let catalog = catalog(tables);
    let seeds = seeds(1);
    for seed in &seeds {
        let versions = changes::versions(tables, VERSIONS, &mut SmallRng::seed_from_u64(*seed));
        let mut outcomes = BTreeMap::new();
        for (place, query) in queries.iter().enumerate() {
            let mut random = SmallRng::seed_from_u64(seed.wrapping_add(1000 * place as u64));
            let outcome = run(&catalog, query, &versions, Floats::Exact, &mut random).await;
            println!("{}: {outcome:?}", query.name);
            outcomes.insert(query.name.as_str(), outcome);
        }
        let mut wrong: Vec<String> = unexpected(&outcomes, exceptions);
        // With other seeds a rare row may be missing.
        if *seed != 1 {
            wrong.retain(|reason| !reason.ends_with("without rows"));
        }
        assert!(wrong.is_empty(), "MAINSTEM_SEED={seed}\n{}", wrong.join("\n"));
    }
}

fn catalog(tables: &[Table]) -> Catalog {
    let mut catalog = Catalog::default();
    for table in tables {
        add_table(&mut catalog, table.id, &table.name, table.columns.clone(), table.primary_key.clone());
    }
    catalog
}

fn unexpected(outcomes: &BTreeMap<&str, Outcome>, exceptions: &Exceptions) -> Vec<String> {
    let listed = |list: &'static [(&str, &'static str)], name: &str| {
        list.iter().find(|(listed, _)| *listed == name).map(|(_, reason)| *reason)
    };
    let mut wrong = Vec::new();
    for (name, outcome) in outcomes {
        let refused = listed(exceptions.refused, name);
        let known = listed(exceptions.known, name);
        let is_empty = listed(exceptions.empty, name).is_some();
        let is_right = match outcome {
            Outcome::Refused(message) => refused.is_some_and(|part| message.contains(part)),
            Outcome::Different(difference) => known.is_some_and(|part| difference.contains(part)),
            Outcome::Equal { rows } => refused.is_none() && known.is_none() && is_empty == (*rows == 0),
        };
        match outcome {
            Outcome::Equal { rows: 0 } if !is_right => wrong.push(format!("{name} is equal, but without rows")),
            outcome if !is_right => wrong.push(format!("{name}: {outcome:?}")),
            _ => {}
        }
    }
    let all = [exceptions.refused, exceptions.known, exceptions.empty].concat();
    wrong.extend(
        all.iter().filter(|(name, _)| !outcomes.contains_key(name)).map(|(name, _)| format!("no query {name}")),
    );
    wrong
}
