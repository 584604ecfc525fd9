"""Facts in, orders out: the cells' decisions, one situation each."""

import pytest

from kythera.model.limits import Limits
from kythera.run.cell import (
    CellName,
    CloseSocket,
    Kill,
    OpenSocket,
    Order,
    Refuse,
    Start,
    Terminate,
    Want,
    Watch,
)
from kythera.run.decide import Cells

KEY = ("a" * 32, "shop")
LIMITS = Limits(idle_stop_s=60, settle_ms=1_000, drain_ms=5_000, start_ms=2_000)


def name(version: str, generation: int = 1, *, observed: bool = False) -> CellName:
    """Return the name of a cell of the one worker here."""
    return CellName(*KEY, version, generation, observed)


def process(cell: CellName, number: int = 1) -> str:
    """Return the name of a cell's process."""
    return f"{cell.socket}+{number}"


class Bench:
    """The deciding code with a hand on each fact."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.cells = Cells("/run", limits, cores=2)
        self.now = 0.0

    def deploy(self, **percentages: float) -> list[Order]:
        """Ask for versions with these shares."""
        wants = {version: Want(share) for version, share in percentages.items()}
        return self.cells.want({KEY: wants}, self.now)

    def opened(self, cell: CellName) -> list[Order]:
        """Let the socket be open, and let HAProxy do as decided."""
        orders = self.cells.socket_opened(cell, self.now)
        return orders + self.applied()

    def applied(self) -> list[Order]:
        """Let HAProxy confirm the present traffic."""
        return self.cells.traffic_applied(list(self.cells.traffic().values()), self.now)

    def visit(self, cell: CellName) -> list[Order]:
        """Let somebody wait on an idle cell's socket."""
        return self.cells.connection_waiting(cell, self.now)

    def ready(self, cell: CellName, number: int = 1) -> list[Order]:
        """Let a process accept, and let HAProxy do as decided."""
        orders = self.cells.process_ready(process(cell, number), self.now)
        return orders + self.applied()

    def exited(self, cell: CellName, number: int = 1) -> list[Order]:
        """Let a process end."""
        return self.cells.process_exited(process(cell, number), self.now)

    def after(self, seconds: float) -> list[Order]:
        """Let time pass."""
        self.now += seconds
        return self.cells.tick(self.now)

    def shares(self) -> dict[str, float]:
        """Return where traffic goes: server to percentage."""
        return {s.server: s.percentage for s in self.cells.traffic()[KEY].shares}


def serving(version: str = "v1") -> Bench:
    """Return a bench with one version deployed and one process ready."""
    bench = Bench()
    bench.deploy(**{version: 100})
    bench.opened(name(version))
    bench.visit(name(version))
    bench.ready(name(version))
    return bench


def test_a_deployed_version_has_a_watched_socket_and_no_process() -> None:
    """Idle costs a socket, nothing more."""
    bench = Bench()
    assert bench.deploy(v1=100) == [OpenSocket(name("v1"), f"/run/{name('v1').server}.sock")]
    assert bench.opened(name("v1")) == [Watch(name("v1"))]
    assert bench.shares() == {name("v1").server: 100}


def test_the_first_visitor_starts_one_process_and_the_next_ones_none() -> None:
    """Those who come while it starts wait in the socket's backlog."""
    bench = Bench()
    bench.deploy(v1=100)
    bench.opened(name("v1"))
    assert bench.visit(name("v1")) == [Start(name("v1"), process(name("v1")))]
    assert bench.visit(name("v1")) == []


def test_a_process_is_awaited_from_its_order_until_it_starts_or_is_given_up() -> None:
    """What it is made of may take a while to come; meanwhile it may be wanted no more."""
    bench = Bench()
    cell = name("v1")
    bench.deploy(v1=100)
    bench.opened(cell)
    assert not bench.cells.is_awaited(process(cell))
    bench.visit(cell)
    assert bench.cells.is_awaited(process(cell))
    bench.after(LIMITS.start_ms / 1000)
    assert not bench.cells.is_awaited(process(cell))
    bench.exited(cell)
    bench.visit(cell)
    bench.after(1)
    bench.ready(cell, 2)
    assert not bench.cells.is_awaited(process(cell, 2))


def test_a_new_version_takes_over_only_when_its_process_is_ready() -> None:
    """Under use a deploy is a swap: start, move, confirm, settle, stop, close."""
    bench = serving()
    bench.now = 1.0
    bench.deploy(v2=100)
    assert bench.opened(name("v2")) == [Start(name("v2"), process(name("v2")))]
    assert bench.shares() == {name("v1").server: 100}
    bench.ready(name("v2"))
    assert bench.shares() == {name("v2").server: 100}
    assert bench.after(0.5) == []
    assert Terminate(process(name("v1"))) in bench.after(1.0)
    assert CloseSocket(name("v1")) in bench.exited(name("v1"))


def test_nothing_is_stopped_before_haproxy_has_confirmed_the_move() -> None:
    """An unconfirmed move keeps the old cell for as long as it takes."""
    bench = serving()
    bench.deploy(v2=100)
    bench.opened(name("v2"))
    bench.cells.process_ready(process(name("v2")), bench.now)
    # Long after it has settled, and before idleness would be a reason of its own.
    orders = bench.after(5.0) + bench.after(40.0)
    assert Terminate(process(name("v1"))) not in orders
    bench.applied()
    assert Terminate(process(name("v1"))) in bench.after(1.1)


def test_a_version_that_does_not_start_never_gets_traffic_from_one_that_works() -> None:
    """The last good version serves on, however often the new one fails."""
    bench = serving()
    bench.deploy(v2=100)
    bench.opened(name("v2"))
    for number in range(1, 6):
        bench.exited(name("v2"), number)
        bench.after(31.0 if number > 3 else 1.0)
    assert bench.shares() == {name("v1").server: 100}


def test_a_crashed_cell_is_started_again_at_once_by_the_next_visitor() -> None:
    """One crash after a longer life costs the next visitor a cold start and no more."""
    bench = serving()
    bench.now = 10.0
    assert bench.exited(name("v1")) == [Watch(name("v1"))]
    assert bench.visit(name("v1")) == [Start(name("v1"), process(name("v1"), 2))]


def test_a_process_that_exceeds_a_limit_is_killed_once_and_is_no_crash() -> None:
    """However soon and often, the next visitor gets another process at once."""
    bench = serving()
    for number in range(1, 6):
        assert bench.cells.exceeded(process(name("v1"), number), "cpu", bench.now) == [
            Kill(process(name("v1"), number))
        ]
        assert bench.cells.exceeded(process(name("v1"), number), "cpu", bench.now) == []
        assert bench.exited(name("v1"), number) == [Watch(name("v1"))]
        assert bench.visit(name("v1")) == [Start(name("v1"), process(name("v1"), number + 1))]
        bench.ready(name("v1"), number + 1)
    cell = bench.cells.find(name("v1"))
    assert cell is not None
    assert (cell.exceeded["cpu"], cell.crashes_all) == (5, 0)


def test_starts_that_fail_back_off_and_then_refuse() -> None:
    """Visitors wait through short back-offs; after three failures they are told to come back."""
    bench = Bench()
    bench.deploy(v1=100)
    bench.opened(name("v1"))
    bench.visit(name("v1"))
    bench.exited(name("v1"), 1)
    assert bench.visit(name("v1")) == []
    assert bench.after(0.11) == [Start(name("v1"), process(name("v1"), 2))]
    bench.exited(name("v1"), 2)
    bench.visit(name("v1"))
    bench.after(0.21)
    bench.exited(name("v1"), 3)
    assert bench.visit(name("v1")) == [Refuse(name("v1"))]
    assert bench.cells.failing(bench.now) == {KEY: "the worker's process does not start"}
    bench.after(0.5)
    assert bench.cells.failing(bench.now) == {}


def test_an_idle_cell_is_stopped_and_its_socket_watched_again() -> None:
    """Scale to zero after idle_stop_s without a request."""
    bench = serving()
    assert bench.after(59.0) == []
    orders = bench.after(2.0)
    assert orders == [Terminate(process(name("v1"))), Watch(name("v1"))]


def test_a_cell_with_an_open_connection_is_never_idle() -> None:
    """A quiet WebSocket keeps its cell."""
    bench = serving()
    for _ in range(10):
        bench.now += 30.0
        orders = bench.cells.measured({name("v1").server: (1, 7)}, {}, bench.now)
        assert orders == []


def test_a_process_that_neither_gets_ready_nor_drains_is_killed() -> None:
    """start_ms and drain_ms are deadlines."""
    bench = Bench()
    bench.deploy(v1=100)
    bench.opened(name("v1"))
    bench.visit(name("v1"))
    assert bench.after(2.1) == [Kill(process(name("v1")))]
    bench = serving()
    bench.after(61.0)
    assert bench.after(5.1) == [Kill(process(name("v1")))]


def test_watching_swaps_in_an_observed_cell_on_a_socket_of_its_own() -> None:
    """A tail makes a new generation; its end makes another."""
    bench = serving()
    orders = bench.cells.want({KEY: {"v1": Want(100, observed=True)}}, bench.now)
    watched = name("v1", 2, observed=True)
    assert orders == [OpenSocket(watched, f"/run/{watched.server}.sock")]
    assert bench.opened(watched) == [Start(watched, process(watched))]
    bench.ready(watched)
    assert bench.shares() == {watched.server: 100}


def test_a_saturated_cell_gets_a_second_process_and_a_quiet_one_loses_it_by_a_swap() -> None:
    """85 % for 2 s adds one on the same socket; quiet replaces the cell by a smaller one."""
    bench = serving()
    cell, first = name("v1"), process(name("v1"))
    orders: list[Order] = []
    for step in range(8):
        bench.now += 0.5
        load = {cell.server: (4, step + 1)}
        orders += bench.cells.measured(load, {first: 0.49 * step}, bench.now)
    assert orders == [Start(cell, process(cell, 2))]
    bench.ready(cell, 2)
    orders = []
    for step in range(50):
        bench.now += 0.5
        cpu = {first: 4.0 + step * 0.01, process(cell, 2): step * 0.01}
        orders += bench.cells.measured({cell.server: (4, 9 + step)}, cpu, bench.now)
    assert OpenSocket(name("v1", 2), f"/run/{name('v1', 2).server}.sock") in orders


def test_the_platforms_own_call_wakes_a_cell_and_keeps_it_awake() -> None:
    """A call without a visitor starts one process, and while it lasts the cell is not idle."""
    bench = Bench()
    bench.cells.want({KEY: {"v1": Want(100)}}, 0.0)
    cell = name("v1")
    bench.opened(cell)
    bench.applied()
    assert Start(cell, process(cell)) in bench.cells.wake(cell, 1.0)
    assert bench.cells.wake(cell, 1.0) == []
    bench.now = 1.0
    bench.ready(cell)
    idle_s = LIMITS.idle_stop_s
    bench.cells.used(cell, idle_s)
    assert Terminate(process(cell)) not in bench.after(idle_s + 0.5)
    assert Terminate(process(cell)) in bench.after(idle_s)
    assert bench.cells.wake(name("gone"), bench.now) == []


def test_a_deleted_worker_leaves_nothing() -> None:
    """Its cells drain, its sockets close, its memory goes."""
    bench = serving()
    bench.now = 1.0
    bench.cells.want({}, bench.now)
    bench.applied()
    assert Terminate(process(name("v1"))) in bench.after(1.5)
    bench.exited(name("v1"))
    bench.cells.socket_closed(name("v1"), bench.now)
    assert bench.cells.workers == {}


def test_the_next_agent_adopts_a_warm_cell_and_starts_nothing() -> None:
    """Adoption and a fresh start are one path."""
    cells = Cells("/run", LIMITS, cores=2)
    cell = name("v1", 3)
    cells.adopt([cell.socket, "http"], [(process(cell, 4), 123, True)], 0.0)
    orders = cells.want({KEY: {"v1": Want(100)}}, 0.0)
    assert orders == []
    assert [s.server for s in cells.traffic()[KEY].shares] == [cell.server]


@pytest.mark.parametrize("socket", ["http", "cell/a/b", "cell/a/b/c/x", "cell/a/b/c/1/2"])
def test_a_name_that_is_no_cell_is_not_taken_for_one(socket: str) -> None:
    """The keeper holds other sockets too."""
    assert CellName.parse(socket) is None


def test_a_cell_knows_itself_by_its_socket_name() -> None:
    """Names round-trip, observed or not."""
    for cell in (name("v1"), name("v1", 12, observed=True)):
        assert CellName.parse(cell.socket) == cell
