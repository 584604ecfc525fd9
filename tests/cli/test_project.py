"""What a configuration file means, and which keys are refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from kythera.cli import project
from kythera.cli.project_bindings import Consumer, Wanted, steps_after
from kythera.cli.project_error import ProjectError
from kythera.cli.upload import bindings, metadata

MINIMAL = {"name": "hello", "main": "index.js", "compatibility_date": "2026-01-01"}


def written(folder: Path, **more: Any) -> Path:
    """Write a project and return its folder."""
    (folder / "index.js").write_text("export default { fetch() { return new Response() } }")
    (folder / "wrangler.jsonc").write_text(json.dumps({**MINIMAL, **more}))
    return folder


def test_a_folder_is_read_by_its_configuration(tmp_path: Path) -> None:
    """Name, main, date, flags and variables arrive."""
    found = project.read(
        written(tmp_path, vars={"A": "x", "B": [1]}, compatibility_flags=["nodejs_compat"])
    )
    assert found.name == "hello"
    assert found.main == tmp_path / "index.js"
    assert found.vars == {"A": "x", "B": [1]}
    assert found.nodejs
    assert found.hostname_enabled


def test_the_same_project_in_toml_is_the_same(tmp_path: Path) -> None:
    """wrangler.toml is an older spelling, not another product."""
    as_json = project.read(written(tmp_path, vars={"A": "x"}))
    (tmp_path / "wrangler.jsonc").unlink()
    lines = [f'{key} = "{value}"' for key, value in MINIMAL.items()]
    (tmp_path / "wrangler.toml").write_text("\n".join([*lines, "[vars]", 'A = "x"']))
    assert project.read(tmp_path) == as_json


def test_a_lone_script_is_a_project_named_after_its_file(tmp_path: Path) -> None:
    """No configuration is needed to try something."""
    script = tmp_path / "My Worker.ts"
    script.write_text("export default {}")
    assert project.read(script).name == "my-worker"
    assert project.read(script, name="other").name == "other"


@pytest.mark.parametrize("key", ["containers", "python_modules", "wasm_modules", "surprise"])
def test_a_key_that_is_not_offered_is_refused_by_name(tmp_path: Path, key: str) -> None:
    """A worker without its binding would be a broken worker: never drop one silently."""
    with pytest.raises(ProjectError, match=f"{key} is not offered"):
        project.read(written(tmp_path, **{key: [{"binding": "X"}]}))


def test_an_empty_key_that_is_not_offered_does_no_harm(tmp_path: Path) -> None:
    """Generated files carry empty lists."""
    assert project.read(written(tmp_path, wasm_modules={}, kv_namespaces=[])).name == "hello"


def test_other_workers_are_bound_as_wrangler_says_it(tmp_path: Path) -> None:
    """Goal: wrangler's `binding` is the upload's `name`; entrypoint and props go along; an
    environment has its own; one without a name is refused."""
    entry = {"binding": "S", "service": "b", "entrypoint": "E", "props": {"a": 1}}
    found = project.read(written(tmp_path, services=[entry], env={"x": {}}))
    bound = {"type": "service", "name": "S", "service": "b", "entrypoint": "E", "props": {"a": 1}}
    assert bindings(found) == [bound]
    assert bindings(project.read(tmp_path, environment="x")) == []
    with pytest.raises(ProjectError, match="each of services needs"):
        project.read(written(tmp_path, services=[{"service": "b"}]))


BINDINGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"kv_namespaces": [{"binding": "X", "id": "a" * 32, "preview_id": "p"}]},
        {"type": "kv_namespace", "namespace_id": "a" * 32},
    ),
    (
        {"d1_databases": [{"binding": "X", "database_name": "n", "database_id": "i"}]},
        {"type": "d1", "id": "i"},
    ),
    (
        {"durable_objects": {"bindings": [{"name": "X", "class_name": "C", "script_name": "s"}]}},
        {"type": "durable_object_namespace", "class_name": "C", "script_name": "s"},
    ),
    (
        {"hyperdrive": [{"binding": "X", "id": "h", "localConnectionString": "postgres://"}]},
        {"type": "hyperdrive", "id": "h"},
    ),
    (
        {"analytics_engine_datasets": [{"binding": "X", "dataset": "d"}]},
        {"type": "analytics_engine", "dataset": "d"},
    ),
    (
        {"ratelimits": [{"name": "X", "namespace_id": "1", "simple": {"limit": 5, "period": 10}}]},
        {"type": "ratelimit", "namespace_id": "1", "simple": {"limit": 5, "period": 10}},
    ),
    (
        {"secrets_store_secrets": [{"binding": "X", "store_id": "s", "secret_name": "n"}]},
        {"type": "secrets_store_secret", "store_id": "s", "secret_name": "n"},
    ),
    (
        {"workflows": [{"binding": "X", "name": "w", "class_name": "W"}]},
        {"type": "workflow", "workflow_name": "w", "class_name": "W"},
    ),
    ({"worker_loaders": [{"binding": "X"}]}, {"type": "worker_loader"}),
    ({"version_metadata": {"binding": "X"}}, {"type": "version_metadata"}),
    ({"ai": {"binding": "X"}}, {"type": "ai"}),
    ({"secrets": {"required": ["X"]}}, {"type": "inherit"}),
]


@pytest.mark.parametrize(("written_so", "sent"), BINDINGS, ids=lambda each: next(iter(each)))
def test_bindings_are_sent_as_wrangler_sends_them(
    tmp_path: Path, written_so: dict[str, Any], sent: dict[str, Any]
) -> None:
    """Also those that the platform refuses: it says what to use instead, and this command cannot."""
    assert bindings(project.read(written(tmp_path, **written_so))) == [{"name": "X", **sent}]


def test_what_has_no_id_is_wanted_by_its_name(tmp_path: Path) -> None:
    """Goal: nothing without an id is sent before it was found or made; in a dry run, where nothing
    may be, it is inherited."""
    found = project.read(
        written(
            tmp_path,
            kv_namespaces=[{"binding": "K"}],
            r2_buckets=[{"binding": "R", "bucket_name": "b"}],
            d1_databases=[{"binding": "D", "database_name": "n"}],
            queues={"producers": [{"binding": "Q", "queue": "q", "delivery_delay": 3}]},
        )
    )
    assert found.attached.wanted == (
        Wanted("kv_namespace", "K"),
        Wanted("r2_bucket", "R", "b"),
        Wanted("d1", "D", "n"),
        Wanted("queue", "Q", "q", {"delivery_delay": 3}),
    )
    assert [each["type"] for each in bindings(found)] == ["inherit"] * 4
    assert Wanted("d1", "D", "n").led_to("id") == {"type": "d1", "name": "D", "id": "id"}


def test_triggers_are_read_and_an_environment_has_its_own_queues(tmp_path: Path) -> None:
    """Seconds become milliseconds; crons that nobody names stay as they are, and `[]` ends them."""
    consumer = {"queue": "q", "max_batch_size": 5, "max_batch_timeout": 1.5}
    found = project.read(
        written(tmp_path, queues={"consumers": [consumer]}, triggers={"crons": []}, env={"x": {}})
    )
    settings = {"batch_size": 5, "max_wait_time_ms": 1500}
    assert found.attached.consumers == (Consumer("q", {"type": "worker", "settings": settings}),)
    assert found.attached.crons == ()
    assert project.read(tmp_path, environment="x").attached.consumers == ()
    assert project.read(written(tmp_path)).attached.crons is None


def test_a_migration_is_sent_once() -> None:
    """Goal: what comes after the deployed tag and nothing else; a tag that is gone is refused."""
    first = {"tag": "v1", "new_sqlite_classes": ["A"]}
    second = {"tag": "v2", "renamed_classes": [{"from": "A", "to": "B"}]}
    both = [{"new_sqlite_classes": ["A"]}, {"renamed_classes": [{"from": "A", "to": "B"}]}]
    assert steps_after((first, second), None) == {"new_tag": "v2", "steps": both}
    after = {"old_tag": "v1", "new_tag": "v2", "steps": both[1:]}
    assert steps_after((first, second), "v1") == after
    assert steps_after((first, second), "v2") is None
    assert steps_after((), "v2") is None
    with pytest.raises(ProjectError, match="'v0', which is not in `migrations`"):
        steps_after((first,), "v0")


def test_a_first_upload_has_its_migrations(tmp_path: Path) -> None:
    """Without them the class of a binding would not be there."""
    step = {"tag": "v1", "new_sqlite_classes": ["A"]}
    found = metadata(project.read(written(tmp_path, migrations=[step])), None)
    assert found["migrations"] == {"new_tag": "v1", "steps": [{"new_sqlite_classes": ["A"]}]}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kv_namespaces": [{"binding": "K", "ids": "x"}]}, "kv_namespaces has ids"),
        ({"kv_namespaces": [{"id": "x"}]}, "each of kv_namespaces needs a `binding`"),
        ({"queues": {"pullers": [1]}}, "queues.pullers is not offered"),
        ({"queues": {"consumers": [{"queue": "q", "batch": 1}]}}, "queues.consumers has batch"),
        ({"triggers": {"crons": "0 3 * * *"}}, "triggers.crons has to be a list"),
        ({"durable_objects": []}, None),
        ({"durable_objects": [{"name": "X"}]}, "durable_objects has to be an object"),
    ],
)
def test_what_nobody_reads_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], says: str | None
) -> None:
    """A field dropped silently is a worker that behaves otherwise."""
    if says is None:
        assert project.read(written(tmp_path, **change)).name == "hello"
        return
    with pytest.raises(ProjectError, match=says):
        project.read(written(tmp_path, **change))


def test_a_named_environment_overrides_the_top_and_inherits_no_vars(tmp_path: Path) -> None:
    """As with wrangler: `staging` becomes hello-staging, with its own variables alone."""
    folder = written(
        tmp_path,
        vars={"A": "top"},
        compatibility_flags=["nodejs_compat"],
        env={"staging": {"vars": {"B": "own"}}},
    )
    found = project.read(folder, environment="staging")
    assert found.name == "hello-staging"
    assert found.vars == {"B": "own"}
    assert found.nodejs
    with pytest.raises(ProjectError, match="no environment 'live'"):
        project.read(folder, environment="live")


def test_routes_and_custom_domains_are_told_apart(tmp_path: Path) -> None:
    """With routes the worker's own hostname is off unless the project says otherwise."""
    routes = ["a.example/*", {"pattern": "b.example", "custom_domain": True}]
    found = project.read(written(tmp_path, routes=routes))
    assert found.routes == ({"pattern": "a.example/*"},)
    assert found.domains == ("b.example",)
    assert not found.hostname_enabled
    assert project.read(written(tmp_path, routes=routes, workers_dev=True)).hostname_enabled


def test_static_assets_need_no_code(tmp_path: Path) -> None:
    """A folder of files is a worker."""
    (tmp_path / "public").mkdir()
    document = {
        "name": "site",
        "compatibility_date": "2026-01-01",
        "assets": {"directory": "public", "html_handling": "none"},
    }
    (tmp_path / "wrangler.json").write_text(json.dumps(document))
    found = project.read(tmp_path)
    assert found.main is None
    assert found.assets_folder == tmp_path / "public"
    assert found.assets_config == {"html_handling": "none"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "Bad Name"}, "cannot be a worker's name"),
        ({"name": None}, "cannot be a worker's name"),
        ({"main": "gone.js"}, "which does not exist"),
        ({"main": None}, "neither `main` nor `assets.directory`"),
        ({"main": 7}, "main must be a text"),
        ({"compatibility_date": None}, "no compatibility_date"),
        ({"vars": "x"}, "vars must be an object"),
        ({"assets": {"directory": "gone"}}, "is no folder"),
        ({"routes": [{"zone_name": "x"}]}, "a route without a pattern"),
        ({"rules": [{"type": "ESModule", "globs": ["**/*.js"]}]}, "is not offered"),
    ],
)
def test_a_wrong_configuration_is_refused_with_a_remedy(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    """Each message names the key, each has something to do."""
    with pytest.raises(ProjectError, match=says) as caught:
        project.read(written(tmp_path, **change))
    assert caught.value.remedy


def test_an_empty_folder_is_told_what_to_write(tmp_path: Path) -> None:
    """The first mistake everybody makes."""
    with pytest.raises(ProjectError, match=r"has no wrangler\.jsonc"):
        project.read(tmp_path)
