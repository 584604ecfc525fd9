"""What migrations make of a worker's classes of Durable Objects."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.deploy.bindings import Origin
from kythera.deploy.object_exports import declared
from kythera.deploy.objects import (
    changed,
    live_classes,
    migrated,
    refuse_by_version,
    refuse_not_exported,
)
from kythera.deploy.seal import Sealer
from kythera.deploy.upload import Part, draft, read_upload
from kythera.model.errors import Refusal
from kythera.model.limits import Limits
from kythera.model.objects import is_live, read_class
from kythera.model.records import Resource, Version
from tests.deploy.test_uploads import part

NAMES = ("A", "B", "C")


def origin(*classes: Resource, tag: str | None = None) -> Origin:
    """Return a worker that has these classes."""
    return Origin(
        account="a",
        worker="w",
        seals=Sealer(bytes(32)),
        limits=Limits(),
        classes=classes,
        migration_tag=tag,
        now="2026-11-23T00:00:00.000000Z",
        machine="one",
    )


def applied(*steps: dict[str, Any], old: str | None = None, before: Origin | None = None) -> Any:
    """Return the classes after steps."""
    document: dict[str, Any] = {"new_tag": "next", "steps": list(steps)}
    if old is not None:
        document["old_tag"] = old
    return migrated(document, before or origin())


def refused(code: int, *steps: dict[str, Any], **more: Any) -> str:
    """Return what a refusal of these steps says."""
    with pytest.raises(Refusal) as caught:
        applied(*steps, **more)
    assert caught.value.code == code
    return str(caught.value)


def test_classes_are_made_renamed_and_deleted() -> None:
    """Goal: a rename keeps the id, which the objects are found by; a deleted one stays as a record."""
    made = applied({"new_sqlite_classes": ["A"], "new_classes": ["B"]})
    assert [one.fields["use_sqlite"] for one in made] == [False, True]
    first = live_classes(made, "w")
    moved = applied(
        {"renamed_classes": [{"from": "A", "to": "C"}]},
        {"deleted_classes": ["B"]},
        old="t",
        before=origin(*made, tag="t"),
    )
    assert live_classes(moved, "w") == {"C": first["A"]}
    assert [is_live(one) for one in moved] == [False, True]
    assert {one.name for one in changed(made, moved)} == {"w_C", "w_B"}


def test_a_class_made_again_is_another_one() -> None:
    """Goal: who deletes a class never meets its data again."""
    made = applied({"new_classes": ["A"]}, {"deleted_classes": ["A"]}, {"new_classes": ["A"]})
    assert len({one.id for one in made}) == 2
    assert live_classes(made, "w") == {"A": made[1].id}


def test_the_chain_of_tags_is_held() -> None:
    """Goal: migrations that another checkout has applied are not applied again."""
    said = refused(10079, {"new_classes": ["A"]}, before=origin(tag="v1"))
    assert "got tag '' when expected tag is 'v1'" in said
    assert "'v2'" in refused(10079, {"new_classes": ["A"]}, old="v2")
    assert migrated(None, origin(tag="v1")) == ()


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"new_classes": ["A"]}, "new-class migration to class 'A' that is already"),
        ({"new_sqlite_classes": ["A"]}, "new-sqlite-class migration to class 'A' that is already"),
        ({"deleted_classes": ["X"]}, "delete-class migration to class 'X' which was not"),
        ({"renamed_classes": [{"from": "X", "to": "Y"}]}, "'X' which was not exported"),
        ({"renamed_classes": [{"from": "A", "to": "B"}]}, "'B' that is already depended on"),
    ],
)
def test_steps_that_cannot_be_applied_are_refused(step: dict[str, Any], words: str) -> None:
    """Goal: Cloudflare's code and text, with the class's name."""
    made = applied({"new_classes": ["A", "B"]})
    assert words in refused(10074, step, before=origin(*made))


def test_what_is_not_offered_or_unreadable_is_refused() -> None:
    """Goal: by name, and nothing is dropped."""
    refused(10021, {"transferred_classes": ["A"]})
    refused(10021, {"new_classes": ["no class"]})
    refused(10021, {"new_classes": "A"})
    refused(10021, {"renamed_classes": ["A"]})


def transfer(old: str, script: str, new: str) -> dict[str, Any]:
    """Return a step that takes a class from another worker."""
    return {"transferred_classes": [{"from": old, "from_script": script, "to": new}]}


def given_away(machine: str = "one") -> list[Resource]:
    """Return the class `A` of worker `giver`."""
    giver = replace(origin(), worker="giver", machine=machine)
    return list(applied({"new_sqlite_classes": ["A"]}, before=giver))


def test_a_transferred_class_keeps_its_objects() -> None:
    """Goal: its id, its storage and its machine stay; it is known whose it was; the giver's next class
    of that name is another one."""
    before = given_away()
    moved = applied(transfer("A", "giver", "B"), before=origin(*before))
    assert live_classes(moved, "w") == {"B": before[0].id}
    assert live_classes(moved, "giver") == {}
    assert read_class(moved[0]).came_from == ("giver",)
    assert moved[0].fields["use_sqlite"]
    giver = replace(origin(*moved), worker="giver")
    again = applied({"new_sqlite_classes": ["A"]}, before=giver)
    assert len({one.id for one in again}) == 2
    back = applied(transfer("B", "w", "C"), before=giver)
    assert read_class(back[0]).came_from == ("w",)


def test_a_class_that_cannot_be_taken_is_refused() -> None:
    """Goal: one that is not there, one's own, a name that is taken, and what lives elsewhere."""
    classes = (*given_away(), *applied({"new_classes": ["C"]}))
    before = origin(*classes)
    assert "class 'X' of script 'giver'" in refused(
        10074, transfer("X", "giver", "X"), before=before
    )
    assert "already depended on" in refused(10074, transfer("A", "giver", "C"), before=before)
    assert "renamed_classes" in refused(10021, transfer("C", "w", "D"), before=before)
    apart = origin(*given_away("two"), *applied({"new_classes": ["C"]}))
    assert "machine 'two'" in refused(10021, transfer("A", "giver", "A"), before=apart)


steps = st.one_of(
    st.sampled_from(NAMES).map(lambda name: {"new_sqlite_classes": [name]}),
    st.sampled_from(NAMES).map(lambda name: {"deleted_classes": [name]}),
    st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)).map(
        lambda names: {"renamed_classes": [{"from": names[0], "to": names[1]}]}
    ),
)


@given(st.lists(steps, max_size=12))
def test_any_chain_keeps_its_word(chain: list[dict[str, Any]]) -> None:
    """Goal: whatever is applied or refused, names and ids are unique, and no record is ever lost."""
    classes: tuple[Resource, ...] = ()
    for step in chain:
        try:
            after = applied(step, before=origin(*classes))
        except Refusal:
            continue
        assert {one.id for one in classes} <= {one.id for one in after}
        classes = after
        assert len({one.id for one in classes}) == len(classes)
        assert len(live_classes(classes, "w")) == sum(map(is_live, classes))


def drafted(**metadata: Any) -> Version:
    """Return the version of an upload with these metadata."""
    document = msgspec.json.encode({"main_module": "a.js", **metadata})
    form = [Part("metadata", None, "", document), part("a.js", b"export class A {}")]
    upload = read_upload(form, metadata_bytes_max=10_000)
    return draft(upload, origin(), lambda token: token).version


def test_a_binding_needs_a_migration() -> None:
    """Goal: a class that is bound without one is refused by name (10061)."""
    bound = {"type": "durable_object_namespace", "name": "NS", "class_name": "A"}
    with pytest.raises(Refusal, match="'A' because it is not currently configured") as caught:
        drafted(bindings=[bound])
    assert caught.value.code == 10061
    migrations = {"new_tag": "v1", "steps": [{"new_sqlite_classes": ["A"]}]}
    version = drafted(bindings=[bound], migrations=migrations)
    assert version.bindings[0].fields["namespace_id"] == version.objects["A"]
    with pytest.raises(Refusal, match="of Worker 'other'"):
        drafted(bindings=[{**bound, "script_name": "other"}], migrations=migrations)


def test_code_must_export_its_classes() -> None:
    """Goal: an upload that lacks a class whose objects exist is refused (10064)."""
    migrations = {"new_tag": "v1", "steps": [{"new_sqlite_classes": ["A"]}]}
    version = drafted(migrations=migrations)
    refuse_not_exported(msgspec.structs.replace(version, named_handlers=("A",)))
    with pytest.raises(Refusal, match="does not export class 'A'") as caught:
        refuse_not_exported(version)
    assert caught.value.code == 10064


def test_a_version_alone_brings_no_migrations() -> None:
    """Goal: as at Cloudflare (10211); a tag without steps is no migration."""
    refuse_by_version({"migrations": {"old_tag": "v1", "new_tag": "v1", "steps": []}})
    with pytest.raises(Refusal) as caught:
        refuse_by_version({"migrations": {"new_tag": "v1", "steps": [{"new_classes": ["A"]}]}})
    assert caught.value.code == 10211


def declare(before: Origin, **entries: dict[str, Any]) -> tuple[Resource, ...]:
    """Return the classes after an upload with these `exports`."""
    exports = {name: {"type": "durable-object", **entry} for name, entry in entries.items()}
    return declared({"exports": exports}, before)


def test_exports_declare_what_there_is() -> None:
    """Goal: what is new is made, what is there stays, a rename and a deletion happen once."""
    made = declare(origin(), A={"storage": "sqlite"}, B={"storage": "legacy-kv"})
    ids = live_classes(made, "w")
    assert declare(origin(*made), A={"storage": "sqlite"}, B={"storage": "legacy-kv"}) == made
    moving: dict[str, dict[str, Any]] = {
        "A": {"state": "renamed", "renamed_to": "C"},
        "B": {"state": "deleted"},
        "C": {"storage": "sqlite"},
    }
    moved = declare(origin(*made), **moving)
    assert live_classes(moved, "w") == {"C": ids["A"]}
    assert declare(origin(*moved), **moving) == moved


@pytest.mark.parametrize(
    ("code", "entries"),
    [
        (100402, {"B": {"storage": "sqlite"}}),
        (100402, {"A": {"storage": "legacy-kv"}}),
        (10021, {"A": {"storage": "paper"}}),
        (10021, {"A": {"storage": "sqlite", "container": "x"}}),
        (10021, {"A": {"state": "transferred", "transferred_to": "x"}}),
        (10021, {"A": {"type": "workflow"}}),
    ],
)
def test_exports_that_would_lose_something_are_refused(
    code: int, entries: dict[str, dict[str, Any]]
) -> None:
    """Goal: a class that is left out keeps its objects; what is not offered is named."""
    made = declare(origin(), A={"storage": "sqlite"})
    with pytest.raises(Refusal) as caught:
        declare(origin(*made), **entries)
    assert caught.value.code == code
