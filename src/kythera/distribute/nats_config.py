"""nats-server's configuration file, as text. Pure.

`sync_interval: always` is the promise that an acknowledged record survives a loss of power. A
clustered server tells nobody its address (`no_advertise`): its peers come through tunnels.
"""

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from kythera.distribute.address import USER, WATCHER
from kythera.model.limits import MIB, Limits

ROUTE_USER = "route"
MEMORY_BYTES_MAX = 64 * MIB
STORE_BYTES_MAX = 4 * 1024 * MIB
PAYLOAD_MARGIN_BYTES = 8 * 1024
"""Headers, and room to grow."""
ROUTE_PING_S, ROUTE_PINGS_MAX = 2, 2
"""A peer that does not answer is dialled anew; nats-server's own two minutes are too long."""
PLAIN_PASSWORD = re.compile(r"[A-Za-z0-9_-]{20,}")


class Cluster(NamedTuple):
    """What a clustered server has more: its cluster's and its own name, where peers reach it, and
    the loopback ports through which it reaches them."""

    name: str
    server: str
    port: int
    peers: tuple[int, ...]


def server_name(store: Path) -> str:
    """Return the name of a server that stands alone (pure): two stores never share one."""
    return f"kythera-{hashlib.sha256(bytes(store)).hexdigest()[:16]}"


def cluster_server_name(machine: str, epoch: int) -> str:
    """Return the name of a machine's server in a cluster (pure)."""
    return f"{machine}-{epoch}"


def server_config(
    *, port: int, store: Path, password: str, limits: Limits, cluster: Cluster | None = None
) -> str:
    """Return nats-server's configuration (pure): loopback, two users, every write synced."""
    assert PLAIN_PASSWORD.fullmatch(password), "a password must need no quoting"
    return "\n".join(
        (
            f'server_name: "{cluster.server if cluster else server_name(store)}"',
            f'listen: "127.0.0.1:{port}"',
            f"max_payload: {limits.record_bytes_max + PAYLOAD_MARGIN_BYTES}",
            "jetstream {",
            f"  store_dir: {_quoted(store)}",
            "  sync_interval: always",
            f"  max_memory_store: {MEMORY_BYTES_MAX}",
            f"  max_file_store: {STORE_BYTES_MAX + limits.kv_log_bytes_max}",
            "}",
            "accounts {",
            f'  RECORDS {{ jetstream: enabled, users: [{{user: "{USER}", password: "{password}"}}] }}',
            f'  SYSTEM {{ users: [{{user: "{WATCHER}", password: "{password}"}}] }}',
            "}",
            "system_account: SYSTEM",
            *(_cluster_config(cluster, password) if cluster else ()),
            "",
        )
    )


def _quoted(path: Path) -> str:
    """nats-server knows bytes by their two hexadecimal digits, and refuses JSON's `u` and four."""
    told = (
        chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else f"\\x{byte:02X}"
        for byte in bytes(path)
    )
    return f'"{"".join(told)}"'


def _cluster_config(cluster: Cluster, password: str) -> tuple[str, ...]:
    routes = (f'"nats://{ROUTE_USER}:{password}@127.0.0.1:{port}"' for port in cluster.peers)
    return (
        "cluster {",
        f'  name: "{cluster.name}"',
        f'  listen: "127.0.0.1:{cluster.port}"',
        "  no_advertise: true",
        f'  ping_interval: "{ROUTE_PING_S}s"',
        f"  ping_max: {ROUTE_PINGS_MAX}",
        f'  authorization {{ user: "{ROUTE_USER}", password: "{password}", timeout: 10 }}',
        f"  routes: [{', '.join(routes)}]",
        "}",
    )
