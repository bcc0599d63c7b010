"""`make demo`: the Flux system on real hosts, told in the terminal.

Each step does one thing for real and shows what it saw; the demo stops when that is not what it must be.
Run again, it uses the hosts that are up and converges them anew.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from reconciliation import Reconciliation, reconcile_system
from system import ROOT, LabSystem, Play

CUT_S = 30
STATION_CUT = "hmce"
STATION_KILLED = "lfce"
STATION_STOPPED = "wlce"


class DemoFailedError(Exception):
    """A step did not show what it must show."""


def say(text: str = "") -> None:
    print(text, flush=True)


def detail(text: str) -> None:
    say(f"    {text}")


class Story:
    """The steps of the demo and the time that each took."""

    def __init__(self, system: LabSystem) -> None:
        self.system = system
        self.times: list[tuple[str, float]] = []
        self.observed_from = datetime.now(UTC)
        self.kills: dict[str, list[datetime]] = {}

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        say(f"\n[{len(self.times) + 1}] {title}")
        started = time.monotonic()
        yield
        self.times.append((title, time.monotonic() - started))
        detail(f"({self.times[-1][1]:.0f} s)")

    def expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise DemoFailedError(otherwise)

    def play(self, name: str, variables: Mapping[str, object] | None = None, *options: str) -> Play:
        """Run a playbook and show which play it is at."""
        arguments = "".join(f" -e {key}={str(value)!r}" for key, value in (variables or {}).items())
        detail(f"$ ansible-playbook playbooks/{name}.yml{arguments} {' '.join(options)}".rstrip())

        def progress(line: str) -> None:
            if line.startswith("PLAY ["):
                detail(f"  {line[6:].partition(']')[0]}")

        return self.system.playbook(name, variables, *options, on_line=progress)

    def succeed(self, play: Play, what: str) -> Play:
        if play.code != 0:
            say(play.output[-6000:])
        self.expect(play.code == 0, f"{what} ended with exit code {play.code}")
        return play

    def boot(self) -> None:
        with self.step("Boot five real Debian hosts: systemd, sshd, own addresses"):
            result = self.system.labctl("up", check=False)
            for line in (result.stdout + result.stderr).splitlines():
                detail(line)
            self.expect(result.returncode == 0, "the lab did not come up")
            self.system.run("stationkeeper", "secrets", "init", self.system.inventory)

    def converge(self) -> None:
        with self.step("Converge: from bare hosts to the Flux system (a second run changes nothing)"):
            play = self.succeed(self.play("site"), "site.yml")
            for host, counts in play.recap.items():
                detail(f"{host:<10} {counts['ok']:>3} tasks ok, {counts['changed']:>3} changed")

    def rows_arrive(self) -> None:
        with self.step("Telemetry flows: Modbus devices → controller → TimescaleDB"):
            # Every answer from here on must become a row, and every row must have been an answer.
            self.observed_from = datetime.now(UTC)
            before = self.system.rows_by_station()
            self.system.wait(
                "new rows of every station",
                lambda: all(
                    self.system.rows_by_station().get(station, 0) > before.get(station, 0) + 3
                    for station in self.system.stations
                ),
                timeout_s=60,
            )
            for station, count in self.system.rows_by_station().items():
                detail(f"{station}: {count} rows, {count - before.get(station, 0)} of them new just now")

    def healthy(self) -> None:
        with self.step("Is everything well? The health check asks every host and every device"):
            self.show_summary(self.succeed(self.play("check_health"), "the health check"))

    def show_summary(self, play: Play) -> None:
        """Show what the runbook itself reported at its close."""
        _, found, report = play.output.partition("TASK [runbook : Report]")
        for line in report.splitlines()[1:] if found else []:
            text = line.strip()
            if not text or text.startswith(("TASK", "PLAY")):
                break
            if not text.startswith(("ok: [", "msg:")):
                detail(f"  {text}")

    def gap_check(self, settle_s: int) -> Play:
        """Look for gaps at the station that is cut off, from the moment that the demo began to watch."""
        window = {
            "target": STATION_CUT,
            "window_start": self.observed_from.isoformat(timespec="seconds"),
            "settle_s": settle_s,
        }
        play = self.play("telemetry_gap_check", window)
        self.show_summary(play)
        return play

    def cut_and_heal(self) -> None:
        system = self.system
        with self.step(f"Cut {STATION_CUT} off for {CUT_S} s: the gap shows, then heals from the buffer"):
            system.labctl("cut", STATION_CUT, "--for", str(CUT_S))
            cut_at = time.monotonic()
            rows = system.rows_by_station()[STATION_CUT]
            time.sleep(CUT_S * 0.6)
            self.expect(
                system.rows_by_station()[STATION_CUT] - rows <= 4,
                f"rows of {STATION_CUT} arrive in spite of the cut",
            )
            detail(f"{STATION_CUT}: no new rows reach the database; on the station:")
            detail(self.buffer(STATION_CUT))
            play = self.gap_check(settle_s=5)
            self.expect(play.code != 0, "the gap check did not find the gap")
            remaining = CUT_S - (time.monotonic() - cut_at)
            if remaining > 0:
                time.sleep(remaining)
            took = system.wait(
                "the newest row is in the database",
                self.caught_up,
                timeout_s=90,
            )
            detail(f"network back; the buffer was delivered {took:.0f} s after the network returned")

    def buffer(self, station: str) -> str:
        """What the controller says about its buffer, asked on the station itself."""
        answer = self.system.on_host(
            station, "/opt/stationkeeper/venv/bin/stationkeeper", "controller", "status"
        )
        buffer = json.loads(answer.stdout)["buffer"]
        return f"{buffer['rows']} rows wait in its buffer, the oldest of {buffer['oldest']}"

    def caught_up(self) -> bool:
        """Whether the newest row of the cut station is as new as the rows of the others."""
        age = self.system.query(
            "SELECT extract(epoch FROM now() - max(reading.time)) FROM flux.mg_bess_readings AS reading"
            " JOIN flux.mg_device_registry AS device ON device.id = reading.device_id"
            " WHERE lower(device.site) = %s",
            [STATION_CUT],
        )[0][0]
        return age is not None and float(age) < 8

    def kill_controller(self) -> None:
        with self.step(
            f"kill -9 the controller of {STATION_KILLED}: systemd starts it anew, nothing stored is lost"
        ):
            self.kills.setdefault(STATION_KILLED, []).append(datetime.now(UTC))
            self.system.on_host(
                STATION_KILLED, "systemctl", "kill", "--signal=KILL", "bess_controller.service"
            )
            rows = self.system.rows_by_station()[STATION_KILLED]
            took = self.system.wait(
                "rows after the kill", lambda: self.system.rows_by_station()[STATION_KILLED] > rows + 2, 60
            )
            detail(f"new rows {took:.0f} s after the kill")

    def gaps_closed(self) -> None:
        with self.step("Look for gaps again: the cut left none"):
            self.expect(self.gap_check(settle_s=15).code == 0, "gaps are left")

    def stop_and_release(self) -> None:
        system = self.system
        with self.step(
            f"Emergency stop of {STATION_STOPPED}: latched on the station and zero written over Modbus"
        ):
            system.wait(
                "the battery is at work",
                lambda: abs(system.power_kw(STATION_STOPPED)) > 4,
                timeout_s=60,
            )
            detail(
                f"before: {system.power_kw(STATION_STOPPED):+.1f} kW (read by mbpoll, an independent client)"
            )
            play = self.play("edge_emergency_stop", {"target": STATION_STOPPED, "reason": "demonstration"})
            self.show_summary(self.succeed(play, "the emergency stop"))
            power = system.power_kw(STATION_STOPPED)
            detail(f"after:  {power:+.1f} kW (mbpoll)")
            self.expect(abs(power) <= 1, f"{STATION_STOPPED} still moves {power} kW")
        with self.step("Release: by name, with a reason, only when all is well"):
            play = self.play(
                "edge_emergency_release",
                {"target": STATION_STOPPED, "confirm": STATION_STOPPED, "reason": "demonstration is over"},
            )
            self.show_summary(self.succeed(play, "the release"))
            took = system.wait(
                "the battery moves again",
                lambda: abs(system.power_kw(STATION_STOPPED)) > 2,
                timeout_s=60,
            )
            detail(f"{system.power_kw(STATION_STOPPED):+.1f} kW, {took:.0f} s after the release")

    def reconcile(self) -> None:
        with self.step("Compare every stored row with what the devices themselves say they served"):
            result: Reconciliation = reconcile_system(self.system, self.observed_from, self.kills)
            for line in result.lines():
                detail(line)
            self.expect(result.complete, "rows are lost or invented")

    def audit(self) -> None:
        with self.step("Verify the audit trail: signed, chained, complete"):
            result = self.system.run("stationkeeper", "audit", "verify", check=False)
            for line in (result.stdout + result.stderr).splitlines():
                detail(line)
            self.expect(result.returncode == 0, "the audit trail does not verify")

    def tell(self) -> None:
        self.boot()
        self.converge()
        self.rows_arrive()
        self.healthy()
        self.cut_and_heal()
        self.kill_controller()
        self.gaps_closed()
        self.stop_and_release()
        self.reconcile()
        self.audit()


def closing(story: Story) -> None:
    """Print the times, what there is to look at, and how to end it."""
    say("\nTimes")
    for number, (title, seconds) in enumerate(story.times, start=1):
        say(f"  [{number:>2}] {seconds:>4.0f} s  {title}")
    say(f"  whole demo: {sum(seconds for _, seconds in story.times):.0f} s")
    addresses = story.system.addresses
    key = story.system.state / "lab" / story.system.name
    say("\nThe system is up. Look at it:")
    say(f"  Prometheus    http://{addresses['fluxhub']}:9090")
    say(f"  Alertmanager  http://{addresses['fluxhub']}:9093")
    say(f"  a station     ssh -i {key}/id_ed25519 -o UserKnownHostsFile={key}/known_hosts \\")
    say(f"                    ops@{addresses['wlce']}")
    say(f"  its metrics   http://{addresses['wlce']}:9105/metrics")
    say(f"  Modbus        mbpoll -m tcp -a 1 -0 -r 0 -c 13 -t 3 -1 {addresses['wlce']}")
    say("  audit trail   .venv/bin/stationkeeper audit show --last 20")
    say("End it: make lab-down")


def main() -> int:
    """Tell the story; exit 1 with the reason when a step did not show what it must."""
    state = Path(os.environ.get("STATIONKEEPER_STATE", ROOT / ".state"))
    story = Story(LabSystem(ROOT / "inventories" / "flux", state))
    say("Stationkeeper: the Flux system, from bare hosts to a proven stop")
    try:
        story.tell()
    except (DemoFailedError, TimeoutError) as error:
        say(f"\nThe demo FAILED: {error}")
        say("The hosts are left up to look at; end them with: make lab-down")
        return 1
    closing(story)
    return 0


if __name__ == "__main__":
    sys.exit(main())
