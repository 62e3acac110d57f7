"""The part of the contract of ../clients.py that the two Python clients share: arguments, records, the log."""

import argparse
import json
import signal
import sys


def arguments():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    produce = commands.add_parser("produce")
    consume = commands.add_parser("consume")
    for command in (produce, consume):
        command.add_argument("--bootstrap", required=True)
        command.add_argument("--topic", required=True)
    produce.add_argument("--partitions", type=int, required=True)
    produce.add_argument("--count", type=int, required=True)
    produce.add_argument("--codec", required=True)
    produce.add_argument("--run-id", required=True)
    produce.add_argument("--first", type=int, default=0)
    consume.add_argument("--count", type=int, default=0)
    consume.add_argument("--group")
    consume.add_argument("--session-timeout-ms", type=int, default=6000)
    consume.add_argument("--commit-every", type=int, default=100)
    consume.add_argument("--log", default="/dev/stdout")
    return parser.parse_args()


def records(options, client):
    """(partition, key, value) of each record to write, in order."""
    for n in range(options.first, options.first + options.count):
        partition = n % options.partitions
        value = {"client": client, "run": options.run_id, "n": n, "partition": partition}
        yield partition, b"k%d" % n, json.dumps(value).encode()


class Log:
    """What was read and committed. A line is with the system when `flush` returns, so that a kill does not lose it."""

    def __init__(self, path):
        self.file = open(path, "ab")

    def record(self, partition, offset, key, value):
        self.file.write(b"R\t%d\t%d\t%s\t%s\n" % (partition, offset, key or b"", value or b""))

    def assigned(self, partitions):
        self.file.write(b"A\t%s\n" % ",".join(str(p) for p in sorted(partitions)).encode())
        self.file.flush()

    def committed(self, partition, offset):
        self.file.write(b"C\t%d\t%d\n" % (partition, offset))
        self.file.flush()

    def flush(self):
        self.file.flush()


class Stop:
    """True once SIGTERM came."""

    def __init__(self):
        self.is_asked = False
        signal.signal(signal.SIGTERM, self.ask)

    def ask(self, _signal, _frame):
        self.is_asked = True

    def __bool__(self):
        return self.is_asked


def fail(message):
    print(message, file=sys.stderr)
    sys.exit(1)
