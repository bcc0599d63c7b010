"""The controller's state for an operator or a runbook, also when it does not run."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from stationkeeper.controller.config import Loaded, load_or_last_good
from stationkeeper.controller.latch import read_latch
from stationkeeper.controller.merge import ConfigError
from stationkeeper.controller.orders import KINDS, read_order
from stationkeeper.controller.paths import Paths
from stationkeeper.controller.store import Store, StoreError, as_owner_of

FETCH_TIMEOUT_S = 2.0


def _rfc3339(time_us: int | None) -> str | None:
    return None if time_us is None else datetime.fromtimestamp(time_us / 1e6, UTC).isoformat()


def _running(port: int) -> dict[str, Any]:
    """Ask the running controller through its metrics."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=FETCH_TIMEOUT_S) as answer:
            text = answer.read().decode()
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return {
            "running": False,
            "mode": None,
            "config_hash": None,
            "config_valid": None,
            "setpoint_kw": {},
            "safe_mode": {},
            "zero_verified": {},
            "maintenance": None,
            "idle": None,
            "setpoint_valid": None,
            "clock_synchronised": None,
        }
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    values = {sample.name: sample.value for sample in samples}
    deciding = [
        sample.labels["component"]
        for sample in samples
        if sample.name == "stationkeeper_control_component" and sample.value
    ]
    return {
        "running": True,
        "mode": ", ".join(deciding) or None,
        "config_hash": next(
            (sample.labels["hash"] for sample in samples if sample.name == "stationkeeper_config_info"), None
        ),
        "config_valid": bool(values.get("stationkeeper_config_valid", 0)),
        "setpoint_kw": {
            sample.labels["device"]: sample.value
            for sample in samples
            if sample.name == "stationkeeper_device_setpoint_kw"
        },
        "safe_mode": _by_device(
            (sample.labels["device"], sample.labels["reason"])
            for sample in samples
            if sample.name == "stationkeeper_safe_mode" and sample.value
        ),
        "zero_verified": {
            sample.labels["device"]: bool(sample.value)
            for sample in samples
            if sample.name == "stationkeeper_zero_verified"
        },
        **{
            name: bool(values[f"stationkeeper_{name}"])
            for name in ("maintenance", "idle", "setpoint_valid", "clock_synchronised")
        },
    }


def _by_device(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for device, reason in pairs:
        found.setdefault(device, []).append(reason)
    return found


def _buffer(paths: Paths) -> dict[str, Any]:
    if not paths.buffer.exists():
        return {"rows": 0, "bytes": 0, "oldest": None, "rejected_rows": 0, "dropped": [], "problem": None}
    try:
        with as_owner_of(paths.buffer):
            store = Store(paths.buffer, create=False)
            summary = store.summary()
            store.close()
    except (StoreError, OSError) as error:
        return {"problem": str(error)}
    summary["oldest"] = _rfc3339(summary.pop("oldest_us"))
    for entry in summary["dropped"]:
        entry["first"] = _rfc3339(entry.pop("first_us"))
        entry["last"] = _rfc3339(entry.pop("last_us"))
    return summary | {"problem": None}


def status(paths: Paths) -> dict[str, Any]:
    """Return plain data: running, mode, set-points, holds, buffer, latch, orders, configuration."""
    loaded: Loaded | None = None
    problems: tuple[str, ...] = ()
    try:
        loaded = load_or_last_good(paths.files)
        problems = loaded.problems
    except ConfigError as error:
        problems = error.problems
    running = _running(loaded.config.metrics.port if loaded else 9105)
    result = {
        "site": loaded.config.site if loaded else None,
        **running,
        "buffer": _buffer(paths),
        "latch": read_latch(*paths.latches).as_dict(),
        "orders": {kind: read_order(kind, paths.orders).as_dict() for kind in KINDS},
        "config_problems": list(problems),
    }
    # What is returned must survive JSON as it is, for whoever parses it.
    plain: dict[str, Any] = json.loads(json.dumps(result))
    return plain
