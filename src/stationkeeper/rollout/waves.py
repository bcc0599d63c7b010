"""The order of a rollout, and the gate between its waves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

#: What a host's result must be for the next wave to start.
PROVEN = frozenset({"ok", "changed"})


class RolloutError(ValueError):
    """The rollout cannot be planned or continued; the text says what to do."""


def plan(reachable: Sequence[str], canary: str | None, wave_size: int) -> list[list[str]]:
    """Return the waves: the canary (default: the first host) alone, then ``wave_size`` hosts each.

    Raises RolloutError for a canary that cannot take part, or a wave size below 1.
    """
    if wave_size < 1:
        raise RolloutError(f"wave_size is {wave_size}; it must be 1 or more")
    if not reachable:
        raise RolloutError("no target can be reached, so there is nothing to roll out to")
    first = canary or reachable[0]
    if first not in reachable:
        raise RolloutError(
            f"the canary {first} is no reachable target; choose one of {', '.join(reachable)} "
            "with -e canary=..."
        )
    rest = [host for host in reachable if host != first]
    return [[first], *(rest[start : start + wave_size] for start in range(0, len(rest), wave_size))]


def objections(waves: Sequence[Sequence[str]], number: int, results: Mapping[str, str]) -> list[str]:
    """Return why wave ``number`` (the canary is 0) must not start: hosts before it without a proof.

    ``results`` are the statuses of this run. Missing is no proof, so a record that was lost stops the
    rollout.
    """
    held = {
        host: results.get(host, "without a result")
        for wave in waves[:number]
        for host in wave
        if results.get(host) not in PROVEN
    }
    # Hosts that were left alone are a consequence, never the cause.
    causes = {host: status for host, status in held.items() if status != "not_attempted"}
    return [f"{host} is {status}" for host, status in (causes or held).items()]
