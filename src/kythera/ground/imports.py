"""Imports libraries without what they take along only because it is there.

Some import another library if they can, for a part that nobody here uses: a tenth of a second in each of
our processes. Promises: what was held back can be imported afterwards as ever.
"""

import sys
from importlib import import_module


def import_without(absent: tuple[str, ...], *modules: str) -> None:
    """Import modules as if `absent` ones were not installed; those imported already stay."""
    held = [name for name in absent if name not in sys.modules]
    for name in held:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        for module in modules:
            import_module(module)
    finally:
        for name in held:
            del sys.modules[name]
