"""WebSockets for wrangler: its first frame on a tail is not masked, which RFC 6455 forbids.

Every wrangler since version 1 sends `{"debug":false}` with `mask: false`; a strict server closes
the connection (1002) and the tail never begins. So frames without a mask are given one of zeros,
which changes no byte of the payload, before the strict parser sees them.
"""

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

MASKED = 0x80
NO_MASK = bytes(4)
LONGER = {126: 2, 127: 8}
"""Length codes that announce so many bytes of real length."""


class Mender:
    """Reads a client's frames as they come, cut anywhere, and gives each a mask. Pure."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._body_bytes_left = 0

    def mend(self, data: bytes) -> bytes:
        """Return the same frames, all masked; an unfinished frame head waits for its rest."""
        mended = bytearray()
        at = 0
        while at < len(data):
            if self._body_bytes_left:
                piece = data[at : at + self._body_bytes_left]
                self._body_bytes_left -= len(piece)
                mended += piece
                at += len(piece)
            else:
                self._head.append(data[at])
                at += 1
                mended += self._finished_head()
        return bytes(mended)

    def _finished_head(self) -> bytes:
        head = self._head
        if len(head) < 2:
            return b""
        masked, code = head[1] & MASKED, head[1] & ~MASKED
        longer = LONGER.get(code, 0)
        if len(head) < 2 + longer + (4 if masked else 0):
            return b""
        self._body_bytes_left = int.from_bytes(head[2 : 2 + longer]) if longer else code
        head[1] |= MASKED
        finished = bytes(head) + (b"" if masked else NO_MASK)
        self._head = bytearray()
        return finished


class LenientWebSockets(WebSocketsSansIOProtocol):
    """uvicorn's WebSockets, for clients that do not mask."""

    _mender: Mender | None = None

    def data_received(self, data: bytes) -> None:
        """Take the request that asks for a WebSocket as it is, and mend what follows it."""
        if self._mender is None:
            self._mender = Mender()
            super().data_received(data)
        else:
            super().data_received(self._mender.mend(data))
