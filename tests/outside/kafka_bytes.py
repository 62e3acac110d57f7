"""Kafka requests by hand, for what no proper client sends. Versions are old ones without tagged fields."""

import socket
import struct

PRODUCE, FETCH, METADATA, API_VERSIONS = 0, 1, 3, 18
CORRUPT_MESSAGE, UNKNOWN_TOPIC_OR_PARTITION, MESSAGE_TOO_LARGE, UNSUPPORTED_VERSION = 2, 3, 10, 35

CRC_TABLE = []
for byte in range(256):
    crc = byte
    for _ in range(8):
        crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    CRC_TABLE.append(crc)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def text(value):
    return struct.pack(">h", len(value)) + value.encode()


def varint(value):
    value = value << 1 ^ value >> 63
    out = b""
    while True:
        low, value = value & 0x7F, value >> 7
        if not value:
            return out + bytes([low])
        out += bytes([low | 0x80])


def batch(values, attributes=0):
    """A record batch, magic 2, not compressed, not of an idempotent producer."""
    records = b""
    for delta, value in enumerate(values):
        body = b"\0" + varint(0) + varint(delta) + varint(-1) + varint(len(value)) + value + varint(0)
        records += varint(len(body)) + body
    covered = struct.pack(">hiqqqhii", attributes, len(values) - 1, 0, 0, -1, -1, -1, len(values)) + records
    tail = struct.pack(">ibI", -1, 2, crc32c(covered)) + covered
    return struct.pack(">qi", 0, len(tail)) + tail


def produce_body(topic, partition, records, acks=-1):
    """Produce version 3 to 8."""
    return (struct.pack(">hhi", -1, acks, 10_000) + struct.pack(">i", 1) + text(topic)
            + struct.pack(">iii", 1, partition, len(records)) + records)


class Connection:
    """One TCP connection."""

    def __init__(self, address, timeout=10):
        host, port = address.split(":")
        self.socket = socket.create_connection((host, int(port)), timeout)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, key, version, body, client="by hand"):
        frame = struct.pack(">hhi", key, version, 7) + text(client) + body
        self.socket.sendall(struct.pack(">i", len(frame)) + frame)

    def receive(self):
        """The answer behind its correlation id; None if the server closed the connection instead."""
        head = self.read(4)
        if head is None:
            return None
        answer = self.read(struct.unpack(">i", head)[0])
        assert answer is not None and answer[:4] == struct.pack(">i", 7), f"half an answer: {answer!r}"
        return answer[4:]

    def read(self, count):
        got = b""
        while len(got) < count:
            try:
                more = self.socket.recv(count - len(got))
            except ConnectionResetError:
                more = b""
            if not more:
                return None
            got += more
        return got

    def ask(self, key, version, body):
        self.send(key, version, body)
        return self.receive()

    def is_closed_by_server(self):
        try:
            return self.socket.recv(1 << 16) == b""
        except ConnectionResetError:
            return True


def produce(address, topic, partition, records, version=7):
    """Error code and base offset that the server answers; None if it closed the connection."""
    with Connection(address) as connection:
        answer = connection.ask(PRODUCE, version, produce_body(topic, partition, records))
    if answer is None:
        return None
    # An array of topics (name, array of partitions (index, error, base offset, ...)).
    at = 4 + 2 + len(topic) + 4 + 4
    return struct.unpack_from(">hq", answer, at)
