"""Cells that run are replaced now and then, one at a time, and nobody waits for it."""

import pytest

from kythera.model.limits import Limits
from kythera.run.cell import CloseSocket, OpenSocket, Order, Process, Start, Terminate, Want
from kythera.run.decide import RENEW_AGAIN_S, Cells
from kythera.run.renewal import lifetime_s
from kythera.sim.world import World
from tests.run.test_decide import KEY, LIMITS, Bench, name

LIFE_S = 1_000.0
LIVING = Limits(restart_s=LIFE_S, idle_stop_s=1e9, settle_ms=1_000, drain_ms=5_000, start_ms=2_000)


def running(limits: Limits = LIVING, workerd: str = "") -> Bench:
    """Return a bench with one version that serves."""
    bench = Bench(limits)
    bench.cells.use_workerd(workerd)
    bench.deploy(v1=100)
    bench.opened(name("v1"))
    bench.visit(name("v1"))
    settle(bench, [])
    return bench


def settle(bench: Bench, orders: list[Order]) -> None:
    """Carry out what is ordered: sockets open, processes are ready, terminated ones end."""
    for process in live(bench):
        if process.state == "starting":
            orders += bench.cells.process_ready(process.name, bench.now)
    while orders:
        orders = [following for order in orders for following in done(bench, order)]
        orders += bench.applied()


def done(bench: Bench, order: Order) -> list[Order]:
    """Carry out one order; return what follows from it."""
    match order:
        case OpenSocket(cell, _):
            return bench.cells.socket_opened(cell, bench.now)
        case Start(_, process):
            return bench.cells.process_ready(process, bench.now)
        case Terminate(process):
            return bench.cells.process_exited(process, bench.now)
        case CloseSocket(cell):
            return bench.cells.socket_closed(cell, bench.now)
    return []


def live(bench: Bench) -> list[Process]:
    """Return all processes."""
    cells = (cell for worker in bench.cells.workers.values() for cell in worker.cells.values())
    return [process for cell in cells for process in cell.processes.values()]


def live_on(bench: Bench, seconds: float, step_s: float = 1.0) -> list[Order]:
    """Let time pass and do what is ordered; return all of it."""
    seen: list[Order] = []
    end = bench.now + seconds
    while bench.now < end:
        orders = bench.after(step_s)
        seen += orders
        settle(bench, orders)
    return seen


def test_lives_differ_and_are_half_to_one_and_a_half() -> None:
    """Spread over all of the range, and always the same for one process."""
    lives = [lifetime_s(Process(f"cell/a/w/v/1+{n}", 5.0), 100.0) for n in range(1_000)]
    assert 50 <= min(lives) < 55
    assert 145 < max(lives) <= 150
    assert sum(lives) / len(lives) == pytest.approx(100, rel=0.05)
    assert lives[7] == lifetime_s(Process("cell/a/w/v/1+7", 5.0), 100.0)
    assert lives[7] != lifetime_s(Process("cell/a/w/v/1+7", 6.0), 100.0)


def test_a_cell_whose_time_has_come_is_swapped_and_serves_meanwhile() -> None:
    """The new one is ready before the old one loses its traffic, and that before it is stopped."""
    bench = running()
    assert not live_on(bench, LIFE_S / 2 - 5)
    while not (orders := bench.after(1.0)):
        assert bench.now < LIFE_S * 1.5 + 5
    assert orders == [OpenSocket(name("v1", 2), f"/run/{name('v1', 2).server}.sock")]
    orders = bench.cells.socket_opened(name("v1", 2), bench.now)
    (start,) = [order for order in orders if isinstance(order, Start)]
    assert bench.shares() == {name("v1").server: 100}
    bench.cells.process_ready(start.process, bench.now)
    assert bench.shares() == {name("v1", 2).server: 100}
    assert not any(isinstance(order, Terminate) for order in bench.after(5))  # not confirmed yet
    bench.applied()
    assert any(isinstance(order, Terminate) for order in bench.after(1.1))


def test_idle_cells_are_left_alone_and_zero_means_never() -> None:
    """No process, nothing to replace."""
    bench = Bench(LIVING)
    bench.deploy(v1=100)
    bench.opened(name("v1"))
    assert not [o for o in live_on(bench, 3 * LIFE_S, 10) if isinstance(o, OpenSocket | Start)]
    bench = running(Limits(restart_s=0, idle_stop_s=1e9))
    assert not live_on(bench, 1e6, 1e4)


def test_a_cell_whose_secret_has_changed_is_swapped_once_even_if_none_grows_old() -> None:
    """What it was given when it started is not what it would be given now."""
    bench = running(Limits(restart_s=0, idle_stop_s=1e9))
    bench.cells.outdate(lambda cell: cell == name("v1"))
    orders = live_on(bench, 60)
    assert [o for o in orders if isinstance(o, OpenSocket)] == [
        OpenSocket(name("v1", 2), f"/run/{name('v1', 2).server}.sock")
    ]
    bench.cells.outdate(lambda cell: cell == name("v9"))
    assert not live_on(bench, 60)


def test_cells_are_replaced_one_at_a_time() -> None:
    """A new workerd concerns all of them at once; never are two on their way."""
    bench = Bench(LIVING)
    bench.cells.use_workerd("old")
    keys = [("a" * 32, f"w{number}") for number in range(5)]
    orders = bench.cells.want({key: {"v": Want(100)} for key in keys}, 0)
    for order in orders:
        assert isinstance(order, OpenSocket)
        bench.cells.socket_opened(order.cell, 0)
        bench.cells.connection_waiting(order.cell, 0)
    settle(bench, [])
    assert {process.workerd for process in live(bench)} == {"old"}
    bench.cells.use_workerd("new")
    for _ in range(100):
        orders = bench.after(1.0)
        assert sum(isinstance(order, OpenSocket) for order in orders) <= 1
        settle(bench, orders)
        stale = [
            cell
            for worker in bench.cells.workers.values()
            for cell in worker.cells.values()
            if cell.stale
        ]
        assert len(stale) <= 1
    assert {process.workerd for process in live(bench)} == {"new"}
    assert len(live(bench)) == len(keys)
    assert all(process.name.endswith("@new") for process in live(bench))


def test_what_does_not_start_replaces_nothing() -> None:
    """After three starts the old one is let alone, and the proof has failed."""
    bench = running(workerd="old")
    bench.cells.use_workerd("old", proving=("new", KEY))
    for _ in range(200):
        for order in bench.after(0.6):
            if isinstance(order, OpenSocket):
                for start in bench.cells.socket_opened(order.cell, bench.now):
                    if isinstance(start, Start):
                        bench.cells.process_exited(start.process, bench.now)
            elif isinstance(order, Start):
                assert order.process.endswith("@new")
                bench.cells.process_exited(order.process, bench.now)
        bench.applied()
        if bench.cells.proof_failed:
            break
    assert bench.cells.proof_failed
    assert bench.shares() == {name("v1").server: 100}
    bench.cells.use_workerd("old")
    assert {process.workerd for process in live(bench)} == {"old"}
    assert not [o for o in live_on(bench, RENEW_AGAIN_S / 2) if isinstance(o, Start)]


def test_a_process_is_known_by_its_workerd_after_the_agent_was_restarted() -> None:
    """The mark is in the name; a name from before it has none."""
    bench = running(workerd="w1")
    (process,) = live(bench)
    for held, mark in ((process.name, "w1"), (process.name.partition("@")[0], "")):
        cells = Cells("/run", LIMITS, 2)
        cells.adopt([name("v1").socket], [(held, 1, True)], 0)
        _, known = cells.process(held)
        assert known is not None
        assert known.workerd == mark


def test_the_simulation_replaces_cells() -> None:
    """Its histories would prove nothing of what never happens in them."""
    seen: list[str] = []

    class Counting(Cells):
        def _renew(self, now: float) -> list[Order]:
            orders = super()._renew(now)
            seen.extend(cell.stale for w in self.workers.values() for cell in w.cells.values())
            return orders

    for seed in range(20):
        World(seed, Counting).run()
    assert {"age", "workerd"} <= set(seen)
