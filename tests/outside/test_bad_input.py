"""Bad input on every door, and bad disks: a clear error each time, nothing lost, and the server goes on."""

import errno
import os
import random
import shutil
import socket
import struct
import subprocess
import time
import urllib.error

import psycopg
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

import kafka_bytes
from conftest import create_topic, topic_id
from kafka_bytes import Connection
from server import until

RECORDS = 200


def write(server, topic, values, partition=0, seconds=30, **settings):
    """Writes records; returns those that were acknowledged by their place in `values`, and the errors."""
    producer = Producer({"bootstrap.servers": server.kafka, "acks": "all", "linger.ms": 5, **settings}, logger=None)
    acknowledged, errors = {}, []

    def delivered(at):
        return lambda error, message: errors.append(error) if error else acknowledged.__setitem__(at, message.offset())

    for at, value in enumerate(values):
        try:
            producer.produce(topic, value, partition=partition, on_delivery=delivered(at))
        except KafkaException as error:
            errors.append(error.args[0])
        producer.poll(0)
    producer.flush(seconds)
    return acknowledged, errors


def read(server, topic, partition=0, count=None, seconds=20):
    """Values in order from offset 0 to the end, or `count` of them; offsets have to be dense. An error of the partition
    ends it and is the second answer."""
    consumer = Consumer({"bootstrap.servers": server.kafka, "group.id": "reader", "auto.offset.reset": "error",
                         "enable.auto.commit": False, "enable.partition.eof": True, "check.crcs": True}, logger=None)
    consumer.assign([TopicPartition(topic, partition, 0)])
    values, deadline = [], time.monotonic() + seconds
    try:
        while count is None or len(values) < count:
            assert time.monotonic() < deadline, f"{len(values)} records within {seconds} s, and no end"
            message = consumer.poll(0.5)
            if message is None:
                continue
            if message.error():
                if message.error().code() == KafkaError._PARTITION_EOF:
                    break
                return values, message.error()
            assert message.offset() == len(values), f"offset {message.offset()} follows {len(values) - 1}"
            values.append(message.value())
        return values, None
    finally:
        consumer.close()


def check_serves(server, topic="still-there"):
    """All three doors work."""
    acknowledged, errors = write(server, topic, [b'{"n": 1}'])
    assert acknowledged and not errors, errors
    with connect(server) as session:
        assert session.execute("SELECT 1 + 1").fetchone() == (2,)
    assert server.get("ready").strip() == "ready"


def connect(server):
    host, port = server.postgresql.split(":")
    return psycopg.connect(host=host, port=port, user="root", dbname="dev", autocommit=True)


# Garbage


def doors(server):
    return {"kafka": server.kafka, "postgresql": server.postgresql, "http": server.http.removeprefix("http://").rstrip("/")}


@pytest.mark.parametrize("door", ["kafka", "postgresql", "http"])
def test_garbage_closes_the_connection_and_nothing_else(shared_server, door):
    seed = int(os.environ.get("MAINSTEM_GARBAGE_SEED", random.randrange(2**32)))
    print(f"MAINSTEM_GARBAGE_SEED={seed}")
    dice = random.Random(seed)
    address = doors(shared_server)[door]
    shapes = [
        lambda: dice.randbytes(dice.randrange(1, 5000)),
        # A length of 2 GiB, a negative one, and one that is never filled.
        lambda: struct.pack(">i", 0x7FFFFFFF) + dice.randbytes(100),
        lambda: struct.pack(">i", -dice.randrange(1, 2**31)) + dice.randbytes(100),
        lambda: struct.pack(">i", 1000) + dice.randbytes(10),
        # A frame of the right length: known and unknown requests with bodies of garbage.
        lambda: frame(struct.pack(">hhi", dice.randrange(0, 100), dice.randrange(0, 20), 1) + dice.randbytes(dice.randrange(200))),
        # Start-up, TLS and cancel requests of PostgreSQL with garbage behind them.
        lambda: struct.pack(">ii", 8, dice.choice([196608, 80877103, 80877102, 80877104])) + dice.randbytes(50),
        lambda: b"user\0" * dice.randrange(100),
        lambda: b"GET /" + b"a" * dice.randrange(100_000) + b" HTTP/1.1\r\n\r\n",
        lambda: b"POST /topics/x/records HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n" + dice.randbytes(100),
    ]
    for turn in range(12 * len(shapes)):
        host, port = address.split(":")
        with socket.create_connection((host, int(port)), 10) as connection:
            try:
                connection.sendall(shapes[turn % len(shapes)]())
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass
            except TimeoutError:
                raise
            except OSError:
                pass  # It was closed already.
    check_serves(shared_server)


def frame(body):
    return struct.pack(">i", len(body)) + body


def test_an_unknown_api_is_answered_by_an_error_or_the_end_of_the_connection(shared_server):
    for key in (999, 58, 4):
        with Connection(shared_server.kafka) as connection:
            connection.send(key, 0, b"")
            assert connection.is_closed_by_server(), f"API key {key} was answered"
    check_serves(shared_server)


def test_an_unknown_version_of_api_versions_is_answered_with_the_known_ones(shared_server):
    with Connection(shared_server.kafka) as connection:
        # Behind the head of new versions: no tagged fields, the client's name and version, no tagged fields.
        answer = connection.ask(kafka_bytes.API_VERSIONS, 99, b"\0" + b"\x05test" + b"\x041.0" + b"\0")
        error, count = struct.unpack_from(">hi", answer)
        assert error == kafka_bytes.UNSUPPORTED_VERSION
        known = {key: (low, high) for key, low, high in struct.iter_unpack(">hhh", answer[6:6 + 6 * count])}
        assert kafka_bytes.API_VERSIONS in known and kafka_bytes.PRODUCE in known
        # The connection stays: clients ask again with a version from the list.
        assert connection.ask(kafka_bytes.API_VERSIONS, 0, b"")[:2] == b"\0\0"


def test_an_unknown_version_of_another_api_does_not_write(shared_server):
    create_topic(shared_server, "versions", 1)
    for version in (99, 2, -1):
        with Connection(shared_server.kafka) as connection:
            connection.send(kafka_bytes.PRODUCE, version, kafka_bytes.produce_body("versions", 0, kafka_bytes.batch([b"x"])))
            answer = connection.receive()
            assert answer is None or struct.pack(">h", kafka_bytes.UNSUPPORTED_VERSION) in answer, answer
    assert read(shared_server, "versions") == ([], None)


# Topics and records


def test_an_unknown_topic_is_an_error_when_topics_are_not_created_by_asking(servers):
    server = servers.new("--auto-create-topics", "false").start()
    acknowledged, errors = write(server, "nowhere", [b"x"], **{"message.timeout.ms": 3000, "topic.metadata.propagation.max.ms": 500})
    assert not acknowledged
    assert errors[0].code() in (KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART), errors
    assert kafka_bytes.produce(server.kafka, "nowhere", 0, kafka_bytes.batch([b"x"]))[0] == kafka_bytes.UNKNOWN_TOPIC_OR_PARTITION
    with connect(server) as session, pytest.raises(psycopg.Error, match="nowhere"):
        session.execute("CREATE SOURCE s (a int) WITH (topic = 'nowhere') FORMAT PLAIN ENCODE JSON")
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.get("topics/nowhere/records")
    assert refused.value.code == 404
    create_topic(server, "somewhere", 1)
    assert write(server, "somewhere", [b"x"]) == ({0: 0}, [])


def test_a_partition_that_does_not_exist_is_an_error(shared_server):
    create_topic(shared_server, "two", 2)
    for partition in (2, -1, 2**31 - 1):
        error, _ = kafka_bytes.produce(shared_server.kafka, "two", partition, kafka_bytes.batch([b"x"]))
        assert error == kafka_bytes.UNKNOWN_TOPIC_OR_PARTITION


def test_an_oversized_message_is_refused_and_the_ones_around_it_are_kept(shared_server):
    create_topic(shared_server, "sizes", 1)
    values = [b"before", os.urandom(3_000_000), b"after"]
    acknowledged, errors = write(shared_server, "sizes", values, **{"message.max.bytes": 10_000_000, "linger.ms": 0, "batch.num.messages": 1})
    assert sorted(acknowledged) == [0, 2]
    assert [error.code() for error in errors] == [KafkaError.MSG_SIZE_TOO_LARGE]
    assert kafka_bytes.produce(shared_server.kafka, "sizes", 0, kafka_bytes.batch([bytes(1_200_000)]))[0] == kafka_bytes.MESSAGE_TOO_LARGE
    assert read(shared_server, "sizes") == ([b"before", b"after"], None)


def test_the_limit_of_a_message_can_be_raised_for_a_topic(shared_server):
    create_topic(shared_server, "large", 1, max_message_bytes=5_000_000)
    value = os.urandom(3_000_000)
    assert write(shared_server, "large", [value], **{"message.max.bytes": 10_000_000}) == ({0: 0}, [])
    assert read(shared_server, "large") == ([value], None)


def corruptions():
    good = kafka_bytes.batch([b"first", b"second", b"third"])
    body = bytearray(good)
    body[-3] ^= 0x10
    yield "a flipped bit in a record", bytes(body)
    crc = bytearray(good)
    crc[18] ^= 0x01
    yield "a flipped bit in the checksum", bytes(crc)
    yield "half a batch", good[: len(good) // 2]
    yield "a length beyond the end", good[:8] + struct.pack(">i", len(good) + 1000) + good[12:]
    yield "a negative length", good[:8] + struct.pack(">i", -5) + good[12:]
    yield "a batch with magic 1", good[:16] + b"\1" + good[17:]
    count = bytearray(good)
    struct.pack_into(">i", count, 57, 1000)
    struct.pack_into(">I", count, 17, kafka_bytes.crc32c(count[21:]))
    yield "a count that is not the number of offsets", bytes(count)
    yield "nothing but noise", random.Random(1).randbytes(300)


@pytest.mark.parametrize("what, records", [pytest.param(*c, id=c[0].replace(" ", "-")) for c in corruptions()])
def test_a_corrupt_batch_is_refused_and_not_written(shared_server, what, records):
    topic = "corrupt"
    with Connection(shared_server.kafka) as connection:
        # Asking for it creates it.
        connection.ask(kafka_bytes.METADATA, 4, struct.pack(">i", 1) + kafka_bytes.text(topic) + b"\1")
    until(lambda: kafka_bytes.produce(shared_server.kafka, topic, 0, kafka_bytes.batch([b"good"]))[0] == 0, "the topic", 10)
    before, _ = read(shared_server, topic)
    answer = kafka_bytes.produce(shared_server.kafka, topic, 0, records)
    assert answer is None or answer[0] > 0, f"{what} was accepted"
    assert read(shared_server, topic) == (before, None)


# Starting


def refused_start(server, *, command=None, **settings):
    """What a server that cannot start writes to standard error."""
    done = subprocess.run(command or server.command(), capture_output=True, text=True, timeout=30, **settings)
    assert done.returncode not in (0, None) and done.returncode > 0, f"status {done.returncode}, {done.stdout}"
    assert done.stdout == "", f"it said that it is ready: {done.stdout}"
    assert "panicked" not in done.stderr, done.stderr
    return done.stderr


def test_a_second_server_on_the_directory_is_refused(servers):
    first = servers.new().start()
    write(first, "kept", [b"x"])
    second = servers.new(directory=first.directory)
    message = refused_start(second)
    servers.made.remove(second)
    assert str(first.directory) in message, message
    check_serves(first)
    first.kill()
    first.start()
    assert read(first, "kept") == ([b"x"], None)


@pytest.mark.parametrize("door", ["kafka", "postgresql", "http"])
def test_a_port_in_use_is_named(servers, door):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        server = servers.new()
        setattr(server, door, f"http://{address}/" if door == "http" else address)
        assert address in refused_start(server)


def mount(directory, options):
    """A disk of its own. Without the right to mount there is no such test, and that is a failure."""
    directory.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)], capture_output=True, text=True)
    assert done.returncode == 0, f"the tests with small and read-only disks need root, to mount: {done.stderr}"


@pytest.fixture
def disk(tmp_path):
    directory = tmp_path / "disk"
    mount(directory, "size=400m")
    yield directory
    done = subprocess.run(["umount", str(directory)], capture_output=True, text=True)
    if done.returncode != 0:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def test_a_read_only_directory_is_named_at_the_start(disk, servers):
    server = servers.new(directory=disk / "data").start()
    write(server, "kept", [b"x"])
    server.stop()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    message = refused_start(server)
    assert str(server.directory) in message and "ead-only" in message, message
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    server.start()
    assert read(server, "kept") == ([b"x"], None)
    server.stop()


def test_a_full_disk_refuses_writers_serves_readers_and_ends_when_there_is_space(disk, servers):
    server = servers.new(directory=disk / "data").start()
    create_topic(server, "topic", 1)
    ballast = disk / "ballast"
    until(lambda: fill_up(ballast, 24 * 2**20), "the disk is nearly full", 60, every=0.1)
    dice = random.Random(3)
    kept, errors = [], []
    until(lambda: fill(server, dice, kept, errors), lambda: f"{len(kept)} records and no error", 60, every=0)
    assert all(error.code() in FULL for error in errors), errors
    until(lambda: "the disk is full" in server.errors(), lambda: f"the log says nothing of a full disk: {server.errors()}", 10)
    assert str(server.directory) in server.errors(), server.errors()

    # Readers go on, and so do the other doors.
    values, error = read(server, "topic")
    assert error is None and values[: len(kept)] == kept
    assert server.get("ready").strip() == "ready" and server.get("topics")
    with connect(server) as session:
        assert session.execute("SELECT 1 + 1").fetchone() == (2,)

    ballast.unlink()
    more = [b"after %d" % n for n in range(100)]
    until(lambda: not write(server, "topic", [b"again"], seconds=5, **TIMEOUT)[1], "a producer goes on when there is space", 60)
    assert write(server, "topic", more)[1] == []
    until(lambda: "space again" in server.errors(), lambda: f"the log says nothing of its end: {server.errors()}", 10)
    before_kill, error = read(server, "topic")
    assert error is None and before_kill[: len(kept)] == kept and before_kill[-100:] == more
    server.kill()
    server.start()
    assert read(server, "topic") == (before_kill, None)
    server.stop()


def fill_up(ballast, left):
    """Takes all but `left` bytes of the disk. The server prepares files of its own meanwhile: false when it was faster."""
    with open(ballast, "wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, max(shutil.disk_usage(ballast.parent).free - left, 2**20))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    return shutil.disk_usage(ballast.parent).free <= left + 2**20


TIMEOUT = {"message.timeout.ms": 4000, "request.timeout.ms": 3000, "retry.backoff.max.ms": 100}
# What a client makes of a refusal: the broker's own error, or its patience at an end.
FULL = {KafkaError.KAFKA_STORAGE_ERROR, KafkaError._MSG_TIMED_OUT, KafkaError.REQUEST_TIMED_OUT, KafkaError.INVALID_PARTITIONS,
        KafkaError.POLICY_VIOLATION, KafkaError.THROTTLING_QUOTA_EXCEEDED}


def fill(server, dice, kept, errors):
    """Writes 2 MB that cannot be compressed; true once some were refused. What was acknowledged is added to `kept`."""
    values = [dice.randbytes(20_000) for _ in range(100)]
    acknowledged, refused = write(server, "topic", values, seconds=20, **{**TIMEOUT, "enable.idempotence": True})
    kept += [values[at] for at in sorted(acknowledged)]
    errors += refused
    return bool(refused)


# Damaged files


def values_of(partition, count=RECORDS):
    return [b"partition %d record %d " % (partition, n) + b"." * 50 for n in range(count)]


def filled(servers, partitions=3):
    """A server with a topic of several partitions that has many batches in each."""
    server = servers.new().start()
    create_topic(server, "topic", partitions)
    for partition in range(partitions):
        acknowledged, errors = write(server, "topic", values_of(partition), partition, **{"batch.num.messages": 10})
        assert len(acknowledged) == RECORDS and not errors
    return server


def segment(server, partition):
    files = list(server.directory.glob(f"topics/{topic_id(server, 'topic')}/{partition}/*.log"))
    assert len(files) == 1, files
    return files[0]


def flip(path, at, count=1):
    with open(path, "r+b") as file:
        file.seek(at)
        found = file.read(count)
        file.seek(at)
        file.write(bytes(byte ^ 0x55 for byte in found))


def blocks(server):
    """(block number, file, byte position, length) of the commit log's blocks (docs/formats/log.md), oldest first."""
    found = []
    for path in server.directory.glob("log/commit-*.log"):
        data = path.read_bytes()
        at = 0
        while at + 72 <= len(data):
            if data[at:at + 4] != b"MSCL" or kafka_bytes.crc32c(data[at:at + 68]) != struct.unpack_from("<I", data, at + 68)[0]:
                at += 512
                continue
            number, length = struct.unpack_from("<Q", data, at + 24)[0], struct.unpack_from("<I", data, at + 60)[0]
            found.append((number, path, at, 72 + length))
            at += (72 + length + 511) // 512 * 512
    return sorted(found)


def block_holding(server, part):
    return next(block for block in blocks(server) if part in block[1].read_bytes()[block[2]:block[2] + block[3]])


@pytest.mark.parametrize("damage", ["truncated", "zeroed", "flipped"])
def test_a_torn_tail_of_the_commit_log_is_cut_at_the_last_good_entry(servers, damage):
    server = filled(servers)
    server.kill()
    number, path, at, length = blocks(server)[-1]
    # A crash tears the newest block before it reaches the segments: those end where the block before ends.
    lost = undo_in_segments(server, path, at, length)
    if damage == "truncated":
        os.truncate(path, at + length // 2)
    elif damage == "zeroed":
        with open(path, "r+b") as file:
            file.seek(at + length // 2)
            file.write(bytes(length - length // 2))
    else:
        flip(path, at + length // 2, 3)
    server.start()
    assert "torn" in server.errors(), server.errors()
    for partition in range(3):
        kept, error = read(server, "topic", partition)
        assert error is None
        expected = values_of(partition)
        assert kept == expected[: len(expected) - lost.get(partition, 0)], f"block {number}: {len(kept)} records in partition {partition}"
        assert not write(server, "topic", [b"after"], partition)[1]
        assert read(server, "topic", partition)[0] == [*kept, b"after"]
    check_serves(server)


def undo_in_segments(server, path, at, length):
    """Takes from segments and order what the block wrote there; records lost by partition."""
    data = path.read_bytes()[at:at + length]
    place = 72
    ends, = struct.unpack_from("<I", data, place)
    place += 4 + 28 * ends
    entries, = struct.unpack_from("<I", data, place)
    place += 4
    lost, first_csn = {}, struct.unpack_from("<Q", data, 32)[0]
    for _ in range(entries):
        parts = struct.unpack_from("<QI", data, place)[1]
        place += 12
        for _ in range(parts):
            topic, partition = data[place:place + 16], struct.unpack_from("<i", data, place + 16)[0]
            kind, base, end, of_segment, position, size = struct.unpack_from("<IqqqqI", data, place + 20)
            assert kind == 0
            place += 20 + 40 + size
            [directory] = [d for d in server.directory.glob("topics/*") if d.name.replace("-", "") == topic.hex()]
            file = directory / str(partition) / f"{of_segment:020}.log"
            os.truncate(file, min(position, file.stat().st_size))
            if (server.directory / "topics" / directory.name) == segment_directory(server):
                lost[partition] = lost.get(partition, 0) + end - base
    undo_in_order(server, first_csn)
    return lost


def segment_directory(server):
    """The directory of "topic": the one with three partitions."""
    [found] = [d for d in server.directory.glob("topics/*") if len(list(d.iterdir())) == 3]
    return found


def undo_in_order(server, first_csn):
    for path in server.directory.glob("log/order-*.order"):
        data = path.read_bytes()
        for at in range(44, len(data) - 43, 44):
            if at >= 44 * (1 + struct.unpack_from("<Q", data, 16)[0]) and struct.unpack_from("<Q", data, at)[0] >= first_csn:
                os.truncate(path, at)
                break


def test_a_damaged_middle_of_a_segment_stops_its_partition_there_and_no_other(servers):
    server = filled(servers)
    path = segment(server, 1)
    server.stop()
    data = path.read_bytes()
    at = len(data) // 2
    batch_at, first = batch_holding(data, at)
    # The length of a batch: the reader cannot find the next one.
    flip(path, batch_at + 8, 4)
    server.start()
    for partition in (0, 2):
        assert read(server, "topic", partition) == (values_of(partition), None)
        assert not write(server, "topic", [b"after"], partition)[1]
    check_stopped(server, 1, first, path)
    # It stays stopped, and is told again.
    server.restart()
    check_stopped(server, 1, first, path)
    assert data[:batch_at] == path.read_bytes()[:batch_at], "the damaged file was changed"


def test_a_flipped_bit_in_a_record_never_reaches_a_reader(servers):
    server = filled(servers)
    path = segment(server, 1)
    server.stop()
    data = path.read_bytes()
    batch_at, first = batch_holding(data, len(data) // 2)
    flip(path, batch_at + 61 + 20)
    server.start()
    kept, error = read(server, "topic", 1)
    assert error is not None, "a reader came to the end over a damaged batch"
    assert kept == values_of(1)[:first]
    for partition in (0, 2):
        assert read(server, "topic", partition) == (values_of(partition), None)


def batch_holding(data, position):
    """Byte position and base offset of the batch around a position."""
    at = 0
    while True:
        after = at + 12 + struct.unpack_from(">i", data, at + 8)[0]
        if after > position:
            return at, struct.unpack_from(">q", data, at)[0]
        at = after


def check_stopped(server, partition, first, path):
    kept, error = read(server, "topic", partition)
    assert error is not None, "a reader came to the end over the damage"
    assert kept == values_of(partition)[:first], f"{len(kept)} records before the damage at {first}"
    # Told at once, and not tried again until the timeout.
    acknowledged, errors = write(server, "topic", [b"refused"], partition, **{"message.timeout.ms": 60000})
    assert not acknowledged and [error.code() for error in errors] == [KafkaError.UNKNOWN], errors
    told = [line for line in server.errors().splitlines() if "topic=topic" in line and f"partition={partition}" in line]
    assert told and all("mainstem scrub" in line for line in told), server.errors()
    place = str(path.relative_to(server.directory))
    assert place in server.errors() and "damaged" in server.errors(), server.errors()
    assert server.metric("mainstem_log_damaged_partitions") == 1


def test_a_damaged_middle_of_the_commit_log_loses_nothing_that_stands_in_the_segments(servers):
    server = filled(servers)
    data = segment(server, 1).read_bytes()
    server.kill()
    batch_at, _ = batch_holding(data, len(data) // 2)
    number, path, at, length = block_holding(server, data[batch_at:batch_at + 61])
    assert number < blocks(server)[-1][0], "it is the newest block, and would be a torn tail"
    flip(path, at + 72 + (length - 72) // 2, 2)
    server.start()
    assert path.name in server.errors() and "damaged" in server.errors(), server.errors()
    for partition in range(3):
        assert read(server, "topic", partition) == (values_of(partition), None), f"block {number}"
        assert not write(server, "topic", [b"after"], partition)[1]


def test_a_damaged_commit_log_and_segment_stop_one_partition_and_no_other(servers):
    server = filled(servers)
    path = segment(server, 1)
    server.kill()
    # Both copies of what lies in the last third of partition 1 are gone.
    data = path.read_bytes()
    batch_at, first = batch_holding(data, len(data) * 2 // 3)
    block = block_holding(server, data[batch_at:batch_at + 61])
    flip(block[1], block[2] + 72 + 40, 2)
    flip(path, batch_at + 61 + 5, 4)
    server.start()
    assert block[1].name in server.errors() and "damaged" in server.errors(), server.errors()
    for partition in (0, 2):
        assert read(server, "topic", partition) == (values_of(partition), None)
        assert not write(server, "topic", [b"after"], partition)[1]
    kept, error = read(server, "topic", 1)
    assert error is not None and kept == values_of(1)[:first], f"{len(kept)} records, {error}, damage at {first}"
    assert not write(server, "topic", [b"refused"], 1)[0]
    check_serves(server)


@pytest.mark.parametrize("which", ["index", "timeindex"])
def test_a_damaged_index_is_rebuilt(servers, which):
    server = filled(servers)
    path = segment(server, 1).with_suffix(f".{which}")
    server.stop()
    if path.exists():
        flip(path, path.stat().st_size // 2, 8)
    else:
        path.write_bytes(os.urandom(500))
    server.start()
    assert read(server, "topic", 1) == (values_of(1), None)
