"""What a process has used, read from the kernel.

A process that is gone has used nothing: these never raise for it, because it may end between any
two lines of the caller.
"""

import os
import time
from pathlib import Path

KIB = 1024


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process with all its threads has burnt, in nanosecond steps.

    The kernel keeps a clock for each process; its id is made from the pid (bits 0 and 1: its
    scheduler time). Finer than /proc/PID/stat, whose step is 10 ms, and a call, not a parse."""
    try:
        return time.clock_gettime_ns((~pid << 3) | 2) / 1e9
    except OSError:
        return 0.0


def machine_cpu_seconds() -> tuple[float, float]:
    """Return (busy, all) CPU seconds of this machine's cores together since it booted.

    From the first line of /proc/stat (proc(5)): user nice system idle iowait irq softirq steal,
    where idle and iowait are not busy."""
    with Path("/proc/stat").open("rb") as stat:
        ticks = [int(field) for field in stat.readline().split()[1:9]]
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    return (sum(ticks) - ticks[3] - ticks[4]) * tick_s, sum(ticks) * tick_s


def private_bytes(pid: int) -> int:
    """Return the memory that would come back if the process ended: private clean and dirty."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines()
    except OSError:
        return 0
    wanted = (b"Private_Clean:", b"Private_Dirty:")
    return sum(int(line.split()[1]) for line in lines if line.startswith(wanted)) * KIB


def data_bytes(pid: int) -> int:
    """Return what a process counts against its RLIMIT_DATA (VmData of proc(5)); 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_bytes().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(b"VmData:")) * KIB


def machine_memory_bytes() -> tuple[int, int]:
    """Return (used, all) bytes of this machine's memory; what the kernel could free is not used.

    From /proc/meminfo (proc(5))."""
    fields = {}
    for line in Path("/proc/meminfo").read_bytes().splitlines():
        name, _, rest = line.partition(b":")
        fields[name] = int(rest.split()[0]) * KIB
    total = fields[b"MemTotal"]
    return total - fields.get(b"MemAvailable", fields[b"MemFree"]), total


def age_s(pid: int) -> float:
    """Return how long a process has run; 0 when it is gone."""
    started = start_time(pid)
    return 0.0 if started is None else time.clock_gettime(time.CLOCK_BOOTTIME) - started


def start_time(pid: int) -> float | None:
    """Return when a process started, in seconds since the machine booted; None when it is gone.

    With the pid it names a process for ever: pids come back, pairs do not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    after_name = stat[stat.rindex(b")") + 2 :].split()
    return int(after_name[19]) / os.sysconf("SC_CLK_TCK")
