"""The planet's ordered log of records, as the rest of Kythera sees it.

Promises: one order for all (`seq`); an acknowledged append survives a loss of power; a retry with
the same message id is applied once; `follow` resumes after any cut without a gap. A key's newer
value may stand in for its older ones (the log is compacted), so a follower sees the latest of each
key, never all.
Refuses: records over `record_bytes_max`, keys that are not plain tokens, empty values (on the wire
an empty body is a tombstone).
"""

import re
from collections.abc import AsyncGenerator
from typing import NamedTuple, Protocol

from kythera.model.errors import KytheraError, StoreUnavailable

KEY = re.compile(r"[A-Za-z0-9_$=/~-]+(\.[A-Za-z0-9_$=/~-]+)*")
"""Tokens between dots; no wildcard, no blank: a key is the tail of a NATS subject."""

KEY_BYTES_MAX = 400
"""LMDB takes 511 bytes, a NATS control line 4,096."""


class Entry(NamedTuple):
    """One fact in the log's order; `value` None is the record's end (a tombstone)."""

    seq: int
    key: str
    value: bytes | None


class LogBehind(StoreUnavailable):
    """The log ends before what this machine has already applied: its store was lost or replaced."""


class LogPruned(StoreUnavailable):
    """The log no longer tells which records ended since then: only a snapshot helps."""


class Log(Protocol):
    """What MemoryLog and JetStreamLog both are; one contract suite holds them to it."""

    async def append(
        self,
        key: str,
        value: bytes | None,
        *,
        expected_seq: int | None = None,
        message_id: str | None = None,
    ) -> int:
        """Write a record (None: its end) and return its sequence number once it is durable.

        `expected_seq` is the sequence of the key's entry that was read, 0 for "must not exist";
        Conflict when somebody else was first. Retried with one message id until `append_ms`, then
        StoreUnavailable: the write may or may not have happened, and repeating the call with the
        same `message_id` within two minutes is safe.
        """
        ...

    def follow(self, after_seq: int) -> AsyncGenerator[list[Entry], None]:
        """Yield what comes after `after_seq`, in order, in batches; resumes by itself, never ends.

        An empty batch says that it has just resumed after a break.

        Raises LogBehind when the log ends before `after_seq`. Close it (`contextlib.aclosing`).
        """
        ...

    async def last_seq(self) -> int:
        """Return the newest sequence number, 0 for an empty log."""
        ...


def refuse_bad_record(key: str, value: bytes | None, bytes_max: int) -> None:
    """Raise KytheraError for a record that must never be sent."""
    if len(key) > KEY_BYTES_MAX or KEY.fullmatch(key) is None:
        raise KytheraError(f"{key[:80]!r} cannot be a record's key.")
    if value is None:
        return
    if not value:
        raise KytheraError(f"Record {key} has no content.", remedy="Write None to end a record.")
    if len(value) > bytes_max:
        raise KytheraError(
            f"Record {key} has {len(value):,} bytes; {bytes_max:,} are allowed.",
            remedy="Move large content into a blob and keep its digest in the record.",
        )
