"""The table of what each address needs: complete, honoured by each address, and what a version needs."""

from contextlib import nullcontext
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute

from kythera.control.app import api_routes, guarded
from kythera.control.caller import Caller, Forbidden, calling, refuse
from kythera.control.resources import refuse_taken
from kythera.control.scopes import (
    INCLUDES,
    NEEDS,
    OPEN,
    PLATFORM,
    SCOPES,
    WORKER,
    Need,
    holds,
    need_of,
    needed_for,
)
from kythera.model.objects import OBJECTS, transferred
from kythera.model.records import Binding, Confinement, Module, Resource, Version
from tests.control.tokens import bearer, is_forbidden, token
from tests.control.world import ACCOUNT, World, world_at

pytestmark = pytest.mark.anyio
PLACES = {"account": ACCOUNT, "name": "hello", "rest:path": "x"}


async def nothing(request: Request) -> Response:
    """Answer nothing."""
    return Response()


async def test_each_address_says_what_it_needs_and_nothing_else_is_listed(world: World) -> None:
    """Goal: nobody adds an address and forgets who may use it. Method: walk all that are served."""
    served = set()
    for route in api_routes(world.services):
        if isinstance(route, WebSocketRoute):
            served.add(("GET", route.path))
            continue
        assert isinstance(route, Route)
        served |= {(method, route.path) for method in route.methods or () if method != "HEAD"}
    assert served == {(method, path) for path, methods in NEEDS.items() for method in methods}
    changing = {key for key in served if key[0] != "GET"}
    assert all(need_of(*key).does for key in changing if need_of(*key).reach != OPEN)


@pytest.mark.parametrize(
    "planted",
    [
        Route("/client/v4/new", nothing, methods=["GET"]),
        Route("/client/v4/user", nothing, methods=["DELETE"]),
        WebSocketRoute("/client/v4/socket", nothing),
        WebSocketRoute("/client/v4/user", nothing),
    ],
)
def test_an_address_that_the_table_does_not_know_stops_the_api(
    planted: Route | WebSocketRoute,
) -> None:
    """A checker that cannot fail proves nothing."""
    with pytest.raises(AssertionError, match=r"has no scope|address is its permission"):
        guarded([planted])


def real(path: str) -> str:
    """Return an address with something in each of its places."""
    for place, text in PLACES.items():
        path = path.replace(f"{{{place}}}", text)
    return path.replace("{", "").replace("}", "")


GUARDED = [
    (method, path, need)
    for path, methods in sorted(NEEDS.items())
    for method, need in methods.items()
    if need.reach != OPEN
]


@pytest.mark.parametrize("scope", SCOPES)
async def test_each_address_lets_in_whom_the_table_says_and_nobody_else(
    scope: str, tmp_path: Path
) -> None:
    """Goal: the table is what holds. Method: every address with a token of one scope."""
    async with world_at(tmp_path) as world:
        await world.deploy()
        given_token = bearer(await token(world, scope))
        for method, path, need in GUARDED:
            response = await world.call(method, real(path), headers=given_token)
            allowed = holds([scope], need.scopes)
            if allowed and len(need.scopes) > 1:
                continue  # what it needs is known when it has been read: test_api_tokens.py
            assert is_forbidden(response) != allowed, (method, path, response.text)


async def test_a_token_for_one_worker_is_refused_what_is_not_its_own(world: World) -> None:
    """Goal: nothing of another worker, there or not, and nothing of the platform. Method: every
    address, with all scopes that such a token may have."""
    await world.deploy("other")
    scopes = ("read", "deploy", "secrets")
    mine = bearer(await token(world, *scopes, workers=["mine"]))
    for method, path, need in GUARDED:
        for name in ("other", "absent"):
            address = real(path.replace("{name}", name))
            response = await world.call(method, address, headers=mine)
            closed = need.reach in (WORKER, PLATFORM) or not holds(scopes, need.scopes)
            assert is_forbidden(response) == closed, (method, address, response.text)


def test_deploy_and_secrets_include_read_and_admin_is_everything() -> None:
    """What the documents say."""
    assert INCLUDES["deploy"] == {"deploy", "read"}
    assert INCLUDES["secrets"] == {"secrets", "read"}
    assert INCLUDES["admin"] == set(SCOPES)
    assert not holds(["read"], ["deploy", "secrets", "admin"])
    assert not holds(["nonsense"], SCOPES)


callers = st.builds(
    Caller,
    name=st.just("ci"),
    scopes=st.lists(st.sampled_from(SCOPES), unique=True).map(tuple),
    workers=st.lists(st.sampled_from(["a", "b"]), unique=True).map(tuple),
)
needs = st.builds(
    Need,
    st.lists(st.sampled_from(SCOPES), min_size=1, unique=True).map(tuple),
    st.sampled_from([WORKER, PLATFORM]),
)


def passes(caller: Caller, need: Need, worker: str) -> bool:
    """Tell whether a caller is let through."""
    try:
        refuse(caller, need, worker)
    except Forbidden:
        return False
    return True


@given(callers, needs, st.sampled_from(["a", "b", "c"]))
def test_more_is_never_less(caller: Caller, need: Need, worker: str) -> None:
    """A caller with more scopes, or for all workers, may all that one with fewer may."""
    more = msgspec.structs.replace(caller, scopes=SCOPES, workers=())
    assert passes(more, need, worker)
    if passes(caller, need, worker):
        assert passes(msgspec.structs.replace(caller, workers=()), need, worker)
        assert not caller.workers or (worker in caller.workers and need.reach == WORKER)
        assert holds(caller.scopes, need.scopes)


BASE = Version(
    account=ACCOUNT,
    worker="hello",
    id="1",
    number=1,
    created_on="",
    main_module="a.js",
    modules=(Module(name="a.js", type="esm", digest="d", size=1),),
    bindings=(
        Binding(name="S", type="secret_text", fields={"sealed": "x"}),
        Binding(name="V", type="plain_text", fields={"text": "t"}),
    ),
)


def with_binding(name: str, kind: str, **fields: str) -> tuple[Binding, ...]:
    """Return the version's bindings with one set."""
    kept = tuple(binding for binding in BASE.bindings if binding.name != name)
    return (*kept, Binding(name=name, type=kind, fields=fields))


@pytest.mark.parametrize(
    ("changed", "needed"),
    [
        ({}, ("deploy",)),
        ({"number": 2, "annotations": {"a": "b"}, "etag": "e"}, ("deploy",)),
        ({"bindings": with_binding("S", "secret_text", sealed="y")}, ("secrets",)),
        ({"bindings": with_binding("T", "secret_text", sealed="x")}, ("secrets",)),
        ({"bindings": BASE.bindings[1:]}, ("secrets",)),
        ({"bindings": with_binding("V", "plain_text", text="u")}, ("deploy",)),
        ({"bindings": with_binding("S", "plain_text", text="u")}, ("secrets", "deploy")),
        ({"modules": ()}, ("deploy",)),
        ({"limits": {"cpu_ms": 50}}, ("deploy",)),
        ({"confinement": Confinement(memory_mib=64)}, ("deploy",)),
        ({"compatibility_flags": ("x",)}, ("deploy",)),
        ({"placement": {"mode": "smart"}}, ("deploy",)),
        ({"main_module": None, "body_part": "a.js"}, ("deploy",)),
    ],
)
def test_a_version_needs_what_is_new_in_it(
    changed: dict[str, object], needed: tuple[str, ...]
) -> None:
    """Whichever address it comes through: secrets for secrets, deploy for all else."""
    assert needed_for(BASE, msgspec.structs.replace(BASE, **changed), {}) == needed
    assert "deploy" in needed_for(BASE, msgspec.structs.replace(BASE, **changed), {"logpush": True})


def test_a_first_version_needs_deploy_and_secrets_if_it_brings_any() -> None:
    """There is nothing before it."""
    assert needed_for(None, BASE, {}) == ("secrets", "deploy")
    assert needed_for(None, msgspec.structs.replace(BASE, bindings=()), {}) == ("deploy",)


NOT_COMPARED = {
    *("schema", "account", "worker", "id", "number", "created_on", "source", "author_email"),
    *("annotations", "etag", "handlers", "named_handlers", "startup_time_ms"),
}


@pytest.mark.parametrize("name", sorted(set(Version.__struct_fields__) - NOT_COMPARED))
def test_each_setting_of_a_version_counts_as_deploying(name: str) -> None:
    """A field that is added to versions one day must not be changed with `secrets` alone."""
    other = {"bindings": with_binding("V", "plain_text", text="u")}.get(name, "something else")
    changed = msgspec.structs.replace(BASE, **{name: other})
    assert "deploy" in needed_for(BASE, changed, {})


def test_a_token_for_one_worker_takes_no_objects_of_another() -> None:
    """Goal: a transfer changes the giver as well; who may not do that is told which token could."""
    fields = {"script": "giver", "class": "A", "use_sqlite": True, "machine": ""}
    before = Resource(
        account="a", type=OBJECTS, id="0" * 32, name="giver_A", created_on="", fields=fields
    )
    after = transferred(before, "mine", "A")
    for workers, may in ((("mine",), False), (("mine", "giver"), True), ((), True)):
        token = calling.set(Caller(name="t", workers=workers))
        try:
            with nullcontext() if may else pytest.raises(Forbidden, match="not for Worker 'giver'"):
                refuse_taken([before], [after], "mine")
        finally:
            calling.reset(token)
