"""What the control process has of the fleet: a way to ask other machines, and what it remembers of
them. A machine without others has the same, empty.
"""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx

from kythera.control.freshness import Freshness
from kythera.control.sightings import Sightings
from kythera.control.tail_ages import TailAges
from kythera.control.tail_relay import TailRelay
from kythera.ground.layout import Layout
from kythera.model.errors import StoreUnavailable


class Mesh(Protocol):
    """Other machines, asked over the mesh (`kythera.distribute.mesh.MeshClient`)."""

    async def request(
        self, peer: str, recorded: str, method: str, path: str, **more: Any
    ) -> httpx.Response:
        """Ask a machine and return its whole answer. Raises PeerUnreachable."""
        ...

    def stream(
        self, peer: str, recorded: str, method: str, path: str, **more: Any
    ) -> AbstractAsyncContextManager[httpx.Response]:
        """Ask a machine and hand over its answer as it comes. Raises PeerUnreachable."""
        ...


class NoMesh:
    """The mesh of a machine that has no others to ask."""

    async def request(
        self, peer: str, recorded: str, method: str, path: str, **more: Any
    ) -> httpx.Response:
        """Reach nobody."""
        raise StoreUnavailable(f"The machine {peer!r} cannot be asked: this one has no mesh.")

    def stream(
        self, peer: str, recorded: str, method: str, path: str, **more: Any
    ) -> AbstractAsyncContextManager[httpx.Response]:
        """Reach nobody."""
        raise StoreUnavailable(f"The machine {peer!r} cannot be asked: this one has no mesh.")


@dataclass(frozen=True)
class Fleet:
    """This process' side of the fleet."""

    mesh: Mesh = field(default_factory=NoMesh)
    layout: Layout | None = None
    """Where this machine's identity lies."""
    status_socket: Path | None = None
    """Where this machine's agent tells its status."""
    joined: bool = False
    """Whether this machine came into a fleet that was there before it."""
    sightings: Sightings = field(default_factory=Sightings)
    freshness: Freshness = field(default_factory=Freshness)
    relay: TailRelay = field(default_factory=TailRelay)
    tail_ages: TailAges = field(default_factory=TailAges)
