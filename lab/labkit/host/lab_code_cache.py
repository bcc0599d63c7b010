"""Keep the compiled code of Ansible's modules, where many tasks run on few processors.

Ansible sends each module as a zip of sources, and Python compiles all of them anew for every task: two fifths
of what a task costs, since each is compiled once to be found and once to be loaded. Here the compiled code is
kept in memory by a hash of its source, for root alone. ``lab_code_cache.pth`` loads this at each start of
Python: of the system's on a lab host, and of the environment's on the machine that runs the lab.
"""

# ruff: noqa: PTH103, PTH104, PTH123, S302
# Every start of Python pays for what is imported here, so no pathlib. Only root reads, what only root wrote.

import _imp
import contextlib
import marshal
import os
import sys
import zipimport
from types import CodeType

FOLDER = "/run/lab_code_cache"


def install(folder: str) -> None:
    """Let zipimport look into ``folder`` before it compiles; what cannot be kept is compiled as ever."""
    compile_source = zipimport._compile_source  # type: ignore[attr-defined]
    found: dict[bytes, CodeType] = {}

    def kept_or_compiled(pathname: str, source: bytes) -> CodeType:
        name = _imp.source_hash(sys.hexversion, source)
        code = found.pop(name, None)
        if code is None:
            code = found[name] = kept(f"{folder}/{name.hex()}", pathname, source)
        return code

    def kept(file: str, pathname: str, source: bytes) -> CodeType:
        # A file that is cut short or not ours raises one of these.
        with contextlib.suppress(OSError, EOFError, ValueError, TypeError), open(file, "rb") as stored:
            loaded = marshal.load(stored)
            if isinstance(loaded, CodeType):
                return loaded
        code: CodeType = compile_source(pathname, source)
        part = f"{file}.{os.getpid()}"
        with contextlib.suppress(OSError):
            os.makedirs(folder, mode=0o700, exist_ok=True)
            with open(part, "wb") as new:
                marshal.dump(code, new)
            os.rename(part, file)
        return code

    zipimport._compile_source = kept_or_compiled  # type: ignore[attr-defined]


# Nobody else may leave code that root runs. Another Python may have another zipimport.
if os.geteuid() == 0 and hasattr(zipimport, "_compile_source"):
    install(FOLDER)
