"""The configuration of the machine's egress cell.

Pure. Promises that what `run/addresses.py` refuses is refused by the network that workerd connects
through, after DNS, and that this machine's own addresses are reached at the ports of its front door
alone: its firewall does not stand between it and itself.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kythera.model.limits import Limits
from kythera.run.addresses import PUBLIC, WORDS, Block, forbidden, own_blocks
from kythera.run.config import OWN_COMPATIBILITY_DATE, encode
from kythera.run.prelude import source

COUNTERS = "counters"
"""The socket (and the entrypoint) on which the agent asks what was counted."""
DOOR = "http"


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
    limits: Limits = field(default_factory=Limits)


def egress_config(settings: EgressSettings) -> bytes:
    """Return the configuration of the machine's egress cell. Raises SetupError."""
    own = own_blocks(settings.own, settings.allow)
    refused = forbidden(settings.allow)
    bindings = [
        {"name": "KEY", "text": settings.key},
        {"name": "RULES", "json": _rules(refused, own, settings.door_ports)},
        {"name": "LIMITS", "json": json.dumps(_limits(settings.limits))},
        {"name": "INTERNET", "service": {"name": "internet"}},
        {"name": "DOORS", "service": {"name": "doors"}},
    ]
    worker = {
        "modules": [{"name": name, "esModule": source(name)} for name in ("egress.js", "ways.js")],
        "compatibilityDate": OWN_COMPATIBILITY_DATE,
        "compatibilityFlags": ["nodejs_compat", "enable_request_signal"],
        "bindings": bindings,
        "globalOutbound": {"name": "internet"},
    }
    services = [
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
