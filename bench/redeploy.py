"""`python -m bench.redeploy URL TOKEN_FILE`: deploy one worker again and again, until stdin ends.

A process of its own, for it stands for a developer elsewhere: what it costs is not the platform's.
"""

import argparse
import asyncio
import os
import sys
from pathlib import Path

import httpx

from bench.running import API_S, deploy

SOURCE = "export default {{ fetch() {{ return new Response('{number}'); }} }};"


async def _run(url: str, token: str) -> None:
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=API_S, trust_env=False
    ) as api:
        deploying = asyncio.create_task(_for_ever(api))
        await asyncio.wait([deploying, ended], return_when=asyncio.FIRST_COMPLETED)
        deploying.cancel()


async def _for_ever(api: httpx.AsyncClient) -> None:
    number = 0
    while True:
        number += 1
        await deploy(api, "deployed", SOURCE.format(number=number))


def main() -> None:
    """Be a busy developer until stdin ends."""
    parser = argparse.ArgumentParser(prog="python -m bench.redeploy", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("token_file", type=Path)
    options = parser.parse_args()
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    asyncio.run(_run(options.url, options.token_file.read_text().strip()))


if __name__ == "__main__":
    main()
