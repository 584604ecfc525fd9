"""A backup is whole or refused, and what it restores is what was saved."""

import base64
import io
import stat
import tarfile
from pathlib import Path

import msgspec
import pytest

from kythera.distribute.archive import PENDING, back_up, kept, pending, restore
from kythera.distribute.blobs import Blobs
from kythera.distribute.copy import Copy
from kythera.distribute.log import Entry
from kythera.ground.files import write_private
from kythera.ground.layout import Layout
from kythera.model.errors import KytheraError
from kythera.model.platform import Platform
from kythera.model.records import Assets, Module, Version, encode

KEY = base64.b64encode(bytes(32))


@pytest.fixture
def platform(tmp_path: Path) -> Layout:
    """A platform's folder: three records, two of them living, and a blob."""
    layout = Layout(tmp_path / "state")
    layout.state.mkdir()
    layout.token.write_text("the token")
    write_private(layout.secrets_key, KEY)
    settings = Platform(account_id="a" * 32, machine="m1", domain="example.org")
    layout.platform.write_bytes(msgspec.json.encode(settings))
    Blobs(layout.blobs).put(b"code")
    (layout.data / "d1").mkdir(parents=True)
    (layout.data / "d1" / "one.sqlite").write_bytes(b"rows" * 10)
    (layout.data / "d1" / "one.dat").write_bytes(b"volume" * 100_000)
    with Copy(layout.copy) as copy:
        copy.apply(
            [
                Entry(1, "worker.a.one", b"1"),
                Entry(2, "worker.a.two", b"2"),
                Entry(4, "machine.m1", b"{}"),
                Entry(5, "worker.a.two", None),
                Entry(7, "worker.a.three", b"3"),
            ]
        )
    return layout


def test_what_is_restored_is_what_was_saved(platform: Layout, tmp_path: Path) -> None:
    """Records in their order without those that ended, blobs, keys, account and domain."""
    file, again = tmp_path / "backup.tar", Layout(tmp_path / "again")
    about = back_up(platform, file)
    assert (about.seq, about.records, about.blobs) == (7, 2, 1)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    restore(file, again)
    assert pending(again) == [("worker.a.one", b"1"), ("worker.a.three", b"3")]
    assert again.token.read_text() == "the token"
    assert again.secrets_key.read_bytes() == KEY
    read = again.read_platform()
    assert (read.account_id, read.domain) == ("a" * 32, "example.org")
    (digest,) = Blobs(again.blobs).digests()
    assert Blobs(again.blobs).read(digest) == b"code"
    assert (again.data / "d1" / "one.sqlite").read_bytes() == b"rows" * 10
    assert (again.data / "d1" / "one.dat").read_bytes() == b"volume" * 100_000
    assert [path.name for path in platform.state.iterdir() if "backup" in path.name] == []


def test_nothing_is_written_over(platform: Layout, tmp_path: Path) -> None:
    """Neither a file that exists nor a folder that holds a platform."""
    file = tmp_path / "backup.tar"
    back_up(platform, file)
    with pytest.raises(KytheraError, match="exists"):
        back_up(platform, file)
    with pytest.raises(KytheraError, match="holds a platform already"):
        restore(file, platform)


@pytest.mark.parametrize("fault", ["cut", "flip", "swap", "data", "lost", "garbage"])
def test_an_archive_that_is_not_whole_is_refused(
    platform: Layout, tmp_path: Path, fault: str
) -> None:
    """Cut short, a byte changed in the records or in what workers keep, a blob under another name, a
    file that is not there, no archive at all."""
    file, broken = tmp_path / "backup.tar", tmp_path / "broken.tar"
    back_up(platform, file)
    data = file.read_bytes()
    if fault == "cut":
        data = data[: data.index(b"code")]
    elif fault == "flip":
        data = data.replace(b"worker.a.one", b"worker.a.0ne")
    elif fault == "swap":
        data = data.replace(b"code", b"c0de")
    elif fault == "data":
        data = data.replace(b"rowsrows", b"rowsr0ws")
    elif fault == "lost":
        data = data.replace(b"data/d1/one.dat", b"else/d1/one.dat")
    else:
        data = b"not a tar file"
    broken.write_bytes(data)
    again = Layout(tmp_path / "again")
    with pytest.raises(KytheraError, match=r"broken\.tar"):
        restore(broken, again)
    assert not again.platform.exists()
    assert not (again.state / PENDING).exists()


def test_names_in_an_archive_lead_nowhere_else(platform: Layout, tmp_path: Path) -> None:
    """A file that somebody added, with a path that leads out, is left alone."""
    file = tmp_path / "backup.tar"
    back_up(platform, file)
    with tarfile.open(file, "a") as tar:
        for name in ("keys/../../evil", "/evil", "keys/other", "blob/../data/evil"):
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"evil"))
    restore(file, Layout(tmp_path / "again"))
    assert not list(tmp_path.rglob("evil"))
    assert not list(tmp_path.rglob("other"))


def test_data_that_lead_elsewhere_are_refused(platform: Layout, tmp_path: Path) -> None:
    """A file of a store has its place below the store's folder."""
    file = tmp_path / "backup.tar"
    back_up(platform, file)
    with tarfile.open(file, "a") as tar:
        member = tarfile.TarInfo("data/../../evil")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"evil"))
    with pytest.raises(KytheraError, match="leads elsewhere"):
        restore(file, Layout(tmp_path / "again"))


def test_records_of_machines_and_ends_are_not_kept() -> None:
    """A restored platform begins as a fleet of one."""
    entries = [Entry(1, "core.log", b"{}"), Entry(2, "token.x", b"{}"), Entry(3, "a.b", None)]
    assert kept(entries) == []


def test_a_backup_that_would_lack_code_is_refused_unless_that_is_meant(
    platform: Layout, tmp_path: Path
) -> None:
    """A machine that is not core has only what it ran: the operator hears of the rest."""
    blobs = Blobs(platform.blobs)
    manifest = blobs.put(b'[{"path": "/a", "digest": "' + b"0" * 64 + b'", "size": 1}]')
    version = Version(
        account="a",
        worker="one",
        id="v",
        number=1,
        created_on="",
        modules=(Module(name="w.js", type="esm", digest="1" * 64, size=1),),
        assets=Assets(manifest=manifest),
    )
    with Copy(platform.copy) as copy:
        copy.apply([Entry(8, version.key(), encode(version))])
    file = tmp_path / "backup.tar"
    with pytest.raises(KytheraError, match="2 of the blobs") as caught:
        back_up(platform, file)
    assert "core machine" in caught.value.remedy
    assert not file.exists()
    assert back_up(platform, file, partial=True).blobs_missing == 2
