"""Wrong tokens: slowed, counted, told now and then; right ones never wait for them."""

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.control.wrong_tokens import WrongTokens, network_of
from kythera.model.limits import Limits
from tests.control.tokens import bearer
from tests.control.world import TOKEN, World

pytestmark = pytest.mark.anyio
FEW = Limits(
    wrong_tokens_free=2,
    wrong_token_wait_ms_min=100,
    wrong_token_wait_ms_max=1_000,
    wrong_token_clients_max=3,
    wrong_token_forget_s=60,
    wrong_tokens_waiting_max=2,
)


def waits(wrong: WrongTokens, n: int, client: str = "10.0.0.1", now: float = 0.0) -> list[float]:
    """Return how long each of `n` wrong tokens waits."""
    return [wrong.failed(client, "unknown", now) for _ in range(n)]


def test_the_wait_grows_to_its_most_and_is_forgotten() -> None:
    """Some are free, then twice as long each time; after a quiet while all is as at first."""
    wrong = WrongTokens(FEW)
    assert waits(wrong, 7) == [0, 0, 0.1, 0.2, 0.4, 0.8, 1.0]
    assert waits(wrong, 1, now=60) == [1.0]
    assert wrong.is_slowed("10.0.0.1", 120)
    assert not wrong.is_slowed("10.0.0.1", 121)
    assert waits(wrong, 1, now=121) == [0]
    assert wrong.counts == {"unknown": 9}
    assert waits(wrong, 5_000, now=121)[-1] == 1.0


def test_one_sender_does_not_slow_another_and_memory_is_bounded() -> None:
    """The address that was quiet longest is forgotten."""
    wrong = WrongTokens(FEW)
    waits(wrong, 5)
    assert waits(wrong, 1, "10.0.0.2") == [0]
    for last in range(3, 6):
        waits(wrong, 1, f"10.0.0.{last}")
    assert len(wrong._senders) == FEW.wrong_token_clients_max
    assert not wrong.is_slowed("10.0.0.1", 0)


@given(st.lists(st.tuples(st.ip_addresses().map(str), st.floats(0, 1e6)), max_size=50))
def test_no_history_makes_anybody_wait_longer_than_the_most(
    history: list[tuple[str, float]],
) -> None:
    """Whatever comes, from wherever, in whatever order of times."""
    wrong = WrongTokens(FEW)
    for client, now in history:
        assert 0 <= wrong.failed(client, "unknown", now) <= FEW.wrong_token_wait_ms_max / 1000
        assert len(wrong._senders) <= FEW.wrong_token_clients_max
    assert wrong.counts.total() == len(history)


@pytest.mark.parametrize(
    ("client", "network"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("no address" * 20, ("no address" * 20)[:64]),
    ],
)
def test_who_has_a_whole_network_is_one_sender(client: str, network: str) -> None:
    """Of IPv6 everybody has a /64 at least."""
    assert network_of(client) == network


def test_the_journal_gets_a_line_now_and_then() -> None:
    """With how many there were since the last."""
    wrong = WrongTokens(FEW)
    waits(wrong, 1)
    told = wrong.to_tell(5.0)
    assert told is not None
    assert told["refused_since_last_line"] == 1
    waits(wrong, 3)
    assert wrong.to_tell(6.0) is None
    told = wrong.to_tell(5.0 + FEW.wrong_token_journal_s)
    assert told == {"refused_since_last_line": 3, "refused": {"unknown": 4}}


@pytest.fixture
def slowed(world: World) -> World:
    """Return a platform that slows early; its tests' client has used up what is free."""
    object.__setattr__(world.services, "wrong_tokens", WrongTokens(FEW))
    waits(world.services.wrong_tokens, FEW.wrong_tokens_free, "127.0.0.1", world.clock.time)
    return world


async def test_wrong_tokens_wait_and_the_right_one_from_there_does_not(slowed: World) -> None:
    """Goal: a colleague behind the same address works on. Method: both at once."""
    answered: list[str] = []

    async def call(text: str, expected: int) -> None:
        response = await slowed.call("GET", "scripts", headers=bearer(text))
        assert response.status_code == expected
        answered.append(text)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call, "wrong", 403)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(call, TOKEN, 200)
    assert answered == [TOKEN, "wrong"]
    assert slowed.services.wrong_tokens._waiting == 0


async def test_answers_that_wait_are_bounded_and_the_rest_is_told_to_go(slowed: World) -> None:
    """429 at once; the right token passes even then."""
    statuses: list[int] = []

    async def call() -> None:
        statuses.append((await slowed.call("GET", "scripts", headers=bearer("wrong"))).status_code)

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        assert statuses == [429, 429]
        assert (await slowed.call("GET", "scripts")).status_code == 200
    assert sorted(statuses) == [403, 403, 429, 429]
    assert slowed.services.wrong_tokens.counts["not_waited"] == 2


async def test_the_journal_never_has_a_wrong_tokens_text(world: World) -> None:
    """It may be a right one for somewhere else."""
    for text in ("hunter2-hunter2", f"kyt_{'0' * 12}_{'1' * 64}"):
        await world.call("GET", "scripts", headers=bearer(text))
    del world.client.headers["authorization"]
    await world.call("GET", "scripts")
    said = world.journal.getvalue()
    assert "wrong_token" in said
    assert "127.0.0.1" in said
    assert "hunter2" not in said
    assert "1" * 64 not in said
    assert world.services.wrong_tokens.counts == {"unknown": 2, "absent": 1}
