"""Control groups: what the kernel shares out between accounts, and bounds for one process.

Version 1 (a hierarchy for each controller) and version 2 (one for all), behind one door: `find`.
Promises: a group is made with its bounds before anybody joins it, and removed when it is empty;
`clear` leaves nothing of a platform. Where no controller is to be had `find` says why. Sources:
cgroups(7); the kernel's admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kythera.ground.clock import wait_until

MOUNTS = Path("/proc/self/mountinfo")
WANTED = ("memory", "cpu")
CLEAR_S_MAX = 1.0
"""How long the kernel may need to see that a group is empty."""
WEIGHT_V1, WEIGHT_V2 = 1024, 100
"""The usual share, in each version's own unit."""


@dataclass(frozen=True)
class Group:
    """A group's folders: one for each controller in version 1, one in version 2."""

    memory: Path | None
    cpu: Path | None

    @property
    def folders(self) -> list[str]:
        """Return what a process joins."""
        return sorted({str(path) for path in (self.memory, self.cpu) if path is not None})


@dataclass(frozen=True)
class Groups:
    """Where a platform's groups are. `None`: the controller is not to be had."""

    memory: Path | None
    cpu: Path | None
    version: int = 1

    @property
    def missing(self) -> list[str]:
        """Return the controllers that are not to be had."""
        return [name for name in WANTED if getattr(self, name) is None]

    def make(self, owner: Sequence[str], name: str, memory_bytes_max: int) -> Group:
        """Make the group of one process, below its owner's (account, worker), which share the cores
        alike however many processes each of them runs. Raises OSError."""
        if self.version == 2:
            return self._make_unified(owner, name, memory_bytes_max)
        cpu, memory = self.cpu, self.memory
        if cpu is not None:
            _write(cpu / "cpu.shares", WEIGHT_V1)
            for level in owner:
                cpu = cpu / level
                cpu.mkdir(exist_ok=True)
                _write(cpu / "cpu.shares", WEIGHT_V1)
        if memory is not None:
            memory = memory / name
            memory.mkdir(exist_ok=True)
            if memory_bytes_max:
                _write(memory / "memory.limit_in_bytes", memory_bytes_max)
        return Group(memory, cpu)

    def _make_unified(self, owner: Sequence[str], name: str, memory_bytes_max: int) -> Group:
        group = self.memory or self.cpu
        if group is None:
            return Group(None, None)
        controllers = " ".join(f"+{n}" for n in WANTED if n not in self.missing)
        for level in (*owner, name):
            _write(group / "cgroup.subtree_control", controllers)
            group = group / level
            group.mkdir(exist_ok=True)
            if self.cpu is not None:
                _write(group / "cpu.weight", WEIGHT_V2)
        if self.memory is not None and memory_bytes_max:
            _write(group / "memory.max", memory_bytes_max)
        return Group(group, group)

    def of(self, owner: Sequence[str], name: str) -> Group:
        """Return the group that `make` has made."""
        if self.version == 2:
            base = self.memory or self.cpu
            own = None if base is None else base.joinpath(*owner, name)
            return Group(own, own)
        memory = None if self.memory is None else self.memory / name
        return Group(memory, None if self.cpu is None else self.cpu.joinpath(*owner))

    def was_killed_for_memory(self, group: Group) -> bool:
        """Tell whether the kernel has killed anybody of this group for its memory."""
        if group.memory is None:
            return False
        file = group.memory / ("memory.events" if self.version == 2 else "memory.oom_control")
        with contextlib.suppress(OSError):
            for line in file.read_text(encoding="ascii").splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count) > 0
        return False

    def remove(self, group: Group) -> bool:
        """Remove a process's group, and its owner's where nobody else is in it; False while the
        kernel still counts somebody who has ended as in it."""
        for folder in (group.memory, group.cpu):
            with contextlib.suppress(OSError):
                self._remove_up(folder)
        own = group.memory if self.version == 1 or group.memory is not None else group.cpu
        return own is None or not own.exists()

    def _remove_up(self, folder: Path | None) -> None:
        while folder is not None and folder not in (self.memory, self.cpu):
            folder.rmdir()
            folder = folder.parent

    def clear(self) -> None:
        """Remove all that is left of this platform's groups, the deepest first."""
        wait_until(self._cleared, within_s=CLEAR_S_MAX)

    def _cleared(self) -> bool:
        bases = [base for base in (self.memory, self.cpu) if base is not None]
        for base in bases:
            for folder in _deepest_first(base):
                with contextlib.suppress(OSError):
                    folder.rmdir()
        return not any(base.exists() for base in bases)


def _deepest_first(base: Path) -> Iterator[Path]:
    for folder, _, _ in os.walk(base, topdown=False):
        yield Path(folder)


def _write(path: Path, value: int | str) -> None:
    path.write_text(str(value), encoding="ascii")


def mark_of(state: Path) -> str:
    """Return what a platform's groups are called: by its state folder, so that several can be."""
    return "kythera-" + hashlib.sha256(os.fsencode(state.resolve())).hexdigest()[:12]


def find(mark: str, mounts: Path = MOUNTS) -> Groups:
    """Return where groups of a platform named `mark` can be made: tried by making one."""
    found: dict[str, Path] = {}
    version = 1
    for point, controllers in _hierarchies(mounts):
        unified = controllers is None
        offered = _offered(point) if controllers is None else controllers
        for name in WANTED:
            if name in offered and name not in found and _can_make(point / mark):
                found[name] = point / mark
                version = 2 if unified else 1
    return Groups(found.get("memory"), found.get("cpu"), version)


def _hierarchies(mounts: Path) -> Iterator[tuple[Path, Sequence[str] | None]]:
    """Yield mount points of control groups with their controllers; None for version 2
    (proc(5), mountinfo: the type stands after a lone dash, the controllers at the end)."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        about, _, rest = line.partition(" - ")
        kind, _, options = rest.partition(" ")
        point = Path(about.split()[4])
        if kind == "cgroup":
            yield point, options.split()[-1].split(",")
        elif kind == "cgroup2":
            yield point, None


def _offered(point: Path) -> Sequence[str]:
    """Return what may be switched on below the top of a version 2 hierarchy."""
    with contextlib.suppress(OSError):
        return (point / "cgroup.subtree_control").read_text(encoding="ascii").split()
    return ()


def _can_make(folder: Path) -> bool:
    try:
        folder.mkdir(exist_ok=True)
    except OSError:
        return False
    return os.access(folder / "cgroup.procs", os.W_OK)
