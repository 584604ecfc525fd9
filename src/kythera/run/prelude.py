"""The JavaScript that stands before a worker's own, and the mark of what it prints.

A cell that nobody watches prints one line for each uncaught exception of a request: the mark,
then JSON with `ray`, `name`, `message` and `stack`. A worker can forge such a line, to its own
log alone. Stack traces show the worker's own modules, lines and columns.
"""

import json
import re
from functools import cache
from pathlib import Path

EXCEPTION_MARKER = "\x01kythera-exception "
PRELUDE_MODULE = "kythera-prelude.js"
TRIAL_ENTRYPOINT = "KytheraTrial"

_FOLDER = Path(__file__).parent / "js"
_COMMENT = re.compile(r"^\s*//.*$", re.MULTILINE)
_STRICT = re.compile(r"""(?:\s|//[^\n]*\n|/\*.*?\*/)*(["'])use strict\1""", re.DOTALL)


@cache
def source(name: str) -> str:
    """Return one of our own scripts by its file's name."""
    return (_FOLDER / name).read_text(encoding="utf-8")


def module_prelude(main_module: str) -> str:
    """Return the main module that stands before `main_module` and reports its exceptions."""
    return _standing_before("prelude.js", main_module)


def trial_prelude(main_module: str) -> str:
    """Return the main module that tells, on TRIAL_ENTRYPOINT, what `main_module` exports."""
    return _standing_before("trial.js", main_module)


def _standing_before(name: str, main_module: str) -> str:
    # JSON's string literals are JavaScript's; the template has single quotes around its name.
    text = source(name).replace("'%main%'", json.dumps(main_module))
    return text.replace("'%marker%'", json.dumps(EXCEPTION_MARKER))


def watched_script(script: str) -> str:
    """Return a script in service-worker format with our watching put on its first line.

    No line moves; in the first one columns do, which the watcher takes off again in what it
    reports. A leading "use strict" stays in force; a script with a hashbang is left alone."""
    if script.startswith("#!"):
        return script
    strict = '"use strict";' if _STRICT.match(script) else ""
    text = _COMMENT.sub("", source("service_worker.js"))
    text = " ".join(line.strip() for line in text.splitlines() if line.strip())
    text = strict + text.replace("'%marker%'", json.dumps(EXCEPTION_MARKER))
    # The number is part of the text it measures: pad it to a fixed width.
    width = len(text) - len("%columns%") + 4
    return text.replace("%columns%", f"{width:4d}") + script
