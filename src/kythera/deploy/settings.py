"""The settings beside the code: of a version (runtime, annotations, assets) and of its worker.

Pure. Settings whose effect this platform does not have yet, and whose absence would change what
a program does, are refused in words; the harmless ones are kept for whoever reads them.
"""

import datetime
import re
from collections.abc import Mapping
from typing import Any

from kythera.deploy.documents import (
    as_amount,
    as_flag,
    as_list,
    as_object,
    as_text,
    as_texts,
    shown,
)
from kythera.deploy.refusals import invalid
from kythera.model.limits import Limits

FLAG = re.compile(r"[a-z0-9_]{1,128}")
FLAGS_MAX = 100
CPU_MS_MIN = 10
ANNOTATIONS = ("workers/message", "workers/tag", "workers/alias")
ANNOTATION_CHARACTERS_MAX = 1000
TAGS_MAX = 100
TAG_CHARACTERS_MAX = 1000
HTML_HANDLING = (
    "auto-trailing-slash",
    "force-trailing-slash",
    "drop-trailing-slash",
    "none",
)
NOT_FOUND_HANDLING = ("none", "404-page", "single-page-application")
ASSETS_TEXT_CHARACTERS_MAX = 256 * 1024
WORKER_FIRST_RULES_MAX = 100
DEFAULT_DATE = "2026-01-01"


def refuse_not_offered(metadata: Mapping[str, Any]) -> None:
    """Refuse an upload that relies on what does not exist here yet."""
    for key, called in (
        ("containers", "containers"),
        ("tail_consumers", "tail workers"),
        ("streaming_tail_consumers", "streaming tail workers"),
    ):
        if metadata.get(key):
            raise _not_offered(f"{called} ({key})")


def _not_offered(what: str) -> Exception:
    return invalid(
        f"This platform does not offer {what} yet.",
        remedy="Remove it from the configuration and deploy again.",
    )


def runtime(metadata: Mapping[str, Any], platform: Limits) -> dict[str, Any]:
    """Return the fields of a version that say how its code runs."""
    flags = as_texts(metadata.get("compatibility_flags") or [], "metadata.compatibility_flags")
    if len(flags) > FLAGS_MAX:
        raise invalid(f"A version has at most {FLAGS_MAX} compatibility flags.")
    for flag in flags:
        if FLAG.fullmatch(flag) is None:
            raise invalid(f"{shown(flag)} cannot be a compatibility flag.")
    return {
        "compatibility_date": _date(metadata.get("compatibility_date") or DEFAULT_DATE),
        "compatibility_flags": tuple(dict.fromkeys(flags)),
        "usage_model": as_text(metadata.get("usage_model") or "standard", "metadata.usage_model"),
        "limits": _limits(metadata.get("limits") or {}, platform),
        "placement": as_object(metadata.get("placement") or {}, "metadata.placement"),
    }


def _limits(value: Any, platform: Limits) -> dict[str, Any]:
    """Check what a worker asks to be limited to; what this platform does not know is kept."""
    limits = as_object(value, "metadata.limits")
    if "cpu_ms" in limits:
        most = platform.cpu_ms_max
        as_amount(limits["cpu_ms"], "limits.cpu_ms (milliseconds)", least=CPU_MS_MIN, most=most)
    if "subrequests" in limits:
        as_amount(limits["subrequests"], "limits.subrequests", most=platform.subrequests_max)
    return limits


def _date(value: Any) -> str:
    text = as_text(value, "metadata.compatibility_date")
    try:
        if len(text) != len("2026-01-01"):
            raise ValueError(text)
        return datetime.date.fromisoformat(text).isoformat()
    except ValueError:
        raise invalid(
            f"compatibility_date {shown(text)} is not a date.", remedy="Write it as 2026-01-01."
        ) from None


def annotations(value: Any, triggered_by: str) -> dict[str, str]:
    """Return a version's or deployment's annotations, with what caused it."""
    found: dict[str, str] = {}
    for key, text in as_object(value or {}, "annotations").items():
        if key in ANNOTATIONS and text is not None:
            found[key] = as_text(text, f"annotation {key}")
            if len(found[key]) > ANNOTATION_CHARACTERS_MAX:
                raise invalid(
                    f"Annotation {key} is longer than {ANNOTATION_CHARACTERS_MAX} characters."
                )
    return {**found, "workers/triggered_by": triggered_by}


def worker_settings(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a worker's record that a document sets (those it names, only)."""
    found: dict[str, Any] = {}
    if document.get("tail_consumers") or document.get("streaming_tail_consumers"):
        raise _not_offered("tail workers (tail_consumers)")
    if document.get("logpush") is not None:
        found["logpush"] = as_flag(document["logpush"], "logpush")
    if document.get("observability") is not None:
        found["observability"] = as_object(document["observability"], "observability")
    if document.get("tags") is not None:
        found["tags"] = _tags(document["tags"])
    migrations = document.get("migrations")
    if isinstance(migrations, dict) and migrations.get("new_tag") is not None:
        found["migration_tag"] = as_text(migrations["new_tag"], "migrations.new_tag")
    return found


def _tags(value: Any) -> tuple[str, ...]:
    tags = as_texts(value, "tags")
    if len(tags) > TAGS_MAX or any(len(tag) > TAG_CHARACTERS_MAX for tag in tags):
        raise invalid(f"A worker has at most {TAGS_MAX} tags of {TAG_CHARACTERS_MAX} characters.")
    return tuple(tags)


def assets_config(value: Any) -> dict[str, Any]:
    """Return the configuration of static assets, each key checked."""
    config = as_object(value or {}, "metadata.assets.config")
    found: dict[str, Any] = {}
    for key, allowed in (
        ("html_handling", HTML_HANDLING),
        ("not_found_handling", NOT_FOUND_HANDLING),
    ):
        if config.get(key) is not None:
            found[key] = _one_of(config[key], f"assets.config.{key}", allowed)
    for key in ("_headers", "_redirects", "base_path"):
        if config.get(key) is not None:
            found[key] = as_text(config[key], f"assets.config.{key}")
            if len(found[key]) > ASSETS_TEXT_CHARACTERS_MAX:
                raise invalid(
                    f"assets.config.{key} is longer than {ASSETS_TEXT_CHARACTERS_MAX:,} characters."
                )
    if config.get("run_worker_first") is not None:
        found["run_worker_first"] = _worker_first(config["run_worker_first"])
    return found


def _one_of(value: Any, what: str, allowed: tuple[str, ...]) -> str:
    text = as_text(value, what)
    if text not in allowed:
        raise invalid(f"{what} is {shown(text)}.", remedy=f"It may be: {', '.join(allowed)}.")
    return text


def _worker_first(value: Any) -> bool | list[str]:
    if isinstance(value, bool):
        return value
    rules = as_texts(
        as_list(value, "assets.config.run_worker_first"), "assets.config.run_worker_first"
    )
    if len(rules) > WORKER_FIRST_RULES_MAX:
        raise invalid(f"run_worker_first has more than {WORKER_FIRST_RULES_MAX} rules.")
    for rule in rules:
        if not rule.removeprefix("!").startswith("/"):
            raise invalid(
                f"run_worker_first: {shown(rule)} does not begin with `/` or `!/`.",
            )
    return rules
