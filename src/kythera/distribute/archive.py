"""A backup: one tar file with every record, every blob, what workers keep, and the keys of a platform.

Promises: made from this machine's own copy and blobs, so it needs no log and no other machine; the
records in it are those of one moment; `restore` fills a new state folder whose platform, once
started, writes the records to its log again (`pending`) and serves what was served. A backup cut
short, or with a byte changed, is refused before anything is written.
Refuses: to be less than everything unless it is told to; a folder that holds a platform already; an archive of another format; a blob that is not
what its name says.

The file holds the API token and the keys of all secrets (unless the operator gives them): it is made readable by its owner alone.
"""

import hashlib
import io
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec
from msgspec import Struct

from kythera.distribute.ahead import all_versions
from kythera.distribute.archive_data import (
    FOLDER,
    LISTING,
    DataFile,
    add_data,
    listed,
    read_file,
    taken_data,
)
from kythera.distribute.blobs import Blobs
from kythera.distribute.copy import Copy
from kythera.distribute.files import named_blobs, read_manifest
from kythera.distribute.log import Entry
from kythera.ground.files import write_private
from kythera.ground.key_files import key_files, render
from kythera.ground.layout import Layout
from kythera.ground.snapshots import Taken
from kythera.model.catalog import Catalog
from kythera.model.envelope import key_id, keys_used
from kythera.model.errors import KytheraError, StoreUnavailable
from kythera.model.names import DIGEST
from kythera.model.records import Resource, Version

FORMAT = 2
FORMATS = (1, 2)
"""What can be read; the first had nothing of what workers keep."""
ABOUT, RECORDS = "about.json", "records.json"
PENDING = "restored.json"
"""In a restored state folder: records that are to be written to the log at the first start."""
OF_ONE_FLEET = ("machine", "token", "heartbeat", "core", "horizon")
"""Kinds that speak of machines that a restored platform does not have."""
MEMBER_BYTES_MAX = 4 * 1024 * 1024 * 1024


class About(Struct, frozen=True, kw_only=True):
    """What an archive says of itself; `records_digest` is the SHA-256 of its records."""

    format: int = FORMAT
    account_id: str
    domain: str
    machine: str
    seq: int
    records: int
    blobs: int
    records_digest: str
    blobs_missing: int = 0
    """Of those that versions refer to: they were not on the machine that was asked."""
    data_files: int = 0
    """Of what workers keep."""
    objects_elsewhere: str = ""
    """The endpoint that keeps R2's objects: they are not in here."""
    keys_given: bool = False
    """The operator gives the keys that seal secrets: they are not in here."""


def kept(entries: Iterable[Entry]) -> list[Entry]:
    """Return what a restored platform shall have: living records of no particular machine."""
    return [
        entry
        for entry in entries
        if entry.value is not None and entry.key.partition(".")[0] not in OF_ONE_FLEET
    ]


def missing_blobs(entries: Iterable[Entry], blobs: Blobs) -> set[str]:
    """Return the blobs that versions refer to and that are not here; of files whose manifest is not
    here, the manifest alone."""
    catalog, wanted = Catalog(), set[str]()
    for entry in entries:
        catalog.apply(entry.key, entry.value)
    for version in all_versions(catalog):
        wanted.update(named_blobs(version))
        if version.assets is not None and blobs.has(version.assets.manifest):
            wanted.update(a.digest for a in read_manifest(blobs, version.assets.manifest))
    return {digest for digest in wanted if not blobs.has(digest)}


def refuse_missing_keys(entries: Iterable[Entry], held: Iterable[bytes]) -> None:
    """Raise KytheraError when a secret is sealed with a key that is not held."""
    catalog, ids = Catalog(), {key_id(key) for key in held}
    for entry in entries:
        catalog.apply(entry.key, entry.value)
    sealed = [r for r in catalog.records.values() if isinstance(r, Version | Resource)]
    lacking = {key for record in sealed for key in keys_used(record)} - ids
    if lacking:
        raise KytheraError(
            f"Secrets are sealed with the key {', '.join(sorted(lacking))}, which this machine does"
            " not hold.",
            remedy="It fetches it from the others by itself (`kythera key list`): try again, or "
            "make the backup on another machine.",
        )


def back_up(layout: Layout, file: Path, *, partial: bool = False) -> About:
    """Write the archive of a platform, running or not, to a new file.

    Raises KytheraError when the file exists, when there is no platform, and, unless `partial`, when
    not all code is on this machine."""
    platform = layout.read_platform()
    files = key_files(layout, platform)
    before = files.read()
    with Copy(layout.copy, readonly=True) as copy:
        entries = copy.changes_after(0)
        seq = max((entry.seq for entry in entries), default=0)
    records = msgspec.json.encode([(e.seq, e.key, e.value) for e in kept(entries)])
    # A key may be added or dropped meanwhile; what the copy shows opens with one of before or after.
    held = tuple(dict.fromkeys((*before, *files.read())))
    refuse_missing_keys(entries, held)
    own = tuple(key for key in held if key not in files.read_given())
    blobs = Blobs(layout.blobs)
    missing = missing_blobs(entries, blobs)
    if missing and not partial:
        raise KytheraError(
            f"{len(missing):,} of the blobs that versions are made of are not on this machine.",
            remedy="Make the backup on a core machine (`kythera machine list`), which has all, or"
            " take what is here with --partial.",
        )
    with taken_data(layout) as data:
        # After the data, which name blobs too.
        digests = list(blobs.digests())
        about = About(
            account_id=platform.account_id,
            domain=platform.domain,
            machine=platform.machine,
            seq=seq,
            records=len(kept(entries)),
            blobs=len(digests),
            records_digest=hashlib.sha256(records).hexdigest(),
            blobs_missing=len(missing),
            data_files=len(data),
            objects_elsewhere=platform.r2_endpoint,
            keys_given=len(own) < len(held),
        )
        members = {
            ABOUT: msgspec.json.format(msgspec.json.encode(about)),
            f"keys/{layout.token.name}": layout.token.read_bytes(),
            **({f"keys/{layout.secrets_key.name}": render(own).encode()} if own else {}),
            RECORDS: records,
        }
        _write(file, members, data, blobs, digests)
    return about


def _write(
    file: Path,
    members: Mapping[str, bytes],
    data: Iterable[Taken],
    blobs: Blobs,
    digests: Iterable[str],
) -> None:
    with _new_file(file) as raw, tarfile.open(fileobj=raw, mode="w") as tar:
        for name, content in members.items():
            _add(tar, name, content)
        add_data(tar, data)
        for digest in digests:
            _add(tar, f"blobs/{digest}", blobs.read(digest))
        raw.flush()
        os.fsync(raw.fileno())


def _keys(layout: Layout) -> list[Path]:
    return [layout.token, layout.secrets_key]


def _new_file(file: Path) -> io.BufferedWriter:
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise KytheraError(f"{file} exists.", remedy="Name a new file for the backup.") from None
    except OSError as error:
        raise KytheraError(f"{file} cannot be written: {error.strerror}.") from error
    return os.fdopen(descriptor, "wb")


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o600
    tar.addfile(member, io.BytesIO(data))


def restore(file: Path, layout: Layout) -> About:
    """Fill a new state folder from an archive; `kythera up` on it serves what was saved.

    Raises KytheraError, and leaves no platform behind, when the archive is not whole."""
    if layout.platform.exists() or layout.copy.exists() or layout.token.exists():
        raise KytheraError(
            f"{layout.state} holds a platform already.",
            remedy="Restore into a new folder: --state DIR.",
        )
    about = check(file)
    layout.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    blobs = Blobs(layout.blobs)
    for name, content, size in _members(file):
        folder, _, leaf = name.rpartition("/")
        if name.startswith(FOLDER):
            read_file(name, content, size, layout.data)
        elif folder == "blobs":
            blobs.put(content.read())
        elif name == RECORDS:
            write_private(layout.state / PENDING, content.read())
        elif folder == "keys" and leaf in {path.name for path in _keys(layout)}:
            write_private(layout.state / leaf, content.read())
    # Last, because its presence says that the folder holds a platform.
    # No addresses of the other platform: port 0 shall find a free one, not the usual one again.
    doors = {"http": "127.0.0.1:0", "api": "127.0.0.1:0"}
    settings = {
        "account_id": about.account_id,
        "machine": about.machine,
        "domain": about.domain,
        **doors,
    }
    write_private(layout.platform, msgspec.json.encode(settings))
    return about


def check(file: Path) -> About:
    """Read an archive to its end without keeping anything. Raises KytheraError."""
    with _reading(file):
        return _checked(file)


def _checked(file: Path) -> About:
    about: About | None = None
    records_digest, blobs = "", 0
    data: list[DataFile] = []
    listing: list[DataFile] = []
    for name, content, size in _members(file):
        if name == ABOUT:
            about = _about(file, content.read())
        elif name == RECORDS:
            records_digest = hashlib.sha256(content.read()).hexdigest()
        elif name == LISTING:
            listing = listed(content.read())
        elif name.startswith(FOLDER):
            data.append(read_file(name, content, size, None))
        elif name.startswith("blobs/"):
            _check_blob(file, name.removeprefix("blobs/"), content.read())
            blobs += 1
    found = (records_digest, blobs, len(data))
    whole = about is not None and found == (about.records_digest, about.blobs, about.data_files)
    if about is None or not whole or data != listing:
        raise KytheraError(
            f"{file} is not a whole backup.", remedy="Use another one: this was cut or changed."
        )
    return about


def _about(file: Path, data: bytes) -> About:
    try:
        about = msgspec.json.decode(data, type=About)
    except msgspec.MsgspecError as error:
        raise KytheraError(f"{file} is not a backup of Kythera: {error}.") from error
    if about.format not in FORMATS:
        raise KytheraError(
            f"{file} has format {about.format}; this Kythera reads up to {FORMAT}.",
            remedy="Use the Kythera that made it, or a newer one.",
        )
    return about


def _check_blob(file: Path, digest: str, data: bytes) -> None:
    if DIGEST.fullmatch(digest) is None or hashlib.sha256(data).hexdigest() != digest:
        raise KytheraError(f"{file} holds a damaged blob ({digest[:80]}).")


def _members(file: Path) -> Iterator[tuple[str, IO[bytes], int]]:
    """Yield each member's name, content and size; the content is read before the next one."""
    with _reading(file), tarfile.open(file) as tar:
        for member in tar:
            fits = member.size <= MEMBER_BYTES_MAX or member.name.startswith(FOLDER)
            content = tar.extractfile(member) if fits else None
            if content is not None:
                yield member.name, content, member.size


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, tarfile.TarError) as error:
        raise KytheraError(f"{file} cannot be read as a backup: {error}.") from error


def pending(layout: Layout) -> Sequence[tuple[str, bytes]]:
    """Return (key, value) of what a restored platform still has to write, in order."""
    try:
        data = (layout.state / PENDING).read_bytes()
        rows = msgspec.json.decode(data, type=list[tuple[int, str, bytes]])
    except FileNotFoundError:
        return []
    except msgspec.MsgspecError as error:
        raise StoreUnavailable(f"{layout.state / PENDING} is damaged: {error}.") from error
    return [(key, value) for _, key, value in sorted(rows)]


def is_restoring(layout: Layout) -> bool:
    """Tell whether a restored platform still has something to write."""
    return (layout.state / PENDING).exists()


def written(layout: Layout) -> None:
    """Note that the log has taken everything."""
    (layout.state / PENDING).unlink(missing_ok=True)
