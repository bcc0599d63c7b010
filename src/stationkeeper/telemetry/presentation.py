"""Gap reports in words: a table for a terminal, a verdict for each site."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from stationkeeper.telemetry.report import Coverage, Report
from stationkeeper.telemetry.validation import Finding


def describe(report: Report) -> str:
    """Return the report as a table for a terminal, times in UTC."""
    data = report.as_dict()
    lines = [f"{data['from']} to {data['settled_to']}, a gap is more than {report.k:g} cadences"]
    lines.append(f"{'device':<24} {'cadence':>8} {'expected':>9} {'present':>8} {'missing':>8}  state")
    for coverage in report.devices:
        lines.append(
            f"{coverage.device.name:<24} {coverage.device.cadence_s:>6g} s {coverage.expected:>9} "
            f"{coverage.present:>8} {coverage.missing:>8}  {coverage.state}"
        )
        lines += [
            f"    {gap.start:%Y-%m-%d %H:%M:%S} to {gap.end:%Y-%m-%d %H:%M:%S}  "
            f"about {gap.missing} missing{', no row since' if gap.open else ''}"
            f"{f', explained: {gap.explanation.text}' if gap.explanation else ''}"
            for gap in sorted((*coverage.gaps, *coverage.explained), key=lambda gap: gap.start)
        ]
    lines += [f"{site}: no device was in service in this window" for site in report.idle_sites]
    lines.append(f"{report.gaps} gaps, about {report.missing} rows missing" if report.gaps else "No gaps")
    if report.explained_gaps:
        lines[-1] += (
            f"; not counted: {report.explained_gaps} explained gaps, "
            f"about {report.explained_missing} rows missing"
        )
    return "\n".join(lines)


def site_states(
    report: Report, sites: Iterable[str], findings: Sequence[Finding] = ()
) -> dict[str, dict[str, Any]]:
    """Return for each asked site, and each found one, ``{state: ok | failed, message, devices}``.

    A site with rows that cannot be trusted is failed too.
    """
    names = dict.fromkeys([*sites, *(coverage.device.site for coverage in report.devices)])
    names |= dict.fromkeys(finding.site for finding in findings)
    return {site: _with_findings(_site_state(report, site), site, findings) for site in names}


def _with_findings(state: dict[str, Any], site: str, findings: Sequence[Finding]) -> dict[str, Any]:
    rows: dict[str, int] = {}
    for finding in findings:
        if finding.site == site:
            rows[finding.kind] = rows.get(finding.kind, 0) + finding.rows
    if not rows:
        return state
    devices = {finding.device for finding in findings if finding.site == site}
    words = ", ".join(f"{number} rows {kind}" for kind, number in sorted(rows.items()))
    return {
        "state": "failed",
        "message": f"{state['message']}; {words}",
        "devices": sorted({*state["devices"], *devices}),
    }


def _site_state(report: Report, site: str) -> dict[str, Any]:
    devices = report.of_site(site)
    incomplete = [coverage for coverage in devices if coverage.gaps]
    if not devices:
        return {"state": "failed", "message": "no device was in service in this window", "devices": []}
    if not incomplete:
        total = sum(coverage.present for coverage in devices)
        explained = any(coverage.explained for coverage in devices)
        message = f"{len(devices)} devices {'without an open gap' if explained else 'complete'}, {total} rows"
        return {"state": "ok", "message": message + _explained(devices), "devices": []}
    return {
        "state": "failed",
        "message": "; ".join(_sentence(coverage) for coverage in incomplete) + _explained(devices),
        "devices": [coverage.device.name for coverage in incomplete],
    }


def _explained(devices: Iterable[Coverage]) -> str:
    """Return an addition that tells of the explained gaps of a site, and why each is one."""
    gaps = [gap for coverage in devices for gap in coverage.explained]
    if not gaps:
        return ""
    why = dict.fromkeys(gap.explanation.text for gap in gaps if gap.explanation)
    missing = sum(gap.missing for gap in gaps)
    return f"; explained: about {missing} rows ({'; '.join(why)})"


def _sentence(coverage: Coverage) -> str:
    name, count = coverage.device.name, len(coverage.gaps)
    if coverage.state == "silent":
        part = ", the explained ones not counted" if coverage.explained else ""
        return f"{name}: silent, all {coverage.missing} rows missing{part}"
    gaps = "1 gap" if count == 1 else f"{count} gaps"
    return f"{name}: about {coverage.missing} of {coverage.expected} rows missing in {gaps}"
