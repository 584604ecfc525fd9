"""Frames without a mask, as wrangler sends them, become frames with one; others stay whole."""

import itertools

from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from kythera.control.unmasked import Mender

SIZES = st.sampled_from([0, 1, 125, 126, 127, 65_535, 65_536, 70_000])


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """Return the bytes cut at the given places."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(st.lists(st.tuples(SIZES, st.booleans()), max_size=5), st.lists(st.integers(0), max_size=6))
def test_every_frame_reaches_a_strict_parser_whole(
    frames: list[tuple[int, bool]], cuts: list[int]
) -> None:
    """Goal: masked or not, of any size, cut anywhere: same payloads, in order. Method: the strict
    parser of the server itself reads what the mender returns."""
    sent = [bytes([n % 251]) * size for n, (size, _) in enumerate(frames)]
    wire = b"".join(
        Frame(Opcode.BINARY, body).serialize(mask=masked)
        for body, (_, masked) in zip(sent, frames, strict=True)
    )
    mender, server = Mender(), ServerProtocol(state=OPEN, max_size=None)
    for piece in pieces(wire, cuts):
        server.receive_data(mender.mend(piece))
    assert server.parser_exc is None
    assert [event.data for event in server.events_received()] == sent  # type: ignore[union-attr]


def test_wranglers_first_frame_alone_would_be_refused() -> None:
    """Goal: show that the mender is needed. Method: the same parser without it."""
    server = ServerProtocol(state=OPEN)
    server.receive_data(Frame(Opcode.TEXT, b'{"debug":false}').serialize(mask=False))
    assert server.parser_exc is not None
