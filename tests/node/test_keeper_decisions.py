"""The keeper's few decisions, without a process: back-off, deadlines, banner, options."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.ground.chance import SeededChance
from kythera.ground.layout import Layout
from kythera.model.errors import SetupError
from kythera.model.limits import Limits
from kythera.model.names import is_machine_name
from kythera.model.platform import Platform
from kythera.node.keeper_banner import banner, our_command, ready_event
from kythera.node.keeper_programs import LIVED_S, next_pause_ms
from kythera.node.keeper_stop import deadlines
from kythera.node.up_options import (
    UpOptions,
    check,
    prepare_folders,
    prepare_secrets,
    remembered,
)

PLATFORM = Platform(account_id="a" * 32, machine="m", http="0.0.0.0:80", api="127.0.0.1:8787")


@given(st.lists(st.floats(0, 60), max_size=30))
def test_pauses_double_up_to_a_limit_and_begin_anew(lives: list[float]) -> None:
    """Goal: a program that keeps failing costs little. Method: any lives, one after the other."""
    limits = Limits(child_backoff_ms_min=100, child_backoff_ms_max=5_000)
    pause = 0
    for lived_s in lives:
        before, pause = pause, next_pause_ms(pause, lived_s, limits)
        if before == 0 or lived_s >= LIVED_S:
            assert pause == 100
        else:
            assert pause == min(before * 2, 5_000)


@given(st.lists(st.integers(-20, 100), min_size=1), st.integers(1, 60_000))
def test_every_order_has_its_part_of_the_deadline(orders: list[int], stop_ms: int) -> None:
    """Goal: all is over within stop_ms. Method: any orders, any limit."""
    due = deadlines(orders, stop_ms)
    assert set(due) == set(orders)
    moments = [due[order] for order in sorted(due)]
    assert moments == sorted(moments)
    assert moments[0] > 0
    assert moments[-1] < stop_ms / 1000


def test_the_ready_event_has_addresses_that_work_here() -> None:
    """Goal: scripts can use what it says. Method: a door on all addresses; then one with TLS."""
    assert ready_event(PLATFORM, 7) == {
        "event": "ready",
        "http": "http://127.0.0.1:80",
        "api": "http://127.0.0.1:8787/client/v4",
        "account_id": "a" * 32,
        "domain": "localhost",
        "pid": 7,
    }
    with_tls = Platform(account_id="a", machine="m", https="[::]:8443")
    assert ready_event(with_tls, 7)["https"] == "https://[::1]:8443"
    json.dumps(ready_event(with_tls, 7))


def test_the_banner_says_what_a_newcomer_needs() -> None:
    """Goal: example, API, the line to type, how to stop. Method: read it."""
    text = banner(PLATFORM, Path("my state"), "kythera", {"example": "http://hello.localhost"})
    assert "http://hello.localhost" in text
    assert "http://127.0.0.1:8787/client/v4" in text
    assert "kythera wrangler --state 'my state' -- deploy" in text
    assert "http://<worker>.localhost\n" in text
    assert "Ctrl-C" in text
    assert "Example" not in banner(PLATFORM, Path("s"), "kythera", {})


def test_the_command_in_the_banner_can_be_typed_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: copy, paste, works. Method: on PATH, beside it, and started as a module."""
    command = tmp_path / "kythera"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", "")
    assert our_command(str(command)) == str(command)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert our_command(str(command)) == "kythera"
    assert our_command("x/__main__.py").endswith(" -m kythera.cli")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"http": "8080"}, "HOST:PORT"),
        ({"domain": "Not a name"}, "hostname"),
        ({"machine": "Not a name"}, "a machine's name"),
        ({"mesh": "0.0.0.0:7000"}, "--advertise"),
        ({"mesh": "nowhere"}, "HOST:PORT"),
        ({"https": "127.0.0.1:0"}, "--tls-certificates"),
        ({"tls_certificates": "no-such-file"}, "no certificate"),
    ],
)
def test_options_that_cannot_work_are_refused(change: dict[str, str], text: str) -> None:
    """Goal: said before anything starts. Method: one wrong option at a time."""
    with pytest.raises(SetupError, match=text):
        check(UpOptions(state=Path("s"), **change))  # type: ignore[arg-type]


@pytest.mark.parametrize("odd", ["$HOME", "a,b", "{x}", "a\nb", "\x7f", os.fsdecode(b"\xff")])
def test_a_state_folder_that_engines_cannot_be_told_is_refused(tmp_path: Path, odd: str) -> None:
    """Goal: said at once, not by HAProxy for ever. Method: the name, and a link to such a folder."""
    with pytest.raises(SetupError, match="state folder") as refused:
        check(UpOptions(state=tmp_path / odd / "state"))
    assert refused.value.message.isprintable()
    (tmp_path / odd).mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / odd)
    with pytest.raises(SetupError, match="state folder"):
        check(UpOptions(state=link))
    check(UpOptions(state=tmp_path / 'Jürgen\'s 100 % "a\\b" #;=:@|&*?[]()'))


def test_a_first_start_takes_the_usual_place_and_the_hosts_name() -> None:
    """Goal: `kythera up` alone works. Method: no option, no start before."""
    options = remembered(UpOptions(state=Path("s")), None, joined=False)
    assert is_machine_name(options.machine)
    assert (options.site, options.region, options.domain) == ("local", "", "localhost")
    assert (options.mesh, options.advertise) == ("127.0.0.1:0", "")


def test_a_machine_stays_where_it_was_and_who_it_was() -> None:
    """Goal: place and name are said once. Method: start again without them, then with others."""
    before = Platform(
        account_id="a",
        machine="pi-3",
        site="flat",
        region="eu",
        world="earth",
        domain="x.org",
        mesh="10.0.0.3:7443",
        mesh_advertised="192.0.2.1:7443",
    )
    kept = remembered(UpOptions(state=Path("s")), before, joined=True)
    assert (kept.machine, kept.site, kept.region, kept.world) == ("pi-3", "flat", "eu", "earth")
    assert (kept.mesh, kept.advertise, kept.domain) == ("10.0.0.3:0", "192.0.2.1:7443", "x.org")
    assert remembered(UpOptions(state=Path("s")), before, joined=False).domain == "localhost"
    chosen = UpOptions(state=Path("s"), site="rack", mesh="10.0.0.4:1", domain="y.org")
    moved = remembered(chosen, before, joined=True)
    assert (moved.site, moved.mesh, moved.domain) == ("rack", "10.0.0.4:1", "y.org")


def test_what_was_never_advertised_is_not_remembered_as_if() -> None:
    """Goal: a mesh address that changes is told anew. Method: advertised was the address itself."""
    before = Platform(
        account_id="a", machine="m", mesh="127.0.0.1:5", mesh_advertised="127.0.0.1:5"
    )
    assert remembered(UpOptions(state=Path("s")), before, joined=False).advertise == ""


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """Goal: the operator knows which folder. Method: a file where a folder must be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match=r"file/state.*--state DIR"):
        prepare_folders(Layout(tmp_path / "file" / "state"))


def test_a_folder_of_sockets_that_somebody_planted_is_refused(tmp_path: Path) -> None:
    """Goal: no stranger reads our sockets. Method: a link where the folder belongs."""
    layout = Layout(tmp_path / ("long" * 20))
    layout.run.symlink_to(tmp_path)
    try:
        with pytest.raises(SetupError, match="somebody else"):
            prepare_folders(layout)
    finally:
        layout.run.unlink()


def test_secrets_are_made_once_and_for_the_owner_alone(tmp_path: Path) -> None:
    """Goal: a restart changes no token and no key. Method: prepare twice."""
    layout = Layout(tmp_path / "state")
    prepare_folders(layout)
    prepare_secrets(layout, SeededChance(1))
    first = layout.token.read_bytes(), layout.secrets_key.read_bytes()
    prepare_secrets(layout, SeededChance(2))
    assert (layout.token.read_bytes(), layout.secrets_key.read_bytes()) == first
    for path in (layout.token, layout.secrets_key):
        assert path.stat().st_mode & 0o777 == 0o600
    assert layout.state.stat().st_mode & 0o777 == 0o700
    assert len(first[0]) == 40
