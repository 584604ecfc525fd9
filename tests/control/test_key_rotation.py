"""Changing the key that seals secrets: nothing is lost whatever happens in between.

Random histories of puts, deaths, cuts and lagging copies, decided by the very code that runs; and
the same histories with one rule of the order left out, which the checker has to notice.
"""

import random
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kythera.control.key_rotation import rotate
from kythera.control.store import put
from kythera.deploy.resealing import Held, Step, next_step
from kythera.deploy.shared_secrets import SECRET, opened, with_text
from kythera.deploy.versions import secrets_of
from kythera.model.envelope import key_id, keys_used
from kythera.model.errors import KytheraError, Refusal
from kythera.model.records import Resource, Sealing
from tests.control.key_worlds import FIRST, Decide, Hosts
from tests.control.world import ACCOUNT

pytestmark = pytest.mark.anyio
STEPS = 60
SEEDS = 25
NAMES = "abc"


async def history(folder: Path, seed: int, decide: Decide = next_step) -> Hosts:
    """Live through a random history, and see that all is well at its end."""
    chance = random.Random(seed)  # noqa: S311
    hosts = Hosts(folder / str(seed), NAMES, decide)
    core = chance.choice(("a", "abc"))
    await hosts.begin(core)
    async with anyio.create_task_group() as tasks:
        for number in range(STEPS):
            await one_step(hosts, tasks, chance, core, number)
            hosts.check()
        await hosts.settle()
        tasks.cancel_scope.cancel()
    return hosts


async def one_step(
    hosts: Hosts, tasks: anyio.abc.TaskGroup, chance: random.Random, core: str, number: int
) -> None:
    """Let one thing happen."""
    host = hosts.all[chance.choice(NAMES)]
    match chance.choice(
        (
            "tend",
            "tend",
            "tend",
            "tend",
            "put",
            "let",
            "let",
            "rotate",
            "fuse",
            "cut",
            "lag",
            "beat",
        )
    ):
        case "tend":
            await host.tend()
        case "put":
            hosts.start_put(tasks, host.name, chance.choice(("one", "two")), f"text {number}")
            for _ in range(chance.randrange(40)):
                await anyio.lowlevel.checkpoint()
        case "let" if hosts.puts:
            chance.choice(hosts.puts[-3:]).go_on.set()
            await anyio.sleep(0.002)
        case "rotate":
            await host.rotate()
        case "fuse":
            host.fuse.left = chance.randrange(6)
            await chance.choice((host.tend, host.rotate))()
            host.fuse.left = None
        case "cut":
            hosts.network.cut ^= {host.name}
        case "lag":
            host.copy.frozen = not host.copy.frozen
            host.copy.advance(chance.randrange(4))
        case "beat":
            await hosts.beat(chance.choice(core))


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_nothing_is_lost_and_nothing_is_left(tmp_path: Path, seed: int) -> None:
    """Goal: every acknowledged secret opens everywhere, with the new key alone."""
    await history(tmp_path, seed)


def too_early(*about: Any, **more: Any) -> Step:
    """Use a new key at once."""
    step = next_step(*about, **more)
    return Step("activate") if about[0].wanted and step.kind == "wait" else step


def unsettled(*about: Any, **more: Any) -> Step:
    """Drop the old key as soon as nothing seen is sealed with it."""
    step = next_step(*about, **more)
    return Step("drop") if about[0].retiring and step.kind == "wait" else step


@pytest.mark.parametrize(("planted", "first"), [(too_early, 0), (unsettled, 90)])
async def test_a_rule_left_out_is_noticed(tmp_path: Path, planted: Decide, first: int) -> None:
    """A checker that cannot fail proves nothing. It begins where the next seeds notice it."""
    with pytest.raises((AssertionError, BaseExceptionGroup)):
        for seed in range(first, first + 6 * SEEDS):
            await history(tmp_path, seed, planted)


async def test_a_machine_that_was_away_gets_the_new_key_when_it_comes_back(tmp_path: Path) -> None:
    """The rest goes on without it; only the end waits for it."""
    hosts = Hosts(tmp_path)
    await hosts.begin("a")
    async with anyio.create_task_group() as tasks:
        hosts.start_put(tasks, "a", "one", "text").go_on.set()
        await hosts.puts[0].ended.wait()
    hosts.network.cut.add("c")
    hosts.all["c"].copy.frozen = True
    await hosts.all["b"].rotate()
    for _ in range(20):
        for name in "ab":
            await hosts.all[name].tend()
            hosts.check()
    sealing = hosts.catalog().sealing()
    assert sealing is not None
    assert (sealing.wanted, sealing.retiring) == ("", (key_id(FIRST),))
    assert hosts.all["a"].held() == {key_id(FIRST), sealing.active}
    assert hosts.all["c"].held() == {key_id(FIRST)}
    assert set(hosts.all["a"].tender.step.waits_for) == {"c"}
    await hosts.settle()
    assert hosts.all["c"].held() == {sealing.active}


async def test_an_old_key_never_seals_again(tmp_path: Path) -> None:
    """Goal: a machine that has not dropped it yet takes another one for the next rotation."""
    hosts = Hosts(tmp_path, "ab")
    await hosts.begin("a")
    await hosts.all["a"].rotate()
    for _ in range(20):
        await hosts.all["b"].tend()
        await hosts.all["a"].tend()
        hosts.check()
        sealing = hosts.catalog().sealing()
        assert sealing is not None
        if not (sealing.wanted or sealing.retiring):
            break
    assert key_id(FIRST) in hosts.all["b"].held()
    await hosts.all["b"].rotate()
    hosts.check()
    await hosts.settle()


async def test_a_key_that_was_lost_with_its_machine_is_replaced(tmp_path: Path) -> None:
    """Nothing was sealed with it yet, so another one takes its place."""
    hosts = Hosts(tmp_path)
    await hosts.begin("a")
    await hosts.all["c"].rotate()
    hosts.network.cut.add("c")
    for _ in range(20):
        for name in "ab":
            await hosts.all[name].tend()
            hosts.check()
    sealing = hosts.catalog().sealing()
    assert sealing is not None
    assert sealing.active in hosts.all["a"].held() - {key_id(FIRST)}
    await hosts.settle()


async def test_only_machines_of_the_fleet_are_given_a_key(tmp_path: Path) -> None:
    """A stranger's name, a joiner's, and a machine that was removed get nothing."""
    hosts = Hosts(tmp_path)
    await hosts.begin("a")
    mesh = hosts.all["b"].services.fleet.mesh
    path = f"/keys/{key_id(FIRST)}"
    assert (await mesh.request("a", "", "GET", path)).status_code == 200
    assert (await mesh.request("a", "", "GET", "/keys/00000000")).status_code == 404
    await hosts.log.append("machine.b", None)
    for name in (path, "/keys"):
        answer = await mesh.request("a", "", "GET", name)
        assert answer.status_code == 403
        assert "key" not in answer.json() or "no machine" in answer.text


async def test_the_operators_key_is_used_and_never_made(tmp_path: Path) -> None:
    """Without another key in the file there is nothing to change to; no file is written."""
    hosts = Hosts(tmp_path, "a")
    await hosts.begin("a")
    host = hosts.all["a"]
    given = tmp_path / "given"
    given.write_bytes(host.files.own.read_bytes())
    given.chmod(0o600)
    host.files.own.unlink()
    object.__setattr__(host.files, "given", given)
    with pytest.raises(Refusal, match="seals already"):
        await rotate(host.services)
    with given.open("ab") as file:
        file.write(b"\n" + b"A" * 43 + b"=\n")
    wanted = (await rotate(host.services)).wanted
    for _ in range(10):
        await host.tend()
    sealing = hosts.catalog().sealing()
    assert sealing is not None
    assert (sealing.active, sealing.retiring) == (wanted, ())
    assert not host.files.own.exists()


async def test_a_key_made_here_is_refused_while_an_operator_gives_one_elsewhere(
    tmp_path: Path,
) -> None:
    """It could not come there: the operator is told where to begin."""
    hosts = Hosts(tmp_path, "ab")
    await hosts.begin("a")
    other = hosts.all["b"]
    object.__setattr__(other.files, "given", other.files.own)
    with pytest.raises(KytheraError, match="given by the operator") as caught:
        await rotate(hosts.all["a"].services)
    assert "rotate on b" in caught.value.remedy


async def test_a_rollback_knows_a_secret_again_that_was_sealed_anew(tmp_path: Path) -> None:
    """Two versions with one secret have one secret after two rotations; another one is told."""
    hosts = Hosts(tmp_path, "a")
    await hosts.begin("a")
    async with anyio.create_task_group() as tasks:
        for text in ("first", "second"):
            hosts.start_put(tasks, "a", "one", text).go_on.set()
            await hosts.puts[-1].ended.wait()
    marks = [secrets_of(version) for version in hosts.catalog().versions(ACCOUNT, "one")]
    for _ in range(2):
        await hosts.all["a"].rotate()
        for _ in range(8):
            await hosts.all["a"].tend()
    after = hosts.catalog().versions(ACCOUNT, "one")
    assert [secrets_of(version) for version in after] == marks
    assert marks[0]["S0"] == marks[1]["S0"] != marks[0]["S1"]
    sealed = [binding.fields["sealed"] for version in after for binding in version.bindings]
    assert len(set(sealed)) == len(sealed) == 3


async def test_what_is_in_a_secrets_store_is_sealed_anew_too(tmp_path: Path) -> None:
    """Goal: after a rotation every shared secret opens with the new key, and the old one is dropped."""
    hosts = Hosts(tmp_path, "a")
    await hosts.begin("a")
    services = hosts.all["a"].services
    bare = Resource(
        account=ACCOUNT,
        type=SECRET,
        id="s1",
        name="KEY",
        created_on="",
        fields={"store_id": "main", "text_on": ""},
    )
    assert services.keyring is not None
    await services.store.write([put(with_text(bare, "a text", services.keyring))])
    before = hosts.catalog().resource(ACCOUNT, SECRET, "s1")
    await hosts.all["a"].rotate()
    await hosts.settle()
    after = hosts.catalog().resource(ACCOUNT, SECRET, "s1")
    assert before is not None
    assert after is not None
    assert keys_used(before) == {key_id(FIRST)} != keys_used(after)
    assert opened(after, services.keyring) == "a text"
    assert hosts.all["a"].held() == keys_used(after)


def held() -> st.SearchStrategy[Held]:
    """Any answer of a machine."""
    ids = st.frozensets(st.sampled_from(("old", "new")))
    return st.builds(Held, ids=ids, settled_seq=st.integers(0, 9), answered=st.booleans())


def situations() -> st.SearchStrategy[dict[str, Held]]:
    """Any three machines."""
    return st.fixed_dictionaries({name: held() for name in NAMES})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(machines=situations(), late=st.booleans(), others=st.integers(0, 2), clean=st.integers(0, 9))
async def test_the_order_of_steps_holds_in_every_situation(
    machines: dict[str, Held], late: bool, others: int, clean: int
) -> None:
    """Used only when all who answer hold it, and a majority of the core; dropped only when all have
    settled."""
    about: dict[str, Any] = {
        "me": "a",
        "core": set(NAMES),
        "wanted_for_s": 5.0 if late else 0.0,
        "absent_s": 1.0,
        "others_sealed": others,
        "clean_seq": None if others else clean,
    }
    step = next_step(Sealing(active="old", wanted="new"), machines, **about)
    if step.kind == "activate":
        holders = [name for name, each in machines.items() if "new" in each.ids]
        assert "a" in holders
        assert len(holders) >= 2
        lacking = [each for name, each in machines.items() if name not in holders]
        assert not any(each.answered for each in lacking)
        assert late or not lacking
    step = next_step(Sealing(active="new", retiring=("old",)), machines, **about)
    if step.kind == "drop":
        assert not others
        assert all(each.answered and each.settled_seq >= clean for each in machines.values())
