"""Sums over a store's restarts."""

from kythera.run.store_counts import UsesByProcess, WorkerUse, added


def test_sums_go_on_over_a_restart() -> None:
    """Goal: by account and worker; what only one of the two has counted stays."""
    past = [WorkerUse(account="a", worker="w", counts={"calls": 2, "failed": 1})]
    now = [
        WorkerUse(account="a", worker="w", counts={"calls": 3, "rows": 4}),
        WorkerUse(account="b", worker="w", counts={"calls": 1}),
    ]
    assert added(past, now) == [
        WorkerUse(account="a", worker="w", counts={"calls": 5, "failed": 1, "rows": 4}),
        WorkerUse(account="b", worker="w", counts={"calls": 1}),
    ]
    assert added([], []) == []


def test_processes_of_one_worker_are_added_up() -> None:
    """Goal: each counts from its own start; another process is not another worker."""
    uses = UsesByProcess()
    assert not uses
    for process, requests in (("a", 2), ("a", 5), ("b", 1), ("b", 3)):
        uses.hear(WorkerUse(account="a", worker="w", counts={"requests": requests}), process)
    assert uses.told() == [WorkerUse(account="a", worker="w", counts={"requests": 8})]
