"""`kythera machine promote` and `demote` against a fake API: what they ask for, what they show."""

import json
from typing import Any

import pytest

from kythera.cli.machine_core import progress_line
from tests.cli.conftest import Run
from tests.cli.fake_api import FakeApi

CORE = "/kythera/core"
THREE = ["m1", "m2", "m3"]


def moving(step: str, copied: int = 0) -> dict[str, Any]:
    """Return a log that is moving to three machines."""
    return {
        "machines": ["m1"],
        "epoch": 1,
        "wanted": THREE,
        "moving": True,
        "step": step,
        "copied_to": copied,
        "last_seq": 100,
    }


HELD = {"machines": THREE, "epoch": 2, "wanted": [], "moving": False}


def test_promote_shows_how_far_it_is_and_ends_when_they_hold_the_log(
    api: FakeApi, run: Run
) -> None:
    """Goal: one command, no guessing. Method: two steps, then done."""
    api.answers[f"PATCH {CORE}"] = [moving("waits for its machines to begin")]
    api.answers[f"GET {CORE}"] = [moving("copies", 50), HELD]
    ran = run("machine", "promote", "m2", "m3", "--instead-of", "m9")
    assert ran.code == 0
    assert ran.out.splitlines() == [
        "  [##########..........] copies",
        "  [####################] done",
        "The log is held by m1, m2, m3.",
    ]
    asked = api.asked("PATCH", CORE).json()
    assert asked == {"promote": ["m2", "m3"], "demote": ["m9"]}


def test_a_move_that_takes_longer_is_told_and_goes_on(api: FakeApi, run: Run) -> None:
    """Goal: a wait has an end, and says for whom it waits. Method: a machine that is not there."""
    api.answers[f"PATCH {CORE}"] = [moving("")]
    api.answers[f"GET {CORE}"] = [moving("waits for the new servers of m3")]
    ran = run("machine", "demote", "m2", "--wait", "0.01")
    assert ran.code == 1
    assert "for the new servers of m3" in ran.err
    assert api.asked("PATCH", CORE).json() == {"demote": ["m2"]}


def test_a_move_that_is_not_waited_for_is_told_as_json(api: FakeApi, run: Run) -> None:
    """Goal: scripts may go on. Method: --wait 0 --json."""
    api.answers[f"PATCH {CORE}"] = [moving("")]
    ran = run("machine", "promote", "m2", "m3", "--wait", "0", "--json")
    assert json.loads(ran.out)["wanted"] == THREE
    assert [call.method for call in api.calls] == ["PATCH"]


@pytest.mark.parametrize(
    ("core", "line"),
    [
        (moving("copies", 100), "  [####################] copies"),
        ({**moving("waits"), "last_seq": 0}, "  [....................] waits"),
        (HELD, "  [####################] done"),
    ],
)
def test_a_bar_is_as_long_as_the_share_that_was_copied(core: dict[str, Any], line: str) -> None:
    """Goal: a person sees progress. Method: whole, unknown, done."""
    assert progress_line(core) == line
