"""Writes in a declared order: a group of single writes, or a profile's recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from stationkeeper.modbus.errors import ModbusError
from stationkeeper.modbus.outcome import Outcome
from stationkeeper.modbus.reading import Place, Reading, value_of
from stationkeeper.modbus.writing.checks import objections
from stationkeeper.modbus.writing.evidence import WriteResult
from stationkeeper.modbus.writing.execute import execute
from stationkeeper.modbus.writing.request import Plan
from stationkeeper.modbus.writing.session import BROADCAST, Session


@dataclass(slots=True)
class GroupResult:
    """What became of a sequence of writes. `outcome` is None for one that a dry run would send.

    `steps` ends with the one that failed, if any; `on_partial` are the writes that followed upon that.
    """

    outcome: Outcome | None = None
    message: str = ""
    steps: list[WriteResult] = field(default_factory=list)
    on_partial: list[WriteResult] = field(default_factory=list)
    failed: bool = False

    @property
    def written(self) -> list[str]:
        """Names of the steps that are in force, in their order."""
        done = self.steps[:-1] if self.failed else self.steps
        return [step.name for step in done if step.outcome is not None]

    @property
    def changed(self) -> bool:
        """True when a step changed, or would change, an effective value."""
        return any(step.changed for step in [*self.steps, *self.on_partial])

    @property
    def warnings(self) -> list[str]:
        """What the steps warn of."""
        return [warning for step in [*self.steps, *self.on_partial] for warning in step.warnings]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for a caller."""
        return {
            "outcome": None if self.outcome is None else str(self.outcome),
            "changed": self.changed,
            "message": self.message,
            "written": self.written,
            "steps": [step.as_dict() for step in self.steps],
            "on_partial": [step.as_dict() for step in self.on_partial],
        }


async def run_group(session: Session, plans: Sequence[Plan], on_partial: Sequence[Plan]) -> GroupResult:
    """Write in order, each step proven before the next; upon a failure `on_partial` follows. Never raises."""
    result = GroupResult()
    blocked = await _blocked(session, plans)
    if blocked:
        result.outcome, result.failed = Outcome.BLOCKED_BY_INTERLOCK, True
        result.message = f"nothing was written, blocked: {'; '.join(blocked)}"
        return result
    planned: dict[Place, Reading] = {}
    for plan in plans:
        step = await execute(session, plan, assumed=planned.get(plan.place))
        result.steps.append(step)
        if session.dry_run and step.words:
            planned[plan.place] = Reading(plan.place, step.words)
        if not step.is_acceptable:
            await _fail(session, result, len(plans), on_partial)
            return result
    result.outcome = _together(result.steps)
    result.message = (
        f"{len(plans)} steps: {', '.join(f'{step.name} {step.outcome}' for step in result.steps)}"
    )
    return result


async def run_recipe(session: Session, plans: Sequence[Plan], on_partial: Sequence[Plan]) -> GroupResult:
    """Write a recipe, whose last step carries the proof of the whole; nothing when all is in force already.

    All steps are written or none: a value may be written only while another step has disabled its use.
    """
    before = await _in_force(session, plans)
    if before is not None:
        return GroupResult(Outcome.UNCHANGED, "all of the recipe is in force already", before)
    result = await run_group(session, [_step(plan) for plan in plans], on_partial)
    if not result.failed and not session.dry_run:
        # The effect of the last step is the effect of all, also of those that cannot be read.
        result.outcome = result.steps[-1].outcome
        result.message = result.steps[-1].message
    return result


async def _in_force(session: Session, plans: Sequence[Plan]) -> list[WriteResult] | None:
    """Return a result for each step when the last value of every register is there, otherwise None."""
    if session.unit == BROADCAST:
        return None
    look = _only_looking(session)
    last = {plan.place: plan for plan in plans}
    results = []
    for plan in last.values():
        if plan.request.write_only and plan.request.verify.mode == "none":
            return None
        level = replace(plan, request=replace(plan.request, semantic="level", interlocks=()))
        step = await execute(look, level)
        if step.outcome is not Outcome.UNCHANGED:
            return None
        results.append(step)
    return results


def _only_looking(session: Session) -> Session:
    """Return the session for looking only; the reader goes along, with what it has read last."""
    look = Session(session.client, session.unit, session.gate, session.clock, session.patience, dry_run=True)
    look.reader = session.reader
    return look


def _step(plan: Plan) -> Plan:
    return replace(plan, request=replace(plan.request, semantic="refresh"))


async def _blocked(session: Session, plans: Sequence[Plan]) -> list[str]:
    """Return what blocks any step, before the first one is written."""
    found: list[str] = []
    for plan in plans:
        if plan.request.interlocks:
            towards_zero = plan.is_towards_zero(await _present(session, plan))
            found += await objections(session, plan, towards_zero=towards_zero)
    return list(dict.fromkeys(found))


async def _present(session: Session, plan: Plan) -> Decimal | None:
    """Return the present value; None where it cannot be told, which makes no write a safe one."""
    if plan.request.write_only:
        return None
    try:
        return value_of(await session.read(plan.place))
    except ModbusError:
        return None


async def _fail(session: Session, result: GroupResult, count: int, on_partial: Sequence[Plan]) -> None:
    step = result.steps[-1]
    result.failed, result.outcome = True, step.outcome
    written = ", ".join(result.written) or "nothing"
    result.message = (
        f"step {len(result.steps)} of {count}, {step.name}: {step.message}; written before it: {written}"
    )
    if session.dry_run or not any(done.left and done.changed for done in result.steps):
        return
    for plan in on_partial:
        result.on_partial.append(await execute(session, _step(plan)))
    if on_partial:
        ends = ", ".join(f"{done.name} {done.outcome}" for done in result.on_partial)
        result.message += f"; then on_partial: {ends}"


def _together(steps: Sequence[WriteResult]) -> Outcome | None:
    outcomes = [step.outcome for step in steps]
    for outcome in (None, Outcome.ACCEPTED_UNVERIFIED, Outcome.VERIFIED):
        if outcome in outcomes:
            return outcome
    return Outcome.UNCHANGED
