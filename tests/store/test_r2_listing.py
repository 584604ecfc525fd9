"""R2's lists, checked against a list of keys in memory."""

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.model.errors import Refusal
from kythera.store.r2_keys import engine_name
from kythera.store.r2_listing import Names, Page, cut, page
from kythera.store.r2_protocol import Question

KEYS = st.sets(st.text(alphabet="ab/-.", min_size=1, max_size=5), max_size=14)
PAGES_MAX = 200


class Engine:
    """A fake that lists names in their order, in short pages."""

    def __init__(self, keys: set[str], page_names_max: int) -> None:
        self.names = sorted((engine_name(key) for key in keys), key=str.encode)
        self.page_names_max = page_names_max

    async def ask(self, prefix: str, after: str, most: int) -> Names:
        """Return one page."""
        found = [n for n in self.names if n.startswith(prefix) and n.encode() > after.encode()]
        part = found[: min(most, self.page_names_max)]
        return Names(part, more=len(part) < len(found))


def expected(keys: set[str], prefix: str, delimiter: str) -> list[str]:
    """Return what a list shows, by its definition."""
    shown = set()
    for key in keys:
        if not key.startswith(prefix):
            continue
        place = key.find(delimiter, len(prefix)) if delimiter else -1
        shown.add(key if place < 0 else key[: place + len(delimiter)])
    return sorted(shown, key=str.encode)


async def pages(engine: Engine, question: Question) -> list[Page]:
    """Return all pages, by their cursors."""
    found = [await page(question, engine.ask)]
    while found[-1].cursor:
        assert len(found) < PAGES_MAX, "the cursor stands still"
        following = Question(
            method="list",
            limit=question.limit,
            prefix=question.prefix,
            delimiter=question.delimiter,
            cursor=found[-1].cursor,
        )
        found.append(await page(following, engine.ask))
    return found


@given(
    keys=KEYS,
    prefix=st.sampled_from(["", "a", "a/", "a.", "b-"]),
    delimiter=st.sampled_from(["", "/", "-", "/a"]),
    limit=st.integers(1, 5),
    page_names_max=st.integers(1, 4),
)
def test_pages_hold_every_key_once_and_in_order(
    keys: set[str], prefix: str, delimiter: str, limit: int, page_names_max: int
) -> None:
    """Goal: whatever the pages, together they are the list; no cursor after the last of them."""
    question = Question(method="list", limit=limit, prefix=prefix, delimiter=delimiter)
    found = anyio.run(pages, Engine(keys, page_names_max), question)
    shown = [sorted([*one.keys, *one.prefixes], key=str.encode) for one in found]
    assert [name for one in shown for name in one] == expected(keys, prefix, delimiter)
    assert all(len(one) == limit for one in found[:-1])


@given(keys=KEYS, after=st.text(alphabet="ab/-.", max_size=5))
def test_a_list_starts_after_a_key(keys: set[str], after: str) -> None:
    """Goal: `startAfter`, whether the key is there or not."""
    found = anyio.run(page, Question(method="list", start_after=after), Engine(keys, 3).ask)
    assert found.keys == sorted((k for k in keys if k.encode() > after.encode()), key=str.encode)


@pytest.mark.parametrize("limit", [0, 1_001])
def test_a_limit_that_cannot_be_is_refused(limit: int) -> None:
    """Goal: Cloudflare's 10022."""
    with pytest.raises(Refusal) as refused:
        anyio.run(page, Question(method="list", limit=limit), Engine(set(), 1).ask)
    assert refused.value.code == 10022


def test_a_page_that_is_too_large_goes_on_where_it_was_cut() -> None:
    """Goal: workerd takes a mebibyte; the rest comes with the next page."""
    whole = Page(keys=["a", "c", "d"], prefixes=["b/"])
    part = cut(whole, {"a": 10, "c": 90, "d": 10}, 100)
    assert (part.keys, part.prefixes) == (["a"], ["b/"])
    engine = Engine({"a", "b/1", "c", "d"}, 10)
    rest = Question(method="list", delimiter="/", cursor=part.cursor)
    assert anyio.run(page, rest, engine.ask).keys == ["c", "d"]
    assert cut(whole, {}, 10_000) == whole
