"""What a cell is given to reach the outside with: a way to the machine's egress cell, and a token.

Pure. The token says in whose name the cell asks and what its worker may reach, signed with the
machine's egress key: the egress cell believes nothing else. It is outside the worker's own isolate,
so the worker cannot read, change or leave it out. A worker whose egress is `none` gets neither.
"""

import base64
import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from kythera.model.limits import Limits
from kythera.model.records import Version
from kythera.run.prelude import source

WHO_HEADER = "X-Kythera-Egress"
CONNECT_HEADER = "X-Kythera-Connect"
NOTHING = "internet"
"""A service of this name is there in any case; unless it is told otherwise it reaches everything."""
OUTBOUND, EGRESS, TUNNELS = "outbound", "egress", "tunnels"
OUTBOUND_COMPATIBILITY_DATE = "2026-06-01"

Fields = dict[str, Any]


class Policy(Struct, frozen=True, kw_only=True):
    """In whose name a cell asks, and for what."""

    account: str
    worker: str
    version: str
    egress: str = "public"
    hosts: tuple[str, ...] = ()
    connections: int
    """At the same time, of this worker on this machine."""


@dataclass(frozen=True)
class EgressDoor:
    """Where a machine's egress cell listens, and what it knows its cells by."""

    socket: Path
    key: str
    limits: Limits


def policy_of(version: Version, limits: Limits) -> Policy:
    """Return what a version's cells may reach."""
    asked = version.confinement
    connections = asked.outbound_connections or limits.outbound_connections
    return Policy(
        account=version.account,
        worker=version.worker,
        version=version.id,
        egress=asked.egress,
        hosts=asked.egress_hosts,
        connections=min(connections, limits.outbound_connections_max),
    )


def token_of(policy: Policy, key: str) -> str:
    """Return the policy and its signature, as text without blanks."""
    payload = _text(msgspec.json.encode(policy))
    return f"{payload}.{_text(hmac.digest(key.encode(), payload.encode(), hashlib.sha256))}"


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def nothing() -> Fields:
    """Return the service that reaches nothing: for our own small workers, trials and pulses."""
    return {"name": NOTHING, "network": {"allow": []}}


def outbound_services(version: Version, door: EgressDoor) -> list[Fields]:
    """Return the services behind which a worker's `fetch` and `connect` leave its process."""
    if version.confinement.egress == "none":
        return [{"name": OUTBOUND, "worker": _outbound([])}]
    token = token_of(policy_of(version, door.limits), door.key)
    bindings = [
        {"name": "EGRESS", "service": {"name": EGRESS}},
        {"name": "TUNNELS", "service": {"name": TUNNELS}},
    ]
    return [
        {"name": OUTBOUND, "worker": _outbound(bindings)},
        # Without a value workerd takes the header away: tickets are not for the worker to ask.
        _external(EGRESS, door, {WHO_HEADER: token, CONNECT_HEADER: None}),
        _external(TUNNELS, door, {WHO_HEADER: token, CONNECT_HEADER: "ticket"}),
    ]


def _external(name: str, door: EgressDoor, headers: dict[str, str | None]) -> Fields:
    injected = [
        {"name": header} if value is None else {"name": header, "value": value}
        for header, value in headers.items()
    ]
    http = {"style": "proxy", "injectRequestHeaders": injected}
    return {"name": name, "external": {"address": f"unix:{door.socket}", "http": http}}


def _outbound(bindings: list[Fields]) -> Fields:
    return {
        "modules": [{"name": "outbound.js", "esModule": source("outbound.js")}],
        "compatibilityDate": OUTBOUND_COMPATIBILITY_DATE,
        "bindings": bindings,
        "globalOutbound": {"name": NOTHING},
    }
