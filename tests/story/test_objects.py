"""Durable Objects on a running platform: called in every way, and there after every death."""

import json
import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.platforms import COMMAND, RunningPlatform, clean_environment, running
from tests.processes import wait_until
from tests.story.object_workers import binding, called, counting, deploy_shop, shop

ASLEEP_S = 13.0
"""workerd lets an object sleep that was quiet for 10 s."""
pytestmark = [pytest.mark.real, pytest.mark.story]


def kill_newest(platform: RunningPlatform, event: str) -> None:
    """Kill the process of that event; of one that has just ended by itself, the one after it."""
    for _ in range(200):
        with suppress(ProcessLookupError):
            os.kill(newest(platform, event), signal.SIGKILL)
            return
        time.sleep(0.02)
    raise AssertionError(f"nobody lives of {event}")


def newest(platform: RunningPlatform, event: str) -> int:
    """Return the pid that the platform's log told last with an event."""
    lines = [
        line for line in platform.log.read_text(errors="replace").splitlines() if event in line
    ]
    return int(json.loads(lines[-1])["pid"])


@pytest.fixture(scope="module")
def shopping(platform: RunningPlatform) -> str:
    """Return a worker with objects that the tests here share."""
    deploy_shop(platform, "shopping")
    platform.wait_for("shopping", "1", "/version")
    return "shopping"


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        ("apply", [6, "function"]),
        ("basket", [7, 7]),
        ("pipelined", 2),
        ("doubler", 42),
        ("colour", "blue"),
        ("read", "streamed in"),
        ("ids", [True, "x", 64, "one", True]),
        ("fail", {"name": "RangeError", "message": "not that far"}),
    ],
)
def test_objects_are_called(
    platform: RunningPlatform, shopping: str, call: str, answer: object
) -> None:
    """Goal: RPC carries values, functions and stubs both ways, streams, properties and errors."""
    assert called(platform, shopping, call) == answer


def test_a_stream_comes_back(platform: RunningPlatform, shopping: str) -> None:
    """Goal: what an object returns may be a stream."""
    assert called(platform, shopping, "stream") == "as a stream"


def test_a_request_reaches_its_object_as_it_was_sent(
    platform: RunningPlatform, shopping: str
) -> None:
    """Goal: `fetch` keeps method, address and body; the object knows its id and name; nothing of
    ours is among the headers."""
    answer = platform.get(shopping, "/fetch/anna?q=1", method="POST", content=b"hello")
    found = answer.json()
    assert found["method"] == "POST"
    assert found["url"] == f"http://{shopping}.{platform.domain}/fetch/anna?q=1"
    assert (found["name"], found["body"], found["ours"]) == ("anna", "hello", [])


def test_storage_holds_and_rolls_back(platform: RunningPlatform, shopping: str) -> None:
    """Goal: KV and SQL storage side by side; a transaction that throws leaves nothing."""
    assert called(platform, shopping, "store", "two") == [3, 0]
    assert called(platform, shopping, "add", "two") == 1


def test_an_object_reaches_another(platform: RunningPlatform, shopping: str) -> None:
    """Goal: inside the object cell the same binding leads to the same objects."""
    assert called(platform, shopping, "where")["name"] == "another"


def test_what_cannot_be_had_is_refused(platform: RunningPlatform, shopping: str) -> None:
    """Goal: a jurisdiction, a missing method: an error, no hang."""
    assert "not implemented" in called(platform, shopping, "jurisdiction")["message"]
    assert "does not implement the method" in called(platform, shopping, "missing")["message"]


def counts_on(acknowledged: list[int]) -> None:
    """Wait until some more were acknowledged."""
    enough = len(acknowledged) + 20
    wait_until(lambda: len(acknowledged) >= enough, "it counts on", deadline_s=20)


def chat(platform: RunningPlatform, worker: str, who: str) -> ClientConnection:
    """Join the room."""
    port = platform.http.rpartition(":")[2]
    url = f"ws://{worker}.localhost:{port}/fetch/room?who={who}"
    return connect(url, sock=socket.create_connection(("127.0.0.1", int(port))), proxy=None)


def test_a_chat_sleeps_and_wakes(platform: RunningPlatform, shopping: str) -> None:
    """Goal: WebSockets outlive their object's sleep; it wakes with its attachments, and `ping` is
    answered without waking it."""
    with chat(platform, shopping, "anna") as anna, chat(platform, shopping, "ben") as ben:
        anna.send("hello")
        assert (anna.recv(10), ben.recv(10)) == ("anna 1: hello", "anna 1: hello")
        anna.send("ping")
        assert anna.recv(10) == "pong"

        # Each word of theirs would keep it awake, so nobody speaks until workerd has let it sleep.
        with suppress(TimeoutError):
            anna.recv(ASLEEP_S)
        ben.send("awake?")
        assert (anna.recv(10), ben.recv(10)) == ("ben 2: awake?", "ben 2: awake?")


def test_every_acknowledged_write_counts(state: Path) -> None:
    """Goal: not one of an object's acknowledged writes is lost, nor counted twice, while its worker
    is deployed anew and its cell, the agent and the whole platform are killed. Method: each
    acknowledgement is the count after it."""
    with running(state) as platform:
        deploy_shop(platform, "tally")
        platform.wait_for("tally", "1", "/version")
        with counting(platform, "tally") as acknowledged:
            for version in ("2", "3"):
                counts_on(acknowledged)
                deploy_shop(platform, "tally", version)
            for victim in ("object_cell_started", "agent_started", "object_cell_started"):
                kill_newest(platform, victim)
                counts_on(acknowledged)
        assert len(set(acknowledged)) == len(acknowledged)
        assert called(platform, "tally", "count") >= len(acknowledged)
        called(platform, "tally", "wake")
        before = called(platform, "tally", "add")
        platform.kill()
    with running(state) as platform:
        wait_until(
            lambda: called(platform, "tally", "woken") == "woken", "the alarm", deadline_s=20
        )
        assert called(platform, "tally", "count") == before


def test_a_backup_under_load_holds_what_was_acknowledged(tmp_path: Path) -> None:
    """Goal: a platform that comes back from its backup has what was acknowledged before it began,
    and goes on."""
    file, again = tmp_path / "kythera.tar", tmp_path / "again"
    with running(tmp_path / "first") as platform:
        deploy_shop(platform, "saved")
        platform.wait_for("saved", "1", "/version")
        with counting(platform, "saved") as acknowledged:
            counts_on(acknowledged)
            before = len(acknowledged)
            done = platform.kythera("backup", "create", str(file))
            assert done.returncode == 0, done.stderr
            after = called(platform, "saved", "count")
    argv = [*COMMAND, "backup", "restore", "--state", str(again), str(file)]
    subprocess.run(argv, env=clean_environment(), capture_output=True, timeout=60, check=True)
    with running(again) as platform:
        platform.wait_for("saved", "1", "/version")
        count = called(platform, "saved", "count")
        assert before <= count <= after
        assert called(platform, "saved", "add") == count + 1


def test_plain_calls_wait_while_a_version_is_deployed(platform: RunningPlatform) -> None:
    """Goal: no call of an object fails because its worker is deployed anew."""
    deploy_shop(platform, "calm")
    platform.wait_for("calm", "1", "/version")
    with counting(platform, "calm") as acknowledged:
        for version in ("2", "3", "4"):
            counts_on(acknowledged)
            deploy_shop(platform, "calm", version)
            platform.wait_for("calm", f'"version":"{version}"', "/fetch/one")
    assert called(platform, "calm", "count") == len(acknowledged)


def test_a_renamed_class_keeps_its_objects_and_a_deleted_one_loses_them(
    platform: RunningPlatform,
) -> None:
    """Goal: a rename is a name; after a delete and a new class of that name nothing is there; code
    that is rolled back finds what newer code has written."""
    deploy_shop(platform, "moved")
    platform.wait_for("moved", "1", "/version")
    assert called(platform, "moved", "add") == 1
    old = platform.call("GET", "/workers/scripts/moved/versions").json()["result"]["items"][0]["id"]
    renamed = {
        "old_tag": "v1",
        "new_tag": "v2",
        "steps": [{"renamed_classes": [{"from": "Shop", "to": "Store"}]}],
    }
    platform.upload("moved", shop("2", "Store"), bindings=[binding("Store")], migrations=renamed)
    platform.wait_for("moved", '"version":"2"', "/fetch/one")
    assert called(platform, "moved", "add") == 2
    rollback = {"strategy": "percentage", "versions": [{"version_id": old, "percentage": 100}]}
    assert platform.call("POST", "/workers/scripts/moved/deployments", json=rollback).is_success
    platform.wait_for("moved", '"version":"1"', "/fetch/one")
    assert called(platform, "moved", "add") == 3
    again = {
        "old_tag": "v2",
        "new_tag": "v3",
        "steps": [{"deleted_classes": ["Store"]}, {"new_sqlite_classes": ["Store"]}],
    }
    platform.upload("moved", shop("3", "Store"), bindings=[binding("Store")], migrations=again)
    platform.wait_for("moved", '"version":"3"', "/fetch/one")
    assert called(platform, "moved", "count") == 0
    folders = (
        platform.state / "data" / "objects" / platform.account_id / "moved" / "store"
    ).iterdir()
    assert len(list(folders)) == 1


def test_a_transferred_class_takes_its_objects_along(platform: RunningPlatform) -> None:
    """Goal: another worker has them, the giver's process had let go before, its binding follows, and
    so it is after a death."""
    deploy_shop(platform, "giving")
    platform.wait_for("giving", "1", "/version")
    assert [called(platform, "giving", "add") for _ in range(2)] == [1, 2]
    taken = {"from": "Shop", "from_script": "giving", "to": "Store"}
    steps = [{"transferred_classes": [taken]}]
    platform.upload(
        "taking",
        shop("2", "Store"),
        bindings=[binding("Store")],
        migrations={"new_tag": "v1", "steps": steps},
    )
    platform.wait_for("taking", "2", "/version")
    assert called(platform, "taking", "add") == 3
    platform.wait_for("giving", '"version":"2"', "/fetch/one")
    assert called(platform, "giving", "add") == 4
    told = platform.log.read_text(errors="replace").splitlines()
    given = f"objects/{platform.account_id}/giving"
    left = [line for line in told if "object_cell_exited" in line and given in line]
    took = [line for line in told if "objects_taken_over" in line and "taking" in line]
    assert told.index(left[0]) < told.index(took[0])
    kill_newest(platform, "object_cell_started")
    wait_until(lambda: called(platform, "taking", "count") == 4, "the objects are there again")


def test_another_worker_binds_the_class(platform: RunningPlatform, shopping: str) -> None:
    """Goal: `script_name` leads to the same objects as the worker's own binding."""
    before = called(platform, shopping, "add", "shared")
    platform.upload("guest", shop(), bindings=[binding(script_name=shopping)])
    platform.wait_for("guest", "1", "/version")
    assert called(platform, "guest", "add", "shared") == before + 1


def test_an_older_workerd_does_not_open_newer_objects(state: Path) -> None:
    """Goal: an operator cannot choose an older one; and where one comes about all the same, it does
    not open what a newer one has written. Method: a program that says an old date; then a mark
    that says a later one."""
    with running(state) as platform:
        deploy_shop(platform, "newer")
        platform.wait_for("newer", '"version":"1"', "/fetch/one")
        account = platform.account_id
        old = state.with_name("workerd-of-old")
        old.write_text("#!/bin/sh\necho workerd 2020-01-01\n")
        old.chmod(0o755)
        done = platform.kythera("workerd", "use", str(old))
        assert done.returncode == 1
        assert "would damage them" in done.stderr
    mark = state / "data" / "objects" / account / "newer" / "workerd"
    mark.write_text("2099-01-01")
    with running(state) as platform:
        wait_until(lambda: "which is older" in platform.log.read_text(), "it says why")
        assert platform.get("newer", "/version").text == "1"


def test_objects_run_the_newest_version_of_a_deployment(platform: RunningPlatform) -> None:
    """Goal: while two versions share the visitors, every object runs the newer code."""
    deploy_shop(platform, "halves")
    platform.wait_for("halves", '"version":"1"', "/fetch/one")
    document = {"main_module": "w.js", "compatibility_date": "2026-01-01", "bindings": [binding()]}
    files = {
        "metadata": (None, json.dumps(document), "application/json"),
        "w.js": ("w.js", shop("2"), "application/javascript+module"),
    }
    made = platform.call("POST", "/workers/scripts/halves/versions", files=files)
    assert made.is_success, made.text
    found = platform.call("GET", "/workers/scripts/halves/versions").json()["result"]["items"]
    split = [{"version_id": one["id"], "percentage": 50} for one in found]
    document = {"strategy": "percentage", "versions": split}
    assert platform.call("POST", "/workers/scripts/halves/deployments", json=document).is_success
    platform.wait_for("halves", '"version":"2"', "/fetch/one")
    stateless = {platform.get("halves", "/version").text for _ in range(40)}
    objects = {platform.get("halves", "/fetch/one").json()["version"] for _ in range(40)}
    assert (stateless, objects) == ({"1", "2"}, {"2"})


def test_an_object_that_loops_is_ended(platform: RunningPlatform) -> None:
    """Goal: `cpu_ms` holds in an object cell too; what was written before is there, and the machine
    says what befell the worker."""
    deploy_shop(platform, "dizzy", limits={"cpu_ms": 100})
    platform.wait_for("dizzy", "1", "/version")
    assert called(platform, "dizzy", "add") == 1
    assert platform.get("dizzy", "/spin/one").status_code == 500
    assert called(platform, "dizzy", "add") == 2
    wait_until(lambda: "object_cell_exceeded" in platform.log.read_text(), "it is told")
