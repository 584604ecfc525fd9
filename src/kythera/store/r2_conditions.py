"""`onlyIf` and `range`, decided. Pure.

As HTTP's conditional headers are (RFC 9110 §13): an etag that decides makes its date beside it count
no more; one that must match is compared strongly, one that must not weakly.
"""

import re
from collections.abc import Iterable

from msgspec import UNSET

from kythera.store.r2_errors import invalid_range
from kythera.store.r2_objects import Found
from kythera.store.r2_protocol import NOTHING_64, Conditional, Etag, Range

SINGLE = re.compile(r"bytes=(\d{1,18})?-(\d{1,18})?")


def holds(condition: Conditional | None, found: Found | None) -> bool:
    """Tell whether a condition holds of an object, or of its absence."""
    if condition is None:
        return True
    if found is None:
        return condition.etag_matches is UNSET and condition.uploaded_after == NOTHING_64
    return _matches(condition, found) and _differs(condition, found)


def _matches(condition: Conditional, found: Found) -> bool:
    if condition.etag_matches is not UNSET:
        return _names(condition.etag_matches, found, weakly=False)
    if condition.uploaded_before == NOTHING_64:
        return True
    return _moment(found.uploaded_ms, condition) < _moment(condition.uploaded_before, condition)


def _differs(condition: Conditional, found: Found) -> bool:
    if condition.etag_does_not_match is not UNSET:
        return not _names(condition.etag_does_not_match, found, weakly=True)
    if condition.uploaded_after == NOTHING_64:
        return True
    return _moment(condition.uploaded_after, condition) < _moment(found.uploaded_ms, condition)


def _names(etags: Iterable[Etag], found: Found, *, weakly: bool) -> bool:
    def names(etag: Etag) -> bool:
        if etag.type == "wildcard":
            return True
        return etag.value == found.etag and (weakly or etag.type == "strong")

    return any(names(etag) for etag in etags)


def _moment(at_ms: int, condition: Conditional) -> int:
    return at_ms // 1000 * 1000 if condition.seconds_granularity else at_ms


def range_header(wanted: Range | None, header: str) -> str:
    """Return HTTP's header for the part that is wanted; empty: the whole.

    Raises Refusal (10039) for a part of no bytes. A header that names no single part is ignored."""
    if wanted is None:
        return header if SINGLE.fullmatch(header) and header != "bytes=-" else ""
    if wanted.suffix != NOTHING_64:
        if wanted.suffix == 0:
            raise invalid_range()
        return f"bytes=-{wanted.suffix}"
    offset = 0 if wanted.offset == NOTHING_64 else wanted.offset
    if wanted.length == NOTHING_64:
        return f"bytes={offset}-" if offset else ""
    if wanted.length == 0:
        raise invalid_range()
    return f"bytes={offset}-{offset + wanted.length - 1}"


def range_given(content_range: str) -> dict[str, str] | None:
    """Return which part an answer holds (`bytes 1-2/5`), as workerd reads it."""
    found = re.fullmatch(r"bytes (\d+)-(\d+)/\d+", content_range)
    if found is None:
        return None
    first, last = int(found[1]), int(found[2])
    return {"offset": str(first), "length": str(last - first + 1)}
