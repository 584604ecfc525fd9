"""What programs have written, brought onto the disk."""

from pathlib import Path

import anyio
import pytest

from kythera.store import settled
from kythera.store.settled import Settled, sync_below


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of files that were synced, in a list that grows."""
    names: list[str] = []
    monkeypatch.setattr(settled, "_sync", lambda path: names.append(Path(path).name))
    return names


def test_what_has_not_changed_is_not_synced_again(tmp_path: Path, synced: list[str]) -> None:
    """Goal: a round costs what was written, not what is there."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "deep/b").write_bytes(b"1")
    stamps = sync_below(tmp_path, {})
    assert sorted(synced) == ["a", "b"]
    (tmp_path / "deep/b").write_bytes(b"12")
    (tmp_path / "new").write_bytes(b"")
    sync_below(tmp_path, stamps)
    assert sorted(synced[2:]) == ["b", "new"]


@pytest.mark.anyio
async def test_those_who_wait_together_share_a_round(tmp_path: Path, synced: list[str]) -> None:
    """Goal: a hundred writers cost two rounds: one that had begun, and one for all others."""
    rounds = Settled(tmp_path)
    async with anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(rounds.wait)
    assert rounds._done <= 2


@pytest.mark.anyio
async def test_a_round_that_fails_settles_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: a planted fault of the disk is an error for everyone who waits, not a silence."""

    def broken(path: str) -> None:
        raise OSError(5, "Input/output error", path)

    (tmp_path / "a").write_bytes(b"1")
    monkeypatch.setattr(settled, "_sync", broken)
    rounds = Settled(tmp_path)
    failed = 0

    async def wait() -> None:
        nonlocal failed
        try:
            await rounds.wait()
        except OSError:
            failed += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(wait)
    assert failed == 3
