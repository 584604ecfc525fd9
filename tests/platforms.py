"""A real `kythera up` for tests: started on free ports in a folder of its own, asked, stopped.

Promises: `start` waits for the ready line until a deadline and shows the platform's log when it
does not come; `stop` fails when a process or a listening socket is left over. Refuses proxies
and anything that is not on loopback.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.processes import alive, births, family, wait_until

ROOT = Path(__file__).resolve().parent.parent
READY_S_MAX = 20.0
STOP_S_MAX = 15.0
HTTP_S_MAX = 20.0
LOG_TAIL_BYTES = 6_000


def clean_environment(**more: str) -> dict[str, str]:
    """Return the little that a program needs from our environment, and no proxy."""
    keep = ("PATH", "HOME", "LANG", "TMPDIR", "USER")
    return {**{name: os.environ[name] for name in keep if name in os.environ}, **more}


@dataclass
class Doors:
    """One machine's doors: where it listens, who may deploy, how to ask it."""

    state: Path
    http: str
    api: str
    account_id: str
    domain: str

    @property
    def token(self) -> str:
        """Return the API token that the first start made."""
        return (self.state / "token").read_text().strip()

    def fetch(self, url: str, method: str = "GET", **more: Any) -> httpx.Response:
        """Ask the front door for a public URL (`http://worker.localhost/path`)."""
        parts = urlsplit(url)
        target = f"{self.http}{parts.path or '/'}" + (f"?{parts.query}" if parts.query else "")
        headers = {"Host": parts.netloc, **more.pop("headers", {})}
        with httpx.Client(trust_env=False, timeout=HTTP_S_MAX) as client:
            return client.request(method, target, headers=headers, **more)

    def get(self, worker: str, path: str = "/", **more: Any) -> httpx.Response:
        """Ask a worker by its own hostname."""
        return self.fetch(f"http://{worker}.{self.domain}{path}", **more)

    def answers(self, worker: str, text: str, path: str = "/") -> bool:
        """Tell whether a worker's answer holds this text now."""
        return text in self.get(worker, path).text

    def wait_for(self, worker: str, text: str, path: str = "/", *, deadline_s: float = 5) -> None:
        """Wait until a worker's answer holds this text."""
        what = f"{worker} answers {text!r}"
        wait_until(lambda: self.answers(worker, text, path), what, deadline_s=deadline_s)

    def call(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Call the API below this account (`/workers/…`), as its owner."""
        headers = {"Authorization": f"Bearer {self.token}", **more.pop("headers", {})}
        url = f"{self.api}/accounts/{self.account_id}{path}"
        with httpx.Client(trust_env=False, timeout=HTTP_S_MAX) as client:
            return client.request(method, url, headers=headers, **more)

    def upload(self, worker: str, code: str, **metadata: Any) -> None:
        """Deploy one module without wrangler, as a test's starting point."""
        document = {"main_module": "w.js", "compatibility_date": "2026-01-01", **metadata}
        files = {
            "metadata": (None, json.dumps(document), "application/json"),
            "w.js": ("w.js", code, "application/javascript+module"),
        }
        answer = self.call("PUT", f"/workers/scripts/{worker}", files=files)
        assert answer.status_code == 200, answer.text

    def kythera(self, *arguments: str, **more: Any) -> "subprocess.CompletedProcess[str]":
        """Run the command line against this platform."""
        n_words = 2 if arguments[0] in GROUPS else 1
        state = ("--state", str(self.state))
        argv = [*COMMAND, *arguments[:n_words], *state, *arguments[n_words:]]
        return subprocess.run(
            argv,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **more,
        )

    def status(self) -> dict[str, Any]:
        """Return `kythera status --json`."""
        done = self.kythera("status", "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@dataclass
class RunningPlatform(Doors):
    """One platform that a test has started, and how to end it."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def stop(self) -> None:
        """End the platform as Ctrl-C would, and see that nothing is left of it."""
        left = births(family(self.process.pid))
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not stop within {STOP_S_MAX} s\n{self.tail()}") from None
        self.check_nothing_left(left)
        assert code == 0, f"ended with {code}\n{self.tail()}"

    def kill(self) -> None:
        """End the keeper as no program can prevent (`kill -9`), and see that all went with it."""
        left = births(family(self.process.pid))
        self.process.kill()
        self.process.wait(STOP_S_MAX)
        self.check_nothing_left(left)

    def check_nothing_left(self, born: dict[int, str]) -> None:
        """Fail when a process of ours lives on or somebody still listens on our doors."""
        if self.process.stdout is not None:
            self.process.stdout.close()
        wait_until(lambda: not alive(born), f"processes ended: {alive(born)}", deadline_s=5)
        ports = {urlsplit(url).port for url in (self.http, self.api)}
        # A dead leader's last thread may hold the files for a moment longer.
        wait_until(lambda: not ports & listening_ports(), f"nobody listens on {ports}")

    def tail(self) -> str:
        """Return the end of the platform's log, for a message."""
        return self.log.read_text(errors="replace")[-LOG_TAIL_BYTES:]


COMMAND = (sys.executable, "-m", "kythera.cli")
GROUPS = (
    "backup",
    "binding",
    "cache",
    "api-token",
    "cron",
    "fleet",
    "key",
    "machine",
    "secret",
    "token",
    "versions",
    "worker",
    "workerd",
)
"""Commands whose second word is the command itself."""


def listening_ports() -> set[int]:
    """Return the TCP ports on which anybody listens here."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                found.add(int(fields[1].rpartition(":")[2], 16))
    return found


def start(state: Path, *options: str) -> RunningPlatform:
    """Start a platform and return it once it says that it is ready."""
    log = state.with_name(f"{state.name}.log")
    free = ("--http", "127.0.0.1:0", "--api", "127.0.0.1:0")
    argv = [*COMMAND, "up", "--json", "--state", str(state), *free, *options]
    with log.open("ab") as output:
        process = subprocess.Popen(
            argv,
            cwd=ROOT,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
        )
    try:
        ready = read_ready(process, log)
    except BaseException:
        process.kill()
        process.wait(STOP_S_MAX)
        assert process.stdout is not None
        process.stdout.close()
        raise
    return RunningPlatform(
        state=state,
        process=process,
        http=ready["http"],
        api=ready["api"],
        account_id=ready["account_id"],
        domain=ready["domain"],
        log=log,
    )


def read_ready(
    process: "subprocess.Popen[bytes]", log: Path, within_s: float = READY_S_MAX
) -> dict[str, Any]:
    """Wait for the first line on stdout, the event `ready`; fail with the log's end."""
    assert process.stdout is not None
    end = time.monotonic() + within_s
    line = b""
    while not line.endswith(b"\n"):
        wait_s = end - time.monotonic()
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, wait_s))
        chunk = os.read(process.stdout.fileno(), 4096) if ready else b""
        if not chunk:
            said = log.read_text(errors="replace")[-LOG_TAIL_BYTES:]
            raise AssertionError(f"not ready within {within_s} s, or ended\n{said}")
        line += chunk
    found: dict[str, Any] = json.loads(line)
    assert found["event"] == "ready", found
    return found


@contextmanager
def running(state: Path, *options: str) -> Iterator[RunningPlatform]:
    """Run a platform for the length of a `with` block."""
    platform = start(state, *options)
    try:
        yield platform
    except BaseException:
        print(platform.tail())  # noqa: T201  pytest shows it beside the failure
        raise
    finally:
        if platform.process.poll() is None:
            platform.stop()
        elif platform.process.stdout is not None:
            platform.process.stdout.close()
