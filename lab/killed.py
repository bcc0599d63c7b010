"""Runbooks that are killed half-way, as by a control node that loses its power, and run again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from system import ROOT, LabSystem, Play


@dataclass(frozen=True)
class Killed:
    """A run that was ended by ``kill -9``: the task that was under way, and what it had told until then."""

    task: str
    number: int
    output: str


def run_and_kill(system: LabSystem, name: str, inputs: Mapping[str, Any], at: int) -> Killed | None:
    """Run a playbook and kill it when task number ``at`` begins; None if it ended before."""
    command = ["ansible-playbook", "-i", str(system.inventory), f"playbooks/{name}.yml"]
    command += ["-e", json.dumps(dict(inputs))]
    told: list[str] = []
    number = 0
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=system.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            told.append(line)
            if not line.startswith("TASK ["):
                continue
            number += 1
            if number == at:
                # Its own session: workers and ssh die with it, as when the machine goes.
                os.killpg(process.pid, signal.SIGKILL)
                return Killed(line[6:].partition("]")[0], number, "".join(told))
    return None


def tasks(play: Play) -> int:
    """Return how many tasks a finished playbook began."""
    return sum(line.startswith("TASK [") for line in play.output.splitlines())


def moments(count: int, wanted: int) -> Iterator[int]:
    """Yield evenly spread task numbers from the first to the last."""
    wanted = min(wanted, count)
    for index in range(wanted):
        yield 1 + round(index * (count - 1) / max(wanted - 1, 1))


def aborted(system: LabSystem) -> int:
    """Return how many runs the audit trail calls aborted."""
    # A run that died is found by the next one.
    shown = system.run("stationkeeper", "audit", "show", "--last", "100000").stdout
    return sum("ABORTED" in line for line in shown.splitlines())
