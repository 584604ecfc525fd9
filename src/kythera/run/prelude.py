"""The JavaScript that stands before a worker's own, and the mark of what it prints.

A cell that nobody watches prints one line for each uncaught exception of a request: the mark,
then JSON with `ray`, `name`, `message` and `stack`. A worker can forge such a line, to its own
log alone. Stack traces show the worker's own modules, lines and columns. A script in
service-worker format is left as it is: a worker of ours beside it (console.js) takes its traces
and prints, for workerd would print nothing of such a script.
"""

import json
from functools import cache
from pathlib import Path

EXCEPTION_MARKER = "\x01kythera-exception "
PRELUDE_MODULE = "kythera-prelude.js"
TRIAL_ENTRYPOINT = "KytheraTrial"

_FOLDER = Path(__file__).parent / "js"


@cache
def source(name: str) -> str:
    """Return one of our own scripts by its file's name."""
    # JSON's string literals are JavaScript's; the templates have single quotes around a name.
    text = (_FOLDER / name).read_text(encoding="utf-8")
    return text.replace("'%marker%'", json.dumps(EXCEPTION_MARKER))


def module_prelude(main_module: str) -> str:
    """Return the main module that stands before `main_module` and reports its exceptions."""
    return _standing_before("prelude.js", main_module)


def trial_prelude(main_module: str) -> str:
    """Return the main module that tells, on TRIAL_ENTRYPOINT, what `main_module` exports."""
    return _standing_before("trial.js", main_module)


def _standing_before(name: str, main_module: str) -> str:
    return source(name).replace("'%main%'", json.dumps(main_module))
