"""The house rules that a program can check, each a pure function from source text to complaints.

A complaint is `path:line: sentence`. A rule that has exceptions names each with its reason, here,
and nowhere else.
"""

import ast
import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

FUNCTION_LINES_MAX = 70
FUNCTION_LINES_MEDIAN_MAX = 10
MODULE_LINES_MAX = 600
FORBIDDEN_NAMES = ("util", "utils", "helper", "helpers", "manager", "common", "misc")
UNFINISHED = re.compile(
    r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK")) + r")\b"
)
ADDRESSES = re.compile(
    "|".join(("registry" + r"\.npmjs", "files" + r"\.pythonhosted", r"\bpypi" + r"\.org"))
    + r"|(?<![\w.~}*])/"
    + "(?:work|home|root|Users|opt)"
    + r"/[\w.-]+"
    + r"|(?<![\w.~}*])/"
    + "tmp"
    + r"/[\w.-]+"
)
"""Package registries' hosts, and folders that exist on one machine alone."""
BINARY = {".png", ".wasm", ".ico", ".gz", ".jpg", ".webp", ".woff2"}


@dataclass(frozen=True)
class Source:
    """One Python file: where it lies in the repository, and its text."""

    path: str
    text: str

    @property
    def tree(self) -> ast.Module:
        """Return the file's syntax tree."""
        return ast.parse(self.text, filename=self.path)

    @property
    def is_test(self) -> bool:
        """Tell whether this file is part of the tests."""
        return self.path.startswith("tests/")

    @property
    def is_product(self) -> bool:
        """Tell whether this file is part of the product."""
        return self.path.startswith("src/")

    def says(self, node: ast.AST, sentence: str) -> str:
        """Return a complaint about a place in this file."""
        return f"{self.path}:{getattr(node, 'lineno', 1)}: {sentence}"


Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST) -> Iterator[Function]:
    """Yield every function and method, nested ones too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def function_lines(node: Function) -> int:
    """Return how many lines of code a function has: its docstring and decorators do not count."""
    assert node.end_lineno is not None
    first = node.body[0]
    told = 0
    if ast.get_docstring(node, clean=False) is not None:
        assert first.end_lineno is not None
        told = first.end_lineno - first.lineno + 1
    return node.end_lineno - node.lineno + 1 - told


def check_sizes(source: Source) -> Iterator[str]:
    """No function over 70 lines, no module over 600."""
    lines = source.text.count("\n")
    if lines > MODULE_LINES_MAX:
        yield f"{source.path}:1: {lines} lines; a module has {MODULE_LINES_MAX} at most"
    for node in functions(source.tree):
        if (length := function_lines(node)) > FUNCTION_LINES_MAX:
            yield source.says(
                node, f"{node.name} has {length} lines; a function has {FUNCTION_LINES_MAX} at most"
            )


def median_function(sources: list[Source]) -> float:
    """Return the median length of all functions."""
    return statistics.median(
        function_lines(node) for source in sources for node in functions(source.tree)
    )


def check_docstrings(source: Source) -> Iterator[str]:
    """Every module, public class, public function and test says what it is for."""
    tree = source.tree
    if not ast.get_docstring(tree):
        yield f"{source.path}:1: the module opens without saying what it is for"
    for node, name in _public(tree):
        if not ast.get_docstring(node):
            yield source.says(node, f"{name} has no docstring")


def _public(tree: ast.Module) -> Iterator[tuple[Function | ast.ClassDef, str]]:
    queue: list[tuple[ast.AST, str]] = [(tree, "")]
    while queue:
        parent, prefix = queue.pop()
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
                if not _is_overload(node):
                    yield node, prefix + node.name
                if isinstance(node, ast.ClassDef):
                    queue.append((node, f"{prefix}{node.name}."))


def _is_overload(node: Function | ast.ClassDef) -> bool:
    ends = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
    return bool(ends & {"overload", "override", "setter"})


def check_names(source: Source) -> Iterator[str]:
    """A file or class is named after what it is, not after being useful."""
    for word in re.split(r"[/_.]", source.path):
        if word.lower() in FORBIDDEN_NAMES:
            yield f"{source.path}:1: the name says nothing: {word}"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ClassDef):
            words = re.findall(r"[A-Z][a-z]+", node.name)
            for word in words:
                if word.lower() in FORBIDDEN_NAMES:
                    yield source.says(node, f"the name says nothing: {node.name}")


def check_tests(source: Source) -> Iterator[str]:
    """A test's name is a sentence."""
    if not source.is_test:
        return
    for node in functions(source.tree):
        if node.name.startswith("test_") and node.name.count("_") < 3:
            yield source.says(node, f"{node.name} is no sentence")


CALLS_REFUSED = {
    "asyncio.create_task": "lifetimes nest: use a task group",
    "asyncio.ensure_future": "lifetimes nest: use a task group",
    "asyncio.get_event_loop": "use AnyIO",
    "os.fork": "only ground/ makes processes",
    "os.system": "only ground/ makes processes",
    "time.time": "time is an argument, or ground.clock",
    "time.time_ns": "time is an argument, or ground.clock",
    "time.monotonic": "time is an argument, or ground.clock",
    "time.sleep": "every wait is asynchronous and has a deadline",
    "datetime.now": "time is an argument, or ground.clock",
    "datetime.utcnow": "time is an argument, or ground.clock",
    "uuid.uuid4": "chance is an argument, or ground.chance",
}
MODULES_REFUSED = {
    "subprocess": "only ground/ makes processes",
    "random": "chance is an argument, or ground.chance",
    "secrets": "chance is an argument, or ground.chance",
    "threading": "no threads but in ground/",
    "multiprocessing": "only ground/ makes processes",
}
ALLOWED = {
    ("src/kythera/cli/bundle.py", "subprocess"): "esbuild, in a command that a person waits for",
    ("src/kythera/cli/wrangler.py", "subprocess"): "asks Node for its version before exec",
    ("src/kythera/node/keeper_loop.py", "time.monotonic"): "the keeper's loop is its own clock",
    ("src/kythera/sim/machine.py", "random"): "a seeded tree of dice is what a simulation is",
    ("src/kythera/cli/up.py", "subprocess"): "the example's deployer must outlive no one's loop",
    (
        "src/kythera/node/r2_elsewhere.py",
        "subprocess",
    ): "before the keeper's loop; loads S3 elsewhere",
    ("src/kythera/cli/example.py", "time.monotonic"): "a small program of its own, without a loop",
}
"""Where a rule does not hold, and why."""


def check_doors(source: Source) -> Iterator[str]:
    """The product reaches clock, chance and processes through ground/ alone."""
    if not source.is_product or source.path.startswith("src/kythera/ground/"):
        return
    for node in ast.walk(source.tree):
        for name, reason in _refused(node):
            if (source.path, name) not in ALLOWED:
                yield source.says(node, f"{name}: {reason}")


def _refused(node: ast.AST) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        for name, reason in CALLS_REFUSED.items():
            if called == name or called.endswith(f".{name}"):
                yield name, reason
    imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    if isinstance(node, ast.ImportFrom) and node.module:
        imported = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    for name in imported:
        top = name.partition(".")[0]
        if top in MODULES_REFUSED and name == top:
            yield top, MODULES_REFUSED[top]
        if name in CALLS_REFUSED:
            yield name, CALLS_REFUSED[name]


def check_no_mocks(source: Source) -> Iterator[str]:
    """Fakes, not mocks."""
    for node in ast.walk(source.tree):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        for module in modules:
            if module.startswith(("unittest.mock", "mock.", "pytest_mock")) or module == "mock":
                yield source.says(node, f"{module}: write a fake")


def check_text(path: str, text: str) -> Iterator[str]:
    """No committed file leaves something unfinished or names a registry or one machine's folder."""
    for number, line in enumerate(text.splitlines(), 1):
        if UNFINISHED.search(line):
            yield f"{path}:{number}: unfinished: {line.strip()[:80]}"
        if found := ADDRESSES.search(line):
            yield f"{path}:{number}: an address that holds on one machine alone: {found.group()}"


CHECKS = (
    check_sizes,
    check_docstrings,
    check_names,
    check_tests,
    check_doors,
    check_no_mocks,
)


def sources_below(root: Path, files: list[str]) -> list[Source]:
    """Read the Python files among the repository's files."""
    return [
        Source(name, (root / name).read_text())
        for name in files
        if PurePosixPath(name).suffix == ".py"
    ]
