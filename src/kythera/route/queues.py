"""How long a worker's queue may be, where its versions say so. Pure."""

from collections.abc import Mapping

from kythera.model.catalog import Catalog, Name
from kythera.model.limits import Limits
from kythera.model.traffic import Traffic


def queues(
    catalog: Catalog, traffic: Mapping[Name, Traffic], limits: Limits, most: int
) -> dict[Name, int]:
    """Return the workers that have a queue of their own length, `most` being the longest.

    All versions of a worker wait in one queue: the longest that any of them may have holds."""
    found = {}
    for name, item in traffic.items():
        versions = [catalog.version(*name, share.version_id) for share in item.shares]
        asked = [v.confinement.queue_requests or limits.queue_requests for v in versions if v]
        if asked and max(asked) != limits.queue_requests:
            found[name] = min(max(asked), most)
    return found
