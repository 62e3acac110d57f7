"""The HTTP door: readiness, metrics, the status page, topics as JSON."""

import json
import re
import urllib.error
import urllib.request

import pytest
from confluent_kafka import Consumer, TopicPartition

from clients import BY_NAME
from conftest import create_topic

pytestmark = pytest.mark.client("http")

SAMPLE = re.compile(r'^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[a-zA-Z_]\w*="(?:[^"\\]|\\.)*"(?:,[a-zA-Z_]\w*="(?:[^"\\]|\\.)*")*\})? (-?[0-9.eE+-]+|NaN|[+-]Inf)$')


def post(server, path, body):
    request = urllib.request.Request(server.http + path, data=body, headers={"Content-Type": "application/json"}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_ready_answers_200_from_the_line_with_the_addresses_on(server):
    with urllib.request.urlopen(server.http + "ready", timeout=10) as answer:
        assert answer.status == 200


def test_metrics_are_prometheus_text_and_count_what_was_produced(server):
    create_topic(server, "counted", 3)
    BY_NAME["confluent-kafka"].produce(server, "counted", 300)
    kinds, samples = {}, {}
    for line in server.get("metrics").splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in kinds, f"{name} is told twice"
            kinds[name] = kind
        elif line and not line.startswith("#"):
            found = SAMPLE.match(line)
            assert found, f"not a sample: {line}"
            assert found[1] in kinds, f"{found[1]} has no type"
            assert (found[1], found[2]) not in samples, f"sample twice: {line}"
            samples[found[1], found[2]] = float(found[3])
    assert set(kinds.values()) <= {"counter", "gauge", "histogram", "summary"}
    assert samples["mainstem_kafka_produced_records_total", None] == 300
    for subsystem in ("mainstem_log_", "mainstem_kafka_", "mainstem_engine_"):
        assert any(name.startswith(subsystem) for name in kinds), f"nothing about {subsystem}"


def test_the_status_page_lists_topics_groups_and_views(server):
    create_topic(server, "listed-topic", 2)
    consumer = Consumer({"bootstrap.servers": server.kafka, "group.id": "listed-group"})
    consumer.commit(offsets=[TopicPartition("listed-topic", 0, 0)], asynchronous=False)
    consumer.close()
    with connect(server) as session:
        session.execute("CREATE TABLE listed_table (id int PRIMARY KEY)")
        session.execute("CREATE MATERIALIZED VIEW listed_view AS SELECT count(*) AS n FROM listed_table")
    page = server.get("")
    assert page.lstrip().lower().startswith("<!doctype html>")
    for name in ("listed-topic", "listed-group", "listed_table", "listed_view"):
        assert name in page, f"{name} is not on the page"


def connect(server):
    import psycopg

    host, port = server.postgresql.split(":")
    return psycopg.connect(host=host, port=port, user="root", dbname="dev", autocommit=True)


def test_records_written_as_json_are_read_by_http_and_by_kafka_clients(server):
    create_topic(server, "posted", 2)
    records = [{"key": f"k{n}", "value": {"n": n, "text": 'a "quoted" ü'}, "partition": n % 2} for n in range(10)]
    status, answer = post(server, "topics/posted/records", json.dumps({"records": records}).encode())
    assert status == 200 and len(answer["offsets"]) == 2, answer
    for partition in (0, 1):
        answer = json.loads(server.get(f"topics/posted/records?partition={partition}&offset=0&max=100"))
        found = [(record["key"], json.loads(record["value"])) for record in answer["records"]]
        assert found == [(r["key"], r["value"]) for r in records if r["partition"] == partition]
    assert len(BY_NAME["confluent-kafka"].consume(server, "posted", 10)) == 10
    server.kill()
    server.start()
    assert len(json.loads(server.get("topics/posted/records?partition=1"))["records"]) == 5


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"records": []}', b'{"records": [{"value": 1, "unknown": 2}]}',
                                  b'{"records": [{"value": 1, "partition": 77}]}', b"\xff\xfe",
                                  b'{"records": [{"value": 1}, {}]}', b'{"records": [{"key": null, "value": null}]}'])
def test_bad_json_is_refused_with_a_reason_and_nothing_is_written(shared_server, body):
    topic = "refused"
    if not any(t["topic"] == topic for t in json.loads(shared_server.get("topics"))):
        create_topic(shared_server, topic, 1)
    status, answer = post(shared_server, f"topics/{topic}/records", body)
    assert 400 <= status < 500 and answer["error"], answer
    [found] = [t for t in json.loads(shared_server.get("topics")) if t["topic"] == topic]
    assert found["partitions"] == [{"partition": 0, "start": 0, "end": 0}]


def test_a_null_value_with_a_key_is_a_tombstone(shared_server):
    create_topic(shared_server, "tombstones", 1)
    body = b'{"records": [{"key": "a", "value": null}, {"key": "b"}]}'
    assert post(shared_server, "topics/tombstones/records", body)[0] == 200
    answer = json.loads(shared_server.get("topics/tombstones/records"))
    assert [(record["key"], record["value"]) for record in answer["records"]] == [("a", None), ("b", None)]


def test_a_body_as_large_as_a_topic_takes_is_written_and_a_larger_one_is_413_with_the_limit(shared_server):
    create_topic(shared_server, "sized", 1, max_message_bytes=5_000_000)
    limit = 2 * 5_000_000 + 64 * 1024
    body = json.dumps({"records": [{"value": "x" * 4_900_000}]}).encode()
    assert post(shared_server, "topics/sized/records", body)[0] == 200
    # A batch that is too large, and a body that is.
    for size, said in ((5_100_000, "5000000"), (limit + 1, str(limit))):
        status, answer = post(shared_server, "topics/sized/records", json.dumps({"records": [{"value": "x" * size}]}).encode())
        assert status == 413 and said in answer["error"], (status, answer)


def test_what_is_not_there_is_404(shared_server):
    for path in ("nothing", "topics/none/records", "topics/none"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            shared_server.get(path)
        assert refused.value.code == 404
    assert post(shared_server, "topics/none/records", b'{"records": [{"value": 1}]}')[0] == 404
