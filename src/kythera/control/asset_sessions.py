"""Uploads of static files that are under way: what of each manifest is still missing.

One set for each process: what comes through the API and what other machines hand on meet here.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import msgspec

from kythera.deploy.assets import Claims, Wanted

if TYPE_CHECKING:
    from kythera.control.services import Services

SESSIONS_KEPT = 16


@dataclass
class Session:
    """A manifest that is being uploaded, as this process remembers it."""

    claims: Claims
    manifest: dict[str, Wanted]
    sizes: dict[str, int]
    missing: set[str]

    @classmethod
    def begin(cls, services: "Services", claims: Claims, manifest: dict[str, Wanted]) -> "Session":
        """Look up what is missing now."""
        missing = {wanted.hash for wanted in services.asset_index.missing(manifest)}
        sizes = {wanted.hash: wanted.size for wanted in manifest.values()}
        return cls(claims, manifest, sizes, missing)


class AssetSessions:
    """The sessions of late; one that was forgotten is read again from its blob."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Session] = OrderedDict()

    async def get(self, services: "Services", claims: Claims) -> Session:
        """Return the session that a token speaks of."""
        known = self._known.get(claims.manifest)
        if known is None:
            known = await anyio.to_thread.run_sync(_read_session, services, claims)
            known = self._known.setdefault(claims.manifest, known)
            while len(self._known) > SESSIONS_KEPT:
                self._known.popitem(last=False)
        return known

    def forget(self, digest: str) -> None:
        """Look again at what is missing, the next time somebody asks."""
        self._known.pop(digest, None)


def _read_session(services: "Services", claims: Claims) -> Session:
    data = services.blobs.read(claims.manifest)
    manifest = msgspec.json.decode(data, type=dict[str, Wanted])
    return Session.begin(services, claims, manifest)
