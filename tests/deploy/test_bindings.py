"""Which bindings a version gets, from what it asks for and what came before."""

from typing import Any

import pytest

from kythera.deploy.bindings import NOT_OFFERED_YET, OFFERED, Origin, public, resolve
from kythera.deploy.bindings_absent import INSTEAD
from kythera.deploy.seal import Sealer
from kythera.model.errors import Refusal
from kythera.model.limits import Limits
from kythera.model.records import Binding, Version

SEALER = Sealer(bytes(32))
LIMITS = Limits(bindings_max=4, binding_text_bytes_max=100, secret_bytes_max=50)


def origin(*before: Binding) -> Origin:
    """Return the place of a worker whose newest version had these bindings."""
    previous = Version(
        account="a", worker="w", id="v", number=1, created_on="", bindings=tuple(before)
    )
    return Origin(account="a", worker="w", seals=SEALER, limits=LIMITS, previous=previous)


def resolved(wanted: Any, keep: Any = None, *before: Binding, **flags: bool) -> dict[str, Any]:
    """Return the bindings' types and fields by name; secrets opened."""
    options = {"has_assets": False, "service_worker": False, **flags}
    found = resolve(wanted, keep, origin(*before), **options)
    return {b.name: opened(b) for b in found}


def opened(binding: Binding) -> Any:
    """Return what a binding holds."""
    if binding.type == "secret_text":
        return SEALER.open(binding.fields["sealed"], f"a/w/{binding.name}")
    return (binding.type, *binding.fields.values())


def secret(name: str, text: str) -> Binding:
    """Return a sealed secret."""
    return origin().secret(name, text)


PLAIN = Binding(name="P", type="plain_text", fields={"text": "p"})


def test_what_is_offered_is_bound_with_its_own_fields() -> None:
    """One of each kind."""
    assert resolved(
        [
            {"name": "T", "type": "plain_text", "text": "t", "ignored": 1},
            {"name": "J", "type": "json", "json": None},
            {"name": "V", "type": "version_metadata"},
            {"name": "A", "type": "assets"},
        ],
        has_assets=True,
    ) == {
        "T": ("plain_text", "t"),
        "J": ("json", None),
        "V": ("version_metadata",),
        "A": ("assets",),
    }


def test_a_sealed_secret_holds_nothing_of_its_text() -> None:
    """Neither in the record nor in what the API shows."""
    bound = secret("S", "hush-hush")
    assert "hush" not in str(bound)
    assert public(bound) == {"name": "S", "type": "secret_text"}
    assert public(PLAIN) == {"name": "P", "type": "plain_text", "text": "p"}


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (None, {"S"}),
        ([], set()),
        (["secret_text", "secret_key"], {"S"}),
        (["plain_text"], {"P"}),
        (["plain_text", "json", "secret_text"], {"S", "P"}),
    ],
)
def test_what_is_kept_without_being_named(keep: Any, expected: set[str]) -> None:
    """Nothing said: secrets. Otherwise what is said, exactly."""
    assert set(resolved([], keep, secret("S", "s"), PLAIN)) == expected


def test_what_is_named_wins_over_what_is_kept() -> None:
    """A variable may take a secret's place."""
    wanted = [{"name": "S", "type": "plain_text", "text": "open"}]
    assert resolved(wanted, None, secret("S", "s")) == {"S": ("plain_text", "open")}


def test_inherit_copies_anything_under_any_name() -> None:
    """Secrets are sealed anew for their new name."""
    wanted = [
        {"name": "P", "type": "inherit"},
        {"name": "N", "type": "inherit", "old_name": "S"},
    ]
    assert resolved(wanted, [], secret("S", "s"), PLAIN) == {"P": ("plain_text", "p"), "N": "s"}


@pytest.mark.parametrize("kind", [*(NOT_OFFERED_YET.keys() - INSTEAD.keys()), "time_machine"])
def test_what_is_not_offered_is_refused_with_what_is(kind: str) -> None:
    """By name and in words."""
    with pytest.raises(Refusal) as refusal:
        resolved([{"name": "X", "type": kind}])
    assert "'X'" in str(refusal.value)
    assert all(offered in str(refusal.value) for offered in OFFERED)


@pytest.mark.parametrize("kind", sorted(INSTEAD))
def test_what_cannot_be_had_is_refused_with_what_to_use_instead(kind: str) -> None:
    """A sentence for each, in place of a list of what it is not."""
    with pytest.raises(Refusal) as refusal:
        resolved([{"name": "X", "type": kind}])
    assert "'X'" in str(refusal.value)
    assert INSTEAD[kind] in str(refusal.value)


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ({}, "must be an array"),
        ([1], "must be an object"),
        ([{"type": "plain_text", "text": ""}], "name must be a string"),
        ([{"name": "a-b", "type": "plain_text", "text": ""}], "cannot be a binding's name"),
        ([{"name": "A", "type": "nonsense"}], "'nonsense'"),
        ([{"name": "A", "type": 1}], "type of binding 'A'"),
        ([{"name": "A", "type": "plain_text"}], "text of binding 'A'"),
        ([{"name": "A", "type": "json"}], "no field `json`"),
        ([{"name": "A", "type": "plain_text", "text": "x" * 101}], "larger than"),
        ([{"name": "A", "type": "json", "json": ["x" * 101]}], "larger than"),
        ([{"name": "A", "type": "secret_text", "text": "é" * 26}], "larger than"),
        ([{"name": "A", "type": "assets"}], "no assets"),
        ([{"name": "A", "type": "wasm_module", "part": "x"}], "service-worker"),
        ([{"name": "A", "type": "version_metadata"}] * 2, "used twice"),
        ([{"name": f"A{n}", "type": "version_metadata"} for n in range(5)], "at most 4"),
    ],
)
def test_bindings_that_make_no_sense_are_refused_in_words(wanted: Any, text: str) -> None:
    """The message names the binding."""
    with pytest.raises(Refusal, match=text):
        resolved(wanted)
