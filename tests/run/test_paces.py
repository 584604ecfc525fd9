"""Which processes are busy: told once for each change, with a gap between the two edges."""

from kythera.run.paces import Paces


def test_a_process_that_burns_a_core_is_busy_until_it_rests() -> None:
    """Goal: no change back and forth in between. Method: shares of a core, a second each."""
    paces, burnt = Paces(), 0.0
    told = []
    for second, share in enumerate([0.0, 0.4, 0.9, 0.3, 0.2, 0.4, 0.6, 0.3, 0.1]):
        burnt += share
        told.append(paces.look({1: burnt}, float(second)).get(1))
    assert told == [True, None, None, None, False, None, True, None, False]


def test_processes_are_told_apart_and_forgotten() -> None:
    """Goal: a number that comes back begins anew, as busy as whatever starts."""
    paces = Paces()
    assert paces.look({1: 0.0, 2: 0.0}, 0.0) == {1: True, 2: True}
    assert paces.look({1: 1.0, 2: 0.1}, 1.0) == {2: False}
    assert paces.look({2: 0.2}, 2.0) == {}
    assert paces.look({1: 9.0, 2: 0.3}, 3.0) == {1: True}
    assert paces.look({1: 9.1, 2: 0.3}, 3.0) == {}, "no time has passed"
