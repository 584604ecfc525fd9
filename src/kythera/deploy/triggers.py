"""What leads requests to a worker: routes, custom domains; and zones made up for them.

Pure. Kythera has no zones: whoever asks for one by name gets it, with an id made from the name,
so that wrangler can go on. A pattern or hostname belongs to one worker at a time.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from kythera.deploy.documents import as_flag, as_list, as_object, as_text, shown
from kythera.deploy.refusals import invalid
from kythera.model.errors import Refusal
from kythera.model.names import is_hostname
from kythera.model.records import Domains, Route, Routes

ROUTES_MAX = 1_000
DOMAINS_MAX = 100
PATTERN_TAKEN = 10020
HOSTNAME_TAKEN = 100116


def identifier(text: str) -> str:
    """Return the 32 hexadecimal digits that stand for a name (a zone, a route, a domain)."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def zone(name: str, account: Mapping[str, Any]) -> dict[str, Any]:
    """Return the zone that a hostname is said to be in: one of its own."""
    return {
        "id": identifier(f"zone {name}"),
        "name": name,
        "status": "active",
        "paused": False,
        "type": "full",
        "account": dict(account),
    }


def read_routes(document: Any, check: Callable[[str], object]) -> tuple[Route, ...]:
    """Return the routes that `PUT routes` asks for; `check` raises for a bad pattern."""
    entries = as_list(document, "the routes")
    if len(entries) > ROUTES_MAX:
        raise invalid(f"A worker has at most {ROUTES_MAX} routes.")
    routes = {route.pattern: route for route in (_route(entry, check) for entry in entries)}
    return tuple(routes.values())


def _route(entry: Any, check: Callable[[str], object]) -> Route:
    fields = {"pattern": entry} if isinstance(entry, str) else as_object(entry, "a route")
    pattern = as_text(fields.get("pattern"), "a route's pattern")
    check(pattern)
    return Route(
        id=identifier(f"route {pattern}"),
        pattern=pattern,
        zone_name=as_text(fields.get("zone_name") or "", "zone_name")[:253],
        zone_id=as_text(fields.get("zone_id") or "", "zone_id")[:64],
    )


def refuse_taken_patterns(routes: Sequence[Route], worker: str, others: Iterable[Routes]) -> None:
    """Refuse patterns that lead to another worker already."""
    taken = {r.pattern: o.worker for o in others if o.worker != worker for r in o.routes}
    for route in routes:
        if route.pattern in taken:
            raise Refusal(
                PATTERN_TAKEN,
                f"Route {shown(route.pattern)} leads to Worker {taken[route.pattern]!r} already.",
                status=409,
                remedy="Remove it there first.",
            )


def read_domains(document: Any) -> tuple[str, ...]:
    """Return the hostnames that `PUT domains/records` asks for."""
    return _hostnames(as_object(document, "the body").get("origins"))


def read_changeset(document: Any) -> tuple[str, ...]:
    """Return the hostnames that `POST domains/changeset` asks about."""
    return _hostnames(document)


def _hostnames(value: Any) -> tuple[str, ...]:
    entries = [as_object(entry, "a custom domain") for entry in as_list(value, "custom domains")]
    if len(entries) > DOMAINS_MAX:
        raise invalid(f"A worker has at most {DOMAINS_MAX} custom domains.")
    return tuple(
        dict.fromkeys(
            check_hostname(entry.get("hostname"))
            for entry in entries
            if as_flag(entry.get("enabled", True), "enabled")
        )
    )


def check_hostname(value: Any) -> str:
    """Return a hostname in lower case, if it is a whole DNS name."""
    name = as_text(value, "a custom domain's hostname").lower().removesuffix(".")
    if not is_hostname(name):
        raise invalid(
            f"{shown(value)} is not a hostname.",
            remedy="Write the whole name, without scheme, port, path or wildcard.",
        )
    return name


def holders(hostnames: Iterable[str], worker: str, others: Iterable[Domains]) -> dict[str, str]:
    """Return which of these hostnames belong to another worker, and to which."""
    held = {h: o.worker for o in others if o.worker != worker for h in o.hostnames}
    return {name: held[name] for name in hostnames if name in held}


def refuse_held(held: Mapping[str, str]) -> None:
    """Refuse hostnames of other workers, when nobody said that they may be taken over."""
    for hostname, worker in held.items():
        raise Refusal(
            HOSTNAME_TAKEN,
            f"Hostname {hostname!r} is a custom domain of Worker {worker!r} already.",
            status=409,
            remedy="Remove it there first, or confirm that it shall move.",
        )


def changeset(
    wanted: Sequence[str], current: Sequence[str], held: Mapping[str, str]
) -> dict[str, list[dict[str, Any]]]:
    """Return what setting these hostnames would change."""
    return {
        "added": [{"hostname": h} for h in wanted if h not in current and h not in held],
        "updated": [
            {
                "id": identifier(f"domain {hostname}"),
                "hostname": hostname,
                "service": worker,
                "environment": "production",
                "modified": True,
            }
            for hostname, worker in held.items()
        ],
        "removed": [{"hostname": h} for h in current if h not in wanted],
        "conflicting": [],
    }


def domain_view(hostname: str, worker: str) -> dict[str, Any]:
    """Return a custom domain as the API shows it."""
    return {
        "id": identifier(f"domain {hostname}"),
        "hostname": hostname,
        "service": worker,
        "environment": "production",
        "zone_id": identifier(f"zone {hostname}"),
        "zone_name": hostname,
        "enabled": True,
        "previews_enabled": False,
    }
