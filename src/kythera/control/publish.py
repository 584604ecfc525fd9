"""From a draft to what is stored: tried first, then numbered, then written; nothing before.

Promises: a refused upload stores nothing; a version's blobs are safe on other machines before it
is in the log, and it is in the log before any deployment names it; numbers are given by rewriting the worker's record over the value that was read, so that two
uploads at once get two numbers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import anyio
import msgspec

from kythera.control.caller import called_by, refuse_beyond
from kythera.control.objects import home_of_objects
from kythera.control.resources import refuse_absent, refuse_new, refuse_taken
from kythera.control.scopes import needed_for
from kythera.control.services import Services, Tried
from kythera.control.store import Change, end, put
from kythera.deploy.bindings import Origin
from kythera.deploy.bindings_services import refuse_no_worker
from kythera.deploy.objects import refuse_not_exported
from kythera.deploy.refusals import worker_absent
from kythera.deploy.settings import annotations
from kythera.deploy.upload import Draft
from kythera.deploy.versions import too_many
from kythera.deploy.workflows import made_by, refuse_no_class
from kythera.distribute.files import named_blobs
from kythera.ground.clock import iso
from kythera.model.catalog import Catalog
from kythera.model.errors import Refusal, StoreUnavailable
from kythera.model.names import is_worker_anywhere, namespace_of, script_name
from kythera.model.objects import OBJECTS
from kythera.model.records import Deployment, Split, Version, Worker

POLL_MS = 10
Drafting = Callable[[Origin], Draft]


@dataclass(frozen=True)
class Published:
    """What an upload became."""

    worker: Worker
    version: Version
    deployment: Deployment | None


def present(catalog: Catalog, account: str, name: str) -> tuple[Worker, list[Version]]:
    """Return a worker and its versions, newest first. Without any version it is not there yet."""
    worker = catalog.worker(account, name)
    versions = catalog.versions(account, name)
    if worker is None or not versions:
        raise worker_absent(name)
    return worker, versions


async def publish(
    services: Services, name: str, drafting: Drafting, *, create: bool = False, deploy: bool = False
) -> Published:
    """Make a version of a worker; deploy it to everybody if asked.

    `drafting` is called, in a thread, with what came before; it may be called again when somebody
    else wrote first, and must raise (10215, say) when it no longer applies."""
    account = services.account
    if not is_worker_anywhere(name):
        raise Refusal(
            10016,
            f"{script_name(name)[:80]!r} cannot be a Worker's name.",
            remedy="Use a-z, 0-9, `-` and `_`, 63 characters at most: it becomes a hostname.",
        )

    proven: dict[str, Tried] = {}
    """What was tried in an earlier attempt: the same code is not started twice, so that a writer who
    was overtaken is not overtaken again for its slowness."""

    async def attempt() -> Published:
        await _finished(services, name)
        catalog = services.store.catalog()
        guard = services.store.guard_of(f"worker.{account}.{name}")
        if not create:
            present(catalog, account, name)
        before = catalog.versions(account, name)
        origin = Origin(
            account=account,
            worker=name,
            seals=services.seals,
            limits=services.platform.limits,
            previous=before[0] if before else None,
            current=catalog.deployed(account, name),
            catalog=catalog,
            classes=tuple(catalog.resources(account, OBJECTS)),
            migration_tag=_tag_of(catalog, account, name),
            now=iso(services.clock.now()),
            machine=home_of_objects(catalog, account, name),
        )
        draft = await anyio.to_thread.run_sync(drafting, origin)
        flows = made_by(draft.version, origin)
        draft = replace(draft, classes=(*draft.classes, *flows))
        refuse_new(origin.previous, draft.version)
        refuse_absent(catalog, draft.version)
        refuse_taken(origin.classes, draft.classes, name)
        refuse_no_worker(draft.version.bindings, catalog, account, name)
        refuse_beyond(needed_for(origin.previous, draft.version, draft.settings), name)
        tried = await _tried(services, draft, proven)
        return await _store(services, tried, guard, deploy=deploy)

    published = await services.store.settled(f"worker {name}", attempt)
    await let_go(services, name)
    return published


def _tag_of(catalog: Catalog, account: str, name: str) -> str | None:
    worker = catalog.worker(account, name)
    return worker.migration_tag if worker is not None else None


async def _finished(services: Services, name: str) -> None:
    """Wait, but not for ever, until what somebody else has begun to write of this worker is here.

    The worker's record comes before the version it counts: what is made from between the two would
    lack what that version brings, a secret for example. A writer who died there is not waited for."""
    store = services.store
    if _is_finished(store.catalog(), services.account, name):
        return
    await store.caught_up(await store.newest())
    with anyio.move_on_after(services.platform.limits.unfinished_ms / 1000):
        while not _is_finished(store.catalog(), services.account, name):
            await anyio.sleep(POLL_MS / 1000)


def _is_finished(catalog: Catalog, account: str, name: str) -> bool:
    worker, versions = catalog.worker(account, name), catalog.versions(account, name)
    made = worker.versions_made if worker is not None else 0
    return made == 0 or (bool(versions) and versions[0].number >= made)


async def _tried(services: Services, draft: Draft, proven: dict[str, Tried]) -> Draft:
    """Start the code once; what does not start is refused by whoever starts it."""
    version = draft.version
    if version.main_module is None and version.body_part is None:
        return draft
    kept = {module.digest for module in version.modules} - draft.blobs.keys()
    await services.carrier.ensure(kept)

    def read_blob(digest: str) -> bytes:
        found = draft.blobs.get(digest)
        return services.blobs.read(digest) if found is None else found

    def open_secret(name: str, sealed: str) -> str:
        return services.seals.open(sealed, f"{version.account}/{version.worker}/{name}")

    tried = proven.get(version.etag)
    if tried is None:
        tried = await services.try_version(version, read_blob, open_secret)
        proven[version.etag] = tried
    version = msgspec.structs.replace(
        version,
        handlers=tuple(tried.handlers),
        named_handlers=tuple(tried.named_handlers),
        startup_time_ms=tried.startup_time_ms,
    )
    refuse_not_exported(version)
    refuse_no_class(version)
    return replace(draft, version=version)


async def _store(services: Services, draft: Draft, guard: int, *, deploy: bool) -> Published:
    # The guard is as old as what the draft inherited from: who wrote since makes us begin anew.
    catalog = services.store.catalog()
    now = iso(services.clock.now())
    worker = _next_worker(services, catalog, draft, now, deploy=deploy)
    version = msgspec.structs.replace(
        draft.version,
        id=services.chance.uuid(),
        number=worker.versions_made,
        created_on=now,
        source="wrangler",
        author_email=services.author,
    )
    deployment = None
    if deploy:
        worker = msgspec.structs.replace(worker, held=(version.id,))
    changes = [put(worker, guard), *map(put, draft.classes), put(version)]
    if deploy:
        deployment = deployment_of(
            services,
            worker,
            (Split(version_id=version.id, percentage=100),),
            dict(version.annotations),
            now,
        )
        changes.append(put(deployment))
    for change in changes:
        if change.record is not None:
            services.store.check_size(change.record)
    await _put_blobs(services, draft.blobs)
    before = catalog.versions(services.account, worker.name)
    await services.carrier.replicate_version(
        version, {digest for earlier in before for digest in named_blobs(earlier)}
    )
    await services.store.write(changes)
    return Published(worker, version, deployment)


def _next_worker(
    services: Services, catalog: Catalog, draft: Draft, now: str, *, deploy: bool
) -> Worker:
    """Return the worker's record with the numbers of what is about to be written."""
    name = draft.version.worker
    account = services.account
    worker = catalog.worker(account, name) or Worker(
        account=account,
        name=name,
        tag=services.chance.hex(32),
        created_on=now,
        modified_on=now,
        # What a deletion on another machine may have missed must not count as newer.
        versions_made=max((each.number for each in catalog.versions(account, name)), default=0),
        deployments_made=max(
            (each.number for each in catalog.deployments(account, name)), default=0
        ),
        hostname_enabled=not namespace_of(name),
    )
    return msgspec.structs.replace(
        worker,
        modified_on=now,
        versions_made=worker.versions_made + 1,
        deployments_made=worker.deployments_made + (1 if deploy else 0),
        **draft.settings,
    )


def deployment_of(
    services: Services,
    worker: Worker,
    splits: tuple[Split, ...],
    notes: Mapping[str, str],
    now: str,
) -> Deployment:
    """Return the deployment whose number the worker's record has just been given."""
    return Deployment(
        account=worker.account,
        worker=worker.name,
        id=services.chance.uuid(),
        number=worker.deployments_made,
        created_on=now,
        author_email=services.author,
        annotations=dict(notes) or annotations(None, "promotion"),
        versions=splits,
        tag=worker.tag,
    )


async def _put_blobs(services: Services, blobs: Mapping[str, bytes]) -> None:
    for digest, data in blobs.items():
        stored = await anyio.to_thread.run_sync(partial(services.blobs.put, data))
        assert stored == digest, "a blob is named by its content"


async def let_go(services: Services, name: str) -> None:
    """Let go of the oldest versions and deployments above the limits; later will do as well.

    Nobody asks for it: it leaves no audit record."""
    try:
        with called_by(None):
            await services.store.settled(f"worker {name}", partial(_let_go, services, name))
    except StoreUnavailable as error:
        services.journal.say("pruning_postponed", worker=name, reason=str(error))


async def _let_go(services: Services, name: str) -> None:
    """Say in the worker's record what goes, then end it: a deployment on another machine rewrites
    the same record first, so that one of the two sees the other."""
    limits = services.platform.limits
    catalog = services.store.catalog()
    worker = catalog.worker(services.account, name)
    versions = catalog.versions(services.account, name)
    keys = too_many(
        versions,
        catalog.deployments(services.account, name),
        versions_kept_max=limits.versions_kept_max,
        deployments_kept_max=limits.deployments_kept_max,
        held=worker.held if worker is not None else (),
    )
    if worker is None or not keys:
        return
    going = tuple(version.id for version in versions if version.key() in keys)
    changes: list[Change] = [end(key) for key in keys]
    if not set(going) <= set(worker.let_go):
        changes.insert(0, put(msgspec.structs.replace(worker, let_go=going)))
    await services.store.write(changes)
