"""Hyperdrive: a real PostgreSQL, reached by a worker with an unmodified driver."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.databases import Database, postgresql
from tests.platforms import ROOT
from tests.processes import wait_until
from tests.wranglers import Wrangler, write_project

pytestmark = pytest.mark.story
DRIVERS = ROOT / "tests/drivers/node_modules"
CODE = """
import pg from "pg";

export default {
  async fetch(request, env) {
    const url = new URL(request.url);
    const client = new pg.Client({ connectionString: env.DB.connectionString });
    try {
      await client.connect();
      const found = await client.query(url.searchParams.get("sql"), [url.pathname]);
      return Response.json(found.rows);
    } catch (error) {
      return new Response(String(error), { status: 502 });
    } finally {
      await client.end().catch(() => {});
    }
  }
};
"""
ECHO = "SELECT $1::text AS path, current_user AS who, 6 * 7 AS answer"


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "tls"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """Return a server that speaks as it is, and one with TLS."""
    with postgresql(tls=request.param) as found:
        yield found


def configured(wrangler: Wrangler, name: str, database: Database) -> str:
    """Make a config by wrangler; return its id."""
    origin = [*("--origin-host", database.host), *("--origin-port", str(database.port))]
    origin += [*("--database", database.name), *("--origin-user", database.user)]
    made = wrangler.do(
        "hyperdrive", "create", name, *origin, "--origin-password", database.password
    )
    found = re.search(r"\b[0-9a-f]{32}\b", made.text)
    assert found is not None, made.text
    return found[0]


def project_of(folder: Path, name: str, config: str) -> Path:
    """Write a project with the driver from npm."""
    document: dict[str, Any] = {
        "name": name,
        "compatibility_flags": ["nodejs_compat"],
        "hyperdrive": [{"binding": "DB", "id": config}],
    }
    project = write_project(folder, document, {"index.js": CODE})
    (project / "node_modules").symlink_to(DRIVERS)
    return project


def test_a_worker_asks_a_database_through_hyperdrive(
    wrangler: Wrangler, database: Database, tmp_path: Path
) -> None:
    """Goal: create, list, get, update and delete by wrangler; the unmodified `pg` driver asks; a
    changed password reaches running cells; what is not the config's address stays unreachable."""
    platform, name = wrangler.platform, wrangler.name("hyperdrive")
    config = configured(wrangler, name, database)
    wrangler.do("deploy", project=project_of(tmp_path, name, config))
    platform.wait_for(name, "answer", f"/a?sql={ECHO}".replace(" ", "%20"), deadline_s=10)
    found = platform.get(name, f"/b?sql={ECHO}").json()
    assert found == [{"path": "/b", "who": database.user, "answer": 42}]
    large = "SELECT repeat('x', 3000000) AS x, $1::text AS y"
    assert len(platform.get(name, f"/c?sql={large}").json()[0]["x"]) == 3_000_000

    assert name in wrangler.do("hyperdrive", "list").text
    shown = wrangler.do("hyperdrive", "get", config)
    assert database.password not in shown.text
    assert f'"port": {database.port}' in shown.text
    wrong = ["--origin-host", database.host, "--origin-port", str(database.port)]
    wrong += ["--database", database.name, "--origin-user", database.user]
    wrangler.do("hyperdrive", "update", config, *wrong, "--origin-password", "another")
    wait_until(
        lambda: "password authentication failed" in platform.get(name, f"/?sql={ECHO}").text,
        "the changed password in running cells",
        deadline_s=15,
    )
    wrangler.do("hyperdrive", "delete", config)
    refused = wrangler.refuse("deploy", project=tmp_path)
    assert "no Hyperdrive config" in refused.text
