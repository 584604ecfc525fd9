"""A program that is shut in as a cell is, and tells as JSON what it could do there.

Run by `test_isolation.py` with an interpreter and its library mounted beside; nothing of Kythera is
there. Each attempt is answered by `done` or by the name of the error.
"""

import contextlib
import ctypes
import errno
import json
import os
import platform
import resource
import socket
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
TEMPORARY = "/" + "tmp"
CALLS = {
    "x86_64": {
        "ptrace": (101, 0, 1),
        "mount": (165, b"none", b"/tmp", b"tmpfs", 0, 0),
        "unshare": (272, 0x10000000),
        "setns": (308, 0, 0),
        "bpf": (321, 0, 0, 0),
        "perf_event_open": (298, 0, 0, 0, 0, 0),
        "keyctl": (250, 0, -3, 0),
        "io_uring_setup": (425, 8, 0),
        "userfaultfd": (323, 0),
        "memfd_create": (319, b"x", 0),
        "process_vm_readv": (310, 1, 0, 0, 0, 0, 0),
        "pidfd_open": (434, 1, 0),
        "kill": (62, -1, 0),
        "shmget": (29, 0, 4096, 0o1000),
        "clone3": (435, 0, 0),
        "setuid": (105, 0),
        "reboot": (169, 0, 0, 0),
    }
}


def attempt(do: object, *arguments: object) -> str:
    """Return what came of it."""
    try:
        do(*arguments)  # type: ignore[operator]
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    except ValueError as error:  # how Python puts some of them
        return str(error)
    return "done"


def called(number: int, *arguments: object) -> None:
    """Make a system call, whatever libc thinks of it."""
    libc.syscall.restype = ctypes.c_long
    given = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]  # type: ignore[arg-type]
    if libc.syscall(ctypes.c_long(number), *given) == -1:
        raise OSError(ctypes.get_errno(), "refused")


def connect(family: int, address: object) -> None:
    """Connect a socket."""
    with contextlib.closing(socket.socket(family)) as made:
        made.settimeout(1)
        made.connect(address)  # type: ignore[arg-type]


def write(path: str, n_bytes: int = 1) -> None:
    """Write a file."""
    with open(path, "wb") as file:  # noqa: PTH123 (less is imported)
        file.writelines(b"x" * min(n_bytes, 65_536) for _ in range(0, n_bytes, 65_536))


def seen(own: tuple[str, ...]) -> list[str]:
    """Return every file that can be found, but those below `own`."""
    found = []
    for folder, folders, files in os.walk("/"):
        folders[:] = [n for n in folders if not os.path.join(folder, n).startswith(own)]  # noqa: PTH118
        found += [os.path.join(folder, name) for name in files]  # noqa: PTH118
    return sorted(found)


def descriptors() -> list[int]:
    """Return the numbers of all open descriptors."""
    found = []
    for number in range(1024):
        with contextlib.suppress(OSError):
            os.fstat(number)
            found.append(number)
    return found


def report() -> dict[str, object]:
    """Try everything."""
    inherited = descriptors()
    own = (sys.prefix, "/probe")
    return {
        "descriptors": inherited,
        "files": [path for path in seen(own) if not path.startswith(TEMPORARY)],
        "uid": os.getuid(),
        "pid": os.getpid(),
        "parent": os.getppid(),
        "hostname": platform.node(),
        "environment": sorted(os.environ),
        "limits": {
            "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
            "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        },
        "calls": {
            name: attempt(called, *c) for name, c in CALLS.get(platform.machine(), {}).items()
        },
        "fork": attempt(os.fork),
        "exec_again": attempt(os.execv, "/bin/sh", ["sh"]),
        "inet": attempt(connect, socket.AF_INET, ("127.0.0.1", 80)),
        "inet6": attempt(connect, socket.AF_INET6, ("::1", 80)),
        "netlink": attempt(socket.socket, socket.AF_NETLINK, socket.SOCK_RAW),
        "packet": attempt(socket.socket, 17, socket.SOCK_RAW),
        "vsock": attempt(socket.socket, 40, socket.SOCK_STREAM),
        "unix_abstract": attempt(connect, socket.AF_UNIX, "\0kythera-neighbour"),
        "write_root": attempt(write, "/x"),
        "write_assets": attempt(write, "/assets/x"),
        "temporary": attempt(write, f"{TEMPORARY}/a"),
        "temporary_full": attempt(write, f"{TEMPORARY}/b", 17 * 1024 * 1024),
        "raise_core": attempt(resource.setrlimit, resource.RLIMIT_CORE, (1, 1)),
        "terminal": attempt(lambda: __import__("fcntl").ioctl(1, 0x5412, struct.pack("c", b"x"))),
    }


if __name__ == "__main__":
    print(json.dumps(report()))
