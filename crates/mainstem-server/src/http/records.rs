//! Topics over HTTP as JSON: list, write, read. The rules are the Kafka door's: requests go through the broker as such.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, Path, Query, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use mainstem_broker::{ClientInfo, TopicSettings};
use mainstem_kafka_wire::batch::{Compression, split};
use mainstem_kafka_wire::messages::{ResponseError, split_response};
use mainstem_kafka_wire::produce::{ProducePartition, ProduceRequest, ProduceResponse, ProduceTopic};
use mainstem_kafka_wire::records::{RecordBatchBuilder, records};
use mainstem_log::{ReadError, TopicId, TopicPartition};
use serde::Deserialize;
use serde_json::{Value, json};

use super::State;

/// Produce version used inside: the last that names topics.
const PRODUCE: i16 = 12;
const READ_BYTES_MAX: usize = 8 << 20;
/// What JSON may add to the bytes of a batch: each doubled by escapes, and the names around them.
const JSON_FACTOR: usize = 2;
const JSON_OVERHEAD_BYTES: usize = 64 << 10;

type Handler = axum::extract::State<State>;

/// An error as JSON, with a status.
pub(super) struct Failure(StatusCode, String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

fn bad(message: impl Into<String>) -> Failure {
    Failure(StatusCode::BAD_REQUEST, message.into())
}

fn too_large(message: impl Into<String>) -> Failure {
    Failure(StatusCode::PAYLOAD_TOO_LARGE, message.into())
}

pub(super) async fn not_found() -> Failure {
    let known = "/, /ready, /metrics, /topics, /topics/{topic}/records";
    Failure(StatusCode::NOT_FOUND, format!("no such page; there are {known}"))
}

/// `GET /topics`
pub(super) async fn topics(axum::extract::State(state): Handler) -> Json<Value> {
    let catalog = state.broker.catalog();
    let topics = catalog.topics().map(|topic| {
        let offsets = (0..topic.partitions).filter_map(|partition| {
            let at = state.broker.log().partition(TopicPartition::new(TopicId(topic.id), partition))?;
            Some(json!({ "partition": partition, "start": at.start_offset, "end": at.high_watermark }))
        });
        json!({ "topic": topic.name, "id": topic.id, "partitions": offsets.collect::<Vec<_>>() })
    });
    Json(topics.collect())
}

/// One record to write: `value` and `key` as text or, if they are not strings, as the JSON that they are.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewRecord {
    key: Option<Value>,
    value: Option<Value>,
    #[serde(default)]
    partition: i32,
    timestamp: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewRecords {
    records: Vec<NewRecord>,
}

/// A browser says which page a request comes from: pages of others must not write here.
fn check_origin(headers: &HeaderMap) -> Result<(), Failure> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(origin) = text(header::ORIGIN) else { return Ok(()) };
    let from = origin.split_once("://").map_or(origin, |(_, authority)| authority);
    if text(header::HOST) == Some(from) {
        return Ok(());
    }
    Err(Failure(StatusCode::FORBIDDEN, format!("a page of {origin} may not write to topics")))
}

/// The body, if it is not larger than what could become one batch of the topic.
async fn body_of(mut request: Request, message_bytes_max: usize) -> Result<Bytes, Failure> {
    let limit = message_bytes_max.saturating_mul(JSON_FACTOR).saturating_add(JSON_OVERHEAD_BYTES);
    DefaultBodyLimit::max(limit).apply(&mut request);
    Bytes::from_request(request, &()).await.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_large(format!(
            "the body is larger than {limit} bytes; send fewer records at once (max.message.bytes of the topic is \
             {message_bytes_max})"
        )),
        _ => bad(rejection.body_text()),
    })
}

/// `POST /topics/{topic}/records` with `{"records": [{"key": .., "value": .., "partition": 0}]}`: one batch for each
/// partition. Answers when they are durable, with their offsets.
pub(super) async fn write(
    axum::extract::State(state): Handler,
    Path(topic): Path<String>,
    headers: HeaderMap,
    request: Request,
) -> Result<Json<Value>, Failure> {
    check_origin(&headers)?;
    let message_bytes_max = {
        let catalog = state.broker.catalog();
        let missing = || Failure(StatusCode::NOT_FOUND, format!("topic {topic} does not exist"));
        let found = catalog.topic_named(&topic).ok_or_else(missing)?;
        TopicSettings::of(found, state.broker.config()).message_bytes_max
    };
    let body = body_of(request, message_bytes_max).await?;
    let new: NewRecords = serde_json::from_slice(&body)
        .map_err(|error| bad(format!("expected {{\"records\": [{{\"value\": ...}}]}}: {error}")))?;
    if new.records.is_empty() {
        return Err(bad("no records"));
    }
    let request = produce_request(&topic, &new.records)?;
    let frame = request.encode(PRODUCE, 0, Some("http")).map_err(|error| bad(error.to_string()))?;
    let client = ClientInfo { host: "http".to_owned() };
    let chunks = state.broker.handle(frame.slice(4..), &client).await.map_err(|close| bad(close.reason))?;
    let answer: Vec<u8> = chunks.unwrap_or_default().concat();
    let broken = |what: String| Failure(StatusCode::INTERNAL_SERVER_ERROR, what);
    let (_, message) = split_response(1, Bytes::from(answer).slice(4..)).map_err(|error| broken(error.to_string()))?;
    let response = ProduceResponse::decode(PRODUCE, message).map_err(|error| broken(error.to_string()))?;
    let mut offsets = Vec::new();
    for partition in response.topics.iter().flat_map(|topic| &topic.partitions) {
        if let Some(error) = ResponseError::try_from_code(partition.error_code) {
            let why = partition.error_message.as_ref().map_or_else(|| format!("{error:?}"), ToString::to_string);
            let why = format!("partition {}: {why}", partition.index);
            return Err(if error == ResponseError::MessageTooLarge { too_large(why) } else { bad(why) });
        }
        offsets.push(json!({ "partition": partition.index, "offset": partition.base_offset }));
    }
    Ok(Json(json!({ "offsets": offsets })))
}

fn produce_request(topic: &str, new: &[NewRecord]) -> Result<ProduceRequest, Failure> {
    let now = chrono::Utc::now().timestamp_millis();
    let mut batches: std::collections::BTreeMap<i32, RecordBatchBuilder> = std::collections::BTreeMap::new();
    for (index, record) in new.iter().enumerate() {
        let (key, value) = (text(record.key.as_ref()), text(record.value.as_ref()));
        if key.is_none() && value.is_none() {
            return Err(bad(format!(
                "record {index} has neither key nor value; a record needs \"key\" or \"value\" (a null value with a key is \
                 a tombstone)"
            )));
        }
        let batch = batches.entry(record.partition).or_insert_with(|| RecordBatchBuilder::new(Compression::None));
        batch.append(record.timestamp.unwrap_or(now), key.as_deref(), value.as_deref(), &[]);
    }
    let partitions =
        batches.into_iter().map(|(index, batch)| ProducePartition { index, records: Some(batch.build()) }).collect();
    let topic = ProduceTopic { name: topic.to_owned().into(), partitions, ..ProduceTopic::default() };
    Ok(ProduceRequest { acks: -1, timeout_ms: 30_000, topics: vec![topic], ..ProduceRequest::default() })
}

fn text(value: Option<&Value>) -> Option<Vec<u8>> {
    match value? {
        Value::Null => None,
        Value::String(text) => Some(text.clone().into_bytes()),
        other => Some(other.to_string().into_bytes()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Range {
    #[serde(default)]
    partition: i32,
    #[serde(default)]
    offset: i64,
    max: Option<usize>,
}

/// `GET /topics/{topic}/records?partition=0&offset=0&max=100`: records as text, and where to read on.
pub(super) async fn read(
    axum::extract::State(state): Handler,
    Path(topic): Path<String>,
    Query(range): Query<Range>,
) -> Result<Json<Value>, Failure> {
    let catalog = state.broker.catalog();
    let missing = || Failure(StatusCode::NOT_FOUND, format!("topic {topic} does not exist"));
    let id = catalog.topic_named(&topic).ok_or_else(missing)?.id;
    let partition = TopicPartition::new(TopicId(id), range.partition);
    let read = state.broker.log().read(partition, range.offset, READ_BYTES_MAX, true).map_err(|error| match error {
        ReadError::UnknownPartition(_) => {
            Failure(StatusCode::NOT_FOUND, format!("topic {topic} has no partition {}", range.partition))
        }
        ReadError::OutOfRange { .. } => bad(error.to_string()),
        ReadError::Damaged { offset, place, .. } => {
            let partition = range.partition;
            let why = format!("partition {partition} of topic {topic} is damaged at offset {offset}: {place}");
            Failure(StatusCode::INTERNAL_SERVER_ERROR, why)
        }
        _ => Failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    })?;
    let max = range.max.unwrap_or(100).min(10_000);
    let mut found = Vec::new();
    let mut next = range.offset;
    let damaged = |error: &dyn std::fmt::Display| Failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    let mut is_full = false;
    'batches: for batch in split(&read.batches) {
        let (_, batch) = batch.map_err(|error| damaged(&error))?;
        for record in records(&batch).map_err(|error| damaged(&error))? {
            let record = record.map_err(|error| damaged(&error))?;
            if record.offset < range.offset {
                continue;
            }
            if found.len() == max {
                is_full = true;
                break 'batches;
            }
            let text = |bytes: Option<Bytes>| bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            next = record.offset + 1;
            found.push(json!({
                "offset": record.offset, "timestamp": record.timestamp, "key": text(record.key), "value": text(record.value),
            }));
        }
    }
    // Compaction may have left nothing here: who reads on must get past it.
    let next = if is_full { next } else { next.max(read.next_offset) };
    Ok(Json(json!({ "records": found, "next_offset": next, "end_offset": read.high_watermark })))
}
