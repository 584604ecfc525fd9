"""The JavaScript that stands before a worker's own, and the mark of what it prints.

A cell that nobody watches prints one line for each uncaught exception of a request: the mark,
then JSON with `ray`, `name`, `message` and `stack`. A worker can forge such a line, to its own
log alone. Stack traces show the worker's own modules, lines and columns. A script in
service-worker format is left as it is: a worker of ours beside it (console.js) takes its traces
and prints, for workerd would print nothing of such a script.

Before all of it comes the module that makes clocks stand still (decisions/0010), unless a version
has `clocks: running`. It is no module of the worker's bundle but an extension of workerd's: nothing
that was uploaded has its place, and it needs none on a line of the worker's own. Another extension
carries TLS of a worker's sockets to the egress cell (decisions/0012); a script cannot import sockets.
"""

import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

EXCEPTION_MARKER = "\x01kythera-exception "
SUBREQUESTS_MARKER = "\x01kythera-subrequests "
"""Begins a line that says that a request had no subrequests left, and how many it had had."""
PRELUDE_MODULE = "kythera-prelude.js"
NATIVES_MODULE = "kythera-natives.js"
"""What the prelude imports before the worker's own code has run."""
ENTRY_MODULE = "kythera-entry.js"
"""What lets other workers of the account call this one."""
CLOCKS_MODULE = "kythera:clocks"
SOCKETS_MODULE = "kythera:sockets"
_MAKE_BINDINGS = ("kythera:ratelimit.js", "kythera:shared-secret.js")
AROUND_MODULE = "kythera-around.js"
"""Stands before the prelude itself, where a worker's `fetch` runs within something of ours."""
CONTEXT_MODULE, TOLD_MODULE = "kythera-context.js", "kythera-told.js"
"""What that is: in a worker of a dispatch namespace, and in an outbound worker;"""
SUBREQUESTS_MODULE = "kythera-subrequests.js"
"""and where subrequests are counted."""
OUR_MODULES = (
    *(CLOCKS_MODULE, SOCKETS_MODULE, PRELUDE_MODULE, NATIVES_MODULE, ENTRY_MODULE),
    *(AROUND_MODULE, CONTEXT_MODULE, TOLD_MODULE, SUBREQUESTS_MODULE, "kythera:dispatch.js"),
    *_MAKE_BINDINGS,
)
GETTERS_ON_PROTOTYPE_SINCE = "2022-01-31"
"""Compatibility date of the flag workers_api_getters_setters_on_prototype."""
TRIAL_ENTRYPOINT = "KytheraTrial"

_UNSEEN = re.compile(r"[\t\n\r]")
_FOLDER = Path(__file__).parent / "js"


@cache
def source(name: str) -> str:
    """Return one of our own scripts by its file's name."""
    # JSON's string literals are JavaScript's; the templates have single quotes around a name.
    text = (_FOLDER / name).read_text(encoding="utf-8")
    return text.replace("'%marker%'", json.dumps(EXCEPTION_MARKER))


def module_prelude(main_module: str, first: Sequence[str]) -> str:
    """Return the main module that stands before `main_module` and reports its exceptions.

    `first` are modules of ours to evaluate before all else, by their names."""
    return _standing_before("prelude.js", main_module, first)


def plain_prelude(main_module: str, first: Sequence[str]) -> str:
    """Return the main module that stands before `main_module`, evaluates `first`, and reports nothing."""
    return _standing_before("plain.js", main_module, first)


def trial_prelude(main_module: str, first: Sequence[str]) -> str:
    """Return the main module that tells, on TRIAL_ENTRYPOINT, what `main_module` exports."""
    return _standing_before("trial.js", main_module, first)


def around_modules(main: str, within: Sequence[str]) -> dict[str, str]:
    """Return the modules, the main one first, that run the `fetch` of `main` (one of ours) within
    each of those named; nothing where there are none."""
    found: dict[str, str] = {}
    for number, name in enumerate(within):
        own = AROUND_MODULE if number == 0 else f"{number}-{AROUND_MODULE}"
        text = source("around.js").replace("'%within%'", json.dumps(f"./{name}"))
        found = {own: text.replace("'%inner%'", json.dumps(f"./{main}")), **found}
        found[name] = source(name.removeprefix("kythera-"))
        main = own
    return found


def subrequests_module(most: int) -> str:
    """Return the module that lets each request make `most` subrequests."""
    text = (_FOLDER / "subrequests.js").read_text(encoding="utf-8")
    # Within a template of JavaScript's, the mark's one odd character needs to be written out.
    mark = json.dumps(SUBREQUESTS_MARKER)[1:-1]
    return text.replace("'%limit%'", str(most)).replace("%marker%", mark)


def is_our_name(name: str) -> bool:
    """Tell a name that workerd could take for one of our modules, however it is written."""
    # workerd reads names as paths or as URLs: their parser drops these, unquotes, folds case.
    plain = _UNSEEN.sub("", unquote(_UNSEEN.sub("", name))).lower()
    return any(ours in plain for ours in OUR_MODULES)


def our_extension(*, clocks_stand: bool, tls_sockets: bool, of_script: bool) -> dict[str, Any]:
    """Return the extension of workerd with what is evaluated before a worker's own code.

    A script in service-worker format imports nothing: a binding of workerd's (`clocks_binding`)
    evaluates the clocks' module, which for that has to be an internal one."""
    wanted = {CLOCKS_MODULE: clocks_stand, SOCKETS_MODULE: tls_sockets}
    files = {CLOCKS_MODULE: "clocks.js", SOCKETS_MODULE: "sockets.js"}
    modules = [
        {"name": name, "esModule": source(files[name]), "internal": of_script}
        for name, is_wanted in wanted.items()
        if is_wanted
    ]
    return {"modules": modules}


def clocks_binding() -> dict[str, Any]:
    """Return the binding that sets a script's global `Date`, and stands still all other clocks."""
    return {"name": "Date", "wrapped": {"moduleName": CLOCKS_MODULE}}


def clocks_flags(compatibility_date: str, *, of_script: bool) -> dict[str, str]:
    """Return the compatibility flags that standing clocks need, each with its opposite."""
    flags = {}
    if of_script:  # the other registry of modules has no extensions for scripts
        flags["new_module_registry"] = "legacy_module_registry"
    if compatibility_date < GETTERS_ON_PROTOTYPE_SINCE:  # else a file's time cannot be reached
        flags["workers_api_getters_setters_on_prototype"] = (
            "workers_api_getters_setters_on_instance"
        )
    return flags


def _standing_before(name: str, main_module: str, first: Sequence[str]) -> str:
    # What is imported first is evaluated first, with all that it imports.
    imports = "".join(f"import {json.dumps(module)};\n" for module in first)
    return imports + source(name).replace("'%main%'", json.dumps(main_module))
