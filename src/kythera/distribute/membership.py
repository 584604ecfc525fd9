"""The small file that says how this machine came into its fleet, read and written.

Promises: it is whole or absent, and readable by its owner alone.
"""

import msgspec

from kythera.ground.files import write_private
from kythera.ground.layout import Layout
from kythera.model.errors import SetupError
from kythera.model.membership import Membership


def read(layout: Layout) -> Membership | None:
    """Return how this machine came into its fleet; None: it never did.

    Raises SetupError when the file is there and says nothing."""
    try:
        return msgspec.json.decode(layout.membership.read_bytes(), type=Membership)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise SetupError(
            f"{layout.membership} cannot be read: {error}.",
            remedy="Restore it from a backup; or join anew with an empty state folder.",
        ) from None


def write(layout: Layout, membership: Membership) -> None:
    """Note how this machine came into its fleet."""
    layout.fleet.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(layout.membership, msgspec.json.format(msgspec.json.encode(membership)))
