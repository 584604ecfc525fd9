"""`make up`: one command from a clone to a served example, and quick the second time."""

import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from scripts import setup
from tests.platforms import ROOT, clean_environment
from tests.processes import alive, births, family, wait_until

pytestmark = pytest.mark.story

UP_S_MAX = 3.0
WAIT_S_MAX = 30.0


def line_of(process: "subprocess.Popen[bytes]", word: bytes) -> bytes:
    """Return the first line on stdout with a word in it."""
    assert process.stdout is not None
    end, text = time.monotonic() + WAIT_S_MAX, b""
    while time.monotonic() < end:
        if select.select([process.stdout], [], [], 0.1)[0]:
            chunk = os.read(process.stdout.fileno(), 4096)
            assert chunk, f"ended without saying {word!r}: {text!r}"
            text += chunk
            for line in text.splitlines(keepends=True):
                if word in line and line.endswith(b"\n"):
                    return line
    raise AssertionError(f"no line with {word!r} within {WAIT_S_MAX} s: {text!r}")


def start(state: Path, log: Path) -> "subprocess.Popen[bytes]":
    """Type `make up`, with free ports."""
    options = "--json --http 127.0.0.1:0 --api 127.0.0.1:0"
    with log.open("ab") as output:
        return subprocess.Popen(
            ["make", "-s", "up", f"STATE={state}", f"ARGS={options}"],
            cwd=ROOT,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            start_new_session=True,
        )


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Press Ctrl-C: the whole foreground group hears it."""
    left = births(family(process.pid))
    os.killpg(process.pid, signal.SIGINT)
    process.wait(WAIT_S_MAX)
    assert process.stdout is not None
    process.stdout.close()
    wait_until(lambda: not alive(left), "all have ended")


@pytest.mark.skipif(
    not (setup.VENV / ".kythera-stamp").exists(), reason="this tree was not set up by make"
)
def test_make_up_serves_the_example_and_is_quick_the_second_time(state: Path) -> None:
    """Goal: the README's first command. Method: type it twice; the second start is timed from
    the keystroke to the ready line; the example answers both times."""
    took = []
    for _ in range(3):
        started = time.monotonic()
        process = start(state, state.with_name("log"))
        try:
            ready = json.loads(line_of(process, b'"ready"'))
            took.append(time.monotonic() - started)
            door, domain = ready["http"], ready["domain"]
            headers = {"Host": f"hello.{domain}"}

            def served(door: str = door, headers: dict[str, str] = headers) -> bool:
                return httpx.get(door, headers=headers, trust_env=False).status_code == 200

            wait_until(served, "the example is served", deadline_s=15)
        finally:
            stop(process)
    assert min(took[1:]) < UP_S_MAX, took
