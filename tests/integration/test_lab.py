"""The lab itself, for real: boots two hosts as root, breaks them in every way and looks what is left.

Everything is asked of the outside world: ssh, ip, nft, mounts, control groups and the process list.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

LABCTL = Path(__file__).resolve().parents[2] / "lab" / "labctl"
NAME = "labtest"
HOSTS = """\
all:
  hosts:
    first: {ansible_host: 10.78.60.21, lab_memory_mb: 512}
    second: {ansible_host: 10.78.60.22, lab_disk_mb: 300}
"""


class Bench:
    """One lab under test."""

    def __init__(self, folder: Path) -> None:
        self.inventory = folder / NAME
        self.inventory.mkdir()
        (self.inventory / "hosts.yml").write_text(HOSTS)
        self.environment = {**os.environ, "STATIONKEEPER_STATE": str(folder / "state")}
        self.state = folder / "state" / "lab" / NAME

    def command(self, verb: str, *arguments: str) -> list[str]:
        """Command line of labctl for this lab."""
        return [str(LABCTL), verb, str(self.inventory), *arguments]

    def labctl(self, verb: str, *arguments: str) -> str:
        """Run labctl; it must succeed."""
        done = subprocess.run(
            self.command(verb, *arguments), env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def refused(self, verb: str, *arguments: str) -> str:
        """Run labctl; it must refuse; return its message."""
        done = subprocess.run(
            self.command(verb, *arguments), env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    def ssh(self, host: str, command: str, timeout: int = 3) -> subprocess.CompletedProcess[str]:
        """Run a command in a host over ssh, as ops."""
        options = ["-F", str(self.state / "ssh_config"), "-o", f"ConnectTimeout={timeout}"]
        return subprocess.run(
            ["ssh", *options, host, command], capture_output=True, text=True, check=False, timeout=60
        )

    def boot(self, host: str) -> str:
        """Identity of the boot that a host is in; empty while it cannot be asked."""
        return self.ssh(host, "cat /proc/sys/kernel/random/boot_id").stdout.strip()

    def host_state(self, host: str) -> dict[str, object]:
        """What `labctl status` says about a host."""
        hosts = json.loads(self.labctl("status", "--json"))["hosts"]
        return next(entry for entry in hosts if entry["name"] == host)


def wait_for(condition: Callable[[], bool], timeout_s: float = 120.0) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.2)


def left_over() -> dict[str, list[str]]:
    """Everything on this computer that could belong to the lab under test."""
    mark = NAME.encode()
    processes = []
    for folder in Path("/proc").iterdir():
        try:
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if folder.name.isdigit() and mark in line and (b"labkit" in line or b"nspawn" in line):
            processes.append(line.replace(b"\0", b" ").decode())
    links = json.loads(subprocess.check_output(["ip", "-j", "link"]))
    tables = subprocess.check_output(["nft", "list", "tables"], text=True).splitlines()
    machines = [p for p in Path("/sys/fs/cgroup").glob("*/sk-lab/*") if p.is_dir() and p.name in MACHINES]
    return {
        "processes": processes,
        "links": [i["ifname"] for i in links if i["ifname"].removeprefix("vb-") in {*MACHINES, f"sk-{NAME}"}],
        "tables": [table for table in tables if f"sk_lab_{NAME}" in table],
        "mounts": [m for m in Path("/proc/self/mounts").read_text().splitlines() if f"-lab/{NAME}/" in m],
        "groups": [str(path) for path in machines],
        "run": [str(p) for p in [Path("/run/stationkeeper-lab", NAME)] if p.exists()],
    }


MACHINES: set[str] = set()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    if os.geteuid() != 0:
        pytest.fail("the lab needs root")
    made = Bench(tmp_path_factory.mktemp("lab"))
    made.labctl("down", "--purge")
    made.labctl("up")
    MACHINES.update(e["machine"] for e in json.loads(made.labctl("status", "--json"))["hosts"])
    yield made
    made.labctl("down", "--purge")


def test_hosts_are_real(bench: Bench) -> None:
    done = bench.ssh(
        "first",
        "hostname; id -un; sudo -n id -u; systemctl is-system-running;"
        " ping -q -c1 -W2 second >/dev/null && echo ok; . /etc/os-release; echo $ID $VERSION_ID;"
        " stat -c %s /etc/machine-id; ls -d /var/log/journal/*",
    )
    lines = done.stdout.splitlines()
    assert lines[:7] == ["first", "ops", "0", "running", "ok", "debian 13", "33"]
    assert len(lines) == 8
    machine_ids = {bench.ssh(host, "cat /etc/machine-id").stdout for host in ("first", "second")}
    assert len(machine_ids) == 2


def test_root_cannot_log_in_and_a_wrong_host_key_is_refused(bench: Bench, tmp_path: Path) -> None:
    config = bench.state / "ssh_config"
    root = ["ssh", "-F", str(config), "-o", "BatchMode=yes", "-l", "root", "first", "true"]
    assert "Permission denied" in subprocess.run(root, capture_output=True, text=True, check=False).stderr
    lines = (bench.state / "known_hosts").read_text().splitlines()
    swapped = tmp_path / "known_hosts"
    first, second = (line.split(" ", 1) for line in lines)
    swapped.write_text(f"{first[0]} {second[1]}\n{second[0]} {first[1]}\n")
    wrong = ["ssh", "-F", str(config), "-o", f"UserKnownHostsFile={swapped}", "first", "true"]
    assert (
        "HOST IDENTIFICATION HAS CHANGED"
        in subprocess.run(wrong, capture_output=True, text=True, check=False).stderr
    )


def test_apt_works_through_the_cache(bench: Bench) -> None:
    done = bench.ssh(
        "first", "sudo apt-get update 2>&1 && sudo apt-get -q -y install tree 2>&1 && tree --version"
    )
    assert done.returncode == 0, done.stdout
    assert list(Path("/var/cache/stationkeeper-lab/apt").rglob("tree_*.deb"))


def test_a_limit_of_a_unit_is_enforced(bench: Bench) -> None:
    hog = "systemd-run --quiet --wait -p MemoryMax=50M python3 -c 'x = bytearray(200 * 1024 * 1024)'"
    assert bench.ssh("first", f"sudo {hog}").returncode != 0
    assert bench.ssh("first", f"sudo {hog.replace('50M', '400M')}").returncode == 0


def test_the_host_has_its_own_memory_limit(bench: Bench) -> None:
    hog = "python3 -c 'x = bytearray(700 * 1024 * 1024)'"
    assert bench.ssh("first", hog).returncode != 0
    assert bench.ssh("second", hog).returncode == 0


def test_up_again_leaves_running_hosts_alone(bench: Bench) -> None:
    before = [bench.boot(host) for host in ("first", "second")]
    assert "runs already" in bench.labctl("up")
    assert [bench.boot(host) for host in ("first", "second")] == before


def test_another_state_directory_gets_a_key_that_works(bench: Bench, tmp_path: Path) -> None:
    environment = {**bench.environment, "STATIONKEEPER_STATE": str(tmp_path)}
    subprocess.run(bench.command("up"), env=environment, check=True, capture_output=True)
    config = tmp_path / "lab" / NAME / "ssh_config"
    assert subprocess.run(["ssh", "-F", str(config), "first", "true"], check=False).returncode == 0


def test_reboot_from_inside(bench: Bench) -> None:
    before = bench.boot("first")
    bench.ssh("first", "sudo systemctl reboot")
    wait_for(lambda: bench.boot("first") not in ("", before))


def test_power_cut_heals_itself(bench: Bench) -> None:
    before = bench.boot("first")
    bench.ssh("first", "echo kept > ~/kept; sync")
    # Long enough for the two looks below, however slow this machine is.
    bench.labctl("power-cut", "first", "--for", "40")
    assert bench.host_state("first")["state"] == "power cut"
    assert bench.boot("first") == ""
    wait_for(lambda: bench.boot("first") not in ("", before))
    assert bench.ssh("first", "cat kept").stdout == "kept\n"


def test_poweroff_from_inside_stays_off_until_up(bench: Bench) -> None:
    def is_off() -> bool:
        # So soon after a boot sshd may turn a login away.
        bench.ssh("first", "sudo systemctl poweroff")
        return bench.host_state("first")["state"] == "off"

    wait_for(is_off)
    assert "answers ssh" in bench.labctl("up")
    assert bench.ssh("first", "cat kept").stdout == "kept\n"


def test_cut_heals_itself_and_leaves_the_control_node(bench: Bench) -> None:
    bench.labctl("cut", "first", "--for", "30")
    assert bench.ssh("first", "ping -q -c1 -W1 second").returncode != 0
    assert bench.ssh("second", "ping -q -c1 -W1 first").returncode != 0
    assert bench.ssh("first", "ping -q -c1 -W1 10.78.60.21").returncode == 0
    assert bench.host_state("first")["faults"]
    wait_for(lambda: bench.ssh("first", "ping -q -c1 -W1 second").returncode == 0)
    assert bench.host_state("first")["faults"] == []


def test_cut_from_the_control_node(bench: Bench) -> None:
    bench.labctl("cut", "first", "--for", "30", "--peer", "second", "--control")
    assert bench.boot("first") == ""
    wait_for(lambda: bench.boot("first") != "")


def test_freeze_heals_itself_though_the_caller_is_killed(bench: Bench) -> None:
    caller = subprocess.Popen(
        bench.command("freeze", "first", "--for", "30"), env=bench.environment, start_new_session=True
    )
    wait_for(lambda: bench.host_state("first")["faults"] != [])
    os.killpg(caller.pid, signal.SIGKILL)
    caller.wait()
    wait_for(lambda: bench.boot("first") != "")


def test_full_disk_heals_itself(bench: Bench) -> None:
    assert "has no disk of its own" in bench.refused("fill-disk", "first", "--for", "3")
    assert "not on the host's disk" in bench.refused("fill-disk", "second", "--for", "3", "--path", "/run")
    bench.labctl("fill-disk", "second", "--for", "30")
    write = "sudo dd if=/dev/zero of=/var/lib/probe bs=1M count=5"
    assert "No space left" in bench.ssh("second", write).stderr
    assert bench.ssh("second", "df --output=pcent / | tail -1").stdout.strip() == "100%"
    wait_for(lambda: bench.ssh("second", write).returncode == 0)


@pytest.mark.parametrize("victim", ["supervisor", "nspawn"])
def test_up_repairs_after_a_killed_part(bench: Bench, victim: str) -> None:
    note = json.loads(Path(f"/run/stationkeeper-lab/{NAME}/first/supervisor.json").read_text())
    pid = int(note["pid"])
    if victim == "nspawn":
        pid = int(subprocess.check_output(["pgrep", "-P", str(pid)], text=True))
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: bench.host_state("first")["state"] != "running")
    assert "answers ssh" in bench.labctl("up")
    assert bench.ssh("first", "cat kept").stdout == "kept\n"


def test_another_checkout_is_refused_and_named(bench: Bench, tmp_path: Path) -> None:
    note = Path(f"/run/stationkeeper-lab/{NAME}/lab.json")
    original = note.read_text()
    note.write_text(original.replace(str(LABCTL.parents[1]), "/elsewhere/stationkeeper"))
    try:
        message = bench.refused("up")
    finally:
        note.write_text(original)
    assert "/elsewhere/stationkeeper" in message
    assert f"labctl down {NAME}" in message


def test_exec_reaches_a_host_without_network(bench: Bench) -> None:
    bench.labctl("cut", "first", "--for", "30", "--control")
    assert bench.labctl("exec", "first", "--", "hostname").strip() == "first"
    bench.labctl("heal")
    assert bench.boot("first") != ""


def test_two_labctl_at_once_do_not_meet(bench: Bench) -> None:
    bench.labctl("down")
    both = [
        subprocess.Popen(bench.command("up"), env=bench.environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(output.count("answers ssh") for output in outputs) == [0, 2]


@pytest.mark.parametrize("delay_s", [0.3, 0.8])
def test_killed_up_then_up_again(bench: Bench, delay_s: float) -> None:
    bench.labctl("down")
    killed = subprocess.Popen(bench.command("up"), env=bench.environment, start_new_session=True)
    time.sleep(delay_s)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    bench.labctl("up")
    assert bench.ssh("second", "ping -q -c1 -W2 first").returncode == 0
    assert bench.ssh("first", "cat kept").stdout == "kept\n"


def test_fresh_starts_from_empty_disks(bench: Bench) -> None:
    bench.labctl("up", "--hosts", "first", "--fresh")
    assert bench.ssh("first", "cat kept").returncode != 0
    assert bench.ssh("second", "test -e /var/lib/probe").returncode == 0


def test_down_leaves_nothing_behind(bench: Bench) -> None:
    bench.labctl("freeze", "first", "--for", "600")
    assert all(left_over()[kind] for kind in ("processes", "links", "tables", "mounts", "groups", "run"))
    bench.labctl("down", "--purge")
    wait_for(lambda: left_over()["processes"] == [])
    assert {kind: found for kind, found in left_over().items() if found} == {}
    assert not Path("/var/lib/stationkeeper-lab", NAME).exists()
