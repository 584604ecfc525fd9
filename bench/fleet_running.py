"""A whole fleet for one measurement: `kythera fleet up --json` on free ports, its machines' doors,
and orders to it; stopped again whatever happens."""

import json
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.abc
import anyio.to_thread
import httpx

from bench.client import Address, Broken, fetch
from kythera.ground.layout import Layout
from kythera.sim.one_host.control import send_order
from kythera.sim.one_host.orders import Order

READY_S = 180.0
STOP_S = 60.0
API_S = 120.0
COMMAND_S = 60.0
POLL_S = 0.02
HEALTH = "/.kythera/health"


@dataclass
class Member:
    """One machine of the fleet."""

    name: str
    site: str
    front: Address
    api_url: str
    state: Path
    token: str

    def api(self) -> httpx.AsyncClient:
        """Return a client of this machine's API."""
        return httpx.AsyncClient(
            base_url=f"{self.api_url}/workers/scripts/",
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=API_S,
            trust_env=False,
        )

    async def serves(self, host: str, expect: bytes) -> bool:
        """Tell whether this machine answers for a host with a text that holds `expect`."""
        try:
            answer = await fetch(self.front, host)
        except Broken:
            return False
        return answer.status == 200 and expect in answer.body

    async def healthy(self) -> bool:
        """Tell whether this machine says that traffic may come."""
        try:
            return (await fetch(self.front, "health.localhost", HEALTH)).status == 200
        except Broken:
            return False


@dataclass
class RunningFleet:
    """A fleet and its machines, by name."""

    folder: Path
    process: anyio.abc.Process
    members: dict[str, Member] = field(default_factory=dict)
    started_s: float = 0.0

    @property
    def all(self) -> list[Member]:
        """Return the machines in the order of their names."""
        return list(self.members.values())

    async def order(self, do: str, a: str = "", b: str = "", **more: Any) -> dict[str, Any]:
        """Give an order as `kythera fleet` would."""
        return await anyio.to_thread.run_sync(
            send_order, self.folder, Order(do=do, a=a, b=b, **more)
        )

    def moved(self, shown: dict[str, Any]) -> None:
        """Take the addresses that machines have now, as an order's answer tells them."""
        for told in shown["machines"]:
            account = self.members[told["name"]].api_url.rpartition("/")[2]
            self.members[told["name"]].__dict__.update(_member(self.folder, told, account).__dict__)

    async def kythera(self, *words: str, asked: str = "m1") -> str:
        """Run a command against one machine; return what it printed."""
        command = [sys.executable, "-m", "kythera.cli", *words]
        command += ["--state", str(self.members[asked].state)]
        with anyio.fail_after(COMMAND_S):
            done = await anyio.run_process(command, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr.decode()[-2000:]}")
        return done.stdout.decode()

    async def served_everywhere(self, host: str, expect: bytes, *, within_s: float = 20) -> None:
        """Wait until every machine answers so."""
        with anyio.fail_after(within_s):
            for member in self.all:
                while not await member.serves(host, expect):
                    await anyio.sleep(POLL_S)

    async def until_healthy(self, name: str, *, within_s: float = 60) -> None:
        """Wait until a machine wants traffic."""
        with anyio.fail_after(within_s):
            while not await self.members[name].healthy():
                await anyio.sleep(POLL_S)

    def tail(self) -> str:
        """Return the end of what the fleet logged."""
        return (self.folder.parent / "fleet.log").read_text(errors="replace")[-4000:]


def _member(folder: Path, told: dict[str, Any], account: str) -> Member:
    url = urlsplit(told["http"])
    assert url.hostname is not None
    assert url.port is not None
    state = folder / told["name"]
    return Member(
        name=told["name"],
        site=told["site"],
        front=(url.hostname, url.port),
        api_url=f"{told['api']}/accounts/{account}",
        state=state,
        token=Layout(state).token.read_text().strip(),
    )


@asynccontextmanager
async def fleet(machines: int, sites: int, *options: str) -> AsyncIterator[RunningFleet]:
    """Run a fleet of our own; `options` are more of `kythera fleet up`'s."""
    with tempfile.TemporaryDirectory(prefix="kythera-bench-") as parent:
        folder = Path(parent) / "fleet"
        began = time.monotonic()
        command = [
            *(sys.executable, "-m", "kythera.cli", "fleet", "up", "--json"),
            *("--state", str(folder), "--machines", str(machines), "--sites", str(sites)),
            *("--http", "0", "--api", "0", *options),
        ]
        with (Path(parent) / "fleet.log").open("ab") as log:
            process = await anyio.open_process(command, stderr=log)
        running = RunningFleet(folder, process)
        try:
            ready = await _ready(running)
            account = ready["account_id"]
            for told in ready["machines"]:
                running.members[told["name"]] = _member(folder, told, account)
            running.started_s = time.monotonic() - began
            yield running
        finally:
            with anyio.CancelScope(shield=True):
                await _stop(process)


async def _ready(running: RunningFleet) -> dict[str, Any]:
    assert running.process.stdout is not None
    line = b""
    with anyio.fail_after(READY_S):
        while b"\n" not in line:
            try:
                line += await running.process.stdout.receive()
            except anyio.EndOfStream:
                raise RuntimeError(f"the fleet ended early:\n{running.tail()}") from None
    found: dict[str, Any] = json.loads(line)
    return found


async def _stop(process: anyio.abc.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    with anyio.move_on_after(STOP_S):
        await process.wait()
    if process.returncode is None:
        process.kill()
    await process.aclose()
