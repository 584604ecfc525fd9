"""The doctor's verdicts: what is looked at, how it is told, when the exit code is 1."""

import json
import socket
from pathlib import Path

import pytest

from kythera.cli import checks
from kythera.cli.checks import Verdict, version_in
from kythera.cli.doctor import report
from kythera.ground.layout import Layout
from kythera.model.platform import Platform
from tests.cli.conftest import Run


def test_the_report_says_what_to_do_about_all_that_is_not_ok() -> None:
    """One line each, the remedy below."""
    found = [
        Verdict("python", "ok", "3.11.2"),
        Verdict("open files", "warn", "at most 1024.", "Raise it."),
    ]
    assert report(found).replace("\x1b[0m", "").replace("\x1b[32m", "").replace("\x1b[33m", "") == (
        "ok    python      3.11.2\nwarn  open files  at most 1024.\n                  -> Raise it."
    )


@pytest.mark.real
def test_the_doctor_looks_at_a_machine_without_a_platform(run: Run, tmp_path: Path) -> None:
    """Every verdict that is not ok has a remedy; a missing platform is no failure."""
    ran = run("doctor", "--json", "--state", str(tmp_path / "none"))
    found = {each["name"]: each for each in json.loads(ran.out)}
    assert {"python", "workerd", "haproxy", "nats-server", "disk", "isolation"} <= set(found)
    assert found["platform"]["level"] == "warn"
    assert all(each["remedy"] for each in found.values() if each["level"] != "ok")
    assert ran.code == int(any(each["level"] == "fail" for each in found.values()))


def test_a_platform_that_is_down_has_its_doors_checked(layout: Layout) -> None:
    """A port that somebody else took is a failure, told with how to find them."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        platform = Platform(account_id="0" * 32, machine="here", http=address, api="127.0.0.1:0")
        http, api = checks.ports_free(platform)
    assert (http.level, api.level) == ("fail", "ok")
    assert "ss -ltnp" in http.remedy


def test_a_token_that_others_may_read_is_a_failure(layout: Layout) -> None:
    """And the command that mends it."""
    layout.secrets_key.write_text("k")
    layout.secrets_key.chmod(0o600)
    assert checks.private_files(layout).level == "ok"
    layout.token.chmod(0o644)
    assert checks.private_files(layout).remedy == "chmod 600 token"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("HAProxy version 2.6.12-1+deb12u1 2023/12/16", (2, 6, 12)),
        ("v20.20.2", (20, 20, 2)),
        ("nats-server: v2.15.1", (2, 15, 1)),
        ("", ()),
    ],
)
def test_versions_are_read_out_of_what_programs_say(text: str, version: tuple[int, ...]) -> None:
    """The first dotted number counts."""
    assert version_in(text) == version


@pytest.mark.anyio
async def test_a_program_that_is_missing_or_fails_says_nothing() -> None:
    """No exception reaches the report."""
    assert await checks.ask_program(["/nonexistent/program"]) is None
    assert await checks.ask_program(["/bin/false"]) is None
    assert await checks.ask_program(["/bin/echo", "1.2"]) == "1.2\n"
