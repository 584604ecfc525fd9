"""An engine that writes nothing any more is told from one whose disk is full, and from passing trouble."""

from kythera.store.r2_health import AGAIN_S, FORGET_S, EngineHealth


def ails(*refusals: tuple[float, bool], at: float) -> bool:
    """Tell what is said of an engine that refused at these times, with room or without."""
    health = EngineHealth()
    for now, room in refusals:
        health.refused(now, room=room)
    return health.ails(at)


def test_an_engine_ails_that_refuses_again_and_again_with_room() -> None:
    """Goal: a full disk is no fault of the engine's; one refusal, or two at once, are none either."""
    assert ails((10, True), (10 + AGAIN_S, True), at=12)
    assert not ails((10, False), (12, False), at=12)
    assert not ails((10, False), (12, True), at=12)
    assert not ails((10, True), (10.1, True), at=12)
    assert not ails((10, True), at=12)


def test_what_is_long_ago_is_forgotten() -> None:
    """Goal: two troubles on two days are two troubles."""
    assert not ails((10, True), (11 + FORGET_S, True), at=12 + FORGET_S)
    assert not ails((10, True), (12, True), at=13 + FORGET_S)


def test_it_is_said_once() -> None:
    """Goal: an engine that was just started anew is not started anew for what was before."""
    health = EngineHealth()
    health.refused(10, room=True)
    health.refused(12, room=True)
    assert health.ails(12)
    assert not health.ails(12)
