"""A CI with a token for one worker, seen through the real wranglers; and what the audit says of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.platforms import RunningPlatform
from tests.wranglers import Run, Wrangler, says, write_project

pytestmark = [pytest.mark.real, pytest.mark.story]


def made(platform: RunningPlatform, name: str, *options: str) -> str:
    """Make a token as an operator does; return what was printed."""
    done = platform.kythera("api-token", "create", "--name", name, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def audit(platform: RunningPlatform, worker: str) -> list[dict[str, Any]]:
    """Return what was done to a worker."""
    done = platform.kythera("audit", "--worker", worker, "--json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def refusal(run: Run) -> str:
    """Return what a refused wrangler said, on one line."""
    assert run.code != 0, run.text
    return " ".join(run.text.split())


def test_a_ci_token_deploys_its_worker_and_nothing_else(wrangler: Wrangler, tmp_path: Path) -> None:
    """Goal: a scoped token is enough for wrangler, and no more than that. Method: deploy twice (two
    ways of wrangler), a secret, another worker, and all of it again when the token is revoked."""
    platform, shop, other = wrangler.platform, wrangler.name("shop"), wrangler.name("other")
    ci = f"ci-{wrangler.mark}"
    token = made(platform, ci, "--scope", "deploy", "--worker", shop, "--expires", "30d")
    mine: dict[str, Any] = {"environment": {"CLOUDFLARE_API_TOKEN": token}}
    project = write_project(tmp_path / "shop", {"name": shop}, {"index.js": says("one")})
    wrangler.do("deploy", project=project, **mine)
    platform.wait_for(shop, "one")
    (project / "index.js").write_text(says("two"))
    wrangler.do("deploy", project=project, **mine)
    platform.wait_for(shop, "two")
    assert "associated with" in wrangler.do("whoami", **mine).text

    told = refusal(wrangler.run("secret", "put", "S", project=project, stdin="hidden", **mine))
    assert f'the API token "{ci}" lacks the scope "secrets"' in told
    assert f"kythera api-token create --name NAME --scope secrets --worker {shop}" in told
    elsewhere = write_project(tmp_path / "other", {"name": other}, {"index.js": says("no")})
    told = refusal(wrangler.run("deploy", project=elsewhere, **mine))
    assert f"is not for Worker '{other}'" in told
    assert platform.call("GET", f"/workers/services/{other}").status_code == 404

    records = audit(platform, shop)
    assert {record["actor"]["email"] for record in records} == {ci}
    assert records[0]["action"]["type"] == "deploy"
    assert records[0]["interface"].startswith("wrangler/")
    deploys = [r for r in records if "serves" in r["newValueJson"]]
    assert deploys[1]["oldValueJson"]["serves"] == deploys[0]["newValueJson"]["serves"]
    assert "hidden" not in json.dumps(records)

    platform.kythera("api-token", "revoke", ci)
    told = refusal(wrangler.run("deploy", project=project, **mine))
    assert "this API token was revoked" in told
    (machine,) = platform.status()["machines"]
    assert machine["calls_refused"]["revoked"] > 0
    assert machine["calls_refused"]["scope"] > 0
    log = platform.log.read_text()
    assert token not in log
    assert "wrong_token" in log
    platform.wait_for(shop, "two")


def test_a_secrets_token_sets_secrets_with_every_wrangler(
    wrangler: Wrangler, tmp_path: Path
) -> None:
    """Goal: each wrangler's own way of `secret bulk` works, and no code is changed with it."""
    platform, name = wrangler.platform, wrangler.name("vault")
    platform.upload(name, says("v1"))
    token = made(platform, f"keys-{wrangler.mark}", "--scope", "secrets", "--worker", name)
    mine: dict[str, Any] = {"environment": {"CLOUDFLARE_API_TOKEN": token}}
    project = write_project(tmp_path, {"name": name}, {"index.js": says("v2")})
    (project / "more.json").write_text('{"TWO": "second"}')
    wrangler.do("secret", "put", "ONE", project=project, stdin="first", **mine)
    wrangler.do("secret", "bulk", "more.json", project=project, **mine)
    assert "TWO" in wrangler.do("secret", "list", project=project, **mine).text
    told = refusal(wrangler.run("deploy", project=project, **mine))
    assert 'lacks the scope "deploy"' in told
    records = audit(platform, name)
    assert [sorted(r["newValueJson"]["secrets"]) for r in records[1:]] == [["ONE"], ["ONE", "TWO"]]
    told = platform.kythera("audit", "--worker", name).stdout
    assert "set secret" in told
    assert "first" not in told
