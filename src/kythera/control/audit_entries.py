"""What an audit record says of a change: its object, and what of it was before and is after.

Pure: a caller, changes, the records as they were. Promises: names and settings, never a secret's
text, a sealed one, or a digest of a token; of a version, which it is and what is new in it; what is
too long is said to be, and cut.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from kythera.control.caller import Caller
from kythera.deploy.bindings_mapped import shown_type
from kythera.deploy.versions import secrets_of
from kythera.model.catalog import Catalog
from kythera.model.records import (
    ApiToken,
    Audit,
    Confinement,
    Core,
    Deployment,
    Domains,
    Machine,
    Record,
    Resource,
    Routes,
    Schedules,
    Token,
    Version,
    Worker,
)

TEXT_MAX = 200
ITEMS_MAX = 50
BOOKKEEPING: Mapping[type[Record], tuple[str, ...]] = {
    Worker: (
        *("account", "name", "tag", "created_on", "modified_on"),
        *("versions_made", "deployments_made", "held", "let_go"),
    ),
    Machine: ("name", "token"),
    Core: (),
    Token: ("id", "secret_digest", "used_key", "created_on"),
    ApiToken: ("id", "name", "digest", "created_on", "created_by"),
}
"""Kinds whose fields are settings, and which of these are not."""

Facts = dict[str, Any]


Written = tuple[str, Record | None]
"""A record's key and what is written there; None: it is ended."""


class Entry(Struct, frozen=True, kw_only=True):
    """An audit record that has no number yet."""

    caller: Caller
    at: str
    about: str
    before: Facts
    after: Facts
    note: str = ""

    def numbered(self, machine: str, number: int, kept_max: int) -> Audit:
        """Return the record with its number, in the place that is its turn."""
        caller = self.caller
        return Audit(
            machine=machine,
            place=number % kept_max,
            number=number,
            at=self.at,
            who=caller.name,
            token=caller.token,
            client=caller.client,
            agent=caller.agent,
            what=caller.does,
            about=self.about,
            worker=caller.worker,
            before=self.before,
            after=self.after,
            note=self.note,
        )


def entry_of(
    caller: Caller, changes: Sequence[Written], catalog: Catalog, at: str, bytes_max: int
) -> Entry:
    """Return what is to be said of these changes."""
    before: Facts = {}
    after: Facts = {}
    for key, record in changes:
        was = catalog.records.get(key)
        old, new = differences(was, record, catalog)
        label = _label(record or was, caller.worker)
        _merge(before, old, label)
        _merge(after, new, label)
    return Entry(
        caller=caller,
        at=at,
        about=_about(caller, changes, catalog),
        before=_bounded(before, bytes_max // 2),
        after=_bounded(after, bytes_max // 2),
    )


def _about(caller: Caller, changes: Sequence[Written], catalog: Catalog) -> str:
    if caller.worker:
        return f"worker {caller.worker}"
    for key, record in changes:
        match record or catalog.records.get(key):
            case Machine(name=name):
                return f"machine {name}"
            case ApiToken(name=name):
                return f"API token {name}"
            case Token(id=token_id):
                return f"join token {token_id}"
            case Core():
                return "the log"
            case Resource(type=kind, name=name):
                return f"{kind.replace('_', ' ')} {name}"
    return ", ".join(key.partition(".")[0] for key, _ in changes)


def _label(record: Record | None, worker: str) -> str:
    """Return what is put before the facts of another worker than the one that is spoken of."""
    named = record.worker if isinstance(record, Routes | Domains) else worker
    return "" if named == worker else f"{named}: "


def _merge(into: Facts, facts: Facts, label: str) -> None:
    for key, fact in facts.items():
        name = label + key
        if name in into and isinstance(fact, list) and isinstance(into[name], list):
            into[name] = [*into[name], *fact]
        else:
            into[name] = fact


def differences(was: Record | None, record: Record | None, catalog: Catalog) -> tuple[Facts, Facts]:
    """Return what one record said before and says after, where that is not the same."""
    if isinstance(record, Version):
        return _new_version(record, catalog)
    if isinstance(record, Deployment):
        deployed = catalog.deployed(record.account, record.worker)
        return ({} if deployed is None else _facts(deployed)), _facts(record)
    before = {} if was is None else _facts(was)
    after = {} if record is None else _facts(record)
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return (
        {key: before[key] for key in keys if key in before},
        {key: after[key] for key in keys if key in after and after[key] not in ("", [], {}, None)},
    )


def _facts(record: Record) -> Facts:
    match record:
        case Version():
            return {"versions": [record.id]}
        case Deployment():
            return {"serves": {split.version_id: split.percentage for split in record.versions}}
        case Routes():
            return {"routes": [route.pattern for route in record.routes]}
        case Domains():
            return {"domains": list(record.hostnames)}
        case Schedules():
            return {"crons": [schedule.cron for schedule in record.schedules]}
        case Resource(type="secrets_store_secret"):
            return {"secret of a store": record.name}
        case Resource(type="hyperdrive", fields=fields):
            return {"database": f"{fields['user']}@{fields['host']}:{fields['port']}"}
        case Resource(type="mapped_binding", fields=fields):
            return {"worker": fields["service"], "entrypoint": fields.get("entrypoint", "")}
        case Resource(type="secrets_store"):
            return {"secrets store": record.name}
    hidden = BOOKKEEPING.get(type(record))
    if hidden is None:
        return {}
    shown: Facts = msgspec.to_builtins(record)
    return {key: fact for key, fact in shown.items() if key not in (*hidden, "schema")}


def _new_version(version: Version, catalog: Catalog) -> tuple[Facts, Facts]:
    """Return what is new in a version, compared with the newest one before it."""
    earlier = [v for v in catalog.versions(version.account, version.worker) if v.id != version.id]
    old = _contents(earlier[0]) if earlier else {}
    new = _contents(version)
    changed = [key for key in new if new[key] != old.get(key) and (new[key] or key in old)]
    after: Facts = {"version": version.id, "number": version.number}
    after |= {key: new[key] for key in changed}
    replaced = sorted(_replaced(earlier[0], version)) if earlier else []
    if replaced:
        after["secrets with a new text"] = replaced
    return {key: old[key] for key in changed if key in old}, after


def _contents(version: Version) -> Facts:
    shown: Facts = {
        "code": sorted(f"{module.name} {module.digest[:12]}" for module in version.modules),
        "bindings": sorted(_bindings(version)),
        "secrets": sorted(secrets_of(version)),
        "compatibility": [version.compatibility_date, *version.compatibility_flags],
        "limits": version.limits,
        "confinement": _told(version.confinement),
        "placement": version.placement,
        "assets": "" if version.assets is None else version.assets.manifest[:12],
    }
    return shown


def _told(confinement: Confinement) -> Facts:
    """Return what of it is not as the platform has it."""
    usual: Facts = msgspec.to_builtins(Confinement())
    shown: Facts = msgspec.to_builtins(confinement)
    return {key: fact for key, fact in shown.items() if fact != usual[key]}


def _bindings(version: Version) -> Iterator[str]:
    """Yield the bindings that are no secrets, without what they hold."""
    yield from (f"{b.name} ({shown_type(b)})" for b in version.bindings if b.type != "secret_text")


def _replaced(before: Version, after: Version) -> Iterable[str]:
    old, new = secrets_of(before), secrets_of(after)
    return (name for name in old.keys() & new.keys() if old[name] != new[name])


def _bounded(facts: Facts, bytes_max: int) -> Facts:
    """Cut long texts and lists; when it still is too much, keep the names of what changed."""
    cut = {key: _cut(fact) for key, fact in facts.items()}
    if len(msgspec.json.encode(cut)) <= bytes_max:
        return cut
    names = [str(_cut(key)) for key in list(cut)[:ITEMS_MAX]]
    return {"too long to keep": names} if len(str(names)) < bytes_max else {"too long to keep": []}


def _cut(fact: Any) -> Any:
    match fact:
        case str():
            return fact if len(fact) <= TEXT_MAX else fact[: TEXT_MAX - 1] + "…"
        case list() | tuple():
            shown = [_cut(each) for each in fact[:ITEMS_MAX]]
            rest = len(fact) - ITEMS_MAX
            return [*shown, f"… and {rest} more"] if rest > 0 else shown
        case dict():
            return {str(_cut(str(k))): _cut(v) for k, v in list(fact.items())[:ITEMS_MAX]}
    return fact
