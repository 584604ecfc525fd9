"""What is deployed, read from wrangler.jsonc / wrangler.json / wrangler.toml or from one file.

Deciding code over parsed documents; only `find` and `read` touch files. A key that this command
does not offer is refused by name, never dropped: a worker without its binding is a broken worker.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kythera.cli import jsonc, project_bindings
from kythera.cli.project_bindings import Attached
from kythera.cli.project_error import ProjectError
from kythera.deploy import bindings_absent
from kythera.model.names import is_worker_name

CONFIG_NAMES = ("wrangler.jsonc", "wrangler.json", "wrangler.toml")
SCRIPT_SUFFIXES = (".js", ".mjs", ".ts", ".mts", ".jsx", ".tsx")
COMPATIBILITY_DATE = "2026-01-01"
"""Used for a lone file, which has nowhere to name its own."""

OFFERED = project_bindings.KEYS | frozenset(
    "name main compatibility_date compatibility_flags vars assets routes route workers_dev "
    "preview_urls rules no_bundle minify define alias tsconfig jsx_factory jsx_fragment keep_vars "
    "observability logpush upload_source_maps keep_names limits placement env base_dir unsafe "
    "secrets tail_consumers streaming_tail_consumers".split()
)
HARMLESS = frozenset(
    "$schema account_id send_metrics dev dependencies_instrumentation legacy_env "
    "preserve_file_names previews".split()
)
"""Keys that speak to wrangler or its author alone."""
NOT_INHERITED = (project_bindings.KEYS - project_bindings.INHERITED) | {
    *("vars", "define", "secrets", "unsafe", "tail_consumers", "streaming_tail_consumers")
}
"""Keys that a named environment does not take over from the top, as with wrangler."""
INSTEAD = {
    "site": "Use assets: { directory: … } instead.",
    "build": "Run the build yourself first, then deploy its result as `main`.",
    "pages_build_output_dir": "This is a Pages project: use assets: { directory: … } instead.",
    "type": "Remove it: the format is found from the code.",
    "containers": bindings_absent.INSTEAD["containers"],
    "cache": "Remove it: a Worker's own answers are not kept. It may use caches.default itself.",
}
MODULE_RULES = {"CompiledWasm": "application/wasm", "Text": "text/plain",
                "Data": "application/octet-stream"}  # fmt: skip
RULES = {
    ".wasm": "application/wasm",
    ".txt": "text/plain",
    ".html": "text/plain",
    ".sql": "text/plain",
    ".bin": "application/octet-stream",
}


@dataclass(frozen=True)
class Project:
    """One deployable worker."""

    name: str
    folder: Path
    main: Path | None
    assets_folder: Path | None = None
    assets_binding: str | None = None
    assets_config: dict[str, Any] = field(default_factory=dict)
    compatibility_date: str = COMPATIBILITY_DATE
    compatibility_flags: tuple[str, ...] = ()
    vars: dict[str, Any] = field(default_factory=dict)
    routes: tuple[dict[str, str], ...] = ()
    domains: tuple[str, ...] = ()
    hostname_enabled: bool = True
    previews_enabled: bool = False
    no_bundle: bool = False
    base_folder: Path | None = None
    source_maps: bool = True
    keep_vars: bool = False
    rules: dict[str, str] = field(default_factory=lambda: dict(RULES))
    esbuild: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    """Passed through to the version: observability, logpush, limits, placement."""
    attached: Attached = field(default_factory=Attached)
    """Bindings, migrations and triggers."""
    secrets_required: tuple[str, ...] = ()
    """Without them nothing is deployed."""

    @property
    def nodejs(self) -> bool:
        """Whether the code may import Node's own modules."""
        return any(flag.startswith("nodejs_compat") for flag in self.compatibility_flags)


def find(path: Path) -> Path:
    """Return the file that describes the project at `path`: a configuration, or one script."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise ProjectError(f"there is no {path}.", remedy="Name a project folder or a script.")
    for name in CONFIG_NAMES:
        if (path / name).is_file():
            return path / name
    raise ProjectError(
        f"{path.resolve()} has no {CONFIG_NAMES[0]} (nor .json, nor .toml).",
        remedy='Write one ({"name": "…", "main": "src/index.ts", "compatibility_date": "…"}), '
        "or name a single .js/.ts file: kythera deploy hello.js",
    )


def read(path: Path, *, environment: str | None = None, name: str | None = None) -> Project:
    """Read the project at `path`. Raises ProjectError."""
    file = find(path)
    if file.suffix in SCRIPT_SUFFIXES:
        if environment:
            raise ProjectError(f"{file.name} has no environments.", remedy="Leave --env out.")
        return from_script(file, name=name)
    return from_document(parse(file), file, environment=environment, name=name)


def parse(file: Path) -> dict[str, Any]:
    """Parse a configuration file by its suffix."""
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".toml":
            return tomllib.loads(text)
        if file.suffix in (".json", ".jsonc"):
            document = jsonc.loads(text)
            if isinstance(document, dict):
                return document
            raise ProjectError(f"{file} is not a JSON object.", remedy="Write { … }.")
    except (json.JSONDecodeError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProjectError(f"{file}: {error}.", remedy="Mend the syntax there.") from None
    raise ProjectError(
        f"{file} is neither a wrangler configuration nor a script.",
        remedy=f"Name a folder, a {', '.join(CONFIG_NAMES)} or a file ending in "
        f"{', '.join(SCRIPT_SUFFIXES)}.",
    )


def from_script(file: Path, *, name: str | None = None) -> Project:
    """Return the project that one file is: its name is the file's."""
    own = name or re.sub(r"[^a-z0-9-]+", "-", file.stem.lower()).strip("-")
    if own == "index" and name is None:
        own = re.sub(r"[^a-z0-9-]+", "-", file.resolve().parent.name.lower()).strip("-")
    return Project(
        name=check_name(own, file), folder=file.resolve().parent, main=file.resolve(),
        compatibility_flags=("nodejs_compat",),
    )  # fmt: skip


def check_name(name: object, file: Path) -> str:
    """Return the worker's name if it can be one."""
    if isinstance(name, str) and is_worker_name(name):
        return name
    raise ProjectError(
        f"{file.name}: {name!r} cannot be a worker's name.",
        remedy="Use lower-case letters, digits and dashes, 63 at most (or give --name).",
    )


def choose_environment(document: Mapping[str, Any], environment: str | None) -> dict[str, Any]:
    """Return the document as one named environment sees it (None: the top level)."""
    top = {key: value for key, value in document.items() if key != "env"}
    if environment is None:
        return top
    named = document.get("env", {})
    if environment not in named:
        raise ProjectError(
            f"there is no environment {environment!r}.",
            remedy=f"There are: {', '.join(sorted(named)) or 'none'}.",
        )
    inherited = {key: value for key, value in top.items() if key not in NOT_INHERITED}
    inherited["name"] = f"{top.get('name', '')}-{environment}"
    return {**inherited, **named[environment]}


def refuse_unknown(document: Mapping[str, Any], file: Path) -> None:
    """Refuse every key that is not offered here, by name, with what can be done instead."""
    for key in document:
        if key not in OFFERED and key not in HARMLESS and document[key] not in ([], {}, None):
            raise ProjectError(
                f"{file.name}: {key} is not offered by `kythera deploy` yet.",
                remedy=INSTEAD.get(
                    key,
                    f"Offered: {', '.join(sorted(OFFERED))}. Remove the key to deploy without it.",
                ),
            )


def from_document(
    document: Mapping[str, Any],
    file: Path,
    *,
    environment: str | None = None,
    name: str | None = None,
) -> Project:
    """Return the project a parsed configuration describes."""
    chosen = choose_environment(document, environment)
    refuse_unknown(chosen, file)
    folder = file.resolve().parent
    assets = _typed(chosen, "assets", dict, file) or {}
    main = _typed(chosen, "main", str, file)
    if main is None and not assets.get("directory"):
        raise ProjectError(
            f"{file.name} names neither `main` nor `assets.directory`.",
            remedy='Add "main": "src/index.ts", or "assets": {"directory": "./public"}.',
        )
    routes = [_route(each, file) for each in _all_routes(chosen)]
    base = _typed(chosen, "base_dir", str, file)
    return Project(
        name=check_name(name or chosen.get("name"), file),
        folder=folder,
        main=_existing(folder / main, "main", file) if main else None,
        assets_folder=_assets_folder(assets, folder, file),
        assets_binding=assets.get("binding"),
        assets_config={k: v for k, v in assets.items() if k not in ("directory", "binding")},
        compatibility_date=str(_date(chosen, file)),
        compatibility_flags=tuple(_typed(chosen, "compatibility_flags", list, file) or ()),
        vars=_typed(chosen, "vars", dict, file) or {},
        routes=tuple(route for route in routes if "custom_domain" not in route),
        domains=tuple(route["pattern"] for route in routes if "custom_domain" in route),
        hostname_enabled=bool(chosen.get("workers_dev", not routes)),
        previews_enabled=bool(chosen.get("preview_urls", False)),
        no_bundle=bool(chosen.get("no_bundle", False)),
        base_folder=folder / base if base else None,
        source_maps=bool(chosen.get("upload_source_maps", True)),
        keep_vars=bool(chosen.get("keep_vars", False)),
        rules=_rules(chosen, file),
        esbuild=_esbuild(chosen),
        settings=_settings(chosen, file),
        attached=project_bindings.attached(
            {**chosen, "name": name or chosen.get("name")}, file.name
        ),
        secrets_required=tuple((_typed(chosen, "secrets", dict, file) or {}).get("required") or ()),
    )


def _settings(chosen: Mapping[str, Any], file: Path) -> dict[str, Any]:
    keys = ["observability", "logpush", "limits", "placement"]
    keys += ["tail_consumers", "streaming_tail_consumers"]
    unsafe = _typed(chosen, "unsafe", dict, file) or {}
    if set(unsafe) - {"metadata"}:
        raise ProjectError(
            f"{file.name}: of unsafe, metadata alone is offered.", remedy="Remove the rest of it."
        )
    own = (
        _typed(unsafe, "metadata", dict, file) or {}
    )  # into the upload as they are: wrangler's way
    return {**own, **{key: chosen[key] for key in keys if key in chosen}}


def _typed(document: Mapping[str, Any], key: str, kind: type[Any], file: Path) -> Any:
    value = document.get(key)
    if value is not None and not isinstance(value, kind):
        names: dict[type[Any], str] = {dict: "an object", list: "a list", str: "a text"}
        raise ProjectError(f"{file.name}: {key} must be {names[kind]}.", remedy="Mend it there.")
    return value


def _date(document: Mapping[str, Any], file: Path) -> object:
    date = document.get("compatibility_date")
    if date is None:
        raise ProjectError(
            f"{file.name} has no compatibility_date.",
            remedy=f'Add "compatibility_date": "{COMPATIBILITY_DATE}" (or today).',
        )
    return date


def _existing(path: Path, key: str, file: Path) -> Path:
    if not path.is_file():
        raise ProjectError(
            f"{file.name}: {key} names {path}, which does not exist.",
            remedy="Mend the path, or run the project's build first.",
        )
    return path.resolve()


def _assets_folder(assets: Mapping[str, Any], folder: Path, file: Path) -> Path | None:
    if not assets.get("directory"):
        return None
    path = folder / str(assets["directory"])
    if not path.is_dir():
        raise ProjectError(
            f"{file.name}: assets.directory names {path}, which is no folder.",
            remedy="Mend the path, or run the project's build first.",
        )
    return path.resolve()


def _all_routes(document: Mapping[str, Any]) -> list[Any]:
    single = [document["route"]] if "route" in document else []
    return single + list(document.get("routes") or [])


def _route(given: Any, file: Path) -> dict[str, str]:
    """Return a route as the API takes it; `custom_domain` is kept as a mark."""
    if isinstance(given, str):
        return {"pattern": given}
    if not isinstance(given, dict) or not isinstance(given.get("pattern"), str):
        raise ProjectError(f"{file.name}: a route without a pattern.", remedy="Give it one.")
    kept = {key: given[key] for key in ("pattern", "zone_name", "zone_id") if key in given}
    return kept | ({"custom_domain": "yes"} if given.get("custom_domain") else {})


def _rules(document: Mapping[str, Any], file: Path) -> dict[str, str]:
    """Return suffix -> content type: wrangler's own rules and the project's."""
    rules = dict(RULES)
    for rule in document.get("rules") or []:
        for glob in rule.get("globs", []):
            suffix = re.fullmatch(r"(?:\*\*/)?\*(\.[A-Za-z0-9.]+)", glob)
            if rule.get("type") not in MODULE_RULES or suffix is None:
                raise ProjectError(
                    f"{file.name}: the rule {rule.get('type')} {glob} is not offered.",
                    remedy=f"Offered: {', '.join(MODULE_RULES)} with globs like **/*.ext.",
                )
            rules[suffix[1]] = MODULE_RULES[rule["type"]]
    return rules


def _esbuild(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the project's own options for esbuild."""
    options = [f"--define:{name}={text}" for name, text in (document.get("define") or {}).items()]
    options += [f"--alias:{name}={to}" for name, to in (document.get("alias") or {}).items()]
    if document.get("minify"):
        options.append("--minify")
    if document.get("keep_names", True):
        options.append("--keep-names")
    for key, option in (
        ("tsconfig", "tsconfig"),
        ("jsx_factory", "jsx-factory"),
        ("jsx_fragment", "jsx-fragment"),
    ):
        if document.get(key):
            options.append(f"--{option}={document[key]}")
    return tuple(options)
