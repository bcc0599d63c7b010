"""Whether a station's controller is in charge, judged from unit and metrics."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest

from stationkeeper.station import status
from stationkeeper.station.service import Service

NOW = 1_700_000_000.0


def unit(active: str, release: str = "aaaaaaaaaaaa", installed: str = "aaaaaaaaaaaa") -> Service:
    return Service(True, active, True, False, 0, release, installed)


GOOD_UNIT = unit("active")
EXPECTED = status.Expected(("A-BESS-01", "A-METER-01"), 10)
GOOD = """\
# HELP stationkeeper_emergency_stop_latched 1 while the latch stands
# TYPE stationkeeper_emergency_stop_latched gauge
stationkeeper_emergency_stop_latched{site="A"} 0.0
stationkeeper_config_valid{site="A"} 1.0
stationkeeper_buffer_rows{site="A"} 3.0
stationkeeper_buffer_writable{site="A"} 1.0
stationkeeper_last_upload_timestamp_seconds{site="A"} 1.699999995e+09
stationkeeper_last_sample_timestamp_seconds{device="A-BESS-01",site="A"} 1.699999999e+09
stationkeeper_last_sample_timestamp_seconds{device="A-METER-01",site="A"} 1.699999998e+09
stationkeeper_device_power_kw{device="A-BESS-01",site="A",type="bess"} -40.5
stationkeeper_device_soe_percent{device="A-BESS-01",site="A"} 55.0
"""


def test_rows_that_wait_after_a_start_are_no_news() -> None:
    text = GOOD.replace("1.699999995e+09", "0.0")
    assert judge(text, Service(**{**vars(GOOD_UNIT), "age_s": 30.0})).notes == ()
    assert "for 300 s, since" in judge(text, Service(**{**vars(GOOD_UNIT), "age_s": 300.0})).notes[0]


def judge(text: str, service: Service = GOOD_UNIT) -> status.Status:
    return status.judge(service, status.Metrics(text), EXPECTED, now=NOW)


def test_all_well() -> None:
    result = judge(GOOD)
    assert result.problems == ()
    assert result.notes == ()
    assert result.latched is False
    assert result.buffer_rows == 3
    assert result.samples["A-BESS-01"] == {"age_s": 1.0, "power_kw": -40.5, "soe_percent": 55.0}


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("1.699999999e+09", "1.6999e+09", "no sample for 100000 s"),
        (
            'device="A-METER-01",site="A"} 1.699999998e+09',
            'device="B",site="A"} 1.7e9',
            "A-METER-01 has given no sample",
        ),
        ('config_valid{site="A"} 1.0', 'config_valid{site="A"} 0.0', "invalid"),
        ('config_valid{site="A"} 1.0', "nothing 1", "invalid"),
        ("stationkeeper_emergency_stop_latched{", "other{", "whether it is latched"),
        ('buffer_writable{site="A"} 1.0', 'buffer_writable{site="A"} 0.0', "disk is full"),
    ],
)
def test_problems(old: str, new: str, word: str) -> None:
    assert old in GOOD
    assert word in "; ".join(judge(GOOD.replace(old, new)).problems)


def test_no_metrics_is_a_problem() -> None:
    assert "do not answer" in status.judge(GOOD_UNIT, None, EXPECTED, now=NOW).problems[0]
    assert len(judge("<html>no metrics here</html>").problems) == 4


@pytest.mark.parametrize(
    ("service", "word"),
    [
        (unit("failed"), "is failed"),
        (unit("activating"), "is activating"),
        (unit("active", "aaaaaaaaaaaa", "bbbbbbbbbbbb"), "restart bess_controller"),
        (unit("active", "", "bbbbbbbbbbbb"), "runs release unknown"),
    ],
)
def test_unit_problems(service: Service, word: str) -> None:
    assert word in judge(GOOD, service).problems[0]


def test_latch_and_waiting_rows_are_notes() -> None:
    text = GOOD.replace('latched{site="A"} 0.0', 'latched{site="A"} 1.0').replace(
        "1.699999995e+09", "1.6999e+09"
    )
    result = judge(text)
    assert result.problems == ()
    assert result.latched is True
    assert "latched" in result.notes[0]
    assert "3 rows wait" in result.notes[1]


@pytest.mark.parametrize(("latched", "problems"), [(False, 0), (True, 1)])
def test_expected_latch(latched: bool, problems: int) -> None:
    expected = status.Expected(EXPECTED.devices, 10, latched=latched)
    result = status.judge(GOOD_UNIT, status.Metrics(GOOD), expected, now=NOW)
    assert len(result.problems) == problems


@pytest.mark.parametrize(("exposure", "problems"), [(1.3, 0), (2.5, 1), (None, 1)])
def test_exposure(exposure: float | None, problems: int) -> None:
    expected = status.Expected(EXPECTED.devices, 10, 2.5)
    result = status.judge(GOOD_UNIT, status.Metrics(GOOD), expected, now=NOW, exposure=exposure)
    assert len(result.problems) == problems


@pytest.fixture
def url() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(GOOD.encode())

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/metrics"
        server.shutdown()
        thread.join()


def test_fetch(url: str) -> None:
    metrics = status.fetch(url)
    assert metrics is not None
    assert metrics.value("stationkeeper_device_power_kw", device="A-BESS-01") == -40.5
    assert status.fetch("http://127.0.0.1:9/metrics") is None


def test_look_waits_until_the_problems_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([None, None, status.Metrics(GOOD)])
    monkeypatch.setattr(status, "look_at", lambda name: GOOD_UNIT)
    monkeypatch.setattr(status, "fetch", lambda url: next(answers))
    monkeypatch.setattr(status.time, "time", lambda: NOW)
    slept: list[float] = []
    assert status.look("u", "http://x", EXPECTED, 30, sleep=slept.append).problems == ()
    assert slept == [1, 1]


def test_look_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "look_at", lambda name: GOOD_UNIT)
    monkeypatch.setattr(status, "fetch", lambda url: None)
    assert status.look("u", "http://x", EXPECTED, 0).problems


SAFE = 'stationkeeper_safe_mode{device="A-BESS-01",reason="order",site="A"} 1.0\n'
MAINTENANCE = 'stationkeeper_maintenance{site="A"} 1.0\n'
NOT_HELD = """\
stationkeeper_safe_mode{device="A-BESS-01",reason="order",site="A"} 0.0
stationkeeper_maintenance{site="A"} 0.0
"""


@pytest.mark.parametrize(
    ("hold", "told", "problems"),
    [
        ("safe_mode", SAFE, ()),
        ("safe_mode", NOT_HELD, ("the controller is not in safe mode",)),
        ("maintenance", MAINTENANCE, ()),
        ("maintenance", NOT_HELD, ("the controller is not in maintenance",)),
        ("none", NOT_HELD, ()),
        ("none", SAFE, ("safe mode still holds A-BESS-01 (order)",)),
        ("none", MAINTENANCE, ("maintenance still holds the station",)),
        (None, SAFE + MAINTENANCE, ()),
    ],
)
def test_the_hold_that_is_wanted(hold: str | None, told: str, problems: tuple[str, ...]) -> None:
    expected = status.Expected(EXPECTED.devices, 10, hold=hold)
    assert status.judge(GOOD_UNIT, status.Metrics(GOOD + told), expected, now=NOW).problems == problems
