"""Secrets are planted in a running platform, which then lives through a day; then everything that it
keeps, runs, says and answers is searched for them.

Not searched, because it cannot be or shows nothing: the memory of the cell (which has the secret, as
its worker does) and of the process that opened it, swap, and what the worker itself gives away. No
process of the platform leaves a core file (looked at here); where a host pipes cores to a program,
that program decides (docs/operate/7-keys-and-workerd.md).
"""

import json
import secrets
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from kythera.ground.layout import Layout
from tests.control.world import World
from tests.leaks import Planted, forms, in_answers, in_files, in_processes
from tests.platforms import COMMAND, RunningPlatform, clean_environment, running
from tests.processes import PROC, command, family, wait_until
from tests.wranglers import VERSIONS, Wrangler, write_project

pytestmark = [pytest.mark.real, pytest.mark.story]
CODE = """
export default { async fetch(request, env) {
  const known = env.PLANTED.length + (env.META ? env.META.length : 0);
  switch (new URL(request.url).pathname) {
    case '/known': return new Response(`knows ${known} characters, ${env.PLANTED.endsWith(' %')}`);
    case '/say': console.log('asked, of', known); return new Response('said');
    case '/throw': throw new Error(`no: of ${known} characters this is none`);
    case '/loop': for (;;) {}
    case '/fill': { const all = []; for (;;) all.push(new Array(1e5).fill(Math.random())); }
  }
  return new Response('version VERSION');
} };
"""
CPU_MS = 100


class Day:
    """One platform, what was planted in it, and all that it said."""

    def __init__(self, platform: RunningPlatform, folder: Path) -> None:
        self.platform = platform
        self.folder = folder
        self.planted = [Planted(secrets.token_hex(16)) for _ in range(3)]
        self.answers: dict[str, bytes] = {}

    def note(self, who: str, said: bytes | str) -> None:
        """Keep what somebody said."""
        data = said.encode() if isinstance(said, str) else said
        self.answers[f"{len(self.answers)} {who}"] = data

    def call(self, method: str, path: str, **more: Any) -> Any:
        """Call the API, and keep its answer."""
        answer = self.platform.call(method, path, **more)
        self.note(f"{method} {path}", f"{answer.headers}\n{answer.text}")
        return answer

    def run(self, *arguments: str) -> None:
        """Run our command line, and keep what it prints."""
        done = self.platform.kythera(*arguments)
        self.note(" ".join(arguments), done.stdout + done.stderr)

    def visit(self, path: str) -> str:
        """Ask the worker, and keep its answer."""
        answer = self.platform.get("planted", path)
        self.note(f"visit {path}", f"{answer.headers}\n{answer.text}")
        return answer.text

    def leaks(self, *more: Path) -> list[str]:
        """Search everything."""
        layout = Layout(self.platform.state)
        # But for the second name of workerd itself, 160 MB that were here before any secret.
        kept = [path for path in layout.state.iterdir() if path != layout.workerd_kept]
        places = [*kept, layout.run, self.platform.log, *more]
        found: list[str] = []
        pid = self.platform.process.pid
        for planted in self.planted:
            needles = forms(planted)
            found += in_files(places, needles)
            found += in_processes({pid, *family(pid)}, needles)
            found += in_answers(self.answers, needles)
        return found


def upload(day: Day, version: str, secret: Planted, code: str = CODE) -> Any:
    """Deploy with a secret in the metadata."""
    bindings = [{"type": "secret_text", "name": "META", "text": secret.text}]
    document = {
        "main_module": "w.js",
        "compatibility_date": "2026-01-01",
        "bindings": bindings,
        "keep_bindings": ["secret_text"],
        "limits": {"cpu_ms": CPU_MS},
    }
    files = {
        "metadata": (None, json.dumps(document), "application/json"),
        "w.js": ("w.js", code.replace("VERSION", version), "application/javascript+module"),
    }
    return day.call("PUT", "/workers/scripts/planted", files=files)


def plant(day: Day, home: Path) -> None:
    """Set one secret with wrangler, and two with uploads."""
    home.mkdir()
    wrangler = Wrangler(VERSIONS[-1], day.platform, home)
    project = write_project(
        home / "project", {"name": "planted"}, {"index.js": "export default {}"}
    )
    first, second, third = day.planted
    done = wrangler.do("secret", "put", "PLANTED", project=project, stdin=first.text)
    day.note("wrangler secret put", done.text)
    assert upload(day, "one", second).is_success
    assert upload(day, "two", third).is_success
    day.platform.wait_for("planted", "version two")
    expected = len(first.text) + len(third.text)
    assert day.visit("/known") == f"knows {expected} characters, true"
    day.note("wrangler secret list", wrangler.do("secret", "list", project=project).text)


def refuse(day: Day) -> None:
    """Have calls with a secret in them refused, in as many ways as there are."""
    text = day.planted[0].text
    scripts = "/workers/scripts"
    one = {"name": "OTHER", "text": text, "type": "secret_text"}
    for body in (
        [one],
        {**one, "name": "1 bad"},
        {**one, "type": "plain"},
        {**one, "text": [text]},
        {**one, "text": text * 10_000},
        {"name": "OTHER", "value": text},
        {"secrets": text},
    ):
        assert day.call("PUT", f"{scripts}/planted/secrets", json=body).status_code >= 400
        assert day.call("PATCH", f"{scripts}/planted/secrets-bulk", json=body).status_code >= 400
        day.call("PATCH", f"{scripts}/planted/settings", json={"bindings": [body]})
    assert day.call("PUT", f"{scripts}/absent/secrets", json=one).status_code >= 400
    broken = "const x = env => { throw new Error('broken at the start') }; x();"
    assert upload(day, "three", day.planted[0], broken).status_code >= 400
    assert upload(day, "three", day.planted[0], "not JavaScript").status_code >= 400


@contextmanager
def watched(day: Day, heard: Path) -> Iterator[None]:
    """Tail the worker for the length of the block."""
    state = str(day.platform.state)
    argv = [*COMMAND, "tail", "--state", state, "planted", "--format", "json"]
    with heard.open("wb") as output:
        process = subprocess.Popen(
            argv, env=clean_environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        wait_until(lambda: _observed(day.platform), "an observed cell serves", deadline_s=20)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)
        day.note("tail", heard.read_bytes())


def _observed(platform: RunningPlatform) -> bool:
    platform.get("planted")
    cells = platform.status()["cells"]
    return any(cell["observed"] and cell["state"] == "ready" for cell in cells)


def live_through(day: Day) -> None:
    """Use it, watch it, break it, go back, change the key."""
    heard = day.folder / "tail.ndjson"
    with watched(day, heard):
        for path in ("/say", "/throw", "/loop", "/fill", "/known"):
            day.visit(path)
        wait_until(lambda: b"characters this is none" in heard.read_bytes(), "the tail shows it")
    for cell in day.platform.status()["cells"]:
        for pid in cell["pids"]:
            (PROC / str(pid)).exists() and subprocess.run(["kill", "-SEGV", str(pid)], check=False)
    wait_until(lambda: "true" in day.visit("/known"), "it serves again", deadline_s=20)
    day.run("key", "rotate", "--json")
    day.run("rollback", "planted")  # refused: the secrets are others
    assert b"have changed: META" in list(day.answers.values())[-1]
    day.run("rollback", "planted", "--yes")
    day.platform.wait_for("planted", "version one", deadline_s=10)
    day.run("key", "rotate", "--json")
    day.run("key", "list")
    day.run("secret", "list", "planted")
    day.run("versions", "list", "planted")
    day.run("status")
    day.run("status", "--json")
    day.run("doctor")


def ask_everything(day: Day, folder: Path) -> int:
    """GET every address that the API has; return how many answered with success."""
    scripts = day.platform.call("GET", "/workers/scripts/planted/versions").json()["result"]
    deployments = day.platform.call("GET", "/workers/scripts/planted/deployments").json()["result"]
    known = {
        "account": day.platform.account_id,
        "name": "planted",
        "version": scripts["items"][0]["id"],
        "deployment": deployments["deployments"][0]["id"],
        "secret": "PLANTED",
        "machine": day.platform.status()["machines"][0]["name"],
    }
    good = 0
    root = f"/client/v4/accounts/{day.platform.account_id}"
    for route in World(folder).app.routes:
        if not isinstance(route, Route) or "GET" not in (route.methods or ()):
            continue
        path = route.path
        for name in route.param_convertors:
            path = path.replace(f"{{{name}}}", known.get(name, "x"))
        if path.startswith(root):
            answer = day.call("GET", path.removeprefix(root))
        else:
            base = day.platform.api.removesuffix("/client/v4")
            answer = _get(base + path, day.platform.token)
            day.note(f"GET {path}", answer.text)
        good += answer.status_code == 200
    return good


def _get(url: str, token: str) -> Any:
    import httpx

    with httpx.Client(trust_env=False, timeout=20) as client:
        return client.get(url, headers={"Authorization": f"Bearer {token}"})


def no_core_files(platform: RunningPlatform) -> list[str]:
    """Return the processes of the platform that would leave a core file."""
    pid = platform.process.pid
    found = []
    for each in {pid, *family(pid)}:
        limits = (PROC / str(each) / "limits").read_text()
        line = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
        if line.split()[4:6] != ["0", "0"]:
            found.append(f"{command(each)}: {line}")
    return found


def test_a_planted_secret_is_found_nowhere(tmp_path: Path) -> None:
    """Done when: no file, log, process table entry and API answer of a running platform has it."""
    with running(tmp_path / "state") as platform:
        day = Day(platform, tmp_path)
        over = threading.Event()
        seen: list[str] = []

        def look_at_processes() -> None:
            """What starts and ends within a moment shows its command line for that moment."""
            while not over.is_set():
                pid = platform.process.pid
                for planted in day.planted:
                    seen.extend(in_processes({pid, *family(pid)}, forms(planted)))

        looking = threading.Thread(target=look_at_processes)
        looking.start()
        try:
            plant(day, tmp_path / "home")
            refuse(day)
            live_through(day)
        finally:
            over.set()
            looking.join()
        day.run("backup", "create", str(tmp_path / "backup.tar"))
        (tmp_path / "world").mkdir()
        assert ask_everything(day, tmp_path / "world") > 20
        assert (tmp_path / "backup.tar").stat().st_size > 1_000
        assert len(day.answers) > 60
        assert not seen
        found = day.leaks(tmp_path / "backup.tar")
        said = {who.partition(": ")[0]: day.answers.get(who.partition(": ")[0]) for who in found}
        assert not found, said
        assert not no_core_files(platform)
        (platform.state / "served" / "leak").write_bytes(
            day.planted[1].core.encode().hex().encode()
        )
        assert day.leaks(), "a search that finds nothing proves nothing"
