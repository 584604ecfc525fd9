"""`kythera token` and `kythera machine` against a fake API: what they ask for, what they print."""

import json
from typing import Any

import pytest

from kythera.cli.machine import serving
from tests.cli.conftest import Run
from tests.cli.fake_api import FakeApi

MADE = {
    "id": "ebeed1eaed2f",
    "token": "kythera1.AAAA",
    "expires_on": "2026-11-23T10:13:11.088953Z",
    "warning": "",
}
MACHINE: dict[str, Any] = {
    "name": "pi-3",
    "site": "flat",
    "region": "eu",
    "world": "",
    "mesh": "10.0.0.3:7443",
    "core": True,
    "state": "active",
    "labels": {"disk": "ssd"},
    "here": True,
}
LISTED = """\
MACHINE  SITE  REGION  LOG   STATE   MESH           LABELS
pi-3 *   flat  eu      core  active  10.0.0.3:7443  disk=ssd
"""


def test_a_new_token_is_alone_on_stdout(api: FakeApi, run: Run) -> None:
    """Goal: TOKEN=$(kythera token create) works. Method: the advice is on stderr."""
    api.answers["POST /kythera/tokens"] = [MADE]
    ran = run("token", "create", "--life", "600")
    assert (ran.code, ran.out) == (0, "kythera1.AAAA\n")
    assert "kythera up --join TOKEN --site NAME" in ran.err
    assert api.asked("POST", "/kythera/tokens").json() == {"life_s": 600}


def test_a_tokens_warning_is_told(api: FakeApi, run: Run) -> None:
    """Goal: no surprise on the second machine. Method: an API that warns."""
    api.answers["POST /kythera/tokens"] = [{**MADE, "warning": "only machines on this host"}]
    ran = run("token", "create")
    assert "Warning: only machines on this host" in ran.err
    assert api.asked("POST", "/kythera/tokens").json() == {}
    assert json.loads(run("token", "create", "--json").out)["token"] == "kythera1.AAAA"


def test_tokens_are_listed_and_taken_back(api: FakeApi, run: Run) -> None:
    """Goal: an operator sees which are open. Method: none, one, and revoke it."""
    assert run("token", "list").out == "No token.\n"
    shown = {"id": "t1", "state": "used", "expires_on": "2026", "used_by": "pi-3"}
    api.answers["GET /kythera/tokens"] = [[shown]]
    assert run("token", "list").out.splitlines()[1].split() == ["t1", "used", "2026", "pi-3"]
    assert run("token", "revoke", "t1").code == 0
    assert api.asked("DELETE", "/kythera/tokens/t1").query == ""


def test_machines_are_listed_with_the_one_that_was_asked(api: FakeApi, run: Run) -> None:
    """Goal: the table an operator sees. Method: golden."""
    api.answers["GET /kythera/machines"] = [[MACHINE]]
    assert run("machine", "list").out == LISTED
    assert json.loads(run("machine", "list", "--json").out) == [MACHINE]


def status(state: str, pids: list[int]) -> dict[str, Any]:
    """Return a fleet's status with one machine and one cell of it."""
    cell = {"machine": "pi-3", "worker": "hello", "pids": pids}
    other = {"machine": "other", "worker": "hello", "pids": [7]}
    return {"machines": [{"name": "pi-3", "state": state}], "cells": [cell, other]}


def test_drain_waits_until_the_machine_serves_nothing(api: FakeApi, run: Run) -> None:
    """Goal: after `drain` it may be stopped. Method: silent, idle, serving after all, then empty."""
    api.answers["GET /kythera/status"] = [
        status("unreachable", []),
        status("draining", []),
        status("draining", [1]),
        status("draining", []),
    ]
    ran = run("machine", "drain", "pi-3")
    assert ran.code == 0
    assert ran.out.splitlines() == [
        "pi-3 hands its requests to others.",
        "  pi-3: it does not answer",
        "  pi-3: 1 cells still run",
        "pi-3 serves nothing any more: it may be stopped.",
    ]
    assert api.asked("PATCH", "/kythera/machines/pi-3").json() == {"state": "draining"}


def test_a_drain_that_takes_too_long_says_so_and_goes_on(api: FakeApi, run: Run) -> None:
    """Goal: a wait has an end. Method: a machine that serves for ever."""
    api.answers["GET /kythera/status"] = [status("draining", [1])]
    ran = run("machine", "drain", "pi-3", "--wait", "0.01")
    assert ran.code == 1
    assert "undrain pi-3" in ran.err


def test_a_drain_that_is_not_waited_for_asks_for_nothing(api: FakeApi, run: Run) -> None:
    """Goal: scripts may go on. Method: --wait 0."""
    ran = run("machine", "drain", "pi-3", "--wait", "0", "--json")
    assert json.loads(ran.out)["drained"] is False
    assert [call.method for call in api.calls] == ["PATCH"]


@pytest.mark.parametrize(
    ("state", "pids", "left"),
    [("unreachable", [], None), ("drained", [1], []), ("draining", [], []), ("x", [1], ["hello"])],
)
def test_what_a_machine_still_serves(state: str, pids: list[int], left: list[str] | None) -> None:
    """Goal: silence is no answer. Method: each state of a machine."""
    assert serving(status(state, pids), "pi-3") == left
    assert serving(status(state, pids), "unknown") is None


def test_labels_are_written_as_pairs(api: FakeApi, run: Run) -> None:
    """Goal: KEY=VALUE gives, KEY= takes away. Method: both in one call, and one typed wrong."""
    api.answers["PATCH /kythera/machines/pi-3"] = [MACHINE]
    ran = run("machine", "label", "pi-3", "disk=ssd", "rack=")
    assert ran.out == "pi-3: disk=ssd\n"
    asked = api.asked("PATCH", "/kythera/machines/pi-3").json()
    assert asked == {"labels": {"disk": "ssd", "rack": None}}
    assert run("machine", "label", "pi-3", "disk").code == 2


def test_a_machine_is_removed_only_when_that_is_said(api: FakeApi, run: Run) -> None:
    """Goal: nothing is lost by a word. Method: without --yes, with it, and with --force."""
    assert run("machine", "remove", "pi-3", "--json").code == 1
    assert all(call.method == "GET" for call in api.calls)
    assert run("machine", "remove", "pi-3", "--yes", "--force").code == 0
    assert api.asked("DELETE", "/kythera/machines/pi-3").query == "force=true"


def test_undrain_lets_a_machine_serve_again(api: FakeApi, run: Run) -> None:
    """Goal: drain can be undone. Method: what is asked for."""
    assert run("machine", "undrain", "pi-3").out == "pi-3 serves again.\n"
    assert api.asked("PATCH", "/kythera/machines/pi-3").json() == {"state": "active"}
