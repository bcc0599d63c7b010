"""The kinds of fault that a simulated server knows, and what each takes. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from stationkeeper.simulator.protocol import READ_FUNCTIONS, WRITE_FUNCTIONS


class Stage(Enum):
    """Where a fault acts."""

    REFUSE = "instead of executing the request"
    WRITE = "in what a write does"
    ANSWER = "on the answer"
    STANDING = "as a state, until it is cleared"


@dataclass(frozen=True)
class Kind:
    """One kind of fault; `takes` are its parameters beside unit, functions, address, count and after."""

    stage: Stage
    text: str
    takes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    functions: frozenset[int] | None = None
    per_unit: bool = True


_WRITES, _READS = frozenset(WRITE_FUNCTIONS), frozenset(READ_FUNCTIONS)

KINDS: dict[str, Kind] = {
    "exception": Kind(Stage.REFUSE, "answers exception `code` (1 to 11), not executed", ("code",), ("code",)),
    "busy": Kind(Stage.REFUSE, "answers exception 6, not executed"),
    "gateway_silent": Kind(Stage.REFUSE, "answers exception 11, as a gateway whose device is silent"),
    "local_mode": Kind(
        Stage.REFUSE,
        "refuses writes with exception `code` (default 4), and the profile's local-mode point says local",
        ("code",),
        functions=_WRITES,
    ),
    "lost_request": Kind(Stage.REFUSE, "the request never arrives: not executed, no answer"),
    "black_hole": Kind(Stage.REFUSE, "takes connections and requests, executes and answers nothing"),
    "ignore": Kind(Stage.WRITE, "acknowledges a write and does nothing", functions=_WRITES),
    "clamp": Kind(
        Stage.WRITE,
        "acknowledges a set-point and holds at most `value` kW of it, in both directions",
        ("value",),
        ("value",),
        _WRITES,
    ),
    "slow_apply": Kind(
        Stage.WRITE, "acknowledges a write that acts after `seconds`", ("seconds",), ("seconds",), _WRITES
    ),
    "torn_write": Kind(
        Stage.WRITE,
        "takes the `half` (first, default, or second) of the written registers, and acknowledges all",
        ("half",),
        functions=_WRITES,
    ),
    "acknowledge": Kind(Stage.ANSWER, "executes, and answers exception 5: accepted, still working"),
    "drop": Kind(Stage.ANSWER, "executes and does not answer"),
    "late_answer": Kind(
        Stage.ANSWER, "keeps the answer, and sends it when the next request of the connection arrives"
    ),
    "stale_answer": Kind(
        Stage.ANSWER,
        "keeps the answer, and gives it to the next request of any connection as its own, as a gateway does "
        "that has lost count on its serial side",
    ),
    "wrong_unit": Kind(Stage.ANSWER, "answers as another unit"),
    "wrong_transaction": Kind(Stage.ANSWER, "answers with another transaction id (TCP only)"),
    "wrong_echo": Kind(Stage.ANSWER, "executes a write and echoes another value or count", functions=_WRITES),
    "short_count": Kind(Stage.ANSWER, "answers a read with its last byte or word missing", functions=_READS),
    "close_mid_frame": Kind(Stage.ANSWER, "sends half of the answer and closes the connection"),
    "crc_noise": Kind(Stage.ANSWER, "spoils the answer's CRC (RTU only)"),
    "connection_limit": Kind(
        Stage.STANDING,
        "closes every connection beyond the first `value` (default 1) at once",
        ("value",),
        per_unit=False,
    ),
    "refuse_connections": Kind(
        Stage.STANDING, "closes all connections and the listening sockets", per_unit=False
    ),
    "reboot": Kind(
        Stage.STANDING,
        "forgets modes and set-points that are not in flash and drops all connections; the unit is silent "
        "for `seconds` (default 0), then the fault ends by itself",
        ("seconds",),
    ),
    "second_master": Kind(
        Stage.STANDING,
        "another master writes `value` kW every `seconds` (default 1)",
        ("value", "seconds"),
        ("value",),
    ),
    "heartbeat_freeze": Kind(Stage.STANDING, "the device's heartbeat stands still"),
    "soe_limit": Kind(
        Stage.STANDING,
        "the battery ends discharging at `low` percent and charging at `high` percent",
        ("low", "high"),
    ),
    "temperature": Kind(
        Stage.STANDING,
        "the battery is at `value` °C: power is derated from 50 °C and ends at 60 °C; alarm above 55 °C",
        ("value",),
        ("value",),
    ),
    "sign_flip": Kind(
        Stage.STANDING,
        "`point` (default: the measured power) has the other sign; for the set-point, what is written is "
        "taken with the other sign",
        ("point",),
    ),
    "scale_factor_change": Kind(
        Stage.STANDING,
        "the scale factor `point` is `value`, in its register and in effect",
        ("point", "value"),
        ("point", "value"),
    ),
    "sentinel": Kind(
        Stage.STANDING, "`point` reads as its type's value for 'not implemented'", ("point",), ("point",)
    ),
    "hold_value": Kind(
        Stage.STANDING,
        "`point` reads as `value`, whatever the physics say",
        ("point", "value"),
        ("point", "value"),
    ),
}
