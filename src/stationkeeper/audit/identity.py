"""Who acts, from where, with which commit, and whether the clock can be believed."""

from __future__ import annotations

import ctypes
import os
import pwd
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_TIME_ERROR = 5
_NO_LOGIN = 0xFFFFFFFF


def process_identity(pid: int | None = None) -> dict[str, Any]:
    """Return what tells this process from every other one, also after a reboot or a reused pid."""
    pid = os.getpid() if pid is None else pid
    return {
        "pid": pid,
        "start_ticks": _start_ticks(pid),
        "boot_id": _boot_id(),
        "pid_namespace": _pid_namespace(),
    }


def liveness(process: Mapping[str, Any]) -> str:
    """Return ``alive``, ``gone`` or ``unknown`` (another container: its processes cannot be seen)."""
    if process.get("boot_id") != _boot_id():
        return "gone"
    if process.get("pid_namespace") != _pid_namespace():
        return "unknown"
    ticks = _start_ticks(int(process.get("pid", 0)))
    return "alive" if ticks is not None and ticks == process.get("start_ticks") else "gone"


def who(environment: Mapping[str, str], extra_vars: Mapping[str, Any]) -> dict[str, Any]:
    """Return the person, where that name comes from, and the account the process runs as.

    AWX hands its user over as an extra variable; it counts only inside an AWX job, since anybody could type
    it elsewhere.
    """
    account = _account(os.geteuid())
    person, source = account, "process"
    login = _login_account()
    awx = extra_vars.get("awx_user_name") or extra_vars.get("tower_user_name")
    if awx and ("AWX_PRIVATE_DATA_DIR" in environment or "JOB_ID" in environment):
        person, source = str(awx), "awx"
    elif environment.get("SUDO_USER"):
        person, source = environment["SUDO_USER"], "sudo"
    elif login:
        person, source = login, "login"
    return {"person": person, "source": source, "service": account, "uid": os.geteuid()}


def clock() -> dict[str, Any]:
    """Return whether the kernel's clock is synchronised, and its largest error in microseconds.

    ``synchronised`` is None where the kernel cannot be asked.
    """

    class Timex(ctypes.Structure):
        # The kernel's struct timex; only its beginning is read.
        _fields_ = (
            ("modes", ctypes.c_uint),
            ("offset", ctypes.c_long),
            ("frequency", ctypes.c_long),
            ("maximum_error", ctypes.c_long),
            ("estimated_error", ctypes.c_long),
            ("status", ctypes.c_int),
            ("rest", ctypes.c_char * 256),
        )

    value = Timex()
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(value))
    except (OSError, AttributeError):
        return {"synchronised": None}
    if state < 0:
        return {"synchronised": None}
    return {"synchronised": state != _TIME_ERROR, "maximum_error_us": int(value.maximum_error)}


def commit(folder: Path) -> dict[str, Any]:
    """Return the commit of a checkout and whether files differ from it; both None outside of git."""
    root = _git(folder, "rev-parse", "HEAD")
    if root is None:
        return {"commit": None, "dirty": None}
    status = _git(folder, "status", "--porcelain", "--untracked-files=normal")
    return {"commit": root.strip(), "dirty": None if status is None else bool(status.strip())}


def node() -> str:
    """Return the name of this control node."""
    return socket.gethostname()


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-c", f"safe.directory={folder}", "-C", str(folder), *arguments]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            command,
            check=False,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _account(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _login_account() -> str | None:
    """The account that logged in, which the kernel remembers through su and sudo."""
    text = _read("/proc/self/loginuid")
    uid = int(text) if text and text.isdigit() else _NO_LOGIN
    return None if uid == _NO_LOGIN else _account(uid)


def _boot_id() -> str | None:
    return _read("/proc/sys/kernel/random/boot_id")


def _pid_namespace() -> str | None:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None


def _start_ticks(pid: int) -> int | None:
    text = _read(f"/proc/{pid}/stat")
    if text is None:
        return None
    # The name of the program is in brackets and may itself contain brackets and blanks.
    fields = text.rpartition(")")[2].split()
    # A zombie has ended; nothing of it will write again.
    return None if fields[0] in {"Z", "X"} else int(fields[19])


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return None
