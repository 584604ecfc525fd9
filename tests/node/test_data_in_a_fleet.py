"""Data that one machine of a fleet keeps, from the cells of all.

Method: two machines of one site; a worker deployed once, asked at both; the home dies and is back.
"""

import functools
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.fleets import FleetMachine, RunningFleet, running_fleet
from tests.processes import wait_until

pytestmark = pytest.mark.real
DEADLINE_S = 60
soon = functools.partial(wait_until, deadline_s=DEADLINE_S)
FAILS_WITHIN_S = 10.0
"""`peer_connect_ms`, once more, and the rest of a call on a busy machine."""

DATABASE = """
export default {
  async fetch(request, env) {
    const { pathname } = new URL(request.url);
    try {
      if (pathname.startsWith('/put/')) {
        await env.DB.prepare('INSERT INTO notes VALUES (?)').bind(pathname.slice(5)).run();
        return new Response('put');
      }
      const { results } = await env.DB.prepare('SELECT text FROM notes ORDER BY text').all();
      return new Response(JSON.stringify(results.map(({ text }) => text)));
    } catch (error) {
      return new Response(error.message, { status: 500 });
    }
  },
};
"""


@pytest.fixture(scope="module")
def fleet() -> Iterator[RunningFleet]:
    """Return two machines; the first one holds the log."""
    with running_fleet(2, 1, "--cores", "1") as started:
        yield started


def called(machine: FleetMachine, method: str, path: str, **more: Any) -> Any:
    """Return the result of a call of the API that went well."""
    answer = machine.call(method, path, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()["result"]


@pytest.fixture(scope="module")
def database(fleet: RunningFleet) -> str:
    """Have a database at the second machine, and a worker that is bound to it; return its id."""
    home = fleet["m2"]
    made: str = called(home, "POST", "/d1/database", json={"name": "notes"})["uuid"]
    sql = {"sql": "CREATE TABLE notes (text TEXT)"}
    called(home, "POST", f"/d1/database/{made}/query", json=sql)
    soon(lambda: fleet["m1"].call("GET", f"/d1/database/{made}").status_code != 404, "known to m1")
    fleet.upload("notes", DATABASE, bindings=[{"type": "d1", "name": "DB", "id": made}])
    fleet.wait_for("notes", "[]", deadline_s=DEADLINE_S)
    return made


def test_cells_of_every_machine_read_and_write_one_database(
    fleet: RunningFleet, database: str
) -> None:
    """What is written at one machine is read at the other at once."""
    here, home = fleet["m1"], fleet["m2"]
    assert here.get("notes", "/put/far").text == "put"
    assert home.get("notes", "/put/near").text == "put"
    for machine in (here, home):
        assert machine.get("notes").text == '["far","near"]'


def test_the_api_of_every_machine_asks_a_database_at_its_home(
    fleet: RunningFleet, database: str
) -> None:
    """`wrangler d1 execute` need not know where it is."""
    sql = {"sql": "SELECT count(*) AS n FROM notes"}
    (told,) = called(fleet["m1"], "POST", f"/d1/database/{database}/query", json=sql)
    assert told["results"][0]["n"] >= 2
