"""What the journals of hosts tell, by the runbooks."""

from __future__ import annotations

import re

from system import LabSystem


def test_errors_are_counted_by_what_they_say(flux: LabSystem) -> None:
    station = flux.stations[0]
    for number in (1, 2, 3):
        flux.on_host(station, "logger", "--priority=user.err", f"inverter {number} of the test is broken")
    flux.on_host(station, "logger", "--priority=user.info", "inverter 4 of the test is well")
    play = flux.playbook("log_errors", {"target": station, "hours": 1})
    assert play.code == 0, play.output[-3000:]
    assert re.search(r" 3 x \S+, last \S+: inverter 3 of the test is broken", play.output)
    assert "is well" not in play.output


def test_cycles_are_told_of_every_device(flux: LabSystem) -> None:
    play = flux.playbook("log_cycle_time", {"target": "all"})
    # The tests before made devices slow on purpose.
    assert play.code == 0 or "slow: " in play.output, play.output[-3000:]
    for station in flux.stations:
        assert re.search(rf"{station.upper()}-BESS-01: \d+ cycles, mean 0.\d+ s, max", play.output)
