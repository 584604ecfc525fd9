"""How the control process has blobs carried between machines: the shape, and that of one alone."""

from collections.abc import Collection, Iterable
from typing import Protocol

from kythera.model.records import Version


class Carrier(Protocol):
    """Carries blobs (`kythera.distribute.fetch.Fetcher`)."""

    async def ensure(self, digests: Iterable[str]) -> None:
        """Return when these blobs are on this machine. Raises StoreUnavailable."""
        ...

    async def replicate_version(self, version: Version, known: Collection[str] = ()) -> None:
        """Make a version safe but for its `known` blobs, which are. Raises StoreUnavailable."""
        ...

    async def replicate(self, digests: Iterable[str]) -> None:
        """Return when these blobs, which are on this machine, are safe. Raises StoreUnavailable."""
        ...

    async def heal(self, digest: str) -> None:
        """Replace a damaged blob by a good one. Raises StoreUnavailable."""
        ...


class NoCarrier:
    """Of a machine without others: what is here is all there is, and `read` says what is not."""

    async def ensure(self, digests: Iterable[str]) -> None:
        """Do nothing."""

    async def replicate_version(self, version: Version, known: Collection[str] = ()) -> None:
        """Do nothing."""

    async def replicate(self, digests: Iterable[str]) -> None:
        """Do nothing."""

    async def heal(self, digest: str) -> None:
        """Do nothing."""
