"""Whether the backups of the database are good: every backup, and every objective against what there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .content import Backup
from .look import Look
from .record import Record

#: A repository that nobody has read as a whole for longer may be rotten.
VERIFICATION_MAX_AGE_S = 8 * 86400.0
# What a backup of a kind can be replaced by.
_STANDS_FOR = {
    "database_diff": ("database_full", "database_diff"),
    "database_incr": ("database_full", "database_diff", "database_incr"),
}


@dataclass(frozen=True)
class Judgement:
    """What is wrong, in sentences, the worst first, and one row for each backup."""

    problems: list[str]
    backups: list[dict[str, Any]]
    wal: list[dict[str, Any]]

    @property
    def good(self) -> bool:
        """Return whether nothing is wrong."""
        return not self.problems

    def table(self) -> list[str]:
        """Return the same as lines for a terminal."""
        lines = [
            f"{row['label']}: {row['kind']} in repository {row['repository']}, {row['age']} old, "
            f"{row['stored_mib']:.1f} MiB of {row['size_mib']:.1f} MiB, "
            f"WAL {row['wal_first']} to {row['wal_last']}, {row['verified']}"
            for row in self.backups
        ]
        lines += [f"WAL in repository {row['repository']}: newest {row['age']} old" for row in self.wal]
        return lines + self.problems


def judge(looked: Look, known: Record, objectives: Sequence[tuple[str, float]], now: float) -> Judgement:
    """Judge what was seen; ages in seconds."""
    problems = [f"repository {key} cannot be read: {why}" for key, why in sorted(looked.broken.items())]
    problems += [str(gap) for key in sorted(looked.gaps) for gap in looked.gaps[key]]
    problems += _verifications(looked, known, now)
    good = [one for one in looked.content.backups if not one.page_errors and known.verified_at(one)]
    for kind, limit in objectives:
        problems += _too_old(kind, limit, good, looked.content.backups, now)
    problems += [
        f"the last run of {kind} failed {age(now - run['at'])} ago: {run['message']}"
        for kind, run in sorted(known.runs.items())
        if not run["succeeded"]
    ]
    rows = [_row(one, known, now) for one in looked.content.backups]
    wal = [
        {"repository": key, "newest": newest, "age": age(now - newest)}
        for key, newest in sorted(looked.newest.items())
        if newest is not None
    ]
    return Judgement(list(dict.fromkeys(problems)), rows, wal)


def _verifications(looked: Look, known: Record, now: float) -> list[str]:
    found = []
    for repository in looked.content.repositories:
        last = known.verifications.get(str(repository.key))
        if not looked.content.of(repository.key):
            continue
        if last is None:
            found.append(f"repository {repository.key} was never verified")
            continue
        found += [problem["message"] for problem in last["problems"]]
        if now - last["at"] > VERIFICATION_MAX_AGE_S:
            found.append(f"repository {repository.key} was last verified {age(now - last['at'])} ago")
    return found


def _too_old(
    kind: str, limit: float, good: Sequence[Backup], every: Sequence[Backup], now: float
) -> list[str]:
    kinds = _STANDS_FOR.get(kind, (kind,))
    newest = max((one.began for one in good if one.kind in kinds), default=None)
    name = kind.removeprefix("database_")
    if newest is None:
        made = sum(one.kind in kinds for one in every)
        return [f"there is no verified {name} backup" + (f" ({made} that are not verified)" if made else "")]
    if now - newest > limit:
        return [f"the newest verified {name} backup is {age(now - newest)} old, {age(limit)} are allowed"]
    return []


def _row(backup: Backup, known: Record, now: float) -> dict[str, Any]:
    verified = known.verified_at(backup)
    return {
        "label": backup.label,
        "kind": backup.kind,
        "repository": backup.repository,
        "began": backup.began,
        "age_s": round(now - backup.began),
        "age": age(now - backup.began),
        "size_mib": round(backup.size / 1024**2, 1),
        "stored_mib": round(backup.stored / 1024**2, 1),
        "wal_first": backup.wal_first,
        "wal_last": backup.wal_last,
        "verified": "not verified" if verified is None else f"verified {age(now - verified)} ago",
        "good": verified is not None and not backup.page_errors,
    }


def age(seconds: float) -> str:
    """Return a span for people: its largest unit, and the next one."""
    whole = max(int(seconds), 0)
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for place, (unit, length) in enumerate(units):
        if whole >= length:
            text = f"{whole // length} {unit}"
            if place + 1 < len(units) and (rest := whole % length // units[place + 1][1]):
                text += f" {rest} {units[place + 1][0]}"
            return text
    return "0 s"
