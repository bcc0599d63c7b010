"""Files, rules and command lines that the lab makes, and how it reads the computer it runs on."""

import subprocess
from pathlib import Path

import pytest

from labkit import (
    cgroups,
    clone,
    disk_fill,
    image,
    inventory,
    keys,
    machine,
    network,
    prerequisites,
    supervisor,
)
from labkit.errors import LabError

LAB = inventory.build(
    "flux",
    "/inventories/flux",
    {"wlce": {"ansible_host": "10.78.10.21"}, "hmce": {"ansible_host": "10.78.10.22", "lab_memory_mb": 256}},
)
WLCE = LAB.host("wlce")


def test_nspawn_command() -> None:
    command = machine.nspawn_command(machine.of_host("flux", WLCE))
    assert command[0] == "systemd-nspawn"
    assert command[-1] == "/usr/local/sbin/lab-init"
    assert f"--machine={WLCE.machine}" in command
    assert {"--hostname=wlce", "--network-bridge=sk-flux", "--register=no", "--keep-unit"} <= set(command)
    # Without -b the kill signal must be given, or the host would not shut down cleanly.
    assert "--kill-signal=SIGRTMIN+3" in command


def test_ssh_is_strict() -> None:
    command = machine.ssh_command(Path("/a state"), "10.78.10.21", "true")
    assert "StrictHostKeyChecking=yes" in command
    assert 'UserKnownHostsFile="/a state/known_hosts"' in command
    assert command[-2:] == ["ops@10.78.10.21", "true"]


def test_network_file() -> None:
    text = clone.render_network("10.78.10.21", "10.78.10.1")
    assert "Name=host0" in text
    assert "Address=10.78.10.21/24" in text
    assert "Gateway=10.78.10.1" in text


def test_hosts_file_keeps_foreign_lines_and_replaces_its_own() -> None:
    first = clone.render_hosts(LAB, WLCE, "127.0.0.1 localhost\n")
    assert first.splitlines()[0] == "127.0.0.1 localhost"
    assert "10.78.10.22 hmce" in first
    edited = first + "192.168.1.1 printer\n"
    again = clone.render_hosts(LAB, WLCE, edited)
    assert again.count("hmce") == 1
    assert "192.168.1.1 printer" in again
    assert "localhost" in clone.render_hosts(LAB, WLCE, "")


def test_rules_are_in_tables_of_the_lab_only() -> None:
    rules = network.render_rules("flux", "10.78.10.0/24")
    tables = [line for line in rules.splitlines() if line.startswith("table")]
    assert tables == ["table ip sk_lab_flux {", "table bridge sk_lab_flux {"]
    assert "10.78.10.0/24" in rules


def test_cut_elements() -> None:
    assert network.cut_elements("vb-a", None, False) == [("cut", '"vb-a"')]
    assert network.cut_elements("vb-a", "vb-b", True) == [
        ("cut_pair", '"vb-a" . "vb-b"'),
        ("cut_pair", '"vb-b" . "vb-a"'),
        ("cut_control", '"vb-a"'),
    ]


def test_name_servers_behind_a_local_stub_are_not_given_to_hosts() -> None:
    text = "# x\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 192.0.2.53\nsearch a\n"
    assert network.nameservers(text) == ["192.0.2.53"]


def test_known_hosts_and_ssh_config() -> None:
    text = keys.render_known_hosts({WLCE: "ssh-ed25519 AAAA"})
    assert text == "wlce,10.78.10.21 ssh-ed25519 AAAA\n"
    config = keys.render_ssh_config(LAB, Path("/a state"))
    assert "Host wlce\n    HostName 10.78.10.21\n" in config
    assert 'IdentityFile "/a state/id_ed25519"' in config
    assert "StrictHostKeyChecking yes" in config


def test_key_is_made_once(tmp_path: Path) -> None:
    state = tmp_path / "lab" / "flux"
    first = keys.ensure_key(state)
    assert keys.ensure_key(state) == first
    assert (state / "id_ed25519").stat().st_mode & 0o077 == 0


def test_control_node_key_is_added_once(tmp_path: Path) -> None:
    folder = tmp_path / "home/ops/.ssh"
    folder.mkdir(parents=True)
    (folder / "authorized_keys").write_text("ssh-ed25519 BBBB other\n")
    for _ in range(2):
        clone.trust_key(tmp_path, "ssh-ed25519 AAAA lab")
    assert (folder / "authorized_keys").read_text() == "ssh-ed25519 BBBB other\nssh-ed25519 AAAA lab\n"


MOUNTS_1 = """\
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/cpuset cgroup rw,cpuset 0 0
cgroup /sys/fs/cgroup/freezer cgroup rw,freezer 0 0
cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0
cgroup /other/place cgroup rw 0 0
"""


def test_trees_of_version_1() -> None:
    trees = cgroups.parse_mounts(MOUNTS_1)
    assert trees.version == 1
    assert trees.path("cpu", "m") == Path("/sys/fs/cgroup/cpu,cpuacct/sk-lab/m")
    assert trees.path("memory", "m") is None
    assert len(trees.folders("m")) == 4  # no cpuset, nothing outside /sys/fs/cgroup


def test_trees_of_version_2() -> None:
    trees = cgroups.parse_mounts("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n")
    assert trees.version == 2
    assert trees.path("memory", "m") == Path("/sys/fs/cgroup/sk-lab/m")
    with pytest.raises(LabError, match="no control groups"):
        cgroups.parse_mounts("proc /proc proc rw 0 0\n")


def test_limits_of_version_2(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    trees = cgroups.Trees(2, (("unified", str(tmp_path)),))
    cgroups.create(trees, "m", 100)
    assert (tmp_path / "sk-lab/m/memory.max").read_text() == str(100 * 1024 * 1024)
    assert (tmp_path / "sk-lab/cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    cgroups.freeze(trees, "m", True)
    assert (tmp_path / "sk-lab/m/cgroup.freeze").read_text() == "1"


def test_namespace_pids() -> None:
    assert cgroups.namespace_pids("Name:\tsystemd\nNSpid:\t812\t1\n") == [812, 1]
    assert cgroups.namespace_pids("Name:\tx\n") == []


@pytest.mark.parametrize(
    ("status", "stopping", "power_back", "step"),
    [
        (133, False, None, "boot"),
        (0, False, None, "end"),
        (1, False, None, "end"),
        (1, False, 12.0, "wait"),
        (133, True, None, "end"),
        (1, True, 12.0, "end"),
    ],
)
def test_what_follows_the_end_of_a_machine(
    status: int, stopping: bool, power_back: float | None, step: str
) -> None:
    assert supervisor.next_step(status, stopping, power_back) == step


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('ID=debian\nVERSION_ID="12"\n', None),
        ('ID=debian\nVERSION_ID="13"\n', None),
        ('ID=debian\nVERSION_ID="11"\nPRETTY_NAME="Debian 11"\n', "this is Debian 11"),
        ('ID=ubuntu\nVERSION_ID="24.04"\nPRETTY_NAME="Ubuntu 24.04"\n', "this is Ubuntu 24.04"),
        ("", "an unknown system"),
    ],
)
def test_operating_systems(text: str, problem: str | None) -> None:
    found = prerequisites.system_problem(text)
    assert found is None if problem is None else problem in str(found)


def test_missing_packages_and_space_are_all_named_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(prerequisites, "PROGRAMS", {"no-such-1": "one", "no-such-2": "two", "sh": "dash"})
    monkeypatch.setattr(prerequisites, "BASE_MB", 10**9)
    with pytest.raises(LabError) as caught:
        prerequisites.check(3, tmp_path, tmp_path / "not" / "there")
    assert "apt-get install --no-install-recommends one two" in str(caught.value)
    assert "MB are wanted for 3 hosts" in str(caught.value)


def test_place_of_a_disk_filler_must_be_on_the_disk(tmp_path: Path) -> None:
    (tmp_path / "var/lib").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "var/run").symlink_to("/run")
    mounts = "1 0 0:1 / / rw - overlay x rw\n2 1 0:2 / /run rw - tmpfs x rw\n"
    disk_fill.check_place(tmp_path, "/var/lib", mounts)
    for path, words in (
        ("/run", "not on the host's disk"),
        ("/var/run", "a link"),
        ("/nowhere", "not a folder"),
        ("var", "absolute"),
        ("/var/../run", "without '..'"),
    ):
        with pytest.raises(LabError, match=words):
            disk_fill.check_place(tmp_path, path, mounts)


def test_image_identity_follows_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    before = image.recipe_hash()
    assert before == image.recipe_hash()
    monkeypatch.setattr(image, "PACKAGES", (*image.PACKAGES, "nano"))
    assert image.recipe_hash() != before
    assert "nano" in " ".join(image.build_command("out.tar", "hook"))


@pytest.mark.parametrize("script", [image.LAB_INIT, image.CUSTOMIZE])
def test_scripts_of_the_image_parse(script: str) -> None:
    assert subprocess.run(["sh", "-n"], input=script, text=True, check=False).returncode == 0
