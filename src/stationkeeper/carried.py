"""Programs that a host keeps and that need nothing but python3: the part of this package that they import.

An Ansible module that imports a program has been sent with all that the program imports; that is what is
written to the host, as one package in a directory of the program's own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .files import write_atomically

_PACKAGE = __name__.rpartition(".")[0]
_PREFIX = "ansible.module_utils."


def run(module: Any) -> None:
    """Be an AnsibleModule with the argument ``path``: install what the module has imported, and exit."""
    try:
        files = install(Path(module.params["path"]), sources(), dry_run=module.check_mode)
    except OSError as error:
        module.fail_json(msg=str(error))
    diff = {"prepared": "".join(f"{name}\n" for name in files)}
    module.exit_json(changed=bool(files), files=files, diff=diff)


def sources() -> dict[str, str]:
    """Return the source of what is loaded of this package besides this module, by path.

    In a process that has imported a program and nothing else of the package, that is the program with all
    that it needs.
    """
    found = {}
    for name, loaded in sorted(sys.modules.items()):
        if (name != _PACKAGE and not name.startswith(f"{_PACKAGE}.")) or name == __name__:
            continue
        path = name.removeprefix(_PREFIX).replace(".", "/")
        path += "/__init__.py" if hasattr(loaded, "__path__") else ".py"
        # From the loader, since Ansible sends its modules in an archive; every loader of source has this.
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
