"""The client matrix: every client writes, and its neighbours in a ring read it; groups lose a member by kill -9."""

import json
import time

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from clients import CLIENTS, CODECS, PARTITIONS, Read, check_once_in_order
from conftest import create_topic, topic_id
from server import until

RECORDS = 100_000
GROUP_RECORDS = 20_000
SIZE = len(CLIENTS)


def ring(direction):
    """Each client, and the one whose records it reads."""
    step = 1 if direction == "onwards" else -1
    for at, reader in enumerate(CLIENTS):
        writer = CLIENTS[(at + step) % SIZE]
        codec = CODECS[(at + (0 if step == 1 else 1)) % len(CODECS)]
        name = f"{direction}-{reader.name}-reads-what-{writer.name}-wrote-with-{codec}"
        yield pytest.param(direction, reader, writer, codec, id=name, marks=pytest.mark.client(reader.name, writer.name))


@pytest.mark.parametrize("direction, reader, writer, codec", [*ring("onwards"), *ring("back")])
def test_every_record_is_read_once_and_in_order(shared_server, direction, reader, writer, codec):
    topic = f"ring-{direction}-{writer.name}"
    create_topic(shared_server, topic, PARTITIONS)
    start = time.monotonic()
    writer.produce(shared_server, topic, RECORDS, codec, run=direction)
    written = time.monotonic()
    records = reader.consume(shared_server, topic, RECORDS)
    read = time.monotonic()
    print(f"{writer.name} wrote in {written - start:.1f} s, {reader.name} read in {read - written:.1f} s")
    check_once_in_order(records, writer.name, direction, RECORDS)
    check_end_offsets(shared_server, topic, RECORDS)
    check_codec(shared_server, topic, codec)


def check_end_offsets(server, topic, count):
    """Nothing stands behind what was read."""
    consumer = Consumer({"bootstrap.servers": server.kafka, "group.id": "ends"})
    for partition in range(PARTITIONS):
        ends = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)
        assert ends == (0, len(range(partition, count, PARTITIONS))), f"partition {partition} of {topic}"
    consumer.close()


def check_codec(server, topic, codec):
    """The batches on the disk are those that the client made: bits 0 to 2 of the attributes name the codec."""
    found = set()
    for segment in server.directory.glob(f"topics/{topic_id(server, topic)}/*/*.log"):
        batch = segment.read_bytes()
        while batch:
            found.add(CODECS[batch[22] & 7])
            batch = batch[12 + int.from_bytes(batch[8:12], "big"):]
    # Clients keep a batch as it is when compressing it does not pay.
    assert codec in found and found <= {codec, "none"}, f"on the disk are batches with {found}"


@pytest.mark.parametrize("client", [pytest.param(c, id=c.name, marks=pytest.mark.client(c.name)) for c in CLIENTS])
def test_a_group_goes_on_without_gap_when_a_member_is_killed(shared_server, client, tmp_path):
    topic, group, partitions = f"group-{client.name}", f"readers-{client.name}", 4
    create_topic(shared_server, topic, partitions)
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    members = []
    try:
        for log in logs:
            log.touch()
            members.append(client.join(shared_server, topic, group, log))
        until(lambda: all(assignment(log) for log in logs), lambda: state(logs, members), 60)

        committed, victims_share, produced = None, None, 0
        producer = Producer({"bootstrap.servers": shared_server.kafka, "enable.idempotence": True})
        while produced < GROUP_RECORDS or committed is None:
            if produced < GROUP_RECORDS:
                produce_chunk(producer, topic, produced, partitions)
                produced += 500
            if committed is None and has_read(logs[1], GROUP_RECORDS // 9):
                victims_share = assignment(logs[1])
                until(lambda: has_committed(shared_server, topic, group, victims_share), "the second member commits", 10)
                members[1].kill()
                members[1].wait()
                committed = committed_offsets(shared_server, topic, group, partitions)
            assert members[0].poll() is None, state(logs, members)
        each = GROUP_RECORDS // partitions
        everything = {(partition, offset) for partition in range(partitions) for offset in range(each)}
        until(lambda: everything <= set(places(logs)), lambda: gap(everything, logs, members), 60, every=0.2)
        check_repeats(logs, committed, victims_share, partitions)
    finally:
        for member in members:
            member.terminate()
        for member in members:
            try:
                member.wait(10)
            except Exception:
                member.kill()
                member.wait()


def produce_chunk(producer, topic, first, partitions):
    for n in range(first, first + 500):
        producer.produce(topic, json.dumps({"n": n}).encode(), partition=n % partitions)
    assert producer.flush(30) == 0, "not acknowledged within 30 s"


def lines(log, kind):
    """Whole lines only: a killed writer leaves half a line at the end, and a living one too."""
    text = log.read_text()
    return [line for line in text[: text.rfind("\n") + 1].splitlines() if line.startswith(kind + "\t")]


def assignment(log):
    """Partitions named in the newest assignment that is not empty."""
    found = [line.split("\t")[1] for line in lines(log, "A")]
    words = next((text for text in reversed(found) if text), "")
    return {int(word) for word in words.split(",")} if words else set()


def has_read(log, count):
    return len(lines(log, "R")) >= count


def places(logs):
    return [(read.partition, read.offset) for log in logs for read in map(Read.parse, lines(log, "R"))]


def committed_offsets(server, topic, group, partitions):
    """What the group has committed, by OffsetFetch."""
    consumer = Consumer({"bootstrap.servers": server.kafka, "group.id": group})
    asked = [TopicPartition(topic, partition) for partition in range(partitions)]
    answer = {found.partition: max(found.offset, 0) for found in consumer.committed(asked, timeout=30)}
    consumer.close()
    return answer


def has_committed(server, topic, group, share):
    committed = committed_offsets(server, topic, group, 1 + max(share))
    return any(committed[partition] > 0 for partition in share)


def check_repeats(logs, committed, victims_share, partitions):
    for log in logs:
        for read in map(Read.parse, lines(log, "R")):
            assert json.loads(read.value)["n"] == read.offset * partitions + read.partition, f"wrong record {read}"
    for line in lines(logs[1], "C"):
        partition, offset = map(int, line.split("\t")[1:])
        assert offset <= committed[partition], f"commit {offset} of partition {partition} was answered, {committed} is known"
    seen = set()
    repeated = [place for place in places(logs) if place in seen or seen.add(place)]
    for partition, offset in repeated:
        assert partition in victims_share, f"{partition}/{offset} was read twice; the killed member had {victims_share}"
        assert offset >= committed[partition], f"{partition}/{offset} was read twice, below the committed {committed}"
    print(f"{len(repeated)} records were read again; the killed member had {victims_share}, committed was {committed}")


def gap(everything, logs, members):
    missing = sorted(everything - set(places(logs)))
    return f"{len(missing)} records were not read, the first {missing[:5]}; {state(logs, members)}"


def state(logs, members):
    errors = [log.with_name(log.name + ".stderr").read_text()[-1500:] for log in logs]
    return f"assigned {[lines(log, 'A') for log in logs]}, status {[m.poll() for m in members]}, errors {errors}"
