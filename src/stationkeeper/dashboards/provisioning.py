"""The files that a Grafana host gets: dashboards and alert rules."""

from __future__ import annotations

from stationkeeper.dashboards import rules
from stationkeeper.dashboards.boards import BOARDS, build, to_json

DASHBOARDS = "/var/lib/grafana/dashboards"
ALERTING = "/etc/grafana/provisioning/alerting"


def files() -> dict[str, str]:
    """Return absolute path on the Grafana host -> content; the same input gives the same bytes."""
    made = {f"{DASHBOARDS}/{board.UID}.json": to_json(build(board)) for board in BOARDS}
    made[f"{ALERTING}/stationkeeper.json"] = to_json(rules.provisioned())
    return made
