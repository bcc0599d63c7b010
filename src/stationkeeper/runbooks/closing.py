"""Add up what a run did on each intended host. Pure logic; the action plugin does the I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Statuses that a host may report, and the set that each belongs to.
STATUS_SETS: dict[str, str] = {
    "ok": "ok",
    "unchanged": "ok",
    "changed": "changed",
    "verified": "changed",
    "failed": "failed",
    "accepted_unverified": "failed",
    "unknown": "failed",
    "rejected": "failed",
    "contended": "failed",
    "blocked_by_interlock": "failed",
    "unreachable": "unreachable",
    # A staged run that stopped before it came to this host.
    "not_attempted": "not_attempted",
}
SETS = ("ok", "changed", "failed", "unreachable", "not_attempted")
_ALWAYS_TOLD = SETS[:4]


@dataclass(frozen=True)
class Row:
    """One host's line in the summary."""

    host: str
    status: str
    set: str
    message: str


@dataclass(frozen=True)
class Observed:
    """What the run saw of its hosts, apart from their own results (host -> what happened).

    `watched` is false when nobody watched (the callback is not loaded): then a host without a result
    counts as unreachable, because nothing better is known.
    """

    watched: bool = False
    unreachable: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """The result sets of a run, and every reason for calling it failed."""

    rows: list[Row]
    problems: list[str]

    def hosts(self, name: str) -> list[str]:
        """The hosts of one result set."""
        return [row.host for row in self.rows if row.set == name]

    @property
    def succeeded(self) -> bool:
        """Whether the run did what it had to."""
        return not self.problems


def add_up(
    run: Mapping[str, Any], results: Mapping[str, Any], observed: Observed, *, required: int, safety: bool
) -> Report:
    """Classify every target of `run` once; a set that does not add up is a problem of its own.

    `results` maps any host of the inventory to its fact `runbook_result`. `required` hosts must have
    succeeded. A `safety` runbook must have succeeded on every target, reachable or not.
    """
    targets: list[str] = list(run["targets"])
    probed: Mapping[str, str] = run["unreachable"]
    rows: list[Row] = []
    problems: list[str] = []
    silent: list[str] = []
    for host in targets:
        row = _classify(host, results.get(host), probed, observed)
        if row is None:
            silent.append(host)
        else:
            rows.append(row)
    counts = {name: sum(row.set == name for row in rows) for name in SETS}
    if sum(counts.values()) != len(targets):
        sums = " + ".join(f"{counts[name]} {name}" for name in SETS if counts[name] or name in _ALWAYS_TOLD)
        problems.append(
            f"The result sets do not add up: {sums} is not {len(targets)} intended. "
            f"No usable result from {', '.join(silent)}: find out what happened there before going on."
        )
    strangers = sorted(set(results) - set(targets))
    if strangers:
        problems.append(f"Results came from hosts that were no target: {', '.join(strangers)}.")
    if counts["failed"]:
        problems.append(f"Failed on {', '.join(row.host for row in rows if row.set == 'failed')}.")
    if counts["not_attempted"]:
        untouched = ", ".join(row.host for row in rows if row.set == "not_attempted")
        problems.append(f"Not attempted on {untouched}: nothing was changed there.")
    succeeded = counts["ok"] + counts["changed"]
    if safety and counts["unreachable"]:
        unreached = ", ".join(row.host for row in rows if row.set == "unreachable")
        problems.append(f"Not proven on {unreached}: treat as NOT done.")
    elif succeeded < required:
        problems.append(f"Succeeded on {succeeded} of {len(targets)} targets; {required} are required.")
    return Report(rows, problems)


def _classify(host: str, result: Any, probed: Mapping[str, str], observed: Observed) -> Row | None:
    if result is None:
        return _without_result(host, probed, observed)
    status = str(result.get("status", "")) if isinstance(result, Mapping) else ""
    if status not in STATUS_SETS:
        return None
    # `ignore_unreachable` lets a play run on over a dead host, up to a task that says "ok" (it
    # needs no connection). A word of the play is no proof; a measured outcome is.
    if status in {"ok", "changed"} and host in observed.unreachable:
        return Row(host, "unreachable", "unreachable", observed.unreachable[host])
    return Row(host, status, STATUS_SETS[status], str(result.get("message", "")))


def _without_result(host: str, probed: Mapping[str, str], observed: Observed) -> Row | None:
    if host in probed:
        return Row(host, "unreachable", "unreachable", probed[host])
    if host in observed.unreachable:
        return Row(host, "unreachable", "unreachable", observed.unreachable[host])
    if host in observed.failed:
        return Row(host, "failed", "failed", observed.failed[host])
    if observed.watched:
        return None
    return Row(host, "unreachable", "unreachable", "gave no result")


def summary(run: Mapping[str, Any], report: Report, *, pending_note: str = "") -> str:
    """The closing table in plain words, at most 100 columns wide."""
    counts = (
        ", ".join(f"{len(report.hosts(name))} {name}" for name in SETS if report.hosts(name)) or "no result"
    )
    mode = " (check mode: nothing was changed)" if run["check_mode"] else ""
    verdict = "SUCCEEDED" if report.succeeded else "FAILED"
    lines = [f"{run['name']} {verdict}{mode}: {len(run['targets'])} intended, {counts}."]
    width = max((len(row.host) for row in report.rows), default=4)
    status_width = max((len(row.status) for row in report.rows), default=6)
    for row in report.rows:
        text = " ".join(row.message.split())
        room = 98 - width - status_width - 6
        if len(text) > room:
            text = text[: room - 1] + "…"
        lines.append(f"  {row.host:<{width}}  {row.status:<{status_width}}  {text}".rstrip())
    lines += [f"PROBLEM: {problem}" for problem in report.problems]
    if pending_note:
        lines.append(pending_note)
    lines.append(f"Run {run['id']}, started {run['started_at']}.")
    return "\n".join(lines)
