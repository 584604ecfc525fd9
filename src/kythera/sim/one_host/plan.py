"""Which machines a fleet on one computer has, and what each is started with. Pure.

Machines are m1, m2 …; sites s1, s2 … in turn. The first machine founds the fleet. Machines of the
founder's site are core before others, for a log's majority is best near to itself.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from kythera.ground.layout import Layout
from kythera.model.errors import SetupError

MACHINES_MAX = 20
CORES_USUAL = 3
FLEET_FILE = "fleet.json"

UP = "up"
DOWN = "down"
HUNG = "hung"
STARTING = "starting"


class MachinePlan(Struct, frozen=True, kw_only=True):
    """One machine to be: its addresses are `HOST:PORT`, port 0 is a free one."""

    name: str
    site: str
    core: bool
    folder: Path
    http: str
    api: str
    mesh: str

    @property
    def layout(self) -> Layout:
        """Return where its files are."""
        return Layout(self.folder)

    @property
    def log(self) -> Path:
        """Return where what it logs is kept."""
        return self.folder.with_name(f"{self.name}.log")


class MachineFact(Struct, frozen=True, kw_only=True):
    """One machine as it is: `life` is up, down, hung or starting."""

    name: str
    site: str
    core: bool
    folder: str
    life: str
    pid: int
    http: str
    api: str


class FleetFile(Struct, frozen=True, kw_only=True):
    """What `fleet.json` in the fleet's folder tells: who is there, and how to reach them."""

    account_id: str
    pid: int
    machines: tuple[MachineFact, ...]

    def ready_event(self) -> dict[str, object]:
        """Return the one event that `--json` prints."""
        shown = ("name", "site", "http", "api", "pid")
        machines = [{key: getattr(each, key) for key in shown} for each in self.machines]
        return {"event": "ready", "machines": machines, "account_id": self.account_id}


def cores_of(machines: int, wanted: int | None) -> int:
    """Return how many machines hold the log. Raises SetupError for a number that cannot be."""
    usual = CORES_USUAL if machines >= CORES_USUAL else 1
    cores = usual if wanted is None else wanted
    if cores not in (1, 3, 5) or cores > machines:
        raise SetupError(
            f"{machines} machines cannot have {cores} core machines.",
            remedy="Choose --cores 1, 3 or 5, not more than --machines.",
        )
    return cores


def plan(
    folder: Path,
    *,
    machines: int,
    sites: int,
    cores: int | None,
    hosts: Sequence[str],
    http_port: int,
    api_port: int,
) -> tuple[MachinePlan, ...]:
    """Return the machines of a fleet in `folder`; machine i listens on `hosts[i]`.

    Raises SetupError for numbers that make no fleet."""
    if not 1 <= machines <= MACHINES_MAX:
        raise SetupError(
            f"a fleet on one computer has 1 to {MACHINES_MAX} machines, not {machines}.",
            remedy="Choose another --machines.",
        )
    if not 1 <= sites <= machines:
        raise SetupError(
            f"{machines} machines cannot be in {sites} sites.",
            remedy="Choose --sites between 1 and --machines.",
        )
    chosen = core_numbers(machines, sites, cores_of(machines, cores))
    return tuple(
        MachinePlan(
            name=f"m{number + 1}",
            site=f"s{number % sites + 1}",
            core=number in chosen,
            folder=folder / f"m{number + 1}",
            http=f"{hosts[number]}:{http_port}",
            api=f"{hosts[number]}:{api_port}",
            mesh=f"{hosts[number]}:0",
        )
        for number in range(machines)
    )


def core_numbers(machines: int, sites: int, cores: int) -> set[int]:
    """Return which machines are core: those of the founder's site first."""
    return set(sorted(range(machines), key=lambda number: (number % sites, number))[:cores])


def up_command(machine: MachinePlan, token: str, more: Sequence[str]) -> list[str]:
    """Return the command that starts a machine; `token` is empty for the founder and members."""
    return [
        *(sys.executable, "-m", "kythera.cli", "up", "--json"),
        *("--state", str(machine.folder)),
        *("--machine", machine.name, "--site", machine.site),
        *("--http", machine.http, "--api", machine.api, "--mesh", machine.mesh),
        *(("--join", token) if token else ()),
        *more,
    ]
