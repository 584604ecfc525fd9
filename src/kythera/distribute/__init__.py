"""Every record and bundle on every machine: the log, each machine's copy, the blobs."""

from kythera.ground.imports import import_without

# nats-py's WebSockets, which nobody here speaks to the log.
import_without(("aiohttp",), "nats")
