"""What a drill has shown: a page to read, and figures for Prometheus."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stationkeeper.jobs.interface import Sample


@dataclass(frozen=True)
class Drill:
    """One drill that is over.

    ``rto_s`` and ``rpo_s`` are measured, in seconds; the objectives are what the operations guide promises.
    ``steps`` are (what, seconds). ``problems`` are the reasons for calling it failed.
    """

    name: str
    title: str
    target: str
    run_id: str
    started_at: float
    started: str
    fault: str
    rto_s: float
    rpo_s: float
    objective_rto_s: float
    objective_rpo_s: float
    steps: Sequence[tuple[str, float]] = ()
    problems: Sequence[str] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shortfalls(self) -> list[str]:
        """Every reason why this drill is no good one, objectives included."""
        found = list(self.problems)
        if self.rto_s > self.objective_rto_s:
            found.append(f"recovery took {self.rto_s:.1f} s, the objective is {self.objective_rto_s:.0f} s")
        if self.rpo_s > self.objective_rpo_s:
            found.append(
                f"{self.rpo_s:.1f} s of data were lost, the objective is {self.objective_rpo_s:.0f} s"
            )
        return found


def page(drill: Drill) -> str:
    """Return the report as Markdown."""
    good = not drill.shortfalls
    lines = [
        f"# {drill.title}: {'good' if good else 'FAILED'}",
        "",
        f"Run {drill.run_id} on {drill.target}, {drill.started}. Fault: {drill.fault}.",
        "",
        "| | Measured | Objective |",
        "| --- | --- | --- |",
        f"| Recovery time (RTO) | {drill.rto_s:.1f} s | {drill.objective_rto_s:.0f} s |",
        f"| Data lost (RPO) | {drill.rpo_s:.1f} s | {drill.objective_rpo_s:.0f} s |",
        "",
    ]
    if drill.shortfalls:
        lines += ["## What went wrong", "", *(f"- {problem}" for problem in drill.shortfalls), ""]
    if drill.steps:
        lines += ["## Steps", "", "| Step | Seconds |", "| --- | --- |"]
        lines += [f"| {what} | {seconds:.1f} |" for what, seconds in drill.steps]
        lines.append("")
    if drill.evidence:
        evidence = json.dumps(drill.evidence, indent=2, sort_keys=True, default=str)
        lines += ["## Evidence", "", "```json", evidence, "```", ""]
    return "\n".join(lines)


def samples(drill: Drill) -> list[Sample]:
    """Return the figures of a drill. Only a good one says that the drill succeeded, and when."""
    labels = {"drill": drill.name}
    good = not drill.shortfalls
    return [
        Sample("stationkeeper_drill_last_run_success", "1 when the last run was a good one", good, labels),
        Sample("stationkeeper_drill_rto_seconds", "Recovery time of the last run", drill.rto_s, labels),
        Sample("stationkeeper_drill_rpo_seconds", "Data lost in the last run, in time", drill.rpo_s, labels),
        Sample("stationkeeper_drill_objective_rto_seconds", "Promised", drill.objective_rto_s, labels),
        Sample("stationkeeper_drill_objective_rpo_seconds", "Promised", drill.objective_rpo_s, labels),
    ]


def success(drill: Drill) -> list[Sample]:
    """Return the figure that only a good drill writes, in a file that a failed one leaves alone."""
    when = "When the last good drill began"
    labels = {"drill": drill.name}
    return [Sample("stationkeeper_drill_last_success_timestamp_seconds", when, drill.started_at, labels)]
