"""Sums of a store are its processes' own, whoever the keeper believes to be there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec
import pytest
from anyio.abc import SocketStream

from kythera.ground.layout import Layout
from kythera.node.store_use import StoreUse
from kythera.run.store_counts import Counted, StoreCounts, WorkerUse

pytestmark = pytest.mark.anyio
OLD, NEW = 11, 12


class Store:
    """A store that tells what it is told to."""

    def __init__(self) -> None:
        self.counted = Counted(process="", workers=[])

    def is_process(self, process: str, reads: int) -> None:
        """Answer as this process from now on."""
        use = WorkerUse(account="a", worker="w", counts={"reads": reads})
        self.counted = Counted(process=process, workers=[use])

    async def answer(self, stream: SocketStream) -> None:
        """Answer one question."""
        async with stream:
            await stream.receive()
            body = msgspec.json.encode(self.counted)
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            await stream.send(head.encode() + body)


@asynccontextmanager
async def counted(tmp_path: Path) -> AsyncIterator[tuple[Store, StoreUse, list[StoreCounts]]]:
    """Give a store, who asks it, and what was told."""
    layout, store, told = Layout(tmp_path), Store(), list[StoreCounts]()
    layout.store_key.write_text("00" * 32)
    layout.store_socket("kv").parent.mkdir(parents=True, exist_ok=True)
    listener = await anyio.create_unix_listener(layout.store_socket("kv"))
    use = StoreUse("kv", layout, 5_000, lambda _, counts: told.append(counts))
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, store.answer)
        yield store, use, told
        tasks.cancel_scope.cancel()


def reads(told: StoreCounts) -> int:
    """Return the sum that was told."""
    return told.workers[0].counts["reads"]


async def test_who_answers_before_its_predecessor_is_known_to_be_gone_is_another(
    tmp_path: Path,
) -> None:
    """Goal: kill -9: the next one answers in the old one's place; nothing is lost or counted twice."""
    async with counted(tmp_path) as (store, use, told):
        store.is_process("first", 5)
        await use.heard(OLD)
        store.is_process("second", 2)
        await use.heard(OLD)
        store.is_process("second", 3)
        await use.heard(NEW)
    assert [reads(one) for one in told] == [5, 7, 8]
    assert [one.restarts for one in told] == [0, 0, 1]


async def test_what_was_heard_stays_while_nobody_answers(tmp_path: Path) -> None:
    """Goal: a store that is down has its sums; asked again, it is not another."""
    async with counted(tmp_path) as (store, use, told):
        store.is_process("first", 5)
        await use.heard(OLD)
    await use.heard(OLD)
    use.show("down")
    assert [(one.state, reads(one)) for one in told] == [("up", 5), ("up", 5), ("down", 5)]
