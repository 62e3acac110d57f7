"""A mainstem server as a process of its own, on a directory of its own and free ports."""

import os
import re
import select
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("MAINSTEM_BIN", ROOT / "target/debug/mainstem")).resolve()
READY = re.compile(r"^mainstem \S+ is ready: kafka (\S+), postgresql (\S+), http (http://\S+/)$")
START_SECONDS = 60
STOP_SECONDS = 30


def until(condition, what, seconds=30, every=0.02):
    """Waits until `condition` answers something true, and returns it. `what` names it in the failure."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s in vain: {what() if callable(what) else what}")
        time.sleep(every)


class Server:
    """Keeps its ports and its directory over restarts, as a server of a user would."""

    def __init__(self, directory, options=()):
        self.directory = Path(directory)
        self.options = list(options)
        self.kafka = self.postgresql = "127.0.0.1:0"
        self.http = "http://127.0.0.1:0/"
        self.process = None
        self.error_file = self.directory.parent / f"{self.directory.name}.stderr"

    def command(self):
        http = self.http.removeprefix("http://").rstrip("/")
        doors = ["--kafka-listen", self.kafka, "--pg-listen", self.postgresql, "--http-listen", http]
        return [str(BINARY), "serve", "--data-dir", str(self.directory), *doors, *self.options]

    def spawn(self):
        """Starts the process without waiting for it to be ready."""
        assert self.process is None, "it runs already"
        with open(self.error_file, "ab") as errors:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        return self

    def start(self):
        """Starts, and returns when the line with the addresses is there."""
        self.spawn()
        return self.wait_until_ready()

    def wait_until_ready(self):
        is_readable, _, _ = select.select([self.process.stdout], [], [], START_SECONDS)
        line = self.process.stdout.readline().rstrip("\n") if is_readable else ""
        addresses = READY.match(line)
        if not addresses:
            status = self.process.poll()
            raise AssertionError(f"no server: it printed {line!r}, status {status}\n{self.errors()[-4000:]}")
        self.kafka, self.postgresql, self.http = addresses.groups()
        return self

    def errors(self):
        """What all starts so far wrote to standard error."""
        return self.error_file.read_text(errors="replace") if self.error_file.exists() else ""

    def has_said_ready(self):
        is_readable, _, _ = select.select([self.process.stdout], [], [], 0)
        return bool(is_readable)

    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def kill(self):
        """kill -9."""
        self.process.send_signal(signal.SIGKILL)
        self.reap()

    def stop(self):
        """SIGTERM: a clean stop, with status 0."""
        self.process.send_signal(signal.SIGTERM)
        status = self.reap()
        assert status == 0, f"a clean stop ended with {status}\n{self.errors()[-4000:]}"

    def reap(self):
        try:
            status = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.process = None
            raise AssertionError(f"it did not end within {STOP_SECONDS} s of the signal") from None
        self.process.stdout.close()
        self.process = None
        return status

    def restart(self):
        self.stop()
        return self.start()

    def get(self, path, timeout=10):
        with urllib.request.urlopen(self.http + path.lstrip("/"), timeout=timeout) as answer:
            return answer.read().decode()

    def metric(self, name, **labels):
        """The value of one sample of /metrics, 0 if it is not there."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        for line in self.get("metrics").splitlines():
            if line.startswith((name + " ", name + "{")) and all(label in line for label in wanted):
                return float(line.rsplit(" ", 1)[1])
        return 0.0
