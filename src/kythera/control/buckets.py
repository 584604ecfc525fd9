"""R2's buckets: made, listed, shown, deleted, as wrangler and Terraform ask for them.

A bucket is a record; the engine makes its own when it is first written to. Deleting asks the engine
first, which refuses while anything is in it (10008).
"""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kythera.control import bucket_objects
from kythera.control.bodies import object_body
from kythera.control.envelope import listed, success
from kythera.control.services import Services, services_of
from kythera.control.store import end, put
from kythera.deploy.documents import as_text, shown
from kythera.ground.clock import iso
from kythera.model.errors import Refusal
from kythera.model.names import is_bucket_name
from kythera.model.records import Resource

TYPE = "r2_bucket"
UNBOUND = 10085
STORAGE_CLASSES = ("Standard", "InfrequentAccess")
LOCATION = "HERE"
"""Of every bucket: the machines are the operator's own."""


def bucket_of(request: Request) -> tuple[Services, Resource]:
    """Return the bucket that an address names. Raises Refusal (10006)."""
    services = services_of(request)
    name = request.path_params["bucket"]
    _refuse_jurisdiction(request)
    found = services.store.catalog().resource(services.account, TYPE, name)
    if found is None:
        raise Refusal(10006, "The specified bucket does not exist.", status=404)
    return services, found


def _refuse_jurisdiction(request: Request) -> None:
    wanted = request.headers.get("cf-r2-jurisdiction", "default")
    if wanted != "default":
        raise Refusal(
            10029,
            f"There is no jurisdiction {shown(wanted)}: the buckets are on your own machines.",
            remedy="Leave it out.",
        )


def view(bucket: Resource) -> dict[str, Any]:
    """Return a bucket as the API shows it."""
    return {
        "name": bucket.name,
        "creation_date": bucket.created_on,
        "location": bucket.fields.get("location", LOCATION),
        "storage_class": bucket.fields.get("storage_class", STORAGE_CLASSES[0]),
        "jurisdiction": "default",
    }


async def buckets(request: Request) -> Response:
    """GET buckets, by name; `name_contains` and `start_after` choose."""
    services = services_of(request)
    _refuse_jurisdiction(request)
    part = request.query_params.get("name_contains", "")
    after = request.query_params.get("start_after", "")
    found = services.store.catalog().resources(services.account, TYPE)
    chosen = [view(one) for one in found if part in one.name and one.name > after]
    return listed(request, chosen, wrap="buckets")


async def post_bucket(request: Request) -> Response:
    """POST buckets: `name`, and maybe `locationHint` (kept, and shown) and `storageClass`."""
    services = services_of(request)
    _refuse_jurisdiction(request)
    document = await object_body(request, services.platform.limits.json_body_bytes_max)
    name = as_text(document.get("name"), "name")
    if not is_bucket_name(name):
        raise Refusal(
            10005,
            "The specified bucket name is not valid.",
            remedy="Use 3 to 63 of a-z, 0-9 and -, a letter or digit first and last.",
        )
    bucket = Resource(
        account=services.account,
        type=TYPE,
        id=name,
        name=name,
        created_on=iso(services.clock.now()),
        # Objects at another endpoint are nobody's of the fleet: each machine asks there.
        fields=_settings(document)
        | ({} if services.platform.r2_endpoint else {"machine": services.me}),
    )

    async def make() -> None:
        catalog = services.store.catalog()
        if catalog.resource(services.account, TYPE, name) is not None:
            raise Refusal(
                10004,
                "The bucket you tried to create already exists, and you own it.",
                status=409,
            )
        most = services.platform.limits.r2_buckets_max
        if len(catalog.resources(services.account, TYPE)) >= most:
            text = f"You have {most} buckets, as many as may be (limit r2_buckets_max)."
            raise Refusal(10009, text)
        await services.store.write([put(bucket, 0)])

    platform = services.platform
    shut_in = platform.isolation.bubblewrap or platform.r2_endpoint
    if not shut_in and platform.isolation.weaker:
        raise Refusal(
            10001,
            "R2's engine runs in a network of its own alone, and there is no bubblewrap here.",
            status=503,
            remedy="Install it (apt-get install bubblewrap), then start the platform again.",
        )
    await services.store.settled(f"bucket {name}", make)
    return success(view(bucket))


def _settings(document: dict[str, Any]) -> dict[str, Any]:
    storage_class = document.get("storageClass") or STORAGE_CLASSES[0]
    if storage_class not in STORAGE_CLASSES:
        raise Refusal(10062, f"{shown(storage_class)} is no storage class.")
    location = document.get("locationHint")
    fields = {"storage_class": storage_class}
    return fields if not location else {**fields, "location": as_text(location, "location").upper()}


async def bucket(request: Request) -> Response:
    """GET buckets/{bucket}."""
    return success(view(bucket_of(request)[1]))


async def patch_bucket(request: Request) -> Response:
    """PATCH buckets/{bucket}: the header `cf-r2-storage-class` for objects to come."""
    services, found = bucket_of(request)
    fields = _settings({"storageClass": request.headers.get("cf-r2-storage-class")})
    changed = msgspec.structs.replace(found, fields={**found.fields, **fields})

    async def write() -> None:
        bucket_of(request)
        await services.store.write([put(changed)])

    await services.store.settled(f"bucket {found.name}", write)
    return success(view(changed))


async def delete_bucket(request: Request) -> Response:
    """DELETE buckets/{bucket}, when it is empty."""
    services, found = bucket_of(request)

    async def forget() -> None:
        bucket_of(request)
        await services.buckets.write(found.name, {"method": "deleteBucket"})
        await services.store.write([end(found.key())])

    await services.store.settled(f"bucket {found.name}", forget)
    return success({})


async def no_rules(request: Request) -> Response:
    """GET cors, lifecycle or lock: a bucket has no rules."""
    bucket_of(request)
    return success({"rules": []})


async def no_domains(request: Request) -> Response:
    """GET domains/custom: a bucket has no hostnames of its own."""
    bucket_of(request)
    return success({"domains": []})


async def no_address(request: Request) -> Response:
    """GET domains/managed: nor a public address."""
    _, found = bucket_of(request)
    return success({"bucketId": found.name, "domain": "", "enabled": False})


async def no_sippy(request: Request) -> Response:
    """GET sippy: nothing comes from elsewhere when it is asked for."""
    bucket_of(request)
    return success({"enabled": False})


async def refuse_settings(request: Request) -> Response:
    """PUT, POST or DELETE of what buckets have not: refused by name."""
    bucket_of(request)
    raise Refusal(
        10041,
        f"R2 buckets have no {request.url.path.rpartition('/')[2][:40]} on this platform yet.",
        status=501,
        remedy="A Worker with a binding to the bucket can do this.",
    )


def routes(account: str) -> list[Route]:
    """Return the API's endpoints."""
    root = f"{account}/r2/buckets"
    one = f"{root}/{{bucket}}"
    lists = {"cors": no_rules, "lifecycle": no_rules, "lock": no_rules}
    lists |= {"domains/custom": no_domains, "domains/managed": no_address, "sippy": no_sippy}
    return [
        Route(root, buckets, methods=["GET"]),
        Route(root, post_bucket, methods=["POST"]),
        Route(one, bucket, methods=["GET"]),
        Route(one, patch_bucket, methods=["PATCH"]),
        Route(one, delete_bucket, methods=["DELETE"]),
        *bucket_objects.routes(one, bucket_of),
        *(Route(f"{one}/{path}", show, methods=["GET"]) for path, show in lists.items()),
        *(
            Route(f"{one}/{path}", refuse_settings, methods=["PUT", "POST", "DELETE"])
            for path in lists
        ),
    ]
