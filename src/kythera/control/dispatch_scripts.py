"""The workers of a dispatch namespace through the API: as those of the account, at other addresses.

What is done is what is done for any worker, by the same functions, under the name that a worker has
among all of its account (`model/names.py`). What needs a public address (routes, domains,
schedules, subdomains) has no address here. A token for some workers of the account reaches none.
Promises: a worker is made in a namespace that is there alone; one that is not there is 10092,
which newer wranglers take for a first deploy.
"""

from collections.abc import Awaitable, Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kythera.control import secrets, static_files, uploads, workers
from kythera.control.bodies import json_body
from kythera.control.caller import called_by, calling
from kythera.control.dispatch_namespaces import namespace_in, workers_in
from kythera.control.envelope import listed, success
from kythera.control.services import services_of
from kythera.deploy.bindings import public
from kythera.deploy.documents import shown
from kythera.deploy.refusals import invalid
from kythera.deploy.settings import worker_settings
from kythera.model.errors import Refusal
from kythera.model.names import user_worker
from kythera.model.records import Worker

ACCOUNT_LACKS, NAMESPACE_LACKS = 10007, 10092
Endpoint = Callable[[Request], Awaitable[Response]]


def _within(endpoint: Endpoint) -> Endpoint:
    """Return an endpoint of any worker's as one of a namespace's."""

    async def of_script(request: Request) -> Response:
        namespace, script = namespace_in(request), request.path_params["script"]
        name = user_worker(namespace.id, script)
        request.path_params["name"] = name
        caller = calling.get()
        about = None if caller is None else msgspec.structs.replace(caller, worker=name)
        try:
            with called_by(about):
                return await endpoint(request)
        except Refusal as error:
            if error.code != ACCOUNT_LACKS:
                raise
            raise Refusal(
                NAMESPACE_LACKS,
                f"There is no Worker {shown(script)} in dispatch namespace {namespace.name!r}.",
                status=404,
                remedy=f"Deploy it: wrangler deploy --dispatch-namespace {namespace.name}",
            ) from None

    return of_script


async def get_scripts(request: Request) -> Response:
    """GET scripts: all of a namespace, or those with certain tags (`?tags=a:yes,b:no`)."""
    services = services_of(request)
    catalog, found = services.store.catalog(), []
    for worker in _chosen(request):
        versions = catalog.versions(services.account, worker.name)
        if versions:
            found.append(workers.script_view(worker, versions[0]))
    return listed(request, found)


async def delete_scripts(request: Request) -> Response:
    """DELETE scripts?tags=…: those with these tags; never all of them for want of a tag."""
    if not request.query_params.get("tags"):
        raise invalid(
            "`tags` says which Workers are deleted, and is not there.",
            remedy="Write ?tags=customer-1:yes, or delete one Worker by its name.",
        )
    for worker in _chosen(request):
        request.path_params["name"] = worker.name
        await workers.delete(request)
    return success(None)


def _chosen(request: Request) -> list[Worker]:
    """Return the workers that have every tag with `yes` and none with `no`."""
    catalog = services_of(request).store.catalog()
    wanted: dict[str, bool] = {}
    for each in filter(None, request.query_params.get("tags", "").split(",")):
        tag, _, word = each.rpartition(":")
        if word not in ("yes", "no") or not tag:
            raise invalid(
                f"tags: {shown(each)} says neither yes nor no.", remedy="Write it as TAG:yes."
            )
        wanted[tag] = word == "yes"
    return [
        worker
        for worker in workers_in(catalog, namespace_in(request))
        if all((tag in worker.tags) == has for tag, has in wanted.items())
    ]


async def get_script(request: Request) -> Response:
    """GET scripts/{script}."""
    _, worker, versions = workers.worker_of(request)
    return success(
        {
            "script": workers.script_view(worker, versions[0]),
            "dispatch_namespace": request.path_params["namespace"],
            "created_on": worker.created_on,
            "modified_on": worker.modified_on,
        }
    )


async def get_bindings(request: Request) -> Response:
    """GET scripts/{script}/bindings."""
    _, _, versions = workers.worker_of(request)
    return listed(request, [public(binding) for binding in versions[0].bindings])


async def get_tags(request: Request) -> Response:
    """GET scripts/{script}/tags."""
    return listed(request, list(workers.worker_of(request)[1].tags))


async def put_tags(request: Request) -> Response:
    """PUT scripts/{script}/tags: all of them, as a list."""
    limits = services_of(request).platform.limits
    wanted = worker_settings({"tags": await json_body(request, limits.json_body_bytes_max)})
    worker = await workers.rewrite(request, wanted)
    return listed(request, list(worker.tags))


async def put_tag(request: Request) -> Response:
    """PUT scripts/{script}/tags/{tag}."""
    tags = workers.worker_of(request)[1].tags
    more = dict.fromkeys((*tags, request.path_params["tag"]))
    await workers.rewrite(request, worker_settings({"tags": list(more)}))
    return success(None)


async def delete_tag(request: Request) -> Response:
    """DELETE scripts/{script}/tags/{tag}."""
    tags = workers.worker_of(request)[1].tags
    left = tuple(tag for tag in tags if tag != request.path_params["tag"])
    await workers.rewrite(request, {"tags": left})
    return success(None)


def routes(root: str) -> list[Route]:
    """Return the endpoints of a namespace's workers."""
    scripts = f"{root}/{{namespace}}/scripts"
    one = f"{scripts}/{{script}}"
    found: list[tuple[str, str, Endpoint]] = [
        ("GET", one, get_script),
        ("PUT", one, uploads.put_script),
        ("DELETE", one, workers.delete),
        ("GET", f"{one}/content", uploads.content),
        ("PUT", f"{one}/content", uploads.put_content),
        ("GET", f"{one}/settings", workers.settings),
        ("PATCH", f"{one}/settings", secrets.patch_settings),
        ("GET", f"{one}/bindings", get_bindings),
        ("GET", f"{one}/secrets", secrets.secrets),
        ("PUT", f"{one}/secrets", secrets.put_secret),
        ("GET", f"{one}/secrets/{{secret}}", secrets.secret),
        ("DELETE", f"{one}/secrets/{{secret}}", secrets.delete_secret),
        ("PATCH", f"{one}/secrets-bulk", secrets.patch_secrets),
        ("GET", f"{one}/tags", get_tags),
        ("PUT", f"{one}/tags", put_tags),
        ("PUT", f"{one}/tags/{{tag}}", put_tag),
        ("DELETE", f"{one}/tags/{{tag}}", delete_tag),
        ("POST", f"{one}/assets-upload-session", static_files.begin),
    ]
    return [
        Route(scripts, get_scripts, methods=["GET"]),
        Route(scripts, delete_scripts, methods=["DELETE"]),
        *(Route(path, _within(endpoint), methods=[method]) for method, path, endpoint in found),
    ]
