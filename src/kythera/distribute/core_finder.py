"""Whom this machine asks for the log now: its own server while it holds it, else the nearest core
machine through its mesh door, and the next one when that fails.

A candidate that failed is tried again after the others; after `FORGET_S` its failure no longer
counts. Where the catalogue cannot be read yet, those who were told at joining are asked. When all
have failed lately, every other try goes to another machine of the fleet: the log may have moved
twice while this machine was away, and nobody it knew holds it any more.
"""

from collections.abc import Callable, Iterable

import anyio

from kythera.distribute import membership
from kythera.distribute.address import LogAddress, address_at, fleet_password, mesh_log_address
from kythera.distribute.cores import log_candidates, next_address, strangers
from kythera.distribute.link import Secure
from kythera.distribute.mesh import Directory, PeerUnreachable, client_context
from kythera.distribute.remembered import remembered_core
from kythera.ground.layout import Layout
from kythera.model.catalog import Catalog
from kythera.model.errors import StoreUnavailable
from kythera.model.membership import Membership, Peer

FORGET_S = 30.0


class CoreFinder:
    """Finds the log for one process (`link.Finder`)."""

    def __init__(self, layout: Layout, me: str, catalog: Callable[[], Catalog]) -> None:
        """`catalog` returns what this machine knows, or raises StoreUnavailable."""
        self._layout = layout
        self._me = me
        self._catalog = catalog
        self._directory = Directory(layout)
        self._failed_at: dict[str, float] = {}
        self._astray = False
        """Whether the last try was one with a stranger."""

    def find(self) -> LogAddress | None:
        """Return the address to try now; None: nobody is known."""
        known, records = membership.read(self._layout), self._known_records()
        remembered = remembered_core(self._layout)
        candidates = log_candidates(records, known, self._me, remembered)
        ways = self._ways(candidates, known)
        now = anyio.current_time()
        failed = {name: at for name, at in self._failed_at.items() if now - at < FORGET_S}
        chosen = next_address([peer for peer in candidates if peer.name in ways], failed)
        self._astray = not self._astray and (chosen is None or chosen.name in failed)
        if self._astray:
            others = strangers(records, candidates, self._me)
            ways |= self._ways(others, known)
            stranger = next_address([p for p in others if p.name in ways], self._failed_at)
            chosen = stranger or chosen
        return None if chosen is None else ways[chosen.name]

    def _ways(self, peers: Iterable[Peer], known: Membership | None) -> dict[str, LogAddress]:
        found = {peer.name: self._way(peer, known) for peer in peers}
        return {name: way for name, way in found.items() if way is not None}

    def _known_records(self) -> Catalog:
        try:
            return self._catalog()
        except StoreUnavailable:
            return Catalog()

    def _way(self, peer: Peer, known: Membership | None) -> LogAddress | None:
        if peer.name == self._me:
            return address_at(self._layout.log_address)
        password = fleet_password(self._layout)
        if known is None or password is None:
            return None
        try:
            address = self._directory.address(peer.name, peer.mesh)
        except PeerUnreachable:
            return None
        return mesh_log_address(peer.name, address, password)

    def failed(self, address: LogAddress) -> None:
        """Try the others first for a while."""
        self._failed_at[address.peer or self._me] = anyio.current_time()

    def worked(self, address: LogAddress) -> None:
        """Forget that it ever failed."""
        self._failed_at.pop(address.peer or self._me, None)

    def is_outdated(self, address: LogAddress) -> bool:
        """Tell whether this machine's own log is another server now, or none."""
        return not address.peer and address_at(self._layout.log_address) != address


def mesh_secure(layout: Layout) -> Secure:
    """Return what makes the TLS settings for another machine's log."""
    return lambda peer: client_context(layout, peer)
