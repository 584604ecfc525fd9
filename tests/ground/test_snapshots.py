"""Snapshots of folders that programs are writing."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kythera.ground.snapshots import snapshot, stopped, writers

WRITER = """
import sqlite3, sys, itertools
folder = sys.argv[1]
db = sqlite3.connect(folder + "/a.sqlite", isolation_level=None)
db.execute("PRAGMA journal_mode = WAL")
db.execute("CREATE TABLE pairs (a, b)")
log = open(folder + "/volume.dat", "ab", buffering=0)
for number in itertools.count():
    db.execute("BEGIN")
    db.execute("INSERT INTO pairs VALUES (?, ?)", (number, number))
    db.execute("UPDATE pairs SET b = a")
    db.execute("DELETE FROM pairs WHERE a < ?", (number - 50,))
    db.execute("COMMIT")
    log.write(b"%08d" % number * 4000)
    if number == 20:
        print("busy", flush=True)
"""
DEADLINE_S = 20.0


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A program that never rests."""
    (tmp_path / "data").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "data")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "busy\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def state(pid: int) -> str:
    """Return the letter that the kernel has for what a process does."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def until(pid: int, letters: str) -> None:
    """Wait until a process is in one of these states."""
    deadline = time.monotonic() + DEADLINE_S
    while state(pid) not in letters:
        assert time.monotonic() < deadline, f"still {state(pid)}"
        os.sched_yield()


def test_a_snapshot_of_a_database_in_the_middle_of_writing_opens_whole(
    writer: subprocess.Popen[str], tmp_path: Path
) -> None:
    """Each transaction is in it, or is not."""
    for number in range(5):
        taken = snapshot(tmp_path / "data", tmp_path / f"taken{number}", [writer.pid])
        copy = tmp_path / f"taken{number}" / "a.sqlite"
        with sqlite3.connect(copy) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert database.execute("SELECT count(*) FROM pairs WHERE a != b").fetchone() == (0,)
        database.close()
        volume = next(file for file in taken if file.name == "volume.dat")
        whole = volume.path.read_bytes()[: volume.size]
        assert len(whole) == volume.size
    until(writer.pid, "RSD")


def test_what_grows_afterwards_is_not_of_the_snapshot(tmp_path: Path) -> None:
    """A large file is linked, and its length noted."""
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "1.dat"
    file.write_bytes(b"a" * 100_000)
    (taken,) = snapshot(tmp_path / "data", tmp_path / "taken", [])
    with file.open("ab") as more:
        more.write(b"b" * 100_000)
    assert taken.size == 100_000
    assert taken.path.samefile(file)


def test_programs_stand_still_and_go_on(writer: subprocess.Popen[str]) -> None:
    """While it is taken nothing is written; afterwards all is as before."""
    with stopped([writer.pid]):
        assert state(writer.pid) == "T"
    until(writer.pid, "RSD")


def test_programs_go_on_when_whoever_stopped_them_is_killed(
    writer: subprocess.Popen[str],
) -> None:
    """`kill -9` of a backup leaves nobody standing."""
    code = (
        "import sys, time; from kythera.ground.snapshots import stopped\n"
        f"with stopped([{writer.pid}]):\n    print('held', flush=True); time.sleep(600)"
    )
    taker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert taker.stdout is not None
    assert taker.stdout.readline() == "held\n"
    until(writer.pid, "T")
    taker.send_signal(signal.SIGKILL)
    taker.wait()
    taker.stdout.close()
    until(writer.pid, "RSD")


def test_a_process_that_is_gone_stops_nobody(tmp_path: Path) -> None:
    """A program may end meanwhile."""
    child = subprocess.Popen(["true"])
    child.wait()
    (tmp_path / "data").mkdir()
    assert snapshot(tmp_path / "data", tmp_path / "taken", [child.pid]) == []


def test_whoever_has_a_file_open_is_found(writer: subprocess.Popen[str], tmp_path: Path) -> None:
    """By the file itself, not by its name; and nobody else."""
    assert writers(tmp_path / "data") == [writer.pid]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("a")
    assert writers(tmp_path / "other") == []
