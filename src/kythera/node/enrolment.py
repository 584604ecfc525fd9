"""The keeper's part of joining a fleet: it has the work done by a program that ends again.

Promises: nothing else has been started yet; when the fleet says no, the platform does not start, and
the reason and what to do are told.
"""

import sys

import msgspec

from kythera.distribute import membership
from kythera.ground.forking import Command, base_environment, run_to_end
from kythera.ground.layout import Layout
from kythera.model.errors import SetupError
from kythera.model.platform import Platform
from kythera.node.up_options import UpOptions

JOIN_S_MAX = 60.0


def has_joined(layout: Layout) -> bool:
    """Tell whether this machine came into a fleet that others began."""
    member = membership.read(layout)
    return member is not None and not member.founder


def enrol(layout: Layout, options: UpOptions, platform: Platform) -> Platform:
    """Join the fleet of `options.join` (as typed); return the settings with what the fleet decides.

    Raises SetupError with the fleet's reason."""
    errand = {"state": str(layout.state), "token": options.join, "platform": platform}
    argv = (sys.executable, "-m", "kythera.node.joining")
    command = Command(argv, base_environment())
    status, said = run_to_end(command, msgspec.json.encode(errand), within_s=JOIN_S_MAX)
    if status != 0:
        raise _failure(status, said)
    fleets = layout.read_platform() if has_joined(layout) else platform
    domain = options.domain or fleets.domain
    return msgspec.structs.replace(platform, account_id=fleets.account_id, domain=domain)


def _failure(status: int | None, said: bytes) -> SetupError:
    try:
        told = msgspec.json.decode(said)
        return SetupError(f"cannot join: {told['message']}", remedy=told["remedy"])
    except (msgspec.MsgspecError, KeyError, TypeError):
        pass
    ended = f"did not end within {JOIN_S_MAX:.0f} s" if status is None else f"ended with {status}"
    return SetupError(
        f"joining the fleet {ended}.",
        remedy="What it said is above. The same command may be repeated with the same token.",
    )
