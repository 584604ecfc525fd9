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
    path = f"/d1/database/{database}/query"
    counts = []
    for statement in ("SELECT count(*) AS n FROM notes", "INSERT INTO notes VALUES ('z')") * 2:
        (told,) = called(fleet["m1"], "POST", path, json={"sql": statement})
        counts += [row["n"] for row in told["results"]]
    assert counts[1] == counts[0] + 1


OBJECTS = """
import { DurableObject, WorkflowEntrypoint } from 'cloudflare:workers';
export class Shop extends DurableObject {
  async add(count) {
    const now = ((await this.ctx.storage.get('count')) ?? 0) + count;
    await this.ctx.storage.put('count', now);
    return now;
  }
  each(call) { return call(7); }
  fails() { throw new RangeError('not that far'); }
  async fetch(request) {
    if (request.headers.get('upgrade') === 'websocket') {
      const [client, server] = Object.values(new WebSocketPair());
      server.accept();
      server.addEventListener('message', ({ data }) => server.send(`heard ${data}`));
      return new Response(null, { status: 101, webSocket: client });
    }
    const ours = [...request.headers.keys()].filter((each) => each.includes('kythera'));
    return Response.json({ text: await request.text(), ours });
  }
}
export class Flow extends WorkflowEntrypoint {
  run(event, step) { return step.do('one', async () => 'done'); }
}
async function heard(stub) {
  const { webSocket } = await stub.fetch('http://x/', { headers: { upgrade: 'websocket' } });
  webSocket.accept();
  webSocket.send('you');
  const event = await new Promise((done) => webSocket.addEventListener('message', done));
  return event.data;
}
const DOES = {
  add: (stub) => stub.add(1),
  each: (stub) => stub.each((number) => number * 6),
  fails: (stub) => stub.fails(),
  heard,
  fetch: async (stub) => (await stub.fetch('http://x/', {
    method: 'POST', body: 'body', headers: { 'x-kythera-way': 'mine', 'x-kythera-data': 'mine' },
  })).text(),
  create: async (stub, env) => (await env.FLOW.create()).id,
};
export default {
  async fetch(request, env) {
    const [, what, id] = new URL(request.url).pathname.split('/');
    if (what === 'up') {
      return new Response('up');
    }
    try {
      if (what === 'status') {
        return Response.json(await (await env.FLOW.get(id)).status());
      }
      return new Response(String(await DOES[what](env.SHOP.getByName('one'), env)));
    } catch (error) {
      return new Response(`${error.name}: ${error.message}`, { status: 500 });
    }
  },
};
"""


@pytest.fixture(scope="module")
def shop(fleet: RunningFleet) -> None:
    """Have a worker with objects and a Workflow: they live at the first machine, which is core."""
    shop = {"type": "durable_object_namespace", "name": "SHOP", "class_name": "Shop"}
    flow = {"type": "workflow", "name": "FLOW", "workflow_name": "flow", "class_name": "Flow"}
    migrations = {"new_tag": "v1", "new_sqlite_classes": ["Shop"]}
    fleet.upload("shop", OBJECTS, bindings=[shop, flow], migrations=migrations)
    flow_of = {"script_name": "shop", "class_name": "Flow"}
    called(fleet["m1"], "PUT", "/workflows/flow", json=flow_of)
    for machine in fleet.machines:
        machine.wait_for("shop", "up", "/up", deadline_s=DEADLINE_S)


def test_cells_of_every_machine_reach_the_same_objects(fleet: RunningFleet, shop: None) -> None:
    """Calls with functions, errors, requests and WebSockets: as at home."""
    here, home = fleet["m2"], fleet["m1"]
    first = int(home.get("shop", "/add").text)
    assert here.get("shop", "/add").text == str(first + 1)
    assert home.get("shop", "/add").text == str(first + 2)
    assert here.get("shop", "/each").text == "42"
    assert here.get("shop", "/fails").text == "RangeError: not that far"
    assert here.get("shop", "/heard").text == "heard you"
    assert here.get("shop", "/fetch").json() == {"text": "body", "ours": []}


def test_cells_and_the_api_of_every_machine_reach_a_workflow(
    fleet: RunningFleet, shop: None
) -> None:
    """An instance that was made elsewhere runs at home, and is looked at from everywhere."""
    here = fleet["m2"]
    made = here.get("shop", "/create").text
    soon(lambda: '"done"' in here.get("shop", f"/status/{made}").text, "it is complete")
    listed = called(here, "GET", "/workflows/flow/instances")
    assert made in [each["id"] for each in listed]


POST = """
export default {
  async queue(batch, env) {
    for (const { body } of batch.messages) {
      await env.BUCKET.put(`got/${body}`, body.repeat(100_000));
    }
  },
  async fetch(request, env) {
    const [, what, key] = new URL(request.url).pathname.split('/');
    try {
      if (what === 'send') {
        await env.QUEUE.send(key);
      } else if (what === 'size') {
        return new Response(String((await (await env.BUCKET.get(`got/${key}`))?.text())?.length));
      }
      return new Response('up');
    } catch (error) {
      return new Response(error.message, { status: 500 });
    }
  },
};
"""


@pytest.fixture(scope="module")
def post(fleet: RunningFleet) -> None:
    """Have a bucket and a queue at the second machine, and a worker that is bound to both."""
    home = fleet["m2"]
    called(home, "POST", "/r2/buckets", json={"name": "letters"})
    queue = called(home, "POST", "/queues", json={"queue_name": "post"})["queue_id"]
    soon(lambda: fleet["m1"].call("GET", f"/queues/{queue}").status_code == 200, "known to m1")
    bucket = {"type": "r2_bucket", "name": "BUCKET", "bucket_name": "letters"}
    fleet.upload(
        "post", POST, bindings=[bucket, {"type": "queue", "name": "QUEUE", "queue_name": "post"}]
    )
    consumer = {"type": "worker", "script_name": "post", "settings": {"max_wait_time_ms": 100}}
    called(home, "POST", f"/queues/{queue}/consumers", json=consumer)
    fleet.wait_for("post", "up", deadline_s=DEADLINE_S)


def test_a_bucket_and_a_queue_are_those_of_their_home(fleet: RunningFleet, post: None) -> None:
    """Goal: one bucket of a name, one queue. Method: each machine sends, the consumer writes, the
    other reads; the API of both sees what there is."""
    here, home = fleet["m1"], fleet["m2"]
    for sender, reader, key in ((here, home, "a"), (home, here, "b")):
        assert sender.get("post", f"/send/{key}").text == "up"
        soon(lambda: reader.answers("post", "100000", f"/size/{key}"), "delivered")  # noqa: B023
    for machine in (here, home):
        listed = called(machine, "GET", "/r2/buckets/letters/objects")
        assert [each["key"] for each in listed] == ["got/a", "got/b"]


def failures(machine: FleetMachine, worker: str, path: str) -> Iterator[tuple[str, float]]:
    """Yield what a worker says of a home that is away, three times, and after how many seconds."""
    for _ in range(3):
        answer: httpx.Response = machine.get(worker, path, timeout=DEADLINE_S)
        assert answer.status_code == 500, answer.text
        yield answer.text, answer.elapsed.total_seconds()


def test_while_a_home_is_away_calls_fail_soon_and_name_it(
    fleet: RunningFleet, database: str, shop: None, post: None
) -> None:
    """Goal: no call hangs; what was acknowledged is there when the home is back, for cells that
    never stopped. Method: kill each home in turn; write before and after."""
    for home, other, worker, add in (("m1", "m2", "shop", "/add"), ("m2", "m1", "notes", "/put/x")):
        before = fleet[other].get(worker, add).text
        fleet.kill(home)
        calls = [
            (worker, add),
            (worker, "/fetch"),
            *([("post", "/size/a")] if home == "m2" else []),
        ]
        for call in calls:
            # The first may be sent on a connection that has just died, and hears that it is lost.
            _, seconds = next(each for each in failures(fleet[other], *call) if home in each[0])
            assert seconds < FAILS_WITHIN_S
        fleet.revive(home)
        soon(lambda: fleet[other].get(worker, add).status_code == 200, "it goes on")  # noqa: B023
        if worker == "shop":
            assert int(fleet[other].get(worker, add).text) == int(before) + 2
    assert fleet["m1"].get("notes").text.count('"x"') >= 2
