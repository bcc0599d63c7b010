"""Start, stop, fence and promote the PostgreSQL cluster of this host, as root.

Standard library only: Ansible ships this file to the host, and the guard runs it there.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...files import write_atomically
from .node import CONFIGURATIONS, PROGRAMS, as_postgres, look, lsn_bytes, psql, reason

STOP_S = 60
START_S = 300
PROMOTE_S = 60


class ControlError(RuntimeError):
    """The cluster does not do what it has to; the message says what was tried and where to look."""


class LaggingError(ControlError):
    """The standby does not have all of the log that it has to have; nothing was promoted."""


def declare_start(node: Mapping[str, Any], word: str) -> bool:
    """Write whether the cluster may be started: ``manual``, or ``disabled``, and nothing here starts it.

    Return whether that changed. Raises OSError.
    """
    if node["start"] == word:
        return False
    path = configuration(node) / "start.conf"
    owner = path.parent.stat()
    write_atomically(path, f"{word}\n", mode=0o644)
    subprocess.run(["chown", f"{owner.st_uid}:{owner.st_gid}", str(path)], check=True)
    return True


def configuration(node: Mapping[str, Any]) -> Path:
    """Return the directory with the cluster's configuration."""
    return CONFIGURATIONS / str(node["version"]) / Path(str(node["data_directory"])).name


def dsn(node: Mapping[str, Any], database: str = "postgres") -> str:
    """Return the address of the server's socket for libpq."""
    return f"host=/var/run/postgresql port={node['port']} dbname={database}"


def stop(node: Mapping[str, Any], *, timeout_s: float = STOP_S) -> str:
    """Stop the server and return how: ``fast``, or ``immediate`` when fast took too long.

    A fast stop of a primary waits until its standbys have everything, unless they do not answer. Not by
    systemd: a stop of a unit that is still starting hangs. Raises ControlError when it runs on.
    """
    version, name = str(node["version"]), Path(str(node["data_directory"])).name
    said = ""
    for mode, patience in (("fast", timeout_s), ("immediate", 30.0)):
        wait = ["-m", mode, "--", "-t", str(int(patience))]
        try:
            as_postgres(["pg_ctlcluster", version, name, "stop", *wait], timeout_s=patience + 10)
        except (OSError, subprocess.SubprocessError) as error:
            said = reason(error)
        if not look(name)["running"]:
            return mode
    raise ControlError(f"the server cannot be stopped: {said}. Look at /var/log/postgresql")


def end_writes(node: Mapping[str, Any], *, timeout_s: float = STOP_S) -> None:
    """Have the server stop, and return as soon as it has written its last record and takes nothing more.

    Its process may go on for a while: it sends that record to its standbys and archives it, for as long as
    the repository takes. Raises ControlError, OSError or ``subprocess`` errors when it runs on.
    """
    data = Path(str(node["data_directory"]))
    program = PROGRAMS / str(node["version"]) / "bin" / "pg_ctl"
    as_postgres([program, "stop", "-s", "-D", data, "-m", "fast", "--no-wait"])
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if look(data.name)["state"] == "shut down":
            return
        time.sleep(0.05)
    # Something hangs, and clients wait.
    stop(node, timeout_s=5)


def ending(node: Mapping[str, Any]) -> bool:
    """Whether a server has written its last record, while its process is still there."""
    return bool(node["running"]) and node["state"] == "shut down"


def start(node: Mapping[str, Any], *, timeout_s: float = START_S) -> None:
    """Start the server by systemd and wait until it answers. Raises ControlError."""
    unit = f"postgresql@{node['version']}-{Path(str(node['data_directory'])).name}.service"
    # `start` alone does nothing where systemd has not noticed yet that the server is gone.
    command = ["systemctl", "restart", unit]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout_s)
    if done.returncode != 0:
        raise ControlError(f"the server does not start: journalctl -u {unit}, and /var/log/postgresql")
    wait_for(node, ("primary", "standby"), timeout_s=timeout_s)


def wait_for(node: Mapping[str, Any], roles: Iterable[str], *, timeout_s: float) -> dict[str, Any]:
    """Wait until the cluster has one of the roles and return that look. Raises ControlError."""
    wanted, until = tuple(roles), time.monotonic() + timeout_s
    while True:
        found = look(Path(str(node["data_directory"])).name)
        if found["role"] in wanted:
            return found
        if time.monotonic() > until:
            raise ControlError(f"after {timeout_s:.0f} s the server is {found['role']}: {found['message']}")
        time.sleep(0.1)


def caught_up(node: Mapping[str, Any], old: Mapping[str, Any], *, timeout_s: float = 15) -> None:
    """Wait until the standby has replayed all log of an old primary that was stopped. Raises LaggingError."""
    if old.get("state") != "shut down":
        raise LaggingError(
            f"nothing was promoted: the old primary did not stop cleanly ({old.get('state', 'it was lost')})"
        )
    position = old["checkpoint_lsn"]
    until = time.monotonic() + timeout_s
    while True:
        replayed = psql("SELECT pg_last_wal_replay_lsn()", dsn(node))
        if lsn_bytes(replayed) > lsn_bytes(position):
            return
        if time.monotonic() > until:
            raise LaggingError(
                f"nothing was promoted: the standby has {replayed}, needs more than {position}"
            )
        time.sleep(0.1)


def promote(node: Mapping[str, Any], slots: Iterable[str], *, alone: bool) -> dict[str, Any]:
    """Make the running standby the primary, with a slot for each that is to follow, and return its look.

    ``alone`` makes it wait for no standby until one follows again (it matters in synchronous mode). Also good
    for a server that is primary already. Raises ControlError.
    """
    address = dsn(node)
    try:
        if alone:
            psql("ALTER SYSTEM SET synchronous_standby_names = ''", address)
            psql("SELECT pg_reload_conf()", address)
        if node["role"] == "standby":
            psql(f"SELECT pg_promote(true, {PROMOTE_S})", address, timeout_s=PROMOTE_S + 5)
        found = wait_for(node, ["primary"], timeout_s=5)
        for name in sorted(set(slots) - {slot["name"] for slot in found["slots"]}):
            psql(f"SELECT pg_create_physical_replication_slot('{name}', true)", address)
    except (OSError, subprocess.SubprocessError) as error:
        raise ControlError(f"the promotion failed: {reason(error)}") from error
    return found
