"""Keeps cyclic writers away from registers in flash memory, which wears out."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from stationkeeper.files import write_atomically
from stationkeeper.modbus.errors import ModbusError
from stationkeeper.modbus.outcome import Outcome
from stationkeeper.modbus.reading import Place
from stationkeeper.modbus.writing.request import Plan


class WearLedger:
    """When the registers of one unit were last written, in a file of its own.

    The lock of the endpoint keeps other writers of the file away. Times are UTC, since they are compared
    across runs; a time in the future is taken for a wrong clock and does not block. Several writes of one
    run, such as a recipe's disable and enable, are not a cyclic writer.
    """

    def __init__(self, directory: Path, host: str, port: int, unit: int) -> None:
        safe = "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in host)
        self._path = directory / f"{safe}_{port}_{unit}.json"
        self._own: set[str] = set()

    def check(self, plan: Plan, now: datetime) -> None:
        """Raise `ModbusError` when this register was written too short a time ago."""
        request = plan.request
        interval_s = request.min_write_interval_s
        if request.storage == "ram" or interval_s <= 0 or request.place.where in self._own:
            return
        last = self._load().get(request.place.where)
        if last is None:
            return
        age_s = (now - datetime.fromisoformat(last)).total_seconds()
        if 0 <= age_s < interval_s:
            raise ModbusError(
                Outcome.BLOCKED_BY_INTERLOCK,
                f"{request.place.name} was written {age_s:.1f} s ago and its storage is {request.storage}: "
                f"more than one write in {interval_s:g} s wears it out. Wait, or set storage to ram if the "
                "device's manual says so",
            )

    def note(self, place: Place, now: datetime) -> None:
        """Remember that a place is being written now. Raises `ModbusError` when that is not possible."""
        written = self._load() | {place.where: now.astimezone(UTC).isoformat()}
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self._path, json.dumps(written), mode=0o644)
        except OSError as error:
            raise self._unusable(error) from None
        self._own.add(place.where)

    def _load(self) -> dict[str, str]:
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            return {str(place): datetime.fromisoformat(at).isoformat() for place, at in content.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise self._unusable(error) from None

    def _unusable(self, error: Exception) -> ModbusError:
        return ModbusError(
            Outcome.BLOCKED_BY_INTERLOCK,
            f"{self._path} (times of earlier writes) cannot be used: {error}; repair or delete it",
        )
