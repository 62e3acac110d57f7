//! TPC-H: its 22 queries over its generator's rows.
//!
//! The substitution parameters are those of TPC's validation where they find rows at this scale; where they do not, others
//! of the same domain, and a note in the query's file. Columns that make the order whole are added where there is a LIMIT.

use std::fmt::Display;

use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};

use mainstem_sql::OperatorId;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::{Exceptions, Floats, Outcome, VERSIONS, catalog, changes, check, compare, queries, tables};
use crate::stock::View;

/// Twelve thousand line items.
const SCALE: f64 = 0.002;

const EXCEPTIONS: Exceptions = Exceptions { refused: &[], known: &[], empty: &[] };

fn lines(rows: impl IntoIterator<Item = impl Display>) -> Vec<String> {
    rows.into_iter().map(|row| row.to_string()).collect()
}

fn rows(table: &str) -> Vec<String> {
    match table {
        "region" => lines(RegionGenerator::new(SCALE, 1, 1)),
        "nation" => lines(NationGenerator::new(SCALE, 1, 1)),
        "supplier" => lines(SupplierGenerator::new(SCALE, 1, 1)),
        "customer" => lines(CustomerGenerator::new(SCALE, 1, 1)),
        "part" => lines(PartGenerator::new(SCALE, 1, 1)),
        "partsupp" => lines(PartSuppGenerator::new(SCALE, 1, 1)),
        "orders" => lines(OrderGenerator::new(SCALE, 1, 1)),
        "lineitem" => lines(LineItemGenerator::new(SCALE, 1, 1)),
        other => panic!("TPC-H has no table {other}"),
    }
}

#[tokio::test]
async fn tpch_as_views_over_changing_tables_equals_batch() {
    let tables = tables(include_str!("tpch/tables.sql"), rows);
    let queries = queries("tpch");
    assert_eq!(queries.len(), 22);
    check(&tables, &queries, &EXCEPTIONS).await;
}

#[tokio::test]
async fn every_query_of_tpch_notices_an_operator_that_loses_retractions() {
    let tables = tables(include_str!("tpch/tables.sql"), rows);
    let catalog = catalog(&tables);
    let mut random = SmallRng::seed_from_u64(1);
    let versions = changes::versions(&tables, VERSIONS, &mut random);
    for query in queries("tpch") {
        let Ok(view) = View::plan(&catalog, &query.text, &[]) else { continue };
        let mut outcomes = Vec::new();
        // From the output: what is nearest to the tables may lose what the query does not ask for.
        for operator in (0..view.operators()).rev() {
            let mut view = View::plan(&catalog, &query.text, &[]).unwrap();
            view.break_operator(OperatorId(operator as u32));
            outcomes.push(compare(view, &query, &versions, Floats::Exact, &mut random).await);
            if matches!(outcomes.last(), Some(Outcome::Different(_))) {
                break;
            }
        }
        assert!(matches!(outcomes.last(), Some(Outcome::Different(_))), "{}: {outcomes:?}", query.name);
        println!("{}: the break of {} operators is not seen", query.name, outcomes.len() - 1);
    }
}
