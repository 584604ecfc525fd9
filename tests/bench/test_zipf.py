"""Homes on a Zipf trace: the model itself, small enough to be looked through."""

from bench.zipf import Fleet, Ring, Trace, figures

SMALL = Trace(workers=200, rate=10.0, seconds=300.0, settle_s=300.0)


def test_homes_keep_more_requests_warm_with_less_memory() -> None:
    """The same trace twice; nothing is asked of another machine without homes."""
    without, with_homes = Fleet(SMALL, homes=False).run(), Fleet(SMALL, homes=True).run()
    assert without.requests == with_homes.requests > 2_000
    assert (without.forwarded, with_homes.forwarded > 0) == (0, True)
    assert with_homes.warm_share > without.warm_share + 3
    assert with_homes.cells < without.cells * 0.9


def test_equal_seeds_give_equal_figures() -> None:
    """A figure can be found again."""
    assert figures(SMALL) == figures(SMALL)


def test_a_busy_home_lets_the_next_take_it() -> None:
    """The ring moves few names when a machine is full, and always finds one."""
    ring = Ring(5, 150)
    names = [("a", f"w{number}") for number in range(200)]
    homes = {name: ring.home(name, [0] * 5) for name in names}
    assert len(set(homes.values())) == 5
    full = homes[names[0]]
    inside = [9 if machine == full else 0 for machine in range(5)]
    for name, home in homes.items():
        assert ring.home(name, inside) == home or home == full
        assert ring.home(name, inside) != full
