"""A writer that goes on through a drill: what it was told is stored must be stored afterwards.

``python -m stationkeeper.drills.probe`` is the writer. It writes one row after the other through
the path that every client takes, and puts each acknowledged one into a record, with the control node's clock.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg2

from stationkeeper.database.connection import connect
from stationkeeper.database.settings_file import read_settings
from stationkeeper.files import write_atomically

INTERVAL_S = 0.05
STOP_WAIT_S = 15
# How long one attempt may hang: short, since what counts is when a write is through again.
CONNECT_TIMEOUT_S = 2
TCP_USER_TIMEOUT_S = 2.0


class ProbeError(Exception):
    """The probe cannot start, or its record cannot be judged; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """What a drill cost the writer. Times are seconds.

    ``lost`` rows were acknowledged and are not stored. ``rto_s`` is from the fault to the first row that was
    acknowledged after the longest silence, ``rpo_s`` from the first lost row to the last acknowledged one
    before that silence.
    """

    acknowledged: int
    lost: int
    longest_silence_s: float
    rto_s: float
    rpo_s: float
    recovered: bool

    def as_dict(self) -> dict[str, Any]:
        """Return the outcome as plain data, times rounded to a hundredth."""
        return {
            key: round(value, 2) if isinstance(value, float) else value for key, value in asdict(self).items()
        }


def judge(
    acknowledged: Sequence[tuple[int, float]], stored: set[int], fault_at: float, ended_at: float
) -> Outcome:
    """Return what was lost and how long nothing was acknowledged after a fault.

    ``acknowledged`` are (number, time) in order, times in seconds since the epoch. A silence that lasts until
    ``ended_at`` counts, and means that the writes never came back.
    """
    moments = [at for _, at in acknowledged if at >= fault_at]
    before = max((at for _, at in acknowledged if at < fault_at), default=fault_at)
    edges = [before, *moments, ended_at]
    gaps = [(second - first, first, second) for first, second in pairwise(edges)]
    silence, began, back = max(gaps)
    lost = [at for number, at in acknowledged if number not in stored]
    last = max((at for _, at in acknowledged if at <= began), default=began)
    # The writer ends a moment before the judgement: only a silence that is more than a pause is one.
    recovered = bool(moments) and not (back == ended_at and silence > CONNECT_TIMEOUT_S + 1)
    return Outcome(
        acknowledged=len(acknowledged),
        lost=len(lost),
        longest_silence_s=silence,
        rto_s=back - max(began, fault_at),
        rpo_s=max(last - min(lost), 0.0) if lost else 0.0,
        recovered=recovered,
    )


def start(settings: Mapping[str, Any], run_id: str, directory: Path, limit_s: int) -> int:
    """Start the writer as a process and return its id once its first row is in. Raises ProbeError."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = directory / "database.json"
    write_atomically(file, json.dumps(dict(settings)).encode(), mode=0o600)
    record = directory / "acknowledged"
    record.unlink(missing_ok=True)
    log = directory / "probe.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "stationkeeper.drills.probe"),
                *("--database-file", str(file), "--run", run_id),
                *("--record", str(record), "--limit", str(limit_s)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + 20
    while not (record.exists() and record.stat().st_size):
        if process.poll() is not None or time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            raise ProbeError(f"the probe could not write its first row: {log.read_text().strip()[-500:]}")
        time.sleep(0.05)
    (directory / "pid").write_text(str(process.pid))
    return process.pid


def stop(directory: Path) -> list[tuple[int, float]]:
    """End the writer and return what was acknowledged to it. Raises ProbeError without a record."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        pid = int((directory / "pid").read_text())
        if _is_probe(pid):
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + STOP_WAIT_S
            while _is_probe(pid) and time.monotonic() < deadline:
                time.sleep(0.05)
            if _is_probe(pid):
                os.kill(pid, signal.SIGKILL)
    try:
        lines = (directory / "acknowledged").read_text().splitlines()
    except OSError as error:
        raise ProbeError(f"the probe left no record: {error}") from None
    return [
        (int(number), float(at)) for number, at in (line.split() for line in lines if line.count(" ") == 1)
    ]


def _is_probe(pid: int) -> bool:
    # The process may have ended, and its number may be another's; a zombie has no command line.
    try:
        return b"stationkeeper.drills.probe" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def stored_rows(settings: Mapping[str, Any], run_id: str, *, remove: bool) -> set[int]:
    """Return the numbers of the rows that are stored, and remove them if asked. Raises psycopg2.Error."""
    connection = connect(settings, application_name="stationkeeper-drill")
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT seq FROM ops.drill_probe WHERE run_id = %s", (run_id,))
            numbers = {int(seq) for (seq,) in cursor.fetchall()}
            if remove:
                cursor.execute("DELETE FROM ops.drill_probe WHERE run_id = %s", (run_id,))
    finally:
        connection.close()
    return numbers


def write(settings: Mapping[str, Any], run_id: str, record: Path, limit_s: float) -> None:
    """Write rows until the process is ended or the limit is over."""
    deadline = time.monotonic() + limit_s
    connection = None
    number = 0
    with record.open("w", buffering=1) as acknowledged:
        while time.monotonic() < deadline:
            number += 1
            try:
                if connection is None:
                    connection = connect(
                        settings,
                        application_name="stationkeeper-drill",
                        connect_timeout_s=CONNECT_TIMEOUT_S,
                        tcp_user_timeout_s=TCP_USER_TIMEOUT_S,
                    )
                    connection.autocommit = True
                with connection.cursor() as cursor:
                    cursor.execute(
                        "INSERT INTO ops.drill_probe (run_id, seq) VALUES (%s, %s)", (run_id, number)
                    )
                acknowledged.write(f"{number} {time.time():.6f}\n")
            except psycopg2.Error as error:
                print(f"{time.time():.3f} row {number}: {str(error).strip()}", flush=True)
                if connection is not None:
                    connection.close()
                connection = None
            time.sleep(INTERVAL_S)


def main() -> None:
    """Run the writer's process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--database-file", type=Path, required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--limit", type=float, required=True)
    options = parser.parse_args()
    settings = read_settings(options.database_file)
    # Read once: the password does not lie about for as long as the drill lasts.
    options.database_file.unlink()
    write(settings, options.run, options.record, options.limit)


if __name__ == "__main__":
    main()
