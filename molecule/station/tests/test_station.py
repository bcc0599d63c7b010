"""What role station leaves on a Raspberry Pi, and its package, seen from outside."""

from __future__ import annotations

from typing import Any

PROGRAM = "/opt/stationkeeper/venv/bin/stationkeeper"


def test_the_package_runs_without_internet_libraries_of_the_system(host: Any) -> None:
    assert host.run(f"{PROGRAM} --help").rc == 0
    assert not host.package("python3-venv").is_installed
    assert not host.package("python3-pip").is_installed


def test_the_release_is_chosen_by_a_link(host: Any) -> None:
    link = host.file("/opt/stationkeeper/venv")
    assert link.is_symlink
    assert link.linked_to.startswith("/opt/stationkeeper/releases/")
    assert (link.user, host.file(link.linked_to).user) == ("root", "root")


def test_nobody_else_can_change_the_package(host: Any) -> None:
    assert host.check_output("find /opt/stationkeeper ! -type l -perm /022 | head -1") == ""


def test_the_uart_is_free_and_the_rest_of_the_command_line_is_untouched(host: Any) -> None:
    line = host.file("/boot/firmware/cmdline.txt").content_string
    assert line == "console=tty1 root=PARTUUID=abcd-02 rootfstype=ext4 fsck.repair=yes rootwait\n"


def test_the_firmware_starts_the_watchdog_for_every_model(host: Any) -> None:
    lines = host.file("/boot/firmware/config.txt").content_string.splitlines()
    own = lines[lines.index("# BEGIN stationkeeper") + 1 : lines.index("# END stationkeeper")]
    assert own == ["[all]", "dtparam=watchdog=on", "enable_uart=1", "dtoverlay=disable-bt"]
    assert lines[:3] == ["dtparam=audio=on", "[cm4]", "otg_mode=1"]


def test_the_watchdog_is_in_force(host: Any) -> None:
    assert host.check_output("systemctl show -P RuntimeWatchdogUSec") == "15s"


def test_serial_ports_have_names(host: Any) -> None:
    rules = host.file("/etc/udev/rules.d/60-stationkeeper-serial.rules").content_string.replace("\\\n", "")
    lines = [" ".join(line.split()) for line in rules.splitlines() if line and not line.startswith("#")]
    assert lines == [
        'SUBSYSTEM=="tty", ENV{ID_SERIAL_SHORT}=="FT4XYZ01", '
        'SYMLINK+="station/bms", GROUP="dialout", MODE="0660"',
        'SUBSYSTEM=="tty", ENV{ID_PATH}=="platform-3f980000.usb-usb-0:1.3:1.0", '
        'SYMLINK+="station/meter", GROUP="dialout", MODE="0660"',
    ]


def test_swap_lies_in_memory_only(host: Any) -> None:
    assert "Mechanism=zram" in host.file("/etc/rpi/swap.conf.d/50-stationkeeper.conf").content_string
    assert host.file("/etc/systemd/system/dphys-swapfile.service").linked_to == "/dev/null"
