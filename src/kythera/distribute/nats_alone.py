"""Imports nats-py without what it takes along; programs import this before all else of ours.

Where there is aiohttp, nats-py imports it for WebSockets, which nobody here speaks to the log: a tenth of a
second at the start of each of our processes.
"""

from kythera.ground.imports import import_without

import_without(("aiohttp",), "nats")
