"""Updates that wait, by what apt says, and what runs on with what was replaced."""

from __future__ import annotations

import re

import pytest

from stationkeeper.patching.updates import (
    Update,
    complete_at,
    figures,
    newest,
    outdated,
    parse,
    restarts,
    split,
)

SIMULATED = """
Reading package lists...
Inst libssl3t64 [3.5.1-1] (3.5.4-1~deb13u1 Debian-Security:13/stable-security, Debian:13.2/stable [amd64])
Inst postgresql-17 [17.5-1] (17.6-1 Debian-Security:13/stable-security [amd64])
Inst tzdata [2025a-1] (2025b-1 Debian:13.2/stable [all]) []
Inst linux-image-6.12.48-amd64 (6.12.48-1 Debian-Security:13/stable-security [amd64])
Inst local [1] (2 localhost [all])
Conf libssl3t64 (3.5.4-1~deb13u1 Debian-Security:13/stable-security [amd64])
"""
UPDATES = parse(SIMULATED)
SSL = Update("libssl3t64", "3.5.1-1", "3.5.4-1~deb13u1", security=True)
MAPS = "7f00-7f01 r-xp 00000000 fe:01 1 /usr/lib/x86_64-linux-gnu/libssl.so.3"


def test_what_apt_would_install_is_read() -> None:
    assert [update.package for update in UPDATES] == [
        "libssl3t64",
        "linux-image-6.12.48-amd64",
        "local",
        "postgresql-17",
        "tzdata",
    ]
    assert UPDATES[0] == SSL
    assert UPDATES[1].before == ""
    assert [update.package for update in UPDATES if not update.security] == ["local", "tzdata"]
    assert parse("Reading package lists...\n") == []


def test_what_is_excluded_or_no_security_update_is_left() -> None:
    found = split(UPDATES, security_only=True, exclude=["postgresql-"])
    assert [update.package for update in found.wanted] == ["libssl3t64", "linux-image-6.12.48-amd64"]
    assert [update.package for update in found.left] == ["local", "postgresql-17", "tzdata"]
    assert split(UPDATES, security_only=False, exclude=[]).left == ()
    with pytest.raises(re.error):
        split(UPDATES, security_only=True, exclude=["("])


def test_the_newest_kernel_is_the_newest_by_number() -> None:
    assert newest(["6.12.9-amd64", "6.12.48-amd64", "6.1.99-amd64"]) == "6.12.48-amd64"
    assert newest([]) == ""


def test_who_runs_on_with_a_library_that_was_replaced_is_named() -> None:
    service = "0::/system.slice/redis-server.service"
    worker = "0::/system.slice/system-postgresql.slice/postgresql@17-main.service"
    inner = "0::/system.slice/bess_controller.service/worker"
    gone = f"{MAPS} (deleted)\n"
    units = {"1": service, "2": service, "3": worker, "4": inner, "5": "0::/"}
    maps = {"1": f"{MAPS}\n", "2": gone, "3": gone, "4": gone, "5": gone}
    stale = outdated(maps, units)
    assert stale == ["bess_controller.service", "postgresql@17-main.service", "redis-server.service"]
    assert restarts(stale) == (
        ["bess_controller.service", "redis-server.service"],
        ["postgresql@17-main.service"],
    )
    # What a program itself deletes is no update.
    assert outdated({"1": "7f00-7f01 rw-s 00000000 00:05 1 /memfd:x (deleted)\n"}, units) == []
    assert outdated({"1": "7f00-7f01 rw-s 00000000 00:05 1 /tmp/x (deleted)\n"}, units) == []


def test_the_baseline_is_kept_until_nothing_waits() -> None:
    text = figures(2, 5, reboot=True, complete_at=1_800_000_000.4)
    assert 'stationkeeper_updates_pending{scope="security"} 2\n' in text
    assert "stationkeeper_updates_reboot_required 1\n" in text
    assert complete_at(text) == 1_800_000_000
    assert complete_at("") == 0
