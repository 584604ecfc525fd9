"""The commands, run in this process against a fake API: what they ask for, what they print.

Goldens are written out in full: what an operator sees is part of the product.
"""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from kythera.cli import command
from kythera.cli.main import COMMANDS, kythera
from kythera.ground.layout import Layout
from tests.cli.conftest import Run
from tests.cli.fake_api import ACCOUNT, TOKEN, FakeApi

OLD = "11111111-0000-4000-8000-000000000000"
NEW = "22222222-0000-4000-8000-000000000000"
HELP = """\
Usage: kythera [OPTIONS] COMMAND [ARGS]...

  The machines you own, as one computer that runs Cloudflare Workers.

  Start with `kythera up`, then `kythera deploy` or `kythera wrangler deploy`
  in your project.

Options:
  --version   Show the version and exit.
  -h, --help  Show this message and exit.

Commands:
  up         Start the platform on this machine; Ctrl-C stops it.
  fleet      Run a whole fleet on this computer, and trouble it.
  status     Show machines and cells as they are now.
  token      Make the lines with which machines join.
  api-token  Say who may call the API, and what for.
  audit      Show who changed what.
  machine    List, drain, promote and remove machines.
  doctor     Check this machine and the running platform.
  deploy     Put a project, or one .js/.ts file, into service.
  tail       Watch a worker's requests, console and exceptions.
  rollback   Serve an earlier version again.
  worker     List and delete workers.
  cron       See cron triggers, and try them.
  binding    Let workers stand for what is not offered.
  versions   List a worker's versions.
  secret     Set, list and delete a worker's secrets.
  cache      Purge what workers have put into the cache.
  key        Change the key that seals secrets.
  workerd    Choose the workerd that this machine's cells run.
  wrangler   Run wrangler against this platform.
  env        Print the environment that wrangler needs.
  backup     Put everything into one file.

Exit codes:
  0    done
  1    failed; the message says what to do
  2    the command was typed wrong
  3    no platform answers for this --state
  130  interrupted
"""


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    """Return a small project."""
    folder = tmp_path / "hello"
    folder.mkdir()
    (folder / "index.js").write_text("export default { fetch: () => new Response('hi') };\n")
    document = {"name": "hello", "main": "index.js", "compatibility_date": "2026-01-01"}
    (folder / "wrangler.jsonc").write_text(json.dumps(document))
    return folder


@pytest.fixture
def two_versions(api: FakeApi) -> FakeApi:
    """Return a platform with one worker of two versions, the newer serving."""
    api.workers["hello"] = {"id": "hello", "modified_on": "2026-11-23T03:07:59.0Z"}
    api.versions = [
        {
            "id": each,
            "number": number,
            "metadata": {"created_on": f"2026-11-2{number}T03:07:59.015332Z", "source": "wrangler"},
            "annotations": note,
        }
        for each, number, note in (
            (NEW, 2, {"workers/message": "second"}),
            (OLD, 1, {"workers/triggered_by": "upload"}),
        )
    ]
    api.deployments = [
        {"id": each, "versions": [{"version_id": each, "percentage": 100}]} for each in (NEW, OLD)
    ]
    return api


def test_the_help_of_the_whole_is_as_written_here(bare: Run) -> None:
    """The first thing that anybody sees."""
    assert bare("--help").out == HELP


def test_each_line_of_help_is_the_commands_own() -> None:
    """The table in main.py repeats the first sentences; they must not drift apart."""
    for name, (_module, _attribute, line) in COMMANDS.items():
        found = kythera.get_command(click.Context(kythera), name)
        assert found is not None
        assert (found.help or "").startswith(line), name


def test_help_imports_no_command_and_no_network_library() -> None:
    """It answers at once because it loads next to nothing."""
    code = (
        "import sys; from kythera.cli.main import main; main(['--help']);"
        "print([m for m in ('httpx', 'anyio', 'websockets', 'nats') if m in sys.modules])"
    )
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "words",
    [
        ("deploy", "hello.js"),
        ("worker", "list"),
        ("worker", "delete", "x", "--yes"),
        ("versions", "list", "x"),
        ("rollback", "x"),
        ("tail", "x"),
        ("secret", "list", "x"),
        ("status",),
        ("env",),
        ("wrangler", "--", "deploy"),
    ],
)
def test_without_a_platform_every_command_says_how_to_start_one(
    bare: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """Exit code 3, one sentence, one remedy, no traceback."""
    (tmp_path / "hello.js").write_text("export default {}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KYTHERA_STATE", str(tmp_path / "none"))
    ran = bare(*words)
    assert ran.code == 3
    assert ran.err == (
        f"Error: no platform has been started in {tmp_path}/none.\n"
        f"  -> Start one: kythera up --state {tmp_path}/none\n"
    )


def test_a_platform_that_is_down_is_told_from_one_that_never_was(run: Run, layout: Layout) -> None:
    """The state is there, nobody listens."""
    document = json.loads(layout.platform.read_bytes())
    layout.platform.write_text(json.dumps({**document, "api": "127.0.0.1:1"}))
    ran = run("worker", "list")
    assert ran.code == 3
    assert ran.err == (
        "Error: the API at 127.0.0.1:1 does not answer.\n"
        "  -> Start the platform with `kythera up`, or ask `kythera doctor`.\n"
    )
    ran = run("status", "--json")
    assert ran.code == 3
    assert json.loads(ran.err)["error"] == {
        "message": f"the platform in {layout.state} is down.",
        "remedy": f"Start it: kythera up --state {layout.state}",
    }


def test_the_environment_is_what_wrangler_needs(run: Run, layout: Layout) -> None:
    """As export lines for a shell, and as JSON for a program."""
    found = json.loads(run("env", "--json").out)
    assert found["CLOUDFLARE_API_TOKEN"] == TOKEN
    assert found["CLOUDFLARE_ACCOUNT_ID"] == ACCOUNT
    assert found["CLOUDFLARE_API_BASE_URL"].endswith("/client/v4")
    assert found["WRANGLER_SEND_METRICS"] == "false"
    lines = run("env").out.splitlines()
    assert f"export CLOUDFLARE_API_TOKEN={TOKEN}" in lines
    assert len(lines) == len(found)


def test_deploy_uploads_the_bundle_and_says_where_it_is_served(
    run: Run, api: FakeApi, hello: Path
) -> None:
    """One PUT with the whole version, then its hostname."""
    ran = run("deploy", str(hello), "--var", "GREETING:Hi", "--message", "first", "--tag", "t1")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[-3:] == [
        "Deployed hello (starts in 3 ms)",
        "  http://hello.localhost:8080/",
        "Version 21624ea2-b948-4249-8a4c-aaf244ae2692",
    ]
    form = api.asked("PUT", "/workers/scripts/hello").form()
    metadata = json.loads(form["metadata"].get_payload())  # type: ignore[arg-type]
    assert metadata == {
        "bindings": [{"type": "plain_text", "name": "GREETING", "text": "Hi"}],
        "compatibility_date": "2026-01-01",
        "compatibility_flags": [],
        "keep_bindings": ["secret_text", "secret_key"],
        "main_module": "index.js",
        "annotations": {"workers/message": "first", "workers/tag": "t1"},
    }
    assert form["index.js"].get_content_type() == "application/javascript+module"
    body = api.asked("POST", "/workers/scripts/hello/subdomain").json()
    assert body == {"enabled": True, "previews_enabled": False}


def test_deploy_as_json_prints_one_document(run: Run, hello: Path) -> None:
    """And nothing beside it."""
    document = json.loads(run("deploy", str(hello), "--json").out)
    assert document["worker"] == "hello"
    assert document["version_id"] == "21624ea2-b948-4249-8a4c-aaf244ae2692"
    assert document["urls"] == ["http://hello.localhost:8080/"]
    assert [each["name"] for each in document["modules"]] == ["index.js", "index.js.map"]


def test_deploy_shows_what_the_api_refuses_and_what_to_do(
    run: Run, api: FakeApi, hello: Path
) -> None:
    """The API's own words, Cloudflare's code, a remedy."""
    api.refusals["PUT /workers/scripts/hello"] = (400, 10021, "ReferenceError: x is not defined")
    ran = run("deploy", str(hello))
    assert ran.code == 1
    assert ran.err == (
        "Error: ReferenceError: x is not defined [code: 10021]\n"
        "  -> Mend the code and deploy again; nothing was stored and the old version still "
        "serves.\n"
    )
    ran = run("deploy", str(hello), "--json")
    assert json.loads(ran.err)["error"]["code"] == 10021


def test_only_missing_assets_are_uploaded(run: Run, api: FakeApi, tmp_path: Path) -> None:
    """The session says which; they go with its token, and the version gets the completion."""
    site = tmp_path / "site"
    (site / "public").mkdir(parents=True)
    (site / "public" / "a.txt").write_text("hello\n")
    (site / "public" / "b.txt").write_text("other\n")
    (site / "public" / "_headers").write_text("/*\n  X-A: b\n")
    document: dict[str, Any] = {
        "name": "site",
        "compatibility_date": "2026-01-01",
        "assets": {"directory": "public", "not_found_handling": "404-page"},
        "routes": ["a.example/*", {"pattern": "b.example", "custom_domain": True}],
    }
    (site / "wrangler.json").write_text(json.dumps(document))
    hash_a = "56638d01375d9d28c49e281774cfd32f"
    api.missing_assets = [[hash_a]]
    ran = run("deploy", str(site))
    assert ran.code == 0, ran.err
    assert "Assets: 2 files, 1 of them new." in ran.out
    manifest = api.asked("POST", "/assets-upload-session").json()["manifest"]
    assert manifest["/a.txt"] == {"hash": hash_a, "size": 6}
    upload = api.asked("POST", "/workers/assets/upload")
    assert upload.headers["authorization"] == "Bearer session"
    assert upload.form()[hash_a].get_payload() == "aGVsbG8K"
    metadata = api.asked("PUT", "/workers/scripts/site").form()["metadata"].get_payload()
    assert json.loads(metadata)["assets"] == {  # type: ignore[arg-type]
        "jwt": "completed",
        "config": {"not_found_handling": "404-page", "_headers": "/*\n  X-A: b\n"},
    }
    assert api.asked("PUT", "/routes").json() == [{"pattern": "a.example/*"}]
    assert api.asked("PUT", "/domains/records").json()["origins"] == [{"hostname": "b.example"}]
    assert ran.out.splitlines()[-3:-1] == ["  http://b.example:8080/", "  a.example/*"]


def test_the_platforms_own_limits_hold_for_assets(run: Run, layout: Layout, tmp_path: Path) -> None:
    """What `kythera up --limit` allows, the command does not refuse, and the other way round."""
    (tmp_path / "site" / "public").mkdir(parents=True)
    (tmp_path / "site" / "public" / "a.txt").write_text("1234")
    document = {"name": "s", "compatibility_date": "2026-01-01", "assets": {"directory": "public"}}
    (tmp_path / "site" / "wrangler.json").write_text(json.dumps(document))
    platform = json.loads(layout.platform.read_bytes())
    platform["limits"] = {"asset_bytes_max": 3}
    layout.platform.write_text(json.dumps(platform))
    assert "has 4 bytes; 3 are the most" in run("deploy", str(tmp_path / "site")).err


def test_workers_are_listed_with_their_address(run: Run, two_versions: FakeApi) -> None:
    """A table for a person, a list for a program."""
    assert run("worker", "list").out == (
        "WORKER  MODIFIED                ADDRESS\n"
        "hello   2026-11-23T03:07:59.0Z  http://hello.localhost:8080/\n"
    )
    assert json.loads(run("worker", "list", "--json").out)[0]["name"] == "hello"


def test_an_empty_platform_says_what_to_type(run: Run) -> None:
    """No empty table."""
    assert run("worker", "list").out == "No worker yet. Deploy one: kythera deploy [PATH]\n"


def test_a_worker_is_deleted_only_when_meant(
    run: Run, two_versions: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked first; --yes for scripts; --json never asks."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    assert run("worker", "delete", "hello").code == 130
    assert run("worker", "delete", "hello", "--json").code == 1
    assert not [call for call in two_versions.calls if call.method == "DELETE"]
    assert run("worker", "delete", "hello", "--yes").out == "Deleted hello.\n"
    two_versions.asked("DELETE", "/workers/services/hello")


def test_deleting_an_unknown_worker_says_where_to_look(run: Run, api: FakeApi) -> None:
    """Code 10007, and the list."""
    message = "This Worker does not exist on your account."
    api.refusals["GET /workers/services/gone"] = (404, 10007, message)
    ran = run("worker", "delete", "gone", "--yes")
    assert ran.code == 1
    assert ran.err == (
        "Error: This Worker does not exist on your account. [code: 10007]\n"
        "  -> See what there is: kythera worker list\n"
    )


def test_versions_are_listed_with_what_they_serve(run: Run, two_versions: FakeApi) -> None:
    """Newest first, note or source at the end."""
    assert run("versions", "list", "hello").out == (
        "NUMBER  VERSION                               CREATED (UTC)        SERVES  NOTE\n"
        f"2       {NEW}  2026-11-22 03:07:59  100 %   second\n"
        f"1       {OLD}  2026-11-21 03:07:59  -       upload\n"
    )


@pytest.mark.parametrize("words", [(), ("1",), (OLD,), ("1111",)])
def test_rollback_serves_an_earlier_version(
    run: Run, two_versions: FakeApi, words: tuple[str, ...]
) -> None:
    """The one before, or one named by number, id, or the beginning of an id."""
    ran = run("rollback", "hello", *words)
    assert ran.out == f"hello serves version {OLD} again.\n"
    body = two_versions.asked("POST", "/deployments").json()
    assert body["versions"] == [{"version_id": OLD, "percentage": 100}]


def test_rollback_past_a_change_of_secrets_wants_to_be_meant(
    run: Run, two_versions: FakeApi
) -> None:
    """The API refuses unless forced; the remedy names the option, and the option forces."""
    refusal = (400, 10220, "The following secrets have changed: KEY")
    two_versions.refusals["POST /workers/scripts/hello/deployments"] = refusal
    assert "Add --yes" in run("rollback", "hello").err
    two_versions.refusals.clear()
    two_versions.calls.clear()
    run("rollback", "hello", "--yes")
    assert two_versions.asked("POST", "/deployments").query == "force=true"


def test_rollback_refuses_what_it_cannot_find(run: Run, two_versions: FakeApi) -> None:
    """An unknown version, and a worker with no past."""
    assert "no versions begin with 'abc'" in run("rollback", "hello", "abc").err
    del two_versions.deployments[1:]
    assert "hello has no earlier version" in run("rollback", "hello").err


def test_a_secret_is_read_from_stdin_and_never_shown(
    run: Run, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text is in the call and nowhere in the output."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("s3cret\n"))
    ran = run("secret", "put", "hello", "KEY")
    assert ran.out == "hello has the secret KEY.\n"
    assert api.asked("PUT", "/secrets").json() == {
        "name": "KEY",
        "text": "s3cret",
        "type": "secret_text",
    }
    api.secrets = ["KEY"]
    assert run("secret", "list", "hello").out == "SECRET\nKEY\n"
    assert run("secret", "delete", "hello", "KEY").code == 0
    api.asked("DELETE", "/secrets/KEY")


def test_a_stranger_on_the_apis_port_is_not_taken_for_the_api(run: Run, layout: Layout) -> None:
    """A wrong token is told as that."""
    layout.token.write_text("another")
    ran = run("worker", "list")
    assert ran.code == 1
    assert "[code: 10000]" in ran.err
    assert "is --state the right one?" in ran.err


def test_a_mistyped_command_is_a_usage_error(bare: Run) -> None:
    """Exit code 2; as JSON when JSON was asked for."""
    assert bare("deplyo").code == 2
    ran = bare("deplyo", "--json")
    assert "No such command" in json.loads(ran.err)["error"]["message"]


def test_the_state_folder_is_found_in_a_fixed_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """$KYTHERA_STATE wins; else what `make up` made; else below the home folder."""
    monkeypatch.setenv("KYTHERA_STATE", str(tmp_path))
    assert command.state_default() == tmp_path
    monkeypatch.delenv("KYTHERA_STATE")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    clone = Path(command.__file__).parents[3] / ".kythera"
    made = (clone / "platform.json").is_file()
    assert command.state_default() == (clone if made else tmp_path / "kythera")
