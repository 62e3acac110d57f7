//! `/metrics`: log, broker, engine and views in Prometheus' text format.

use std::fmt::Write;

use super::State;

/// A metric with its help line; samples follow with `sample`.
struct Text(String);

impl Text {
    fn metric(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.metric(name, kind, help);
        self.sample(name, &[], value);
    }
}

/// All metrics.
pub(super) fn render(state: &State) -> String {
    let mut text = Text(String::new());
    log(state, &mut text);
    broker(state, &mut text);
    engine(state, &mut text);
    text.0
}

fn log(state: &State, text: &mut Text) {
    let log = state.broker.log().counters();
    let counters = [
        ("mainstem_log_entries_total", "Entries accepted", log.entries),
        ("mainstem_log_commits_total", "Commit log writes, each with one sync", log.commits),
        ("mainstem_log_commit_bytes_total", "Bytes written to the commit log", log.commit_bytes),
        ("mainstem_log_segment_bytes_total", "Bytes written to segments", log.segment_bytes),
        ("mainstem_log_checkpoints_total", "Log checkpoints", log.checkpoints),
        ("mainstem_log_refused_for_space_total", "Appends refused because the disk was full", log.refused_for_space),
        ("mainstem_log_compacted_bytes_total", "Bytes of segments that compaction has replaced", log.compacted_bytes),
        (
            "mainstem_log_compaction_removed_bytes_total",
            "Bytes by which compaction made segments smaller",
            log.compaction_removed_bytes,
        ),
        ("mainstem_log_sync_microseconds_total", "Time in fdatasync of the commit log", log.sync_us),
    ];
    for (name, help, value) in counters {
        text.single(name, "counter", help, value);
    }
    text.single("mainstem_log_visible_csn", "gauge", "Newest durable and visible entry", log.visible_csn);
    text.single(
        "mainstem_log_recovery_read_bytes",
        "gauge",
        "Bytes of the commit log that the start read: what the last checkpoint did not cover",
        log.recovery_bytes,
    );
    text.single("mainstem_log_recovery_entries", "gauge", "Entries that the start applied", log.recovery_entries);
    text.single("mainstem_log_damaged_partitions", "gauge", "Partitions stopped at damage", log.damaged_partitions);
}

fn broker(state: &State, text: &mut Text) {
    let broker = state.broker.counters();
    text.metric("mainstem_kafka_requests_total", "counter", "Requests of Kafka clients by type");
    for (api, count) in &broker.requests {
        text.sample("mainstem_kafka_requests_total", &[("api", api)], count);
    }
    let counters = [
        ("mainstem_kafka_produced_records_total", "Records accepted from producers", broker.produced_records),
        ("mainstem_kafka_produced_bytes_total", "Bytes of batches accepted", broker.produced_bytes),
        ("mainstem_kafka_fetched_records_total", "Records sent to consumers", broker.fetched_records),
        ("mainstem_kafka_fetched_bytes_total", "Bytes of batches sent", broker.fetched_bytes),
        ("mainstem_kafka_refused_batches_total", "Batches refused", broker.refused_batches),
        ("mainstem_kafka_connections_opened_total", "Connections opened", broker.connections_opened),
        (
            "mainstem_kafka_connections_closed_for_cause_total",
            "Connections closed for what they sent",
            broker.closed_for_cause,
        ),
    ];
    for (name, help, value) in counters {
        text.single(name, "counter", help, value);
    }
    text.single(
        "mainstem_kafka_fetched_bytes_in_memory",
        "gauge",
        "Bytes of fetched records that clients have not taken yet",
        broker.fetched_bytes_in_memory,
    );
    text.single("mainstem_kafka_connections", "gauge", "Connections open", broker.connections);
    text.metric("mainstem_group_lag_records", "gauge", "Records a consumer group has not read");
    for group in state.broker.groups() {
        for at in &group.partitions {
            let partition = at.partition.to_string();
            let labels = [("group", group.group.as_str()), ("topic", at.topic.as_str()), ("partition", &partition)];
            if let Some(lag) = at.lag() {
                text.sample("mainstem_group_lag_records", &labels, lag);
            }
        }
    }
}

fn engine(state: &State, text: &mut Text) {
    let engine = state.engine.stats();
    text.single("mainstem_engine_published_csn", "gauge", "The cut that readers see", engine.published.0);
    text.single("mainstem_engine_versions_total", "counter", "Versions published", engine.versions);
    text.single("mainstem_subscriptions", "gauge", "Subscriptions that live", engine.subscriptions);
    text.single(
        "mainstem_engine_replay_started_csn",
        "gauge",
        "Where replay began at the start",
        engine.replay_started_at.0,
    );
    text.single("mainstem_engine_checkpoint_csn", "gauge", "The newest checkpoint", engine.checkpoint.0);
    text.single("mainstem_engine_checkpoints_total", "counter", "Checkpoints written", engine.checkpoints);
    text.single(
        "mainstem_engine_checkpoint_bytes",
        "gauge",
        "Bytes of keys and values that the newest checkpoint wrote",
        engine.checkpoint_bytes,
    );
    let state = engine.state;
    text.single("mainstem_state_memory_bytes", "gauge", "Memory of state and content", state.used_bytes);
    text.single("mainstem_state_memory_limit_bytes", "gauge", "What it may be", state.budget_bytes);
    text.single("mainstem_state_disk_bytes", "gauge", "Bytes of the state store's files", state.disk_bytes);
    text.single(
        "mainstem_state_spilled_bytes_total",
        "counter",
        "Bytes that went to scratch between checkpoints",
        state.spilled_bytes,
    );
    text.single("mainstem_state_loaded_units_total", "counter", "Units of state read", state.loaded_units);
    text.single("mainstem_state_evicted_units_total", "counter", "Units of state dropped", state.evicted_units);
    text.single("mainstem_state_emptied_total", "counter", "Times the damaged state store was emptied", state.emptied);
    text.single("mainstem_dead_letters_total", "counter", "Dead letters written", engine.dead_letters_written);
    let per_relation: [(&str, &str, fn(&mainstem_engine::engine::RelationStats) -> u64); 10] = [
        ("mainstem_relation_rows", "Rows that readers see", |r| r.rows),
        ("mainstem_relation_bytes", "Bytes of readable content", |r| r.bytes),
        ("mainstem_relation_state_rows", "Rows in operators' state", |r| r.state_rows),
        ("mainstem_relation_state_bytes", "Bytes in operators' state", |r| r.state_bytes),
        ("mainstem_relation_rows_touched_total", "Rows read from or written to state", |r| r.rows_touched),
        ("mainstem_relation_errors", "Rows that failed to evaluate", |r| r.errors),
        ("mainstem_relation_late_rows_total", "Late rows", |r| r.late),
        ("mainstem_relation_dead_letters_total", "Records that did not decode", |r| r.dead_letters),
        ("mainstem_relation_lag_records", "Records of the inputs not yet seen", |r| r.lag_records),
        ("mainstem_relation_lag_milliseconds", "How far behind the inputs, in time", |r| r.lag_ms),
    ];
    for (name, help, value) in per_relation {
        text.metric(name, if name.ends_with("_total") { "counter" } else { "gauge" }, help);
        for relation in engine.relations.values() {
            text.sample(name, &[("relation", &relation.name), ("kind", relation.kind)], value(relation));
        }
    }
    sinks(&engine, text);
}

fn sinks(engine: &mainstem_engine::EngineStats, text: &mut Text) {
    let per_sink: [(&str, &str, fn(&mainstem_engine::SinkStats) -> u64); 5] = [
        ("mainstem_sink_records_total", "Records written to the sink's topic", |sink| sink.records),
        ("mainstem_sink_left_out_total", "Rows taken back that force_append_only left out", |sink| sink.left_out),
        ("mainstem_sink_lag_records", "Records of the inputs that the sink has not taken in", |sink| sink.lag_records),
        ("mainstem_sink_lag_milliseconds", "How far behind the inputs, in time", |sink| sink.lag_ms),
        ("mainstem_sink_failed", "1 when the sink has stopped for good", |sink| {
            u64::from(sink.state.starts_with("failed"))
        }),
    ];
    for (name, help, value) in per_sink {
        text.metric(name, if name.ends_with("_total") { "counter" } else { "gauge" }, help);
        for sink in engine.sinks.values() {
            text.sample(name, &[("sink", &sink.name)], value(sink));
        }
    }
}
