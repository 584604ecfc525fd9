"""Versions and deployments: made, checked, shown, and let go when there are too many.

Pure. A version is never rewritten, but for the envelopes of its secrets when the key changes; a change of secrets makes a new one. Numbers only grow. The
deployment with the highest number holds, and none of its versions is ever pruned.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from kythera.deploy.bindings import Origin, check_name, public
from kythera.deploy.documents import as_list, as_number, as_object, as_text, shown
from kythera.deploy.refusals import invalid, version_absent
from kythera.deploy.settings import annotations, runtime, worker_settings
from kythera.deploy.upload import Draft, etag
from kythera.model.envelope import mark_of
from kythera.model.errors import Refusal
from kythera.model.limits import Limits
from kythera.model.records import Binding, Deployment, Split, Version

SPLITS_MAX = 2
SUM_TOLERANCE = 0.001
SECRETS_CHANGED = 10220


def with_secrets(
    changes: Mapping[str, str | None], origin: Origin, *, message: Any = None
) -> Draft:
    """Return a copy of the newest version with some secrets set (text) or taken away (None)."""
    assert origin.previous is not None, "there is a version to copy"
    found = {binding.name: binding for binding in origin.previous.bindings}
    for name, text in changes.items():
        check_name(name)
        before = found.get(name)
        if before is not None and before.type != "secret_text":
            raise Refusal(
                10053,
                f"Binding name {name!r} is already in use by a binding of type {before.type}.",
                remedy="Choose another name for the secret.",
            )
        if text is None:
            found.pop(name, None)
        else:
            found[name] = origin.secret(name, text)
    return with_bindings(found.values(), origin, message=message)


def with_bindings(bindings: Collection[Binding], origin: Origin, *, message: Any = None) -> Draft:
    """Return a copy of the newest version with other bindings."""
    assert origin.previous is not None, "there is a version to copy"
    if len(bindings) > origin.limits.bindings_max:
        raise invalid(f"A version has at most {origin.limits.bindings_max} bindings.")
    version = msgspec.structs.replace(
        origin.previous,
        id="",
        number=0,
        created_on="",
        bindings=tuple(sorted(bindings, key=lambda binding: binding.name)),
        annotations=annotations(message, "secret"),
    )
    copied = msgspec.structs.replace(version, etag=etag(version))
    return Draft(version=copied, blobs={}, settings={})


def with_runtime(draft: Draft, document: Mapping[str, Any], platform: Limits) -> Draft:
    """Return a draft with those runtime and worker settings changed that a document names."""
    version = draft.version
    before = {**runtime_view(version), "placement": version.placement}
    named = {key: document[key] for key in before if document.get(key) is not None}
    changed = msgspec.structs.replace(version, **runtime({**before, **named}, platform))
    return replace(
        draft,
        version=msgspec.structs.replace(changed, etag=etag(changed)),
        settings=worker_settings(document),
    )


def read_secret(document: Any) -> tuple[str, str]:
    """Return name and text of one secret, as `PUT secrets` takes it."""
    fields = as_object(document, "the secret")
    name = check_name(fields.get("name"))
    kind = fields.get("type", "secret_text")
    if kind != "secret_text":
        raise invalid(f"Secret {name!r} has type {shown(kind)}; secret_text is offered.")
    return name, as_text(fields.get("text"), f"the text of secret {name!r}")


def read_secrets(document: Any, what: str) -> dict[str, str | None]:
    """Return the changes in a merge patch `{name: {"text": …} | null}`."""
    changes: dict[str, str | None] = {}
    for name, value in as_object(document, what).items():
        changes[name] = None if value is None else read_secret({"name": name, **_named(value)})[1]
    return changes


def _named(value: Any) -> dict[str, Any]:
    return {k: v for k, v in as_object(value, "a secret").items() if k != "name"}


@dataclass(frozen=True)
class Wanted:
    """A deployment that was asked for and found possible."""

    splits: tuple[Split, ...]
    annotations: dict[str, str]


def read_deployment(
    document: Any,
    versions: Mapping[str, Version],
    current: Deployment | None,
    *,
    worker: str,
    force: bool,
) -> Wanted:
    """Check what `POST deployments` asks for against the versions there are."""
    fields = as_object(document, "the deployment")
    strategy = fields.get("strategy", "percentage")
    if strategy != "percentage":
        raise invalid(f"Deployment strategy {shown(strategy)} is not known; use percentage.")
    entries = as_list(fields.get("versions"), "versions")
    splits = tuple(_split(entry) for entry in entries)
    _check_splits(splits)
    for split in splits:
        if split.version_id not in versions:
            raise version_absent(split.version_id, worker)
    rollback = _is_older(splits, versions, current)
    if rollback and not force:
        _refuse_changed_secrets(splits, versions, current)
    triggered_by = "rollback" if rollback else "promotion"
    return Wanted(splits, annotations(fields.get("annotations"), triggered_by))


def _split(entry: Any) -> Split:
    fields = as_object(entry, "an entry of versions")
    return Split(
        version_id=as_text(fields.get("version_id"), "version_id"),
        percentage=as_number(fields.get("percentage"), "percentage"),
    )


def _check_splits(splits: Sequence[Split]) -> None:
    if not 1 <= len(splits) <= SPLITS_MAX:
        raise invalid(f"A deployment has one or two versions, not {len(splits)}.")
    if len({split.version_id for split in splits}) != len(splits):
        raise invalid("A deployment names each of its versions once.")
    if any(not 0 <= split.percentage <= 100 for split in splits):
        raise invalid("The percentages of a deployment lie between 0 and 100.")
    total = sum(split.percentage for split in splits)
    if abs(total - 100) > SUM_TOLERANCE:
        raise invalid(f"The percentages of a deployment add up to {total:g}, not to 100.")


def _is_older(
    splits: Sequence[Split], versions: Mapping[str, Version], current: Deployment | None
) -> bool:
    """Tell whether one version from before all that serve now is to serve alone."""
    if current is None or len(splits) != 1:
        return False
    now = [versions[s.version_id].number for s in current.versions if s.version_id in versions]
    return bool(now) and versions[splits[0].version_id].number < min(now)


def _refuse_changed_secrets(
    splits: Sequence[Split], versions: Mapping[str, Version], current: Deployment | None
) -> None:
    """A rollback brings old secrets back; wrangler asks the person when it hears this code."""
    assert current is not None
    newest = max(
        (versions[s.version_id] for s in current.versions if s.version_id in versions),
        key=lambda version: version.number,
    )
    before, after = secrets_of(newest), secrets_of(versions[splits[0].version_id])
    changed = sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))
    if changed:
        raise Refusal(
            SECRETS_CHANGED,
            "This version was uploaded with other secrets than those that serve now."
            f" The following secrets have changed: {', '.join(changed)}",
        )


def secrets_of(version: Version) -> dict[str, str]:
    """Return what tells a version's secrets from others, by name."""
    return {b.name: mark_of(b.fields) for b in version.bindings if b.type == "secret_text"}


def is_fully_deployed(version: Version, current: Deployment | None) -> bool:
    """Tell whether this version alone serves all of its worker's traffic."""
    return current is not None and any(
        split.version_id == version.id and split.percentage >= 100 - SUM_TOLERANCE
        for split in current.versions
    )


def too_many(
    versions: Sequence[Version],
    deployments: Sequence[Deployment],
    *,
    versions_kept_max: int,
    deployments_kept_max: int,
    held: Collection[str] = (),
) -> list[str]:
    """Return the keys of records to let go, in the order in which that is safe.

    Both lists are newest first. A deployment goes before the versions it names; those in `held`
    are about to be deployed and stay."""
    kept = set(held)
    if deployments:
        kept |= {split.version_id for split in deployments[0].versions}
    spare = [v for v in versions[1:] if v.id not in kept]
    surplus = max(0, len(versions) - versions_kept_max)
    gone_versions = spare[len(spare) - surplus :] if surplus else []
    gone = {version.id for version in gone_versions}
    gone_deployments = [
        deployment
        for place, deployment in enumerate(deployments)
        if place > 0
        and (
            place >= deployments_kept_max
            or any(split.version_id in gone for split in deployment.versions)
        )
    ]
    ordered = [*reversed(gone_deployments), *reversed(gone_versions)]
    return [record.key() for record in ordered]


def version_view(version: Version) -> dict[str, Any]:
    """Return a version as every endpoint shows it."""
    script: dict[str, Any] = {
        "etag": version.etag,
        "handlers": list(version.handlers),
        "last_deployed_from": version.source,
    }
    if version.named_handlers:
        script["named_handlers"] = [
            {"name": name, "handlers": []} for name in version.named_handlers
        ]
    if version.placement.get("mode"):
        script["placement_mode"] = version.placement["mode"]
    return {
        "id": version.id,
        "number": version.number,
        "startup_time_ms": version.startup_time_ms,
        "metadata": {
            "created_on": version.created_on,
            "modified_on": version.created_on,
            "source": version.source,
            "author_id": "",
            "author_email": version.author_email,
            "has_preview": False,
        },
        "annotations": version.annotations,
        "resources": {
            "bindings": [public(binding) for binding in version.bindings],
            "script": script,
            "script_runtime": runtime_view(version),
        },
    }


def runtime_view(version: Version) -> dict[str, Any]:
    """Return how a version's code runs."""
    return {
        "compatibility_date": version.compatibility_date,
        "compatibility_flags": list(version.compatibility_flags),
        "usage_model": version.usage_model,
        "limits": version.limits,
    }


def deployment_view(deployment: Deployment) -> dict[str, Any]:
    """Return a deployment as every endpoint shows it."""
    return {
        "id": deployment.id,
        "source": deployment.source,
        "strategy": deployment.strategy,
        "author_email": deployment.author_email,
        "created_on": deployment.created_on,
        "annotations": deployment.annotations,
        "versions": [
            {"version_id": split.version_id, "percentage": split.percentage}
            for split in deployment.versions
        ],
    }
