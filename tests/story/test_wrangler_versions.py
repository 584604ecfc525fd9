"""wrangler's versions, deployments and rollback commands, both versions, against a running
platform."""

from collections import Counter
from pathlib import Path

import pytest

from tests.platforms import RunningPlatform
from tests.processes import wait_until
from tests.wranglers import Wrangler, says, write_project

pytestmark = pytest.mark.story

SPLIT_REQUESTS = 60


def version_ids(platform: RunningPlatform, name: str) -> list[str]:
    """Return a worker's version ids, newest first."""
    answer = platform.call("GET", f"/workers/scripts/{name}/versions").json()
    return [item["id"] for item in answer["result"]["items"]]


def shares(platform: RunningPlatform, name: str) -> dict[str, float]:
    """Return version id -> percentage of the newest deployment."""
    answer = platform.call("GET", f"/workers/scripts/{name}/deployments").json()
    newest = answer["result"]["deployments"][0]
    return {split["version_id"]: split["percentage"] for split in newest["versions"]}


def tally(platform: RunningPlatform, name: str) -> Counter[str]:
    """Count the answers of some requests, each a visitor of its own."""
    return Counter(platform.get(name).text for _ in range(SPLIT_REQUESTS))


@pytest.mark.set1(
    "versions-upload",
    "versions-upload-basedomain",
    "versions-list",
    "versions-list-json",
    "versions-view",
    "versions-deploy-split",
    "deployments-list",
    "deployments-list-json",
    "deployments-status",
    "deploy-after-split",
    "deploy-basedomain",
)
def test_a_version_is_uploaded_looked_at_split_and_replaced(
    wrangler: Wrangler, tmp_path: Path
) -> None:
    """Goal: the life of a canary. An upload serves nobody; a split serves both in proportion; a
    deploy ends it."""
    name, platform = wrangler.name("canary"), wrangler.platform
    platform.upload(name, says("one"))
    platform.wait_for(name, "one")
    (first,) = version_ids(platform, name)

    project = write_project(tmp_path, {"name": name}, {"index.js": says("two")})
    wrangler.do(
        *("versions", "upload", "--message", "m3", "--tag", "t3", "--preview-alias", "pr-1"),
        project=project,
    )
    second = version_ids(platform, name)[0]
    assert second != first
    assert set(tally(platform, name)) == {"one"}

    listing = wrangler.do("versions", "list", project=project).text
    assert first in listing
    assert second in listing
    documents = wrangler.do("versions", "list", "--json", project=project).json()
    assert {document["id"] for document in documents} == {first, second}
    seen = wrangler.do("versions", "view", second, project=project).text
    assert "m3" in seen
    assert "t3" in seen

    split = ("versions", "deploy", f"{second}@10%", f"{first}@90%", "-y", "--message", "canary")
    wrangler.do(*split, project=project)
    assert shares(platform, name) == {second: 10, first: 90}
    wait_until(lambda: len(tally(platform, name)) == 2, "both versions serve")
    assert tally(platform, name)["one"] > SPLIT_REQUESTS / 2
    only = {"Cloudflare-Workers-Version-Overrides": f'{name}="{second}"'}
    assert {platform.get(name, headers=only).text for _ in range(5)} == {"two"}

    assert "canary" in wrangler.do("deployments", "list", project=project).text
    history = wrangler.do("deployments", "list", "--json", project=project).json()
    assert {v["version_id"] for v in history[-1]["versions"]} == {first, second}
    assert first in wrangler.do("deployments", "status", project=project).text

    (project / "index.js").write_text(says("three"))
    wrangler.do("deploy", project=project)
    wait_until(lambda: set(tally(platform, name)) == {"three"}, "the split has ended")


@pytest.mark.set1("rollback", "rollback-id")
def test_a_rollback_serves_an_earlier_version_again(wrangler: Wrangler, tmp_path: Path) -> None:
    """Goal: back by one, and back to a version by its id."""
    name, platform = wrangler.name("back"), wrangler.platform
    for text in ("one", "two", "three"):
        platform.upload(name, says(text))
    platform.wait_for(name, "three")
    _, second, first = version_ids(platform, name)
    project = write_project(tmp_path, {"name": name}, {"index.js": says("x")})
    wrangler.do("rollback", "-y", "--message", "rb", project=project)
    assert shares(platform, name) == {second: 100}
    platform.wait_for(name, "two")
    wrangler.do("rollback", first, "-y", "--message", "rb", project=project)
    assert shares(platform, name) == {first: 100}
    platform.wait_for(name, "one")
