"""Control groups, both versions through one door: in folders that look like the kernel's, and, where
this machine has them, for real."""

import os
from pathlib import Path

import pytest

from kythera.ground.cgroups import Groups, find, mark_of
from kythera.ground.forking import Command, base_environment, exit_status, spawn
from tests.processes import wait_until

MIB = 1024 * 1024
OWNER = ("a" * 32, "shop")
LINE = "36 25 0:31 / {point} rw,nosuid - {kind} cgroup rw,{options}\n"


def v1(tmp_path: Path) -> Path:
    """Return a mountinfo of two hierarchies of version 1, and one that is of no use."""
    mounts = tmp_path / "mountinfo"
    points = {"cpu": "cpu,cpuacct", "memory": "memory", "systemd": "name=systemd"}
    text = "22 1 0:20 / /proc rw - proc proc rw\n"
    for name, options in points.items():
        (tmp_path / name).mkdir()
        text += LINE.format(point=tmp_path / name, kind="cgroup", options=options)
    mounts.write_text(text)
    return mounts


def prepare(folder: Path) -> None:
    """Stand in for the kernel, which puts its files into each new group."""
    folder.mkdir(exist_ok=True)
    (folder / "cgroup.procs").touch()


def test_version_1_has_a_folder_for_each_controller(tmp_path: Path) -> None:
    """Goal: shares for the owner, a bound for the process. Method: what is written where."""
    for name in ("cpu", "memory"):
        (tmp_path / name).mkdir()
        prepare(tmp_path / name / "kythera-x")
        (tmp_path / name / "kythera-x" / "cgroup.procs").touch()
    for folder in ("cpu", "memory"):
        assert (tmp_path / folder / "kythera-x").is_dir()
    text = "".join(
        LINE.format(point=tmp_path / name, kind="cgroup", options=name)
        for name in ("cpu", "memory")
    )
    (tmp_path / "mountinfo").write_text(text)
    groups = find("kythera-x", tmp_path / "mountinfo")
    assert (groups.version, groups.missing) == (1, [])
    made = groups.make(OWNER, "p1", 64 * MIB)
    assert made == groups.of(OWNER, "p1")
    assert made.memory is not None
    assert (made.memory / "memory.limit_in_bytes").read_text() == str(64 * MIB)
    assert made.cpu == tmp_path / "cpu" / "kythera-x" / OWNER[0] / OWNER[1]
    assert (made.cpu / "cpu.shares").read_text() == "1024"
    assert len(made.folders) == 2


def test_version_2_has_one_folder_and_hands_controllers_down(tmp_path: Path) -> None:
    """Goal: the same bounds in the other version's words."""
    point = tmp_path / "unified"
    point.mkdir()
    (point / "cgroup.subtree_control").write_text("cpuset cpu io memory pids\n")
    prepare(point / "kythera-x")
    mounts = tmp_path / "mountinfo"
    mounts.write_text(LINE.format(point=point, kind="cgroup2", options="nsdelegate"))
    groups = find("kythera-x", mounts)
    assert (groups.version, groups.missing) == (2, [])
    made = groups.make(OWNER, "p1", 64 * MIB)
    assert made == groups.of(OWNER, "p1")
    assert made.memory == made.cpu == point / "kythera-x" / OWNER[0] / OWNER[1] / "p1"
    assert made.memory is not None
    assert (made.memory / "memory.max").read_text() == str(64 * MIB)
    assert (made.memory / "cpu.weight").read_text() == "100"
    for above in (point / "kythera-x", made.memory.parent.parent, made.memory.parent):
        assert (above / "cgroup.subtree_control").read_text() == "+memory +cpu"
    assert len(made.folders) == 1
    (made.memory / "memory.events").write_text("low 0\nmax 3\noom 1\noom_kill 0\n")
    assert not groups.was_killed_for_memory(made)
    (made.memory / "memory.events").write_text("low 0\nmax 3\noom 1\noom_kill 1\n")
    assert groups.was_killed_for_memory(made)


def test_a_version_2_without_controllers_is_none(tmp_path: Path) -> None:
    """Goal: a hybrid machine, whose controllers version 1 has, is not taken for a unified one."""
    point = tmp_path / "unified"
    point.mkdir()
    (point / "cgroup.subtree_control").write_text("hugetlb\n")
    mounts = tmp_path / "mountinfo"
    mounts.write_text(LINE.format(point=point, kind="cgroup2", options="rw"))
    groups = find("kythera-x", mounts)
    assert groups.missing == ["memory", "cpu"]
    assert groups.make(OWNER, "p", MIB).folders == []
    assert not groups.was_killed_for_memory(groups.of(OWNER, "p"))
    groups.remove(groups.of(OWNER, "p"))
    groups.clear()


def test_no_control_groups_at_all_is_an_answer(tmp_path: Path) -> None:
    """Goal: a container without them runs. Method: no mountinfo; mounts that cannot be written."""
    assert find("kythera-x", tmp_path / "absent").missing == ["memory", "cpu"]
    mounts = tmp_path / "mountinfo"
    mounts.write_text(LINE.format(point="/proc/nowhere", kind="cgroup", options="cpu"))
    assert find("kythera-x", mounts).missing == ["memory", "cpu"]


def test_platforms_have_groups_of_their_own(tmp_path: Path) -> None:
    """Goal: two platforms side by side do not remove each other's."""
    assert mark_of(tmp_path / "a") != mark_of(tmp_path / "b")
    assert mark_of(tmp_path / "a") == mark_of(tmp_path / "b" / ".." / "a")


@pytest.fixture
def real() -> Groups:
    """Return real groups of this test's own, if this machine has any."""
    groups = find(f"kythera-test-{os.getpid()}")
    if groups.memory is None or groups.cpu is None:
        pytest.skip("this machine gives nobody control groups")
    return groups


@pytest.mark.real
def test_a_process_joins_is_bounded_and_leaves_nothing(real: Groups) -> None:
    """Goal: the kernel holds the bound, and tells. Method: a process that eats 64 of 32 MiB."""
    made = real.make(OWNER, "eater", 32 * MIB)
    try:
        script = "x=$(head -c 64M /dev/zero | tr '\\0' x); echo ${#x}"
        command = Command(("sh", "-c", script), base_environment(), cgroups=made.folders)
        _, pidfd = spawn(command)
        statuses: list[int] = []

        def ended() -> bool:
            status = exit_status(pidfd)
            statuses.extend([] if status is None else [status])
            return bool(statuses)

        wait_until(ended, "it has ended", deadline_s=20)
        os.close(pidfd)
        assert statuses != [0]
        assert real.was_killed_for_memory(real.of(OWNER, "eater"))
    finally:
        wait_until(lambda: real.remove(made), "it is empty")
        real.clear()
    assert made.memory is not None
    assert not made.memory.exists()
    assert real.memory is not None
    assert not real.memory.exists()
