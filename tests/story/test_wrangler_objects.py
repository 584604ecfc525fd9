"""Durable Objects deployed by real wranglers: migrations in wrangler.json, step by step."""

from pathlib import Path
from typing import Any

import pytest

from tests.platforms import RunningPlatform
from tests.story.object_workers import called, shop
from tests.wranglers import Wrangler, write_project

pytestmark = pytest.mark.story
V1 = {"tag": "v1", "new_sqlite_classes": ["Shop"]}
V2 = {"tag": "v2", "renamed_classes": [{"from": "Shop", "to": "Store"}]}


def project(folder: Path, name: str, class_name: str, *migrations: Any) -> Path:
    """Write the worker with its migrations."""
    config = {
        "name": name,
        "durable_objects": {"bindings": [{"name": "NS", "class_name": class_name}]},
        "migrations": list(migrations),
    }
    return write_project(folder, config, {"index.js": shop("1", class_name)})


def namespaces(platform: RunningPlatform, name: str) -> dict[str, str]:
    """Return a worker's namespaces by class, as the API lists them."""
    answer = platform.call("GET", "/workers/durable_objects/namespaces?per_page=1000").json()
    return {one["class"]: one["id"] for one in answer["result"] if one["script"] == name}


def test_migrations_are_applied_once_each(wrangler: Wrangler, tmp_path: Path) -> None:
    """Goal: wrangler sends what it finds missing by the tag that it is told; a second deploy sends
    nothing; a rename keeps the objects; a delete of the worker ends them."""
    name, platform = wrangler.name("objects"), wrangler.platform
    first = project(tmp_path / "1", name, "Shop", V1)
    done = wrangler.do("deploy", project=first)
    assert "Shop" in done.text
    platform.wait_for(name, "0", "/count/one")
    assert called(platform, name, "add") == 1
    wrangler.do("deploy", project=first)
    assert called(platform, name, "count") == 1
    before = namespaces(platform, name)
    wrangler.do("deploy", project=project(tmp_path / "2", name, "Store", V1, V2))
    assert namespaces(platform, name) == {"Store": before["Shop"]}
    platform.wait_for(name, "1", "/count/one")
    assert called(platform, name, "add") == 2
    wrangler.do("delete", "--force", project=first)
    assert namespaces(platform, name) == {}


def test_mistakes_are_told(wrangler: Wrangler, tmp_path: Path) -> None:
    """Goal: a class without a migration, and one that the code lacks, are refused by name."""
    name = wrangler.name("mistaken")
    done = wrangler.refuse("deploy", project=project(tmp_path / "1", name, "Shop"))
    assert "10061" in done.text
    assert "'Shop'" in done.text
    lacking = project(tmp_path / "2", name, "Shop", V1, {"tag": "v2", "new_classes": ["Lost"]})
    done = wrangler.refuse("deploy", project=lacking)
    assert "10064" in done.text
    assert "'Lost'" in done.text


def test_exports_declare_classes(wrangler: Wrangler, tmp_path: Path) -> None:
    """Goal: what newer wranglers have instead of migrations; again and again, and with a rename."""
    if wrangler.version.startswith("4.86"):
        pytest.skip("this wrangler knows no exports")
    name, platform = wrangler.name("declared"), wrangler.platform
    bound = {"bindings": [{"name": "NS", "class_name": "Shop"}]}
    made = {"type": "durable-object", "storage": "sqlite"}
    config = {"name": name, "durable_objects": bound, "exports": {"Shop": made}}
    first = write_project(tmp_path / "1", config, {"index.js": shop()})
    for _ in range(2):
        wrangler.do("deploy", project=first)
    platform.wait_for(name, "0", "/count/one")
    assert called(platform, name, "add") == 1
    config["durable_objects"] = {"bindings": [{"name": "NS", "class_name": "Store"}]}
    moved = {"type": "durable-object", "state": "renamed", "renamed_to": "Store"}
    config["exports"] = {"Shop": moved, "Store": made}
    second = write_project(tmp_path / "2", config, {"index.js": shop("2", "Store")})
    wrangler.do("deploy", project=second)
    platform.wait_for(name, '"version":"2"', "/fetch/one")
    assert called(platform, name, "add") == 2
