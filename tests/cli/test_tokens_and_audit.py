"""`kythera api-token` and `kythera audit`: what they ask for, what they print."""

import json
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.cli.audit import CHANGE_MAX, change, text
from kythera.cli.durations import UNITS, Duration
from tests.cli.conftest import Run
from tests.cli.fake_api import FakeApi

MADE: dict[str, Any] = {
    "id": "0123456789ab",
    "name": "ci",
    "status": "active",
    "scopes": ["deploy"],
    "workers": ["shop"],
    "expires_on": "2026-12-23T03:07:59.000000Z",
    "created_by": "root",
    "value": "kyt_0123456789ab_secret",
}
RECORD: dict[str, Any] = {
    "id": "m-7",
    "when": "2026-11-23T03:07:59.015332Z",
    "actor": {"id": "0123456789ab", "email": "ci", "ip": "10.0.0.5", "type": "token"},
    "action": {"type": "deploy", "result": True, "info": ""},
    "resource": {"type": "worker", "id": "worker shop"},
    "interface": "wrangler/4.86.0",
    "owner": {"id": "a"},
    "metadata": {"machine": "m", "worker": "shop"},
    "oldValueJson": {"serves": {"11111111-0000-4000-8000-000000000000": 100.0}},
    "newValueJson": {"serves": {"22222222-0000-4000-8000-000000000000": 100.0}, "number": 2},
}


def test_a_token_goes_to_stdout_alone_and_its_terms_beside_it(run: Run, api: FakeApi) -> None:
    """TOKEN=$(kythera api-token create …) must work."""
    api.answers["POST /tokens"] = [MADE]
    words = "--name ci --scope deploy --worker shop --expires 30d".split()
    ran = run("api-token", "create", *words)
    assert ran.out == "kyt_0123456789ab_secret\n"
    assert ran.err == "ci: deploy for shop, until 2026-12-23. It is not shown again.\n"
    assert api.asked("POST", "/tokens").json() == {
        "name": "ci",
        "scopes": ["deploy"],
        "workers": ["shop"],
        "life_s": 30 * 86_400,
    }


@pytest.mark.parametrize(("expires", "life_s"), [("never", None), ("12h", 43_200), ("", "usual")])
def test_a_token_lives_as_long_as_was_typed(
    run: Run, api: FakeApi, expires: str, life_s: object
) -> None:
    """`never` is said to the API; without the option the platform decides."""
    api.answers["POST /tokens"] = [{**MADE, "expires_on": None, "workers": []}]
    words = ["--expires", expires] if expires else []
    ran = run("api-token", "create", "--name", "ci", "--scope", "read", *words)
    assert "for all workers, for ever" in ran.err
    assert api.asked("POST", "/tokens").json().get("life_s", "usual") == life_s


def test_tokens_are_listed_and_revoked_by_name(run: Run, api: FakeApi) -> None:
    """Goldens; the text of a token is in none."""
    assert run("api-token", "list").out.startswith("No API token")
    api.answers["GET /tokens"] = [[MADE, {**MADE, "name": "all", "workers": []}]]
    assert run("api-token", "list").out == (
        "NAME  STATE   SCOPES  WORKERS  EXPIRES     MADE BY  ID\n"
        "ci    active  deploy  shop     2026-12-23  root     0123456789ab\n"
        "all   active  deploy  all      2026-12-23  root     0123456789ab\n"
    )
    api.answers["DELETE /tokens/ci"] = [{"id": "0123456789ab", "name": "ci"}]
    assert run("api-token", "revoke", "ci").out == "The token ci opens nothing any more.\n"


def test_the_audit_is_a_table_newest_last(run: Run, api: FakeApi) -> None:
    """The API tells newest first; a person reads the end."""
    later = {**RECORD, "id": "m-8", "when": "2026-11-23T04:00:00.0Z"}
    later |= {"action": {"type": "set secret", "info": "in doubt"}, "oldValueJson": {}}
    later |= {"newValueJson": {"secrets": ["A", "B"]}}
    api.answers["GET /audit_logs"] = [[later, RECORD]]
    assert run("audit", "--worker", "shop", "--since", "1h", "--limit", "5").out == (
        "WHEN (UTC)           WHO  FROM           DID         TO           BEFORE -> AFTER\n"
        "2026-11-23 03:07:59  ci   10.0.0.5 at m  deploy      worker shop"
        "  serves: 11111111 100 -> 22222222 100; number: 2\n"
        "2026-11-23 04:00:00  ci   10.0.0.5 at m  set secret  worker shop"
        "  secrets: A, B; (in doubt)\n"
    )
    asked = api.asked("GET", "/audit_logs").query
    assert "worker=shop" in asked
    assert "per_page=5" in asked
    assert "since=" in asked
    assert json.loads(run("audit", "--json").out) == [RECORD, later]


def test_an_audit_without_records_says_so(run: Run) -> None:
    """Not an empty table."""
    assert run("audit").out == "Nothing was changed.\n"


def test_what_came_from_outside_cannot_steer_a_terminal() -> None:
    """A token's name, a setting, an address: all printable."""
    wild = {**RECORD, "newValueJson": {"tags": ["\x1b[31m\n"]}}
    assert "\x1b" not in text([wild])
    assert text([wild]).count("\n") == 1


@given(st.dictionaries(st.text(), st.text() | st.lists(st.text()) | st.none()))
def test_a_change_is_one_line_of_bounded_length(facts: dict[str, Any]) -> None:
    """Whatever the settings were."""
    line = change({**RECORD, "oldValueJson": facts, "newValueJson": facts})
    assert len(line) <= CHANGE_MAX
    assert "\n" not in line


@given(st.integers(0, 10**6), st.sampled_from(sorted(UNITS)))
def test_a_length_of_time_is_a_number_and_a_unit(number: int, unit: str) -> None:
    """And nothing else."""
    assert Duration().convert(f"{number}{unit}", None, None) == number * UNITS[unit]


@pytest.mark.parametrize("typed", ["", "3", "d", "-1d", "1.5h", "1 d", "never", "1w", "\u0661d"])
def test_what_is_no_length_of_time_is_refused(typed: str) -> None:
    """With how to write it."""
    with pytest.raises(click.BadParameter, match="write a number with s, m, h or d"):
        Duration().convert(typed, None, None)
