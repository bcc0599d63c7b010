"""Why a station is offline: the most likely cause and what to do, from what each way has shown. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Ways:
    """What each way to a station gave; None where it was not or could not be tried.

    `gateway`, `station`: answers to ping. `ssh_port`: sshd greets. `login`: a command ran there. `modbus`: at
    least one device answered the control node. `metrics`: the controller's answered, asked from the control
    node or from the station. `controller`: its unit is active. `sampling`: it has fresh samples. `telemetry`:
    rows in the database are fresh.
    """

    gateway: bool | None = None
    station: bool | None = None
    ssh_port: bool | None = None
    login: bool | None = None
    modbus: bool | None = None
    metrics: bool | None = None
    controller: bool | None = None
    sampling: bool | None = None
    telemetry: bool | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """`online` is true only when nothing is wrong; `cause` and `advice` are for an operator."""

    online: bool
    cause: str
    advice: str


def ways_of(
    doors: Mapping[str, Any], login: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], sample_age_s: float
) -> Ways:
    """Return the ways from what was seen.

    ``doors`` is what `edge_reachability` gave of the station, ``login`` what `edge_status` gave on it,
    ``rows`` what `telemetry_freshness` gave of its devices; each may be empty. Samples older than
    ``sample_age_s`` are stale.
    """
    inside = bool(login) and not login.get("unreachable") and "problems" in login
    unit = login.get("unit") or {}
    ages = [sample.get("age_s") for sample in (login.get("samples") or {}).values()]
    return Ways(
        gateway=doors.get("gateway"),
        station=doors.get("station_ping"),
        ssh_port=doors.get("ssh_port"),
        login=inside,
        modbus=doors.get("modbus"),
        metrics=doors.get("metrics") or (bool(ages) if inside else None),
        controller=unit.get("active") == "active" if inside else None,
        sampling=all(age is not None and age <= sample_age_s for age in ages) if ages else None,
        telemetry=all(row["state"] == "ok" for row in rows) if rows else None,
    )


def diagnose(ways: Ways, contact: str) -> Finding:
    """Return the most likely cause; the first rule that fits decides."""
    call = f"call {contact}" if contact else "call the site (the inventory names no station_contact)"
    return next(_rules(ways, call))


def result(
    doors: Mapping[str, Any],
    login: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    *,
    sample_age_s: float,
    contact: str,
    notes: Sequence[str],
) -> dict[str, Any]:
    """Return the runbook's result of one station: status, message, evidence with its `lines` for people."""
    ways = ways_of(doors, login, rows, sample_age_s)
    finding = diagnose(ways, contact)
    words = {True: "yes", False: "NO", None: "not known"}
    lines = [f"{text}: {words[getattr(ways, name)]}" for name, text in _WORDS.items()]
    lines += [*(doors.get("notes") or ()), *(login.get("problems") or ()), *(login.get("notes") or ())]
    lines += [row["message"] for row in rows]
    lines += [note for note in notes if note]
    lines += [f"Most likely: {finding.cause}.", f"Do: {finding.advice}."]
    message = finding.cause if finding.online else f"{finding.cause}; {finding.advice}"
    evidence = {"ways": asdict(ways), "lines": lines, **asdict(finding)}
    return {"status": "ok" if finding.online else "failed", "message": message, "evidence": evidence}


_WORDS = {
    "gateway": "the site's gateway answers ping",
    "station": "the station answers ping",
    "ssh_port": "its sshd greets",
    "login": "login works",
    "modbus": "a device answers Modbus from here",
    "metrics": "the controller's metrics answer",
    "controller": "the controller runs",
    "sampling": "its samples are fresh",
    "telemetry": "its rows in the database are fresh",
}


def _rules(ways: Ways, call: str) -> Iterator[Finding]:
    if not (ways.ssh_port or ways.login):
        yield from _nobody_answers_ssh(ways, call)
    if not ways.login:
        yield Finding(
            False,
            "sshd answers and the login fails: wrong key or user, a changed host key, or a full or "
            "read-only disk",
            "log in by hand with -v and read its last line; a changed host key of a station that nobody has "
            f"exchanged is a security incident; otherwise {call} for a console",
        )
    if ways.controller is False:
        yield Finding(
            False,
            "the station is up and its controller is not running; its devices stand at their fall-back",
            "read `journalctl -u bess_controller -n 100` on the station; run playbooks/site.yml for it, or "
            "restore its configuration",
        )
    if ways.sampling is False:
        if ways.modbus:
            yield Finding(
                False,
                "the devices answer here and not their controller: another master holds their session",
                "find the other master; a device with one session serves whoever came first",
            )
        yield Finding(
            False,
            "the controller runs and its devices are silent: they are off, or the bus is cut",
            f"{call} to look at the devices' supply and at cable and switch between them and the station",
        )
    if ways.telemetry is False:
        yield Finding(
            False,
            "the controller samples and its rows do not arrive: its way to the database is cut or refused",
            "look at buffer and upload in `stationkeeper controller status` on the station; rows wait in its "
            "buffer and follow by themselves",
        )
    if ways.modbus is False:
        yield Finding(
            False,
            "all is well but Modbus from the control node: a firewall lets ssh through and not Modbus",
            "open the way again; until then an emergency stop writes from the station itself",
        )
    if ways.telemetry is None:
        yield Finding(
            False,
            "the station is in order by its own word; the database does not say how fresh its rows are",
            "run check_health for the database",
        )
    yield Finding(True, "the station is online", "nothing to do")


def _nobody_answers_ssh(ways: Ways, call: str) -> Iterator[Finding]:
    if ways.telemetry:
        yield Finding(
            False,
            "the station works and stores fresh rows; only the way in from this control node is blocked",
            "check the VPN and routes of this control node, then the site's firewall; no need to go there",
        )
    if ways.modbus:
        yield Finding(
            False,
            "the devices answer and the station does not: its computer is off, frozen or being started",
            f"{call} to look at the station's supply and memory card, and have a replacement prepared; its "
            "devices stand at their dead-man's fall-back",
        )
    if ways.station or ways.metrics:
        yield Finding(
            False,
            "the station answers and its sshd does not: it is overloaded, frozen or still starting",
            f"wait two minutes and ask again; then {call} to switch it off and on",
        )
    if ways.gateway:
        yield Finding(
            False,
            "the site's gateway answers and nothing behind it: the station is off, or the switch is",
            f"{call} to look at the supply of station and switch; have a replacement prepared",
        )
    where = "not even its gateway answers" if ways.gateway is False else "nothing there answers"
    yield Finding(
        False,
        f"the whole site is dark, {where}: VPN, its internet line, or its power",
        f"check the VPN on this control node and the other stations behind it; ask the provider; {call}",
    )
