"""Who holds the log, as this machine knew it last: kept beside the log's stores, outside the copy.

A machine that holds the log must know which of its servers to start before it can read any record:
its copy may be lost, and the log is what makes a new one. Without this a founder whose log has
moved would begin an empty second log.
"""

import msgspec

from kythera.ground.files import write_private
from kythera.ground.layout import Layout
from kythera.model.records import Core, UnknownSchema, decode, encode

NAME = "core.json"


def remembered_core(layout: Layout) -> Core | None:
    """Return what was remembered; None: nothing ever was."""
    try:
        return decode(Core, (layout.nats / NAME).read_bytes())
    except (FileNotFoundError, msgspec.MsgspecError, UnknownSchema):
        return None


def remember_core(layout: Layout, core: Core, me: str) -> None:
    """Keep who holds the log, on a machine that does or did; no write when nothing changed."""
    before = remembered_core(layout)
    if core == before or (before is None and me not in {*core.machines, *core.wanted}):
        return
    layout.nats.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(layout.nats / NAME, encode(core))
