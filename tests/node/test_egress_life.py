"""The egress cell's life beside the others: killed, hung, adopted; nothing goes another way."""

import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.node.tls_servers import self_signed
from tests.platforms import RunningPlatform, running
from tests.processes import children, wait_until

pytestmark = pytest.mark.real
BODY = b"x" * 1000
CODE = """
export default { async fetch(request) {
  const to = new URL(request.url).searchParams.get('to');
  try { return new Response('got ' + (await (await fetch(to)).text()).length); }
  catch (error) { return new Response('failed: ' + error.message); }
} };
"""


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Answer with BODY."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def server() -> Iterator[str]:
    """Serve on loopback; yields the URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answer) as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}/"
        found.shutdown()
        thread.join()


def pid_of(platform: RunningPlatform, pattern: str) -> int:
    """Return the one child of the keeper whose command line has this."""
    found = []
    for pid in children(platform.process.pid):
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        if re.search(pattern, line):
            found.append(pid)
    (pid,) = found
    return pid


EGRESS, AGENT = "socket-fd counters=", r"kythera\.node\.agent"


def egress_pid(platform: RunningPlatform) -> int:
    """Return workerd's own process: in a sandbox it is below bubblewrap's."""
    outer = pid_of(platform, EGRESS)
    return next(iter(children(outer)), outer)


def egress_of(platform: RunningPlatform) -> dict[str, Any]:
    """Return what status tells of the egress cell."""
    (machine,) = platform.status()["machines"]
    found: dict[str, Any] = machine["egress"]
    return found


def bytes_in(platform: RunningPlatform) -> int:
    """Return what has come from the outside, for all workers."""
    return sum(worker["bytes_in"] for worker in egress_of(platform)["workers"])


def refused(platform: RunningPlatform) -> dict[str, Any]:
    """Return what was refused, by worker and reason."""
    return {worker["worker"]: worker["refused"] for worker in egress_of(platform)["workers"]}


def test_it_is_counted_and_outlives_agent_and_itself(tmp_path: Path) -> None:
    """Goal: status shows bytes and refusals by worker; the agent's end changes nothing; its own end
    makes a request wait, not fail, and forgets nothing; one that hangs is replaced."""
    limits = ("--limit", "egress_silent_ms_max=4000", "--limit", "egress_look_ms=200")
    options = ("--egress-allow", "127.0.0.0/8", *limits)
    with server() as url, running(tmp_path / "state", *options) as platform:
        platform.upload("out", CODE)
        path = f"/?to={url}"
        platform.wait_for("out", "got 1000", path)
        told = platform.get("out", "/?to=http://10.0.0.1/").text
        assert told == "failed: Outbound fetch failed: 10.0.0.1 is a private address."
        wait_until(lambda: refused(platform) == {"out": {"private": 1}}, "counted", deadline_s=20)
        assert bytes_in(platform) == 1000

        first = egress_pid(platform)
        os.kill(pid_of(platform, AGENT), signal.SIGKILL)
        assert platform.get("out", path).text == "got 1000"
        wait_until(lambda: bytes_in(platform) == 2000, "adopted", deadline_s=20)
        assert egress_pid(platform) == first

        os.kill(first, signal.SIGKILL)
        assert platform.get("out", path).text == "got 1000"
        wait_until(lambda: egress_of(platform)["restarts"] == 1, "started anew", deadline_s=20)
        # The one that was killed may still have answered that request; it tells nobody.
        wait_until(lambda: bytes_in(platform) >= 2000, "nothing forgotten", deadline_s=20)
        assert platform.get("out", path).text == "got 1000"
        wait_until(lambda: bytes_in(platform) >= 3000, "counted on", deadline_s=20)
        assert refused(platform) == {"out": {"private": 1}}

        os.kill(egress_pid(platform), signal.SIGSTOP)
        assert platform.get("out", path).text == "got 1000"
        wait_until(lambda: egress_of(platform)["restarts"] == 2, "replaced", deadline_s=20)


def test_a_cell_has_no_other_way_out(tmp_path: Path) -> None:
    """Goal: with `none`, and at the trial of an upload, nothing is reached that all others reach."""
    with server() as url, running(tmp_path / "state", "--egress-allow", "127.0.0.0/8") as platform:
        platform.upload("shut", CODE, kythera={"egress": "none"})
        platform.wait_for("shut", 'kythera.egress of this worker is "none"', f"/?to={url}")
        platform.upload("listed", CODE, kythera={"egress": ["api.example.org"]})
        platform.wait_for("listed", "not among the hosts of kythera.egress", f"/?to={url}")


TLS_CODE = """
import { connect } from 'cloudflare:sockets';
export default { async fetch(request) {
  const port = Number(new URL(request.url).searchParams.get('port'));
  try {
    await connect({ hostname: '127.0.0.1', port }, { secureTransport: 'on' }).opened;
    return new Response('opened');
  } catch (error) { return new Response(error.message); }
} };
"""


def test_a_worker_is_told_why_tls_failed(tmp_path: Path) -> None:
    """Goal: what the egress cell prints comes back to it through the agent, and to the worker as its
    socket's error."""
    options = ("--egress-allow", "127.0.0.0/8")
    with (
        self_signed(tmp_path) as port,
        running(tmp_path / "state", *options) as platform,
    ):
        platform.upload("secure", TLS_CODE)
        said = (
            f"Outbound connect failed: TLS with 127.0.0.1:{port} failed: "
            "its certificate is self-signed or of an authority that is not trusted."
        )
        platform.wait_for("secure", said, f"/?port={port}")

        def has_counted() -> bool:
            return any("tls" in one["failed"] for one in egress_of(platform)["workers"])

        wait_until(has_counted, "counted", deadline_s=20)
