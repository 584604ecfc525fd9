"""Random worlds for the front door's pure tests: workers, cells, routes and hosts that collide."""

from hypothesis import strategies as st

from kythera.model.catalog import Catalog, Name
from kythera.model.records import Deployment, Domains, Route, Routes, Worker, encode
from kythera.model.traffic import Share, Traffic
from kythera.route.mesh import PeerDoor, Peers, Where

ACCOUNTS = ("a" * 32, "b" * 32)
WORKERS = ("one", "two", "three")
HOSTS = ("x.example.com", "y.example.com", "example.com", "one.localhost")
HOST_PATTERNS = (*HOSTS, "*.example.com", "*example.com", "*")
PATHS = ("/", "/*", "/a", "/a*", "/a/*", "/a/b", "/A;b'\"\\#$(1){2}%20*")
SCHEMES = ("", "http://", "https://")

patterns = st.builds(
    lambda scheme, host, path: scheme + host + path,
    st.sampled_from(SCHEMES),
    st.sampled_from(HOST_PATTERNS),
    st.sampled_from(PATHS),
)
percentages = st.sampled_from(
    [(100.0,), (90.0, 10.0), (50.0, 50.0), (99.9, 0.1), (100.0, 0.0), (33.0, 33.0, 34.0)]
)


wheres: st.SearchStrategy[Where] = st.sampled_from(["local", "home", "away"])
fleets = st.none() | st.builds(
    lambda names, moved, draining, overloaded: Peers(
        me="m",
        draining=draining,
        overloaded=overloaded,
        machines=tuple(
            PeerDoor(name=n, address="" if n == "p3" else f"10.0.0.{1 + moved}:7000") for n in names
        ),
    ),
    st.lists(st.sampled_from(["p1", "p2", "p3"]), unique=True, max_size=3),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)


class World:
    """What a plan is made from."""

    def __init__(self) -> None:
        self.catalog = Catalog()
        self.traffic: dict[Name, Traffic] = {}
        self.failing: dict[Name, str] = {}
        self.peers: Peers | None = None
        self.where: dict[Name, Where] = {}

    def put(
        self,
        name: Name,
        *,
        cells: tuple[tuple[int, float], ...],
        routes: list[str],
        domains: list[str],
        hostname: bool,
    ) -> None:
        """Set all that belongs to one worker; `cells` are (generation, percentage)."""
        account, worker = name
        for record in (
            Worker(
                account=account,
                name=worker,
                tag="",
                created_on="",
                modified_on="",
                hostname_enabled=hostname,
            ),
            Deployment(account=account, worker=worker, id="d", number=1, created_on=""),
            Routes(
                account=account,
                worker=worker,
                routes=tuple(Route(id=str(n), pattern=p) for n, p in enumerate(routes)),
            ),
            Domains(account=account, worker=worker, hostnames=tuple(domains)),
        ):
            self.catalog.apply(record.key(), encode(record))
        shares = tuple(share(name, generation, percentage) for generation, percentage in cells)
        self.traffic[name] = Traffic(account=account, worker=worker, shares=shares)

    def drop(self, name: Name) -> None:
        """End a worker."""
        for key in [*self.catalog.keys_of(*name)]:
            self.catalog.apply(key, None)
        self.traffic.pop(name, None)


def share(name: Name, generation: int, percentage: float) -> Share:
    """Return a cell whose names tell whose it is."""
    server = f"c{name[0][0]}-{name[1]}-{generation}"
    return Share(
        server=server,
        version_id=f"v{generation}",
        path=f"/run/cells of ours/{server}.sock",
        percentage=percentage,
    )


@st.composite
def steps(draw: st.DrawFn) -> list[World]:
    """Draw a history: each world differs from the one before in a worker or two."""
    count = draw(st.integers(2, 5))
    names = [(account, worker) for account in ACCOUNTS for worker in WORKERS]
    last: dict[Name, dict[str, object]] = {}
    history = []
    for _ in range(count):
        for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)):
            if name in last and draw(st.booleans()):
                del last[name]
                continue
            split = draw(percentages)
            first = draw(st.integers(0, 3))
            last[name] = {
                "cells": tuple((first + n, p) for n, p in enumerate(split)),
                "routes": draw(st.lists(patterns, max_size=3)),
                "domains": draw(st.lists(st.sampled_from(HOSTS), max_size=2, unique=True)),
                "hostname": draw(st.booleans()),
            }
        world = World()
        for name, told in last.items():
            world.put(name, **told)  # type: ignore[arg-type]
        fails: bool = draw(st.booleans())
        if last and fails:
            world.failing[draw(st.sampled_from(sorted(last)))] = draw(
                st.sampled_from(["", "exit 1; killed", 'a "b"\n\\c'])
            )
        world.peers = draw(fleets)
        if last and world.peers is not None:
            world.where = draw(st.dictionaries(st.sampled_from(sorted(last)), wheres))
        history.append(world)
    return history
