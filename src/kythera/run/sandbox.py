"""How a cell's process is shut in: bubblewrap's command line, its uid, its rlimits. Pure.

Promises of a host that can do all of it: no network, no files but workerd, its libraries and what
is named here (read-only), a small folder for temporary files, no capabilities, namespaces of its
own (user, pid, ipc, uts, net, cgroup), an unprivileged uid that differs by account, no new
privileges, the system calls of `seccomp.py` alone. Descriptors: those that it is given by number.
What a host cannot do is said in `Isolation.weaker`. Source: bwrap(1), and measured.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kythera.ground import families
from kythera.ground.forking import STAGE
from kythera.model.limits import MIB, Limits
from kythera.model.platform import Isolation
from kythera.model.records import Version
from kythera.run.seccomp import writing
from kythera.run.workerd import CA_FILES

PROGRAM = "/bin/workerd"
ASSETS = Path("/assets")
TAIL_SOCKET = Path("/run/tail.sock")
EGRESS_SOCKET = Path("/run/egress.sock")
"""The one way out."""
OBJECTS_FOLDER = Path("/run/objects")
"""Of other workers' objects and its own, a socket for each worker that the version has a binding to."""
OBJECTS_STORAGE = Path("/objects")
"""What an object cell alone has: where its objects keep their data, and the one place it may write."""
STORES_FOLDER = Path("/run/stores")
"""Of the machine's stores, a socket for each that the version has a binding to."""
CALLING = ("service", "dispatch_namespace")
"""Bindings behind which a worker of ours stands that calls others."""
NAMES_AND_AUTHORITIES = (
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    *CA_FILES,
)
"""What the egress cell reads beside its libraries: how names are looked up, and whom TLS trusts."""
UID_FIRST = 1_879_048_192
"""Above all that Debian and systemd give to people, services and containers
(systemd's UIDS-GIDS document: unused up to 2147352575),"""
UIDS = 200_000_000
"""and so many that two accounts hardly share one."""
INSIDE_UID = "65534"
CORES = "/sys/devices/system/cpu/possible"
"""Without it workerd's allocator keeps no cache for each core, which costs a tenth of a hello."""
DATA_SPARE_BYTES = 160 * MIB
"""Beside what a worker may have: what workerd itself allocates for requests, and V8 only gives back
when it collects. A hello under full load takes 60 to 110 MiB of it, more with a larger heap."""


@dataclass(frozen=True)
class Confined:
    """A command in its sandbox, as whoever spawns it takes it."""

    argv: list[str]
    uid: int | None = None
    stage: Mapping[str, str] = field(default_factory=dict)
    rlimits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ShutIn:
    """What is to be shut in."""

    program: Path
    arguments: Sequence[str]
    account: str
    memory_mib: int
    folders: Mapping[Path, Path] = field(default_factory=dict)
    """Where it sees them → where they are: files, folders and sockets."""
    writable: Mapping[Path, Path] = field(default_factory=dict)
    """The same, of folders that it may change: a store's, or that of a worker's objects."""
    file_bytes_max: int = 0
    """Of one file there; 0: as of temporary ones."""
    outward: bool = False
    """Has the host's network, and the system calls for it: the egress cell alone."""


def memory_mib(version: Version | None, limits: Limits) -> int:
    """Return the megabytes of a version's heap; 0: as much as V8 takes."""
    asked = 0 if version is None else version.confinement.memory_mib
    return min(asked or limits.heap_mib_max, limits.memory_mib_max)


def room_mib(version: Version | None, limits: Limits) -> int:
    """Return what a process's bounds are counted from: its heap, and half of one more where a worker
    of ours stands behind its service bindings, with a heap of its own."""
    heap = memory_mib(version, limits)
    calls = version is not None and any(b.type in CALLING for b in version.bindings)
    return heap + heap // 2 if calls else heap


def uid_of(account: str) -> int:
    """Return the uid of an account's cells: the same on all machines, and nobody else's."""
    digest = hashlib.sha256(account.encode()).digest()
    return UID_FIRST + int.from_bytes(digest[:8]) % UIDS


def confine(
    cell: ShutIn,
    isolation: Isolation,
    limits: Limits,
    *,
    info: str = "{info}",
    seccomp: str = "{file:%s}",
) -> Confined:
    """Return the command to spawn. `info` and `seccomp` are descriptors, or placeholders of the
    keeper's; without bubblewrap the command runs bare, under its rlimits alone."""
    rlimits = _rlimits(cell, isolation, limits)
    if not isolation.bubblewrap:
        return Confined([str(cell.program), *cell.arguments], rlimits=rlimits)
    seen = {**cell.folders, **cell.writable}
    sources = {PROGRAM: str(cell.program), **{str(k): str(v) for k, v in seen.items()}}
    stage = {inside.strip("/").replace("/", "-"): path for inside, path in sources.items()}
    if isolation.uids:
        places = dict(zip(sources, (f"{STAGE}/{name}" for name in stage), strict=True))
    else:
        places, stage = sources, {}
    network = ["--share-net"] if cell.outward else []
    argv = [isolation.bubblewrap, *_NAMESPACES, *network, "--info-fd", info]
    if isolation.seccomp:
        argv += ["--seccomp", seccomp.replace("%s", _calls(cell, isolation))]
    for library in isolation.libraries:
        argv += ["--ro-bind", library, library]
    argv += ["--size", str(limits.temporary_bytes_max), "--tmpfs", "/tmp"]  # noqa: S108 (inside)
    for inside, place in places.items():
        argv += ["--bind" if Path(inside) in cell.writable else "--ro-bind", place, inside]
    argv += ["--ro-bind-try", CORES, CORES]
    argv += ["--remount-ro", "/", "--chdir", "/", "--", PROGRAM, *cell.arguments]
    return Confined(argv, uid_of(cell.account) if isolation.uids else None, stage, rlimits)


def _calls(cell: ShutIn, isolation: Isolation) -> str:
    """Return where the filter of its system calls is."""
    if cell.outward:
        return isolation.seccomp_outward
    return writing(isolation.seccomp) if cell.writable else isolation.seccomp


_NAMESPACES = (
    "--unshare-all",
    "--as-pid-1",  # so that SIGTERM reaches workerd itself, which drains
    "--die-with-parent",
    *("--uid", INSIDE_UID),
    *("--gid", INSIDE_UID),
    *("--hostname", "cell"),
    *("--setenv", families.MARK, families.PLACE),
    *("--cap-drop", "ALL"),
)


def data_bytes_max(memory_mib: int, idle_bytes: int) -> int:
    """Return the RLIMIT_DATA of a cell: what an idle one has reserved (half a GiB for V8's code),
    its heap, and as much again beside it: ArrayBuffers, wasm, strings on their way in and out."""
    return idle_bytes + 2 * memory_mib * MIB + DATA_SPARE_BYTES


def _rlimits(cell: ShutIn, isolation: Isolation, limits: Limits) -> dict[str, int]:
    found = {
        "RLIMIT_CORE": 0,  # a core file would hold its secrets
        "RLIMIT_FSIZE": max(limits.temporary_bytes_max, cell.file_bytes_max),
    }
    if not cell.outward:  # which has its own bound: so many connections of all workers
        found["RLIMIT_NOFILE"] = limits.open_files_max
    if isolation.data_bytes_idle and cell.memory_mib:
        found["RLIMIT_DATA"] = data_bytes_max(cell.memory_mib, isolation.data_bytes_idle)
    return found
