"""What a name may look like, and the keys under which records live."""

import hashlib
import re

WORKER_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
ACCOUNT_ID = re.compile(r"[0-9a-f]{32}")
VERSION_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
HOSTNAME_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
MACHINE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
TOKEN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
BINDING_NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]{0,127}")
QUEUE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
CLASS_NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]{0,127}")
WORKFLOW_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
DIGEST = re.compile(r"[0-9a-f]{64}")
RESOURCE_ID = re.compile(r"[0-9a-f]{32}")
"""Of what has no id of another kind: KV namespaces …"""
DISPATCH = "dispatch_namespace"
"""The type of such a namespace, and of a binding to one."""
USER_MARK = "~"
"""Between a dispatch namespace and the name that a worker has in it; no worker's own name has it."""


def is_worker_name(name: str) -> bool:
    """Tell whether `name` can be a worker: it becomes one DNS label of its hostname."""
    return WORKER_NAME.fullmatch(name) is not None


def user_worker(namespace: str, script: str) -> str:
    """Return what a worker of a dispatch namespace is called among all workers of its account."""
    return f"{namespace}{USER_MARK}{script}"


def namespace_of(worker: str) -> str:
    """Return the id of a worker's dispatch namespace; empty: it is in none."""
    namespace, mark, _ = worker.partition(USER_MARK)
    return namespace if mark else ""


def script_name(worker: str) -> str:
    """Return a worker's name as people gave it, within its dispatch namespace if it is in one."""
    return worker.rpartition(USER_MARK)[2]


def is_worker_anywhere(name: str) -> bool:
    """Tell whether `name` can be a worker, be it of the account itself or of a dispatch namespace."""
    namespace, mark, script = name.partition(USER_MARK)
    return is_worker_name(name) if not mark else all(map(is_worker_name, (namespace, script)))


def is_machine_name(name: str) -> bool:
    """Tell whether `name` can be a machine: it becomes a label of a host and a certificate's CN."""
    return MACHINE_NAME.fullmatch(name) is not None


def as_machine_name(text: str) -> str:
    """Return the machine name nearest to a host's own name ("Anna's Laptop.local")."""
    label = re.sub(r"[^a-z0-9]+", "-", text.partition(".")[0].lower()).strip("-")
    return label[:40].strip("-") or "machine"


def queue_id(account: str, name: str) -> str:
    """Return a queue's id: uploads know queues by name alone, and cells ask by id."""
    return hashlib.sha256(f"queue {account} {name}".encode()).hexdigest()[:32]


def is_hostname(name: str) -> bool:
    """Tell whether `name` is a lower-case DNS name without a wildcard, 253 characters at most."""
    labels = name.split(".")
    return len(name) <= 253 and all(HOSTNAME_LABEL.fullmatch(label) for label in labels)


def is_bucket_name(name: str) -> bool:
    """Tell whether `name` can be an R2 bucket."""
    return BUCKET_NAME.fullmatch(name) is not None
