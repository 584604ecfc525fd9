"""A fleet's deciding code under random histories: safe at every step, one again after healing."""

import pytest

from kythera.sim.fleet_decisions import Decisions
from kythera.sim.fleet_planted import MISTAKES
from kythera.sim.fleet_world import LIMITS, FleetWorld
from kythera.sim.world import Violation

WORLDS = 1_000
WORLDS_A_TEST = 50
SEEDS_UNTIL_FOUND_MAX = 200
SEEDS_FROM = {"AdmitsAnybody": 1_200}
"""Where to begin for what shows in few worlds: a removed machine has to come by, in one of 160."""


@pytest.mark.parametrize("first", range(0, WORLDS, WORLDS_A_TEST))
def test_random_histories_of_fleets_keep_every_promise_and_converge(first: int) -> None:
    """Cuts, losses, reordering, repeats, crashes, hangs, clock steps and old disks, from seeds."""
    for seed in range(first, first + WORLDS_A_TEST):
        FleetWorld(seed).run()


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda kind: kind.__name__)
def test_a_mistake_planted_in_a_fleet_is_found(mistake: type[Decisions]) -> None:
    """Each mistake breaks a promise in one of so many worlds."""
    first = SEEDS_FROM.get(mistake.__name__, 0)

    def live() -> None:
        for seed in range(first, first + SEEDS_UNTIL_FOUND_MAX):
            FleetWorld(seed, mistake(LIMITS)).run()

    with pytest.raises(Violation, match=r"replay: python -m kythera\.sim --fleet --seed \d+"):
        live()


def test_the_same_seed_makes_the_same_fleet() -> None:
    """Two runs of one seed tell the same story, line by line."""
    first, second = FleetWorld(7), FleetWorld(7)
    first.run()
    second.run()
    assert first.fleet.story == second.fleet.story
    assert first.fleet.log.history == second.fleet.log.history
    assert len(first.fleet.log.history) > 50
