"""Workflows: made by deploys, listed, deleted; their instances made, looked at, steered.

What there is stands in records; instances are in their worker's object cell (`run/js/workflows.js`),
which is asked on its watch's socket. Promises: a name means one Workflow; a deleted one's instances never
run again and are removed. Refuses, with Cloudflare's codes: a Workflow (10200) or an instance (10400)
that is not there, an instance that is there already (10405), what its state does not allow (10409).
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kythera.control import workflow_forms
from kythera.control.bodies import json_body, object_body
from kythera.control.caller import sees
from kythera.control.envelope import listed, success
from kythera.control.objects import home_of_objects
from kythera.control.services import Services, services_of
from kythera.control.store import put
from kythera.control.store_calls import ObjectCell
from kythera.control.workflow_forms import ABSENT, refused
from kythera.deploy.bindings import Origin
from kythera.deploy.bindings_workflows import workflow_name
from kythera.deploy.documents import as_list, as_object, as_text
from kythera.deploy.refusals import invalid, worker_absent
from kythera.deploy.workflows import changed, read_put
from kythera.ground.clock import iso
from kythera.model.errors import Refusal, StoreUnavailable
from kythera.model.limits import MIB
from kythera.model.objects import deleted, is_live, newest
from kythera.model.records import Resource
from kythera.model.workflows import WORKFLOW, read_workflow, workflow_named

TURN = "workflows"
BATCH_BYTES_MAX = 16 * MIB
"""Of a hundred instances: the object cell has it in memory."""
ELSEWHERE, NOT_RUN = 10013, 10064
Fields = dict[str, Any]


def _live(services: Services) -> list[Resource]:
    found = services.store.catalog().resources(services.account, WORKFLOW)
    return [one for one in found if is_live(one) and sees(one.fields["script"])]


def _named(request: Request) -> tuple[Services, Resource]:
    services, wanted = services_of(request), request.path_params["workflow"]
    found = workflow_named(_live(services), wanted)
    if found is None:
        raise Refusal(
            ABSENT,
            f"workflow.not_found: there is no Workflow {wanted[:100]!r}.",
            status=404,
            remedy="See what there is: wrangler workflows list",
        )
    return services, found


# -- Workflows -------------------------------------------------------------------------------------


async def get_workflows(request: Request) -> Response:
    """GET workflows: those of the workers that the caller may know of."""
    services = services_of(request)
    return listed(request, [workflow_forms.view(one) for one in _live(services)])


async def get_workflow(request: Request) -> Response:
    """GET workflows/{name}; how many instances are in which state, where that can be asked here."""
    services, one = _named(request)
    try:
        tally = await _ask(services, one, "tally", {})
    except (Refusal, StoreUnavailable):
        tally = {}
    return success({**workflow_forms.view(one), "instances": tally})


async def put_workflow(request: Request) -> Response:
    """PUT workflows/{name}: `script_name`, `class_name`, and maybe `limits`, `default_retention`."""
    services = services_of(request)
    name = workflow_name(request.path_params["workflow"], "The name")
    limits = services.platform.limits
    document = await object_body(request, limits.json_body_bytes_max)
    script, fields = read_put(document, limits)

    async def write() -> Resource:
        catalog = services.store.catalog()
        if catalog.worker(services.account, script) is None or not sees(script):
            raise worker_absent(script)
        known = catalog.resources(services.account, WORKFLOW)
        origin = Origin(
            account=services.account,
            worker=script,
            seals=services.seals,
            limits=limits,
            now=iso(services.clock.now()),
            machine=home_of_objects(catalog, services.account, script),
        )
        before = workflow_named(known, name)
        after = changed(known, before, name, fields, origin)
        _refuse_no_class(services, after)
        if after != before:
            await services.store.write([put(after)])
        return after

    after = await services.store.settled(TURN, write)
    return success({**workflow_forms.view(after), "version_id": _version(services, after)})


def _refuse_no_class(services: Services, one: Resource) -> None:
    script, name = one.fields["script"], one.fields["class"]
    version = newest(services.store.catalog(), services.account, script)
    if version is not None and name not in version.named_handlers:
        raise Refusal(
            NOT_RUN,
            f"Workflow {one.name!r} needs class {name!r}, which Worker {script!r} does not export.",
            remedy=f"Write `export class {name} extends WorkflowEntrypoint`, and deploy.",
        )


def _version(services: Services, one: Resource) -> str:
    found = newest(services.store.catalog(), services.account, one.fields["script"])
    return "" if found is None else found.id


async def delete_workflow(request: Request) -> Response:
    """DELETE workflows/{name}: its instances end where they are, and are removed."""
    _named(request)

    async def write() -> None:
        services, one = _named(request)
        await services.store.write([put(deleted(one))])

    await services_of(request).store.settled(TURN, write)
    return success({"status": "ok", "success": True})


async def get_versions(request: Request) -> Response:
    """GET workflows/{name}/versions: the worker's versions that have its class, newest first."""
    services, one = _named(request)
    versions = services.store.catalog().versions(services.account, one.fields["script"])
    return listed(request, workflow_forms.versions(one, versions))


# -- instances -------------------------------------------------------------------------------------


async def _ask(services: Services, one: Resource, what: str, asked: Mapping[str, Any]) -> Any:
    """Have a Workflow's object cell do something. Raises Refusal, StoreUnavailable."""
    workflow, me = read_workflow(one), services.platform.machine
    machine = "" if workflow.machine == me else workflow.machine
    if machine and services.store.catalog().machine(machine) is None:
        raise Refusal(
            ELSEWHERE,
            f"The instances of Workflow {one.name!r} are on machine {machine!r}, which is not of this"
            " fleet any more.",
            status=409,
            remedy="Restore that machine from its backup.",
        )
    version = newest(services.store.catalog(), services.account, workflow.worker)
    if version is None or workflow.class_name not in version.named_handlers:
        raise Refusal(
            NOT_RUN,
            f"Workflow {one.name!r} does not run: what is deployed of Worker {workflow.worker!r} has"
            f" no class {workflow.class_name!r}.",
            status=409,
            remedy="Deploy a version that exports it; its instances go on then.",
        )
    within_s = services.platform.limits.workflow_call_ms / 1000
    status, content = await services.stores.ask_object_cell(
        ObjectCell(services.account, workflow.worker, machine),
        f"/workflows/{one.id}/{what}",
        msgspec.json.encode(asked),
        within_s,
    )
    if status == 200:
        return msgspec.json.decode(content)
    raise refused(status, content)


async def _call(services: Services, one: Resource, method: str, *given: Any) -> Any:
    return await _ask(services, one, method, {"given": given})


async def get_instances(request: Request) -> Response:
    """GET workflows/{name}/instances, newest first: by `status`, `date_start`, `date_end`; in pages by
    `page` and `per_page`, or by `cursor`."""
    services, one = _named(request)
    asked = workflow_forms.read_page(request.query_params)
    rows = await _ask(services, one, "list", asked)
    found = [workflow_forms.row(one, each) for each in rows]
    info: Fields = {"count": len(found), "per_page": asked["size"]}
    if len(found) == asked["size"]:
        info["cursor"] = workflow_forms.cursor_after(rows[-1])
    return success(found, info=info)


async def post_instance(request: Request) -> Response:
    """POST workflows/{name}/instances: `instance_id` and `params`, or neither."""
    services, one = _named(request)
    most = services.platform.limits.workflow_payload_bytes_max + MIB
    document = await object_body(request, most)
    made = await _call(services, one, "create", workflow_forms.read_instance(document))
    return success(_made(services, one, made["id"]))


def _made(services: Services, one: Resource, instance: str) -> Fields:
    version = _version(services, one)
    return {"id": instance, "status": "queued", "version_id": version, "workflow_id": one.id}


async def post_instances(request: Request) -> Response:
    """POST workflows/{name}/instances/batch: a hundred at most; those whose id is there are left out."""
    services, one = _named(request)
    asked = as_list(await json_body(request, BATCH_BYTES_MAX), "the instances")
    entries = [workflow_forms.read_instance(as_object(each, "an instance")) for each in asked]
    made = await _call(services, one, "createBatch", entries)
    return success([_made(services, one, each["id"]) for each in made])


async def delete_instances(request: Request) -> Response:
    """POST workflows/{name}/instances/batch/delete: `instances`, a hundred ids at most."""
    services, one = _named(request)
    document = await object_body(request, services.platform.limits.json_body_bytes_max)
    given = {"instances": as_list(document.get("instances"), "instances")}
    return success(await _call(services, one, "deleteBatch", given))


async def get_instance(request: Request) -> Response:
    """GET workflows/{name}/instances/{id}: its state, its steps and their attempts."""
    services, one = _named(request)
    told = await _ask(services, one, "describe", {"id": request.path_params["instance"]})
    return success(workflow_forms.instance(told))


async def delete_instance(request: Request) -> Response:
    """DELETE workflows/{name}/instances/{id}."""
    services, one = _named(request)
    await _call(services, one, "deleteInstance", request.path_params["instance"])
    return success(None)


async def patch_status(request: Request) -> Response:
    """PATCH workflows/{name}/instances/{id}/status: pause, resume, restart, terminate."""
    services, one = _named(request)
    document = await object_body(request, services.platform.limits.json_body_bytes_max)
    asked, instance = as_text(document.get("status"), "status"), request.path_params["instance"]
    if asked not in ("pause", "resume", "restart", "terminate"):
        raise invalid("status: pause, resume, restart or terminate.")
    options: list[Fields] = []
    if asked == "restart" and document.get("from"):
        options = [{"from": as_object(document["from"], "from")}]
    elif asked == "terminate":
        options = [{"rollback": document.get("rollback") is True}]
    await _call(services, one, asked, instance, *options)
    told = await _call(services, one, "status", instance)
    return success({"status": told["status"], "timestamp": iso(services.clock.now())})


async def post_event(request: Request) -> Response:
    """POST workflows/{name}/instances/{id}/events/{type}: the body is its payload."""
    services, one = _named(request)
    payload = await json_body(request, services.platform.limits.workflow_payload_bytes_max + MIB)
    event = {"type": request.path_params["type"], "payload": payload}
    await _call(services, one, "sendEvent", request.path_params["instance"], event)
    return success({})


async def terminate_all(request: Request) -> Response:
    """PUT workflows/{name}/instances/terminate?status=…: has ended when it is answered."""
    services, one = _named(request)
    status = request.query_params.get("status")
    told = await _ask(services, one, "terminateAll", {} if status is None else {"status": status})
    return success({"status": "ok", "instances_terminated": told["ended"]})


def routes(account: str) -> list[Route]:
    """Return the API's endpoints."""
    root = f"{account}/workflows"
    one, instances = f"{root}/{{workflow}}", f"{root}/{{workflow}}/instances"
    instance = f"{instances}/{{instance}}"
    return [
        Route(root, get_workflows, methods=["GET"]),
        Route(one, get_workflow, methods=["GET"]),
        Route(one, put_workflow, methods=["PUT"]),
        Route(one, delete_workflow, methods=["DELETE"]),
        Route(f"{one}/versions", get_versions, methods=["GET"]),
        *(
            Route(path, endpoint, methods=[method])
            for path in (instances, f"{instances}/")
            for method, endpoint in (("GET", get_instances), ("POST", post_instance))
        ),
        Route(f"{instances}/terminate", terminate_all, methods=["PUT"]),
        Route(f"{instances}/batch", post_instances, methods=["POST"]),
        Route(f"{instances}/batch/delete", delete_instances, methods=["POST"]),
        Route(instance, get_instance, methods=["GET"]),
        Route(instance, delete_instance, methods=["DELETE"]),
        Route(f"{instance}/status", patch_status, methods=["PATCH"]),
        Route(f"{instance}/events/{{type}}", post_event, methods=["POST"]),
    ]
