"""Programs that a host keeps and that need nothing but python3: the part of this package that they import.

An Ansible module that imports a program has been sent with all that the program imports; that is what is
written to the host, as one package in a directory of the program's own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from .files import write_atomically

_PACKAGE = __name__.rpartition(".")[0]
_PREFIX = "ansible.module_utils."


def sources(program: ModuleType) -> dict[str, str]:
    """Return the source of a program's module and of all that it imports, by path.

    That is what is loaded of this package in a process that has imported nothing else of it.
    """
    assert program.__name__ in sys.modules
    found = {}
    for name, loaded in sorted(sys.modules.items()):
        if (name != _PACKAGE and not name.startswith(f"{_PACKAGE}.")) or name == __name__:
            continue
        path = name.removeprefix(_PREFIX).replace(".", "/")
        path += "/__init__.py" if hasattr(loaded, "__path__") else ".py"
        found[path] = loaded.__loader__.get_source(name) or ""  # type: ignore[union-attr]
    return found


def install(root: Path, wanted: Mapping[str, str], *, dry_run: bool = False) -> list[str]:
    """Write what differs to a directory, which is made where it is missing.

    Returns the paths that were written, or would be. Raises OSError.
    """
    changed = [name for name, text in wanted.items() if _there(root / name) != text]
    if dry_run:
        return changed
    before = os.umask(0o022)
    try:
        for name in changed:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(root / name, wanted[name], mode=0o644)
    finally:
        os.umask(before)
    return changed


def _there(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
