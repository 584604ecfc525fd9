"""The fleet's machines in the API: listed, drained, labelled, removed.

Promises: removing a machine ends its record (the mesh doors then turn it away) and the token it
joined with, so that it cannot come back by itself; a core machine is never removed, and this one
only when that is said twice.
"""

import re
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kythera.control.bodies import object_body
from kythera.control.envelope import listed, success
from kythera.control.services import Services, services_of
from kythera.control.store import Change, end, put
from kythera.deploy.documents import as_object
from kythera.distribute.admission import is_core
from kythera.model.errors import Refusal
from kythera.model.records import Machine

MACHINE_ABSENT = 10310
BAD_CHANGE = 10311
STATES = ("active", "draining")
LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,62})")
LABEL_TEXT_MAX = 255
LABELS_MAX = 64


def view(services: Services, machine: Machine) -> dict[str, Any]:
    """Return a machine as the API shows it."""
    shown: dict[str, Any] = msgspec.to_builtins(machine)
    for hidden in ("schema", "token"):
        del shown[hidden]
    shown["core"] = is_core(services.store.catalog(), machine.name)
    shown["here"] = machine.name == services.platform.machine
    return shown


def machine_named(services: Services, name: str) -> Machine:
    """Return a machine. Raises Refusal when there is none of that name."""
    found = services.store.catalog().machine(name)
    if found is None:
        raise Refusal(
            MACHINE_ABSENT,
            f"There is no machine {name[:80]!r} in the fleet.",
            status=404,
            remedy="See what there is: kythera machine list",
        )
    return found


async def get_machines(request: Request) -> Response:
    """GET kythera/machines."""
    services = services_of(request)
    machines = services.store.catalog().machines()
    return listed(request, [view(services, machine) for machine in machines])


async def get_machine(request: Request) -> Response:
    """GET kythera/machines/{machine}."""
    services = services_of(request)
    return success(view(services, machine_named(services, request.path_params["machine"])))


async def patch_machine(request: Request) -> Response:
    """PATCH kythera/machines/{machine}: `state` (active, draining) and `labels` (null removes)."""
    services = services_of(request)
    name = request.path_params["machine"]
    limits = services.platform.limits
    document = await object_body(request, limits.json_body_bytes_max)

    async def change() -> Machine:
        before = machine_named(services, name)
        after = changed(before, document)
        if after != before:
            await services.store.write([put(after)])
        return after

    after = await services.store.settled(f"machine.{name}", change)
    return success(view(services, after))


def changed(machine: Machine, document: dict[str, Any]) -> Machine:
    """Return the machine as a PATCH wants it. Pure. Raises Refusal."""
    unknown = sorted(set(document) - {"state", "labels"})
    if unknown:
        raise Refusal(BAD_CHANGE, f"{unknown[0][:80]!r} of a machine cannot be changed.")
    state = document.get("state", machine.state)
    if state not in STATES:
        raise Refusal(BAD_CHANGE, "`state` is active or draining.")
    labels = dict(machine.labels)
    for key, text in as_object(document.get("labels", {}), "`labels`").items():
        if text is None:
            labels.pop(key, None)
        else:
            labels[_label_key(key)] = _label_text(text)
    if len(labels) > LABELS_MAX:
        raise Refusal(BAD_CHANGE, f"A machine has {LABELS_MAX} labels at most.")
    return msgspec.structs.replace(machine, state=state, labels=labels)


def _label_key(key: str) -> str:
    if LABEL.fullmatch(key) is None:
        raise Refusal(BAD_CHANGE, f"{key[:80]!r} cannot be a label: letters, digits and . _ / -")
    return key


def _label_text(text: Any) -> str:
    if not isinstance(text, str) or len(text) > LABEL_TEXT_MAX or not text.isprintable():
        raise Refusal(BAD_CHANGE, f"A label's value is printable text up to {LABEL_TEXT_MAX}.")
    return text


async def delete_machine(request: Request) -> Response:
    """DELETE kythera/machines/{machine}[?force=true]: it is no machine of the fleet any more."""
    services = services_of(request)
    name = request.path_params["machine"]
    force = request.query_params.get("force") == "true"

    async def remove() -> None:
        await services.store.write(removal(services, machine_named(services, name), force=force))

    await services.store.settled(f"machine.{name}", remove)
    services.journal.say("machine_removed", machine=name)
    return success({"name": name})


def removal(services: Services, machine: Machine, *, force: bool) -> list[Change]:
    """Return the changes that remove a machine. Raises Refusal."""
    catalog = services.store.catalog()
    if is_core(catalog, machine.name):
        raise Refusal(
            BAD_CHANGE,
            f"{machine.name!r} is a core machine: it holds the log.",
            status=409,
            remedy="Let others hold it first: kythera machine promote NAME... (or demote it).",
        )
    if machine.name == services.platform.machine and not force:
        raise Refusal(
            BAD_CHANGE,
            f"{machine.name!r} is the machine you are talking to.",
            status=409,
            remedy="Ask another machine of the fleet to remove it, or add --force.",
        )
    token = f"token.{machine.token}"
    return [end(machine.key()), *([end(token)] if token in catalog.records else [])]


def routes(account: str) -> list[Route]:
    """Return the API's endpoints."""
    root = f"{account}/kythera/machines"
    one = f"{root}/{{machine}}"
    return [
        Route(root, get_machines, methods=["GET"]),
        Route(one, get_machine, methods=["GET"]),
        Route(one, patch_machine, methods=["PATCH"]),
        Route(one, delete_machine, methods=["DELETE"]),
    ]
