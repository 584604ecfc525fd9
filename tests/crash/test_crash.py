"""What was acknowledged is there, whatever is killed; and the test that says so can be failed."""

from collections.abc import Iterator

import pytest

from tests.crash.ledger import STORES
from tests.crash.plan import Wanted
from tests.crash.run import Crash
from tests.platforms import start

pytestmark = pytest.mark.story
ROUNDS, ROUNDS_PLANTED_MAX = 8, 40
PLANTED_SETTLED_S = 4.0


@pytest.fixture(scope="module")
def crash(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crash]:
    """A platform with one worker that uses all stores."""
    folder = tmp_path_factory.mktemp("crash")
    found = Crash(start(folder / "state"), seed=1)
    try:
        found.begin(folder)
        yield found
    finally:
        found.platform.stop()


def test_what_was_acknowledged_is_there_whatever_is_killed(crash: Crash) -> None:
    """Some rounds of it; `make crash` goes through two hundred."""
    crash.run(range(1, ROUNDS + 1))
    assert not crash.report(), "\n".join(crash.report())
    assert sum(crash.kills.values()) >= ROUNDS // 2, crash.kills
    assert {store for store, _ in crash.ledger.names} == set(STORES)


@pytest.mark.parametrize(
    ("planted", "store"),
    [
        *(
            ("early", store)
            for store in ("kv", "large", "r2", "parts", "d1", "alarm", "queue", "dead")
        ),
        ("early", "object"),
        ("twice", "object"),
    ],
)
def test_a_worker_that_lies_is_found_out(crash: Crash, planted: str, store: str) -> None:
    """Planted, in one store at a time: an acknowledgement before the write, and a second instance of an
    object. Method: the cell that has still to write is killed."""
    wanted = Wanted(stores=(store,), kinds=("cell",), always=True)
    found = Crash(crash.platform, seed=1, wanted=wanted, planted=planted, prefix=planted)
    found.settled_s_max = PLANTED_SETTLED_S
    for number in range(1, ROUNDS_PLANTED_MAX):
        found.round(number)
        if store in ("alarm", "queue", "dead"):
            found.settle()
        if found.ledger.broken:
            break
    crash.platform = found.platform
    assert any(wrong.startswith(f"{store} ") for wrong in found.ledger.broken), found.said()
