"""Reading a binding to a queue. Whether the queue is there, `control/queues.py` asks."""

from collections.abc import Mapping
from typing import Any

from kythera.deploy.refusals import invalid
from kythera.model.names import QUEUE_NAME
from kythera.model.records import Binding

DELAY_S_MAX = 86_400


def producer(name: str, fields: Mapping[str, Any]) -> Binding:
    """Return the binding. Raises Refusal (10021) without a queue's name, or with an odd delay."""
    queue, delay = fields.get("queue_name"), fields.get("delivery_delay")
    if not isinstance(queue, str) or QUEUE_NAME.fullmatch(queue) is None:
        raise invalid(
            f"binding {name} of type queue must have a queue specified",
            remedy="`wrangler queues list` shows the names of all queues.",
        )
    if delay is None:
        return Binding(name=name, type="queue", fields={"queue_name": queue})
    if isinstance(delay, bool) or not isinstance(delay, int) or not 0 <= delay <= DELAY_S_MAX:
        raise invalid(f"Binding {name!r}: delivery_delay is 0 to {DELAY_S_MAX:,} seconds.")
    return Binding(name=name, type="queue", fields={"queue_name": queue, "delivery_delay": delay})
