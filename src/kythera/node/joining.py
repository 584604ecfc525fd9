"""The program that makes a state folder a machine of a fleet. The keeper runs it before it starts
anything else; it ends before that (the keeper imports little, and this needs much).

Reads an `Errand` on stdin, says on stderr what it does, and writes nothing on stdout but why it
could not (`{"message": …, "remedy": …}`, exit code 1).
"""

import os
import platform as host
import sys
from pathlib import Path

import anyio
import msgspec
from msgspec import Struct

import kythera
from kythera.distribute.invitation import Told, decode
from kythera.distribute.join import join, standing
from kythera.ground.clock import SystemClock
from kythera.ground.layout import Layout
from kythera.model.errors import KytheraError, SetupError
from kythera.model.platform import Platform
from kythera.run.workerd import find_workerd, workerd_version


class Errand(Struct, frozen=True, kw_only=True):
    """What the keeper wants: this folder, joined with this token, with these settings."""

    state: str
    token: str
    platform: Platform


def say(text: str) -> None:
    """Tell a person what goes on."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 (stdout is the keeper's)


async def facts() -> dict[str, object]:
    """Return what the fleet notes of this host."""
    try:
        workerd = await workerd_version(find_workerd())
    except SetupError:
        workerd = ""
    return {
        "cores": os.cpu_count() or 1,
        "architecture": host.machine(),
        "kythera": kythera.__version__,
        "workerd": workerd,
    }


async def run(errand: Errand) -> None:
    """Join, unless this folder is a machine of that fleet already. Raises KytheraError."""
    layout = Layout(Path(errand.state))
    try:
        invitation = decode(errand.token)
    except SetupError:
        if not layout.membership.exists():
            raise
        say("This machine belongs to a fleet already; --join is ignored.")
        return
    found = standing(layout, invitation)
    if found == "joined":
        say("This machine joined with that token already; --join is ignored.")
        return
    try:
        clock = SystemClock().now()
        await join(layout, invitation, errand.platform, await facts(), now=clock, say=say)
        say(f"Joined the fleet as {errand.platform.machine!r}.")
    except KytheraError as error:
        if found == "stranger":
            raise
        say(f"This machine belongs to that fleet already; --join is ignored: {error.message}")


def main() -> int:
    """Do the errand; return an exit code."""
    errand = msgspec.json.decode(sys.stdin.buffer.read(), type=Errand)
    try:
        anyio.run(run, errand)
    except KytheraError as error:
        told = Told(message=error.message, remedy=error.remedy)
        sys.stdout.buffer.write(msgspec.json.encode(told))
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
