"""A page of a bucket's list: keys in order, those below a delimiter folded into one. Pure but for
what it is given to ask.

The engine lists flat names page by page; folding is done here, by whole keys. A folded prefix is
skipped by one question, not by reading what lies below it. A cursor is the last key or prefix that was
shown: it outlives what happens to the bucket meanwhile.
"""

import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping

from msgspec import Struct, field

from kythera.store.r2_errors import invalid_argument, invalid_max_keys
from kythera.store.r2_keys import LAST, engine_name, key_of
from kythera.store.r2_protocol import Question

KEYS_MAX = 1_000


class Names(Struct, frozen=True):
    """A page of the engine's names."""

    names: list[str]
    more: bool


Ask = Callable[[str, str, int], Awaitable[Names]]
"""Prefix, name after which to begin, how many at most → the engine's names."""


class Page(Struct):
    """What a list shows."""

    keys: list[str] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    cursor: str = ""
    """Empty: that was all."""

    def __len__(self) -> int:
        return len(self.keys) + len(self.prefixes)


def as_cursor(last: str) -> str:
    """Return where the next page begins, as text that says nothing."""
    return base64.urlsafe_b64encode(last.encode()).decode()


def from_cursor(text: str) -> str:
    """Read a cursor. Raises Refusal (10029)."""
    try:
        return base64.urlsafe_b64decode(text.encode()).decode()
    except (binascii.Error, ValueError):
        raise invalid_argument("The cursor is none of this bucket's.") from None


async def page(question: Question, ask: Ask) -> Page:
    """Return one page. Raises Refusal (10022, 10029)."""
    if not 1 <= question.limit <= KEYS_MAX:
        raise invalid_max_keys()
    found = Page()
    last = from_cursor(question.cursor) if question.cursor else question.start_after
    after = _beyond(last, question)
    prefix = engine_name(question.prefix)
    more = True
    while more and len(found) < question.limit:
        names = await ask(prefix, after, question.limit - len(found))
        more, after = names.more, names.names[-1] if names.names else after
        for name in names.names:
            last = key_of(name)
            folded = _folded(last, question)
            if not folded:
                found.keys.append(last)
                continue
            last = folded
            found.prefixes.append(folded)
            after, more = engine_name(folded) + LAST, True
            break
    if more and len(found) >= question.limit and (await ask(prefix, after, 1)).names:
        found.cursor = as_cursor(last)
    return found


def _folded(key: str, question: Question) -> str:
    """Return the prefix under which a key is shown; empty: under its own name."""
    if not question.delimiter:
        return ""
    place = key.find(question.delimiter, len(question.prefix))
    return "" if place < 0 else key[: place + len(question.delimiter)]


def _beyond(last: str, question: Question) -> str:
    """Return the name after which to go on; of a folded prefix, after all below it."""
    if last and _folded(last, question) == last:
        return engine_name(last) + LAST
    return engine_name(last)


def cut(shown: Page, sizes: Mapping[str, int], bytes_max: int) -> Page:
    """Return as much of a page as fits, by the size of each object's document: one entry at least."""
    entries = sorted([*shown.keys, *shown.prefixes], key=lambda name: name.encode())
    total = 0
    for n, name in enumerate(entries):
        total += sizes.get(name, len(name) + 8)
        if total > bytes_max and n:
            left = set(entries[:n])
            return Page(
                keys=[key for key in shown.keys if key in left],
                prefixes=[prefix for prefix in shown.prefixes if prefix in left],
                cursor=as_cursor(entries[n - 1]),
            )
    return shown
