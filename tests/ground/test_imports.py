"""What a library would take along is held back, and only then."""

import subprocess
import sys


def run(module: str, absent: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Import a module of ours in a process of its own, then what it should not have imported."""
    code = f"""
import sys
import kythera.{module}
found = [name for name in {absent!r} if name in sys.modules]
assert not found, found
import {absent[0]}
"""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )


def test_the_agent_and_the_api_start_without_what_they_never_use() -> None:
    """Goal: a start takes a quarter less; what was left out is there for who wants it."""
    for module in ("node.agent", "control.server"):
        done = run(module, ("aiohttp", "botocore"))
        assert done.returncode == 0, done.stderr
