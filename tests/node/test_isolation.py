"""What a host can do to shut cells in, and what is true from inside: tried by a native program and
by a worker, under the very same sandbox."""

import _ctypes
import json
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from kythera.cli.checks import WHOLE_ISOLATION
from kythera.cli.checks import isolation as doctor
from kythera.ground import families
from kythera.ground.forking import inner_process
from kythera.ground.layout import Layout
from kythera.ground.processes import child
from kythera.model.errors import SetupError
from kythera.model.limits import Limits
from kythera.node.isolation import asked, probed
from kythera.node.isolation_probe import examine, libraries
from kythera.run.sandbox import ASSETS, CORES, UID_FIRST, ShutIn, confine, uid_of
from kythera.run.workerd import find_workerd
from tests.run.starting import ACCOUNT, Workshop, host_isolation

pytestmark = pytest.mark.real
WITHIN_S = 30.0
PROGRAMS = ("ldd", "bash", "sh", "env", "cat")


@pytest.fixture
def without_bubblewrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take bubblewrap off the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in PROGRAMS:
        (folder / name).symlink_to(shutil.which(name) or name)
    monkeypatch.setenv("PATH", str(folder))


def state(tmp_path: Path) -> Layout:
    """Return a state folder."""
    layout = Layout(tmp_path / "state")
    layout.state.mkdir()
    return layout


def test_this_host_is_tried_and_the_answer_is_remembered(tmp_path: Path) -> None:
    """Goal: a second start does not try again what worked; a damaged memory is no memory."""
    layout = state(tmp_path)
    found = probed(layout, Limits(), strict=os.geteuid() == 0)
    assert found.bubblewrap
    assert found.data_bytes_idle > 0
    assert Path(found.seccomp).stat().st_size > 100
    kept = layout.state / "isolation.json"
    if not found.weaker:
        before = kept.stat().st_mtime_ns
        assert probed(layout, Limits(), strict=True) == found
        assert kept.stat().st_mtime_ns == before
        kept.write_bytes(b'["another mark", {"uids": true}]')
        again = probed(layout, Limits(), strict=True)
        assert (again.uids, again.seccomp, again.weaker) == (True, found.seccomp, ())


def test_what_is_missing_is_said_and_strict_refuses(
    tmp_path: Path, without_bubblewrap: None
) -> None:
    """Goal: nobody believes in a sandbox that is not there."""
    layout = state(tmp_path)
    found = probed(layout, Limits(), strict=False)
    assert (found.bubblewrap, found.uids) == ("", False)
    assert found.data_bytes_idle > 0
    assert len(found.weaker) == 1 or os.geteuid() != 0  # who is not root lacks more
    assert any("without a sandbox: apt-get install bubblewrap" in said for said in found.weaker)
    assert not (layout.state / "isolation.json").exists()
    with pytest.raises(SetupError, match="apt-get install bubblewrap"):
        probed(layout, Limits(), strict=True)
    verdict = doctor()
    assert verdict.level == "warn"
    assert "without a sandbox" in verdict.text
    assert "strict" in verdict.remedy


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives cells other uids")
def test_a_program_that_others_may_not_run_is_named_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: root with umask 077 hears what to do. Method: a copy that its owner alone may run."""
    private = tmp_path / "workerd"
    shutil.copyfile(find_workerd(), private)
    private.chmod(0o700)
    monkeypatch.setattr("kythera.node.isolation_probe.find_workerd", lambda: private)
    found = examine(tmp_path / "seccomp.bpf", Limits())
    assert found.bubblewrap
    assert not found.uids
    assert f"chmod a+rx {private}" in found.weaker[0]
    assert not any("as root" in said for said in found.weaker)
    private.chmod(0o755)
    assert examine(tmp_path / "seccomp.bpf", Limits()).uids


def test_doctor_says_that_all_is_there() -> None:
    """Goal: on a host that can do all of it, the doctor says what that is."""
    if os.geteuid() == 0:
        assert (doctor().level, doctor().text) == ("ok", WHOLE_ISOLATION)


def test_without_the_filter_cells_run_with_a_word(tmp_path: Path) -> None:
    """Goal: a part that fails takes no other part with it. Method: the filter cannot be written."""
    found = asked(tmp_path / "no such folder" / "seccomp.bpf", Limits())
    assert found.bubblewrap
    assert not found.seccomp
    assert any("system call" in sentence for sentence in found.weaker)


async def probe(tmp_path: Path) -> dict[str, Any]:
    """Run the native probe in a cell's sandbox; return what it told."""
    isolation = host_isolation()
    program, home = Path(sys.executable).resolve(), Path(sys.base_prefix)
    folder, assets = tmp_path / "probe", tmp_path / "assets"
    for made in (folder, assets):
        made.mkdir(mode=0o755)
    shutil.copy(Path(__file__).with_name("native_probe.py"), folder / "probe.py")
    cell = ShutIn(
        program=program,
        arguments=["-S", "-s", "/probe/probe.py"],
        account=ACCOUNT,
        memory_mib=128,
        folders={home: home, Path("/probe"): folder, ASSETS: assets},
    )
    own = msgspec.structs.replace(isolation, libraries=beside(program))
    read_end, write_end = os.pipe()
    given = [write_end]
    if isolation.seccomp:
        given.append(os.open(isolation.seccomp, os.O_RDONLY))
    shut = confine(cell, own, Limits(), info=str(write_end), seccomp=str(given[-1]))
    env = {"PYTHONHOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        with anyio.fail_after(WITHIN_S):
            async with child(
                shut.argv,
                env=env,
                pass_fds=given,
                rlimits=shut.rlimits,
                uid=shut.uid,
                stage=shut.stage,
            ) as process:
                output = await process.read_output()
    finally:
        for descriptor in (read_end, *given):
            os.close(descriptor)
    assert output.stdout, output.stderr.decode()
    told: dict[str, Any] = json.loads(output.stdout)
    return told


def beside(program: Path) -> tuple[str, ...]:
    """Return the libraries of an interpreter that are not below its own folder."""
    parts = (program, getattr(_ctypes, "__file__", None))
    found = {path for part in parts if part for path in libraries(Path(part))}
    return tuple(sorted(path for path in found if not path.startswith(sys.base_prefix)))


@pytest.mark.anyio
async def test_a_native_program_in_a_cells_sandbox_reaches_nothing(tmp_path: Path) -> None:
    """Goal: what holds a worker holds whoever breaks out of V8. Method: a program that tries."""
    told = await probe(tmp_path)
    isolation = host_isolation()
    assert {Path(path).name for path in told["files"]} == {
        "workerd",
        *(Path(path).name for path in beside(Path(sys.executable).resolve())),
        *([Path(CORES).name] if Path(CORES).exists() else []),
    }
    assert told["pid"] == 1, "a process namespace of its own"
    assert told["parent"] <= 0, "nobody it could name"
    assert told["uid"] == 65534
    assert told["hostname"] == "cell"
    python = {"PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "PWD", "LC_CTYPE"}
    assert set(told["environment"]) <= {families.MARK, *python}
    assert told["limits"] == {"core": 0, "files": Limits().open_files_max}
    for name in ("inet", "inet6", "netlink", "packet", "vsock", "fork", "write_root"):
        assert told[name] != "done", name
    assert told["unix_abstract"] != "done"
    assert told["write_assets"] == "EROFS"
    assert told["raise_core"] != "done"
    assert (told["temporary"], told["temporary_full"]) == ("done", "ENOSPC")
    if isolation.seccomp:
        refused = {name: error for name, error in told["calls"].items() if error != "EPERM"}
        assert set(refused) <= {"clone3"}, "refused by the filter, not by luck"
        assert told["inet"] == told["netlink"] == "EPERM"


@pytest.mark.anyio
async def test_a_native_program_holds_the_descriptors_it_was_given(tmp_path: Path) -> None:
    """Goal: nothing of ours leaks in. Method: open many here, count those inside."""
    with (tmp_path / "secret").open("w+b") as secret, socket.socket() as other:
        os.set_inheritable(secret.fileno(), True)
        os.set_inheritable(other.fileno(), True)
        told = await probe(tmp_path)
    # 0, 1, 2, and the one that this test passes on purpose (a cell's are its sockets and control).
    assert len(told["descriptors"]) <= 4, told["descriptors"]


@pytest.mark.anyio
async def test_a_cell_is_who_its_account_is_and_ends_with_its_keeper(tmp_path: Path) -> None:
    """Goal: uid by account, no capability, no new privileges; and nothing outlives the outside."""
    workshop = Workshop(tmp_path)
    version = workshop.worker("export default { fetch() { return new Response('hello'); } };")
    async with workshop.cell(version) as cell:
        status = Path(f"/proc/{cell.process.working_pid}/status").read_text()
        told = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        uids = {int(word) for word in told["Uid"].split()}
        assert uids == ({uid_of(ACCOUNT)} if host_isolation().uids else {os.geteuid()})
        assert uid_of(ACCOUNT) >= UID_FIRST
        assert int(told["CapEff"], 16) == 0
        assert told["NoNewPrivs"] == "1"
        if host_isolation().seccomp:
            assert told["Seccomp"] == "2"
        assert cell.process.working_pid != cell.process.pid
    assert not Path(f"/proc/{cell.process.working_pid}").exists()


def test_another_process_with_that_number_is_not_taken_for_the_one_inside() -> None:
    """Goal: nobody is killed by mistake. Method: name a pid whose parent is somebody else."""
    assert inner_process(b'{\n    "child-pid": 1\n}', os.getpid()) is None
    assert inner_process(b"{", os.getpid()) is None
