"""What the front door should do, as data: slots, servers and map rows.

Pure. HAProxy 2.6 cannot be given a backend while it runs, so the configuration holds generic
ones, the *slots* (`s0001`…); a worker gets one and keeps it. All the rest, map rows and servers,
changes through the runtime socket. `plan_front` promises: a worker keeps its slot from plan to
plan, slots are doubled (a reload) only when they run out, equal inputs give equal plans.

Precedence for a request: routes, then custom domains, then `<worker>.<domain>`. Hosts without
routes, nearly all, cost one look-up: `hosts` marks the others with ROUTED, and the maps of routes
are asked for those alone.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec
from msgspec import Struct, field

from kythera.model.catalog import Catalog, Name
from kythera.model.names import is_hostname, namespace_of
from kythera.model.traffic import Share, Traffic
from kythera.route.lanes import lane_rows, lanes_of, server_rows
from kythera.route.mesh import Peers, PeerServer, Tunnel, Where, peer_numbers, peer_servers
from kythera.route.patterns import Pattern, PatternError, parse_pattern
from kythera.route.weights import sticky_rows, weights

SLOTS_MIN = 64
SLOT_LETTER = "s"
"""Opens every slot's name; ROUTED and NOWHERE begin otherwise."""
ROUTED = "r:"
"""Opens a host's value when routes may beat it; what follows is the slot, or NOWHERE."""
NOWHERE = "none"
REASON_CHARACTERS_MAX = 200

LOCAL, HOME, AWAY = "local", "home", "away"
APART = "apart"
APART_MARK = "|"
"""Divides a row of `apart` into where, who, and (if so) why no cell starts here."""
DATA_SLOT = "data"
"""The backend with what other machines' cells reach here."""
DRAINING, OVERLOADED = "draining", "overloaded"
"""Keys of `health`: present or not."""
MAPS = (
    *("hosts", "routes_exact", "routes_prefix", "routes_wild", "pins", "sticky"),
    *(APART, "members", "health", "queues"),
    *("services", "lanes", "lane_servers"),
    *("ways", "data"),
)
ORDERED_MAPS = ("routes_wild",)
"""Maps whose first matching row wins: replaced as a whole, never row by row."""

Rows = dict[str, str]


class Server(Struct, frozen=True, kw_only=True):
    """One cell as HAProxy sees it: a unix socket with a weight (0 to 256; 0 takes no traffic)."""

    name: str
    path: str
    weight: int


class FrontPlan(Struct, frozen=True, kw_only=True):
    """All that the front door knows; JSON in `<state>/haproxy/plan.json`."""

    slots: int = SLOTS_MIN
    """How many backends the configuration holds."""
    owners: dict[str, str] = field(default_factory=dict)
    """Slot to `account/worker`."""
    freed: tuple[str, ...] = ()
    """Slots that had an owner once; the longest free one is taken first."""
    servers: dict[str, tuple[Server, ...]] = field(default_factory=dict)
    """Slot to its cells; a slot without cells answers 503 at once. DATA_SLOT: what is kept here."""
    maps: dict[str, Rows] = field(default_factory=lambda: {name: {} for name in MAPS})
    """Map name to its rows in order."""
    me: str = ""
    """This machine's name; empty as long as it is not one of a fleet."""
    number: int = 0
    """HAProxy's number for this machine, the same on all machines."""
    peers: tuple[PeerServer, ...] = ()
    """Other machines that requests may go to, the nearest first."""
    tunnels: tuple[Tunnel, ...] = ()
    ignored: tuple[str, ...] = ()
    """Routes and hostnames that lead nowhere, and why: for the log."""

    def named_servers(self) -> Iterator[tuple[str, Server]]:
        """Yield every server with its slot."""
        for slot, servers in self.servers.items():
            for server in servers:
                yield slot, server


def slot_name(index: int) -> str:
    """Return the name of the n-th backend, counted from 0."""
    return f"{SLOT_LETTER}{index + 1:04}"


def encode_plan(plan: FrontPlan) -> bytes:
    """Return the plan as JSON; the order of rows is kept, for it means something."""
    return msgspec.json.encode(plan)


def decode_plan(data: bytes) -> FrontPlan:
    """Read a plan back. Raises msgspec errors for garbage and for another Kythera's maps."""
    plan = msgspec.json.decode(data, type=FrontPlan)
    if tuple(plan.maps) != MAPS:
        raise msgspec.ValidationError("the plan has other maps than this Kythera's")
    return plan


def plan_front(
    catalog: Catalog,
    traffic: Mapping[Name, Traffic],
    failing: Mapping[Name, str],
    *,
    domain: str,
    previous: FrontPlan | None,
    peers: Peers | None = None,
    where: Mapping[Name, Where] | None = None,
    tunnels: Iterable[Tunnel] = (),
    queues: Mapping[Name, int] | None = None,
    mark_of: Callable[[Name], str] | None = None,
    more_marks: Mapping[str, Name] | None = None,
    ways: Mapping[str, str] | None = None,
    data: Mapping[str, str] | None = None,
) -> FrontPlan:
    """Return what the front door should do now.

    `failing` holds workers whose cell cannot start, and why: they answer 503 without a wait, unless
    `where` sends their visitors to another machine. Who is not in `where` is served here.
    `queues` holds workers whose queue is not as long as all others'. `mark_of` says by what the inner
    door knows a worker; without it there is no such door. `more_marks` lead to workers too. `ways`: marks
    of data that other machines keep, and where those are (`mesh_data`). `data`: what is kept here for
    cells of others, by name, and its socket."""
    served = _served(catalog, traffic)
    owners, slots, freed = _assign_slots(served, previous or FrontPlan())
    slot_of = {name: slot for slot, name in owners.items()}
    ignored: list[str] = []
    patterns = _patterns(catalog, slot_of, ignored)
    servers = {
        slot: _servers(traffic[name].shares)
        for slot, name in owners.items()
        if name in traffic and traffic[name].shares
    }
    marks = {slot: mark_of(name) for slot, name in owners.items()} if mark_of else {}
    lanes = _lanes(marks, servers, previous)
    rows: dict[str, Rows] = {
        "hosts": _host_rows(_hosts(catalog, slot_of, domain, ignored), patterns),
        "routes_exact": _whole_host_rows(patterns, path_open=False),
        "routes_prefix": _whole_host_rows(patterns, path_open=True),
        "routes_wild": _wild_rows(patterns),
        "pins": dict(_pin_rows(owners, traffic)),
        "sticky": dict(_sticky_rows(owners, traffic)),
        APART: dict(_apart_rows(owners, failing, where or {})),
        "members": _member_rows(peers),
        "health": _health_rows(peers),
        "queues": {
            slot: str(queues[name]) for slot, name in owners.items() if queues and name in queues
        },
        "services": {mark: slot for slot, mark in marks.items()}
        | {mark: slot_of[name] for mark, name in (more_marks or {}).items() if name in slot_of},
        "lanes": lane_rows(lanes),
        "lane_servers": server_rows(lanes),
        "ways": dict(sorted((ways or {}).items())),
        "data": {name: name for name in sorted(data or {})},
    }
    servers |= _data_servers(data or {})
    return FrontPlan(
        slots=slots,
        freed=freed,
        owners={slot: "/".join(name) for slot, name in owners.items()},
        servers=servers,
        maps={name: rows[name] for name in MAPS},
        me=peers.me if peers else "",
        number=peer_numbers(peers)[peers.me] if peers else 0,
        peers=peer_servers(peers) if peers else (),
        tunnels=tuple(sorted(tunnels, key=lambda tunnel: tunnel.name)),
        ignored=tuple(ignored),
    )


def _data_servers(data: Mapping[str, str]) -> dict[str, tuple[Server, ...]]:
    """Return what is kept here for others' cells; none is ever chosen but by its name."""
    kept = sorted(data.items())
    found = tuple(Server(name=name, path=path, weight=0) for name, path in kept)
    return {DATA_SLOT: found} if found else {}


def _served(catalog: Catalog, traffic: Mapping[Name, Traffic]) -> list[Name]:
    """Return workers that are deployed: their hosts are known even before a cell is."""
    names = [(worker.account, worker.name) for worker in catalog.workers()]
    return [
        name
        for name in names
        if (name in traffic and traffic[name].shares) or catalog.deployed(*name) is not None
    ]


def _assign_slots(
    served: Iterable[Name], before: FrontPlan
) -> tuple[dict[str, Name], int, tuple[str, ...]]:
    """Return owners, number of slots, and free slots that once had an owner.

    A slot that becomes free now is not given away in the same plan: for a moment the old owner's
    hosts still lead to it, and a request that is being retried may still be inside."""
    had = {owner: slot for slot, owner in before.owners.items()}
    names = {"/".join(name): name for name in served}
    owners = {had[owner]: name for owner, name in names.items() if owner in had}
    newcomers = [name for owner, name in names.items() if owner not in had]
    leaving = [slot for slot in before.owners if slot not in owners]
    slots = before.slots
    while slots < len(owners) + len(leaving) + len(newcomers):
        slots *= 2
    used = {*before.owners, *before.freed}
    fresh = [slot for slot in map(slot_name, range(slots)) if slot not in used]
    free = [*fresh, *before.freed]
    owners |= dict(zip(free, newcomers, strict=False))
    freed = tuple(slot for slot in before.freed if slot not in owners)
    return dict(sorted(owners.items())), slots, (*freed, *leaving)


def _servers(shares: Iterable[Share]) -> tuple[Server, ...]:
    ordered = sorted(shares, key=lambda share: share.server)
    found = weights([share.percentage for share in ordered])
    return tuple(
        Server(name=share.server, path=share.path, weight=weight)
        for share, weight in zip(ordered, found, strict=True)
    )


def _lanes(
    marks: Mapping[str, str],
    servers: Mapping[str, tuple[Server, ...]],
    previous: FrontPlan | None,
) -> dict[str, dict[str, tuple[int, int]]]:
    """Return, by mark, each server's lane and weight."""
    before = previous.maps["lane_servers"] if previous is not None else {}
    weighted = {
        mark: {server.name: server.weight for server in servers.get(slot, ())}
        for slot, mark in marks.items()
    }
    return lanes_of(weighted, before)


def _patterns(
    catalog: Catalog, slot_of: Mapping[Name, str], ignored: list[str]
) -> list[tuple[Pattern, str]]:
    """Return the routes of all served workers with their slots, the most specific first."""
    found: list[tuple[Pattern, str]] = []
    for (account, worker), slot in sorted(slot_of.items()):
        for route in catalog.routes(account, worker).routes:
            try:
                found.append((parse_pattern(route.pattern), slot))
            except PatternError as error:
                ignored.append(f"{worker}: {error.message}")
    return sorted(found, key=lambda row: row[0].rank())


def _hosts(catalog: Catalog, slot_of: Mapping[Name, str], domain: str, ignored: list[str]) -> Rows:
    """Return whole hostnames and their slots: custom domains first, then the workers' own."""
    claims: list[tuple[str, str, str]] = []
    for (account, worker), slot in sorted(slot_of.items()):
        claims += [
            (host.lower().removesuffix("."), slot, worker)
            for host in catalog.domains(account, worker).hostnames
        ]
    for (account, worker), slot in sorted(slot_of.items()):
        record = catalog.worker(account, worker)
        if record is not None and record.hostname_enabled and not namespace_of(worker):
            claims.append((f"{worker}.{domain}".lower(), slot, worker))
    hosts: Rows = {}
    for host, slot, worker in claims:
        if not is_hostname(host):
            ignored.append(f"{worker}: {host!r} is not a hostname")
        elif hosts.setdefault(host, slot) != slot:
            ignored.append(f"{worker}: {host} already leads to another worker")
    return hosts


def _host_rows(hosts: Rows, patterns: Iterable[tuple[Pattern, str]]) -> Rows:
    """Mark the hosts that routes may claim, and add those that only routes know."""
    whole = {pattern.host for pattern, _ in patterns if not pattern.host_open}
    wild = [pattern for pattern, _ in patterns if pattern.host_open]
    rows = dict.fromkeys(whole, f"{ROUTED}{NOWHERE}")
    for host, slot in hosts.items():
        routed = host in whole or any(pattern.matches_host(host) for pattern in wild)
        rows[host] = f"{ROUTED}{slot}" if routed else slot
    return dict(sorted(rows.items()))


def _whole_host_rows(patterns: Iterable[tuple[Pattern, str]], *, path_open: bool) -> Rows:
    """Return `scheme://host/path` to slot. The first of equal keys is the most specific."""
    rows: Rows = {}
    for pattern, slot in patterns:
        if not pattern.host_open and pattern.path_open == path_open:
            for key in pattern.lookups():
                rows.setdefault(key, slot)
    return rows


def _wild_rows(patterns: Iterable[tuple[Pattern, str]]) -> Rows:
    rows: Rows = {}
    for pattern, slot in patterns:
        if pattern.host_open:
            rows.setdefault(pattern.expression(), slot)
    return rows


def _pin_rows(
    owners: Mapping[str, Name], traffic: Mapping[Name, Traffic]
) -> Iterator[tuple[str, str]]:
    """Yield `slot/worker="version"` to server, as Cloudflare-Workers-Version-Overrides says it."""
    for slot, name in owners.items():
        if name in traffic:
            for version, share in _cells_by_version(traffic[name]).items():
                yield f'{slot}/{name[1]}="{version}"', share.server


def _sticky_rows(
    owners: Mapping[str, Name], traffic: Mapping[Name, Traffic]
) -> Iterator[tuple[str, str]]:
    """Yield `slot/1dddd…` (a prefix of the key's bucket) to server."""
    for slot, name in owners.items():
        if name in traffic:
            totals: dict[str, float] = {}
            for share in traffic[name].shares:
                totals[share.version_id] = totals.get(share.version_id, 0.0) + share.percentage
            cells = _cells_by_version(traffic[name])
            for prefix, version in sticky_rows(totals):
                yield f"{slot}/{prefix}", cells[version].server


def _cells_by_version(traffic: Traffic) -> dict[str, Share]:
    """Return, for each version, its cell with the largest share."""
    ordered = sorted(traffic.shares, key=lambda share: (share.percentage, share.server))
    return {share.version_id: share for share in ordered}


def _apart_rows(
    owners: Mapping[str, Name], failing: Mapping[Name, str], where: Mapping[Name, Where]
) -> Iterator[tuple[str, str]]:
    """Yield the slots that are not simply served by their cells here.

    One map for all such reasons: nearly all requests belong to none, and ask once."""
    for slot, name in owners.items():
        place = where.get(name, LOCAL)
        why = (_reason(failing[name]),) if name in failing else ()
        if why or place != LOCAL:
            yield slot, APART_MARK.join((place, "/".join(name), *why))


def _member_rows(peers: Peers | None) -> Rows:
    """Return the names that the mesh door lets in."""
    if peers is None:
        return {}
    return dict.fromkeys(sorted({peers.me, *(door.name for door in peers.machines)}), "1")


def _health_rows(peers: Peers | None) -> Rows:
    """Return why this machine is to be asked for nothing new."""
    told = {DRAINING: peers.draining, OVERLOADED: peers.overloaded} if peers else {}
    return {name: "1" for name, holds in told.items() if holds}


def _reason(why: str) -> str:
    """Return one short line that a map can hold."""
    return " ".join(why.split())[:REASON_CHARACTERS_MAX] or "cannot start"
