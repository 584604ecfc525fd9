"""Helper processes: what they inherit, what they leave, how they end."""

import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from kythera.ground.forking import CANNOT_START
from kythera.ground.meters import cpu_seconds, private_bytes, start_time
from kythera.ground.processes import child
from kythera.model.errors import SetupError
from tests.processes import alive, births, family, wait_until

pytestmark = pytest.mark.anyio
DEADLINE_S = 20


@pytest.fixture(autouse=True)
async def _deadline() -> AsyncIterator[None]:
    """No test of this file waits for ever."""
    with anyio.fail_after(DEADLINE_S):
        yield


async def test_a_child_reads_its_input_and_its_output_is_kept_apart() -> None:
    """Goal: three streams and an exit code. Method: a shell that uses all of them."""
    async with child(["sh", "-c", "cat; echo bad >&2; exit 3"], stdin=b"given " * 50_000) as one:
        output = await one.read_output()
        assert await one.wait() == 3
    assert output.stdout == b"given " * 50_000
    assert output.stderr == b"bad\n"


async def test_a_child_holds_the_descriptors_it_was_given_and_no_other() -> None:
    """Goal: nothing leaks into a sandbox. Method: an inheritable descriptor that was not passed."""
    read_end, write_end = os.pipe()
    try:
        os.set_inheritable(write_end, True)
        listing = [sys.executable, "-c", "import os; print(*sorted(os.listdir('/proc/self/fd')))"]
        async with child(listing, pass_fds=[read_end]) as one:
            held = (await one.read_output()).stdout.decode().split()
    finally:
        os.close(read_end)
        os.close(write_end)
    # The listing's own descriptor is one more, at the lowest free number.
    assert set(held) - {"3", "4"} == {"0", "1", "2", str(read_end)} - {"3", "4"}
    assert len(held) == 5


async def test_nothing_is_left_when_the_block_ends() -> None:
    """Goal: a helper and what it started end with the block. Method: a shell with a child."""
    async with child(["sh", "-c", "sleep 1000 & echo up; wait"]) as one:
        assert one.stdout is not None
        await anyio.wait_readable(one.stdout)
        born = births({one.pid, *family(one.pid)})
        assert len(born) == 2
    wait_until(lambda: not alive(born), f"gone: {alive(born)}")


async def test_a_child_that_ends_by_a_signal_says_which() -> None:
    """Goal: minus the signal. Method: SIGTERM; then signals to the dead are no error."""
    async with child(["sleep", "1000"]) as one:
        one.signal(signal.SIGTERM)
        assert await one.wait() == -signal.SIGTERM
        one.signal(signal.SIGTERM)
        assert one.cpu_seconds() == 0


async def test_a_missing_program_is_said_before_anything_is_started() -> None:
    """Goal: an error that a person can act on. Method: a name that nothing has."""
    with pytest.raises(SetupError, match=r"no-such-program.*make setup"):
        async with child(["no-such-program"]):
            pass


async def test_a_program_that_cannot_be_executed_says_so_on_its_stderr(tmp_path: Path) -> None:
    """Goal: a broken binary is not silence. Method: an executable file that is no program."""
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF nothing")
    broken.chmod(0o755)
    async with child([str(broken)]) as one:
        output = await one.read_output()
        assert await one.wait() == CANNOT_START
    assert b"cannot start" in output.stderr


async def test_signals_are_as_a_program_expects_them() -> None:
    """Goal: Python's ignored SIGPIPE and a blocked mask do not travel. Method: ask the kernel."""
    async with child(["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]) as one:
        lines = (await one.read_output()).stdout.decode().split()
    # Signals 32 and 33 are the C library's own: no program may set them, nor may we.
    assert [int(mask, 16) & ~(0b11 << 31) for mask in lines[1::2]] == [0, 0]


async def test_a_child_does_not_get_what_systemd_meant_for_us(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Goal: no child answers for us. Method: the variables set, a child's environment read."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/somewhere")
    monkeypatch.setenv("LISTEN_FDS", "2")
    async with child(["env"]) as one:
        told = (await one.read_output()).stdout
    assert b"NOTIFY_SOCKET" not in told
    assert b"LISTEN_FDS" not in told


async def test_what_a_process_used_is_measured() -> None:
    """Goal: CPU, memory and birth. Method: a busy child until its clock moved; then a dead one."""
    async with child([sys.executable, "-c", "while True: pass"]) as one:
        while one.cpu_seconds() < 0.05:
            await anyio.sleep(0.01)
        assert private_bytes(one.pid) > 500_000
        born = start_time(one.pid)
        assert born is not None
        assert born == start_time(one.pid)
        pid = one.pid
    assert (cpu_seconds(pid), private_bytes(pid), start_time(pid)) == (0.0, 0, None)
