"""Where a worker's requests go on this machine: what `run` tells `route`, as records.

`run` decides which cells may take traffic, `route` makes HAProxy do it and says when it is done.
"""

from msgspec import Struct


class Share(Struct, frozen=True, kw_only=True):
    """One cell behind a worker: the unix socket it listens on and its part of the traffic.

    `server` is HAProxy's name for it, unique on this machine for ever (`c<12 hex digits>`)."""

    server: str
    version_id: str
    path: str
    percentage: float


class Traffic(Struct, frozen=True, kw_only=True):
    """All cells of one worker that take traffic now; `shares` add up to 100, or are empty."""

    account: str
    worker: str
    shares: tuple[Share, ...] = ()
