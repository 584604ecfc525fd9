"""What each address of the API needs of a token: one table, and the questions asked of it.

Pure. Promises: an address that is not in the table is not served (`app` refuses to be built), so
nobody can add one and forget who may use it. `deploy` and `secrets` include `read`; `admin` is
everything. A token for some workers is refused what belongs to others, or to the platform as a
whole; lists that a deploy needs (`ACCOUNT` below) are open to it, and show it its own alone.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from msgspec import Struct

from kythera.control.not_offered import ABSENT, UNCOUNTED
from kythera.deploy.versions import secrets_of
from kythera.model.records import Version

ROOT = "/client/v4"
ACCOUNT_PATH = f"{ROOT}/accounts/{{account}}"
WORKERS = f"{ACCOUNT_PATH}/workers"
SCRIPT = f"{WORKERS}/scripts/{{name}}"
KV = f"{ACCOUNT_PATH}/storage/kv/namespaces"
STORES = f"{ACCOUNT_PATH}/secrets_store/stores"
KYTHERA = f"{ACCOUNT_PATH}/kythera"
QUEUES = f"{ACCOUNT_PATH}/queues"
D1 = f"{ACCOUNT_PATH}/d1/database"
D1_FILES = f"{ROOT}/d1/files"
WORKFLOWS = f"{ACCOUNT_PATH}/workflows"
INSTANCES = f"{WORKFLOWS}/{{workflow}}/instances"
INSTANCE = f"{INSTANCES}/{{instance}}"
BUCKETS = f"{ACCOUNT_PATH}/r2/buckets"
BUCKET = f"{BUCKETS}/{{bucket}}"
NAMESPACES = f"{WORKERS}/dispatch/namespaces"
"""Of dispatches."""
USER_SCRIPT = f"{NAMESPACES}/{{namespace}}/scripts/{{script}}"

READ, DEPLOY, SECRETS, ADMIN = SCOPES = ("read", "deploy", "secrets", "admin")
INCLUDES: Mapping[str, frozenset[str]] = {
    READ: frozenset({READ}),
    DEPLOY: frozenset({DEPLOY, READ}),
    SECRETS: frozenset({SECRETS, READ}),
    ADMIN: frozenset(SCOPES),
}

WORKER: Literal["worker"] = "worker"
"""It belongs to the worker that the address names."""
ACCOUNT: Literal["account"] = "account"
"""It belongs to nobody alone: a token for some workers may ask, and is shown its own."""
PLATFORM: Literal["platform"] = "platform"
"""It belongs to the platform: only tokens for all workers."""
OPEN: Literal["open"] = "open"
"""No token: it tells nothing, or its address or another token is the permission."""
Reach = Literal["worker", "account", "platform", "open"]


class Need(Struct, frozen=True):
    """What one method of one address needs: any of `scopes`, within reach."""

    scopes: tuple[str, ...]
    reach: Reach = WORKER
    does: str = ""
    """In the words of the audit; empty: it changes nothing."""


FREE = Need((), OPEN)
SEE = Need((READ,))
LOOK = Need((READ,), ACCOUNT)
INSPECT = Need((READ,), PLATFORM)
RULE = Need((ADMIN,), PLATFORM)


def _deploy(does: str) -> Need:
    return Need((DEPLOY,), WORKER, does)


def _either(does: str) -> Need:
    """`publish` sees what of the two it is, and asks for that."""
    return Need((DEPLOY, SECRETS), WORKER, does)


def _flow(does: str) -> Need:
    """Of Workflows: `control.workflows` sees whose they are, and refuses others'."""
    return Need((DEPLOY,), ACCOUNT, does)


def _secret(does: str) -> Need:
    return Need((SECRETS,), WORKER, does)


def _keep(does: str) -> Need:
    """Of what workers keep, which is the account's and no one worker's."""
    return Need((DEPLOY,), PLATFORM, does)


def _shared_secret(does: str) -> Need:
    return Need((SECRETS,), PLATFORM, does)


def _rule(does: str) -> Need:
    return Need((ADMIN,), PLATFORM, does)


NEEDS: dict[str, dict[str, Need]] = {
    # Who is asking
    "/healthz": {"GET": FREE},
    f"{ROOT}/user": {"GET": LOOK},
    f"{ROOT}/user/tokens/verify": {"GET": LOOK},
    f"{ROOT}/accounts": {"GET": LOOK},
    f"{ROOT}/memberships": {"GET": LOOK},
    ACCOUNT_PATH: {"GET": LOOK},
    # Workers
    f"{WORKERS}/scripts": {"GET": LOOK},
    f"{WORKERS}/services/{{name}}": {"GET": SEE, "DELETE": _deploy("delete worker")},
    f"{WORKERS}/workers/{{name}}": {"GET": SEE},
    f"{WORKERS}/subdomain": {"GET": LOOK, "PUT": Need((DEPLOY,), ACCOUNT, "set subdomain")},
    SCRIPT: {"GET": SEE, "PUT": _deploy("deploy"), "DELETE": _deploy("delete worker")},
    f"{SCRIPT}/content/v2": {"GET": SEE},
    f"{SCRIPT}/settings": {"GET": SEE, "PATCH": _either("change settings")},
    f"{SCRIPT}/script-settings": {"GET": SEE, "PATCH": _deploy("change settings")},
    f"{SCRIPT}/subdomain": {"GET": SEE, "POST": _deploy("change hostname")},
    f"{SCRIPT}/references": {"GET": SEE},
    # Versions and deployments
    f"{SCRIPT}/versions": {"GET": SEE, "POST": _either("upload version")},
    f"{SCRIPT}/versions/{{version}}": {"GET": SEE},
    f"{SCRIPT}/deployments": {"GET": SEE, "POST": _deploy("deploy")},
    f"{SCRIPT}/deployments/{{deployment}}": {"GET": SEE},
    f"{WORKERS}/workers/{{name}}/versions/latest": {"PATCH": _either("upload version")},
    # Secrets
    f"{SCRIPT}/secrets": {"GET": SEE, "PUT": _secret("set secret")},
    f"{SCRIPT}/secrets/{{secret}}": {"GET": SEE, "DELETE": _secret("delete secret")},
    f"{SCRIPT}/secrets-bulk": {"PATCH": _secret("set secrets")},
    # Assets: an upload brings the token of its session
    f"{SCRIPT}/assets-upload-session": {"POST": _deploy("upload assets")},
    f"{WORKERS}/assets/upload": {"POST": FREE},
    f"{WORKERS}/assets/upload/{{hash}}": {"POST": FREE},
    # Routes, domains, schedules
    f"{ROOT}/zones": {"GET": LOOK},
    f"{ROOT}/zones/{{zone}}/workers/routes": {"GET": LOOK},
    f"{SCRIPT}/routes": {"GET": SEE, "PUT": _deploy("set routes")},
    f"{SCRIPT}/domains/changeset": {"POST": _deploy("ask about domains")},
    f"{SCRIPT}/domains/records": {"PUT": _deploy("set domains")},
    f"{WORKERS}/domains": {"GET": LOOK},
    f"{WORKERS}/durable_objects/namespaces": {"GET": LOOK},
    f"{WORKERS}/durable_objects/namespaces/{{namespace}}": {"GET": LOOK},
    f"{WORKERS}/domains/records": {"GET": LOOK},
    f"{WORKERS}/domains/records/{{domain}}": {"GET": LOOK},
    f"{SCRIPT}/schedules": {"GET": SEE, "PUT": _deploy("set schedules")},
    f"{KYTHERA}/cron": {"GET": LOOK},
    f"{KYTHERA}/cron/{{name}}": {"POST": _deploy("run cron")},
    # Tails: who may read may watch; the socket's address is the permission
    f"{SCRIPT}/tails": {"GET": SEE, "POST": Need((READ,), WORKER, "watch")},
    f"{SCRIPT}/tails/{{tail}}": {"DELETE": Need((READ,), WORKER, "stop watching")},
    "/tails/{tail}": {"GET": FREE},
    # The fleet
    f"{KYTHERA}/status": {"GET": INSPECT},
    f"{KYTHERA}/machines": {"GET": INSPECT},
    f"{KYTHERA}/machines/{{machine}}": {
        "GET": INSPECT,
        "PATCH": _rule("change machine"),
        "DELETE": _rule("remove machine"),
    },
    f"{KYTHERA}/core": {"GET": INSPECT, "PATCH": _rule("move the log")},
    f"{KYTHERA}/keys": {"GET": INSPECT},
    f"{KYTHERA}/keys/rotate": {"POST": _rule("rotate secrets' key")},
    f"{KYTHERA}/tokens": {"GET": RULE, "POST": _rule("make join token")},
    f"{KYTHERA}/tokens/{{token}}": {"DELETE": _rule("revoke join token")},
    # Databases: a file's address is its permission
    D1: {"GET": LOOK, "POST": _keep("create database")},
    f"{D1}/{{database}}": {
        "GET": INSPECT,
        "PUT": _keep("change database"),
        "PATCH": _keep("change database"),
        "DELETE": _keep("delete database"),
    },
    f"{D1}/{{database}}/query": {"POST": _keep("query database")},
    f"{D1}/{{database}}/raw": {"POST": _keep("query database")},
    f"{D1}/{{database}}/import": {"POST": _keep("import into database")},
    f"{D1}/{{database}}/export": {"POST": _keep("export database")},
    f"{D1}/{{database}}/time_travel/bookmark": {"GET": INSPECT},
    f"{D1}/{{database}}/time_travel/restore": {"POST": _keep("restore database")},
    f"{D1_FILES}/{{token}}": {"GET": FREE, "PUT": FREE},
    f"{ROOT}/graphql": {"POST": Need((READ,), ACCOUNT, "ask for analytics")},
    # Queues
    QUEUES: {"GET": LOOK, "POST": _keep("create queue")},
    f"{QUEUES}/{{queue}}": {
        "GET": INSPECT,
        "PUT": _keep("change queue"),
        "PATCH": _keep("change queue"),
        "DELETE": _keep("delete queue"),
    },
    f"{QUEUES}/{{queue}}/consumers": {"GET": INSPECT, "POST": _keep("add consumer")},
    f"{QUEUES}/{{queue}}/consumers/{{consumer}}": {
        "GET": INSPECT,
        "PUT": _keep("change consumer"),
        "DELETE": _keep("remove consumer"),
    },
    f"{QUEUES}/{{queue}}/purge": {"GET": INSPECT, "POST": _keep("purge queue")},
    f"{QUEUES}/{{queue}}/metrics": {"GET": INSPECT},
    f"{QUEUES}/{{queue}}/messages": {"POST": _keep("send to queue")},
    f"{QUEUES}/{{queue}}/messages/batch": {"POST": _keep("send to queue")},
    f"{QUEUES}/{{queue}}/messages/pull": {"POST": _keep("pull from queue")},
    f"{QUEUES}/{{queue}}/messages/ack": {"POST": _keep("settle messages")},
    # Workflows
    WORKFLOWS: {"GET": LOOK},
    f"{WORKFLOWS}/{{workflow}}": {
        "GET": LOOK,
        "PUT": _flow("set Workflow"),
        "DELETE": _flow("delete Workflow"),
    },
    f"{WORKFLOWS}/{{workflow}}/versions": {"GET": LOOK},
    **{
        path: {"GET": LOOK, "POST": _flow("make Workflow instance")}
        for path in (INSTANCES, f"{INSTANCES}/")
    },
    f"{INSTANCES}/terminate": {"PUT": _flow("terminate Workflow instances")},
    f"{INSTANCES}/batch": {"POST": _flow("make Workflow instances")},
    f"{INSTANCES}/batch/delete": {"POST": _flow("delete Workflow instances")},
    INSTANCE: {"GET": LOOK, "DELETE": _flow("delete Workflow instance")},
    f"{INSTANCE}/status": {"PATCH": _flow("steer Workflow instance")},
    f"{INSTANCE}/events/{{type}}": {"POST": _flow("send event to Workflow instance")},
    # Workers KV; what is done to keys is no record, and leaves none in the audit
    KV: {"GET": LOOK, "POST": _keep("create KV namespace")},
    f"{KV}/{{namespace}}": {
        "GET": INSPECT,
        "PUT": _keep("rename KV namespace"),
        "DELETE": _keep("delete KV namespace"),
    },
    f"{KV}/{{namespace}}/keys": {"GET": INSPECT},
    f"{KV}/{{namespace}}/bulk": {
        "PUT": _keep("write KV keys"),
        "DELETE": _keep("delete KV keys"),
    },
    f"{KV}/{{namespace}}/bulk/delete": {"POST": _keep("delete KV keys")},
    f"{KV}/{{namespace}}/bulk/get": {"POST": Need((READ,), PLATFORM, "read KV keys")},
    f"{KV}/{{namespace}}/values/{{key:path}}": {
        "GET": INSPECT,
        "PUT": _keep("write KV key"),
        "DELETE": _keep("delete KV key"),
    },
    f"{KV}/{{namespace}}/metadata/{{key:path}}": {"GET": INSPECT},
    # The cache, which all workers of the account share
    f"{ROOT}/zones/{{zone}}/purge_cache": {
        "POST": Need((DEPLOY,), PLATFORM, "purge cache"),
    },
    # What all workers of the account have counted
    f"{ACCOUNT_PATH}/analytics_engine/sql": {
        "GET": INSPECT,
        "POST": Need((READ,), PLATFORM, "ask for data points"),
    },
    # Ways to databases: they lead past the egress rules
    f"{ACCOUNT_PATH}/hyperdrive/configs": {
        "GET": INSPECT,
        "POST": _rule("make Hyperdrive config"),
    },
    f"{ACCOUNT_PATH}/hyperdrive/configs/{{config}}": {
        "GET": INSPECT,
        "PATCH": _rule("change Hyperdrive config"),
        "PUT": _rule("change Hyperdrive config"),
        "DELETE": _rule("delete Hyperdrive config"),
    },
    # The secrets store, which all workers of the account share
    STORES: {"GET": INSPECT, "POST": _shared_secret("make secrets store")},
    f"{STORES}/{{store}}": {"GET": INSPECT, "DELETE": _shared_secret("delete secrets store")},
    f"{STORES}/{{store}}/secrets": {
        "GET": INSPECT,
        "POST": _shared_secret("set secret of a store"),
        "DELETE": _shared_secret("delete secrets of a store"),
    },
    f"{STORES}/{{store}}/secrets/{{secret}}": {
        "GET": INSPECT,
        "PATCH": _shared_secret("set secret of a store"),
        "DELETE": _shared_secret("delete secret of a store"),
    },
    f"{STORES}/{{store}}/secrets/{{secret}}/duplicate": {
        "POST": _shared_secret("copy secret of a store"),
    },
    f"{ACCOUNT_PATH}/secrets_store/quota": {"GET": INSPECT},
    # R2's buckets: a deploy looks whether they are there
    BUCKETS: {"GET": LOOK, "POST": _keep("make bucket")},
    BUCKET: {"GET": LOOK, "PATCH": _keep("change bucket"), "DELETE": _keep("delete bucket")},
    f"{BUCKET}/objects": {"GET": INSPECT},
    f"{BUCKET}/objects/{{key:path}}": {
        "GET": INSPECT,
        "PUT": _keep("put object"),
        "DELETE": _keep("delete object"),
    },
    **{
        f"{BUCKET}/{path}": {
            "GET": INSPECT,
            **dict.fromkeys(("PUT", "POST", "DELETE"), _keep("change bucket")),
        }
        for path in ("cors", "lifecycle", "lock", "sippy", "domains/custom", "domains/managed")
    },
    # Which worker stands for a type of binding that is not offered
    f"{KYTHERA}/bindings": {"GET": INSPECT},
    f"{KYTHERA}/bindings/{{type}}": {
        "PUT": _rule("map binding"),
        "DELETE": _rule("unmap binding"),
    },
    # Dispatch namespaces; a deploy looks whether they are there. Their workers are no one's of the
    # account: a token for some workers reaches none
    NAMESPACES: {"GET": LOOK, "POST": _keep("make dispatch namespace")},
    f"{NAMESPACES}/{{namespace}}": {
        "GET": LOOK,
        "PUT": _keep("rename dispatch namespace"),
        "PATCH": _keep("rename dispatch namespace"),
        "DELETE": _keep("delete dispatch namespace"),
    },
    f"{NAMESPACES}/{{namespace}}/scripts": {"GET": INSPECT, "DELETE": _keep("delete workers")},
    USER_SCRIPT: {"GET": INSPECT, "PUT": _keep("deploy"), "DELETE": _keep("delete worker")},
    f"{USER_SCRIPT}/content": {"GET": INSPECT, "PUT": _keep("deploy")},
    f"{USER_SCRIPT}/settings": {
        "GET": INSPECT,
        "PATCH": Need((DEPLOY, SECRETS), PLATFORM, "change settings"),
    },
    f"{USER_SCRIPT}/bindings": {"GET": INSPECT},
    f"{USER_SCRIPT}/secrets": {"GET": INSPECT, "PUT": _shared_secret("set secret")},
    f"{USER_SCRIPT}/secrets/{{secret}}": {
        "GET": INSPECT,
        "DELETE": _shared_secret("delete secret"),
    },
    f"{USER_SCRIPT}/secrets-bulk": {"PATCH": _shared_secret("set secrets")},
    f"{USER_SCRIPT}/tags": {"GET": INSPECT, "PUT": _keep("set tags")},
    f"{USER_SCRIPT}/tags/{{tag}}": {
        "PUT": _keep("set tags"),
        "DELETE": _keep("set tags"),
    },
    f"{USER_SCRIPT}/assets-upload-session": {"POST": _keep("upload assets")},
    # Who may call, and what was changed
    f"{ACCOUNT_PATH}/tokens": {"GET": RULE, "POST": _rule("make API token")},
    f"{ACCOUNT_PATH}/tokens/verify": {"GET": LOOK},
    f"{ACCOUNT_PATH}/tokens/{{token}}": {"GET": RULE, "DELETE": _rule("revoke API token")},
    f"{ACCOUNT_PATH}/audit_logs": {"GET": RULE},
}
NEEDS |= {
    f"{ACCOUNT_PATH}/{path}": {
        method: LOOK if method == "GET" else Need((DEPLOY,), ACCOUNT, "use what is not offered")
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
    }
    for path in (*UNCOUNTED, *ABSENT, *(f"{absent}/{{rest:path}}" for absent in ABSENT))
}
"""Address -> method -> what it needs."""

PEERS_DO: Mapping[str, str] = {"/join": "join the fleet", "/tokens": "make join token"}
"""What other machines change here, in the words of the audit."""


def need_of(method: str, path: str) -> Need:
    """Return what a method of an address needs. AssertionError: nobody has said so."""
    found = NEEDS.get(path, {}).get("GET" if method == "HEAD" else method)
    assert found is not None, f"{method} {path} has no scope: add it to NEEDS"
    return found


def holds(scopes: Iterable[str], wanted: Iterable[str]) -> bool:
    """Tell whether a token with these scopes has any of those wanted."""
    held = {each for scope in scopes for each in INCLUDES.get(scope, frozenset())}
    return not held.isdisjoint(wanted)


def needed_for(
    before: Version | None, after: Version, settings: Mapping[str, Any]
) -> tuple[str, ...]:
    """Return which scopes making `after` from `before` needs, whichever address it came through.

    `settings` are those of the worker that are set on the way."""
    secret = secrets_of(after) != ({} if before is None else secrets_of(before))
    code = before is None or _code(before) != _code(after) or bool(settings)
    return (*([SECRETS] if secret else []), *([DEPLOY] if code or not secret else []))


def _code(version: Version) -> tuple[object, ...]:
    """Return what of a version is neither a secret nor its number."""
    return (
        version.main_module,
        version.body_part,
        version.modules,
        {b.name: b for b in version.bindings if b.type != "secret_text"},
        version.compatibility_date,
        version.compatibility_flags,
        version.usage_model,
        version.limits,
        version.confinement,
        version.placement,
        version.assets,
    )
