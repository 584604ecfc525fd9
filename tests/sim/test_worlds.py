"""The deciding code under random histories: safe at every step, at rest after healing."""

import pytest

from kythera.run.decide import WorkerCells
from kythera.sim.planted import MISTAKES, planted
from kythera.sim.world import Violation, World

WORLDS = 500
WORLDS_A_TEST = 50
SEEDS_UNTIL_FOUND_MAX = 300


@pytest.mark.parametrize("first", range(0, WORLDS, WORLDS_A_TEST))
def test_random_histories_keep_every_promise_and_come_to_rest(first: int) -> None:
    """Deploys, splits, tails, deletions, crashes, hangs and agent restarts, from seeds."""
    for seed in range(first, first + WORLDS_A_TEST):
        World(seed).run()


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda kind: kind.__name__)
def test_a_planted_mistake_is_found(mistake: type[WorkerCells]) -> None:
    """Each mistake breaks a promise in one of the first worlds."""

    def live() -> None:
        for seed in range(SEEDS_UNTIL_FOUND_MAX):
            World(seed, planted(mistake)).run()

    with pytest.raises(Violation, match=r"replay: python -m kythera\.sim --seed \d+"):
        live()


def test_the_same_seed_makes_the_same_world() -> None:
    """Two runs of one seed tell the same story, line by line."""
    first, second = World(7), World(7)
    first.run()
    second.run()
    assert first.story == second.story
    assert first.machine.served == second.machine.served > 0
