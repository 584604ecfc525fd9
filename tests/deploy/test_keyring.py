"""Several keys at once: one seals, all open; a file that changes is noticed."""

from pathlib import Path

import pytest

from kythera.deploy.keyring import Keyring
from kythera.deploy.seal import Sealer
from kythera.ground.files import write_private
from kythera.ground.key_files import KeyFiles, render
from kythera.model.envelope import key_id, sealed_with
from kythera.model.errors import KytheraError, StoreUnavailable

ONE, TWO = bytes([1]) * 32, bytes([2]) * 32
PLACE = "account/worker/NAME"


@pytest.fixture
def files(tmp_path: Path) -> KeyFiles:
    """A machine's own file with one key."""
    write_private(tmp_path / "secrets.key", render([ONE]).encode())
    return KeyFiles(tmp_path / "secrets.key")


def test_an_envelope_names_its_key_and_opens_with_it(files: KeyFiles) -> None:
    """Sealed with the first key while nobody says otherwise, then with the active one."""
    active = ""
    ring = Keyring(files, lambda: active)
    old = ring.seal("text", PLACE)
    assert sealed_with(old) == key_id(ONE)
    ring.add(TWO)
    assert sealed_with(ring.seal("text", PLACE)) == key_id(ONE)
    active = key_id(TWO)
    new = ring.seal("text", PLACE)
    assert sealed_with(new) == key_id(TWO)
    assert [ring.open(each, PLACE) for each in (old, new)] == ["text", "text"]


def test_what_another_process_adds_is_noticed_when_it_is_needed(files: KeyFiles) -> None:
    """An envelope of a key that came into the file since opens."""
    ring = Keyring(files)
    files.add(TWO)
    assert ring.open(Sealer(TWO).seal("text", PLACE), PLACE) == "text"


def test_what_is_dropped_is_forgotten_at_the_second_look(files: KeyFiles) -> None:
    """What has just been read may be in use; then it is gone from memory too."""
    files.add(TWO)
    ring, old = Keyring(files), Sealer(ONE).seal("text", PLACE)
    files.keep_only({key_id(TWO)})
    ring.look()
    assert ring.open(old, PLACE) == "text"
    ring.look()
    with pytest.raises(KytheraError, match="another key"):
        ring.open(old, PLACE)


def test_without_the_active_key_nothing_is_sealed(files: KeyFiles) -> None:
    """Rather an upload that is told to try again than one that only this machine opens."""
    ring = Keyring(files, lambda: key_id(TWO))
    with pytest.raises(StoreUnavailable, match="has not been given"):
        ring.seal("text", PLACE)
    files.add(TWO)
    assert sealed_with(ring.seal("text", PLACE)) == key_id(TWO)


def test_damaged_envelopes_and_lost_keys_are_told_apart(files: KeyFiles) -> None:
    """Neither shows anything of a text."""
    ring = Keyring(files)
    with pytest.raises(KytheraError, match="damaged"):
        ring.open("AAAA", PLACE)
    with pytest.raises(KytheraError, match=f"another key .{key_id(TWO)}."):
        ring.open(Sealer(TWO).seal("text", PLACE), PLACE)
