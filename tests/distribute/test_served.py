"""The table of what this machine serves: written by one, waited for by another."""

from pathlib import Path

import anyio
import pytest

from kythera.distribute.served import Served, served_key


@pytest.mark.anyio
async def test_a_reader_waits_until_the_deployment_is_served(tmp_path: Path) -> None:
    """The reader may even come before the writer."""
    with Served(tmp_path / "s", readonly=True) as reader, Served(tmp_path / "w") as other:
        other.write({served_key("a", "w"): "d0"})
        assert not await reader.wait("a", "w", "d1", within_ms=20)
    with Served(tmp_path / "s") as writer:

        async def serve() -> None:
            await anyio.sleep(0.02)
            writer.write({served_key("a", "w"): "d1"})

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve)
            assert await writer.wait("a", "w", "d1", within_ms=5_000)


def test_a_forgotten_worker_is_served_no_more(tmp_path: Path) -> None:
    """None takes the fact away; forgetting twice is harmless."""
    with Served(tmp_path) as served:
        served.write({"a/w": "d1", "a/x": "d2"})
        served.write({"a/w": None, "a/y": None})
        assert served.read("a", "w") is None
        assert served.read("a", "x") == "d2"
