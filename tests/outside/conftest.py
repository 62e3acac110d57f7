"""What all tests against the outside world share: servers that are stopped and cleaned up, and the table per client."""

import collections
import os
import shutil
import uuid

import pytest
from confluent_kafka import TopicCollection
from confluent_kafka.admin import AdminClient, NewTopic

from clients import CLIENTS, INSTALLED
from server import BINARY, Server

ALL_CLIENTS = [client.name for client in CLIENTS] + ["psql", "psycopg", "jdbc", "sqlalchemy", "http"]


def pytest_configure(config):
    config.addinivalue_line("markers", "client(*names): the clients that a test counts for in the summary")


def pytest_sessionstart(session):
    """A client that is not there fails the run: a test that is not run proves nothing."""
    missing = [] if BINARY.exists() else [f"the server: {BINARY} (cargo build -p mainstem-server, or set MAINSTEM_BIN)"]
    for program in ["kcat", "psql", "java", "node"]:
        if shutil.which(program) is None:
            missing.append(f"the program {program}")
    files = [path for client in CLIENTS for path in client.missing()]
    files += [str(INSTALLED / path) for path in ("java/classes/mainstem/JdbcChecks.class", "java/lib", "node/node_modules/kafkajs")]
    missing += [path for path in files if not (path and os.path.exists(path))]
    if missing:
        text = "\n    ".join(missing)
        pytest.exit(f"missing (cargo xtask setup installs it, or names what to install):\n    {text}", returncode=1)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    report.clients = [name for marker in item.iter_markers("client") for name in marker.args]


def pytest_terminal_summary(terminalreporter):
    """Tests per client."""
    counts = {name: collections.Counter() for name in ALL_CLIENTS}
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.getreports(outcome):
            for name in set(getattr(report, "clients", [])):
                if outcome != "passed" or report.when == "call":
                    counts[name][outcome] += 1
    terminalreporter.section("tests per client")
    for name, count in counts.items():
        failed = count["failed"] + count["error"]
        terminalreporter.write_line(f"{name:16} {count['passed']:3} passed {failed:3} failed")


def pytest_collection_modifyitems(config, items):
    """A test of a client that nobody counts would be missing in the table."""
    for item in items:
        for marker in item.iter_markers("client"):
            unknown = set(marker.args) - set(ALL_CLIENTS)
            assert not unknown, f"{item.nodeid} names unknown clients {unknown}"


class Servers:
    """Makes servers; at the end each is stopped by its own id and must not have panicked."""

    def __init__(self, directory):
        self.directory = directory
        self.made = []

    def new(self, *options, directory=None):
        directory = directory or self.directory / f"data-{len(self.made)}"
        server = Server(directory, options)
        self.made.append(server)
        return server

    def close(self):
        problems = []
        for server in self.made:
            if server.is_running():
                try:
                    server.stop()
                except AssertionError as error:
                    problems.append(str(error))
            elif server.process is not None:
                problems.append(f"the server ended by itself with {server.reap()}\n{server.errors()[-4000:]}")
            if "panicked at" in server.errors():
                problems.append(f"the server panicked{server.errors().partition('panicked at')[2][:4000]}")
            shutil.rmtree(server.directory, ignore_errors=True)
        assert not problems, "\n".join(problems)


@pytest.fixture
def servers(tmp_path):
    made = Servers(tmp_path)
    yield made
    made.close()


@pytest.fixture
def server(servers):
    """A server of this test alone."""
    return servers.new().start()


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory):
    """One server for all tests of a file that do not disturb one another."""
    made = Servers(tmp_path_factory.mktemp("shared"))
    yield made.new().start()
    made.close()


def create_topic(server, name, partitions=3, **config):
    admin = AdminClient({"bootstrap.servers": server.kafka})
    settings = {key.replace("_", "."): str(value) for key, value in config.items()}
    admin.create_topics([NewTopic(name, partitions, 1, config=settings)])[name].result(30)


def topic_id(server, name):
    admin = AdminClient({"bootstrap.servers": server.kafka})
    found = admin.describe_topics(TopicCollection([name]))[name].result(30).topic_id
    bits = (found.get_most_significant_bits() % 2**64) << 64 | found.get_least_significant_bits() % 2**64
    return uuid.UUID(int=bits)
