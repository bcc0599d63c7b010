"""An incident from its opening to its end by the runbooks, with the alerts that Prometheus tells of."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from local_project import LocalProject

from stationkeeper.incidents.alerts import Alert, alerts, request, step_s
from stationkeeper.incidents.incident import IncidentError, opened, read, went_on
from stationkeeper.incidents.report import page

NOW = datetime(2026, 11, 22, 14, 30, tzinfo=UTC)
DETECTED = NOW - timedelta(minutes=10)
INCIDENT = opened(
    "INC-2026-11-22-001",
    "the database is down",
    "critical",
    ["db"],
    detected=DETECTED.isoformat(),
    now=NOW,
    kind="service",
    service="Flux",
    users="All",
    description="Writers are refused.",
)


def series(name: str, *spans: tuple[float, float], **labels: str) -> dict[str, object]:
    """Return what Prometheus tells of an alert that fired in spans of minutes from the detection on."""
    times = [
        DETECTED.timestamp() + second
        for first, last in spans
        for second in range(int(first * 60), int(last * 60) + 1, 15)
    ]
    metric = {"alertname": name, "severity": "critical", **labels}
    return {"metric": metric, "values": [[at, "1"] for at in times]}


def test_alerts_become_spans_and_those_that_go_on_have_no_end() -> None:
    answer = {
        "data": {
            "result": [
                series("DatabaseDown", (1, 2), (5, 10), host="db"),
                series("Watched", (-3, -1), job="x"),
            ]
        }
    }
    at = [DETECTED + timedelta(minutes=minute) for minute in range(-3, 11)]
    assert alerts(answer, DETECTED, NOW) == [
        Alert("Watched", "critical", " x", at[0], at[2]),
        Alert("DatabaseDown", "critical", " db", at[4], at[5]),
        Alert("DatabaseDown", "critical", " db", at[8], None),
    ]
    with pytest.raises(ValueError, match="no answer of Prometheus"):
        alerts({"status": "error"}, DETECTED, NOW)


def test_prometheus_is_asked_for_no_more_points_than_it_gives() -> None:
    asked = parse_qs(urlsplit(request("http://hub:9090/", DETECTED, NOW)).query)
    assert asked["step"] == ["15"]
    assert float(asked["start"][0]) == (DETECTED - timedelta(minutes=15)).timestamp()
    month = timedelta(days=30)
    assert month.total_seconds() / step_s(DETECTED - month, DETECTED) < 11_000


def test_the_page_has_the_form_of_the_notification() -> None:
    acted = went_on(INCIDENT, who="anna", now=NOW, action="restarted it", note="the disk was full")
    closed = went_on(
        acted,
        who="anna",
        now=NOW + timedelta(minutes=5),
        cause="a full disk",
        follow_up=["Review it"],
        close=True,
    )
    fired = [Alert("DatabaseDown", "critical", " db", DETECTED, NOW)]
    text = page(closed, [], NOW + timedelta(days=1), "i", alerts=fired)
    for line in (
        "| Severity | critical |",
        "| Service | Flux |",
        "| Duration | 15 min |",
        "| Users affected | All |",
        "| Status | closed 2026-11-22 14:35:00 UTC |",
        "| Cause | a full disk |",
        "Writers are refused.",
        "1. restarted it (anna, 2026-11-22 14:30:00 UTC)",
        "- [ ] Review it",
        "- 2026-11-22 14:20:00 UTC alert DatabaseDown db: firing (critical)",
        "- 2026-11-22 14:30:00 UTC alert DatabaseDown db: over",
        "- 2026-11-22 14:30:00 UTC anna: the disk was full",
    ):
        assert line in text
    assert "What comes next" not in text
    assert read(json.loads(json.dumps(closed.as_dict()))) == closed
    with pytest.raises(IncidentError, match="of kind service, which has no phases"):
        went_on(INCIDENT, who="anna", now=NOW, phase="recovery")


@pytest.fixture
def prometheus() -> Iterator[str]:
    """A server that tells of one alert, which fires at every moment that it is asked for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
            times = range(int(asked["start"]), int(asked["end"]) + 1, int(asked["step"]))
            metric = {"alertname": "DatabaseDown", "severity": "critical", "host": "db"}
            result = [{"metric": metric, "values": [[at, "1"] for at in times]}]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"data": {"result": result}}).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_runbooks_open_note_and_close(tmp_path: Path, prometheus: str) -> None:
    variables = {
        "stationkeeper_system": "test",
        "stationkeeper_state": str(tmp_path / "state"),
        "stationkeeper_inventory": str(tmp_path),
        "stationkeeper_prometheus_url": prometheus,
    }
    hosts = {"db": {"ansible_host": "127.0.0.2"}, "hub": {}}
    project = LocalProject(tmp_path, variables, {"databases": hosts})
    assert project.run("incident_open", target="db") != 0
    assert "title" in project.output
    assert project.run("incident_open", "--check", target="db", title="preview") == 0, project.output
    assert not (tmp_path / "state" / "incidents").exists()
    assert project.run("incident_open", target="db", title="the database is down", users="All") == 0
    (folder,) = (tmp_path / "state" / "incidents").iterdir()
    name, text = folder.name, (folder / "incident.md").read_text()
    assert "| Hosts | db |" in text
    assert "alert DatabaseDown db: firing (critical)" in text
    assert "alert DatabaseDown db: over" not in text
    assert project.run("incident_close", incident=name) != 0
    assert "closing it needs a cause" in project.output
    # A run in between stands in the timeline, those about the incident do not.
    assert project.run("audit_verify", copies=False) == 0, project.output
    assert project.run("incident_note", incident=name, action="restarted it", cause="a full disk") == 0
    assert project.run("incident_close", incident=name) == 0, project.output
    text = (folder / "incident.md").read_text()
    assert "ran audit_verify" in text
    assert "ran incident_" not in text
    assert "1. restarted it" in text
    assert "- [ ] Review the incident" in text
    assert project.run("incident_note", incident=name, note="one more thing") != 0
    assert "was closed at" in project.output
    assert project.run("incident_note", incident="INC-2026-11-22-999") != 0
    assert f"there is {name}" in project.output


def test_a_prometheus_that_is_down_is_said_and_hinders_nothing(tmp_path: Path) -> None:
    variables = {
        "stationkeeper_system": "test",
        "stationkeeper_state": str(tmp_path / "state"),
        "stationkeeper_inventory": str(tmp_path),
        "stationkeeper_prometheus_url": "http://127.0.0.1:9",
    }
    project = LocalProject(tmp_path, variables, {"databases": {"db": {}}})
    assert project.run("incident_open", title="all is dark") == 0, project.output
    (path,) = (tmp_path / "state" / "incidents").glob("*/incident.md")
    assert "**The alerts of its time are not known**: http://127.0.0.1:9 does not tell" in path.read_text()


def test_somebody_who_got_in_is_answered_in_phases(tmp_path: Path) -> None:
    variables = {
        "stationkeeper_system": "test",
        "stationkeeper_state": str(tmp_path / "state"),
        "stationkeeper_inventory": str(tmp_path),
    }
    project = LocalProject(
        tmp_path, variables, {"databases": {"db": {"ansible_host": "127.0.0.2"}, "hub": {}}}
    )
    assert project.run("security_incident", target="db", title="eve logged in") == 0, project.output
    (path,) = (tmp_path / "state" / "incidents").glob("*/incident.md")
    assert "| Status | open, in immediate |" in path.read_text()
    assert "security_preserve_evidence.yml -e target=db" in path.read_text()
    went_on_with = {"incident": path.parent.name, "phase": "containment", "note": "by a stolen key"}
    assert project.run("security_incident", **went_on_with) == 0, project.output
    assert "| Status | open, in containment |" in path.read_text()
    assert project.run("security_incident", incident=path.parent.name, close=True) != 0
    assert "closing it needs a cause" in project.output
