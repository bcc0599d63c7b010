"""Jinja filters for stations: their devices in the forms that programs and runbooks want.

Every worker process of Ansible loads this file, hardly any calls a filter: so the parts of the package that
take long to load (the profiles' schema) are imported where they are used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

try:
    import stationkeeper  # noqa: F401 (only to say at once how to install it)
except ImportError as error:
    raise ImportError(
        f"{error}: install the package on the control node with `make setup` (pip install -e .)"
    ) from error


def edge_controller_devices(
    devices: Sequence[Mapping[str, Any]], system: str, site: str
) -> dict[str, list[dict[str, Any]]]:
    """Return the devices of the controller's configuration."""
    from stationkeeper.station import declared

    try:
        return declared.controller_devices(devices, system, site)
    except ValueError as error:
        raise AnsibleFilterError(f"edge_controller_devices: {error}") from error


def edge_simulator_devices(
    devices: Sequence[Mapping[str, Any]], initial_soe_percent: float
) -> list[dict[str, Any]]:
    """Return the devices of the simulator's configuration."""
    from stationkeeper.station import declared

    try:
        return declared.simulator_devices(devices, initial_soe_percent)
    except ValueError as error:
        raise AnsibleFilterError(f"edge_simulator_devices: {error}") from error


def edge_health_checks(hostvars: Mapping[str, Any], hosts: Iterable[str]) -> dict[str, list[dict[str, str]]]:
    """Return each host's checks, and what its controller notes as degraded ones."""
    found: dict[str, list[dict[str, str]]] = {}
    for host in hosts:
        variables = hostvars[host]
        status = variables.get("edge_controller_status") or {}
        found[host] = list(variables.get("health_checks") or [])
        found[host] += [
            {"name": "edge_controller", "state": "degraded", "message": note}
            for note in status.get("notes", [])
        ]
    return found


def edge_stop_order_checks(waiting: Mapping[str, Any], hosts: Iterable[str]) -> list[dict[str, str]]:
    """Return a critical check for each of these hosts that an emergency stop has not reached yet."""
    return [
        {
            "name": "stop order",
            "state": "critical",
            # The end of a long line is not shown: what to do comes first.
            "message": (
                f"{host} waits for its stop: edge_emergency_stop -e runbook_limit_pending=true delivers it, "
                f"edge_emergency_release withdraws it (since {waiting[host]['since']}, "
                f"{waiting[host]['reason']}; {waiting[host]['why']})"
            ),
        }
        for host in hosts
        if host in waiting
    ]


def edge_stop_plan(hostvars: Mapping[str, Any], hosts: Iterable[str]) -> dict[str, Any]:
    """Return the ``devices`` to stop, and ``problems`` of the stations that nothing can be written to."""
    from stationkeeper.station import stopping

    stations = {host: hostvars[host].get("station_devices") or [] for host in hosts}
    devices, problems = stopping.all_stop_targets(stations)
    return {"devices": devices, "problems": problems}


def edge_stop_result(
    latch: Mapping[str, Any],
    station: str,
    results: Sequence[Mapping[str, Any]],
    *,
    local: Mapping[str, Any],
    problem: str,
    contact: str,
    check_mode: bool,
) -> dict[str, Any]:
    """Return the runbook's result of one station from its latch and what its devices did.

    ``local`` is what the stop on the station itself gave, empty where there was none.
    """
    from stationkeeper.station import stopping
    from stationkeeper.stopping import fleet

    own = [result for result in results if result["station"] == station]
    if local:
        told = fleet.understand_local(str(local.get("stdout", "")), str(local.get("error", "")))
        own = stopping.with_local(own, told)
    return stopping.judge(own, latch, problem, contact, check_mode=check_mode)


def edge_stop_needs_local(
    latch: Mapping[str, Any], station: str, results: Sequence[Mapping[str, Any]]
) -> bool:
    """Whether the stop is to be run on the station itself."""
    from stationkeeper.station import stopping

    own = [result for result in results if result["station"] == station]
    return stopping.needs_local_stop(own, latch)


def edge_stop_report(hostvars: Mapping[str, Any], run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the stations of a stop's report from the results of a runbook's targets."""
    from stationkeeper.stopping import report

    return [
        report.station_of(host, hostvars[host].get("runbook_result"), hostvars[host].get("station_contact"))
        for host in run["targets"]
    ]


def edge_stop_bundle(hostvars: Mapping[str, Any], hosts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the stations of a stop bundle: batteries, ssh settings and contact, and no secret."""
    from stationkeeper.stopping import bundle

    try:
        return {host: bundle.station_entry(host, hostvars[host]) for host in hosts}
    except bundle.BundleError as error:
        raise AnsibleFilterError(f"edge_stop_bundle: {error}") from error


def edge_doors(hostvars: Mapping[str, Any], hosts: Iterable[str]) -> list[dict[str, Any]]:
    """Return the stations whose doors are knocked at, for edge_reachability."""
    return [
        {
            "name": host,
            "address": str(hostvars[host].get("ansible_host") or host),
            "ssh_port": int(hostvars[host].get("ansible_port") or 22),
            "gateway": str(hostvars[host].get("station_gateway") or ""),
            "metrics_port": int(hostvars[host].get("edge_controller_metrics_port") or 9105),
            "devices": list(hostvars[host].get("station_devices") or []),
        }
        for host in hosts
    ]


def edge_offline_result(seen: Mapping[str, Any], sample_age_s: float, contact: str) -> dict[str, Any]:
    """Return the result of edge_offline for one station."""
    from stationkeeper.station import offline

    notes = [str(seen["doors_error"]), str(seen["login_error"]), str(seen["rows_error"])]
    return offline.result(
        seen["doors"],
        seen["login"],
        list(seen["rows"]),
        sample_age_s=float(sample_age_s),
        contact=contact,
        notes=notes,
    )


class FilterModule:
    """The filters by name."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "edge_controller_devices": edge_controller_devices,
            "edge_simulator_devices": edge_simulator_devices,
            "edge_health_checks": edge_health_checks,
            "edge_stop_order_checks": edge_stop_order_checks,
            "edge_doors": edge_doors,
            "edge_offline_result": edge_offline_result,
            "edge_stop_bundle": edge_stop_bundle,
            "edge_stop_needs_local": edge_stop_needs_local,
            "edge_stop_report": edge_stop_report,
            "edge_stop_plan": edge_stop_plan,
            "edge_stop_result": edge_stop_result,
        }
