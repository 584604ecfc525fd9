"""A quiet worker beside the hostile ones: asked steadily, by somebody who counts."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

from tests.platforms import Doors

EVERY_S = 0.05
SOURCE = "export default { fetch() { return new Response('quiet') } };"
TIMEOUT_S = 15.0


@dataclass
class Quiet:
    """What its visitor was told."""

    doors: Doors
    served: int = 0
    slowest_ms: float = 0.0
    troubles: list[str] = field(default_factory=list)

    def ask(self) -> None:
        """Ask once, over a connection of its own, and note how that went."""
        began = time.monotonic()
        try:
            said = self._answer()
        except (OSError, HTTPException) as error:
            said = f"{type(error).__name__}: {error}"
        self.slowest_ms = max(self.slowest_ms, (time.monotonic() - began) * 1000)
        if said == "200 quiet":
            self.served += 1
        else:
            self.troubles.append(said)

    def _answer(self) -> str:
        door = urlsplit(self.doors.http)
        assert door.hostname is not None
        with closing(HTTPConnection(door.hostname, door.port, timeout=TIMEOUT_S)) as connection:
            connection.request("GET", "/", headers={"Host": f"quiet.{self.doors.domain}"})
            answer = connection.getresponse()
            return f"{answer.status} {answer.read(80).decode('latin-1')}"


@contextmanager
def asked_steadily(doors: Doors) -> Iterator[Quiet]:
    """Upload the quiet worker and ask it for the length of a `with` block."""
    doors.upload("quiet", SOURCE)
    doors.wait_for("quiet", "quiet")
    quiet, end = Quiet(doors), threading.Event()

    def visit() -> None:
        while not end.wait(EVERY_S):
            quiet.ask()

    visitor = threading.Thread(target=visit)
    visitor.start()
    try:
        yield quiet
    finally:
        end.set()
        visitor.join(TIMEOUT_S * 2)
