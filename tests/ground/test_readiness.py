"""One epoll watches many sockets, each reported once until it is armed again."""

import os

import anyio
import pytest

from kythera.ground.readiness import Readiness


async def told(readiness: Readiness, within_s: float = 0.1) -> list[str]:
    """Return the names that are reported within a moment."""
    names: list[str] = []
    with anyio.move_on_after(within_s):
        async for name in readiness.names():
            names += [name]
    return names


@pytest.mark.anyio
async def test_an_armed_descriptor_is_reported_once_until_armed_again() -> None:
    """A visitor nobody has accepted yet does not spin the loop."""
    reading, writing = os.pipe()
    with Readiness() as readiness:
        readiness.arm("a", reading)
        assert await told(readiness) == []
        os.write(writing, b"x")
        assert await told(readiness) == ["a"]
        assert await told(readiness) == []
        readiness.arm("a", reading)
        assert await told(readiness) == ["a"]
        readiness.arm("a", reading)
        readiness.disarm(reading)
        assert await told(readiness) == []
    os.close(reading)
    os.close(writing)
