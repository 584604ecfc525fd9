"""Files: whole or absent, private from the start, or without a name."""

import os
from pathlib import Path

import pytest

from kythera.ground.files import memfd, write_atomically, write_private


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    """Goal: no reader sees a part. Method: a reader that opened the old one; the folder after."""
    path = tmp_path / "settings"
    write_atomically(path, b"old")
    with path.open("rb") as reader:
        write_atomically(path, b"new" * 1000)
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new" * 1000
    assert [p.name for p in tmp_path.iterdir()] == ["settings"]


def test_a_private_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Goal: keys are 0600, whatever stood there before. Method: over a world-readable file."""
    path = tmp_path / "token"
    path.write_text("x")
    path.chmod(0o644)
    write_private(path, b"secret")
    assert path.stat().st_mode & 0o777 == 0o600
    write_atomically(path, b"public", 0o644)
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    """Goal: fail static. Method: a target that cannot be replaced by a file."""
    target = tmp_path / "folder"
    (target / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="irectory"):
        write_atomically(target, b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("data", [b"", b"config", b"x" * 3_000_000])
def test_a_nameless_file_reads_from_its_beginning(data: bytes) -> None:
    """Goal: a child's stdin holds all of it. Method: empty, small, more than one write."""
    descriptor = memfd(data)
    try:
        assert os.read(descriptor, len(data) + 1) == data
    finally:
        os.close(descriptor)
