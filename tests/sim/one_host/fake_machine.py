"""A machine that serves nothing: says that it is ready, has a child, answers commands, ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path


def be_machine(folder: Path, token: str) -> None:
    """Say ready, then wait for the end; a folder with `refuse` in it never gets that far."""
    if (folder / "refuse").exists():
        sys.exit("there is no room for me")
    known = json.loads((folder / "fleet" / "links.json").read_text())
    (folder / "seen.json").write_text(json.dumps({"links": known, "token": token}))
    (folder / "fleet" / "membership.json").write_text("{}")
    with subprocess.Popen(["sleep", "1000"]) as child:
        (folder / "child").write_text(str(child.pid))

        def end(*_: object) -> None:
            child.kill()
            with (folder.parent / "ended").open("a") as order:
                order.write(f"{folder.name} ")
            os._exit(0)

        signal.signal(signal.SIGTERM, end)
        event = {"event": "ready", "account_id": "acc", "http": "http://h", "api": "http://a"}
        print(json.dumps(event), flush=True)  # noqa: T201
        child.wait()


def answer(folder: Path, words: list[str]) -> None:
    """Note what was asked, and answer `token create`."""
    with (folder.parent / "asked").open("a") as asked:
        asked.write(f"{folder.name}: {' '.join(words)}\n")
    print(json.dumps({"token": f"token-of-{folder.name}"}))  # noqa: T201


if __name__ == "__main__":
    if sys.argv[1] == "up":
        be_machine(Path(sys.argv[2]), sys.argv[3])
    else:
        answer(Path(sys.argv[2]), sys.argv[3:])
