"""What pruning would take away, and whether that may be done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .content import Backup, parse
from .record import Record
from .tool import BackupError, PgBackRest


@dataclass(frozen=True)
class Plan:
    """Backups that go and those that stay, by label, and what pgBackRest says that it would do."""

    going: list[str]
    staying: list[str]
    said: list[str]


def plan(tool: PgBackRest, repository: int, label: str) -> Plan:
    """Ask pgBackRest, without a change, what it would prune. ``label`` is one backup to remove, or empty.

    Raises BackupError.
    """
    backups = parse(tool.info(), tool.stanza).of(repository)
    done = tool.run("expire", *_options(repository, label), "--dry-run", "--log-level-console=info")
    if done.code != 0:
        message = f"pgbackrest expire: {done.problem}"
        raise BackupError(message)
    said = removed(done.output)
    named = {word.rstrip(",") for line in said if "backup" in line for word in line.split()}
    # What is based on a backup goes with it.
    going = [one.label for one in backups if named & {one.label, *one.references}]
    return Plan(going, [one.label for one in backups if one.label not in going], said)


def refusal(planned: Plan, backups: Sequence[Backup], known: Record) -> str | None:
    """Return why nothing may be pruned now, or None."""
    if not backups:
        return "the repository has no backup"
    newest = backups[-1]
    if known.verified_at(newest) is None:
        return f"the newest backup, {newest.label}, is not verified; run playbooks/backup_verify.yml first"
    by_label = {one.label: one for one in backups}
    if not any(known.verified_at(by_label[label]) for label in planned.staying):
        return f"no verified backup would be left without {', '.join(planned.going)}"
    # What goes may be damaged. WAL that is missing does not come back by keeping more.
    for problem in known.verifications.get(str(newest.repository), {}).get("problems", []):
        if problem["subject"] in planned.staying:
            message = problem["message"]
            return f"what would stay is damaged: {message}; remove {problem['subject']} by its label first"
    return None


def expire(tool: PgBackRest, repository: int, label: str) -> list[str]:
    """Prune, and return the labels of the backups that are there then. Raises BackupError."""
    done = tool.run("expire", *_options(repository, label), "--log-level-console=info")
    if done.code != 0:
        message = f"pgbackrest expire: {done.problem}"
        raise BackupError(message)
    return [one.label for one in parse(tool.info(), tool.stanza).of(repository)]


def _options(repository: int, label: str) -> tuple[str, ...]:
    return (f"--repo={repository}", *([f"--set={label}"] if label else []))


def removed(output: str) -> list[str]:
    """Return what an expire removed, or would remove, by what it printed."""
    found = []
    for line in output.splitlines():
        for word in ("expire full backup", "expire diff backup", "expire incr backup", "remove archive"):
            if word in line:
                found.append(line[line.index(word) :].strip())
    return found
