"""Unattended failovers of a database that Patroni runs, under clients that record every acknowledged row.

    python bench/patroni.py INVENTORY --rounds 5              # the leader's machine loses its power
    python bench/patroni.py INVENTORY --rounds 3 --cut        # the leader is cut off in both directions
    python bench/patroni.py INVENTORY --rounds 3 --planned    # the runbook database_switchover

The lab (three database hosts, inventories/flux-patroni) must be up and converged. Nobody does anything in
the first two: Patroni elects another leader, and the host that comes back follows by itself. A round ends
when all hosts are whole again. Fails when an acknowledged row is lost in synchronous mode or by a switchover.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from failover import TABLE, Bench
from lab.system import ROOT, LabSystem

#: Longer than a failover takes, so that the old leader finds another one when it comes back.
FAULT_S = 45
WHOLE_S = 600
CONFIGURATION = "/etc/patroni/17-main.yml"
IDENTITY = "/etc/stationkeeper/cluster"


@dataclass
class Round:
    """What one round showed; times in seconds. ``aside`` tells of the rows that an isolated leader took."""

    name: str
    acknowledged: int
    lost: int
    silence_s: float
    whole_s: float
    aside: str = ""


class PatroniBench(Bench):
    """A lab whose database Patroni runs."""

    def members(self, but: str = "") -> list[dict[str, Any]]:
        """Return what Patroni says of every member; any host that answers is asked, except ``but``."""
        for host in self.hosts:
            if host == but:
                continue
            words = ("timeout", "15", "patronictl", "-c", CONFIGURATION, "list", "--format=json")
            try:
                said = self.system.on_host(host, *words, check=False)
                return list(json.loads(said.stdout))
            except (ValueError, subprocess.TimeoutExpired):
                continue
        return []

    def primary(self) -> str:
        leaders = [member["Member"] for member in self.members() if member["Role"] == "Leader"]
        assert len(leaders) == 1, f"leaders: {leaders}"
        return str(leaders[0])

    def whole(self) -> bool:
        """Whether every host is a member that runs, and all but the leader stream."""
        members = self.members()
        states = sorted(str(member["State"]) for member in members)
        # A former leader that has to be rewound connects too, again and again.
        timelines = {member.get("TL") for member in members}
        return len(timelines) == 1 and states == ["running"] + ["streaming"] * (len(self.hosts) - 1)

    def etcd_leads(self, host: str) -> bool:
        """Whether etcd's leader is on this host as well: then etcd has to elect one before Patroni can."""
        words = [
            f"--cacert={IDENTITY}/known.pem",
            f"--cert={IDENTITY}/host.pem",
            f"--key={IDENTITY}/host.key",
        ]
        words += ["--endpoints=https://127.0.0.1:2379", "--write-out=json", "endpoint", "status"]
        status = json.loads(self.system.on_host(host, "etcdctl", *words).stdout)[0]["Status"]
        return bool(status["leader"] == status["header"]["member_id"])

    def killed(self, number: int) -> Round:
        old = self.primary()
        with_etcd = ", etcd's leader with it" if self.etcd_leads(old) else ""
        with self.clients() as clients:
            clients.run_for(self.chance.uniform(2, 12))
            self.system.labctl("power-cut", old, "--for", str(FAULT_S))
            began = time.monotonic()
            self._other_leads(old, clients)
        return self._ended(f"power cut {number} of {old}{with_etcd}", clients, began)

    def cut(self, number: int) -> Round:
        old = self.primary()
        script = (ROOT / "bench" / "isolated_writer.sh").read_text()
        inside = ["timeout", "50", "bash", "-c", script, "-", TABLE]
        with self.clients() as clients:
            clients.run_for(self.chance.uniform(2, 12))
            self.system.labctl("cut", old, "--for", str(FAULT_S), "--control")
            began = time.monotonic()
            with ThreadPoolExecutor(1) as aside:
                writing = aside.submit(self.system.on_host, old, *inside, check=False)
                self._other_leads(old, clients)
        isolated = writing.result().stdout.split()
        found = self._ended(f"network cut {number} of {old}", clients, began)
        present = {seq for client, seq in self._stored() if client == "isolated"}
        gone = sum(int(seq) not in present for seq in isolated)
        found.aside = f"; the isolated leader acknowledged {len(isolated)} more, of which {gone} are gone"
        found.lost += gone
        return found

    def planned_switchover(self, number: int) -> Round:
        primary = self.primary()
        new = self.chance.choice([host for host in self.hosts if host != primary])
        with self.clients() as clients:
            clients.run_for(self.chance.uniform(2, 5))
            began = time.monotonic()
            self.play("database_switchover", target="databases", new_primary=new)
            clients.run_for(1)
        return self._ended(f"switchover {number} to {new}", clients, began)

    def _other_leads(self, old: str, clients: Any) -> None:
        """Wait until another host is leader and clients write to it; the fault may take a moment to bite."""
        self.system.wait("another host is leader", lambda: self._leads_beside(old), WHOLE_S)
        clients.first_after(time.monotonic())
        clients.run_for(3)

    def _leads_beside(self, old: str) -> bool:
        return any(member["Role"] == "Leader" and member["Member"] != old for member in self.members(old))

    def _ended(self, name: str, clients: Any, began: float) -> Round:
        self.system.wait("all hosts follow again", self.whole, WHOLE_S)
        seconds = time.monotonic() - began
        lost = clients.acknowledged - self._stored()
        return Round(name, len(clients.acknowledged), len(lost), clients.longest_silence(0), seconds)


def main() -> None:
    """Run the rounds and print what they showed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("inventory", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--cut", action="store_true")
    kind.add_argument("--planned", action="store_true")
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    state = Path(os.environ.get("STATIONKEEPER_STATE", ROOT / ".state"))
    system = LabSystem(options.inventory.resolve(), state)
    bench = PatroniBench(system, random.Random(options.seed))  # noqa: S311 (the moments come again)
    leader = bench.primary()
    synchronous = bench.system.psql(leader, "SHOW synchronous_standby_names") != ""
    bench.prepare()
    one = bench.cut if options.cut else bench.planned_switchover if options.planned else bench.killed
    rounds = []
    for number in range(1, options.rounds + 1):
        found = one(number)
        rounds.append(found)
        print(
            f"{found.name}: {found.acknowledged:,} acknowledged, {found.lost} lost{found.aside}; longest "
            f"silence {found.silence_s:.1f} s; all hosts whole again after {found.whole_s:.0f} s",
            flush=True,
        )
    lost = sum(found.lost for found in rounds)
    silences = sorted(found.silence_s for found in rounds)
    print(
        f"{len(rounds)} rounds, {'synchronous' if synchronous else 'asynchronous'}: "
        f"{sum(found.acknowledged for found in rounds):,} rows acknowledged, {lost} lost; silence "
        f"{silences[0]:.1f} to {silences[-1]:.1f} s, median {silences[len(silences) // 2]:.1f} s"
    )
    assert not ((synchronous or options.planned) and lost), "acknowledged rows are lost"


if __name__ == "__main__":
    main()
