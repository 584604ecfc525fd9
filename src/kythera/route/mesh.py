"""What the front door knows of the fleet's other machines: who they are, where they are reached.

Pure values, shared by the plan, the configuration and the driver. `near` is 0 for a machine of
the same site and grows with distance; the order of `Peers.machines` does not matter.
"""

import hashlib
from collections.abc import Iterable
from typing import Literal

from msgspec import Struct, field

Where = Literal["local", "home", "away"]
"""Who serves a worker's visitors that come to this machine: its own cells, the machine of this
site that the worker's name falls to, or another machine that is able to."""

HTTP, CONTROL, DATA = "http", "control", "data"
SERVER_NUMBERS = (1 << 20) - 1
"""HAProxy places a server on its ring by 4096 times its number, in 32 bits."""


class PeerDoor(Struct, frozen=True, kw_only=True):
    """Another machine of the fleet; `address` (`host:port`) empty: not reached, but let in."""

    name: str
    address: str = ""
    site: str = "local"
    near: int = 0
    """0: same site, 1: same region, 2: same world, 3: the rest."""


class Peers(Struct, frozen=True, kw_only=True):
    """The fleet as this machine's front door needs it."""

    me: str
    draining: bool = False
    """Load balancers are told so (503), and so are the others (see `overloaded`)."""
    overloaded: bool = False
    """The others send nothing new as long as this or `draining` holds."""
    machines: tuple[PeerDoor, ...] = ()
    """All others that belong to the fleet, draining ones too: whether they are able is seen by
    asking them. A machine that is not here is let in nowhere."""


class Tunnel(Struct, frozen=True, kw_only=True):
    """A way for a program that speaks plain TCP to a peer's service: `listen` and `address` are
    `host:port`, `name` is one word, unique on this machine."""

    name: str
    listen: str
    peer: str
    address: str
    service: str


class PeerServer(Struct, frozen=True, kw_only=True):
    """A peer as HAProxy's server. `number` is the same on every machine, so that all agree on
    where a name falls."""

    name: str
    number: int
    address: str
    near: int

    @property
    def same_site(self) -> bool:
        """Tell whether it can be a home for this site's workers."""
        return self.near == 0


class MeshFiles(Struct, frozen=True, kw_only=True):
    """What this machine's own mesh door needs from the disk."""

    certificate: str
    """This machine's certificate and key (PEM)."""
    authority: str
    """The fleet's own authority (PEM)."""
    control_socket: str
    """Where the control process answers other machines."""
    streams: dict[str, str] = field(default_factory=dict)
    """Other services (`log`, `route` …) to the `host:port` that answers here; may come later."""
    pass_key: str = ""
    """What this machine's passes are signed with; empty: no data go between machines."""


def server_numbers(names: Iterable[str]) -> dict[str, int]:
    """Return a number for each machine that depends on names alone (and on who else is there only
    when two would be equal)."""
    found: dict[str, int] = {}
    taken: set[int] = set()
    for name in sorted(set(names)):
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % SERVER_NUMBERS
        while number in taken:
            number = (number + 1) % SERVER_NUMBERS
        taken.add(number)
        found[name] = number + 1
    return found


def peer_numbers(peers: Peers) -> dict[str, int]:
    """Return the numbers of all machines of the fleet, this one too."""
    return server_numbers([peers.me, *(door.name for door in peers.machines)])


def peer_servers(peers: Peers) -> tuple[PeerServer, ...]:
    """Return the peers that can be reached, the nearest first."""
    numbers = peer_numbers(peers)
    ordered = sorted(peers.machines, key=lambda door: (door.near, door.name))
    return tuple(
        PeerServer(name=door.name, number=numbers[door.name], address=door.address, near=door.near)
        for door in ordered
        if door.address and door.name != peers.me
    )
