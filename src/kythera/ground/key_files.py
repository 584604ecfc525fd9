"""The keys that seal secrets, as files: one key a line, base64 of 32 bytes, the oldest first.

Promises: a file of ours is whole or as it was, 0600, and never without a key it is not told to
drop; a file that the operator gives is read and never written. Refuses (SetupError, with a
remedy, never with content): files that others than their owner may read, lines that are no keys.

A key is added where it is kept before anybody hears of it, and dropped when nobody needs it; who
decides that is `deploy/resealing.py`.
"""

import base64
import binascii
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from kythera.ground.files import Stamp, stamp_of, write_private
from kythera.ground.layout import Layout
from kythera.model.envelope import KEY_BYTES, key_id
from kythera.model.errors import KytheraError, SetupError
from kythera.model.platform import Platform


def make_key() -> bytes:
    """Return a new key."""
    return os.urandom(KEY_BYTES)


def as_line(key: bytes) -> str:
    """Return a key as it stands in a file."""
    return base64.b64encode(key).decode()


def as_key(line: str, where: str) -> bytes:
    """Return the key in a line. Raises SetupError."""
    try:
        key = base64.b64decode(line.strip().encode(), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise SetupError(
            f"The secrets' key {where} is not base64.", remedy="Restore it from a backup."
        ) from None
    if len(key) != KEY_BYTES:
        raise SetupError(
            f"The secrets' key {where} has {len(key)} bytes; it must have {KEY_BYTES}.",
            remedy=f"A line is base64 of {KEY_BYTES} random bytes: head -c {KEY_BYTES} "
            "/dev/urandom | base64",
        )
    return key


def parse(text: str, where: str) -> tuple[bytes, ...]:
    """Return the keys in a text. Raises SetupError when there is none, or a line is none."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise SetupError(f"The secrets' key {where} is empty.", remedy="Restore it from a backup.")
    return tuple(dict.fromkeys(as_key(line, where) for line in lines))


def render(keys: Sequence[bytes]) -> str:
    """Return keys as a file holds them: a single one without a line end, as ever."""
    return "\n".join(as_line(key) for key in keys)


def read_keys(path: Path) -> tuple[bytes, ...]:
    """Read a file of keys. Raises SetupError."""
    try:
        mode = path.stat().st_mode
        text = path.read_text("ascii", errors="replace")
    except OSError as error:
        raise SetupError(
            f"The secrets' key {path} cannot be read: {error.strerror}.",
            remedy="`kythera up` makes one in the state folder; restore it from a backup if it was "
            "lost. A file of your own is named with --secrets-key FILE.",
        ) from None
    if mode & 0o077:
        raise SetupError(
            f"The secrets' key {path} can be read by others.", remedy=f"chmod 600 {path}"
        )
    return parse(text, str(path))


@dataclass(frozen=True)
class KeyFiles:
    """Where a machine's keys lie: its own file, and before or instead of it the operator's."""

    own: Path
    given: Path | None = None

    def read(self) -> tuple[bytes, ...]:
        """Return all keys: those of our own file first, as they are older. Raises SetupError."""
        own = read_keys(self.own) if self.given is None or self.own.exists() else ()
        given = read_keys(self.given) if self.given is not None else ()
        return tuple(dict.fromkeys((*own, *given)))

    def read_own(self) -> tuple[bytes, ...]:
        """Return the keys of our own file; none where there is none."""
        return read_keys(self.own) if self.own.exists() else ()

    def read_given(self) -> tuple[bytes, ...]:
        """Return the keys that the operator gives; none where he gives none."""
        return read_keys(self.given) if self.given is not None else ()

    def stamps(self) -> tuple[Stamp | None, ...]:
        """Return what changes when a file does."""
        return tuple(stamp_of(path) for path in (self.own, self.given) if path is not None)

    def add(self, key: bytes) -> None:
        """Keep another key. Raises KytheraError where the operator gives them."""
        if self.given is not None:
            raise KytheraError(
                f"This machine's keys are given by its operator, in {self.given}.",
                remedy="Add the new key there, as the last line.",
            )
        keys = self.read_own()
        if key not in keys:
            write_private(self.own, render((*keys, key)).encode())

    def keep_only(self, needed: Collection[str]) -> tuple[str, ...]:
        """Drop the keys of our own file whose ids are not needed; return the ids of those."""
        keys = self.read_own()
        kept = tuple(key for key in keys if key_id(key) in needed)
        if kept == keys:
            return ()
        if kept:
            write_private(self.own, render(kept).encode())
        else:
            assert self.given is not None, "a machine without any key"
            self.own.unlink()
        return tuple(key_id(key) for key in keys if key not in kept)


def key_files(layout: Layout, platform: Platform) -> KeyFiles:
    """Return where this machine's keys lie."""
    given = Path(platform.secrets_key) if platform.secrets_key else None
    return KeyFiles(layout.secrets_key, given)
