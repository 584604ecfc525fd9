"""`kythera deploy` of bindings without ids: what it asks the API, and in which order."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run
from tests.cli.fake_api import FakeApi

SCRIPT = "/workers/scripts/hello"
D1, R2, KV, QUEUES = "/d1/database", "/r2/buckets", "/storage/kv/namespaces", "/queues"
CONFIG: dict[str, Any] = {
    "name": "hello",
    "main": "index.js",
    "compatibility_date": "2026-01-01",
    "kv_namespaces": [{"binding": "USER_SESSIONS"}],
    "r2_buckets": [{"binding": "FILES", "bucket_name": "files"}],
    "d1_databases": [{"binding": "DB", "database_name": "people"}],
    "durable_objects": {"bindings": [{"name": "ROOM", "class_name": "Room"}]},
    "migrations": [{"tag": "v1", "new_sqlite_classes": ["Room"]}],
    "queues": {
        "producers": [{"binding": "MAIL", "queue": "mail"}],
        "consumers": [{"queue": "mail", "max_batch_size": 5, "max_batch_timeout": 1}],
    },
    "triggers": {"crons": ["0 3 * * *"]},
}
QUEUE = {"queue_id": "q1", "queue_name": "mail", "consumers": []}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a project with one of each."""
    made = tmp_path / "project"
    made.mkdir()
    code = "export class Room {}\nexport default { fetch() { return new Response() } }"
    (made / "index.js").write_text(code)
    (made / "wrangler.jsonc").write_text(json.dumps(CONFIG))
    return made


@pytest.fixture
def nothing(api: FakeApi) -> FakeApi:
    """Return a platform that has none of it."""
    api.refusals[f"GET {SCRIPT}/settings"] = (404, 10007, "no worker")
    api.refusals["GET /workers/services/hello"] = (404, 10007, "no worker")
    api.refusals[f"GET {D1}/people"] = (404, 7404, "no database")
    api.refusals[f"GET {R2}/files"] = (404, 10006, "no bucket")
    api.answers[f"POST {D1}"] = [{"uuid": "d"}]
    api.answers[f"POST {KV}"] = [{"id": "k"}]
    api.answers[f"GET {KV}"] = [[]]
    api.answers[f"GET {QUEUES}"] = [[], [QUEUE]]
    return api


def sent(api: FakeApi) -> dict[str, Any]:
    """Return the upload's metadata."""
    form = api.asked("PUT", SCRIPT).form()
    text = form["metadata"].get_payload(decode=True)
    assert isinstance(text, bytes)
    found: dict[str, Any] = json.loads(text)
    return found


def test_a_first_deploy_makes_what_is_not_there(nothing: FakeApi, run: Run, folder: Path) -> None:
    """Goal: the same calls as wrangler's: made before the upload, consumed and scheduled after it."""
    done = run("deploy", str(folder))
    assert done.code == 0, done.err
    made = [(call.path, call.json()) for call in nothing.calls if call.method == "POST"]
    assert made[:4] == [
        (KV, {"title": "hello-user-sessions"}),
        (R2, {"name": "files"}),
        (D1, {"name": "people"}),
        (QUEUES, {"queue_name": "mail"}),
    ]
    found = sent(nothing)
    assert {each["name"]: each for each in found["bindings"]} == {
        "USER_SESSIONS": {"type": "kv_namespace", "name": "USER_SESSIONS", "namespace_id": "k"},
        "FILES": {"type": "r2_bucket", "name": "FILES", "bucket_name": "files"},
        "DB": {"type": "d1", "name": "DB", "id": "d"},
        "MAIL": {"type": "queue", "name": "MAIL", "queue_name": "mail"},
        "ROOM": {"type": "durable_object_namespace", "name": "ROOM", "class_name": "Room"},
    }
    assert found["migrations"] == {"new_tag": "v1", "steps": [{"new_sqlite_classes": ["Room"]}]}
    assert nothing.asked("PUT", "/schedules").json() == [{"cron": "0 3 * * *"}]
    consumer = nothing.asked("POST", "/consumers")
    assert consumer.path == "/queues/q1/consumers"
    assert consumer.json() == {
        "type": "worker",
        "settings": {"batch_size": 5, "max_wait_time_ms": 1000},
        "script_name": "hello",
    }
    order = [f"{call.method} {call.path}" for call in nothing.calls]
    upload = order.index(f"PUT {SCRIPT}")
    assert order.index(f"POST {QUEUES}") < upload < order.index("POST /queues/q1/consumers")
    assert "Made the D1 database people." in done.out


def test_a_second_deploy_makes_nothing(api: FakeApi, run: Run, folder: Path) -> None:
    """Goal: what the worker has, it keeps; a migration is not sent again. Method: the platform has
    it all, and its consumer has an id."""
    before = [
        {"name": "USER_SESSIONS", "type": "kv_namespace", "namespace_id": "k"},
        {"name": "FILES", "type": "r2_bucket", "bucket_name": "files"},
        {"name": "DB", "type": "d1", "id": "d"},
        {"name": "MAIL", "type": "queue", "queue_name": "mail"},
    ]
    api.answers[f"GET {SCRIPT}/settings"] = [{"bindings": before}]
    api.answers["GET /workers/services/hello"] = [
        {"default_environment": {"script": {"migration_tag": "v1"}}}
    ]
    api.answers[f"GET {D1}/people"] = [{"uuid": "d"}]
    consumer = {"consumer_id": "c1", "type": "worker", "script": "hello"}
    api.answers[f"GET {QUEUES}"] = [[{**QUEUE, "consumers": [consumer]}]]
    done = run("deploy", str(folder))
    assert done.code == 0, done.err
    assert [c.path for c in api.calls if c.method == "POST"] == [f"{SCRIPT}/subdomain"]
    found = sent(api)
    kept = {each["name"] for each in found["bindings"] if each["type"] == "inherit"}
    assert kept == {"USER_SESSIONS", "FILES", "DB", "MAIL"}
    assert "migrations" not in found
    assert api.asked("PUT", "/queues/q1/consumers/c1").json()["script_name"] == "hello"


def test_another_name_is_another_database(api: FakeApi, run: Run, folder: Path) -> None:
    """Goal: a changed `database_name` is not overlooked. Method: the newest version has another."""
    only = {key: CONFIG[key] for key in ("name", "main", "compatibility_date", "d1_databases")}
    (folder / "wrangler.jsonc").write_text(json.dumps(only))
    before = {"name": "DB", "type": "d1", "id": "other"}
    api.answers[f"GET {SCRIPT}/settings"] = [{"bindings": [before]}]
    api.answers[f"GET {D1}/people"] = [{"uuid": "d"}]
    assert run("deploy", str(folder)).code == 0
    assert sent(api)["bindings"] == [{"type": "d1", "name": "DB", "id": "d"}]


def test_a_queue_that_is_only_consumed_is_not_made(
    nothing: FakeApi, run: Run, folder: Path
) -> None:
    """Goal: a slip of the pen is told, and nothing is uploaded."""
    only = {key: CONFIG[key] for key in ("name", "main", "compatibility_date")}
    queues = {"consumers": [{"queue": "mial"}]}
    (folder / "wrangler.jsonc").write_text(json.dumps({**only, "queues": queues}))
    done = run("deploy", str(folder))
    assert done.code == 1
    assert "there is no queue 'mial'" in done.err
    assert [call.method for call in nothing.calls] == ["GET"]
