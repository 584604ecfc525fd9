"""Two answers, and in what they differ. Pure."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

UNALIKE = frozenset(
    {
        "date",  # of the moment
        "cf-ray",  # our front door's
        "connection",
        "keep-alive",
        "transfer-encoding",  # how a connection carries a body is between two neighbours
        "content-length",
    }
)


@dataclass(frozen=True)
class Answer:
    """What came back: header names in lower case, several of one name in their order."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> list[str]:
        """Return all values of a header."""
        return [value for found, value in self.headers if found == name]


Found = tuple[str, Any, Any]
"""Which part, what it is here, what it is there."""


def differences(here: Answer, there: Answer) -> list[Found]:
    """Return in what two answers differ."""
    found: list[Found] = []
    if here.status != there.status:
        found.append(("status", here.status, there.status))
    names = {name for name, _ in (*here.headers, *there.headers)} - UNALIKE
    for name in sorted(names):
        mine, theirs = here.header(name), there.header(name)
        if mine != theirs:
            found.append((f"header {name}", mine, theirs))
    found += _bodies(here.body, there.body)
    return found


def _bodies(here: bytes, there: bytes) -> Iterator[Found]:
    mine, theirs = _object(here), _object(there)
    if mine is None or theirs is None:
        if here != there:
            yield "body", here.decode(errors="replace"), there.decode(errors="replace")
        return
    for key in dict.fromkeys((*mine, *theirs)):
        if mine.get(key) != theirs.get(key):
            yield f"body {key}", mine.get(key), theirs.get(key)


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(body)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
