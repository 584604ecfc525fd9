"""Which system calls a cell may make: everything that is not named here is refused.

The list is what `strace` saw of workerd 2026-11-17 from its start to its end (JavaScript, wasm,
static files, streams, sockets, memory running out, abort), and bubblewrap's one `execve`. What a
call is for stands beside it. Refused means EPERM; ENOSYS where a C library asks for something newer
first and then falls back. Source: seccomp(2), libseccomp's seccomp_rule_add(3).
"""

import errno
import os
import socket
from typing import Any

from kythera.model.errors import SetupError

CALLS = {
    # Memory: V8's heap and code, malloc.
    "brk": "malloc's first memory",
    "madvise": "gives memory back to the kernel",
    "mmap": "heap, code, thread stacks, libraries",
    "mprotect": "makes reserved memory usable; JIT code",
    "mremap": "grows large allocations in place",
    "munmap": "gives memory back",
    "pkey_alloc": "V8 asks for memory protection keys",
    "pkey_free": "gives such a key back",
    "pkey_mprotect": "guards JIT code where keys are to be had",
    "membarrier": "orders memory between threads of this process",
    # Threads of this process alone (clone is bound to them below).
    "futex": "locks between threads",
    "rseq": "per-CPU caches of malloc",
    "sched_getaffinity": "how many cores there are",
    "sched_getparam": "a thread's priority, before it starts another",
    "sched_getscheduler": "likewise",
    "sched_yield": "a spinning lock lets others run",
    "set_robust_list": "each new thread",
    "set_tid_address": "each new thread",
    "sigaltstack": "stack overflow is a RangeError, not a crash",
    "gettid": "which thread asserts that it holds the lock",
    "exit": "a thread ends",
    "exit_group": "the process ends",
    # Signals: stopping in order, crashing loudly.
    "rt_sigaction": "SIGTERM drains; a crash prints its stack",
    "rt_sigprocmask": "threads choose their signals",
    "rt_sigreturn": "the end of each handler",
    "getpid": "abort names its own process",
    "restart_syscall": "the kernel resumes an interrupted wait",
    # Files: its binary, libraries, configuration on stdin, static files, its own pipes.
    "access": "ld.so looks for a preload list",
    "close": "connections, files",
    "dup": "descriptors handed from one part to another",
    "execve": "bubblewrap starts workerd; nothing else that could be run is there",
    "faccessat": "does a static file exist",
    "faccessat2": "likewise",
    "fcntl": "non-blocking and close-on-exec",
    "fstat": "size and kind of what was opened",
    "getcwd": "names in messages are relative to it",
    "getdents64": "lists the folder of static files",
    "lseek": "where in a file",
    "lstat": "is the working folder a link",
    "newfstatat": "size and kind of a path",
    "open": "static files",
    "openat": "static files, libraries",
    "pread64": "parts of a static file",
    "preadv": "likewise",
    "read": "configuration, files, wake-ups",
    "readlink": "where am I",
    "readlinkat": "a link among static files",
    "readv": "several buffers at once",
    "stat": "is it there",
    "statx": "size and kind of a path",
    "write": "console, wake-ups",
    "writev": "answers, console",
    # Waiting, and connections that come by the inherited sockets.
    "accept": "a visitor on the inherited socket",
    "accept4": "likewise",
    "bind": "an unnamed unix socket before it connects",
    "connect": "the unix sockets that were mounted: egress, tail",
    "epoll_create1": "the event loop",
    "epoll_ctl": "the event loop",
    "epoll_pwait": "the event loop",
    "epoll_pwait2": "the event loop",
    "epoll_wait": "the event loop",
    "eventfd2": "wakes the event loop from another thread",
    "getpeername": "who is at the other end",
    "getsockname": "which socket is it",
    "getsockopt": "has it connected",
    "listen": "the inherited sockets",
    "pipe2": "wakes the event loop",
    "poll": "before the event loop runs",
    "ppoll": "likewise",
    "recvfrom": "what a visitor sends",
    "recvmsg": "likewise",
    "sendmsg": "likewise",
    "sendto": "what a visitor gets",
    "setsockopt": "no delay",
    "shutdown": "the end of an answer",
    "timerfd_create": "timers of the event loop",
    "timerfd_settime": "likewise",
    # What it may know of where it runs.
    "arch_prctl": "thread-local storage on x86-64",
    "clock_getres": "how fine the clock is",
    "clock_gettime": "the clock, where the kernel offers no page for it",
    "clock_nanosleep": "a helper thread sleeps",
    "nanosleep": "likewise",
    "getrandom": "keys, hash seeds",
    "getegid": "ld.so: is this a privileged start",
    "geteuid": "likewise",
    "getgid": "likewise",
    "getuid": "likewise",
    "gettimeofday": "the clock",
    "sysinfo": "how much memory there is",
    "uname": "which kernel",
}
STORING = {
    "copy_file_range": "a part of a file to another place",
    "fallocate": "room on the disk before it is written",
    "fchmod": "a new file has its database's mode",
    "fdatasync": "what is acknowledged is on the disk",
    "fsync": "likewise, with its size and name",
    "ftruncate": "the write-ahead log begins anew",
    "linkat": "a whole new file gets its name",
    "mkdir": "a folder for each class of objects",
    "mkdirat": "likewise",
    "pwrite64": "a page of a database",
    "pwritev": "likewise",
    "rename": "a new file takes the place of an old one",
    "renameat": "likewise",
    "renameat2": "likewise",
    "rmdir": "an empty folder goes",
    "unlink": "the end of a database's log, or of a database",
    "unlinkat": "likewise",
    "utimensat": "when a file was changed",
}
"""What a store may do beside that, in the one folder that it can write."""
OUTWARD_CALLS = {
    "sendmmsg": "asks a name server for both kinds of address at once",
    "recvmmsg": "likewise, its answers",
}
"""What the egress cell may make beside all these."""
OUTWARD_FAMILIES = (socket.AF_INET, socket.AF_INET6)
FALLS_BACK = {
    "clone3": "glibc then uses clone, whose flags a filter can read",
    "getcpu": "malloc then does without caches for each core",
}
_CLONE_THREAD = 0x10000
_TGKILL_SELF = 1
"""A cell is the first process of a namespace of its own."""
_PRCTL = {15: "a thread's name", 16: "likewise", 0x53564D41: "names of memory areas", 3: "dumpable"}
_IOCTL = {0x5421: "FIONBIO", 0x5450: "FIONCLEX", 0x5451: "FIOCLEX", 0x541B: "FIONREAD"}


def writing(filter_file: str) -> str:
    """Return where the filter of stores and object cells is: beside that of all others."""
    return f"{filter_file}-writing"


def program(*, storing: bool = False, outward: bool = False) -> bytes:
    """Return the filter as bubblewrap's `--seccomp` takes it (struct sock_filter, native order):
    a cell's; that of a store or an object cell, which write files; or the egress cell's, which speaks
    to the internet.

    Raises SetupError when libseccomp is not there."""
    try:
        import pyseccomp as seccomp  # which looks for the library at once

        filter_ = _Filter(seccomp)
        more = (*(STORING if storing else ()), *(OUTWARD_CALLS if outward else ()))
        for call in (*CALLS, *more):
            filter_.allow(call)
        for family in OUTWARD_FAMILIES if outward else ():
            filter_.allow("socket", 0, family)
        for call in FALLS_BACK:
            filter_.answer(call, errno.ENOSYS)
        _bound(filter_)
        return filter_.exported()
    except (ImportError, OSError, RuntimeError) as error:
        raise SetupError(
            f"libseccomp does not work here: {error}.", remedy="apt-get install libseccomp2"
        ) from error


def _bound(filter_: "_Filter") -> None:
    """Allow calls for one purpose, told by an argument."""
    filter_.allow("clone", 0, _CLONE_THREAD, mask=_CLONE_THREAD)  # never processes or namespaces
    filter_.allow("socket", 0, socket.AF_UNIX)
    filter_.allow("socketpair", 0, socket.AF_UNIX)
    filter_.allow("tgkill", 0, _TGKILL_SELF)
    filter_.allow("prlimit64", 2, 0)  # reading; writing would name a new limit
    for option in _PRCTL:
        filter_.allow("prctl", 0, option)
    for request in _IOCTL:
        filter_.allow("ioctl", 1, request)


class _Filter:
    """A filter in the making, which refuses all that nobody allows."""

    def __init__(self, seccomp: Any) -> None:
        self._seccomp = seccomp
        self._rules = seccomp.SyscallFilter(seccomp.ERRNO(errno.EPERM))

    def allow(self, call: str, argument: int = 0, value: int | None = None, mask: int = 0) -> None:
        """Allow a call; with `value`, if one of its arguments is that (in the bits of `mask`)."""
        arguments = []
        if mask:
            arguments = [self._seccomp.Arg(argument, self._seccomp.MASKED_EQ, mask, value)]
        elif value is not None:
            arguments = [self._seccomp.Arg(argument, self._seccomp.EQ, value)]
        self._add(self._seccomp.ALLOW, call, *arguments)

    def answer(self, call: str, error: int) -> None:
        """Have a call fail with another error than the usual one."""
        self._add(self._seccomp.ERRNO(error), call)

    def _add(self, action: int, call: str, *arguments: Any) -> None:
        seccomp = self._seccomp
        if seccomp.resolve_syscall(seccomp.system_arch(), call) >= 0:  # else there is none here
            self._rules.add_rule(action, call, *arguments)

    def exported(self) -> bytes:
        """Return the program."""
        with os.fdopen(os.memfd_create("seccomp"), "w+b") as file:
            self._rules.export_bpf(file)
            file.seek(0)
            return file.read()
