"""How soon a process gets a core when it wakes, and for how long: sched(7), sched_setattr(2).

Two paces. Whoever is quick asks for short turns: since Linux 6.12 the scheduler lets him run at once
before whoever has a long one, and gives him no larger share for it. Whoever is patient (SCHED_BATCH)
takes no core from anybody when he wakes, and so does more at a time.

Promises: threads that a process has now and later ones (they inherit) are set alike. A kernel that
knows nothing of turns' lengths ignores them. Raises OSError where it is forbidden or nobody is there.
"""

import ctypes
import os
import platform
import struct
from pathlib import Path

TURN_US_QUICK = 100
"""The shortest turn that the kernel gives."""
_SYSCALLS = {"x86_64": 314, "aarch64": 274}
"""sched_setattr's number (asm/unistd.h)."""
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")
"""struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period (ns)."""
_libc = ctypes.CDLL(None, use_errno=True)


def set_quick(pid: int) -> None:
    """Let a process run soon after it wakes, for a short turn. Raises OSError."""
    _set(pid, os.SCHED_OTHER, TURN_US_QUICK * 1000)


def set_patient(pid: int) -> None:
    """Have a process wait for its turn when it wakes; the turn is a usual one. Raises OSError."""
    _set(pid, os.SCHED_BATCH, 0)


def _set(pid: int, policy: int, turn_ns: int) -> None:
    number = _SYSCALLS.get(platform.machine())
    for task in Path(f"/proc/{pid}/task").iterdir():
        thread = int(task.name)
        if number is None:
            os.sched_setscheduler(thread, policy, os.sched_param(0))
            continue
        nice = os.getpriority(os.PRIO_PROCESS, thread)
        about = _ATTRIBUTES.pack(_ATTRIBUTES.size, policy, 0, nice, 0, turn_ns, 0, 0)
        if _libc.syscall(number, thread, about, 0) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
