"""Migrations: which classes of Durable Objects a worker has, and what an upload makes of them.

Pure. A class is a record with an id of its own (`model.objects`), and migrations change records: a
rename keeps the id and so the objects, a deletion marks it. Steps are applied in their order, all of
them or none; the chain of tags is held (10079), and what cannot be applied is refused by the class's
name with Cloudflare's codes. A class that is transferred keeps its id too, whoever gives it. The other
way to say which classes there are, `exports`, is in `object_exports`.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from kythera.deploy.bindings import Origin
from kythera.deploy.documents import as_list, as_object, as_text, as_texts, shown
from kythera.deploy.refusals import invalid
from kythera.model.errors import Refusal
from kythera.model.names import CLASS_NAME
from kythera.model.objects import OBJECTS, deleted, is_live, of_worker, transferred
from kythera.model.records import Resource, Version

TAG, APPLIED, NOT_EXPORTED, BY_VERSION = 10079, 10074, 10064, 10211
STEPS = ("new_classes", "new_sqlite_classes", "renamed_classes", "deleted_classes")
CLASSES_MAX = 500
"""Cloudflare's figure for the paid plan."""


def migrated(document: Any, origin: Origin) -> tuple[Resource, ...]:
    """Return the account's classes as they are after an upload's migrations.

    Raises Refusal: 10079 for a broken chain of tags, 10074 for a step that cannot be applied."""
    migrations = as_object(document or {}, "metadata.migrations")
    if not migrations:
        return origin.classes
    _check_tag(migrations, origin)
    steps = as_list(migrations.get("steps") or [], "metadata.migrations.steps")
    one = {key: migrations[key] for key in (*STEPS, "transferred_classes") if migrations.get(key)}
    chain = Chain(origin)
    for step in [*steps, *([one] if one else [])]:
        chain.apply(as_object(step, "a step of metadata.migrations"))
    return tuple(chain.classes)


def _check_tag(migrations: Mapping[str, Any], origin: Origin) -> None:
    old = migrations.get("old_tag") or ""
    expected = origin.migration_tag or ""
    if as_text(old, "migrations.old_tag") != expected:
        raise Refusal(
            TAG,
            f"Actor migration tag precondition failed, got tag {old[:128]!r} when expected tag is"
            f" {expected!r}.",
            status=412,
            remedy="Somebody else has deployed migrations of this Worker: fetch theirs, then deploy.",
        )


class Chain:
    """The account's classes, while those of one worker change."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self.classes = list(origin.classes)

    def apply(self, step: Mapping[str, Any]) -> None:
        """Apply one step of a migration. Raises Refusal."""
        for item in as_list(step.get("renamed_classes") or [], "renamed_classes"):
            names = as_object(item, "an entry of renamed_classes")
            self.rename(class_name(names.get("from")), class_name(names.get("to")))
        for item in as_list(step.get("transferred_classes") or [], "transferred_classes"):
            given = as_object(item, "an entry of transferred_classes")
            script = as_text(given.get("from_script"), "from_script of transferred_classes")
            self.transfer(script, class_name(given.get("from")), class_name(given.get("to")))
        for name in as_texts(step.get("deleted_classes") or [], "deleted_classes"):
            self.remove(class_name(name))
        for key, sqlite in (("new_classes", False), ("new_sqlite_classes", True)):
            for name in as_texts(step.get(key) or [], key):
                self.add(class_name(name), sqlite=sqlite)

    def find(self, name: str, worker: str = "") -> Resource | None:
        """Return a class of that name, unless it was deleted: this worker's, or that one's."""
        mine = of_worker(self.classes, worker or self._origin.worker)
        return next((c for c in mine if is_live(c) and c.fields["class"] == name), None)

    def _named(self, name: str, called: str) -> Resource:
        found = self.find(name)
        if found is None:
            raise Refusal(
                APPLIED,
                f"Cannot apply {called}-class migration to class {name!r} which was not exported in"
                " the previous version of the script.",
                remedy="The Worker has no such class: correct its name in the migration.",
            )
        return found

    def _refuse_taken(self, name: str, called: str) -> None:
        if self.find(name) is not None:
            raise Refusal(
                APPLIED,
                f"Cannot apply {called}-class migration to class {name!r} that is already depended"
                " on by existing Durable Objects.",
                remedy="The class is there: leave it out of the migration.",
            )

    def _put(self, changed: Resource) -> None:
        self.classes = [changed if one.id == changed.id else one for one in self.classes]

    def remove(self, name: str) -> None:
        """Say that a class is gone. Raises Refusal when there is none."""
        self._put(deleted(self._named(name, "delete")))

    def rename(self, old: str, new: str) -> None:
        """Give a class another name. Raises Refusal when there is none, or the name is taken."""
        found = self._named(old, "rename")
        self._refuse_taken(new, "rename")
        fields = {**found.fields, "class": new}
        name = f"{self._origin.worker}_{new}"
        self._put(msgspec.structs.replace(found, name=name, fields=fields))

    def transfer(self, script: str, old: str, new: str) -> None:
        """Take a class from another worker, with its objects. Raises Refusal when there is none, the
        name is taken, or it is where this worker's objects are not."""
        mine = of_worker(self.classes, self._origin.worker)
        if script == self._origin.worker:
            raise invalid(
                f"Class {old!r} cannot be transferred from Worker {script!r} to itself.",
                remedy="Rename it: `renamed_classes`.",
            )
        found = self.find(old, script)
        if found is None:
            raise Refusal(
                APPLIED,
                f"Cannot apply transfer-class migration to class {old!r} of script {script!r}: it has"
                " no such class.",
                remedy="Deploy the Worker that gives it with the class; it must have it still.",
            )
        self._refuse_taken(new, "transfer")
        _refuse_apart(found, mine)
        self._refuse_more(mine)
        self._put(transferred(found, self._origin.worker, new))

    def _refuse_more(self, mine: Sequence[Resource]) -> None:
        if sum(map(is_live, mine)) >= CLASSES_MAX:
            raise invalid(f"A Worker has at most {CLASSES_MAX} classes of Durable Objects.")

    def add(self, name: str, *, sqlite: bool) -> None:
        """Make a class. Raises Refusal when it is there."""
        origin = self._origin
        self._refuse_taken(name, "new-sqlite" if sqlite else "new")
        mine = of_worker(self.classes, origin.worker)
        self._refuse_more(mine)
        first = next(iter([*filter(is_live, mine), *mine]), None)
        number = len(mine)
        # A class that is made again is another one: those that are gone keep their places, and those
        # that were given away their ids.
        while any(one.id == self._id(name, number) for one in self.classes):
            number += 1
        self.classes.append(
            Resource(
                account=origin.account,
                type=OBJECTS,
                id=self._id(name, number),
                name=f"{origin.worker}_{name}",
                created_on=origin.now,
                fields={
                    "script": origin.worker,
                    "class": name,
                    "use_sqlite": sqlite,
                    # All of a worker's objects are where its first class was.
                    "machine": first.fields["machine"] if first else origin.machine,
                },
            )
        )

    def _id(self, name: str, number: int) -> str:
        lineage = f"{self._origin.account}/{self._origin.worker}/{name}/{number}"
        return hashlib.sha256(lineage.encode()).hexdigest()[:32]


def _refuse_apart(found: Resource, mine: Sequence[Resource]) -> None:
    here, there = {one.fields["machine"] for one in mine if is_live(one)}, found.fields["machine"]
    if here and here != {there}:
        raise invalid(
            f"Class {found.fields['class']!r} lives on machine {there!r}, this Worker's objects on"
            f" {min(here)!r}: all objects of a Worker live on one.",
            remedy="Transfer it to a Worker that has no other classes.",
        )


def class_name(value: Any) -> str:
    """Return a class's name, if it can be one. Raises Refusal."""
    name = as_text(value, "a class in metadata.migrations")
    if CLASS_NAME.fullmatch(name) is None:
        raise invalid(f"{shown(name)} cannot be the name of a class.")
    return name


def live_classes(classes: Sequence[Resource], worker: str) -> dict[str, str]:
    """Return a worker's classes by name, each with its id."""
    return {one.fields["class"]: one.id for one in of_worker(classes, worker) if is_live(one)}


def changed(before: Sequence[Resource], after: Sequence[Resource]) -> tuple[Resource, ...]:
    """Return the records that migrations have made or changed."""
    known = {one.id: one for one in before}
    return tuple(one for one in after if known.get(one.id) != one)


def refuse_by_version(metadata: Mapping[str, Any]) -> None:
    """Refuse migrations of a version that serves nobody yet (10211), as Cloudflare does."""
    migrations = as_object(metadata.get("migrations") or {}, "metadata.migrations")
    if any(migrations.get(key) for key in ("steps", *STEPS)) or metadata.get("exports"):
        raise Refusal(
            BY_VERSION,
            "Version upload failed. You attempted to upload a version of a Worker that includes a"
            " Durable Object migration, but migrations must be fully applied by running"
            ' "wrangler deploy".',
        )


def refuse_not_exported(version: Version) -> None:
    """Refuse code that lacks a class whose objects exist (10064); `version` was tried before."""
    for name in sorted(version.objects):
        if name not in version.named_handlers:
            raise Refusal(
                NOT_EXPORTED,
                f"New version of script does not export class {name!r} which is depended on by"
                " existing Durable Objects. If you want to delete them and their data, add a"
                " `deleted_classes` migration.",
            )
