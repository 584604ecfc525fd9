"""The small bindings, deployed by real wranglers: rate limits, the cache, the secrets store."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.processes import wait_until
from tests.wranglers import Wrangler, write_project

pytestmark = pytest.mark.story
CODE = """
export default {
  async fetch(request, env) {
    const url = new URL(request.url);
    const key = "https://cached.example" + url.pathname;
    switch (url.searchParams.get("do")) {
      case "limit": return Response.json(await env.LIMITER.limit({ key: url.pathname }));
      case "secret": return new Response(await env.SECRET.get());
      case "put": {
        const headers = { "Cache-Control": "max-age=600", "ETag": '"one"' };
        await caches.default.put(key, new Response("kept " + url.pathname, { headers }));
        return new Response("put");
      }
      case "point": {
        env.POINTS.writeDataPoint({
          indexes: [url.pathname], blobs: ["a", "\u00fc"], doubles: [1, 2.5]
        });
        return new Response("noted");
      }
      case "delete": return Response.json(await caches.default.delete(key));
      case "named": {
        const cache = await caches.open("mine");
        return new Response(await cache.match(key) ? "hit" : "miss");
      }
    }
    return await caches.default.match(new Request(key, request)) ?? new Response("miss");
  }
};
"""


def store_id(wrangler: Wrangler) -> str:
    """Return the account's one secrets store, made when there is none."""
    made = wrangler.run("secrets-store", "store", "create", "main", "--remote")
    if made.code == 0:
        found = re.search(r"ID: ([0-9a-f]{32})", made.text)
    else:
        listed = wrangler.do("secrets-store", "store", "list", "--remote")
        found = re.search(r"\b[0-9a-f]{32}\b", listed.text)
    assert found is not None, made.text
    return found[found.lastindex or 0]


def project_of(folder: Path, name: str, store: str, secret: str) -> Path:
    """Write a project that uses all of it."""
    config: Mapping[str, Any] = {
        "name": name,
        "ratelimits": [
            {"name": "LIMITER", "namespace_id": "1001", "simple": {"limit": 2, "period": 60}}
        ],
        "analytics_engine_datasets": [{"binding": "POINTS", "dataset": "hits"}],
        "secrets_store_secrets": [{"binding": "SECRET", "store_id": store, "secret_name": secret}],
    }
    return write_project(folder, dict(config), {"index.js": CODE})


@pytest.fixture
def deployed(wrangler: Wrangler, tmp_path: Path) -> tuple[str, str, str]:
    """Deploy it; return the worker's name, the store's id and the secret's."""
    name, store, secret = wrangler.name("beside"), store_id(wrangler), f"KEY_{wrangler.mark}"
    path = ("secrets-store", "secret")
    listed = wrangler.run(*path, "list", store, "--remote")
    if secret not in listed.text:
        wrangler.do(
            *(*path, "create", store, "--name", secret, "--value", "first text"),
            *("--scopes", "workers", "--comment", "for a test", "--remote"),
        )
    listed = wrangler.do(*path, "list", store, "--remote")
    row = next(line for line in listed.text.splitlines() if f" {secret} " in line)
    found = re.search(r"[0-9a-f]{32}", row)
    assert found is not None, listed.text
    wrangler.do("deploy", project=project_of(tmp_path, name, store, secret))
    wrangler.platform.wait_for(name, "miss")
    return name, store, found[0]


def test_rate_limits_count_for_all_cells_of_the_machine(
    wrangler: Wrangler, deployed: tuple[str, str, str]
) -> None:
    """Goal: two of three requests with one key pass; another key has a count of its own."""
    name, ask = deployed[0], wrangler.platform.get
    key = f"/{name}"
    answers = [ask(name, f"{key}?do=limit").json()["success"] for _ in range(3)]
    assert answers == [True, True, False]
    assert ask(name, f"{key}-other?do=limit").json() == {"success": True}


def test_the_cache_keeps_until_it_is_told_to_forget(
    wrangler: Wrangler, deployed: tuple[str, str, str]
) -> None:
    """Goal: put, match with a range and a condition, delete, purge; after the store was killed too."""
    name, platform = deployed[0], wrangler.platform
    path = f"/{name}/a"
    assert platform.get(name, f"{path}?do=put").text == "put"
    found = platform.get(name, path)
    assert (found.text, found.headers["cf-cache-status"]) == (f"kept {path}", "HIT")
    assert platform.get(name, f"{path}?do=named").text == "miss"
    part = platform.get(name, path, headers={"Range": "bytes=0-3"})
    assert (part.status_code, part.text) == (206, "kept")
    same = platform.get(name, path, headers={"If-None-Match": '"one"'})
    assert same.status_code == 304
    assert platform.get(name, f"{path}?do=delete").text == "true"
    assert platform.get(name, f"{path}?do=delete").text == "false"
    assert platform.get(name, path).text == "miss"
    platform.get(name, f"{path}?do=put")
    purged = platform.kythera("cache", "purge", f"https://cached.example{path}")
    assert purged.returncode == 0, purged.stderr
    assert platform.get(name, path).text == "miss"


def test_data_points_are_asked_for_in_sql(
    wrangler: Wrangler, deployed: tuple[str, str, str]
) -> None:
    """Goal: what a worker notes is found by Cloudflare's SQL endpoint, soon after."""
    name, platform = deployed[0], wrangler.platform
    for _ in range(3):
        assert platform.get(name, f"/{name}?do=point").text == "noted"
    query = f"""
        SELECT index1, blob2, SUM(_sample_interval * double2) AS total FROM hits
        WHERE index1 = '/{name}' AND timestamp > NOW() - INTERVAL '1' HOUR GROUP BY index1, blob2
    """  # noqa: S608 (a worker's name)

    def found() -> list[dict[str, Any]]:
        answer = platform.call("POST", "/analytics_engine/sql", content=query)
        data: list[dict[str, Any]] = answer.json().get("data", [])
        return data

    wanted = [{"index1": f"/{name}", "blob2": "\u00fc", "total": 7.5}]
    wait_until(lambda: found() == wanted, f"the three points: {found()}", deadline_s=10)


def test_a_secret_of_a_store_is_read_and_its_change_reaches_running_cells(
    wrangler: Wrangler, deployed: tuple[str, str, str]
) -> None:
    """Goal: every wrangler command; a new text without a deploy; deleted, `get()` says so."""
    name, store, secret = deployed
    platform, path = wrangler.platform, ("secrets-store", "secret")
    assert platform.get(name, "/?do=secret").text == "first text"
    assert "for a test" in wrangler.do(*path, "get", store, "--secret-id", secret, "--remote").text
    change = ("--secret-id", secret, "--value", "second text", "--remote")
    wrangler.do(*path, "update", store, *change)
    wait_until(
        lambda: platform.get(name, "/?do=secret").text == "second text",
        "the new text",
        deadline_s=15,
    )
    copy = ("--name", f"COPY_{wrangler.mark}", "--scopes", "workers", "--remote")
    wrangler.do(*path, "duplicate", store, "--secret-id", secret, *copy)
    assert f"COPY_{wrangler.mark}" in wrangler.do(*path, "list", store, "--remote").text
    wrangler.do(*path, "delete", store, "--secret-id", secret, "--remote")
    wait_until(
        lambda: platform.get(name, "/?do=secret").status_code == 500,
        "a secret that is gone",
        deadline_s=15,
    )
