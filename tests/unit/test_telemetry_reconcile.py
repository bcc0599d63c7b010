"""Rows against the served log: nothing lost, nothing invented, nothing altered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
from telemetry_database import add_device, create_tables

from stationkeeper.modbus.codec import encode
from stationkeeper.profiles import Profile, load_profile
from stationkeeper.telemetry.command import run as command
from stationkeeper.telemetry.reconcile import DeviceResult, Stored, reconcile
from stationkeeper.telemetry.served import Served, parse_unit_map, read_log
from stationkeeper.telemetry.source import TelemetryError

START = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
END = START + timedelta(minutes=10)
BATTERY, METER = load_profile("generic_battery"), load_profile("generic_meter")


def at(second: float) -> datetime:
    return START + timedelta(seconds=second)


def served(second: float, heartbeat: int, power_kw: float = 1.5) -> Served:
    return Served("B", at(second), "10.0.0.1:4000", heartbeat, {"heartbeat": heartbeat, "power_kw": power_kw})


def stored(second: float, heartbeat: int | None, power_kw: float | None = 1.5) -> Stored:
    return Stored("B", at(second), heartbeat, {"heartbeat": heartbeat, "power_kw": power_kw})


def judged(answers: list[Served], rows: list[Stored], *kills: float) -> DeviceResult:
    (result,) = reconcile(answers, rows, ["B"], START, END, kills=[at(kill) for kill in kills])
    return result


ANSWERS = [served(second, 100 + second) for second in range(0, 60, 2)]
ROWS = [stored(second + 0.01, 100 + second) for second in range(0, 60, 2)]


def test_equal_sets_are_equal() -> None:
    result = judged(ANSWERS, ROWS)
    assert result.ok
    assert (result.served, result.stored, result.equal) == (30, 30, 30)


def test_each_kind_of_difference_is_found() -> None:
    rows = [*ROWS[:5], *ROWS[6:], stored(31, 999), stored(33, None)]
    rows[0] = stored(0.01, 100, power_kw=1.4)
    rows[1] = stored(9, 102)
    rows.append(stored(12.5, ANSWERS[6].heartbeat))
    result = judged(ANSWERS, rows)
    assert not result.ok
    assert [case["heartbeat"] for case in result.missing] == [110]
    assert [(case["heartbeat"], case["reason"]) for case in result.invented] == [
        (999, "no such answer was served"),
        (None, "no such answer was served"),
        (112, "a second row for the same answer"),
    ]
    assert [list(case["values"]) for case in result.differing] == [["power_kw"], ["time"]]
    assert result.differing[0]["values"]["power_kw"] == {"served": 1.5, "stored": 1.4}
    data = result.as_dict()
    assert (data["missing"], data["invented"], data["differing"]) == (1, 3, 2)


def test_an_answer_in_flight_is_excused_once_and_only_near_a_kill() -> None:
    without = [row for row in ROWS if row.heartbeat not in {120, 122}]
    result = judged(ANSWERS, without, 20.5)
    assert not result.ok
    assert [case["heartbeat"] for case in result.in_flight] == [120]
    assert [case["heartbeat"] for case in result.missing] == [122]
    assert not judged(ANSWERS, [row for row in ROWS if row.heartbeat != 120], 24).ok
    assert not judged(ANSWERS, [row for row in ROWS if row.heartbeat != 120], 16.9).ok
    assert judged(ANSWERS, [row for row in ROWS if row.heartbeat != 120], 21).ok
    assert judged(ANSWERS, without, 20.5, 22.5).ok


def test_a_pair_across_the_edge_is_a_pair() -> None:
    answers = [served(-0.1, 1), served(1, 2), served(599.9, 3)]
    rows = [stored(0.1, 1), stored(1, 2), stored(600.2, 3)]
    result = judged(answers, rows)
    assert result.ok
    assert (result.served, result.stored, result.equal) == (2, 2, 2)


def test_nothing_served_proves_nothing() -> None:
    with pytest.raises(TelemetryError, match="nothing can be proven"):
        judged([], [])


def test_the_unit_map() -> None:
    assert parse_unit_map("1=A, 2=B") == {1: "A", 2: "B"}
    for text in ("", "1", "x=A", "1=", "1=A,1=B"):
        with pytest.raises(TelemetryError, match="unit map"):
            parse_unit_map(text)


def block(profile: Profile, values: dict[str, float]) -> list[int]:
    words = [0] * profile.telemetry.count
    for name, value in values.items():
        point = profile.points[name]
        first = point.address - profile.telemetry.address
        words[first : first + point.count] = encode(value, point.encoding, "nearest")
    return words


def line(second: float, unit: int, words: list[int], **other: Any) -> dict[str, Any]:
    return {
        "at": at(second).isoformat(),
        "client": "10.0.0.1:4000",
        "unit": unit,
        "function": 4,
        "address": 0,
        "count": len(words),
        "words": words,
        **other,
    }


def test_the_log_is_read_for_samples_only(tmp_path: Path) -> None:
    words = block(BATTERY, {"heartbeat": 7, "power_kw": -12.345, "soe_percent": 50.5})
    entries = [
        line(2, 1, words),
        line(0, 1, words),
        line(1, 1, words, client="10.0.0.9:1"),
        line(3, 1, words[:2]),
        line(3, 1, words, function=3),
        line(3, 9, words),
        {**line(3, 1, words), "exception": 4, "words": None},
        {
            "at": at(4).isoformat(),
            "client": "c:1",
            "unit": 1,
            "function": 16,
            "address": 0,
            "written": [0, 0],
        },
    ]
    for entry in entries:
        if entry.get("words") is None:
            entry.pop("words", None)
    path = tmp_path / "served.jsonl"
    path.write_text("\n".join(json.dumps(entry) for entry in entries) + '\n{"at": "2026-01')
    log = read_log([path], {1: "B"}, {"B": BATTERY}, clients=["10.0.0.1"])
    assert [sample.at for sample in log.samples] == [at(0), at(2)]
    assert log.samples[0].values["power_kw"] == -12.345
    assert log.samples[0].heartbeat == 7
    assert (log.other, log.unreadable) == (6, 1)
    with pytest.raises(TelemetryError, match="cannot be read"):
        read_log([tmp_path / "nowhere"], {1: "B"}, {"B": BATTERY})


@pytest.fixture
def system(postgres_settings: dict[str, Any], tmp_path: Path) -> Iterator[tuple[Connection, list[str]]]:
    """Two devices, thirty answers of each in a log, the same in the database, and a command line."""
    connection = create_tables(postgres_settings)
    entries = []
    for kind, name, unit, profile in (("bess", "B-1", 1, BATTERY), ("meter", "M-1", 2, METER)):
        device = add_device(connection, name, cadence_s=2, active_from=START, kind=kind)
        for number in range(30):
            values = {"heartbeat": 1000 + number, "power_kw": 0.1 * number, "voltage_v": 230.1}
            entries.append(line(2 * number, unit, block(profile, values)))
            sample = dict.fromkeys(profile.telemetry.points, 0) | values
            sample["power_kw"] = round(0.1 * number, 3)
            columns = ", ".join(sample)
            with connection, connection.cursor() as cursor:
                cursor.execute(
                    f"INSERT INTO flux.mg_{kind}_readings (device_id, time, {columns})"
                    f" VALUES (%s, %s{', %s' * len(sample)})",
                    (device, at(2 * number + 0.02), *sample.values()),
                )
    log = tmp_path / "served.jsonl"
    log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    file = tmp_path / "database.json"
    file.write_text(json.dumps(postgres_settings))
    file.chmod(0o600)
    window = ["--from", START.isoformat(), "--to", END.isoformat()]
    arguments = ["reconcile", *window, "--served-log", str(log), "--unit-map", "1=B-1,2=M-1"]
    yield connection, [*arguments, "--database-file", str(file)]
    connection.close()


def test_the_command_proves_that_rows_are_what_was_served(
    system: tuple[Connection, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    connection, arguments = system
    assert command(arguments) == 0
    assert "Every answer is a row, every row an answer" in capsys.readouterr().out
    with connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM flux.mg_bess_readings WHERE heartbeat = 1010")
        cursor.execute("UPDATE flux.mg_meter_readings SET voltage_v = 230.2 WHERE heartbeat = 1003")
    assert command([*arguments, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [(d["device"], d["equal"], d["missing"], d["differing"]) for d in report["devices"]] == [
        ("B-1", 29, 1, 0),
        ("M-1", 29, 0, 1),
    ]
    assert command([*arguments, "--json", "--kill", at(20.3).isoformat()]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["devices"][0]["missing"], report["devices"][0]["in_flight"]) == (0, 1)


def test_the_command_refuses_what_it_cannot_prove(
    system: tuple[Connection, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    _, arguments = system
    assert command([*arguments, "--unit-map", "1=X-1"]) == 2
    assert "has no device X-1" in capsys.readouterr().err
    assert command([*arguments, "--client", "10.9.9.9"]) == 2
    assert "nothing can be proven" in capsys.readouterr().err
    assert command([*arguments, "--kill", "2026-01-31T12:00:00"]) == 2
    assert "has no offset" in capsys.readouterr().err
