"""A look at the PostgreSQL cluster of one host, whether it runs or not. Nothing is changed.

Standard library and Debian's own programs only: Ansible ships this file to the host, and the guard
runs it there.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CONFIGURATIONS = Path("/etc/postgresql")
CLUSTERS = Path("/var/lib/postgresql")
PROGRAMS = Path("/usr/lib/postgresql")
TIMEOUT_S = 15
# All at once, so that the values belong together. CASE keeps a function from a server that has none of it.
QUERY = """
WITH here AS (
  SELECT pg_is_in_recovery() AS follows,
         CASE WHEN pg_is_in_recovery() THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
              ELSE pg_current_wal_flush_lsn() END AS lsn),
receiver AS (SELECT * FROM pg_stat_wal_receiver),
sessions AS (
  SELECT xact_start FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid())
SELECT json_build_object(
  'role', CASE WHEN follows THEN 'standby' ELSE 'primary' END,
  'system_identifier', (SELECT system_identifier::text FROM pg_control_system()),
  'timeline', CASE WHEN follows THEN
    greatest((SELECT received_tli FROM receiver), (SELECT timeline_id FROM pg_control_checkpoint()),
             (SELECT min_recovery_end_timeline FROM pg_control_recovery()))
    ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END,
  'lsn', lsn,
  'replay_lsn', CASE WHEN follows THEN pg_last_wal_replay_lsn() END,
  'last_commit_age_s',
    CASE WHEN follows THEN extract(epoch FROM now() - pg_last_xact_replay_timestamp())::float END,
  'upstream', (
    SELECT json_build_object(
      'host', sender_host, 'port', sender_port, 'slot', slot_name, 'status', status,
      'received_lsn', flushed_lsn,
      'message_age_s', extract(epoch FROM now() - last_msg_receipt_time)::float)
    FROM receiver),
  'replicas', (
    SELECT coalesce(json_agg(json_build_object(
      'name', application_name, 'address', host(client_addr), 'state', state, 'sync_state', sync_state,
      'flush_lsn', flush_lsn, 'replay_lsn', replay_lsn,
      'lag_bytes', pg_wal_lsn_diff(here.lsn, replay_lsn)::bigint) ORDER BY application_name), '[]')
    FROM pg_stat_replication WHERE application_name <> 'pg_basebackup'),
  'slots', (
    SELECT coalesce(json_agg(json_build_object(
      'name', slot_name, 'type', slot_type, 'active', active, 'wal_status', wal_status,
      'retained_bytes', pg_wal_lsn_diff(here.lsn, restart_lsn)::bigint,
      'safe_bytes', safe_wal_size) ORDER BY slot_name), '[]')
    FROM pg_replication_slots WHERE NOT temporary),
  'synchronous_standby_names', current_setting('synchronous_standby_names'),
  'oldest_transaction_s',
    (SELECT coalesce(max(extract(epoch FROM now() - xact_start)), 0)::float FROM sessions),
  'clients', (SELECT count(*) FROM sessions),
  'waiting_commits', (SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'),
  'pending', (SELECT coalesce(json_agg(name ORDER BY name), '[]') FROM pg_settings WHERE pending_restart),
  'certificate', CASE WHEN current_setting('ssl')::bool THEN current_setting('ssl_cert_file') END)
FROM here
"""


def absent() -> dict[str, Any]:
    """Return the look at a host without a cluster; every look has these keys."""
    return {
        "exists": False,
        "running": False,
        "role": "absent",
        "was": None,
        "version": None,
        "port": None,
        "data_directory": None,
        "start": None,
        "system_identifier": None,
        "timeline": None,
        "lsn": None,
        "checkpoint_lsn": None,
        "state": None,
        "replay_lsn": None,
        "last_commit_age_s": None,
        "upstream": None,
        "replicas": [],
        "slots": [],
        "synchronous_standby_names": None,
        "oldest_transaction_s": None,
        "clients": None,
        "waiting_commits": None,
        "pending": [],
        "certificate_expires_at": None,
        "message": "no cluster on this host",
    }


def look(name: str = "main", *, port: int | None = None) -> dict[str, Any]:
    """Look at the newest cluster ``name`` of this host; as root or as postgres.

    ``role`` is ``absent`` (no data), ``stopped``, ``silent`` (it runs and answers no query), ``primary`` or
    ``standby``. ``was`` says what a cluster that does not answer would start as: ``primary`` or ``standby``.
    ``port`` overrides that of the configuration. Never raises for a cluster that is broken: ``message`` says
    what is wrong.
    """
    node = absent()
    data = data_directory(name)
    if data is None:
        return node
    version = data.parent.name
    configuration = CONFIGURATIONS / version / name
    node |= {
        "exists": True,
        "role": "stopped",
        "version": int(version),
        "data_directory": str(data),
        "start": _word(configuration / "start.conf"),
        "port": port or _configured_port(configuration),
        "message": "the server is stopped",
    }
    node |= _control(version, data)
    node["running"] = _runs(data)
    if node["running"]:
        node |= _asked(node["port"])
    certificate = node.pop("certificate", None)
    if certificate:
        node["certificate_expires_at"] = _expiry(certificate)
    return node


def data_directory(name: str = "main") -> Path | None:
    """Return the data directory of the newest cluster ``name`` that has data, or None."""
    found = [path.parent for path in CLUSTERS.glob(f"*/{name}/PG_VERSION") if path.parts[-3].isdigit()]
    return max(found, key=lambda path: int(path.parent.name), default=None)


def as_postgres(command: Sequence[str | Path], *, timeout_s: float = TIMEOUT_S) -> str:
    """Run a program as user postgres (root may) and return its output.

    Raises OSError or ``subprocess`` errors.
    """
    account = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    done = subprocess.run(
        [str(word) for word in command],
        check=True,
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "HOME": "/var/lib/postgresql", "PGCONNECT_TIMEOUT": "5"},
        **account,  # type: ignore[call-overload]
    )
    return str(done.stdout)


def psql(query: str, dsn: str, *, timeout_s: float = TIMEOUT_S) -> str:
    """Return what psql prints for one statement. Raises OSError or ``subprocess`` errors."""
    words = ["psql", "-XqAt", "--no-password", "-v", "ON_ERROR_STOP=1", "-d", dsn, "-c", query]
    return as_postgres(words, timeout_s=timeout_s).strip()


def reason(error: Exception) -> str:
    """Return the last line of what a program said when it failed."""
    said = getattr(error, "stderr", None) or str(error)
    return str(said).strip().splitlines()[-1] if str(said).strip() else repr(error)


def parse_control(text: str) -> dict[str, Any]:
    """Translate the output of pg_controldata (locale C) to keys of a look."""
    values = dict(re.findall(r"^([^:]+):\s+(.*)$", text, re.MULTILINE))
    # Where a standby has replayed to stands in the second line; of a primary it is 0/0.
    ends = [values["Latest checkpoint location"], values["Minimum recovery ending location"]]
    timelines = [values["Latest checkpoint's TimeLineID"], values["Min recovery ending loc's timeline"]]
    return {
        "system_identifier": values["Database system identifier"],
        "timeline": max(int(number) for number in timelines),
        "lsn": max(ends, key=lsn_bytes),
        "checkpoint_lsn": values["Latest checkpoint location"],
        "state": values["Database cluster state"],
    }


def slot_name(host: str) -> str:
    """Return the name of a host's replication slot, which is its application_name as well."""
    return re.sub(r"[^a-z0-9_]", "_", host.lower())


def lsn_bytes(lsn: str) -> int:
    """Return a position in the write-ahead log (``1A/2B3C``) as a number of bytes."""
    high, low = lsn.split("/")
    return (int(high, 16) << 32) + int(low, 16)


def _control(version: str, data: Path) -> dict[str, Any]:
    try:
        control = parse_control(as_postgres([PROGRAMS / version / "bin" / "pg_controldata", data]))
    except (OSError, subprocess.SubprocessError, KeyError, ValueError) as error:
        return {"was": None, "message": f"pg_controldata cannot read {data}: {reason(error)}"}
    # Nothing but this file makes it follow: without it even a standby's data start as a primary.
    follows = (data / "standby.signal").exists()
    return {**control, "was": "standby" if follows else "primary"}


def _runs(data: Path) -> bool:
    """Whether the process that the data directory's pid file names is a server."""
    try:
        pid = int((data / "postmaster.pid").read_text().split("\n", 1)[0])
        return b"postgres" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return False


def _asked(port: int) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(
            psql(QUERY, f"host=/var/run/postgresql port={port} dbname=postgres")
        )
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return {"role": "silent", "message": f"the server runs and answers no query: {reason(error)}"}
    return {**answer, "was": answer["role"], "message": f"the server is {answer['role']}"}


def _expiry(certificate: str) -> str | None:
    try:
        said = as_postgres(["openssl", "x509", "-noout", "-enddate", "-in", certificate])
    except (OSError, subprocess.SubprocessError):
        return None
    moment = said.strip().removeprefix("notAfter=").replace("GMT", "+0000")
    return datetime.strptime(moment, "%b %d %H:%M:%S %Y %z").astimezone(UTC).isoformat()


def _word(path: Path) -> str | None:
    """The first word of a file's first line that is no comment."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((line.split()[0] for line in lines if line.strip() and not line.startswith("#")), None)


def _configured_port(configuration: Path) -> int:
    """The port in force: the last one that a file says, those of conf.d come after the main one."""
    port = 5432
    for path in (configuration / "postgresql.conf", *sorted((configuration / "conf.d").glob("*.conf"))):
        try:
            found = re.findall(r"^\s*port\s*=?\s*'?(\d+)", path.read_text(), re.MULTILINE)
        except OSError:
            continue
        port = int(found[-1]) if found else port
    return port
