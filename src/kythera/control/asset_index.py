"""Which static files this machine has, under the names that wrangler gives them.

wrangler's hash of a file is not the blob's digest, so one small file beside the blobs maps the
one to the other: a line of JSON for each file, only ever appended to, one write and one sync for
each upload. A line that a crash cut short is skipped when the index is read again; the file it
spoke of is then uploaded once more. A line counts only while its blob exists.
"""

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from kythera.control.services import BlobStore
from kythera.deploy.assets import Wanted
from kythera.model.records import Asset


class Known(Struct, frozen=True, array_like=True):
    """One file that was uploaded: wrangler's hash, the blob, and what it was said to be."""

    hash: str
    digest: str
    size: int
    content_type: str


class AssetIndex:
    """The map, in memory and on disk. One writer: the API process of this machine."""

    def __init__(self, path: Path, blobs: BlobStore) -> None:
        self._path = path
        self._blobs = blobs
        self._known: dict[str, Known] | None = None

    def _all(self) -> dict[str, Known]:
        """Read the file when it is first asked for: most workers have no assets."""
        if self._known is None:
            self._known = {}
            text = self._path.read_bytes() if self._path.exists() else b""
            for line in text.splitlines():
                try:
                    known = msgspec.json.decode(line, type=Known)
                except msgspec.MsgspecError:
                    continue
                self._known[known.hash] = known
            if text and not text.endswith(b"\n"):
                self._append(b"\n")
        return self._known

    def has(self, name: str) -> bool:
        """Tell whether a file is here, its content included; it then stays for a while."""
        known = self._all().get(name)
        return known is not None and self._blobs.touch(known.digest)

    def add(self, files: Collection[Known]) -> None:
        """Remember files whose blobs are stored."""
        known = self._all()
        fresh = [file for file in files if known.get(file.hash) != file]
        if fresh:
            self._append(b"".join(msgspec.json.encode(file) + b"\n" for file in fresh))
            known.update({file.hash: file for file in fresh})

    def _append(self, data: bytes) -> None:
        descriptor = os.open(
            self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def missing(self, manifest: Mapping[str, Wanted]) -> set[Wanted]:
        """Return the files of a manifest that have to be uploaded."""
        return {wanted for wanted in set(manifest.values()) if not self.has(wanted.hash)}

    def finished(self, manifest: Mapping[str, Wanted]) -> list[Asset]:
        """Return a manifest in terms of blobs, by path; all of its files are here."""
        known = self._all()
        return [
            Asset(
                path=path,
                digest=known[wanted.hash].digest,
                size=known[wanted.hash].size,
                content_type=known[wanted.hash].content_type,
            )
            for path, wanted in sorted(manifest.items())
        ]


def encode_manifest(assets: Iterable[Asset]) -> bytes:
    """Return a finished manifest as the blob that versions name."""
    return msgspec.json.encode(list(assets), order="deterministic")
