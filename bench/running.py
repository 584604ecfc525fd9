"""A platform for one measurement: started by `kythera up --json`, deployed to over its API, looked
at through its status and /proc, and stopped again whatever happens."""

import json
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.abc
import httpx

from bench.client import Address, fetch
from kythera.ground.layout import Layout
from kythera.ground.meters import private_bytes

READY_S = 60.0
STOP_S = 30.0
API_S = 120.0
POLL_S = 0.02
ROLES = {
    "agent": b"kythera.node.agent",
    "api": b"kythera.control.server",
    "haproxy": b"haproxy",
    "nats": b"nats-server",
    "workerd": b"workerd",
}


@dataclass
class Running:
    """One platform; `ready` is its first line, `started_s` how long it took to say it."""

    state: Path
    options: tuple[str, ...]
    process: anyio.abc.Process | None = None
    ready: dict[str, Any] = field(default_factory=dict)
    started_s: float = 0.0

    # -- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start it and wait for the event `ready`."""
        began = time.monotonic()
        command = [
            *(sys.executable, "-m", "kythera.cli", "up", "--json", "--state", str(self.state)),
            *("--http", "127.0.0.1:0", "--api", "127.0.0.1:0", "--domain", "localhost"),
            *self.options,
        ]
        with (self.state.parent / "platform.log").open("ab") as log:
            self.process = await anyio.open_process(command, stderr=log)
        with anyio.fail_after(READY_S):
            self.ready = json.loads(await self._first_line())
        self.started_s = time.monotonic() - began

    async def _first_line(self) -> bytes:
        assert self.process is not None
        assert self.process.stdout is not None
        line = b""
        while b"\n" not in line:
            try:
                line += await self.process.stdout.receive()
            except anyio.EndOfStream:
                raise RuntimeError(f"kythera up ended early:\n{self.log_tail()}") from None
        return line.partition(b"\n")[0]

    async def stop(self) -> float:
        """Stop it as Ctrl-C does; return the seconds that took."""
        if self.process is None:
            return 0.0
        began = time.monotonic()
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        with anyio.move_on_after(STOP_S, shield=True):
            await self.process.wait()
        if self.process.returncode is None:
            self.process.kill()
        await self.process.aclose()
        self.process = None
        return time.monotonic() - began

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines it logged."""
        log = (self.state.parent / "platform.log").read_text(errors="replace")
        return "\n".join(log.splitlines()[-lines:])

    # -- use -----------------------------------------------------------------------------------

    @property
    def front(self) -> Address:
        """Where HAProxy listens."""
        url = urlsplit(self.ready["http"])
        assert url.hostname is not None
        assert url.port is not None
        return url.hostname, url.port

    def host(self, worker: str) -> str:
        """Return a worker's hostname."""
        return f"{worker}.{self.ready['domain']}"

    @property
    def scripts(self) -> str:
        """Where the API has its workers."""
        return f"{self.ready['api']}/accounts/{self.ready['account_id']}/workers/scripts/"

    def api(self) -> httpx.AsyncClient:
        """Return a client of the API, with the token."""
        token = Layout(self.state).token.read_text().strip()
        return httpx.AsyncClient(
            base_url=self.scripts,
            headers={"Authorization": f"Bearer {token}"},
            timeout=API_S,
            trust_env=False,
        )

    async def served(self, worker: str, *, within_s: float = 30.0, expect: bytes = b"") -> float:
        """Ask until the worker answers 200 (and `expect`); return the seconds that took."""
        began = time.monotonic()
        with anyio.fail_after(within_s):
            while True:
                answer = await fetch(self.front, self.host(worker))
                if answer.status == 200 and expect in answer.body:
                    return time.monotonic() - began
                await anyio.sleep(POLL_S)

    # -- looks ---------------------------------------------------------------------------------

    async def status(self) -> dict[str, Any]:
        """Return what `kythera status --json` prints, straight from the agent."""
        async with await anyio.connect_unix(Layout(self.state).status_socket) as stream:
            pieces = [piece async for piece in stream]
        answer: dict[str, Any] = json.loads(b"".join(pieces))
        return answer

    async def cells(self, worker: str | None = None) -> list[dict[str, Any]]:
        """Return the live versions' cells, of one worker or of all."""
        cells = (await self.status())["cells"]
        return [cell for cell in cells if worker is None or cell["worker"] == worker]

    async def pids(self, worker: str) -> list[int]:
        """Return the processes of a worker's cells."""
        return [pid for cell in await self.cells(worker) for pid in cell["pids"]]

    async def until_idle(self, *, within_s: float) -> None:
        """Wait until no cell has a process."""
        with anyio.fail_after(within_s):
            while True:
                if all(cell["state"] == "idle" for cell in await self.cells()):
                    return
                await anyio.sleep(0.2)

    def processes(self, role: str) -> list[int]:
        """Return the pids below the keeper whose program is `role`."""
        assert self.process is not None
        return [pid for pid in descendants(self.process.pid) if _plays(pid, ROLES[role])]

    def memory_mib(self, role: str) -> float:
        """Return the private memory of all processes of a role."""
        return sum(private_bytes(pid) for pid in self.processes(role)) / 2**20


def _plays(pid: int, mark: bytes) -> bool:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    program = arguments[0].rpartition(b"/")[2]
    return program == mark or (program.startswith(b"python") and mark in arguments)


def descendants(root: int) -> list[int]:
    """Return all processes below `root`."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                stat = (entry / "stat").read_bytes()
            except OSError:
                continue
            parent = int(stat[stat.rindex(b")") + 2 :].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found, queue = [], [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


@asynccontextmanager
async def platform(*options: str) -> AsyncIterator[Running]:
    """Run a platform of our own; `options` are more of `kythera up`'s."""
    with tempfile.TemporaryDirectory(prefix="kythera-bench-") as folder:
        running = Running(Path(folder) / "state", options)
        try:
            await running.start()
            yield running
        finally:
            with anyio.CancelScope(shield=True):
                await running.stop()


async def deploy(api: httpx.AsyncClient, worker: str, source: str, **more: Any) -> None:
    """Upload a worker of one module and let it serve everything, as a first `deploy` does; `more`
    is said beside the code."""
    metadata = {"main_module": "index.js", "compatibility_date": "2026-04-01", **more}
    answer = await api.put(
        worker,
        files={
            "metadata": (None, json.dumps(metadata).encode()),
            "index.js": ("index.js", source.encode(), "application/javascript+module"),
        },
    )
    if not answer.is_success:
        raise RuntimeError(f"deploying {worker}: {answer.status_code} {answer.text[:500]}")


async def deploy_many(
    running: Running, sources: Sequence[tuple[str, str]], *, at_once: int
) -> float:
    """Deploy many workers, a few at a time; return deploys a second."""
    began = time.monotonic()
    queue = iter(sources)
    async with running.api() as api, anyio.create_task_group() as tasks:

        async def one_after_the_other() -> None:
            for worker, source in queue:
                await deploy(api, worker, source)

        for _ in range(at_once):
            tasks.start_soon(one_after_the_other)
    return len(sources) / (time.monotonic() - began)
