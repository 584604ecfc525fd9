"""What keeper and agent say to each other, without a socket."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.ground.sockets import DESCRIPTORS_MAX, MESSAGE_BYTES_MAX
from kythera.node.keeper_protocol import (
    NAME,
    Answer,
    Pong,
    ProtocolError,
    SocketFact,
    Sockets,
    Spawn,
    batches,
    decode_note,
    decode_request,
    encode,
    fill,
)

NAMES = st.from_regex(NAME, fullmatch=True)


@given(st.lists(NAMES), st.integers(200, 5000))
def test_facts_are_cut_into_messages_in_order_and_none_is_lost(
    names: list[str], bytes_max: int
) -> None:
    """Goal: an agent learns of thousands of sockets. Method: any names, any size of message."""
    facts = [(SocketFact(name, "/" + name), number) for number, name in enumerate(names)]
    cut = list(batches(facts, bytes_max))
    assert [fact for batch in cut for fact in batch.items] == [fact for fact, _ in facts]
    assert [n for batch in cut for n in batch.descriptors] == list(range(len(names)))
    for batch in cut:
        assert 0 < len(batch.items) == len(batch.descriptors) <= DESCRIPTORS_MAX
        assert len(batch.items) == 1 or len(encode(Sockets(batch.items))) < bytes_max + 100


@given(st.lists(NAMES, min_size=1, max_size=5), st.booleans())
def test_each_socket_gets_one_number_wherever_it_is_named(names: list[str], control: bool) -> None:
    """Goal: placeholders become the child's descriptors. Method: each name in argv and in env."""
    argv = [f"--socket-fd=http={{socket:{name}}}" for name in names]
    env = {f"E{n}": f"{{socket:{name}}}" for n, name in enumerate(names)}
    if control:
        argv.append("--control-fd={control}")
    filled = fill(argv, env, control=control)
    numbers = [*filled.sockets.values()]
    if filled.control is not None:
        numbers.append(filled.control)
    assert (filled.control is not None) == control
    assert sorted(numbers) == list(range(3, 3 + len(numbers)))
    assert set(filled.sockets) == set(names)
    for name, word, value in zip(names, filled.argv, filled.env.values(), strict=False):
        assert word == f"--socket-fd=http={filled.sockets[name]}"
        assert value == str(filled.sockets[name])


def test_other_braces_are_left_alone_and_a_missing_control_is_refused() -> None:
    """Goal: JSON in arguments survives. Method: braces of all sorts; control without a pipe."""
    words = ['{"a": {}}', "{socket}", "{controls}", "${HOME}"]
    assert fill(words, {}, control=False).argv == words
    with pytest.raises(ProtocolError, match="control=True"):
        fill(["{control}"], {}, control=False)


def test_messages_are_read_as_they_were_written() -> None:
    """Goal: both sides speak one language. Method: there and back; too long is refused."""
    spawn = Spawn(id=7, name="cell:a", argv=["x"], tags={"n": 1}, rlimits={"RLIMIT_NOFILE": 9})
    assert decode_request(encode(spawn)) == spawn
    assert isinstance(decode_request(encode(Pong())), Pong)
    answer = Answer(id=7, socket=SocketFact("http"))
    assert decode_note(encode(answer)) == answer
    with pytest.raises(ProtocolError, match="fit"):
        encode(Answer(id=1, error="x" * MESSAGE_BYTES_MAX))
