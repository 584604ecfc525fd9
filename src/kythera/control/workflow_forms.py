"""What is asked of Workflows, and what is told of them, in Cloudflare's shapes.

Pure. An error of the engine's is told with Cloudflare's code, and with what to do.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from kythera.deploy.documents import as_text, shown
from kythera.deploy.refusals import invalid
from kythera.ground.clock import iso
from kythera.model.errors import KytheraError, Refusal, StoreUnavailable
from kythera.model.records import Resource, Version

ABSENT, NO_INSTANCE, INSTANCE_THERE, NOT_NOW = 10200, 10400, 10405, 10409
PER_PAGE, PER_PAGE_MAX = 50, 100
PAGE_MAX = 100_000
STATES = (
    *("queued", "running", "paused", "errored", "terminated", "complete"),
    *("waiting", "waitingForPause", "rollingBack"),
)
SHOWN_AS = {"rollingBack": "running"}
"""States of the engine's that wranglers have no word for."""
SAYS: tuple[tuple[str, int, int, str], ...] = (
    (
        "instance.not_found",
        NO_INSTANCE,
        404,
        "See which there are: wrangler workflows instances list",
    ),
    ("instance.already_exists", INSTANCE_THERE, 409, "Choose another id, or leave it out."),
    ("instance.cannot_", NOT_NOW, 409, "See how far it is: wrangler workflows instances describe"),
)

Fields = dict[str, Any]


def refused(status: int, content: bytes) -> KytheraError:
    """Return what an object cell's refusal means."""
    try:
        said = msgspec.json.decode(content, type=dict[str, Any])
    except msgspec.MsgspecError:
        said = {"message": content[:200].decode(errors="replace")}
    message = str(said.get("message", ""))[:500]
    if status != 409:
        return StoreUnavailable(f"The object cell of this Workflow answered {status}: {message}")
    for mark, code, http, remedy in SAYS:
        if mark in message:
            return Refusal(code, message, status=http, remedy=remedy)
    return Refusal(10001, message, status=400)


def view(one: Resource) -> Fields:
    """Return a Workflow as the API shows it."""
    modified = one.fields.get("modified_on", one.created_on)
    settings = one.fields.get("settings", {})
    told: Fields = {
        "id": one.id,
        "name": one.name,
        "script_name": one.fields["script"],
        "class_name": one.fields["class"],
        "created_on": one.created_on,
        "modified_on": modified,
        "triggered_on": modified,
        "instances": {},
    }
    if "steps" in settings:
        told["limits"] = {"steps": settings["steps"]}
    if "retention" in settings:
        kept = settings["retention"].items()
        told["default_retention"] = {f"{which}_retention": value for which, value in kept}
    return told


def versions(one: Resource, known: Iterable[Version]) -> list[Fields]:
    """Return the versions of a worker that a Workflow can run; they come newest first."""
    return [
        {
            "id": version.id,
            "class_name": one.fields["class"],
            "created_on": version.created_on,
            "modified_on": version.created_on,
            "workflow_id": one.id,
        }
        for version in known
        if one.fields["class"] in version.named_handlers
    ]


def read_instance(document: Mapping[str, Any]) -> Fields:
    """Return what a new instance is to be, in the words of a binding's `create`."""
    found: Fields = {}
    called = document.get("instance_id")
    if called is not None:
        found["id"] = as_text(called, "instance_id")
    if document.get("params") is not None:
        found["params"] = document["params"]
    if document.get("instance_retention") is not None:
        kept = document["instance_retention"]
        if not isinstance(kept, dict):
            raise invalid("instance_retention has success_retention, error_retention, or both.")
        names = {"success_retention": "successRetention", "error_retention": "errorRetention"}
        found["retention"] = {names[key]: value for key, value in kept.items() if key in names}
    return found


def read_page(asked: Mapping[str, str]) -> Fields:
    """Return which instances a list shall show. Raises Refusal."""
    size = _number(asked.get("per_page"), "per_page", PER_PAGE, PER_PAGE_MAX)
    page = _number(asked.get("page"), "page", 1, PAGE_MAX)
    found: Fields = {"size": size, "offset": (page - 1) * size}
    if asked.get("direction") == "asc":
        found["oldest"] = True
    if asked.get("status"):
        if asked["status"] not in STATES:
            raise invalid(f"status {shown(asked['status'])} is none of {', '.join(STATES)}.")
        found["status"] = asked["status"]
    for name, key in (("date_start", "since"), ("date_end", "until")):
        if asked.get(name):
            found[key] = _moment(asked[name], name)
    if asked.get("cursor"):
        found |= {"after": _opened(asked["cursor"]), "offset": 0}
    return found


def _number(text: str | None, name: str, usual: int, most: int) -> int:
    if not text:
        return usual
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise invalid(f"{name} is {shown(text)}; it has to be a number from 1 to {most}.")
    return int(text)


def _moment(text: str, name: str) -> int:
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except ValueError:
        raise invalid(f"{name} is {shown(text)}; write such as 2026-01-01T13:00:00Z.") from None


def cursor_after(row: Mapping[str, Any]) -> str:
    """Return where the next page begins."""
    return base64.urlsafe_b64encode(msgspec.json.encode([row["created"], row["id"]])).decode()


def _opened(cursor: str) -> tuple[int, str]:
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(cursor), type=tuple[int, str])
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise invalid("This cursor is none of ours.", remedy="Begin without one.") from None


def row(one: Resource, found: Mapping[str, Any]) -> Fields:
    """Return an instance in a list."""
    return {
        "id": found["id"],
        "status": _state(found["status"]),
        "created_on": _iso(found["created"]),
        "modified_on": _iso(found["modified"]),
        "started_on": _iso(found["started"]),
        "ended_on": _iso(found["ended"]),
        "version_id": found["version"],
        "workflow_version_id": found["version"],
        "workflow_id": one.id,
        "trigger_source": found["source"],
    }


def instance(told: Mapping[str, Any]) -> Fields:
    """Return an instance with its steps."""
    found = {key: value for key, value in told.items() if key not in ("version", "source")}
    steps = list(told["steps"])
    if told["status"] == "terminated":
        steps.append({"type": "termination", "trigger": {"source": "user"}})
    return {
        **found,
        "status": _state(told["status"]),
        "steps": steps,
        "versionId": told["version"],
        "trigger": {"source": told["source"]},
    }


def _state(status: str) -> str:
    return SHOWN_AS.get(status, status)


def _iso(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else iso(milliseconds / 1000)
