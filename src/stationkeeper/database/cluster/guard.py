"""Keeps a database host from becoming a second primary by itself. Runs on the host as a service, as root.

After a boot it starts the server only where that is safe: a standby always; one with a primary's data when
every peer answers as no primary and none is on a newer timeline. While the server is a primary that reaches
neither a peer nor a witness, or that sees a primary on a newer timeline, it is stopped: what it commits from
then on might survive nowhere. A server that somebody has stopped stays stopped. Standard library only.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ...files import write_atomically
from .control import ControlError, start, stop
from .node import look, psql, slot_name

#: There since the server was up in this boot: a restart of the guard must not start what somebody stopped.
STARTED = Path("/run/postgresql-guard/started")
METRICS = Path("/var/lib/prometheus/node-exporter/stationkeeper_database.prom")
INTERVAL_S = 2.0
LOOK_S = 10.0
STOP_S = 20.0
SSH = 22


@dataclass(frozen=True)
class Peer:
    """What another database host answers; ``primary`` is None without an answer."""

    name: str
    primary: bool | None = None
    timeline: int = 0


@dataclass(frozen=True)
class Decision:
    """What to do now (``none``, ``start``, ``stop``, ``wait``), and why."""

    action: str
    reason: str = ""


def may_start(node: Mapping[str, Any], peers: Iterable[Peer]) -> Decision:
    """Return whether the stopped server of a host may be started after a boot, or after it stopped itself."""
    if not node["exists"]:
        return Decision("none")
    if node["start"] == "disabled":
        return Decision("wait", "it is fenced (start.conf says disabled): database_rejoin")
    if node["was"] == "standby":
        return Decision("start", "a standby takes no writes")
    against = [node["message"]] if node["was"] != "primary" else []
    for peer in peers:
        if peer.primary is None:
            against.append(
                f"{peer.name} does not answer and may be primary: database_status, database_failover"
            )
        elif peer.primary:
            against.append(f"{peer.name} is primary: database_rejoin")
        elif peer.timeline > (node["timeline"] or 0):
            against.append(f"{peer.name} is on a newer timeline: database_rejoin")
    if against:
        return Decision("wait", "; ".join(against))
    return Decision("start", "every peer answers, none is primary or on a newer timeline")


def may_run(*, primary: bool, lonely_s: float, isolation_s: float) -> Decision:
    """Return whether the running server may go on; ``lonely_s`` is how long no other host was reached."""
    if primary and lonely_s >= isolation_s:
        return Decision("stop", f"a primary that has reached no peer and no witness for {lonely_s:.0f} s")
    return Decision("none")


def superseded(node: Mapping[str, Any], peers: Iterable[Peer]) -> Decision:
    """Return whether the running primary may go on: where a newer one took over, it stops."""
    for peer in peers:
        if peer.primary and peer.timeline > (node["timeline"] or 0):
            why = f"{peer.name} is primary on the newer timeline {peer.timeline}: database_rejoin"
            return Decision("stop", why)
    return Decision("none")


class Guard:
    """One host's guard, with ``settings`` as the role writes them."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        self.starting = not STARTED.exists()
        self.waits = ""
        self.reached = time.monotonic()
        self.looked = -LOOK_S

    def step(self) -> None:
        """Look, decide, act."""
        due = time.monotonic() - self.looked >= LOOK_S
        found = look(port=self.settings["port"]) if self.starting or due else None
        if self.starting and found is not None:
            self._boot(found)
        elif not self.starting:
            self._watch()
        if found is None or not due:
            return
        self.looked = time.monotonic()
        if not self.starting and found["role"] == "primary":
            self._act(found, superseded(found, [self._ask(peer) for peer in self.settings["peers"]]))
        self._export(found)

    def _boot(self, node: Mapping[str, Any]) -> None:
        if node["running"]:
            self._started()
            return
        asks = node["exists"] and node["was"] == "primary" and node["start"] != "disabled"
        decision = may_start(node, [self._ask(peer) for peer in self.settings["peers"]] if asks else [])
        if decision.action == "wait":
            if self.waits != decision.reason:
                print(f"not started: {decision.reason}", flush=True)
            self.waits = decision.reason
        elif decision.action == "start":
            print(f"starting the server: {decision.reason}", flush=True)
            try:
                start(node)
            except (ControlError, OSError, subprocess.SubprocessError) as error:
                print(f"it does not start: {error}", flush=True)
                self.waits = str(error)
            else:
                self._started()

    def _started(self) -> None:
        STARTED.touch()
        self.starting, self.waits, self.reached = False, "", time.monotonic()

    def _watch(self) -> None:
        if not self.settings["witnesses"]:
            return
        others = [peer["address"] for peer in self.settings["peers"]] + self.settings["witnesses"]
        with ThreadPoolExecutor(len(others)) as knocking:
            answers = list(knocking.map(_answers, others))
        if any(answers):
            self.reached = time.monotonic()
            return
        # Only now, since it costs more than to knock.
        node = look(port=self.settings["port"])
        decision = may_run(
            primary=node["running"] and node["was"] == "primary",
            lonely_s=time.monotonic() - self.reached,
            isolation_s=self.settings["isolation_s"],
        )
        self._act(node, decision)

    def _act(self, node: Mapping[str, Any], decision: Decision) -> None:
        if decision.action != "stop":
            return
        print(f"stopping the server: {decision.reason}", flush=True)
        # From now on it starts only where that is safe.
        self.starting = True
        with suppress(FileNotFoundError):
            STARTED.unlink()
        print(f"stopped ({stop(node, timeout_s=STOP_S)})", flush=True)

    def _ask(self, peer: Mapping[str, str]) -> Peer:
        """Ask a peer over the replication protocol, for which the host has a password."""
        dsn = f"host={peer['address']} port={self.settings['port']} user={self.settings['user']} "
        dsn += "dbname=postgres replication=1 sslmode=require channel_binding=require connect_timeout=3"
        try:
            timeline = int(psql("IDENTIFY_SYSTEM", dsn).split("|")[1])
            standby = psql("SHOW in_hot_standby", dsn) == "on"
        except (OSError, subprocess.SubprocessError, ValueError, IndexError):
            return Peer(peer["name"])
        return Peer(peer["name"], primary=not standby, timeline=timeline)

    def _export(self, node: Mapping[str, Any]) -> None:
        if METRICS.parent.is_dir():
            names = [slot_name(peer["name"]) for peer in self.settings["peers"]]
            write_atomically(METRICS, metrics(node, names, waits=bool(self.waits)), mode=0o644)


def metrics(node: Mapping[str, Any], peers: Iterable[str], *, waits: bool) -> str:
    """Return a look as figures for Prometheus; ``peers`` are the names by which the others follow."""
    lines: list[str] = []

    def add(name: str, text: str, values: Mapping[str, float]) -> None:
        lines.append(
            f"# HELP stationkeeper_database_{name} {text}\n# TYPE stationkeeper_database_{name} gauge\n"
        )
        lines.extend(f"stationkeeper_database_{name}{labels} {value}\n" for labels, value in values.items())

    primary = node["role"] == "primary"
    streaming = {r["name"]: r for r in node["replicas"] if r["state"] == "streaming"}
    follows = (node["upstream"] or {}).get("status") == "streaming"
    slots = [slot for slot in node["slots"] if slot["type"] == "physical"]
    add("up", "1 when the server answers", {"": int(node["role"] in ("primary", "standby"))})
    add("primary", "1 when the server takes writes", {"": int(primary)})
    add("guard_waits", "1 while the guard does not start the server", {"": int(waits)})
    add("guard_seen_timestamp_seconds", "When these figures are from", {"": int(time.time())})
    if node["role"] == "standby":
        add("standby_streaming", "1 while the standby receives from its primary", {"": int(follows)})
    if primary:
        names = {f'{{standby="{name}"}}': name for name in peers}
        add("follower", "1 while the host follows", {k: int(n in streaming) for k, n in names.items()})
        waiting = {"": node["waiting_commits"]}
        add("waiting_commits", "Commits that wait for a synchronous standby", waiting)
        lag = {k: streaming[n]["lag_bytes"] or 0 for k, n in names.items() if n in streaming}
        add("follower_lag_bytes", "Bytes of log that a standby has not replayed", lag)
        kept = {f'{{slot="{slot["name"]}"}}': slot["retained_bytes"] or 0 for slot in slots}
        add("slot_retained_bytes", "Bytes of log that a slot holds back", kept)
        lost = {
            f'{{slot="{slot["name"]}"}}': int(slot["wal_status"] in ("lost", "unreserved")) for slot in slots
        }
        add("slot_lost", "1 when a slot has lost log that its standby needs, or is about to", lost)
    if node["certificate_expires_at"]:
        ends = datetime.fromisoformat(node["certificate_expires_at"]).timestamp()
        add("certificate_expires_timestamp_seconds", "When the server's certificate ends", {"": int(ends)})
    return "".join(lines)


def _answers(address: str) -> bool:
    """Whether a host takes a connection to its ssh port, or refuses it: either way it is there."""
    try:
        with socket.create_connection((address, SSH), timeout=1.5):
            return True
    except ConnectionRefusedError:
        return True
    except OSError:
        return False


def main() -> None:
    """Guard until stopped; the only argument is the file with the settings."""
    guard = Guard(json.loads(Path(sys.argv[1]).read_text()))
    while True:
        try:
            guard.step()
        except (ControlError, OSError, subprocess.SubprocessError) as error:
            print(f"guard: {error}", flush=True)
        time.sleep(INTERVAL_S)


if __name__ == "__main__":
    main()
