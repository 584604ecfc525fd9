"""A whole fleet for tests: `kythera fleet up` on free ports in a folder of its own.

Promises: the ready line is awaited until a deadline and the logs are shown when it does not come;
the end is clean, or the test fails: no process and no listening socket is left. Faults go through
the same commands that a person types.
"""

import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from kythera.sim.one_host.control import send_order
from kythera.sim.one_host.orders import Order
from tests.platforms import (
    COMMAND,
    LOG_TAIL_BYTES,
    ROOT,
    Doors,
    clean_environment,
    listening_ports,
    read_ready,
)
from tests.processes import alive, births, family, wait_until

READY_S_MAX = 120.0
STOP_S_MAX = 60.0


@dataclass
class FleetMachine(Doors):
    """One machine of a running fleet; `pid` is its keeper's as of the last order."""

    name: str
    site: str
    pid: int

    def answers(self, worker: str, text: str, path: str = "/") -> bool:
        """Tell whether a worker's answer holds this text now; no answer does not."""
        with suppress(httpx.TransportError):
            return text in self.get(worker, path).text
        return False

    def log(self) -> str:
        """Return the end of what it logged."""
        path = self.state.with_name(f"{self.name}.log")
        return path.read_text(errors="replace")[-LOG_TAIL_BYTES:] if path.exists() else ""


@dataclass
class RunningFleet:
    """A started fleet: its machines, and the faults it may be given."""

    folder: Path
    process: "subprocess.Popen[bytes]"
    log: Path
    account_id: str
    machines: list[FleetMachine] = field(default_factory=list)

    def __getitem__(self, name: str) -> FleetMachine:
        """Return a machine by its name."""
        return next(machine for machine in self.machines if machine.name == name)

    # -- use -----------------------------------------------------------------------------------

    def upload(self, worker: str, code: str, **metadata: Any) -> None:
        """Deploy one module to the first machine."""
        self.machines[0].upload(worker, code, **metadata)

    def wait_for(
        self,
        worker: str,
        text: str,
        *,
        among: Sequence[FleetMachine] = (),
        deadline_s: float = 10,
    ) -> None:
        """Wait until every machine (or those named) answers for a worker with this text."""
        for machine in among or self.machines:
            machine.wait_for(worker, text, deadline_s=deadline_s)

    def status(self) -> dict[str, Any]:
        """Return `kythera status --json` of the whole fleet, from a machine that lives."""
        living = self._lives()
        return next(one for one in self.machines if living[one.name] == "up").status()

    # -- faults --------------------------------------------------------------------------------

    def order(self, do: str, a: str = "", b: str = "", **more: Any) -> dict[str, Any]:
        """Give an order as `kythera fleet` would; return machines and links as they are then."""
        shown = send_order(self.folder, Order(do=do, a=a, b=b, **more))
        for found in shown["machines"]:
            machine = self[found["name"]]
            machine.pid = found["pid"]
            machine.http, machine.api = found["http"], found["api"]
        return shown

    def _lives(self) -> dict[str, str]:
        return {each["name"]: each["life"] for each in self.order("show")["machines"]}

    def cut(self, a: str, b: str, *, one_way: bool = False, silent: bool = False) -> None:
        """Cut the link between two machines, two sites, or one and `all`."""
        self.order("cut", a, b, one_way=one_way, silent=silent)

    def heal(self, a: str = "", b: str = "") -> None:
        """Make one link, or all, healthy."""
        self.order("heal", a, b)

    def slow(self, a: str, b: str, delay_ms: float, *, loss: float = 0.0) -> None:
        """Let everything between two ends come late, each way."""
        self.order("slow", a, b, delay_ms=delay_ms, loss=loss)

    def kill(self, name: str) -> None:
        """End a machine by kill -9 of its keeper."""
        self.order("kill", name)

    def hang(self, name: str) -> None:
        """Stop all processes of a machine where they are."""
        self.order("hang", name)

    def revive(self, name: str) -> None:
        """Let a machine go on, or start it again."""
        self.order("revive", name)

    # -- life ----------------------------------------------------------------------------------

    def tail(self) -> str:
        """Return the ends of all logs, for a message."""
        said = self.log.read_text(errors="replace")[-LOG_TAIL_BYTES:]
        machines = "".join(f"\n--- {one.name}\n{one.log()}" for one in self.machines)
        return f"--- fleet\n{said}{machines}"

    def stop(self) -> None:
        """End the fleet as Ctrl-C would, and see that nothing is left of it."""
        born = births(family(self.process.pid))
        ports = {urlsplit(url).port for one in self.machines for url in (one.http, one.api)}
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            code = self.process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"did not stop within {STOP_S_MAX} s\n{self.tail()}") from None
        finally:
            if self.process.stdout is not None:
                self.process.stdout.close()
        wait_until(lambda: not alive(born), f"processes ended: {alive(born)}", deadline_s=5)
        wait_until(lambda: not ports & listening_ports(), f"nobody listens on {ports}")
        assert code == 0, f"ended with {code}\n{self.tail()}"


def start_fleet(folder: Path, machines: int, sites: int, *options: str) -> RunningFleet:
    """Start a fleet and return it once it says that it is ready."""
    log = folder.with_name(f"{folder.name}.log")
    numbers = ("--machines", str(machines), "--sites", str(sites), "--http", "0", "--api", "0")
    argv = [*COMMAND, "fleet", "up", "--json", "--state", str(folder), *numbers, *options]
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
        ready = read_ready(process, log, READY_S_MAX)
    except BaseException:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        raise
    fleet = RunningFleet(folder, process, log, ready["account_id"])
    fleet.machines = [_machine(folder, each, ready["account_id"]) for each in ready["machines"]]
    return fleet


def _machine(folder: Path, told: dict[str, Any], account_id: str) -> FleetMachine:
    return FleetMachine(
        state=folder / told["name"],
        http=told["http"],
        api=told["api"],
        account_id=account_id,
        domain="localhost",
        name=told["name"],
        site=told["site"],
        pid=told["pid"],
    )


@contextmanager
def running_fleet(
    machines: int, sites: int, *options: str, folder: Path | None = None
) -> Iterator[RunningFleet]:
    """Run a fleet for the length of a `with` block; `options` are `kythera fleet up`'s."""
    with ExitStack() as stack:
        if folder is None:
            made = stack.enter_context(tempfile.TemporaryDirectory(prefix="kythera-fleet-"))
            folder = Path(made) / "fleet"
        fleet = start_fleet(folder, machines, sites, *options)
        try:
            yield fleet
        except BaseException:
            print(fleet.tail())  # noqa: T201  pytest shows it beside the failure
            raise
        finally:
            fleet.stop()
