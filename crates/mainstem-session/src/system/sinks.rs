//! `mainstem.sinks` and `mainstem.indexes`.

use mainstem_catalog::Catalog;
use mainstem_engine::EngineStats;

use super::builder::{Tables, row};

pub(super) fn add(tables: &Tables, catalog: &Catalog, stats: &EngineStats) {
    let name_of = |id| catalog.relation(id).map_or_else(String::new, |relation| relation.name.clone());
    let sinks = catalog.sinks().map(|sink| {
        let one = stats.sinks.get(&sink.id);
        let number = |of: fn(&mainstem_engine::SinkStats) -> u64| one.map_or(0, of);
        let state = one.map_or_else(|| "starting".to_owned(), |one| one.state.clone());
        let (state, reason) = match state.split_once(": ") {
            Some((state, reason)) => (state.to_owned(), Some(reason.to_owned())),
            None => (state, None),
        };
        let mut row = row![sink.id.0, sink.name.as_str(), name_of(sink.from), sink.topic_name.as_str()];
        row.extend(row![sink.format.text(), state, reason, number(|one| one.committed.0), number(|one| one.records)]);
        row.extend(row![number(|one| one.left_out), number(|one| one.lag_records), number(|one| one.lag_ms)]);
        row
    });
    tables.add(
        "sinks",
        "id:i8 name:t relation:t topic:t format:t state:t reason:t committed:i8 records:i8 left_out:i8 lag_records:i8 \
         lag_ms:i8",
        sinks.collect(),
    );
    let indexes = catalog.indexes().map(|index| {
        let relation = catalog.relation(index.of);
        let name = |column: &usize| relation.map_or("", |relation| relation.columns[*column].name.as_str());
        let columns: Vec<&str> = index.columns.iter().map(name).collect();
        row![index.id.0, index.name.as_str(), name_of(index.of), columns.join(", ")]
    });
    tables.add("indexes", "id:i8 name:t relation:t columns:t", indexes.collect());
}
