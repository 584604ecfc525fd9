"""What a cell is started with: the strongest way that the host has, and nothing beside it."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from kythera.ground.forking import STAGE
from kythera.model.limits import MIB, Limits
from kythera.model.platform import Isolation
from kythera.model.records import Confinement
from kythera.run.sandbox import (
    ASSETS,
    UID_FIRST,
    UIDS,
    ShutIn,
    confine,
    data_bytes_max,
    memory_mib,
    uid_of,
)
from kythera.run.seccomp import CALLS, FALLS_BACK, OUTWARD_CALLS, program
from tests.run.starting import Workshop

WHOLE = Isolation(
    bubblewrap="/usr/bin/bwrap",
    libraries=("/lib/libc.so.6",),
    seccomp="/state/seccomp.bpf",
    uids=True,
    data_bytes_idle=500 * MIB,
)
CELL = ShutIn(
    program=Path("/far/workerd"),
    arguments=["serve", "-"],
    account="a" * 32,
    memory_mib=64,
    folders={ASSETS: Path("/state/assets/1")},
)
SENSITIVE = (
    "ptrace process_vm_readv process_vm_writev mount umount2 pivot_root chroot setns unshare bpf "
    "perf_event_open keyctl add_key request_key io_uring_setup io_uring_enter userfaultfd "
    "memfd_create open_by_handle_at name_to_handle_at kexec_load init_module finit_module reboot "
    "swapon setuid setgid setresuid setgroups capset fork vfork kill tkill inotify_init1 "
    "fanotify_init quotactl acct settimeofday clock_settime adjtimex personality modify_ldt "
    "ioperm iopl seccomp landlock_create_ruleset pidfd_open pidfd_getfd pidfd_send_signal "
    "sched_setaffinity setpriority mlockall shmget msgget semget unlink unlinkat rename mkdir "
    "symlink link chmod chown truncate ftruncate mknod splice vmsplice"
).split()


def test_a_whole_sandbox_has_everything() -> None:
    """Goal: each promise stands on the command line."""
    shut = confine(CELL, WHOLE, Limits())
    line = " ".join(shut.argv)
    assert shut.argv[0] == "/usr/bin/bwrap"
    assert "--unshare-all" in line
    assert "--die-with-parent" in line
    assert "--cap-drop ALL" in line
    assert "--setenv KYTHERA_FAMILY {family}" in line, "by which it is found, whoever its parent is"
    assert "--seccomp {file:/state/seccomp.bpf}" in line
    assert "--info-fd {info}" in line
    assert "--ro-bind /lib/libc.so.6 /lib/libc.so.6" in line
    assert f"--ro-bind {STAGE}/bin-workerd /bin/workerd" in line
    assert f"--ro-bind {STAGE}/assets /assets" in line
    assert shut.stage == {"bin-workerd": "/far/workerd", "assets": "/state/assets/1"}
    assert line.endswith("--remount-ro / --chdir / -- /bin/workerd serve -")
    assert "--bind " not in line
    assert "--dev" not in line
    assert "--proc" not in line
    assert shut.uid == uid_of(CELL.account)


def test_the_egress_cell_has_the_network_and_its_own_list_of_calls() -> None:
    """Goal: nothing is opened to a cell for its sake."""
    outward = replace(CELL, outward=True)
    isolation = msgspec.structs.replace(WHOLE, seccomp_outward="/state/outward.bpf")
    shut = confine(outward, isolation, Limits())
    assert shut.argv[1:].index("--share-net") > shut.argv[1:].index("--unshare-all")
    assert "{file:/state/outward.bpf}" in shut.argv
    assert "RLIMIT_NOFILE" not in shut.rlimits
    assert "--share-net" not in confine(CELL, isolation, Limits()).argv
    assert len(program(outward=True)) > len(program())


def test_without_root_the_paths_are_its_own() -> None:
    """Goal: nothing is staged where nobody can stage it; and no uid is asked for."""
    shut = confine(CELL, Isolation(bubblewrap="/bwrap"), Limits())
    assert "--ro-bind /far/workerd /bin/workerd" in " ".join(shut.argv)
    assert (shut.uid, dict(shut.stage)) == (None, {})
    assert "--seccomp" not in shut.argv


def test_without_bubblewrap_the_rlimits_stay() -> None:
    """Goal: what the kernel does for anybody is done."""
    shut = confine(CELL, Isolation(data_bytes_idle=500 * MIB), Limits(open_files_max=100))
    assert shut.argv == ["/far/workerd", "serve", "-"]
    assert shut.rlimits["RLIMIT_CORE"] == 0
    assert shut.rlimits["RLIMIT_NOFILE"] == 100
    assert shut.rlimits["RLIMIT_DATA"] == data_bytes_max(64, 500 * MIB)


def test_accounts_have_uids_of_their_own_that_stay() -> None:
    """Goal: one account's cells are strangers to another's, on each machine alike."""
    uids = {uid_of(f"{number:032x}") for number in range(1_000)}
    assert len(uids) == 1_000
    assert all(UID_FIRST <= uid < UID_FIRST + UIDS for uid in uids)
    assert uid_of("a") == uid_of("a")


def test_memory_is_what_was_asked_up_to_the_most(workshop: Workshop) -> None:
    """Goal: a record that another machine checked against other limits is still bounded here."""
    version = workshop.version(confinement=Confinement(memory_mib=4_000))
    assert memory_mib(version, Limits(memory_mib_max=256)) == 256
    assert memory_mib(workshop.version(), Limits(heap_mib_max=96)) == 96
    assert memory_mib(workshop.version(), Limits(heap_mib_max=0)) == 0


def test_every_call_that_is_allowed_says_why() -> None:
    """Goal: the list is read by people. Method: a reason for each; none for what is dangerous."""
    assert all(len(reason) > 5 for reason in (*CALLS.values(), *OUTWARD_CALLS.values()))
    assert not set(SENSITIVE) & (CALLS.keys() | FALLS_BACK.keys() | OUTWARD_CALLS.keys())


@pytest.mark.parametrize("run", range(2))
def test_the_filter_is_the_same_each_time(run: int) -> None:
    """Goal: it is made at each start. Method: whole instructions of eight bytes, always the same."""
    assert len(program()) % 8 == 0
    assert program() == program()
