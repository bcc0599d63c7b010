"""Grafana dashboards and alert rules as typed Python.

``queries()`` yields every panel's and every rule's query with its variables substituted, so that a test can
run each of them; ``files()`` gives what a Grafana host gets. Runs on the control node only (needs
grafana-foundation-sdk).
"""

from stationkeeper.dashboards.provisioning import files
from stationkeeper.dashboards.queries import Query, queries

__all__ = ["Query", "files", "queries"]
