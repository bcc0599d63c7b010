"""The disk of one host: a cheap clone of the base image, and the files that make it this host."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from labkit import paths
from labkit.errors import LabError
from labkit.inventory import Host, Lab
from labkit.record import read_json, write_json
from labkit.shell import run, succeeds

PROXY_PORT = 3142
HOSTS_BEGIN = "# lab hosts begin"
HOSTS_END = "# lab hosts end"


@dataclass(frozen=True)
class Disk:
    """Places of a host's disk."""

    home: Path

    @property
    def root(self) -> Path:
        """The mounted tree that the machine sees."""
        return self.home / "root"

    @property
    def image(self) -> Path:
        """Image of a disk of limited size."""
        return self.home / "disk.img"

    @property
    def image_mount(self) -> Path:
        """Where that image is mounted."""
        return self.home / "disk"

    @property
    def marker(self) -> Path:
        """Tells what the disk was made from, and that it is complete."""
        return self.home / "clone.json"

    @property
    def log(self) -> Path:
        """What the machine writes to its console."""
        return self.home / "console.log"


def disk(lab: str, host: str) -> Disk:
    """Places of the disk of a host."""
    return Disk(paths.disk_directory(lab) / host)


def render_network(address: str, gateway: str) -> str:
    """systemd-networkd file with the host's fixed address."""
    return f"""\
[Match]
Name=host0

[Network]
Address={address}/24
Gateway={gateway}
LinkLocalAddressing=no
IPv6AcceptRA=no
"""


def render_hosts(lab: Lab, host: Host, before: str) -> str:
    """/etc/hosts with a block of all hosts of the lab; lines outside the block are kept."""
    kept: list[str] = []
    inside = False
    for line in before.splitlines():
        if line == HOSTS_BEGIN:
            inside = True
        elif line == HOSTS_END:
            inside = False
        elif not inside:
            kept.append(line)
    if not kept:
        kept = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    own = [f"{host.address} {host.name}"]
    others = [f"{other.address} {other.name}" for other in lab.hosts if other.name != host.name]
    return "\n".join([*kept, HOSTS_BEGIN, *own, *others, HOSTS_END]) + "\n"


def render_apt(gateway: str) -> str:
    """apt settings: the lab's cache for http, patience while it fetches, no translations."""
    return f"""\
Acquire::http::Proxy "http://{gateway}:{PROXY_PORT}";
Acquire::http::Timeout "120";
Acquire::https::Proxy "DIRECT";
Acquire::Languages "none";
"""


def render_sshd(gateway: str) -> str:
    """sshd settings. The control node often knocks without logging in: sshd must not lock it out for that."""
    return f"""\
PermitRootLogin no
PasswordAuthentication no
PerSourcePenaltyExemptList {gateway}
"""


def render_resolv(nameservers: list[str]) -> str:
    """resolv.conf with the given name servers."""
    return "".join(f"nameserver {server}\n" for server in nameservers)


def is_mounted(path: Path) -> bool:
    """Say whether something is mounted at a place."""
    return any(line.split()[4] == str(path) for line in Path("/proc/self/mountinfo").read_text().splitlines())


def unmount(host_disk: Disk) -> None:
    """Take the tree of a machine that is down off; a stale mount gives way as well."""
    for place in (host_disk.root, host_disk.image_mount):
        for _ in range(50):
            if not is_mounted(place):
                break
            if not succeeds("umount", str(place)):
                time.sleep(0.1)
        else:
            raise LabError(f"{place} cannot be unmounted: something still uses it (fuser -vm {place})")


def delete(host_disk: Disk) -> None:
    """Delete the disk of a host that is down."""
    unmount(host_disk)
    if host_disk.home.exists():
        shutil.rmtree(host_disk.home)


def prepare(lab: Lab, host: Host, base: Path, fresh: bool) -> bool:
    """Make (or reuse) and mount the disk of a host that is down; True when it is new."""
    place = disk(lab.name, host.name)
    unmount(place)
    known = read_json(place.marker)
    complete = isinstance(known, dict) and bool(known.get("complete"))
    if fresh or not complete:
        delete(place)
        known = {"base": base.name, "disk_mb": host.disk_mb, "complete": False}
    assert isinstance(known, dict)
    if known["disk_mb"] != host.disk_mb:
        raise LabError(
            f"{host.name}: lab_disk_mb is {host.disk_mb} but its disk was made with {known['disk_mb']}; "
            "start it anew with --fresh"
        )
    lower = paths.CACHE / str(known["base"])
    if not lower.is_dir():
        raise LabError(f"{host.name}: its base image {lower} is gone; start it anew with --fresh")
    new = not known["complete"]
    if new:
        write_json(place.marker, known)
    _mount(place, lower, host.disk_mb)
    if new:
        _personalise(lab, host, place.root)
        write_json(place.marker, {**known, "complete": True})
    return new


def _mount(place: Disk, lower: Path, disk_mb: int | None) -> None:
    storage = place.home
    if disk_mb is not None:
        storage = place.image_mount
        storage.mkdir(parents=True, exist_ok=True)
        if not place.image.exists():
            with place.image.open("wb") as image:
                image.truncate(disk_mb * 1024 * 1024)
            run("mkfs.ext4", "-q", "-F", "-m", "0", str(place.image))
        run("mount", "-o", "loop,nodev", str(place.image), str(storage))
    for folder in (storage / "upper", storage / "work", place.root):
        folder.mkdir(parents=True, exist_ok=True)
    options = f"lowerdir={lower},upperdir={storage / 'upper'},workdir={storage / 'work'}"
    run("mount", "-t", "overlay", "sk-lab", "-o", options, str(place.root))


def _personalise(lab: Lab, host: Host, root: Path) -> None:
    """What is set once, when the host is made: its name and its ssh identity."""
    (root / "etc/hostname").write_text(host.name + "\n")
    key = root / "etc/ssh/ssh_host_ed25519_key"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"root@{host.name}", "-f", str(key))


def refresh(lab: Lab, host: Host, public_key: str, nameservers: list[str]) -> None:
    """What may differ from boot to boot: addresses, neighbours, name servers and the control node's key."""
    root = disk(lab.name, host.name).root
    hosts = root / "etc/hosts"
    write_if_other(hosts, render_hosts(lab, host, hosts.read_text() if hosts.exists() else ""))
    write_if_other(root / "etc/systemd/network/10-lab.network", render_network(host.address, lab.gateway))
    write_if_other(root / "etc/apt/apt.conf.d/00lab", render_apt(lab.gateway))
    write_if_other(root / "etc/ssh/sshd_config.d/10-lab.conf", render_sshd(lab.gateway))
    resolv = root / "etc/resolv.conf"
    if not resolv.is_symlink():
        write_if_other(resolv, render_resolv(nameservers))
    trust_key(root, public_key)


def write_if_other(path: Path, content: str) -> None:
    """Write a file only when its content differs."""
    if not path.exists() or path.read_text() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def trust_key(root: Path, public_key: str) -> None:
    """Let the control node's key log in as ops."""
    folder = root / "home/ops/.ssh"
    file = folder / "authorized_keys"
    lines = file.read_text().splitlines() if file.exists() else []
    if public_key in lines:
        return
    file.write_text("\n".join([*lines, public_key]) + "\n")
    owner = folder.stat()
    file.chmod(0o600)
    shutil.chown(file, owner.st_uid, owner.st_gid)


def host_key(lab: str, host: str) -> str | None:
    """Public ssh key of a host, read from its disk; None while it is not mounted."""
    file = disk(lab, host).root / "etc/ssh/ssh_host_ed25519_key.pub"
    if not file.is_file():
        return None
    return " ".join(file.read_text().split()[:2])
