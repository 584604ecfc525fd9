"""The machine's egress cell: which addresses it refuses, and its configuration.

Pure. Promises that what is not public is refused unless the operator's own blocks say otherwise, that
each refused block has a reason with a name, and that this machine's own addresses are reached at
the ports of its front door alone: its firewall does not stand between it and itself.
"""

import ipaddress
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kythera.model.errors import SetupError
from kythera.model.limits import Limits
from kythera.run.config import OWN_COMPATIBILITY_DATE, encode
from kythera.run.outbound import NOTHING, nothing
from kythera.run.prelude import source

Block = ipaddress.IPv4Network | ipaddress.IPv6Network
PUBLIC = "public"
COUNTERS = "counters"
"""The socket (and the entrypoint) on which the agent asks what was counted."""
DOOR = "http"
WORDS = {
    "loopback": "this machine itself",
    "private": "a private address",
    "link_local": "a link-local address",
    "metadata": "where clouds keep a machine's secrets",
    "shared": "an address of a provider's own network",
    "multicast": "a multicast address",
    "reserved": "reserved and belongs to nobody",
    "embedded": "an IPv6 form of an IPv4 address",
    "own": "an address of this machine",
}
"""Reasons, and how they are told. The first block that holds an address names it."""
FORBIDDEN: tuple[tuple[str, str], ...] = (
    ("169.254.169.254/32", "metadata"),
    ("169.254.170.2/32", "metadata"),
    ("100.100.100.200/32", "metadata"),
    ("fd00:ec2::254/128", "metadata"),
    ("fd20:ce::254/128", "metadata"),
    ("0.0.0.0/8", "loopback"),
    ("127.0.0.0/8", "loopback"),
    ("10.0.0.0/8", "private"),
    ("172.16.0.0/12", "private"),
    ("192.168.0.0/16", "private"),
    ("100.64.0.0/10", "shared"),
    ("169.254.0.0/16", "link_local"),
    ("192.0.0.0/24", "reserved"),
    ("192.0.2.0/24", "reserved"),
    ("192.88.99.0/24", "reserved"),
    ("198.18.0.0/15", "reserved"),
    ("198.51.100.0/24", "reserved"),
    ("203.0.113.0/24", "reserved"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
    ("::/128", "loopback"),
    ("::1/128", "loopback"),
    ("::ffff:0:0/96", "embedded"),
    ("::/96", "embedded"),
    ("::ffff:0:0:0/96", "embedded"),
    ("64:ff9b::/96", "embedded"),
    ("64:ff9b:1::/48", "embedded"),
    ("2002::/16", "embedded"),
    ("2001::/32", "embedded"),
    ("2001::/23", "reserved"),
    ("2001:db8::/32", "reserved"),
    ("3fff::/20", "reserved"),
    ("fc00::/7", "private"),
    ("fe80::/10", "link_local"),
    ("fec0::/10", "private"),
    ("ff00::/8", "multicast"),
    ("::/3", "reserved"),
    ("4000::/2", "reserved"),
    ("8000::/1", "reserved"),
)


@dataclass(frozen=True)
class EgressSettings:
    """What a machine's egress cell is made of."""

    key: str
    allow: tuple[str, ...] = (PUBLIC,)
    """`public`, and the operator's own blocks."""
    own: tuple[str, ...] = ()
    """This machine's own addresses."""
    door_ports: tuple[int, ...] = ()
    """Where its front door listens: reached at its own addresses too."""
    ca_available: bool = True
    limits: Limits = Limits()


def blocks(allow: Iterable[str]) -> list[Block]:
    """Return the operator's own blocks. Raises SetupError for what is none."""
    found: list[Block] = []
    for text in allow:
        if text == PUBLIC:
            continue
        try:
            found.append(ipaddress.ip_network(text))
        except ValueError:
            raise SetupError(
                f"--egress-allow {text!r} is not a block of addresses.",
                remedy="Write it as 10.1.0.0/16, 10.1.2.3 or fd00:1::/64.",
            ) from None
    return found


def _without(block: Block, allowed: Sequence[Block]) -> list[Block]:
    """Return what is left of a block when the allowed ones are taken out of it."""
    left = [block]
    for taken in allowed:
        if taken.version != block.version:
            continue
        rest: list[Block] = []
        for part in left:
            if part.subnet_of(taken):  # type: ignore[arg-type]
                continue
            if taken.subnet_of(part):  # type: ignore[arg-type]
                rest += part.address_exclude(taken)  # type: ignore[arg-type]
            else:
                rest.append(part)
        left = rest
    return left


def forbidden(allow: Iterable[str] = (PUBLIC,)) -> list[tuple[Block, str]]:
    """Return the refused blocks and their reasons, without what the operator allows."""
    allowed = blocks(allow)
    return [
        (part, reason)
        for text, reason in FORBIDDEN
        for part in _without(ipaddress.ip_network(text), allowed)
    ]


def egress_config(settings: EgressSettings) -> bytes:
    """Return the configuration of the machine's egress cell. Raises SetupError."""
    own = [
        (part, "own")
        for address in settings.own
        for part in _without(ipaddress.ip_network(address), blocks(settings.allow))
    ]
    refused = forbidden(settings.allow)
    bindings = [
        {"name": "KEY", "text": settings.key},
        {"name": "RULES", "json": _rules(refused, own, settings.door_ports)},
        {"name": "LIMITS", "json": json.dumps(_limits(settings.limits))},
        {"name": "INTERNET", "service": {"name": "internet"}},
        {"name": "DOORS", "service": {"name": "doors"}},
    ]
    worker = {
        "modules": [{"name": "egress.js", "esModule": source("egress.js")}],
        "compatibilityDate": OWN_COMPATIBILITY_DATE,
        "compatibilityFlags": ["nodejs_compat", "enable_request_signal"],
        "bindings": bindings,
        "globalOutbound": {"name": NOTHING},
    }
    services = [
        nothing(),
        _network("internet", settings, [*own, *refused]),
        _network("doors", settings, refused),
        {"name": "egress", "worker": worker},
    ]
    sockets = [
        {"name": DOOR, "http": {"style": "proxy"}, "service": {"name": "egress"}},
        {"name": COUNTERS, "http": {}, "service": {"name": "egress", "entrypoint": COUNTERS}},
    ]
    return encode({"services": services, "sockets": sockets})


def _network(
    name: str, settings: EgressSettings, refused: Sequence[tuple[Block, str]]
) -> dict[str, Any]:
    network: dict[str, Any] = {
        "allow": list(settings.allow),
        "deny": [str(block) for block, _ in refused],
    }
    if settings.ca_available:
        network["tlsOptions"] = {"trustBrowserCas": True}
    return {"name": name, "network": network}


def _rules(
    refused: Sequence[tuple[Block, str]], own: Sequence[tuple[Block, str]], ports: Sequence[int]
) -> str:
    def told(found: Sequence[tuple[Block, str]]) -> list[dict[str, Any]]:
        return [
            {
                "bits": block.max_prefixlen,
                "length": block.prefixlen,
                "value": str(int(block.network_address)),
                "reason": reason,
                "words": WORDS[reason],
            }
            for block, reason in found
        ]

    return json.dumps({"forbidden": told(refused), "own": told(own), "ports": list(ports)})


def _limits(limits: Limits) -> dict[str, int]:
    return {
        "head_ms": limits.egress_head_ms,
        "idle_ms": limits.egress_idle_ms,
        "tunnel_idle_ms": limits.egress_tunnel_idle_ms,
        "wait_ms": limits.egress_wait_ms,
        "waiting": limits.egress_waiting_max,
        "total": limits.egress_connections_max,
    }
