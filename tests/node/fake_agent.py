"""An agent that keeps one cell and one listening socket, and tells a file what it found.

`python fake_agent.py KEEPER_SOCKET REPORT CELL_SOCKET`: each start appends one JSON line.
"""

import json
import os
import sys
from pathlib import Path

import anyio

from kythera.node.keeper_client import KeeperClient, connect_keeper

SAYS_LISTEN = 'echo \'{"event":"listen","socket":"http"}\' >&"$CONTROL"; exec sleep 1000'


async def found(keeper: KeeperClient) -> dict[str, object]:
    """Return what the keeper told at connect."""
    return {
        "pid": os.getpid(),
        "sockets": sorted(keeper.sockets),
        "processes": {p.name: [p.pid, p.tags, p.ready] for p in keeper.processes.values()},
    }


async def main(*paths: str) -> None:
    """Report, see to it that cell and socket are there, announce, and wait."""
    keeper_socket, report, cell_socket = paths
    async with connect_keeper(keeper_socket) as keeper:
        line = json.dumps(await found(keeper)) + "\n"
        await keeper.listen("cell:a:1", cell_socket)
        if "cell:a:1#1" not in keeper.processes:
            await keeper.spawn(
                "cell:a:1#1",
                ["sh", "-c", SAYS_LISTEN],
                env={"PATH": os.environ["PATH"], "CONTROL": "{control}"},
                control=True,
                tags={"generation": 1},
            )
            await keeper.events.receive()
        await keeper.announce({"example": "http://hello.localhost:1"})
        with Path(report).open("a") as file:
            file.write(line)
        async for _ in keeper.events:
            pass


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
