"""A move of the log that is given up leaves a log that takes writes."""

import pytest

from kythera.distribute.moving import Facts, Freeze, Nothing, Thaw, Wait, next_step
from kythera.distribute.stream import StreamState
from kythera.model.records import Core

OPEN = StreamState(True, False, 1, 9, 9, 1)
FROZEN = StreamState(False, True, 1, 9, 9, 1)
AT_REST = Core(machines=("a",), wanted_epoch=2)
WISHED = Core(machines=("a",), wanted=("a", "b", "c"), wanted_epoch=2)


def test_a_wish_given_up_in_the_moment_of_the_freeze_thaws_the_log() -> None:
    """Who drives had looked before the wish ended, and froze the log after it had."""
    everybody = frozenset(WISHED.wanted)
    assert next_step(Facts(core=WISHED, old=OPEN, answering=everybody, led=True)) == Freeze()
    assert next_step(Facts(core=AT_REST, old=FROZEN)) == Thaw()


@pytest.mark.parametrize("old", [OPEN, None])
def test_a_log_that_is_not_to_move_is_left_alone(old: StreamState | None) -> None:
    """Nobody wishes anything; or its servers do not answer."""
    assert next_step(Facts(core=AT_REST, old=old)) == Nothing()


def test_a_frozen_log_that_is_still_to_move_is_not_thawed() -> None:
    """Its records may have been copied already."""
    assert isinstance(next_step(Facts(core=WISHED, old=FROZEN)), Wait)
