"""Which machines hold the log, in the API."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.control.fleets import Machines, machines
from tests.control.world import ACCOUNT

pytestmark = pytest.mark.anyio
API = f"/client/v4/accounts/{ACCOUNT}/kythera/core"


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Machines]:
    """Return a fleet of three; `a` is core."""
    async with machines(tmp_path) as made:
        yield made


async def test_every_machine_says_who_holds_the_log(fleet: Machines) -> None:
    """Goal: one computer. Method: ask each before anything was promoted."""
    for name in "abc":
        told = await fleet[name].ok("GET", API)
        assert (told["machines"], told["moving"]) == (["a"], False)


async def test_a_promotion_is_one_record_that_all_machines_see(fleet: Machines) -> None:
    """Goal: any machine may be asked. Method: promote through `b`, look through `c`; once more."""
    told = await fleet["b"].ok("PATCH", API, {"promote": ["b", "c"]})
    assert told["wanted"] == ["a", "b", "c"]
    assert told["moving"]
    assert (await fleet["c"].ok("GET", API))["step"] == "waits for its machines to begin"
    before = fleet["a"].stored()
    await fleet["a"].ok("PATCH", API, {"promote": ["c", "b"]})
    assert fleet["a"].stored() == before


async def test_a_move_can_be_given_up_before_it_begins(fleet: Machines) -> None:
    """Goal: a wish may be changed. Method: promote, then demote the same machines."""
    await fleet["a"].ok("PATCH", API, {"promote": ["b", "c"]})
    told = await fleet["b"].ok("PATCH", API, {"demote": ["b", "c"]})
    assert (told["machines"], told["moving"]) == (["a"], False)


@pytest.mark.parametrize(
    ("change", "status", "word"),
    [
        ({}, 400, "must name a machine"),
        ({"promote": ["b"]}, 409, "2 machines cannot hold the log"),
        ({"promote": ["b", "x"]}, 404, "no machine 'x'"),
        ({"demote": ["b"]}, 400, "does not hold the log"),
        ({"demote": ["a"]}, 409, "0 machines cannot hold the log"),
        ({"promote": ["b"], "demote": ["a"]}, 409, "none could copy it"),
        ({"promote": "b"}, 400, "list of machines"),
        ({"promote": [7]}, 400, "list of machines"),
    ],
)
async def test_a_wish_that_cannot_be_is_refused_in_words(
    fleet: Machines, change: object, status: int, word: str
) -> None:
    """Goal: nothing is begun that cannot end. Method: one of each kind."""
    answer = await fleet["a"].call("PATCH", API, json=change)
    assert answer.status_code == status
    assert word in answer.text
    assert (await fleet["a"].ok("GET", API))["moving"] is False
