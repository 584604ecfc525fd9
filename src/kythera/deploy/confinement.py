"""What a worker asks to be confined to, where wrangler has no key of its own for it.

Pure. Written in wrangler's configuration as `{"unsafe": {"metadata": {"kythera": {…}}}}`, which
wrangler carries as it is; in `kythera deploy`'s as well. A key that is not known is refused, for a
limit that was misspelt would hold nobody.
"""

import re
from typing import Any

from kythera.deploy.documents import as_amount, as_object, as_texts, shown
from kythera.deploy.refusals import invalid
from kythera.model.limits import Limits
from kythera.model.records import Confinement

HOSTS_MAX = 100
HOST_CHARACTERS_MAX = 260
HOST = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?(:[1-9][0-9]{0,4})?")
KEYS = tuple(key for key in Confinement.__struct_fields__ if key != "egress_hosts")


def confinement(value: Any, limits: Limits) -> Confinement:
    """Read `metadata.kythera`. Raises Refusal for what cannot be."""
    asked = as_object(value or {}, "metadata.kythera")
    unknown = sorted(set(asked) - set(KEYS))
    if unknown:
        raise invalid(
            f"metadata.kythera has {shown(unknown[0])}, which is not known.",
            remedy=f"Known are: {', '.join(KEYS)}.",
        )
    egress, hosts = _egress(asked.get("egress", "public"))
    return Confinement(
        memory_mib=_amount(asked, "memory_mib", limits.memory_mib_max, least=16),
        egress=egress,
        egress_hosts=hosts,
        clocks=_clocks(asked.get("clocks", "frozen")),
        outbound_connections=_amount(
            asked, "outbound_connections", limits.outbound_connections_max
        ),
        queue_requests=_amount(asked, "queue_requests", limits.queue_requests_max),
    )


def _amount(asked: dict[str, Any], key: str, most: int, least: int = 1) -> int:
    return as_amount(asked[key], f"kythera.{key}", least=least, most=most) if key in asked else 0


def _clocks(value: Any) -> Any:
    if value not in ("frozen", "running"):
        raise invalid(f"kythera.clocks is {shown(value)}; it has to be frozen or running.")
    return value


def _egress(value: Any) -> tuple[Any, tuple[str, ...]]:
    if value in ("public", "none"):
        return value, ()
    if not isinstance(value, list):
        raise invalid(f"kythera.egress is {shown(value)}; it has to be public, none or [hosts].")
    hosts = [host.lower() for host in as_texts(value, "kythera.egress")]
    if len(hosts) > HOSTS_MAX:
        raise invalid(f"kythera.egress names {len(hosts)} hosts; {HOSTS_MAX} are the most.")
    for host in hosts:
        if len(host) > HOST_CHARACTERS_MAX or HOST.fullmatch(host) is None:
            raise invalid(
                f"kythera.egress names {shown(host)}, which is no host.",
                remedy="Write api.example.org, *.example.org or api.example.org:8443.",
            )
    return "hosts", tuple(dict.fromkeys(hosts))
