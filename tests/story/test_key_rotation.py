"""Somebody changes the key of all secrets while visitors come, machines die and others are away."""

import json
import os
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kythera.ground.key_files import read_keys
from kythera.model.envelope import key_id
from tests.fleets import running_fleet
from tests.platforms import COMMAND, Doors, clean_environment, running
from tests.processes import children, wait_until

pytestmark = [pytest.mark.real, pytest.mark.story]
CODE = "export default { fetch(request, env) { return new Response(`kept ${env.WORD}`); } };"


def put(doors: Doors, worker: str, name: str, text: str) -> None:
    """Set a secret."""
    secret = {"name": name, "text": text, "type": "secret_text"}
    answer = doors.call("PUT", f"/workers/scripts/{worker}/secrets", json=secret)
    assert answer.is_success, answer.text


def ids(doors: Doors) -> list[str]:
    """Return the ids of the keys in a machine's file."""
    return [key_id(key) for key in read_keys(doors.state / "secrets.key")]


@contextmanager
def visitors(doors: Doors, worker: str) -> Iterator[Counter[str]]:
    """Ask a worker all the time until the block ends; count the answers."""
    seen: Counter[str] = Counter()
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            answer = doors.get(worker)
            seen[answer.text if answer.is_success else f"HTTP {answer.status_code}"] += 1

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def api_process(platform: Any) -> int:
    """Return the pid of the control API."""
    for pid in children(platform.process.pid):
        if b"kythera.control.server" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise AssertionError("no API runs")


def test_a_rotation_under_load_survives_kill_9_at_any_moment(state: Path) -> None:
    """Goal: no request fails, no secret is lost. Method: rotate several times, kill the API while it
    does, put secrets meanwhile; then a backup, a restore, and a look into the files."""
    with running(state) as platform:
        for number in range(8):
            platform.upload(f"shop{number}", CODE)
            put(platform, f"shop{number}", "WORD", f"safe{number}")
        platform.wait_for("shop0", "kept safe0")
        (first,) = ids(platform)
        with visitors(platform, "shop0") as seen:
            for pause_ms in (0, 20, 60, 150, 400, 900):
                begun = platform.call("POST", "/kythera/keys/rotate")
                assert begun.is_success, begun.text
                threading.Event().wait(pause_ms / 1000)
                os.kill(api_process(platform), signal.SIGKILL)
                wait_until(lambda: _answers(platform), "the API answers", deadline_s=20)
            put(platform, "shop1", "MORE", "put meanwhile")
            done = platform.kythera("key", "rotate", "--json")
            assert done.returncode == 0, done.stderr
        assert set(seen) == {"kept safe0"}
        told = json.loads(done.stdout)
        assert told["step"] == "done"
        assert ids(platform) == [told["active"]] != [first]
        assert set(told["versions_sealed"]) == {told["active"]}
        for number in range(8):
            platform.wait_for(f"shop{number}", f"kept safe{number}", deadline_s=10)
        backup = state.with_name("backup.tar")
        assert platform.kythera("backup", "create", str(backup)).returncode == 0
    again = state.with_name("again")
    restore(backup, again)
    with running(again) as platform:
        platform.wait_for("shop7", "kept safe7", deadline_s=10)
        assert platform.kythera("key", "rotate").returncode == 0
        put(platform, "shop7", "WORD", "new")
        platform.wait_for("shop7", "kept new", deadline_s=10)


def _answers(platform: Any) -> bool:
    answer = platform.call("GET", "/kythera/keys")
    return bool(answer.status_code == 200)


def restore(backup: Path, state: Path) -> None:
    """Make a platform of a backup."""
    argv = [*COMMAND, "backup", "restore", "--state", str(state), str(backup)]
    done = subprocess.run(
        argv, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_keys_of_the_operator_are_never_on_our_disk(state: Path) -> None:
    """Goal: a thief of the state folder, or of a backup, opens nothing. Method: start with a file,
    refuse an open one, rotate to its next line, back up, restore, start with the file again."""
    given = state.with_name("keys")
    line = subprocess.run(
        ["sh", "-c", "head -c 32 /dev/urandom | base64"], capture_output=True, text=True, check=True
    ).stdout
    given.write_text(line)
    given.chmod(0o644)
    option = ("--secrets-key", str(given))
    up = [*COMMAND, "up", "--state", str(state), *option]
    refused = subprocess.run(
        up, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert refused.returncode == 1
    assert "can be read by others" in refused.stderr
    assert f"chmod 600 {given}" in refused.stderr
    given.chmod(0o600)
    with running(state, *option) as platform:
        platform.upload("shop", CODE)
        put(platform, "shop", "WORD", "safe")
        platform.wait_for("shop", "kept safe")
        refused = platform.kythera("key", "rotate")
        assert "seals already" in refused.stderr
        with given.open("a") as file:
            file.write("A" * 43 + "=\n")
        assert platform.kythera("key", "rotate").returncode == 0
        backup = state.with_name("backup.tar")
        said = platform.kythera("backup", "create", str(backup))
        assert "not the keys of the secrets" in said.stdout
        assert not (state / "secrets.key").exists()
        assert b"AAAAAAAAAAAAAAAAAAAA" not in backup.read_bytes()
    with running(state) as platform:  # the option is remembered
        platform.wait_for("shop", "kept safe", deadline_s=10)
    again = state.with_name("again")
    restore(backup, again)
    with running(again, *option) as platform:
        platform.wait_for("shop", "kept safe", deadline_s=10)


def test_a_fleet_rotates_while_a_machine_is_away(state: Path) -> None:
    """Goal: the rest goes on; the machine that comes back gets the key and then serves; only then is
    the old key dropped everywhere."""
    with running_fleet(3, 1, folder=state) as fleet:
        first, *_, last = fleet.machines
        fleet.upload("shop", CODE)
        put(first, "shop", "WORD", "safe")
        fleet.wait_for("shop", "kept safe")
        (old,) = ids(first)
        fleet.kill(last.name)
        others = [one for one in fleet.machines if one is not last]
        away = others[-1].kythera("key", "rotate", "--wait", "40")
        assert away.returncode == 1
        assert last.name in away.stderr
        assert all(old in ids(one) and len(ids(one)) == 2 for one in others)
        assert first.call("GET", "/kythera/keys").json()["result"]["active"] != old
        put(first, "shop", "WORD", "new")
        fleet.revive(last.name)
        fleet.wait_for("shop", "kept new", deadline_s=30)
        done = first.kythera("key", "rotate")  # the same one, to its end
        assert done.returncode == 0, done.stderr
        wait_until(
            lambda: all(len(ids(one)) == 1 and ids(one) != [old] for one in fleet.machines),
            "the old key is gone everywhere",
            deadline_s=15,
        )
        fleet.wait_for("shop", "kept new")
