"""What was acknowledged is there, whatever is killed; and the test that says so can be failed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.run import Crash, project
from tests.platforms import start
from tests.wranglers import VERSIONS, Wrangler

pytestmark = pytest.mark.story
NEWEST = max(VERSIONS, key=lambda version: [int(part) for part in version.split(".")])
ROUNDS, ROUNDS_PLANTED_MAX = 8, 40


@pytest.fixture
def crash(tmp_path: Path) -> Iterator[Crash]:
    """A platform with one worker that uses all stores."""
    platform = start(tmp_path / "state")
    found = Crash(platform, seed=1)
    try:
        deployed = Wrangler(NEWEST, platform, tmp_path / "home").run(
            "deploy", project=project(tmp_path / "project")
        )
        assert deployed.code == 0, deployed.text
        found.begin()
        yield found
    finally:
        found.platform.stop()


def test_what_was_acknowledged_is_there_whatever_is_killed(crash: Crash) -> None:
    """Eight rounds of it; `make crash` goes through two hundred."""
    crash.run(ROUNDS)
    assert crash.ledger.broken == []
    assert sum(crash.kills.values()) >= ROUNDS // 4, crash.kills
    assert len(crash.stores) == 5, crash.stores


def test_a_worker_that_acknowledges_before_it_writes_is_found_out(crash: Crash) -> None:
    """The planted fault."""
    crash.early = True
    for _ in range(ROUNDS_PLANTED_MAX):
        crash.run(1, settles=False)
        if crash.ledger.broken:
            return
    raise AssertionError(f"nothing was missed in {ROUNDS_PLANTED_MAX} rounds: {crash.kills}")
