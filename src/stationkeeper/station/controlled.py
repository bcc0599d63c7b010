"""Put a release in force under the eyes of the health gate, and put the one before it back when it fails.

The same for both kinds of release: a package version (the unit is restarted) and a configuration (it is
reloaded). Runs on the station with nothing but its python3 (standard library only).
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from . import gate, trial
from .service import Runner, ask

#: Names of the slots: the package's version, and the configuration.
PACKAGE = "package"
CONFIG = "config"
#: How long the release that was put back is watched, in seconds.
_PROOF_S = 5.0
#: What a controller needs to start and to take its first sample, beside the sample's own interval, in
#: seconds.
_START_S = 15.0


class SwitchError(Exception):
    """The release is not in force.

    ``reason`` says what was wrong with it; ``in_charge`` whether the release that was put back proved itself,
    None when nothing had been switched.
    """

    def __init__(self, message: str, reason: str = "", *, in_charge: bool | None = None) -> None:
        super().__init__(message)
        self.reason = reason or message
        self.in_charge = in_charge

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for Ansible."""
        rolled_back = self.in_charge is not None
        return {
            "msg": f"{'Rolled back' if rolled_back else 'Refused, nothing was switched'}: {self}",
            "rolled_back": rolled_back,
            "reason": self.reason,
            "in_charge": self.in_charge,
        }


@dataclass(frozen=True)
class Checked:
    """What the package says of a configuration: hash when merged, sample interval, what needs a restart."""

    config_hash: str
    poll_interval_s: float
    start_hash: str


@dataclass(frozen=True)
class Controller:
    """The controller's unit on this station, and how to look at it."""

    unit: str
    metrics_url: str
    devices: tuple[str, ...]
    times: gate.Times
    run_id: str
    run: Runner = ask
    sleep: Callable[[float], None] = time.sleep

    def see(self) -> gate.Sight:
        """Look at it now."""
        return gate.see(self.unit, self.metrics_url)

    def runs(self) -> bool:
        """Whether systemd keeps it running, also while it waits for its next start."""
        return self.see().unit.active in ("active", "reloading", "activating")


@dataclass(frozen=True)
class Change:
    """A switch to make: the link's new target, what must be in force with it, and what with the one
    before."""

    slot: trial.Slot
    release: str
    after: Checked
    before: Checked
    restart: bool


def check(program: Path, config: Path, override: Path, profiles: Path, run: Runner = ask) -> Checked:
    """Validate a merged configuration with the package's own checker. Raises SwitchError with its words."""
    command = [str(program), "controller", "check-config", "--json"]
    files = ["--config", str(config), "--override", str(override), "--profiles", str(profiles)]
    code, text = run([*command, *files])
    if code != 0:
        raise SwitchError(f"the configuration is not valid: {text}")
    answer = json.loads(text)
    return Checked(answer["hash"], answer["poll_interval_s"], answer["start_hash"])


def switch(controller: Controller, change: Change) -> dict[str, Any]:
    """Switch, watch, and keep the release or put the one before it back; returns the evidence.

    Where no controller runs there is nothing to watch: the link is switched and that is recorded.
    Raises SwitchError when the release was put back.
    """
    if not controller.runs():
        trial.point(change.slot.link, change.release)
        trial.record(change.slot, "installed", "no controller runs yet", release=change.release)
        return {"watched_s": 0.0, "release": change.release}
    seen = controller.see()
    with _ended_by_signals():
        started = trial.begin(change.slot, change.release, controller.run_id)
        try:
            trial.point(change.slot.link, change.release)
            wanted = change.release, change.after
            seconds = _prove(controller, change, seen, wanted, controller.times.watch_s)
        except (SwitchError, trial.TrialError, OSError) as error:
            raise _put_back(controller, change, seen, started, str(error)) from error
        trial.passed(change.slot, f"in charge for {seconds:g} s")
    return {"watched_s": seconds, "release": change.release, "before": started.before}


def _prove(
    controller: Controller, change: Change, seen: gate.Sight, side: tuple[str, Checked], watch_s: float
) -> float:
    """Let the controller take a release up, and watch it; returns the seconds. Raises SwitchError."""
    release, checked = side
    now = controller.see().unit
    restart = change.restart or now.active != "active" or now.pid != seen.unit.pid
    _systemctl(controller, "restart" if restart else "reload")
    # What a new process tells is new; a reloaded one still tells the samples from before.
    base = replace(controller.see(), metrics=None) if restart else seen
    age_s = 3 * checked.poll_interval_s + 5
    wanted = gate.Wanted(
        checked.config_hash,
        Path(release).name if change.slot.name == PACKAGE else None,
        gate.required_devices(seen, controller.devices, 3 * change.before.poll_interval_s + 5),
        age_s,
    )
    # A release that asks for a sample once an hour does not get an hour to prove itself.
    settle_s = min(checked.poll_interval_s + _START_S, controller.times.settle_s)
    judge = gate.Gate(wanted, gate.Times(watch_s, settle_s), base)
    verdict, seconds = gate.watch(judge, controller.see, controller.sleep)
    if not verdict.passed:
        raise SwitchError("; ".join(verdict.problems))
    return seconds


def _put_back(
    controller: Controller, change: Change, seen: gate.Sight, started: trial.Trial, reason: str
) -> SwitchError:
    """Put the release before back and prove it; returns the error that says what happened."""
    trial.failed(change.slot, reason)
    message = f"{reason}. Put back {Path(started.before).name}"
    try:
        _prove(controller, change, seen, (started.before, change.before), _PROOF_S)
    except SwitchError as error:
        return SwitchError(f"{message}, but it is not in charge either: {error}", reason, in_charge=False)
    return SwitchError(f"{message}, which is in charge again", reason, in_charge=True)


def _systemctl(controller: Controller, verb: str) -> None:
    code, text = controller.run(["systemctl", verb, controller.unit])
    if code != 0:
        raise SwitchError(f"systemctl {verb} {controller.unit}: {text}")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let the end of the watching run put the release before back, instead of leaving one without proof."""

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)
        raise SwitchError(f"the run that watched was ended by {signal.Signals(number).name}")

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
