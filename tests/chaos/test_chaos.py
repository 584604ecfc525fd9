"""A real fleet in trouble for a minute or so: nothing acknowledged is lost or applied twice."""

import anyio
import pytest

from tests.chaos.faults import KINDS, draw
from tests.chaos.run import chaos

SEED = 3
FAULTS = 9
WITHIN_S = 50.0
MACHINES = ["m1", "m2", "m3", "m4", "m5"]


@pytest.mark.story
def test_no_acknowledged_write_is_lost_while_everything_fails(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Goal: the promise to those who write. Method: five machines, four writers, nine faults."""
    said: list[str] = []
    verdict = anyio.run(chaos, SEED, FAULTS, WITHIN_S, said.append)
    acknowledged = sum(write.outcome == "ok" for write in verdict.history.writes)
    assert not verdict.violations, "\n".join([verdict.text(), *said])
    assert acknowledged > 40, "too little was written to show anything\n" + verdict.text()


def test_a_seed_draws_the_same_faults_and_every_kind_before_any_repeats() -> None:
    """Goal: a bad run can be told to somebody. Method: draw twice; count."""
    first = draw(7, len(KINDS), 60, MACHINES, MACHINES[:3])
    assert first == draw(7, len(KINDS), 60, MACHINES, MACHINES[:3])
    assert {fault.kind for fault in first} == set(KINDS)
    assert all(fault.ends_s > fault.begins_s for fault in first)
    assert first != draw(8, len(KINDS), 60, MACHINES, MACHINES[:3])
