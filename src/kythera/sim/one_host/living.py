"""Which machine of a fleet on one computer answers for it now."""

import fcntl
import os
from pathlib import Path

import msgspec

from kythera.node.up_options import LOCK_NAME
from kythera.sim.one_host.plan import FLEET_FILE, UP, FleetFile


def read_fleet(folder: Path) -> FleetFile | None:
    """Return what `fleet.json` tells, or None when there is no fleet in this folder."""
    try:
        return msgspec.json.decode((folder / FLEET_FILE).read_bytes(), type=FleetFile)
    except (OSError, msgspec.MsgspecError):
        return None


def first_living(folder: Path) -> Path | None:
    """Return the state folder of the first machine that is up and has a keeper, or None."""
    fleet = read_fleet(folder)
    if fleet is None or not _is_held(folder):
        return None
    names = [each.name for each in fleet.machines if each.life == UP]
    return next((folder / name for name in names if _is_held(folder / name)), None)


def _is_held(folder: Path) -> bool:
    """Tell whether a process holds this folder."""
    try:
        descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
