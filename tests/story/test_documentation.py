"""Every command that README.md and docs/ show is run here, in order, against a real platform.

A block opens with ```console. `$ ` begins a command, `> ` continues it, other lines are what it
prints: each must appear in this order, `…` stands for anything, a line of `…` alone for any lines.
A block marked `background` is a terminal of its own: its command runs while the next block does,
and what it prints may come until then. A look at a worker (`curl`) is repeated until a deadline,
for on a busy machine a change may be served a moment after it was taken. Ports in the text stand for free ones. Commands that
another test checks, or that would leave this machine, are named in ELSEWHERE with the reason.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
import pytest

from kythera.cli.main import kythera
from tests.platforms import ROOT, RunningPlatform, clean_environment, running
from tests.processes import wait_until

DOCUMENTS = (
    "README.md",
    "docs/1-deploy.md",
    "docs/2-distribute.md",
    "docs/3-confine.md",
    "docs/4-keep.md",
    "docs/data/cron.md",
    "docs/data/queues.md",
    "docs/data/workflows.md",
    "docs/data/cache.md",
    "docs/operate/5-back-up.md",
    "docs/operate/6-tokens-and-audit.md",
    "docs/operate/7-keys-and-workerd.md",
)
COMMAND_S_MAX = 60.0
BACKGROUND_S_MAX = 30.0
SERVED_S_MAX = 10.0
"""On a busy machine; on a quiet one it is well under a second."""
WRANGLER = ROOT / "tests/wrangler/4.86.0/node_modules/wrangler/bin/wrangler.js"
FENCE = re.compile(r"^```console(?P<words>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
PORT = re.compile(r"(?<=:)(8\d{3})\b")
PLATFORM_PORTS = {"8080": "http", "8787": "api"}

ELSEWHERE = {
    "make up": "tests/test_setup.py; the platform here was started by the same command line",
    "make test": "it is what runs this",
    "make check": "it is part of `make test`",
    "make bench": "run by hand: it measures for minutes",
    'export PATH="$PWD/.venv/bin:$PATH"': "the command under test is on PATH here",
}


@dataclass
class Step:
    """One command and the lines that its output must hold."""

    command: str
    expected: list[str] = field(default_factory=list)


@dataclass
class Block:
    """The steps of one fence."""

    steps: list[Step]
    background: bool


def blocks(text: str) -> list[Block]:
    """Return the console blocks of a document."""
    return [
        Block(steps(found["body"]), background="background" in found["words"])
        for found in FENCE.finditer(text)
    ]


def steps(body: str) -> list[Step]:
    """Return the commands of a block with what each prints."""
    found: list[Step] = []
    for line in body.splitlines():
        if line.startswith("$ "):
            found.append(Step(line.removeprefix("$ ")))
        elif line.startswith("> "):
            found[-1].command += "\n" + line.removeprefix("> ")
        else:
            assert found, f"output before any command: {line!r}"
            found[-1].expected.append(line)
    return found


def missing(expected: list[str], output: str) -> str | None:
    """Return the first expected line that the output does not hold in its place, or None."""
    lines = iter(output.splitlines())
    for wanted in expected:
        if wanted.strip() in ("…", ""):
            continue
        pattern = re.compile(".*".join(re.escape(part.strip()) for part in wanted.split("…")))
        if not any(pattern.search(line) for line in lines):
            return wanted
    return None


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Reader:
    """Types what a document says, in one folder, with one environment that commands may change."""

    def __init__(self, platform: RunningPlatform, folder: Path) -> None:
        self.folder = folder
        self.directory = folder / "clone"
        self.variables = environment(platform, folder)
        self.ports = {
            shown: str(getattr(platform, door)).removesuffix("/client/v4").rpartition(":")[2]
            for shown, door in PLATFORM_PORTS.items()
        }

    def real(self, text: str) -> str:
        """Return a text of the document with the ports it has here."""

        def port(match: re.Match[str]) -> str:
            return self.ports.setdefault(match[1], str(free_port()))

        return PORT.sub(port, text)

    def type(self, step: Step) -> str:
        """Run one command to its end; keep where it went and what it set; return its output."""
        after = self.folder / "after"
        script = f"set -o pipefail\n{self.real(step.command)}\ncode=$?\n"
        script += f"pwd > {after}.pwd; env -0 > {after}.env; exit $code"
        # Variables set without `export` must reach the next command too.
        done = subprocess.run(
            ["bash", "-a", "-c", script],
            cwd=self.directory,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_S_MAX,
            check=False,
        )
        self.directory = Path(Path(f"{after}.pwd").read_text().rstrip("\n"))
        pairs = Path(f"{after}.env").read_text().rstrip("\0").split("\0")
        self.variables = dict(pair.split("=", 1) for pair in pairs)
        output = done.stdout.decode(errors="replace")
        fails = any(line.startswith("Error: ") for line in step.expected)
        assert (done.returncode != 0) == fails, f"$ {step.command}\n{output}"
        return output

    def check(self, step: Step) -> None:
        """Run one command; its output must hold what the document shows."""
        if step.command in ELSEWHERE:
            return
        wanted = [self.real(each) for each in step.expected]
        end = time.monotonic() + (SERVED_S_MAX if "curl " in step.command else 0)
        output = self.type(step)
        while (line := missing(wanted, output)) is not None and time.monotonic() < end:
            output = self.type(step)
        assert line is None, f"$ {step.command}\ndid not print {line!r} but\n{output}"

    @contextmanager
    def terminal(self, step: Step, number: int) -> Iterator[Path]:
        """Run one command in a terminal of its own until the block ends; yield its output file."""
        heard = self.folder / f"terminal-{number}"
        with heard.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {self.real(step.command)}"],
                cwd=self.directory,
                env={**self.variables, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            yield heard
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(BACKGROUND_S_MAX)


def environment(platform: RunningPlatform, folder: Path) -> dict[str, str]:
    """Return what a reader's shell has: our command, a wrangler, and this platform's state."""
    programs = folder / "bin"
    programs.mkdir()
    write_program(programs / "kythera", f'exec {sys.executable} -m kythera.cli "$@"')
    write_program(programs / "wrangler", f'exec node {WRANGLER} "$@"')
    home = folder / "home"
    home.mkdir()
    return clean_environment(
        PATH=f"{programs}:{os.environ['PATH']}",
        HOME=str(home),
        KYTHERA_STATE=str(platform.state),
        PYTHONPATH=str(ROOT / "src"),
        CI="true",
        NO_COLOR="1",
    )


def write_program(path: Path, line: str) -> None:
    """Write a shell script that can be run."""
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def read_through(document: Path, reader: Reader) -> None:
    """Do all that a document says."""
    waiting: list[tuple[Step, Path]] = []
    with ExitStack() as terminals:
        for number, block in enumerate(blocks(document.read_text())):
            if block.background:
                (step,) = block.steps
                heard = terminals.enter_context(reader.terminal(step, number))
                first = [line for line in step.expected if line.strip() != "…"][:1]
                expect(reader, step, heard, first)
                waiting.append((step, heard))
                continue
            for step in block.steps:
                reader.check(step)
            for step, heard in waiting:
                expect(reader, step, heard, step.expected, again=block.steps)
            waiting.clear()


def expect(
    reader: Reader, step: Step, heard: Path, lines: list[str], again: list[Step] | None = None
) -> None:
    """Wait until a terminal shows these lines; `again` is what a reader would repeat meanwhile."""
    wanted = [reader.real(line) for line in lines]

    def shown() -> bool:
        if missing(wanted, heard.read_text(errors="replace")) is None:
            return True
        for other in again or []:
            reader.check(other)
        return False

    what = f"$ {step.command} shows {wanted}"
    try:
        wait_until(shown, what, deadline_s=BACKGROUND_S_MAX)
    except AssertionError as error:
        raise AssertionError(f"{error}\nbut\n{heard.read_text(errors='replace')}") from None


@pytest.mark.real
@pytest.mark.story
@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_reader_can_type_every_command_of_this_document(name: str, tmp_path: Path) -> None:
    """A platform as `make up` starts it, a copy of the examples, a shell, and the document."""
    with running(tmp_path / "state", "--example") as platform:
        platform.wait_for("hello", "Hello, Ada!", "/Ada", deadline_s=20)
        folder = tmp_path / "reader"
        (folder / "clone").mkdir(parents=True)
        shutil.copytree(ROOT / "examples", folder / "clone" / "examples")
        read_through(ROOT / name, Reader(platform, folder))


def test_every_document_for_readers_is_read() -> None:
    """A page of docs/ with commands that no test runs would rot."""
    pages = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))]
    others = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", *pages]
    with_commands = {name for name in others if blocks((ROOT / name).read_text())}
    assert with_commands <= set(DOCUMENTS)
    assert set(DOCUMENTS) <= with_commands


def test_shell_commands_stand_only_where_they_are_run() -> None:
    """No other kind of fence hides a command from the test above."""
    for name in DOCUMENTS:
        kinds = re.findall(r"^```(\S+)", (ROOT / name).read_text(), re.MULTILINE)
        assert set(kinds) <= {"console", "text", "js", "jsonc", "python"}, name


OPERATE = sorted(path.name for path in (ROOT / "docs/operate").glob("*.md"))


@pytest.mark.parametrize("name", OPERATE)
def test_commands_that_need_root_are_spelled_as_our_programs_take_them(name: str) -> None:
    """What operators type on real machines cannot all be run here; that we take it can be seen."""
    fences = re.findall(
        r"^```sh\n(.*?)^```$", (ROOT / "docs/operate" / name).read_text(), re.DOTALL | re.MULTILINE
    )
    lines = [line for fence in fences for line in fence.splitlines()]
    typed = [line.removeprefix("kythera ") for line in lines if line.startswith("kythera ")]
    typed += [
        f"up {line.partition('=')[2]}" for line in lines if line.startswith("KYTHERA_OPTIONS=")
    ]
    for words in typed:
        understand(words.split())


def understand(words: list[str]) -> None:
    """Read a command line as our program does, without doing it. Raises what click would say."""
    command: click.Command = kythera
    context = click.Context(command)
    while isinstance(command, click.Group):
        name = words.pop(0)
        found = command.get_command(context, name)
        assert found is not None, f"there is no command {name!r}"
        command = found
    command.make_context(command.name, words)


def test_a_command_that_is_spelled_wrong_is_found() -> None:
    """A checker that cannot fail proves nothing."""
    with pytest.raises(click.UsageError):
        understand(["status", "--stat", "x"])
    with pytest.raises(AssertionError, match="no command"):
        understand(["nonsense"])


def test_links_between_documents_lead_somewhere() -> None:
    """Files named in links exist, and so do the headings."""
    for document in [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *ROOT.glob("decisions/*.md"),
    ]:
        text = document.read_text()
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (document.parent / target).exists(), f"{document.name} -> {target}"
        for anchor in re.findall(r"\]\(#([^)]+)\)", text):
            headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
            assert anchor in slugs, f"{document.name} -> #{anchor}"


@pytest.mark.parametrize(
    ("expected", "output", "lacking"),
    [
        (["a", "…", "c"], "x\na\nb\nc\n", None),
        (["c", "a"], "a\nc\n", "a"),
        (["Version …"], "Version 1234\n", None),
        (["Version … ok"], "Version 1234\n", "Version … ok"),
        (["…"], "", None),
    ],
)
def test_expected_lines_must_come_in_order(
    expected: list[str], output: str, lacking: str | None
) -> None:
    """A checker that cannot fail proves nothing."""
    assert missing(expected, output) == lacking


def test_a_block_is_commands_continuations_and_output() -> None:
    """The small grammar of these documents."""
    (found,) = blocks("text\n```console background\n$ cat <<END\n> x\n> END\nx\n$ true\n```\n")
    assert found.background
    assert found.steps == [Step("cat <<END\nx\nEND", ["x"]), Step("true")]
