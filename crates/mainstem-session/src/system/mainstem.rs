//! `mainstem`: what runs, how far it is, and what went wrong.

use std::sync::Arc;

use datafusion::catalog::SchemaProvider;
use mainstem_catalog::{Catalog, RelationKind, TopicOwner};

use super::builder::{Tables, row};
use crate::session::Session;

pub(super) fn schema(session: &Session, catalog: &Catalog) -> Arc<dyn SchemaProvider> {
    let tables = Tables::default();
    let stats = session.shared.engine.stats();
    let (mut views, mut sources, mut own) = (vec![], vec![], vec![]);
    for relation in catalog.named_relations() {
        let one = stats.relations.get(&relation.id).cloned().unwrap_or_default();
        let name = relation.name.as_str();
        let watermark = one.watermark_us;
        match &relation.kind {
            RelationKind::MaterializedView(_) => {
                let mut row = row![relation.id.0, name, one.rows, one.bytes, one.state_rows, one.state_bytes];
                row.extend(row![one.lag_records, one.lag_ms, one.errors, one.late, one.rows_touched, watermark]);
                views.push(row);
            }
            RelationKind::Source(source) => {
                let mut row = row![relation.id.0, name, source.topic_name.as_str(), one.rows_in, one.lag_records];
                row.extend(row![one.lag_ms, one.dead_letters, one.late, watermark, one.input_errors.join("; ")]);
                sources.push(row);
            }
            RelationKind::Table(_) => {
                own.push(row![relation.id.0, name, one.rows, one.bytes, one.lag_records, one.dead_letters]);
            }
            RelationKind::View(_) => {}
        }
    }
    tables.add(
        "views",
        "id:i8 name:t rows:i8 bytes:i8 state_rows:i8 state_bytes:i8 lag_records:i8 lag_ms:i8 errors:i8 late_rows:i8 \
         rows_touched:i8 watermark_us:i8",
        views,
    );
    tables.add(
        "sources",
        "id:i8 name:t topic:t records:i8 lag_records:i8 lag_ms:i8 dead_letters:i8 late_rows:i8 watermark_us:i8 \
         input_errors:t",
        sources,
    );
    tables.add("tables", "id:i8 name:t rows:i8 bytes:i8 lag_records:i8 dead_letters:i8", own);
    let jobs = session.shared.engine.jobs().into_iter();
    let jobs = jobs.map(|job| {
        let (per_second, seconds_left) = job.estimate().unzip();
        let mut row = row![job.relation.0, job.name.as_str(), job.rows_done, job.rows_total, job.state.as_str()];
        row.extend(row![per_second, seconds_left]);
        row
    });
    let columns = "id:i8 name:t rows_done:i8 rows_total:i8 state:t rows_per_second:i8 seconds_left:i8";
    tables.add("jobs", columns, jobs.collect());
    let topics = catalog.topics().map(|topic| {
        let owner = match topic.owner {
            TopicOwner::Anyone => "anyone",
            TopicOwner::Table(_) => "table",
            TopicOwner::Internal => "internal",
        };
        row![topic.name.as_str(), topic.id.to_string(), i64::from(topic.partitions), owner]
    });
    tables.add("topics", "name:t id:t partitions:i4 owner:t", topics.collect());
    let settings = session.settings.all().into_iter();
    let settings = settings.map(|(name, value, text)| row![name, value, text]);
    tables.add("settings", "name:t setting:t description:t", settings.collect());
    super::sinks::add(&tables, catalog, &stats);
    let engine = row![
        stats.published.0,
        stats.versions,
        stats.checkpoint.0,
        stats.checkpoints,
        stats.replay_started_at.0,
        stats.dead_letters_written,
        stats.checkpoint_bytes,
        stats.state.used_bytes,
        stats.state.budget_bytes,
        stats.state.disk_bytes,
        stats.state.spilled_bytes,
        stats.rows_read,
    ];
    let columns = "published:i8 versions:i8 checkpoint:i8 checkpoints:i8 replay_started_at:i8 dead_letters_written:i8 \
                   checkpoint_bytes:i8 state_memory_bytes:i8 state_memory_limit_bytes:i8 state_disk_bytes:i8 \
                   state_spilled_bytes:i8 rows_read:i8";
    tables.add("engine", columns, vec![engine]);
    tables.finish()
}
