"""The search for leaks finds what it is for: every form, in every place."""

import base64
import json
import os
import subprocess
from functools import partial
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from tests.leaks import Planted, forms, in_answers, in_data, in_files, in_processes
from tests.processes import wait_until

PLANTED = Planted("Pl4ntedC0reOfLettersAndDigits")
NEEDLES = forms(PLANTED)


def leaked() -> dict[str, bytes]:
    """Return leaks as software would make them, each within something else."""
    text, data = PLANTED.text, PLANTED.text.encode()
    leaks = {
        "raw": b"error: " + data + b" is wrong",
        "json": json.dumps({"value": text}).encode(),
        "url": f"/path?x={quote(text, safe='')}&y".encode(),
        "form": f"x={quote_plus(text)}&y".encode(),
        "hex": b"0x" + data.hex().encode(),
        "HEX": data.hex().upper().encode(),
        "utf-16": text.encode("utf-16-le"),
        "cut": data[:30],
        "repr": repr(text).encode(),
        "reversed": data[::-1],
    }
    for before in range(4):
        wrapped = b"x" * before + data + b"y"
        leaks[f"base64 after {before}"] = base64.b64encode(wrapped)
        leaks[f"url base64 after {before}"] = base64.urlsafe_b64encode(wrapped)
    return leaks


@pytest.mark.parametrize("kind", leaked())
def test_a_leak_is_found_in_every_form_and_place(kind: str, tmp_path: Path) -> None:
    """A file among others, a file's name, an answer; nothing is found where nothing is."""
    data = leaked()[kind]
    folder = tmp_path / "state"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "other").write_bytes(b"nothing here" * 1_000)
    assert not list(in_files([tmp_path], NEEDLES))
    (folder / "deep" / "leaky").write_bytes(bytes(5_000) + data)
    assert list(in_files([tmp_path], NEEDLES))
    assert list(in_answers({"GET /x": data}, NEEDLES))
    assert not in_data(b"", NEEDLES)


def found_in(pid: int) -> list[str]:
    """Return what is found of a process."""
    return list(in_processes([pid], NEEDLES))


def test_a_leak_is_found_in_the_process_table(tmp_path: Path) -> None:
    """On a command line, and in an environment."""
    for argv, env in (
        (["sh", "-c", "read x; true", PLANTED.text], {}),
        (["sh", "-c", "read x; true"], {"LEAK": base64.b64encode(PLANTED.text.encode()).decode()}),
    ):
        with subprocess.Popen(
            argv, stdin=subprocess.PIPE, env={"PATH": os.environ["PATH"], **env}
        ) as process:
            wait_until(partial(found_in, process.pid), "it is found")
    assert not list(in_processes([os.getpid()], NEEDLES))
    (tmp_path / PLANTED.core).touch()
    assert list(in_files([tmp_path], NEEDLES))
