"""wrangler's secret commands, both versions, against a running platform."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.platforms import RunningPlatform
from tests.wranglers import Wrangler, write_project

pytestmark = pytest.mark.story

TELLS = """
export default { fetch(request, env) {
  const names = ["S1", "S2", "S3", "VS", "X", "OLD"].filter((name) => name in env);
  return Response.json(Object.fromEntries(names.map((name) => [name, env[name]])));
} };
"""
"""A worker that tells its secrets: never do this at home."""


def told(platform: RunningPlatform, name: str) -> dict[str, Any]:
    """Return the secrets that the serving version has."""
    found: dict[str, Any] = platform.get(name).json()
    return found


def names_of(platform: RunningPlatform, name: str) -> set[str]:
    """Return the names that the API lists; it must never return a text."""
    answer = platform.call("GET", f"/workers/scripts/{name}/secrets")
    assert "text" not in json.dumps(answer.json()["result"]).replace("secret_text", "")
    return {secret["name"] for secret in answer.json()["result"]}


@pytest.fixture
def project(wrangler: Wrangler, tmp_path: Path) -> Path:
    """Return a project with a list of secrets beside it."""
    (tmp_path / "secrets.json").write_text(json.dumps({"S2": "two", "S3": "three"}))
    return tmp_path


@pytest.mark.set1(
    "secret-put",
    "secret-list",
    "secret-bulk",
    "secret-delete",
    "deploy-keeps-secrets",
    "deploy-secrets-file",
)
def test_secrets_are_set_listed_kept_by_deploys_and_deleted(
    wrangler: Wrangler, project: Path
) -> None:
    """Goal: a secret's whole life, seen by the code that uses it."""
    name, platform = wrangler.name("secrets"), wrangler.platform
    write_project(project, {"name": name}, {"index.js": TELLS})
    platform.upload(name, TELLS)

    wrangler.do("secret", "put", "S1", project=project, stdin="one")
    platform.wait_for(name, '"S1":"one"')
    assert "S1" in wrangler.do("secret", "list", project=project).text

    wrangler.do("secret", "bulk", "secrets.json", project=project)
    platform.wait_for(name, '"S3":"three"')
    assert told(platform, name) == {"S1": "one", "S2": "two", "S3": "three"}

    (project / "index.js").write_text(TELLS + "// changed\n")
    wrangler.do("deploy", project=project)
    assert names_of(platform, name) == {"S1", "S2", "S3"}
    platform.wait_for(name, '"S1":"one"')

    (project / "more.json").write_text(json.dumps({"OLD": "from a file"}))
    wrangler.do("deploy", "--secrets-file", "more.json", project=project)
    platform.wait_for(name, '"OLD":"from a file"')
    assert told(platform, name)["S2"] == "two"

    wrangler.do("secret", "delete", "S1", project=project)
    assert names_of(platform, name) == {"S2", "S3", "OLD"}
    platform.wait_for(name, '{"S2"')


@pytest.mark.set1("secret-put-new")
def test_a_secret_may_come_before_the_worker(wrangler: Wrangler, project: Path) -> None:
    """Goal: wrangler makes a draft worker, and the first deploy finds the secret there."""
    name, platform = wrangler.name("brandnew"), wrangler.platform
    wrangler.do("secret", "put", "X", "--name", name, project=project, stdin="early")
    assert names_of(platform, name) == {"X"}
    write_project(project, {"name": name}, {"index.js": TELLS})
    wrangler.do("deploy", project=project)
    platform.wait_for(name, '"X":"early"')


@pytest.mark.set1(
    "versions-secret-put",
    "versions-secret-list",
    "versions-secret-bulk",
    "versions-secret-delete",
)
def test_a_versions_secret_makes_a_version_and_deploys_nothing(
    wrangler: Wrangler, project: Path
) -> None:
    """Goal: secrets can be prepared; the version that carries them serves when it is deployed."""
    name, platform = wrangler.name("vsecrets"), wrangler.platform
    write_project(project, {"name": name}, {"index.js": TELLS})
    platform.upload(name, TELLS)
    platform.wait_for(name, "{}")

    wrangler.do("versions", "secret", "put", "VS", project=project, stdin="prepared")
    assert told(platform, name) == {}
    wrangler.do("versions", "secret", "bulk", "secrets.json", project=project)
    wrangler.do("versions", "secret", "delete", "S3", project=project, stdin="y\n")
    newest = platform.call("GET", f"/workers/scripts/{name}/versions").json()["result"]["items"][0]
    deploy = ("versions", "deploy", f"{newest['id']}@100%", "-y")
    wrangler.do(*deploy, project=project)
    platform.wait_for(name, '"VS":"prepared"')
    assert told(platform, name) == {"VS": "prepared", "S2": "two"}
    listing = wrangler.do("versions", "secret", "list", project=project).text
    assert "VS" in listing
    assert "S3" not in listing
