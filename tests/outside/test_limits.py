"""Memory stays bounded whatever clients do."""

import contextlib
import socket
import struct

from conftest import create_topic
from kafka_bytes import API_VERSIONS, FETCH, Connection, batch, produce_body, PRODUCE, text
from server import until

MIB = 1 << 20


def anonymous_mib(server):
    """RssAnon of the server."""
    with open(f"/proc/{server.process.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024


def fetch_body(topic, offset=0, max_bytes=50 * MIB):
    """Fetch version 4."""
    return (struct.pack(">iiiib", -1, 500, 1, max_bytes, 0) + struct.pack(">i", 1) + text(topic)
            + struct.pack(">iiqi", 1, 0, offset, max_bytes))


def fill(server, topic, mib, records=1000):
    """Batches of so many records of 1,000 bytes."""
    bytes_of_batch = batch([b"x" * 1000] * records)
    with Connection(server.kafka) as connection:
        left = mib * 1000 // records
        while left:
            some = min(left, 20 if records > 100 else 100)
            for _ in range(some):
                connection.send(PRODUCE, 3, produce_body(topic, 0, bytes_of_batch))
            for _ in range(some):
                assert connection.receive() is not None
            left -= some


def test_thousands_of_idle_connections_take_little_memory(server):
    before = anonymous_mib(server)
    connections = [Connection(server.kafka) for _ in range(5000)]
    try:
        for connection in connections:
            connection.send(API_VERSIONS, 0, b"")
        for connection in connections:
            assert connection.receive() is not None
        grown = anonymous_mib(server) - before
        assert grown < 200, f"5,000 connections took {grown:.0f} MiB"
    finally:
        for connection in connections:
            connection.socket.close()
    with Connection(server.kafka) as connection:
        connection.send(API_VERSIONS, 0, b"")
        assert connection.receive() is not None


@contextlib.contextmanager
def fetches_that_nobody_takes(server, topic):
    """200 of them, while others still read."""
    connections = []
    try:
        for _ in range(200):
            connection = Connection(server.kafka)
            connections.append(connection)
            # What the system holds for them does not count.
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.send(FETCH, 4, fetch_body(topic))
        yield
        with Connection(server.kafka) as reader:
            reader.send(FETCH, 4, fetch_body(topic, offset=59_000))
            assert reader.receive() is not None
    finally:
        for connection in connections:
            connection.socket.close()


def held_and_grown(server, before):
    """MiB of records that fetches hold in memory, and of all memory since then."""
    return server.metric("mainstem_kafka_fetched_bytes_in_memory") / MIB, anonymous_mib(server) - before


def test_consumers_that_take_nothing_of_large_batches_hold_nothing_in_memory(server):
    create_topic(server, "large", 1)
    fill(server, "large", 60)
    before = anonymous_mib(server)
    with fetches_that_nobody_takes(server, "large"):
        until(lambda: server.metric("mainstem_kafka_requests_total", api="Fetch") >= 200, "all to be asked")
        # The batches stay in their file until the socket takes them.
        held, grown = held_and_grown(server, before)
        assert held < 1 and grown < 50, f"{held:.0f} MiB of records, {grown:.0f} MiB in all"


def test_consumers_that_take_nothing_do_not_fill_the_memory_and_others_read_on(server):
    create_topic(server, "small", 1)
    fill(server, "small", 60, records=3)
    # Small batches of an earlier life are read, not sent from their file.
    server.restart()
    before = anonymous_mib(server)
    with fetches_that_nobody_takes(server, "small"):
        until(lambda: server.metric("mainstem_kafka_fetched_bytes_in_memory") > 50 * MIB, "answers that nobody takes")
        # 200 answers of 50 MiB would be 10 GiB.
        held, grown = held_and_grown(server, before)
        assert held < 300 and grown < 400, f"{held:.0f} MiB of records, {grown:.0f} MiB in all"
    until(lambda: server.metric("mainstem_kafka_fetched_bytes_in_memory") < MIB, "their memory to come back")


def test_huge_requests_that_do_not_end_share_a_common_budget(server):
    before = anonymous_mib(server)
    stalled = []
    try:
        for _ in range(50):
            connection = Connection(server.kafka)
            # 90 MiB are announced; as many come as the server takes.
            connection.socket.sendall(struct.pack(">i", 90 * MIB) + struct.pack(">hhi", PRODUCE, 3, 7))
            connection.socket.settimeout(0.05)
            try:
                for _ in range(20):
                    connection.socket.sendall(b"\0" * MIB)
            except TimeoutError:
                pass
            stalled.append(connection)
        grown = anonymous_mib(server) - before
        assert grown < 400, f"50 requests of 90 MiB took {grown:.0f} MiB"
        with Connection(server.kafka) as other:
            other.send(API_VERSIONS, 0, b"")
            assert other.receive() is not None
    finally:
        for connection in stalled:
            connection.socket.close()
