"""Carries out one planned write: look, decide, write, and prove or admit what is not known."""

from __future__ import annotations

from decimal import Decimal

from stationkeeper.modbus.client import Table
from stationkeeper.modbus.errors import DeviceExceptionError, ModbusError
from stationkeeper.modbus.outcome import Outcome
from stationkeeper.modbus.reading import Reading, plain, value_of
from stationkeeper.modbus.writing.checks import objections
from stationkeeper.modbus.writing.evidence import Attempt, Sample, WriteResult
from stationkeeper.modbus.writing.exchange import ACKNOWLEDGED, WRITE_AGAIN, patiently
from stationkeeper.modbus.writing.request import Plan
from stationkeeper.modbus.writing.session import BROADCAST, Session
from stationkeeper.modbus.writing.verification import Criteria, Verification


async def execute(session: Session, plan: Plan, *, assumed: Reading | None = None) -> WriteResult:
    """Carry out a write and return what became of it. Never raises `ModbusError`.

    In a dry run everything but the write happens, and `outcome` is None when a write would leave. `assumed`
    is then what a write before this one would have left in the register.
    """
    return await _Execution(session, plan, assumed).run()


_ACKNOWLEDGED = "acknowledged"


class _Execution:
    def __init__(self, session: Session, plan: Plan, assumed: Reading | None) -> None:
        self._session = session
        self._plan = plan
        self._request = plan.request
        self._clock = session.clock
        self._broadcast = session.unit == BROADCAST
        self._assumed = assumed
        self._result = WriteResult(plan)

    async def run(self) -> WriteResult:
        started = self._clock.now()
        result = self._result
        try:
            await self._run()
        except ModbusError as error:
            result.fail(error)
            if error.outcome not in (Outcome.UNKNOWN, Outcome.CONTENDED):
                result.changed = False
        result.duration_s = self._clock.now() - started
        if result.left:
            self._session.gate.after(result)
        return result

    async def _run(self) -> None:
        result, plan = self._result, self._plan
        await self._look()
        before = value_of(result.before)
        self._check_expectation(before)
        towards_zero = plan.is_towards_zero(before)
        result.changed = self._differs()
        result.words = self._words(result.before)
        if self._request.semantic == "level" and not result.changed:
            result.outcome = Outcome.UNCHANGED
            result.message = f"is {result.before or result.effect_before} already"
            result.after, result.effect = result.before, result.effect_before
            return
        self._check_step(before)
        result.interlocks = await objections(self._session, plan, towards_zero=towards_zero)
        if result.interlocks:
            raise ModbusError(Outcome.BLOCKED_BY_INTERLOCK, f"blocked: {'; '.join(result.interlocks)}")
        self._session.gate.check(plan, towards_zero=towards_zero)
        if self._session.dry_run:
            result.message = f"would write {plan.place.show(plan.value)}"
            return
        self._session.gate.before(plan, towards_zero=towards_zero)
        await self._write()
        await self._prove()

    async def _look(self) -> None:
        if self._broadcast:
            return
        if not self._request.write_only:
            self._result.before = self._assumed or await self._session.look(self._plan.place)
        if self._request.verify.place is not None:
            self._result.effect_before = await self._session.look(self._request.verify.place)

    def _check_expectation(self, before: Decimal | None) -> None:
        expected = self._plan.expect
        if expected is None or (before is not None and abs(before - expected) <= self._plan.half_step):
            return
        place = self._plan.place
        raise ModbusError(
            Outcome.BLOCKED_BY_INTERLOCK,
            f"{place.name} is {place.show(before)}, not the expected {place.show(expected)}; nothing was "
            "written. Look who changed it, then give the new value in expect",
        )

    def _check_step(self, before: Decimal | None) -> None:
        limit, place = self._plan.max_step, self._plan.place
        if limit is None:
            return
        if before is None:
            raise ModbusError(
                Outcome.BLOCKED_BY_INTERLOCK, f"{place.name} is missing, so max_step cannot be checked"
            )
        if abs(self._plan.value - before) > limit:
            raise ModbusError(
                Outcome.REJECTED,
                f"{place.name}: from {place.show(before)} to {place.show(self._plan.value)} is more than "
                f"max_step {plain(limit)}; nothing was written, go there in several steps",
            )

    def _differs(self) -> bool:
        """Whether the effective value is another one, or not known."""
        result, plan = self._result, self._plan
        if result.effect_before is not None:
            effect = value_of(result.effect_before)
            if effect is None or abs(effect - plan.wanted) > plan.tolerance:
                return True
            if result.before is None:
                return False
        before = value_of(result.before)
        # A pulse reads back as something else: only its effect tells whether it changes anything.
        if not plan.is_idempotent and result.effect_before is not None:
            return False
        return before is None or abs(before - plan.value) > plan.half_step

    def _words(self, current: Reading | None) -> tuple[int, ...]:
        if self._plan.place.is_field and current is not None:
            return (self._plan.merged(current.words[0]),)
        return self._plan.words

    async def _write(self) -> None:
        """Send the write until it is acknowledged, or known to be in force. Raises `ModbusError`."""
        attempts = self._session.patience.attempts if self._plan.is_idempotent else 1
        for attempt in range(1, attempts + 1):
            try:
                doubt = await self._attempt()
            except ModbusError as error:
                if attempt > 1:
                    # Whatever became of this one, the attempt before it has left and may still act.
                    raise ModbusError(Outcome.UNKNOWN, f"attempt {attempt}: {error.message}") from None
                raise
            if doubt is None or self._broadcast or await self._find_out(doubt):
                return
            if attempt == attempts:
                raise ModbusError(
                    Outcome.UNKNOWN,
                    f"{doubt.message}; read back {self._result.effect or self._result.after}, which does not "
                    "show that the write has arrived, and it may still act; look again before you repeat it",
                )

    async def _attempt(self) -> ModbusError | None:
        if self._plan.place.is_field and not self._plan.masks_in_device:
            await self._merge_again()
        return await self._send()

    async def _merge_again(self) -> None:
        """Compare the register with the first look: bits that another master changes would be put back."""
        first = self._result.before
        now = await self._session.look(self._plan.place)
        if first is not None and (now.words[0] ^ first.words[0]) & ~self._plan.place.field_bits:
            raise ModbusError(
                Outcome.CONTENDED,
                f"{self._plan.place.where} changes while it is being read ({first} and then {now}); nothing "
                "was written. Run it again, or let the device merge the bits with function 22",
            )
        self._result.words = (self._plan.merged(now.words[0]),)

    async def _send(self) -> ModbusError | None:
        """Send once; return None when acknowledged, the error when nobody knows. Raises `ModbusError`."""
        try:
            await patiently(
                self._transmit, self._clock, self._session.patience.busy_timeout_s, again=WRITE_AGAIN
            )
        except ModbusError as error:
            if isinstance(error, DeviceExceptionError) and error.code == ACKNOWLEDGED:
                return None
            if error.outcome is Outcome.UNKNOWN:
                return error
            raise
        return None

    async def _transmit(self) -> None:
        plan, session = self._plan, self._session
        place, words = plan.place, self._result.words
        function = self._request.function or _usual_function(place.table, len(words))
        if plan.masks_in_device:
            words = (~place.field_bits & 0xFFFF, plan.words[0])
        attempt = Attempt(self._clock.utc(), function, place.address, words)
        try:
            if place.table is Table.COIL:
                await session.client.write_coils(session.unit, place.address, words, function=function)
            elif plan.masks_in_device:
                await session.client.mask_write(session.unit, place.address, *words)
            else:
                await session.client.write(
                    session.unit, place.address, words, function=function, broadcast=self._broadcast
                )
            attempt.answer = "none, a broadcast has no answer" if self._broadcast else _ACKNOWLEDGED
        except ModbusError as error:
            if error.outcome is Outcome.UNREACHABLE and not isinstance(error, DeviceExceptionError):
                # No connection: the request has not left.
                raise
            attempt.answer = error.message
            self._result.attempts.append(attempt)
            raise
        self._result.attempts.append(attempt)

    async def _find_out(self, doubt: ModbusError) -> bool:
        """After a write without an answer: wait until none can come, and look on a new connection."""
        await self._session.client.close()
        await self._clock.sleep(self._session.patience.settle_s)
        request = self._request
        place = request.verify.place or (None if request.write_only else self._plan.place)
        if place is None:
            raise ModbusError(
                Outcome.UNKNOWN,
                f"{doubt.message}; {self._plan.place.name} is write-only: nothing can be read",
            )
        try:
            seen = await self._session.read(place)
            value = value_of(seen)
        except ModbusError as error:
            raise ModbusError(
                Outcome.UNKNOWN, f"{doubt.message}; and it cannot be read back: {error.message}"
            ) from None
        self._note(seen)
        if value is None or not self._result.changed:
            # A value that was there before does not tell whether this write has arrived.
            return False
        # Where another register is the proof of a write, it has not been asked for with verify none.
        wanted = self._plan.wanted if request.verify.mode != "none" else self._plan.value
        return abs(value - wanted) <= self._plan.tolerance

    async def _prove(self) -> None:
        verify, result, plan = self._request.verify, self._result, self._plan
        if verify.mode == "none" or self._broadcast:
            result.outcome = Outcome.ACCEPTED_UNVERIFIED
            what = "a broadcast" if self._broadcast else "verify.mode none"
            result.message = f"sent {plan.place.show(plan.value)}; {what} proves nothing"
            result.warnings.append(f"{plan.place.name}: {result.message}")
            return
        place = verify.place or plan.place
        first = result.effect_before if verify.place else result.before
        criteria = Criteria(
            plan.wanted,
            plan.tolerance,
            verify.samples,
            verify.window_s,
            verify.hold_s,
            value_of(first),
            place.unit,
        )
        judge = Verification(criteria)
        if any(attempt.answer != _ACKNOWLEDGED for attempt in result.attempts):
            # After any error the proof is read on a new connection.
            await self._session.client.close()
        started = self._clock.now()
        while True:
            reading, error = None, ""
            try:
                reading = await self._session.reader.read(place)
                value = value_of(reading)
            except ModbusError as failure:
                # Busy, silent or mismatched: no observation. The next one is made on a new connection.
                reading, value, error = None, None, failure.message
                await self._session.client.close()
            at_s = self._clock.now() - started
            result.samples.append(Sample(self._clock.utc(), at_s, reading, error))
            if reading is not None:
                self._note(reading)
            judge.observe(at_s, value)
            if judge.is_finished(at_s):
                break
            await self._clock.sleep(verify.interval_s)
        result.outcome, result.message = judge.verdict()
        if result.outcome is Outcome.VERIFIED:
            result.verified_s = round(at_s, 3)
        if verify.place is not None and not self._request.write_only:
            await self._look_again()

    async def _look_again(self) -> None:
        """Show what stands in the written register where another one was the proof."""
        try:
            self._result.after = await self._session.read(self._plan.place)
        except ModbusError as error:
            self._result.warnings.append(f"{self._plan.place.name} after the write: {error.message}")

    def _note(self, reading: Reading) -> None:
        if reading.place == self._plan.place:
            self._result.after = reading
        else:
            self._result.effect = reading


def _usual_function(table: Table, count: int) -> int:
    if table is Table.COIL:
        return 5
    return 6 if count == 1 else 16
