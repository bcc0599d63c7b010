"""Hard failovers, switchovers and a network cut on a lab, under clients that record every acknowledged row.

    python bench/failover.py INVENTORY --rounds 5                  # asynchronous: says what was lost
    python bench/failover.py INVENTORY --rounds 5 --synchronous    # must lose nothing
    python bench/failover.py INVENTORY --rounds 5 --planned        # switchovers: must lose nothing
    python bench/failover.py INVENTORY --split-brain               # the primary is cut off in both directions

The lab (two database hosts and at least one witness) must be up and converged. In a hard round the primary's
machine loses its power at a random moment, the runbook is started at once, then the machine boots and
rejoins. The floor is a round in which nothing but `pg_promote` is called: what is beyond it is the play's.
Fails when an acknowledged row is lost that must not be, or a round does not end with both hosts streaming.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from failover_clients import Clients
from lab.system import ROOT, LabSystem, Play

TABLE = "flux.bench_failover"
#: Boots after so long; the failover is over by then, and the machine is not in its way.
WITHOUT_POWER_S = 30


@dataclass
class Round:
    """What one round showed; times in seconds, None where it does not apply."""

    name: str
    acknowledged: int
    lost: int
    reported: int | None
    to_write_s: float
    silence_s: float


class Bench:
    """One lab, with the clients that write to it."""

    def __init__(self, system: LabSystem, chance: random.Random) -> None:
        self.system = system
        self.chance = chance
        self.hosts = system.hosts("databases")

    def primary(self) -> str:
        """Return who is primary; where Patroni runs the servers, its members say so."""
        return self.system.primary()

    def play(self, name: str, **variables: str) -> Play:
        play = self.system.playbook(name, {"reason": "bench/failover.py", **variables})
        assert play.code == 0, play.output[-6000:]
        return play

    def prepare(self) -> None:
        """Make the clients' table anew."""
        self.system.psql(
            self.primary(),
            f"DROP TABLE IF EXISTS {TABLE}; "
            f"CREATE TABLE {TABLE} (client text, seq bigint, PRIMARY KEY (client, seq)); "
            f"GRANT SELECT, INSERT ON {TABLE} TO flux_operator",
        )

    def clients(self) -> Clients:
        return Clients(self.system.database_settings("operator"), TABLE)

    def floor(self) -> float:
        """Seconds from a bare pg_promote to the first commit through the clients' path."""
        old = self.primary()
        new = next(host for host in self.hosts if host != old)
        with self.clients() as clients:
            clients.run_for(self.chance.uniform(2, 4))
            self.system.labctl("power-cut", old, "--for", str(WITHOUT_POWER_S))
            began = time.monotonic()
            # In synchronous mode commits would wait for the machine that is gone.
            self.system.psql(new, "ALTER SYSTEM SET synchronous_standby_names = ''")
            self.system.psql(new, "SELECT pg_reload_conf()")
            self.system.psql(new, "SELECT pg_promote(true, 60)")
            seconds = clients.first_after(began)
        self._rejoin(old, began)
        return seconds

    def hard(self, number: int) -> Round:
        old = self.primary()
        with self.clients() as clients:
            clients.run_for(self.chance.uniform(2, 5))
            self.system.labctl("power-cut", old, "--for", str(WITHOUT_POWER_S))
            began = time.monotonic()
            self.play("database_failover", target="databases", confirm="databases", fencing_confirmed=old)
            seconds = clients.first_after(began)
            clients.run_for(1)
        play = self._rejoin(old, began)
        told = re.search(r"lost: (\d+) transactions", play.output)
        return self._judge(f"failover {number}", clients, int(told[1]) if told else 0, seconds)

    def planned(self, number: int) -> Round:
        with self.clients() as clients:
            clients.run_for(self.chance.uniform(2, 5))
            began = time.monotonic()
            self.play("database_switchover", target="databases")
            clients.run_for(1)
        return self._judge(f"switchover {number}", clients, None, clients.longest_silence(began))

    def split(self) -> Round:
        """Cut the primary off in both directions, fail over, end the cut, look for rows nobody tells of."""
        old = self.primary()
        inside = ROOT / "bench" / "isolated_writer.sh"
        with self.clients() as clients:
            clients.run_for(3)
            self.system.labctl("cut", old, "--for", "120", "--control")
            began = time.monotonic()
            with ThreadPoolExecutor(1) as aside:
                writing = aside.submit(
                    self.system.labctl, "exec", old, "--", "bash", "-c", inside.read_text(), "-", TABLE
                )
                self.play("database_failover", target="databases", confirm="databases", fencing_confirmed=old)
            seconds = clients.first_after(began)
        isolated = writing.result().stdout.split()
        self.system.labctl("heal", old)
        play = self._rejoin(old, began)
        told = re.search(r"lost: (\d+) transactions", play.output)
        reported = int(told[1]) if told else 0
        present = {seq for client, seq in self._stored() if client == "isolated"}
        vanished = [seq for seq in isolated if int(seq) not in present]
        print(
            f"the isolated primary took {len(isolated)} rows before it stopped itself; {len(vanished)} of "
            f"them are on no host now, and database_rejoin tells of {reported} lost transactions"
        )
        assert reported >= len(vanished), "rows are gone and nothing tells of them"
        return self._judge("split brain", clients, reported, seconds)

    def _stored(self) -> set[tuple[str, int]]:
        rows = self.system.query(f"SELECT client, seq FROM {TABLE}", role="operator")  # noqa: S608 (a constant)
        return {(str(client), int(seq)) for client, seq in rows}

    def _rejoin(self, old: str, began: float) -> Play:
        """Wait until the machine is up again, and have it follow."""
        while not _answers(self.system.addresses[old]):
            assert time.monotonic() - began < 300, f"{old} does not boot"
            time.sleep(1)
        play = self.play("database_rejoin", target=old, confirm=old)
        self.play("database_status")
        # What the runs before have kept: a lab's disk is small.
        self.system.labctl("exec", old, "--", "bash", "-c", "rm -rf /var/lib/postgresql/*/main.kept-*")
        return play

    def _judge(self, name: str, clients: Clients, reported: int | None, seconds: float) -> Round:
        lost = clients.acknowledged - self._stored()
        return Round(
            name, len(clients.acknowledged), len(lost), reported, seconds, clients.longest_silence(0)
        )


def _answers(address: str) -> bool:
    try:
        with socket.create_connection((address, 22), timeout=3) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _work_inventory(inventory: Path, state: Path, *, synchronous: bool) -> Path:
    """A copy of the inventory under the lab's own name that says whether commits wait for the standby."""
    copy = state / "bench" / inventory.name
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(parents=True)
    for path in inventory.iterdir():
        if path.name != "hosts.yml":
            (copy / path.name).symlink_to(path.resolve())
    hosts = yaml.safe_load((inventory / "hosts.yml").read_text())
    hosts["all"]["children"]["databases"]["vars"] = {"postgresql_synchronous": synchronous}
    (copy / "hosts.yml").write_text(yaml.safe_dump(hosts))
    return copy


def main() -> None:
    """Run the rounds and print what they showed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("inventory", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--synchronous", action="store_true")
    parser.add_argument("--planned", action="store_true")
    parser.add_argument("--split-brain", action="store_true")
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    state = Path(os.environ.get("STATIONKEEPER_STATE", ROOT / ".state"))
    inventory = _work_inventory(options.inventory.resolve(), state, synchronous=options.synchronous)
    chance = random.Random(options.seed)  # noqa: S311 (no secret: a seed makes the moments come again)
    bench = Bench(LabSystem(inventory, state), chance)
    if bool(bench.system.psql(bench.primary(), "SHOW synchronous_standby_names")) != options.synchronous:
        bench.play("database_add_standby", target="databases")
    bench.prepare()
    rounds = []
    floor = None if options.planned or options.split_brain else bench.floor()
    if floor:
        print(f"floor: bare pg_promote to first commit of a client {floor:.2f} s", flush=True)
    if options.split_brain:
        rounds.append(bench.split())
    for number in range(1, options.rounds + 1) if not options.split_brain else ():
        rounds.append(bench.planned(number) if options.planned else bench.hard(number))
        _tell(rounds[-1], floor)
    if options.split_brain:
        _tell(rounds[-1], None)
    lost = sum(found.lost for found in rounds)
    rows = sum(found.acknowledged for found in rounds)
    print(f"{len(rounds)} rounds, {rows:,} rows acknowledged, {lost} lost")
    assert not ((options.synchronous or options.planned) and lost), "acknowledged rows are lost"


def _tell(found: Round, floor: float | None) -> None:
    ours = f", {found.to_write_s - floor:.2f} s of it beyond the floor" if floor else ""
    told = "" if found.reported is None else f" ({found.reported} transactions told by database_rejoin)"
    print(
        f"{found.name}: {found.acknowledged:,} acknowledged, {found.lost} lost{told}; first write after "
        f"{found.to_write_s:.2f} s{ours}; longest silence {found.silence_s:.2f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
