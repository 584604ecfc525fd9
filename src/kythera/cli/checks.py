"""What `kythera doctor` looks at: one function for each thing, one verdict each.

A verdict is `ok`, `warn` (works, but less well than it could) or `fail` (does not work), with what
to do. Checks look and never mend. Those of a running platform run only when one runs.
"""

import ctypes
import os
import re
import resource
import shutil
import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anyio

from kythera.cli.client import Client, api_url
from kythera.cli.status import read_status
from kythera.distribute import membership
from kythera.distribute.address import address_at
from kythera.distribute.nats_server import program as nats_program
from kythera.distribute.nats_server import verify
from kythera.distribute.remembered import remembered_core
from kythera.ground.addresses import loopback
from kythera.ground.layout import Layout
from kythera.ground.processes import child
from kythera.model.errors import KytheraError, SetupError
from kythera.model.limits import Limits
from kythera.model.platform import Platform
from kythera.node.isolation import asked
from kythera.run.workerd import ca_available, find_schema, find_workerd, workerd_version

PROGRAM_S = 5.0
CONNECT_S = 2.0
PYTHON_MIN = (3, 11)
HAPROXY_MIN = (2, 6)
NODE_MIN = 20
DESCRIPTORS_WANTED = 65_536
"""A thousand cells and some thousand connections, on both sides of HAProxy."""
DESCRIPTORS_MIN = 4_096
GIB = 1024**3
DISK_WANTED_BYTES = 2 * GIB
DISK_MIN_BYTES = GIB // 4
CLOCK_UNSYNCHRONISED = 0x0040
"""STA_UNSYNC of adjtimex(2)."""
WHOLE_ISOLATION = (
    "bubblewrap, system calls by a list, a uid for each account; the egress cell likewise"
)
OUR_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


@dataclass(frozen=True)
class Verdict:
    """One line of the doctor's report."""

    name: str
    level: Literal["ok", "warn", "fail"]
    text: str
    remedy: str = ""


def ok(name: str, text: str) -> Verdict:
    """Say that something is as it should be."""
    return Verdict(name, "ok", text)


def python() -> Verdict:
    """Python is new enough."""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= PYTHON_MIN:
        return ok("python", found)
    return Verdict("python", "fail", f"{found} is too old.", "Install Python 3.11 or newer.")


async def ask_program(argv: list[str]) -> str | None:
    """Return what a program prints; None when it cannot be run or does not end."""
    try:
        with anyio.fail_after(PROGRAM_S):
            async with child(argv) as process:
                output = await process.read_output()
                return output.stdout.decode(errors="replace") if not await process.wait() else None
    except (OSError, TimeoutError, SetupError):
        return None


def version_in(text: str) -> tuple[int, ...]:
    """Return the first dotted number in a text, such as (2, 6, 12). Pure."""
    found = re.search(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?", text)
    return tuple(int(part) for part in found.groups() if part) if found else ()


async def node() -> Verdict:
    """Node is there for wrangler; the platform itself needs none."""
    path = shutil.which("node")
    version = version_in(await ask_program([path, "--version"]) or "") if path else ()
    if version and version[0] >= NODE_MIN:
        return ok("node", ".".join(map(str, version)))
    return Verdict(
        "node",
        "warn",
        f"{'.'.join(map(str, version))} is too old for wrangler." if version else "not found.",
        "Install Node.js 20 or newer to use wrangler; `kythera deploy` works without.",
    )


async def workerd() -> Verdict:
    """The engine is there and runs on this machine."""
    try:
        binary = find_workerd()
        find_schema()
    except SetupError as error:
        return Verdict("workerd", "fail", error.message, error.remedy)
    version = await workerd_version(binary)
    if version:
        return ok("workerd", version)
    return Verdict(
        "workerd",
        "fail",
        f"{binary} does not run here.",
        "Run it by hand with --version; on a Raspberry Pi use a kernel with 48-bit addresses.",
    )


async def haproxy() -> Verdict:
    """The front door is installed and new enough."""
    path = shutil.which("haproxy", path=OUR_PATH)
    version = version_in(await ask_program([path, "-v"]) or "") if path else ()
    if version >= HAPROXY_MIN:
        return ok("haproxy", ".".join(map(str, version)))
    text = f"{'.'.join(map(str, version))} is too old (2.6)." if version else "not installed."
    return Verdict("haproxy", "fail", text, "Install it: apt-get install haproxy")


async def nats_server() -> Verdict:
    """The log's server is installed."""
    try:
        found = await ask_program([str(nats_program()), "--version"])
    except SetupError as error:
        return Verdict("nats-server", "fail", error.message, error.remedy)
    if found:
        return ok("nats-server", ".".join(map(str, version_in(found))))
    return Verdict("nats-server", "fail", "it does not run.", "Install it again: make setup")


def descriptors() -> Verdict:
    """Enough files may be open at once."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = hard if hard != resource.RLIM_INFINITY else sys.maxsize
    remedy = f"Raise it: ulimit -Hn {DESCRIPTORS_WANTED}, or LimitNOFILE= in the systemd unit."
    if count < DESCRIPTORS_WANTED:
        level: Literal["warn", "fail"] = "fail" if count < DESCRIPTORS_MIN else "warn"
        return Verdict("open files", level, f"at most {count} may be open.", remedy)
    return ok("open files", f"at most {count}")


def disk(layout: Layout) -> Verdict:
    """There is room for versions and for the log."""
    folder = layout.state.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    text = f"{free / GIB:.1f} GiB free for {layout.state}"
    if free >= DISK_WANTED_BYTES:
        return ok("disk", text)
    level: Literal["warn", "fail"] = "fail" if free < DISK_MIN_BYTES else "warn"
    return Verdict("disk", level, text + ".", "Make room, or choose another --state.")


def clock() -> Verdict:
    """The kernel's clock is kept by somebody: versions and secrets carry times."""
    buffer = (ctypes.c_long * 64)()  # struct timex, and more than enough of it
    if ctypes.CDLL(None).adjtimex(buffer) < 0:
        return Verdict("clock", "warn", "the kernel does not tell.", "Nothing, in a container.")
    if ctypes.cast(buffer, ctypes.POINTER(ctypes.c_int))[10] & CLOCK_UNSYNCHRONISED:
        return Verdict(
            "clock", "warn", "nobody synchronises it.", "Run chrony or systemd-timesyncd."
        )
    return ok("clock", "synchronised")


def certificates() -> Verdict:
    """Workers can check the certificates of those they fetch from."""
    if ca_available():
        return ok("CA certificates", "found")
    return Verdict(
        "CA certificates",
        "warn",
        "none: a worker's fetch of https:// addresses fails.",
        "Install them: apt-get install ca-certificates",
    )


def isolation() -> Verdict:
    """Say plainly what stands between two workers, and between a worker and this machine; tried
    with a real cell, as each start of the platform tries it."""
    with tempfile.TemporaryDirectory(prefix="kythera-doctor-") as folder:
        found = asked(Path(folder, "seccomp.bpf"), Limits())
    if not found.weaker:
        return ok("isolation", WHOLE_ISOLATION)
    return Verdict(
        "isolation",
        "warn",
        "; ".join(sentence.rstrip(".") for sentence in found.weaker) + ".",
        "Until that is mended, deploy only code that you trust with this machine "
        "(--require-isolation strict refuses to start without).",
    )


def private_files(layout: Layout) -> Verdict:
    """Token and key are for their owner alone."""
    found = [path for path in (layout.token, layout.secrets_key) if path.exists()]
    loose = [path.name for path in found if path.stat().st_mode & 0o077]
    if loose:
        names = " and ".join(loose)
        return Verdict("private files", "fail", f"others may read {names}.", f"chmod 600 {names}")
    return ok("private files", "0600")


def ports_free(platform: Platform) -> list[Verdict]:
    """The doors of a platform that is down can be opened again."""
    doors = {"http": platform.http, "https": platform.https, "api": platform.api}
    return [_port_free(door, address) for door, address in doors.items() if address]


def _port_free(door: str, address: str) -> Verdict:
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError as error:
            remedy = f"See who has it: ss -ltnp 'sport = :{port}'; or choose --{door} HOST:PORT."
            return Verdict(f"port {door}", "fail", f"{address}: {error.strerror}.", remedy)
    return ok(f"port {door}", f"{address} is free")


def api(platform: Platform, client: Client) -> Verdict:
    """The API answers, to our token."""
    try:
        client.call("GET", "/workers/scripts")
    except KytheraError as error:
        return Verdict("api", "fail", error.message, error.remedy)
    return ok("api", api_url(platform))


def front(platform: Platform) -> Verdict:
    """Somebody accepts connections at the front door."""
    host, _, port = loopback(platform.http).rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        remedy = "The log of `kythera up` says why HAProxy does not run."
        return Verdict("front", "fail", f"{platform.http}: {error.strerror or error}.", remedy)
    return ok("front", f"http://{loopback(platform.http)}")


async def log(layout: Layout) -> Verdict:
    """The log writes to the disk before it acknowledges."""
    address = address_at(layout.log_address)
    if address is None:
        member, moved = membership.read(layout), remembered_core(layout)
        if moved is not None or (member is not None and not member.founder):
            return ok("log", "held by other machines")
        return Verdict("log", "fail", "it has no address.", "The log of `kythera up` says why.")
    try:
        await verify(address)
    except KytheraError as error:
        return Verdict("log", "fail", error.message, error.remedy)
    return ok("log", "sync_interval: always")


def cells(layout: Layout) -> Verdict:
    """The agent answers, and no cell has given up."""
    try:
        found = read_status(layout)["cells"]
    except KytheraError as error:
        return Verdict("cells", "fail", error.message, error.remedy)
    failed = sorted({cell["worker"] for cell in found if cell["state"] == "failed"})
    if failed:
        remedy = f"See why: kythera tail {failed[0]}, and the log of `kythera up`."
        return Verdict("cells", "fail", f"do not start: {', '.join(failed)}.", remedy)
    return ok("cells", f"{len(found)}, none failed")


def paths(layout: Layout) -> Verdict:
    """Say where this platform's files are; long paths move the sockets elsewhere."""
    moved = layout.run.parent != layout.state.resolve()
    return ok("state", f"{layout.state}" + (f" (sockets in {layout.run})" if moved else ""))
