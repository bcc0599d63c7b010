"""The golden vectors in tests/golden: what a device's registers mean, made without this package's codec.

One place for all who read and write registers: the codec and profile access, the controller, the simulator.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

DIRECTORY = Path(__file__).parents[1] / "golden"


@dataclass(frozen=True)
class Write:
    """What a recipe writes on that device: (point, address, words) in their order."""

    recipe: Any
    power_kw: float | None
    requests: list[tuple[str, int, list[int]]]


@dataclass(frozen=True)
class Vector:
    """The registers of one device at one instant by table and address, and what they mean."""

    profile: str
    name: str
    registers: dict[str, dict[int, int]]
    sample: dict[str, float | None]
    points: dict[str, float | None]
    writes: list[Write]

    def __str__(self) -> str:
        return f"{self.profile}: {self.name}"

    def words(self, table: str, address: int, count: int) -> list[int]:
        """Return registers. Raises KeyError for one that the device does not have."""
        return [self.registers[table][place] for place in range(address, address + count)]


class GoldenClient:
    """A client whose device holds a vector's registers; notes reads and takes writes."""

    connected = True

    def __init__(self, vector: Vector) -> None:
        self.registers = {table: dict(held) for table, held in vector.registers.items()}
        self.reads: list[tuple[str, int, int]] = []
        self.writes: list[tuple[int, list[int]]] = []

    async def read(self, _unit: int, table: Any, address: int, count: int) -> list[int]:
        from stationkeeper.modbus.errors import DeviceExceptionError

        self.reads.append((str(table), address, count))
        held = self.registers.get(str(table), {})
        if any(place not in held for place in range(address, address + count)):
            raise DeviceExceptionError(2, f"nothing at {table} {address}", writing=False)
        return [held[place] for place in range(address, address + count)]

    async def write(self, _unit: int, address: int, words: list[int]) -> None:
        self.writes.append((address, list(words)))


def vectors(*profiles: str) -> list[Vector]:
    """Return the vectors of these profiles, or of all."""
    found = []
    for path in sorted(DIRECTORY.glob("*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not profiles or content["profile"] in profiles:
            found += [_vector(content["profile"], entry) for entry in content["vectors"]]
    return found


def _vector(profile: str, entry: dict[str, Any]) -> Vector:
    registers = {
        table: {
            start + place: word for start, text in parts.items() for place, word in enumerate(_words(text))
        }
        for table, parts in entry["registers"].items()
    }
    writes = [
        Write(
            write["recipe"],
            write.get("power_kw"),
            [(step["point"], step["address"], _words(step["words"])) for step in write["requests"]],
        )
        for write in entry.get("writes", [])
    ]
    return Vector(profile, entry["name"], registers, entry["sample"], entry.get("points", {}), writes)


def _words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]
