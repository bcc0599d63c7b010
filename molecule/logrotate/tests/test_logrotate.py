"""A forced rotation on a real host: the writer comes to the new file, and no line is lost."""

from __future__ import annotations

import time
from typing import Any

LOGS = "/var/log/bess_controller"
LOG = f"{LOGS}/controller.log"


def rotate(host: Any) -> None:
    host.run_expect([0], "logrotate --force /etc/logrotate.d/bess_controller")


def numbers(host: Any) -> list[int]:
    """Return the numbers in all files, oldest file first."""
    everything = host.check_output(
        f"for f in $(ls {LOGS} | sort --version-sort --reverse); do zcat --force {LOGS}/$f; done"
    )
    return [int(line) for line in everything.splitlines()]


def test_the_writer_comes_to_the_new_file(host: Any) -> None:
    host.run_expect(
        [0], f"systemctl stop bess_controller && rm -f {LOGS}/* && systemctl start bess_controller"
    )
    time.sleep(0.5)
    rotate(host)
    assert host.file(f"{LOG}.1").exists
    time.sleep(0.3)
    rotated, first = host.file(f"{LOG}.1").size, host.file(LOG).size
    time.sleep(0.5)
    assert host.file(LOG).size > first, "nothing is written to the new file"
    assert host.file(f"{LOG}.1").size == rotated, "the writer still writes to the rotated file"
    created = host.file(LOG)
    assert (created.user, created.group, created.mode) == ("bess_controller", "bess_controller", 0o640)


def test_the_file_before_the_last_is_compressed_and_no_line_is_lost(host: Any) -> None:
    rotate(host)
    time.sleep(0.3)
    assert host.file(f"{LOG}.1").exists
    assert host.file(f"{LOG}.2.gz").exists
    written = numbers(host)
    assert written == list(range(1, len(written) + 1))
    assert len(written) > 20


def test_a_writer_that_is_left_behind_is_noticed(host: Any) -> None:
    """The role's check must be able to fail: here the file is moved away without a signal."""
    pid = host.check_output("systemctl show --property=MainPID --value bess_controller")
    host.run_expect([0], f"mv {LOG} {LOG}.9")
    held = host.check_output(f"readlink /proc/{pid}/fd/*")
    host.run_expect([0], f"mv {LOG}.9 {LOG}")
    assert f"{LOG}.9" in held


def test_the_timer_runs_daily(host: Any) -> None:
    assert host.service("logrotate.timer").is_running
    assert host.service("logrotate.timer").is_enabled
