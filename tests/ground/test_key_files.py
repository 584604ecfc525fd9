"""Files of keys: read whole or refused, added to and taken from in one step."""

import base64
from pathlib import Path

import pytest

from kythera.ground.key_files import KeyFiles, parse, read_keys, render
from kythera.model.envelope import key_id
from kythera.model.errors import KytheraError, SetupError

ONE, TWO, THREE = (bytes([number]) * 32 for number in (1, 2, 3))


def write(path: Path, *keys: bytes, mode: int = 0o600) -> Path:
    """Write keys as a person would, with a line end."""
    path.write_text(render(keys) + "\n")
    path.chmod(mode)
    return path


def test_keys_are_lines_the_oldest_first(tmp_path: Path) -> None:
    """What is written is read; a single key is as it ever was."""
    assert read_keys(write(tmp_path / "k", ONE, TWO)) == (ONE, TWO)
    assert render([ONE]) == base64.b64encode(ONE).decode()
    assert parse(render([ONE, ONE, TWO]), "here") == (ONE, TWO)


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (None, 0o600, "cannot be read"),
        (base64.b64encode(ONE), 0o644, "read by others"),
        (base64.b64encode(ONE), 0o620, "read by others"),
        (b"!!!", 0o600, "not base64"),
        (base64.b64encode(ONE[:16]), 0o600, "has 16 bytes"),
        (base64.b64encode(ONE) + b"\n!", 0o600, "not base64"),
        (b"\n", 0o600, "is empty"),
    ],
)
def test_a_bad_key_file_is_told_without_its_content(
    tmp_path: Path, content: bytes | None, mode: int, says: str
) -> None:
    """Missing, open to others, garbage, too short, empty: each has its sentence and a remedy."""
    path = tmp_path / "secrets.key"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(SetupError, match=says) as caught:
        read_keys(path)
    assert base64.b64encode(ONE).decode()[:20] not in str(caught.value)
    assert caught.value.remedy


def test_a_key_is_added_and_dropped_in_our_own_file(tmp_path: Path) -> None:
    """Added last, once, 0600; dropped by not being needed; the rest stays in its order."""
    files = KeyFiles(write(tmp_path / "own", ONE))
    for key in (TWO, THREE, TWO):
        files.add(key)
    assert files.read() == (ONE, TWO, THREE)
    assert files.own.stat().st_mode & 0o777 == 0o600
    assert files.keep_only({key_id(TWO), key_id(THREE)}) == (key_id(ONE),)
    assert files.keep_only({key_id(TWO), key_id(THREE)}) == ()
    assert files.read() == (TWO, THREE)
    with pytest.raises(AssertionError):
        files.keep_only(())


def test_the_operators_file_is_read_and_never_written(tmp_path: Path) -> None:
    """Its keys come after our own, which may go entirely."""
    given = write(tmp_path / "given", TWO)
    files = KeyFiles(write(tmp_path / "own", ONE), given)
    before = given.read_bytes(), given.stat()
    assert files.read() == (ONE, TWO)
    with pytest.raises(KytheraError, match="given by its operator"):
        files.add(THREE)
    assert files.keep_only({key_id(TWO)}) == (key_id(ONE),)
    assert not files.own.exists()
    assert files.read() == (TWO,)
    assert (given.read_bytes(), given.stat()) == before
