"""The keeper's guardian: started, replaced when it ends, ended with the keeper.

Promise: moments after the keeper's death, by `kill -9` too, nothing that it started lives on; the
kernel sees to most of it, the guardian to what was only just being started. See `ground/families`.
"""

import contextlib
import os
import select
import signal

from kythera.ground.families import guardian
from kythera.ground.forking import exit_status
from kythera.ground.journal import Journal
from kythera.node.keeper_loop import Loop

AGAIN_S = 1.0
"""How long after its end the next one starts."""
END_S_MAX = 5.0


class Guardian:
    """The guardian of one keeper's family."""

    def __init__(self, family: str, loop: Loop, journal: Journal) -> None:
        self._family = family
        self._loop = loop
        self._journal = journal
        self._pidfd: int | None = None

    def start(self) -> None:
        """Fork it: the earlier, the less there is to copy."""
        _, self._pidfd = guardian(self._family)
        self._loop.watch(self._pidfd, self._ended)

    def _ended(self) -> None:
        self._let_go()
        self._journal.warn("guardian_ended", again_ms=round(AGAIN_S * 1000))
        self._loop.after(AGAIN_S, self.start)

    def stop(self) -> None:
        """End it and see it gone."""
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            select.select([self._pidfd], [], [], END_S_MAX)
            self._let_go()

    def _let_go(self) -> None:
        assert self._pidfd is not None, "only a running one ends"
        self._loop.forget(self._pidfd)
        exit_status(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = None
