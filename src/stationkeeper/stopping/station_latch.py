"""The latch of a station, set over plain ssh: the station needs python3 and sudo, and nothing of ours."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from typing import Any

from stationkeeper.controller import latch
from stationkeeper.stopping.bundle import Ssh
from stationkeeper.stopping.ssh import Answer, Logins

# -I: neither the station's environment nor its working directory may change what runs as root.
_COMMAND = "sudo -n python3 -I -"
_TIMEOUT_S = 20.0

_SET = """
def _main(order):
    done = set_latch(reason=order["reason"], who=order["owner"], id=order["run_id"])
    return {"changed": done.changed, "warnings": list(done.warnings), **done.after.as_dict()}
"""
_PLAN = """
def _main(order):
    before = read_latch()
    return {**before.as_dict(), "changed": not before.persistent, "latched": True}
"""
_CALL = """
try:
    print(json.dumps(_main(json.loads({order!r}))))
except LatchError as error:
    print(json.dumps({{"latched": False, "error": str(error)}}))
"""


@dataclass(frozen=True, slots=True)
class Order:
    """Why, by whom and under which identifier a station is stopped."""

    reason: str
    owner: str
    run_id: str


def script(order: Order, *, dry_run: bool) -> str:
    """Return the program that the station runs: the latch's own source and one call of it."""
    words = json.dumps({"reason": order.reason, "owner": order.owner, "run_id": order.run_id})
    return inspect.getsource(latch) + (_PLAN if dry_run else _SET) + _CALL.format(order=words)


async def set_over_ssh(ssh: Ssh, order: Order, logins: Logins, *, dry_run: bool) -> dict[str, Any]:
    """Set the latch (with ``dry_run`` only look) and return its state, or `unreachable` or `error`."""
    return understand(await logins.run(ssh, _COMMAND, script(order, dry_run=dry_run), _TIMEOUT_S))


def understand(answer: Answer) -> dict[str, Any]:
    """Return the latch's state from the answer; without a clear one the station is not latched."""
    if not answer.reached:
        return {"unreachable": True, "latched": False, "error": answer.error or "no answer"}
    try:
        state = json.loads(answer.output.strip().splitlines()[-1])
        state["latched"] = bool(state["latched"])
    except (ValueError, KeyError, IndexError, TypeError):
        text = answer.error or answer.output.strip() or f"exit code {answer.code}"
        return {"latched": False, "error": f"the station could not set it: {text}"}
    return dict(state)
