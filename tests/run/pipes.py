"""A pipe for tests: both ends closed for certain, its reading end awaited."""

import os
from typing import Self

import anyio


class Pipe:
    """A pipe whose write end a child inherits. Use as a context manager."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_write_end()
        os.close(self.read_end)

    def close_write_end(self) -> None:
        """Close our own copy of the write end, so that the child's end is the pipe's end."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    async def read(self) -> bytes:
        """Wait for something (or the end) and return it."""
        await anyio.wait_readable(self.read_end)
        return os.read(self.read_end, 65_536)
