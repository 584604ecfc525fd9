"""What a name may look like, and the keys under which records live."""

import re

WORKER_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
ACCOUNT_ID = re.compile(r"[0-9a-f]{32}")
VERSION_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
HOSTNAME_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
BINDING_NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]{0,127}")
DIGEST = re.compile(r"[0-9a-f]{64}")


def is_worker_name(name: str) -> bool:
    """Tell whether `name` can be a worker: it becomes one DNS label of its hostname."""
    return WORKER_NAME.fullmatch(name) is not None


def is_hostname(name: str) -> bool:
    """Tell whether `name` is a lower-case DNS name without a wildcard, 253 characters at most."""
    labels = name.split(".")
    return len(name) <= 253 and all(HOSTNAME_LABEL.fullmatch(label) for label in labels)
