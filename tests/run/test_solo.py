"""A cell whose process was ended gets one request at a time, until it has been calm for a while."""

from kythera.run.solo import SOLO_S, Solo


def test_a_cell_is_told_once_however_often_its_processes_are_ended() -> None:
    """Each end makes it longer."""
    solo = Solo()
    assert [solo.begin("c1", now) for now in (0.0, 0.5, 1.9)] == [True, False, False]
    assert solo.over(1.9 + SOLO_S - 0.01) == []
    assert solo.over(1.9 + SOLO_S) == ["c1"]


def test_a_calm_cell_is_forgotten_and_told_again_the_next_time() -> None:
    """Nothing is kept of cells that behave."""
    solo = Solo()
    solo.begin("c1", 0.0)
    solo.begin("c2", 1.0)
    assert solo.over(SOLO_S) == ["c1"]
    assert solo.over(SOLO_S) == []
    assert solo.begin("c1", SOLO_S)
    assert not solo.begin("c2", SOLO_S)
