//! TPC-DS: how many of its 99 queries are kept as views, and equal batch.
//!
//! The texts are not ours: `bench/tpcds_queries.sh` fetches them into a folder, and MAINSTEM_TPCDS_QUERIES names it. They come
//! in the words of another dialect, which [`adapted`] replaces. Some numbers have two texts, a and b; both must be equal.
//!
//! Sales are what the generator makes at least, a hundred thousand rows in stores; of the two largest dimensions there is what
//! sales refer to, of the days those that have sales. Many queries find no rows there, which is counted and no failure.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Display;

use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::ast::{Expr, OrderBy, OrderByExpr, OrderByKind, OrderByOptions, Value};
use mainstem_sql::{parse_query, rewrite_query};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tpcdsgen::config::{Session, SessionBuilder, Table as Generated};
use tpcdsgen::row::*;

use super::{Floats, Outcome, Query, Table, VERSIONS, catalog, changes, run, tables};
use crate::incremental::seeds;

const SCALE: f64 = 0.001;

/// Queries that differ from batch, with a part of the difference.
const KNOWN: &[(&str, &str)] = &[];
/// Of the 99, those that are equal at least.
const EQUAL_MIN: usize = 99;

fn session() -> Session {
    SessionBuilder::new().with_scale_factor(SCALE).build().unwrap()
}

fn lines(rows: impl Iterator<Item = impl Display>) -> Vec<String> {
    rows.map(|row| row.to_string()).collect()
}

/// All rows of the generator's table.
fn generated(table: &str) -> Vec<String> {
    let of = |table: Generated| (session(), session().get_scaling().get_row_count(table));
    macro_rules! rows {
        ($table:ident, $generator:ident) => {{
            let (session, count) = of(Generated::$table);
            lines($generator::new(session, count))
        }};
    }
    match table {
        "store_sales" => rows!(StoreSales, StoreSalesRowGenerator),
        "store_returns" => rows!(StoreSales, StoreReturnsRowGenerator),
        "catalog_sales" => rows!(CatalogSales, CatalogSalesRowGenerator),
        "catalog_returns" => rows!(CatalogSales, CatalogReturnsRowGenerator),
        "web_sales" => rows!(WebSales, WebSalesRowGenerator),
        "web_returns" => rows!(WebSales, WebReturnsRowGenerator),
        "inventory" => rows!(Inventory, InventoryRowGenerator),
        "store" => rows!(Store, StoreRowGenerator),
        "call_center" => rows!(CallCenter, CallCenterRowGenerator),
        "catalog_page" => rows!(CatalogPage, CatalogPageRowGenerator),
        "web_site" => rows!(WebSite, WebSiteRowGenerator),
        "web_page" => rows!(WebPage, WebPageRowGenerator),
        "warehouse" => rows!(Warehouse, WarehouseRowGenerator),
        "customer" => rows!(Customer, CustomerRowGenerator),
        "customer_address" => rows!(CustomerAddress, CustomerAddressRowGenerator),
        "customer_demographics" => rows!(CustomerDemographics, CustomerDemographicsRowGenerator),
        "date_dim" => rows!(DateDim, DateDimRowGenerator),
        "household_demographics" => rows!(HouseholdDemographics, HouseholdDemographicsRowGenerator),
        "item" => rows!(Item, ItemRowGenerator),
        "income_band" => rows!(IncomeBand, IncomeBandRowGenerator),
        "promotion" => rows!(Promotion, PromotionRowGenerator),
        "reason" => rows!(Reason, ReasonRowGenerator),
        "ship_mode" => rows!(ShipMode, ShipModeRowGenerator),
        "time_dim" => rows!(TimeDim, TimeDimRowGenerator),
        other => panic!("TPC-DS has no table {other}"),
    }
}

/// Rows for each table, large dimensions cut to what is used.
fn generated_tables() -> Vec<Table> {
    // Keys of times of day and of demographics, which customers have too.
    let mut used: HashSet<String> = HashSet::new();
    let mut note = |line: &str, places: &[usize]| {
        let values: Vec<&str> = line.split('|').collect();
        used.extend(places.iter().map(|place| values[*place].to_owned()));
    };
    generated("customer").iter().for_each(|line| note(line, &[2]));
    generated("store_sales").iter().for_each(|line| note(line, &[1, 4]));
    generated("store_returns").iter().for_each(|line| note(line, &[1, 4]));
    generated("catalog_sales").iter().for_each(|line| note(line, &[1, 4]));
    generated("web_sales").iter().for_each(|line| note(line, &[1, 5]));
    let is_used = |line: &String| used.contains(line.split('|').next().unwrap_or_default());
    let has_sales = |line: &String| {
        let day = line.split('|').nth(2).unwrap_or_default();
        ("1998-01-01".."2004-01-01").contains(&day)
    };
    let mut tables = tables(include_str!("tpcds/tables.sql"), |table| {
        let mut rows = generated(table);
        match table {
            "customer_demographics" | "time_dim" => rows.retain(is_used),
            "date_dim" => rows.retain(has_sales),
            "inventory" => rows = rows.into_iter().step_by(4).collect(),
            _ => {}
        }
        println!("{table}: {} rows", rows.len());
        rows
    });
    // A calendar does not change: queries compare with the one number of a month, and with two of them they are an error.
    tables.iter_mut().filter(|table| table.name == "date_dim").for_each(|table| table.updated.clear());
    tables
}

/// The text in our dialect: intervals and names in quotes as PostgreSQL's.
fn adapted(text: &str) -> String {
    let mut text = text.replace('`', "\"");
    for (days, unit) in [5, 14, 30, 60, 90].into_iter().flat_map(|days| [(days, "days"), (days, "DAY")]) {
        for word in ["interval", "INTERVAL"] {
            text = text.replace(&format!("{word} {days} {unit}"), &format!("INTERVAL '{days} days'"));
        }
    }
    text.trim().trim_end_matches(';').to_owned()
}

/// With all columns behind the keys of an ORDER BY with LIMIT, as a view breaks ties.
fn with_ties_decided(text: &str, width: usize) -> String {
    let Ok(mut query) = parse_query(text) else { return text.to_owned() };
    if query.limit_clause.is_none() {
        return text.to_owned();
    }
    let key = |column: usize| OrderByExpr {
        expr: Expr::Value(Value::Number(column.to_string(), false).into()),
        options: OrderByOptions { asc: Some(true), nulls_first: Some(true) },
        with_fill: None,
    };
    let mut keys = match query.order_by.take().map(|order| order.kind) {
        Some(OrderByKind::Expressions(keys)) => keys,
        _ => Vec::new(),
    };
    keys.extend((1..=width).map(key));
    query.order_by = Some(OrderBy { kind: OrderByKind::Expressions(keys), interpolate: None });
    query.to_string()
}

/// How many columns the query has; none if batch cannot plan it either.
async fn width(context: &SessionContext, text: &str) -> usize {
    let Ok(mut query) = parse_query(text) else { return 0 };
    if rewrite_query(&mut query).is_err() {
        return 0;
    }
    context.sql(&query.to_string()).await.map_or(0, |frame| frame.schema().fields().len())
}

/// The texts in the folder, with names for the columns: some have a name twice, which a view may not.
async fn queries(context: &SessionContext) -> Vec<Query> {
    let folder = std::env::var("MAINSTEM_TPCDS_QUERIES").expect("MAINSTEM_TPCDS_QUERIES: see bench/tpcds_queries.sh");
    let mut queries = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = adapted(&std::fs::read_to_string(&path).unwrap());
        let width = width(context, &text).await;
        let columns = (1..=width).map(|column| format!("c{column}")).collect();
        let decided = with_ties_decided(&text, width);
        // DataFusion refuses a column's number in ORDER BY where it is an expression over one in GROUP BY.
        let is_planned = self::width(context, &decided).await == width;
        let batch_text = if is_planned { decided } else { text.clone() };
        queries.push(Query { name, text, batch_text, columns });
    }
    queries.sort_by_key(|query| (number(&query.name)[1..].parse::<u32>().unwrap(), query.name.clone()));
    queries
}

/// `q14` of `q14a`.
fn number(name: &str) -> &str {
    name.trim_end_matches(['a', 'b'])
}

/// What became of the queries by number, both texts of those that have two.
#[derive(Debug, Default)]
struct Counts<'q> {
    equal: BTreeSet<&'q str>,
    with_rows: BTreeSet<&'q str>,
    not_equal: BTreeSet<&'q str>,
    refused: BTreeMap<String, Vec<&'q str>>,
    wrong: Vec<String>,
}

impl<'q> Counts<'q> {
    fn add(&mut self, name: &'q str, outcome: Outcome) {
        let known = KNOWN.iter().find(|(known, _)| *known == name);
        match outcome {
            Outcome::Equal { rows } => {
                self.equal.insert(number(name));
                if rows > 0 {
                    self.with_rows.insert(number(name));
                }
                if known.is_some() {
                    self.wrong.push(format!("{name} is equal, but known to differ"));
                }
                return;
            }
            Outcome::Refused(reason) => self.refused.entry(reason).or_default().push(name),
            Outcome::Different(difference) if known.is_some_and(|(_, part)| difference.contains(part)) => {}
            Outcome::Different(difference) => self.wrong.push(format!("{name}: {difference}")),
        }
        self.not_equal.insert(number(name));
    }

    fn finish(&mut self) {
        self.equal.retain(|number| !self.not_equal.contains(number));
        self.with_rows.retain(|number| self.equal.contains(number));
        let all = self.equal.len() + self.not_equal.len();
        println!("equal: {} of {all}, with rows {}", self.equal.len(), self.with_rows.len());
        println!("refused: {:#?}", self.refused);
        if all == 99 && self.equal.len() < EQUAL_MIN {
            self.wrong.push(format!("{} are equal, {EQUAL_MIN} were", self.equal.len()));
        }
    }
}

#[tokio::test]
#[ignore = "its queries are fetched, see bench/tpcds_queries.sh; takes minutes"]
async fn tpcds_as_views_over_changing_tables_equals_batch() {
    let tables = generated_tables();
    let catalog = catalog(&tables);
    for seed in seeds(1) {
        let versions = changes::versions(&tables, VERSIONS, &mut SmallRng::seed_from_u64(seed));
        let queries = queries(&versions[0].context).await;
        let mut counts = Counts::default();
        for (place, query) in queries.iter().enumerate() {
            let mut random = SmallRng::seed_from_u64(seed.wrapping_add(1000 * place as u64));
            let outcome = run(&catalog, query, &versions, Floats::Close, &mut random).await;
            println!("{}: {outcome:?}", query.name);
            counts.add(&query.name, outcome);
        }
        counts.finish();
        assert!(counts.wrong.is_empty(), "MAINSTEM_SEED={seed}\n{}", counts.wrong.join("\n"));
    }
}
