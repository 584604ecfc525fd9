"""D1 for a cell: workerd's own binding, over HTTP, to the machine's database store."""

from typing import Any

from kythera.model.errors import Refusal
from kythera.model.records import Version

BY_RPC = "d1_binding_jsrpc"


def database_value(name: str, service: str, version: Version) -> dict[str, Any]:
    """Return the value of a binding whose database is behind a service. Raises Refusal (10021) for
    a flag that needs another way."""
    if BY_RPC in version.compatibility_flags:
        raise Refusal(
            10021,
            f"binding {name!r}: the compatibility flag {BY_RPC} is not offered with D1.",
            remedy="Remove the flag; `query()`, which it adds, is Cloudflare's experiment.",
        )
    inner = {"name": "fetcher", "service": {"name": service}}
    return {"wrapped": {"moduleName": "cloudflare-internal:d1-api", "innerBindings": [inner]}}
