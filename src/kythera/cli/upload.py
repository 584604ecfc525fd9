"""From a project to a served version: the calls of one deploy, in order.

`metadata` is pure. `put` does: assets session and buckets, what bindings lead to, the version, its
hostname, routes, crons and consumers.
Each step is one the API refuses or takes as a whole; nothing serves before the version is stored.
"""

import base64
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from kythera.cli import provision
from kythera.cli.bundle import Bundle
from kythera.cli.client import Client, worker_urls
from kythera.cli.project import Project
from kythera.cli.project_bindings import steps_after
from kythera.cli.static_files import StaticFile
from kythera.model.errors import KytheraError, Refusal

MESSAGE = "workers/message"
TAG = "workers/tag"


@dataclass(frozen=True)
class Deployed:
    """What a deploy did, for the person who typed it."""

    worker: str
    version_id: str
    urls: tuple[str, ...]
    modules: tuple[tuple[str, str, int], ...]
    assets: int
    assets_uploaded: int
    startup_time_ms: int | None

    def as_document(self) -> dict[str, Any]:
        """Return the shape of `kythera deploy --json`."""
        return {
            "worker": self.worker,
            "version_id": self.version_id,
            "urls": list(self.urls),
            "modules": [{"name": n, "type": t, "size": s} for n, t, s in self.modules],
            "assets": {"files": self.assets, "uploaded": self.assets_uploaded},
            "startup_time_ms": self.startup_time_ms,
        }


def metadata(
    project: Project,
    bundle: Bundle | None,
    *,
    assets_jwt: str | None = None,
    steering: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    provided: Sequence[dict[str, Any]] | None = None,
    migration_tag: str | None = None,
) -> dict[str, Any]:
    """Return the form's `metadata` field for a version of this project. Pure.

    `provided` are the bindings to what the configuration gives no id of; without them they are
    inherited, as in a dry run."""
    document: dict[str, Any] = {
        "bindings": [*bindings(project, provided)],
        "compatibility_date": project.compatibility_date,
        "compatibility_flags": list(project.compatibility_flags),
        "keep_bindings": ["secret_text", "secret_key"],
        **project.settings,
    }
    if project.keep_vars:
        document["keep_bindings"] += ["plain_text", "json"]
    migrations = steps_after(project.attached.migrations, migration_tag)
    if migrations is not None:
        document["migrations"] = migrations
    if project.attached.exports:
        document["exports"] = project.attached.exports
    if bundle is not None:
        document["body_part" if bundle.service_worker else "main_module"] = bundle.main
    if assets_jwt is not None:
        config = {**project.assets_config, **(steering or {})}
        document["assets"] = {"jwt": assets_jwt, "config": config}
    if annotations:
        document["annotations"] = annotations
    return document


def bindings(
    project: Project, provided: Sequence[dict[str, Any]] | None = None
) -> Sequence[dict[str, Any]]:
    """Return the bindings a project asks for. Pure."""
    found: list[dict[str, Any]] = []
    for name, value in project.vars.items():
        if isinstance(value, str):
            found.append({"type": "plain_text", "name": name, "text": value})
        else:
            found.append({"type": "json", "name": name, "json": value})
    if project.assets_binding:
        found.append({"type": "assets", "name": project.assets_binding})
    found += project.attached.bindings
    if provided is None:
        provided = [wanted.inherited() for wanted in project.attached.wanted]
    found += provided
    named = {binding["name"] for binding in found}
    found += [{"type": "inherit", "name": s} for s in project.secrets_required if s not in named]
    return found


def put(
    client: Client,
    project: Project,
    bundle: Bundle | None,
    files: Sequence[StaticFile],
    *,
    note: Callable[[str], None],
    annotations: dict[str, str] | None = None,
) -> Deployed:
    """Deploy: upload what the API lacks, store the version, serve it, set where it is served."""
    attached, jwt, sent = project.attached, None, 0
    provision.refuse_no_queue(client, project.name, attached.consumers, attached.wanted)
    tag = migration_tag(client, project.name) if attached.migrations else None
    steps_after(attached.migrations, tag)  # refuses what cannot be, before anything is made
    if project.assets_folder is not None:
        jwt, sent = put_assets(client, project, files)
        note(f"Assets: {len(files)} files, {sent} of them new.")
    form = metadata(
        project,
        bundle,
        assets_jwt=jwt,
        steering=steering(project),
        annotations=annotations,
        provided=provision.provided(client, project.name, attached.wanted, note),
        migration_tag=tag,
    )
    parts = bundle.parts if bundle else ()
    result = client.call(
        "PUT",
        client.script(project.name),
        params={"excludeScript": "true", "bindings_inherit": "strict"},
        files=[
            ("metadata", (None, json.dumps(form).encode(), "application/json")),
            *((part.name, (part.name, part.data, part.content_type)) for part in parts),
        ],
    )
    put_triggers(client, project)
    return Deployed(
        worker=project.name,
        version_id=with_dashes(str((result or {}).get("deployment_id", ""))),
        urls=tuple(urls(client, project)),
        modules=tuple((part.name, part.content_type, len(part.data)) for part in parts),
        assets=len(files),
        assets_uploaded=sent,
        startup_time_ms=(result or {}).get("startup_time_ms"),
    )


def migration_tag(client: Client, worker: str) -> str | None:
    """Return a worker's last migration; None when it has none, or is not there yet."""
    try:
        found = client.call("GET", f"/workers/services/{quote(worker, safe='')}")
    except Refusal as refusal:
        if refusal.code != provision.NO_WORKER:
            raise
        return None
    tag: str | None = found["default_environment"]["script"].get("migration_tag")
    return tag


def with_dashes(digits: str) -> str:
    """Return 32 hexadecimal digits as the id that all other commands print."""
    if len(digits) != 32:
        return digits
    cuts = (0, 8, 12, 16, 20, 32)
    return "-".join(digits[a:b] for a, b in itertools.pairwise(cuts))


def steering(project: Project) -> dict[str, str]:
    """Return the text of `_headers` and `_redirects`, which travel with the version."""
    folder = project.assets_folder
    if folder is None:
        return {}
    names = ("_headers", "_redirects")
    return {name: (folder / name).read_text() for name in names if (folder / name).is_file()}


def put_assets(client: Client, project: Project, files: Sequence[StaticFile]) -> tuple[str, int]:
    """Upload the files the API lacks; return the completion token and how many were sent."""
    session = client.call(
        "POST",
        client.script(project.name, "/assets-upload-session"),
        json={"manifest": {file.path: {"hash": file.hash, "size": file.size} for file in files}},
    )
    by_hash = {file.hash: file for file in files}
    jwt, completed, sent = session["jwt"], None, 0
    for bucket in session["buckets"]:
        wanted = [by_hash[each] for each in bucket]
        answer = client.call(
            "POST",
            "/workers/assets/upload",
            params={"base64": "true"},
            headers={"Authorization": f"Bearer {jwt}"},
            files=[(file.hash, (file.hash, _encoded(file), file.content_type)) for file in wanted],
        )
        sent += len(wanted)
        completed = (answer or {}).get("jwt") or completed
    if session["buckets"] and completed is None:
        raise KytheraError(
            "the API took all assets but did not complete the upload.",
            remedy="Deploy again; if it stays so, ask `kythera doctor`.",
        )
    return completed or jwt, sent


def _encoded(file: StaticFile) -> bytes:
    return base64.b64encode(file.file.read_bytes())


def put_triggers(client: Client, project: Project) -> None:
    """Set the hostname, routes, custom domains, crons, consumers and workflows. Absent ones are left
    as they are."""
    client.call(
        "POST",
        client.script(project.name, "/subdomain"),
        json={
            "enabled": project.hostname_enabled,
            "previews_enabled": project.previews_enabled,
        },
    )
    if project.routes:
        client.call("PUT", client.script(project.name, "/routes"), json=list(project.routes))
    if project.domains:
        client.call(
            "PUT",
            client.script(project.name, "/domains/records"),
            json={
                "override_scope": True,
                "override_existing_origin": False,
                "override_existing_dns_record": False,
                "origins": [{"hostname": hostname} for hostname in project.domains],
            },
        )
    if project.attached.crons is not None:
        crons = [{"cron": cron} for cron in project.attached.crons]
        client.call("PUT", client.script(project.name, "/schedules"), json=crons)
    provision.put_consumers(client, project.name, project.attached.consumers)
    for workflow in project.attached.workflows:
        told = {key: value for key, value in workflow.items() if key != "name"}
        path = f"/workflows/{quote(workflow['name'], safe='')}"
        client.call("PUT", path, json={"script_name": project.name, **told})


def urls(client: Client, project: Project) -> list[str]:
    """Return where the worker is served now: its hostname, its domains, its routes' patterns."""
    found = []
    if project.hostname_enabled:
        hostname = f"{project.name}.{client.platform.domain}"
        found += worker_urls(client.platform, hostname)
    for hostname in project.domains:
        found += worker_urls(client.platform, hostname)
    return found + [route["pattern"] for route in project.routes]
