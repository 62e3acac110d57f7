//! The status page: topics, groups with lag, views with lag and state size. No scripts; it reloads itself.

use std::fmt::Write;

use mainstem_log::{TopicId, TopicPartition};

use super::State;

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1d2430;\
background:#fbfbfa}h1{font-size:1.5rem;margin:0}h2{font-size:1.05rem;margin:2rem 0 .4rem}p{color:#5a6472;margin:.3rem 0}\
table{border-collapse:collapse;width:100%;background:#fff}th,td{padding:.35rem .7rem;text-align:left;border-bottom:1px solid \
#e6e8eb}th{font-weight:600;color:#5a6472;font-size:.85rem}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}\
.bad{color:#b3261e;font-weight:600}code{background:#eef0f2;padding:.1rem .3rem;border-radius:3px}\
@media(prefers-color-scheme:dark){body{background:#14171c;color:#dfe3e8}table{background:#1a1e25}th,td{border-color:#2b313a}\
th,p{color:#98a2b0}code{background:#252b34}}";

/// The page as HTML.
pub(super) fn render(state: &State) -> String {
    let mut page = String::from("<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=5>");
    page.push_str("<meta name=viewport content='width=device-width'><title>Mainstem</title>");
    let _ = write!(page, "<style>{STYLE}</style><h1>Mainstem</h1>");
    let at = state.addresses;
    let _ = write!(
        page,
        "<p>Kafka <code>{}</code> &middot; PostgreSQL <code>psql -h {} -p {} -U root dev</code> &middot; <a \
         href=/metrics>metrics</a></p>",
        at.kafka,
        at.pg.ip(),
        at.pg.port()
    );
    views(state, &mut page);
    sinks(state, &mut page);
    topics(state, &mut page);
    groups(state, &mut page);
    page
}

fn table(page: &mut String, title: &str, header: &[&str], rows: &[Vec<String>], none: &str) {
    let _ = write!(page, "<h2>{title}</h2>");
    if rows.is_empty() {
        let _ = write!(page, "<p>{none}</p>");
        return;
    }
    let is_number = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .all(|cell| cell.starts_with(|c: char| c.is_ascii_digit() || c == '-'))
    };
    let class = |column: usize| if is_number(column) { " class=n" } else { "" };
    page.push_str("<table><tr>");
    for (column, name) in header.iter().enumerate() {
        let _ = write!(page, "<th{}>{name}</th>", class(column));
    }
    for row in rows {
        page.push_str("</tr><tr>");
        for (column, cell) in row.iter().enumerate() {
            let _ = write!(page, "<td{}>{}</td>", class(column), escape(cell));
        }
    }
    page.push_str("</tr></table>");
}

fn views(state: &State, page: &mut String) {
    let stats = state.engine.stats();
    let jobs = state.engine.jobs();
    let rows: Vec<_> = stats
        .relations
        .iter()
        .map(|(id, relation)| {
            let job = jobs.iter().find(|job| job.relation == *id);
            let status = match job {
                Some(job) => format!("{}: {} of {} rows", job.state, job.rows_done, job.rows_total),
                None if !relation.input_errors.is_empty() => relation.input_errors.join("; "),
                None if relation.errors > 0 => format!("{} rows fail", relation.errors),
                None => "live".to_owned(),
            };
            vec![
                relation.name.clone(),
                relation.kind.to_owned(),
                status,
                // A source keeps no rows: what was read of its topic.
                if relation.kind == "source" { relation.rows_in } else { relation.rows }.to_string(),
                bytes(relation.bytes + relation.state_bytes),
                relation.lag_records.to_string(),
                format!("{:.1} s", relation.lag_ms as f64 / 1000.0),
                relation.late.to_string(),
                relation.dead_letters.to_string(),
            ]
        })
        .collect();
    let header = ["name", "kind", "status", "rows", "size", "lag (records)", "lag (time)", "late rows", "dead letters"];
    let none = "None yet. Make one with <code>CREATE MATERIALIZED VIEW</code>.";
    table(page, "Sources, tables and views", &header, &rows, none);
}

fn sinks(state: &State, page: &mut String) {
    let catalog = state.broker.catalog();
    let row = |(id, sink): (&mainstem_catalog::RelationId, &mainstem_engine::SinkStats)| {
        let definition = catalog.sink(*id);
        vec![
            sink.name.clone(),
            definition.map_or_else(String::new, |sink| sink.topic_name.clone()),
            definition.map_or("", |sink| sink.format.text()).to_owned(),
            sink.state.clone(),
            sink.records.to_string(),
            sink.lag_records.to_string(),
            format!("{:.1} s", sink.lag_ms as f64 / 1000.0),
        ]
    };
    let rows: Vec<_> = state.engine.stats().sinks.iter().map(row).collect();
    if !rows.is_empty() {
        let header = ["name", "topic", "format", "status", "records", "lag (records)", "lag (time)"];
        table(page, "Sinks", &header, &rows, "");
    }
}

fn topics(state: &State, page: &mut String) {
    let catalog = state.broker.catalog();
    let rows: Vec<_> = catalog
        .topics()
        .map(|topic| {
            let partitions = (0..topic.partitions).filter_map(|partition| {
                state.broker.log().partition(TopicPartition::new(TopicId(topic.id), partition))
            });
            let (records, size) = partitions.fold((0, 0), |(records, size), partition| {
                (records + partition.high_watermark - partition.start_offset, size + partition.bytes)
            });
            vec![topic.name.clone(), topic.partitions.to_string(), records.to_string(), bytes(size)]
        })
        .collect();
    table(page, "Topics", &["topic", "partitions", "records", "size"], &rows, "None yet.");
}

fn groups(state: &State, page: &mut String) {
    let rows: Vec<_> = state
        .broker
        .groups()
        .iter()
        .map(|group| {
            let lag: i64 = group.partitions.iter().filter_map(mainstem_broker::GroupPartition::lag).sum();
            vec![group.group.clone(), format!("{:?}", group.state), group.members.to_string(), lag.to_string()]
        })
        .collect();
    table(page, "Consumer groups", &["group", "state", "members", "lag (records)"], &rows, "None yet.");
}

fn bytes(n: u64) -> String {
    match n {
        0..1024 => format!("{n} B"),
        1024..1_048_576 => format!("{:.1} KiB", n as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", n as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", n as f64 / 1_073_741_824.0),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
