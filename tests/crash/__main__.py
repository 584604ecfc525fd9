"""`python -m tests.crash [--seed N] [--rounds N]`: kill and count, longer than a test may take."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.crash.run import Crash, project
from tests.platforms import start
from tests.wranglers import VERSIONS, Wrangler


def main() -> int:
    """Run one history, and say what became of it."""
    parser = argparse.ArgumentParser(prog="tests.crash", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=200)
    chosen = parser.parse_args()
    newest = max(VERSIONS, key=lambda version: [int(part) for part in version.split(".")])
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kythera-crash-") as folder:
        crash = Crash(start(Path(folder) / "state"), chosen.seed)
        try:
            wrangler = Wrangler(newest, crash.platform, Path(folder) / "home")
            deployed = wrangler.run("deploy", project=project(Path(folder) / "project"))
            assert deployed.code == 0, deployed.text
            crash.begin()
            for number in range(1, chosen.rounds + 1):
                crash.run(1, settles=number == chosen.rounds)
                if number % 10 == 0:
                    print(f"round {number}: {crash.said()}", flush=True)
        finally:
            crash.platform.stop()
    print(f"seed {chosen.seed}: {crash.said()} in {time.monotonic() - began:.0f} s")
    print("\n".join(crash.ledger.broken) or "all that was acknowledged is there")
    return bool(crash.ledger.broken)


sys.exit(main())
