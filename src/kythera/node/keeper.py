"""`kythera up` itself: a small, dull process that owns what must outlive the rest.

It holds the listening sockets and the child processes, does what the agent says, and starts agent
and API again when they end. Promises: when it dies, even by `kill -9`, nothing it started lives
on; Ctrl-C and SIGTERM end everything in order within `stop_ms`; a second Ctrl-C ends it at once.
It decides nothing about workers, reads no record, and imports little, because it forks.
"""

import contextlib
import gc
import os
import resource
import signal
import socket
import sys
from contextlib import ExitStack
from typing import Any

from kythera.ground import families
from kythera.ground.cgroups import find, mark_of
from kythera.ground.chance import SystemChance
from kythera.ground.journal import Journal
from kythera.ground.layout import Layout
from kythera.ground.sockets import listen_seqpacket
from kythera.model.errors import SetupError
from kythera.model.platform import Platform
from kythera.node import keeper_banner, systemd
from kythera.node import keeper_protocol as protocol
from kythera.node.enrolment import enrol, has_joined
from kythera.node.isolation import probed
from kythera.node.keeper_children import RELIEF_S, Children
from kythera.node.keeper_guardian import Guardian
from kythera.node.keeper_loop import Loop, Timer
from kythera.node.keeper_programs import (
    GIVE_UP_STATUS,
    Program,
    agent_command,
    api_command,
)
from kythera.node.keeper_server import KeeperServer
from kythera.node.keeper_sockets import HeldSockets
from kythera.node.keeper_stop import OrderedStop
from kythera.node.r2_elsewhere import Elsewhere, settled
from kythera.node.up_options import (
    LOCK_NAME,
    StateLock,
    UpOptions,
    check,
    prepare_folders,
    prepare_secrets,
    previous_platform,
    remembered,
    remove_moved_run,
    write_platform,
)
from kythera.run.workerd import find_workerd, hold_binary

__all__ = ["UpOptions", "run"]

CONNECT_S_MAX = 60.0
"""An agent that has not connected this long after its start is replaced."""
PINGS_PER_SILENCE = 5
KILLED_BY_HAND = 130
GAVE_UP = 1


def run(options: UpOptions) -> int:
    """Be the platform's keeper until told to stop; return the exit code.

    0 after an ordered stop, 130 when a second Ctrl-C cut it short, 1 when the agent gave up.
    Raises SetupError, with a remedy, when the platform cannot start."""
    check(options)
    layout = Layout(options.state.absolute())
    prepare_folders(layout)
    with ExitStack() as stack:
        lock = stack.enter_context(StateLock(layout.state / LOCK_NAME))
        mark = mark_of(layout.state)
        if lock.was_killed:
            families.end(f"{mark}-")
        keeper = Keeper(options, layout, f"{mark}-{SystemChance().hex(8)}")
        stack.callback(keeper.close)
        keeper.open(patient=lock.was_killed)
        groups = find(mark)
        groups.clear()  # what a platform that was killed has left
        stack.callback(groups.clear)
        with contextlib.suppress(SetupError):  # The agent says so, and what to install.
            # So that the only cell's memory is told as what it is: see hold_binary.
            stack.callback(hold_binary(find_workerd()).close)
        return keeper.run()


class Keeper:
    """Joins the parts: loop, sockets, children, server, programs, stop."""

    def __init__(self, options: UpOptions, layout: Layout, family: str) -> None:
        self._options = options
        self._layout = layout
        self._limits = options.limits
        self._journal = Journal("keeper", json_lines=not sys.stderr.isatty())
        self._notifier = systemd.notifier(os.environ)
        os.environ[families.MARK] = self._family = family
        self._loop = Loop()
        self._guardian = Guardian(family, self._loop, self._journal)
        self._sockets = HeldSockets(self._notifier)
        self._children = Children(self._loop, self._sockets, self)
        self._server = KeeperServer(self._loop, self._sockets, self._children, self)
        self._stop = OrderedStop(self._loop, self._children, self._journal, self._limits.stop_ms)
        self._listener: socket.socket | None = None
        self._relief: Timer | None = None
        self._announced = False
        self._exit_code = 0
        self._programs: dict[str, Program] = {}

    def _set_own_limits(self) -> None:
        """A thousand idle workers are a thousand sockets, and what holds keys and secrets in memory
        leaves no core file; children inherit both."""
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    def open(self, *, patient: bool) -> None:
        """Prepare the state folder and listen. Raises SetupError.

        `patient` waits for what a killed platform may not have let go of yet."""
        self._set_own_limits()
        layout = self._layout
        self._sockets.adopt(systemd.inherited(os.environ))
        before = previous_platform(layout)
        options = remembered(self._options, before, joined=has_joined(layout))
        r2 = self._r2(before)
        self._sockets.remove_stale(layout)

        def door(name: str, wanted: str, previous: str) -> str:
            return self._sockets.open_door(name, wanted, previous, patient=patient)

        self._platform = Platform(
            account_id=before.account_id if before else SystemChance().hex(32),
            machine=options.machine,
            site=options.site,
            region=options.region,
            world=options.world,
            mesh=(mesh := door("mesh", options.mesh, before.mesh if before else "")),
            mesh_advertised=options.advertise or mesh,
            domain=options.domain,
            http=door("http", options.http, before.http if before else ""),
            https=door("https", options.https, before.https if before else "")
            if options.https
            else "",
            tls_certificates=options.tls_certificates,
            secrets_key=options.secrets_key,
            api=door("api", options.api, before.api if before else ""),
            egress_allow=options.egress_allow,
            s3=door("s3", options.s3, before.s3 if before else "") if options.s3 else "",
            r2_endpoint=r2.url,
            r2_key=r2.key,
            isolation=probed(layout, options.limits, strict=options.strict),
            limits=options.limits,
        )
        if options.join:
            self._platform = enrol(layout, self._options, self._platform)
        self._sockets.open_private("tail", layout.tail_socket, 0o666)
        self._sockets.open_private("peers", layout.mesh_socket)
        prepare_secrets(layout, SystemChance(), self._platform.secrets_key)
        write_platform(layout, self._platform)

    def _r2(self, before: Platform | None) -> Elsewhere:
        """Return where R2's objects are. Raises SetupError."""
        asked = Elsewhere(self._options.r2_endpoint, self._options.r2_key)
        if before is None:
            return settled(self._layout, asked, Elsewhere(), self._journal)
        known = Elsewhere(before.r2_endpoint, before.r2_key)
        return settled(self._layout, asked, known, self._journal)

    def _start_programs(self) -> None:
        plans = (
            ("agent", agent_command(self._options), protocol.STOP_AGENT),
            ("api", api_command(self._options, self._sockets), protocol.STOP_API),
        )
        for name, command, order in plans:
            program = Program(
                name,
                command,
                order,
                self._limits,
                self._program_ended,
                loop=self._loop,
                children=self._children,
                journal=self._journal,
            )
            self._programs[name] = program
            program.start()

    def run(self) -> int:
        """Serve until everything has ended; return the exit code."""
        ending = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup asks us to stay
            ending.append(signal.SIGHUP)
        self._loop.on_signals(ending, self._signalled)
        self._listener = listen_seqpacket(self._layout.keeper_socket)
        self._server.serve(self._listener)
        self._guardian.start()
        self._start_programs()
        silence_s = self._limits.agent_silent_ms_max / 1000
        self._loop.every(silence_s / PINGS_PER_SILENCE, self._look_after_agent)
        if self._notifier.watchdog_s is not None:
            self._loop.every(self._notifier.watchdog_s / 2, self._notifier.alive)
        gc.freeze()  # a collection in the child would copy every page it looks at
        while not self._stop.finished:
            self._loop.step()
        self._journal.say("stopped")
        return self._exit_code

    def _relieve(self) -> None:
        """Read what children print, in place of an agent, until there is one."""
        self._children.relieve()
        self._relief = self._loop.after(RELIEF_S, self._relieve)

    def _look_after_agent(self) -> None:
        """Ping the agent; replace one that hangs."""
        if self._stop.began:
            return
        self._server.ping()
        agent = self._programs["agent"]
        if self._server.connected:
            limit_s = self._limits.agent_silent_ms_max / 1000
            silent_s = self._server.silent_s()
        else:
            limit_s = CONNECT_S_MAX
            silent_s = self._loop.now() - agent.started_at if agent.child else 0.0
        if silent_s <= limit_s:
            return
        self._journal.warn("agent_hangs", silent_s=round(silent_s, 1))
        self._server.disconnect()
        if agent.child is not None:
            agent.child.kill_group()

    def _program_ended(self, name: str, status: int) -> None:
        self._end_family(f"/{name}")
        if name == "agent":
            self._agent_ended(status)
        self._stop.go_on()

    def _end_family(self, below: str = "") -> None:
        """End what should have ended with its parent."""
        if left := families.end(self._family + below):
            self._journal.warn("left_behind_ended", processes=left)

    def _agent_ended(self, status: int) -> None:
        self._server.disconnect()
        if status == GIVE_UP_STATUS and not self._announced and not self._stop.began:
            self._journal.warn("agent_gave_up", remedy="its reason is above")
            self._exit_code = GAVE_UP
            self._begin_stop()

    def _signalled(self, signum: int) -> None:
        if not self._stop.began:
            self._journal.say("told_to_stop", signal=signal.Signals(signum).name)
            self._begin_stop()
        elif signum == signal.SIGINT:
            self._journal.warn("told_to_stop_at_once")
            self._exit_code = KILLED_BY_HAND
            self._stop.kill_all()

    def _begin_stop(self) -> None:
        self._notifier.stopping()
        for program in self._programs.values():
            program.let_end()
        self._server.tell(protocol.Stopping())
        self._stop.begin()

    def announced(self, facts: dict[str, Any]) -> None:
        """Print the ready line or the banner, once; tell systemd."""
        if self._announced or self._stop.began:
            return
        self._announced = True
        if self._options.json:
            text = keeper_banner.json_line(keeper_banner.ready_event(self._platform, os.getpid()))
        else:
            command = keeper_banner.our_command(sys.argv[0])
            text = keeper_banner.banner(self._platform, self._layout.state, command, facts)
        with contextlib.suppress(OSError):
            print(text, flush=True)  # noqa: T201 (what the user asked for)
        self._notifier.ready(f"serving on {self._platform.http}")
        self._journal.say("ready", http=self._platform.http, api=self._platform.api)

    def may_start(self, stop_order: int) -> bool:
        """While the front drains it may still wake cells; what is ending stays ended."""
        return self._stop.order is None or stop_order > self._stop.order

    def agent_connected(self, connected: bool) -> None:
        """Note that an agent came or went."""
        self._journal.say("agent_connected" if connected else "agent_left")
        if self._relief is not None:
            self._relief.cancel()
            self._relief = None
        if not connected:
            self._relieve()

    def became_ready(self, name: str, pid: int) -> None:
        """Pass on that a child listens."""
        self._server.tell(protocol.BecameReady(name, pid))

    def ended(self, name: str, pid: int, status: int) -> None:
        """Pass on that a child has ended."""
        self._server.tell(protocol.Ended(name, pid, status))
        self._stop.go_on()

    def close(self) -> None:
        """Close and unlink every socket, and leave no process."""
        self._guardian.stop()
        self._end_family()
        self._server.disconnect()
        if self._listener is not None:
            self._listener.close()
            self._layout.keeper_socket.unlink(missing_ok=True)
        self._sockets.close_all()
        self._sockets.remove_stale(self._layout)  # what the children left
        remove_moved_run(self._layout)
        self._notifier.close()
        self._loop.close()
