"""Ansible module edge_order, run by Ansible itself as it runs on a station; and the files behind it."""

from __future__ import annotations

import ast
import json
import stat
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from module_runner import run_module

from stationkeeper import files
from stationkeeper.controller import orders
from stationkeeper.controller.orders import (
    KINDS,
    Order,
    OrderError,
    OrderState,
    format_time,
    give_order,
    parse_order,
    parse_time,
    path_of,
    read_order,
    withdraw_order,
)

NOON = datetime(2026, 3, 29, 12, tzinfo=UTC)
SAFE = Order("safe_mode", "inspection", "ops", "run-1", NOON)
MAINTENANCE = Order("maintenance", "fan", "ops", "run-1", NOON, NOON + timedelta(hours=2))
SETPOINT = Order("setpoint", "", "ops", "run-1", NOON, NOON + timedelta(hours=1), -40.0)


def run(directory: Path, check: bool = False, **arguments: Any) -> dict[str, Any]:
    """Run the module once on this machine and return its result."""
    arguments |= {"directory": str(directory)}
    return run_module(directory.parent, "edge_order", arguments, check=check, package=None)


def in_an_hour() -> str:
    return format_time(datetime.now(UTC) + timedelta(hours=1))


@pytest.mark.criterion("SM-2", "SM-3")
def test_give_query_withdraw(tmp_path: Path) -> None:
    directory = tmp_path / "orders"
    until = in_an_hour()
    given = {"order": "safe_mode", "reason": "inspection", "run_id": "run-1", "owner": "ops@control"}
    planned = run(directory, check=True, until=until, **given)
    assert planned["changed"]
    assert planned["diff"]["before"]["present"] is False
    assert planned["diff"]["after"]["record"]["until"] == until
    assert not directory.exists(), "check mode writes nothing"
    first = run(directory, until=until, **given)
    assert first["changed"]
    state = read_order("safe_mode", directory).order
    assert state is not None
    assert (state.reason, state.owner, state.run_id) == ("inspection", "ops@control", "run-1")
    assert format_time(state.until or NOON) == until
    again = run(directory, until=until, **given | {"run_id": "run-2"})
    assert not again["changed"]
    assert again["record"]["run_id"] == "run-1"
    queried = run(directory, order="safe_mode", state="query")
    assert not queried["changed"]
    assert f"until {until}, by ops@control: inspection" in queried["message"]
    would = run(directory, check=True, order="safe_mode", state="absent", reason="done")
    assert would["changed"]
    assert not would["present"]
    assert read_order("safe_mode", directory).order
    assert run(directory, order="safe_mode", state="absent", reason="done")["changed"]
    assert not run(directory, order="safe_mode", state="absent", reason="done")["changed"]
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": "safe_mode", "run_id": "r"}, "safe_mode needs reason"),
        ({"order": "safe_mode", "reason": "x"}, "run_id"),
        ({"order": "safe_mode", "state": "absent"}, "reason"),
        ({"order": "maintenance", "run_id": "r", "reason": "x"}, "maintenance needs until"),
        ({"order": "setpoint", "run_id": "r", "power_kw": 5}, "setpoint needs until"),
        (
            {"order": "safe_mode", "run_id": "r", "reason": "x", "power_kw": 5},
            "power_kw belongs to an order for a setpoint",
        ),
        (
            {"order": "safe_mode", "run_id": "r", "reason": "x", "until": "2026-03-29 02:30"},
            "write it like 2026-03-29T01:30:00Z, with its offset",
        ),
        (
            {"order": "safe_mode", "run_id": "r", "reason": "x", "until": "2020-01-01T00:00:00Z"},
            "has passed; the station's clock says",
        ),
        (
            {"order": "setpoint", "run_id": "r", "until": "2999-01-01T00:00:00Z", "power_kw": float("nan")},
            "power_kw",
        ),
    ],
)
def test_bad_input_is_refused(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    result = run(tmp_path / "orders", **arguments)
    assert result["failed"]
    assert message in result["msg"]
    assert not (tmp_path / "orders").exists()


@pytest.mark.criterion("MT-6")
@pytest.mark.parametrize("order", [SAFE, MAINTENANCE, SETPOINT, replace(SAFE, until=NOON)])
def test_what_is_written_is_what_is_read(tmp_path: Path, order: Order) -> None:
    assert give_order(order, tmp_path / "orders").changed
    assert read_order(order.kind, tmp_path / "orders") == OrderState(order)
    path = path_of(order.kind, tmp_path / "orders")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644, "the controller must be able to read it"
    assert [path] == list(path.parent.iterdir()), "no temporary file is left behind"


def test_a_hold_that_is_extended_keeps_its_beginning_and_a_setpoint_of_another_run_is_fresh(
    tmp_path: Path,
) -> None:
    give_order(MAINTENANCE, tmp_path)
    later = replace(
        MAINTENANCE, since=NOON + timedelta(hours=1), run_id="run-2", until=NOON + timedelta(hours=3)
    )
    assert give_order(later, tmp_path).after.order == replace(later, since=NOON)
    assert not give_order(replace(later, run_id="run-3", owner="other"), tmp_path).changed
    assert give_order(SETPOINT, tmp_path).changed
    assert not give_order(SETPOINT, tmp_path).changed
    assert give_order(replace(SETPOINT, run_id="run-2"), tmp_path).changed


MALFORMED = [
    b"", b"{", b"null", b"[]", b"\xff\xfe", b"[" * 60_000, b" " * 70_000, b'{"reason": "x"}',
    json.dumps(SAFE.as_dict() | {"utnil": None}).encode(),
    json.dumps(SAFE.as_dict() | {"since": "yesterday"}).encode(),
    json.dumps(SAFE.as_dict() | {"until": "2026-03-29T12:00:00"}).encode(),
    json.dumps(SAFE.as_dict() | {"until": 5}).encode(),
    json.dumps(SAFE.as_dict() | {"reason": None}).encode(),
]  # fmt: skip


@pytest.mark.criterion("SM-2")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", MALFORMED)
def test_a_file_that_cannot_be_understood_is_a_problem_never_an_absence(
    tmp_path: Path, kind: str, content: bytes
) -> None:
    path_of(kind, tmp_path).write_bytes(content)
    state = read_order(kind, tmp_path)
    assert state.order is None
    assert state.problem is not None
    assert str(path_of(kind, tmp_path)) in state.problem
    assert withdraw_order(kind, tmp_path).changed
    assert read_order(kind, tmp_path) == OrderState()


def test_a_dangling_link_a_directory_and_a_file_in_the_way_are_problems(tmp_path: Path) -> None:
    path_of("safe_mode", tmp_path).symlink_to("/nowhere")
    assert read_order("safe_mode", tmp_path).problem
    path_of("setpoint", tmp_path).mkdir()
    assert read_order("setpoint", tmp_path).problem
    with pytest.raises(OrderError, match="cannot be removed"):
        withdraw_order("setpoint", tmp_path)
    (tmp_path / "file").touch()
    assert read_order("maintenance", tmp_path / "file").problem
    with pytest.raises(OrderError, match="cannot be written"):
        give_order(MAINTENANCE, tmp_path / "file")


KEYS = st.sampled_from(["reason", "owner", "run_id", "since", "until", "valid_until", "power_kw"])
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner),
)


@given(DOCUMENTS)
def test_no_content_raises_anything_but_an_order_error(document: Any) -> None:
    for kind in KINDS:
        try:
            parse_order(kind, document)
        except OrderError:
            continue


def test_times_are_utc_whatever_offset_they_came_with() -> None:
    assert format_time(parse_time("2026-03-29T03:30:00+02:00")) == "2026-03-29T01:30:00+00:00"
    for text in ("2026-03-29T03:30:00", "0001-01-01T00:00:00+14:00", "now", None, 5):
        with pytest.raises(OrderError):
            parse_time(text)


def test_the_file_needs_nothing_but_the_standard_library() -> None:
    # And so does its helper, the only file of the package that it needs: Ansible ships that one with it.
    sources = [Path(orders.__file__), Path(files.__file__)]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source.read_text()))]
    relative = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level}
    assert relative == {"files"}
    imported = {
        name.split(".")[0]
        for node in nodes
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""] if isinstance(node, ast.ImportFrom) else [n.name for n in node.names]
        )
    }
    assert imported - relative <= sys.stdlib_module_names
