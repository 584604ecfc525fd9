"""What a configuration file means, and which keys are refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from kythera.cli import project
from kythera.cli.project import ProjectError
from kythera.cli.upload import bindings

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


@pytest.mark.parametrize("key", ["kv_namespaces", "durable_objects", "queues", "surprise"])
def test_a_key_that_is_not_offered_is_refused_by_name(tmp_path: Path, key: str) -> None:
    """A worker without its binding would be a broken worker: never drop one silently."""
    with pytest.raises(ProjectError, match=f"{key} is not offered"):
        project.read(written(tmp_path, **{key: [{"binding": "X"}]}))


def test_an_empty_key_that_is_not_offered_does_no_harm(tmp_path: Path) -> None:
    """Generated files carry empty lists."""
    assert project.read(written(tmp_path, kv_namespaces=[])).name == "hello"


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
