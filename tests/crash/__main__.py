"""`python -m tests.crash [--seed N] [--rounds N] [--first N] [--small-disk]`: hit and count, longer than
a test may take. Rounds are planned from the seed and their number, so they can be run in pieces."""

import argparse
import contextlib
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.disks import DISK_MIB, disks
from tests.crash.plan import Wanted
from tests.crash.run import Crash
from tests.platforms import start


def main() -> int:
    """Run one history, and say what became of it."""
    parser = argparse.ArgumentParser(prog="tests.crash", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--first", type=int, default=1, help="the number of the first round")
    told = f"on a disk of {DISK_MIB} MiB, which is full now and then (needs the right to mount)"
    parser.add_argument("--small-disk", action="store_true", help=told)
    chosen = parser.parse_args()
    began, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="kythera-crash-"))
    state = folder / "state"
    with contextlib.ExitStack() as stack:
        if chosen.small_disk and not stack.enter_context(disks([state])):
            print("A small disk needs the right to mount: run it as root.")
            return 2
        crash = Crash(start(state), chosen.seed, Wanted(fills=chosen.small_disk))
        stack.callback(crash.stop)
        crash.begin(folder)
        for number in range(chosen.first, chosen.first + chosen.rounds):
            print(crash.round(number), flush=True)
        crash.settle()
    print(f"seed {chosen.seed}: {crash.said()} in {time.monotonic() - began:.0f} s")
    for why, count in crash.ledger.refusals.most_common():
        print(f"{count} not acknowledged, {why}")
    broken = crash.report()
    if broken:
        print("\n".join(broken), f"\nthe platform's log: {folder}")
    else:
        print("all that was acknowledged is there")
        shutil.rmtree(folder)
    return bool(broken)


sys.exit(main())
