"""A cell's start waits for the keys of its secrets, and not for ever."""

from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from kythera.deploy.keyring import Keyring
from kythera.deploy.seal import Sealer
from kythera.ground.files import write_private
from kythera.ground.key_files import KeyFiles, render
from kythera.model.records import Binding, Version
from kythera.node.key_loop import KeyLoop

pytestmark = pytest.mark.anyio
ONE, TWO = bytes([1]) * 32, bytes([2]) * 32


async def test_a_start_waits_until_the_key_is_here(tmp_path: Path) -> None:
    """It comes into the file; a version whose key never comes is started all the same, to fail."""
    files = KeyFiles(tmp_path / "secrets.key")
    write_private(files.own, render([ONE]).encode())
    sealed = {"sealed": Sealer(TWO).seal("text", "a/w/NAME")}
    secret = Binding(name="NAME", type="secret_text", fields=sealed)
    version = Version(account="a", worker="w", id="v", number=1, created_on="", bindings=(secret,))
    keyring = Keyring(files)
    with anyio.fail_after(5):
        await KeyLoop(keyring, wait_ms=1).prepare(version)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(KeyLoop(keyring, wait_ms=60_000).prepare, version)
            await anyio.lowlevel.checkpoint()
            files.add(TWO)
    assert keyring.open(sealed["sealed"], "a/w/NAME") == "text"
