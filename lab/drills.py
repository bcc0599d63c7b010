"""`make drills`: every drill on a system of real hosts, its times drawn against what the guides promise.

Boots and converges inventories/flux-ha where that is not done yet, takes the backups that the drills need and
holds one drill after the other as an operator would. A drill that fails is told, and the others go on.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from system import ROOT, LabSystem, Play

BAR = 40
REASON = "make drills"


def say(text: str = "") -> None:
    print(text, flush=True)


def play(system: LabSystem, name: str, inputs: Mapping[str, Any] | None = None) -> Play:
    """Run a playbook and say how it went; the whole output only of one that failed."""
    say(f"  {name} …")
    done = system.playbook(name, inputs)
    say(f"  {name:<24} {'ok' if done.code == 0 else 'FAILED':<7} {done.seconds:>5.0f} s")
    if done.code != 0:
        say(done.output[-4000:])
    return done


def prepare(system: LabSystem) -> bool:
    """Bring the system up, with a backup of everything."""
    up = system.labctl("up", check=False)
    if up.returncode != 0:
        say(up.stdout + up.stderr)
        return False
    system.run("stationkeeper", "secrets", "init", system.inventory)
    backups = {"target": system.hosts("backups")[0], "reason": REASON}
    return (
        play(system, "site").code == 0
        and play(system, "backup_run", {**backups, "type": "full"}).code == 0
        and play(system, "files_backup", {"target": "all", "reason": REASON}).code == 0
    )


def hold(system: LabSystem) -> bool:
    """Hold every drill; true when all were good."""
    hub, station, backup = (system.hosts(group)[0] for group in ("hubs", "stations", "backups"))
    good = [
        drill(system, "drill_service_crash", hub),
        drill(system, "drill_files_lost", station),
        drill(system, "drill_disk_full", backup),
        drill(system, "drill_network_split", system.standby()),
        drill(system, "drill_restore", system.primary()),
        drill(system, "drill_failover", system.primary()),
        drill(system, "drill_host_loss", system.standby()),
    ]
    return all(good)


def drill(system: LabSystem, name: str, target: str) -> bool:
    return play(system, name, {"target": target, "confirm": target, "reason": REASON}).code == 0


def reports(system: LabSystem) -> list[dict[str, Any]]:
    """Return the newest report of each drill."""
    newest = (
        max(place.glob("*.json"), key=lambda path: path.stat().st_mtime)
        for place in sorted((system.state / "drills").glob("drill_*"))
    )
    return [json.loads(path.read_text()) for path in newest]


def drawing(found: list[dict[str, Any]]) -> list[str]:
    """Return the measured times as bars; the whole width is the objective."""
    lines = ["", f"{'':<22} {'recovery':>9} {'objective':>10}  share of the objective          {'lost':>7}"]
    for report in found:
        share = min(report["rto_s"] / report["objective_rto_s"], 1.0)
        bar = "#" * max(round(share * BAR), 1)
        verdict = "" if report["good"] else "  FAILED: " + "; ".join(report["shortfalls"])
        lines.append(
            f"{report['name']:<22} {report['rto_s']:>7.1f} s {report['objective_rto_s']:>8.0f} s"
            f"  |{bar:<{BAR}}| {report['rpo_s']:>5.1f} s{verdict}"
        )
    return lines


def main() -> int:
    """Hold all drills; exit 1 when one was not good."""
    state = Path(os.environ.get("STATIONKEEPER_STATE", ROOT / ".state"))
    system = LabSystem(ROOT / "inventories" / "flux-ha", state)
    say("The drills of inventories/flux-ha")
    if not prepare(system):
        say("The system is not ready for drills; its hosts are left up to look at (make lab-down ends them).")
        return 1
    good = hold(system)
    lines = drawing(reports(system))
    say("\n".join(lines))
    page = state / "drills" / "README.md"
    page.write_text("# Drills\n\n```text\n" + "\n".join(lines) + "\n```\n")
    say(f"\nPages: {state / 'drills'}. The hosts are left up; end them with: make lab-down")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
