"""wrangler tail, both versions: requests, console and exceptions of a live worker."""

import json
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.wranglers import Wrangler, node_folder, write_project

pytestmark = pytest.mark.story

TALKS = """
export default { async fetch(request, env, ctx) {
  const url = new URL(request.url);
  console.log("saw", url.pathname, { a: 1 });
  if (url.pathname === "/boom") throw new TypeError("it broke");
  return new Response("talked");
} };
"""
TAIL_S_MAX = 25.0
END_S_MAX = 10.0


class Watching:
    """A running `wrangler tail`: what it printed so far."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        self.text = ""

    def read(self, wait_s: float) -> None:
        """Take what has been printed meanwhile."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], wait_s)
        if ready:
            self.text += os.read(self.process.stdout.fileno(), 65_536).decode(errors="replace")

    def until(self, holds: Callable[[str], bool], ask: Callable[[], object]) -> None:
        """Ask the worker again and again until the output holds what is expected."""
        end = time.monotonic() + TAIL_S_MAX
        while not holds(self.text):
            assert self.process.poll() is None, f"tail ended\n{self.text}"
            assert time.monotonic() < end, f"not seen within {TAIL_S_MAX} s\n{self.text}"
            ask()
            self.read(0.3)

    def events(self) -> list[dict[str, Any]]:
        """Return the JSON documents among the output (--format json pretty-prints them)."""
        found, rest = [], self.text
        decoder = json.JSONDecoder()
        while (start := rest.find("{")) >= 0:
            try:
                document, length = decoder.raw_decode(rest[start:])
            except json.JSONDecodeError:
                break
            found.append(document)
            rest = rest[start + length :]
        return found


@contextmanager
def watching(wrangler: Wrangler, project: Path, *arguments: str) -> Iterator[Watching]:
    """Run `wrangler tail` for the length of a `with` block, and end it as Ctrl-C would."""
    own = node_folder(wrangler.version).rstrip(":")
    process = subprocess.Popen(
        wrangler.argv("tail", *arguments),
        executable=f"{own}/node" if own else None,
        cwd=project,
        env=wrangler.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield Watching(process)
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)  # wrangler runs a second Node below itself
            try:
                process.wait(END_S_MAX)
            except subprocess.TimeoutExpired:
                continue
    assert process.stdout is not None
    process.stdout.close()


@pytest.fixture
def project(wrangler: Wrangler, tmp_path: Path) -> Path:
    """Return a project whose worker talks, deployed once for each wrangler."""
    name = wrangler.name("talks")
    wrangler.platform.upload(name, TALKS)
    wrangler.platform.wait_for(name, "talked")
    return write_project(tmp_path, {"name": name}, {"index.js": TALKS})


@pytest.mark.set1("tail-json")
def test_tail_shows_requests_console_and_exceptions_as_json(
    wrangler: Wrangler, project: Path
) -> None:
    """Goal: trace-v1 events with console arguments, and an exception with its stack."""
    name, platform = wrangler.name("talks"), wrangler.platform
    with watching(wrangler, project, "--format", "json") as tail:
        tail.until(lambda _: len(tail.events()) > 0, lambda: platform.get(name, "/seen"))
        event = next(e for e in tail.events() if e["event"]["request"]["url"].endswith("/seen"))
        assert event["outcome"] == "ok"
        assert event["scriptName"] == name
        assert event["logs"][0]["message"] == ["saw", "/seen", {"a": 1}]
        assert event["event"]["response"]["status"] == 200

        def failures() -> list[dict[str, Any]]:
            return [e for e in tail.events() if e["outcome"] == "exception"]

        tail.until(lambda _: len(failures()) > 0, lambda: platform.get(name, "/boom"))
        thrown = failures()[0]["exceptions"][0]
        assert (thrown["name"], thrown["message"]) == ("TypeError", "it broke")
        assert "w.js" in thrown["stack"]


@pytest.mark.set1("tail-pretty")
def test_tail_tells_a_person_what_happens_and_filters(wrangler: Wrangler, project: Path) -> None:
    """Goal: the pretty format; filters of status, method, header and text hold back the rest."""
    name, platform = wrangler.name("talks"), wrangler.platform
    filters = (
        *("--format", "pretty", "--status", "ok", "--method", "GET"),
        *("--search", "/wanted", "--header", "x-watch:yes", "--sampling-rate", "0.99"),
        *("--ip", "self"),
    )

    def ask() -> None:
        platform.get(name, "/unwanted", headers={"X-Watch": "yes"})
        platform.get(name, "/wanted")
        platform.get(name, "/wanted/seen", headers={"X-Watch": "yes"})

    with watching(wrangler, project, name, *filters) as tail:
        tail.until(lambda text: "/wanted/seen" in text and "saw" in text, ask)
        assert "/unwanted" not in tail.text
        assert not re.search(r"/wanted\b(?!/seen)", tail.text)


@pytest.mark.set1("tail-route")
def test_tail_finds_the_worker_behind_a_route(wrangler: Wrangler, project: Path) -> None:
    """Goal: `wrangler tail host/path/*` asks zones and routes for the worker."""
    name, platform = wrangler.name("talks"), wrangler.platform
    host = f"tail-{wrangler.mark}.example.com"
    routes = [{"pattern": f"{host}/v1/*", "zone_name": "example.com"}]
    answer = platform.call("PUT", f"/workers/scripts/{name}/routes", json=routes)
    assert answer.status_code == 200, answer.text
    url = f"http://{host}/v1/seen"
    with watching(wrangler, project, f"{host}/v1/*", "--format", "json") as tail:
        tail.until(lambda text: url in text, lambda: platform.fetch(url))


def test_tail_tells_of_a_loop_that_was_ended(wrangler: Wrangler, project: Path) -> None:
    """Goal: a process that was killed cannot speak for itself; the machine does."""
    name, platform = wrangler.name("talks"), wrangler.platform
    platform.upload(name, "export default { fetch() { for (;;) {} } };", limits={"cpu_ms": 50})
    with watching(wrangler, project, name, "--format", "pretty") as tail:
        tail.until(
            lambda text: "Exceeded CPU Limit" in text and "exceeded its CPU time limit" in text,
            lambda: platform.fetch(f"http://{name}.{platform.domain}/", method="POST"),
        )


def test_tail_tells_of_memory_that_ran_out(wrangler: Wrangler, project: Path) -> None:
    """Goal: a process that died of its heap has no trace; the machine says what it was."""
    name, platform = wrangler.name("talks"), wrangler.platform
    code = (
        "const all = []; export default { fetch() { for (;;) all.push(new Array(1e4).fill({})) } };"
    )
    platform.upload(name, code, kythera={"memory_mib": 32})
    with watching(wrangler, project, name, "--format", "pretty") as tail:
        tail.until(
            lambda text: "Exceeded Memory" in text and "exceeded its memory limit" in text,
            lambda: platform.fetch(f"http://{name}.{platform.domain}/", method="POST"),
        )
