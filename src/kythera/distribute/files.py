"""Which blobs a version is made of: those its record names, and those its manifest names in turn."""

import msgspec

from kythera.distribute.blobs import Blobs
from kythera.model.errors import StoreUnavailable
from kythera.model.records import Asset, Version


def named_blobs(version: Version) -> list[str]:
    """Return the digests that a version's record names: its modules and its assets' manifest."""
    manifest = [version.assets.manifest] if version.assets is not None else []
    return [*(module.digest for module in version.modules), *manifest]


def read_manifest(blobs: Blobs, digest: str) -> list[Asset]:
    """Return the static files of a manifest that is here. Raises StoreUnavailable."""
    try:
        return msgspec.json.decode(blobs.read(digest), type=list[Asset])
    except msgspec.MsgspecError as error:
        raise StoreUnavailable(f"Blob {digest} is no manifest of static files: {error}.") from None
