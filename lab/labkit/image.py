"""The base image: Debian 13 as a normal small server, built once and shared by all hosts of all labs."""

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from labkit.errors import LabError
from labkit.paths import CACHE
from labkit.record import lock_file, read_json
from labkit.shell import run

SUITE = "trixie"
BUILD_WAIT_S = 900.0
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
PACKAGES = (
    "ca-certificates",
    "dbus",
    "iproute2",
    "iputils-ping",
    "less",
    "libpam-systemd",
    "linux-sysctl-defaults",
    "netbase",
    "openssh-server",
    "procps",
    "python3",
    "python3-apt",
    "sudo",
    "systemd",
    "systemd-sysv",
    "tzdata",
)

SOURCES = f"""\
Types: deb
URIs: http://deb.debian.org/debian
Suites: {SUITE} {SUITE}-updates
Components: main
Signed-By: {KEYRING}

Types: deb
URIs: http://security.debian.org/debian-security
Suites: {SUITE}-security
Components: main
Signed-By: {KEYRING}
"""

# systemd-nspawn mounts the controllers of version 1 read-only, and systemd then ignores MemoryMax= and its
# like in silence. On pure version 2 there is nothing to remount.
LAB_INIT = """\
#!/bin/sh
for tree in /sys/fs/cgroup/*/; do
    mount -o remount,rw,bind "$tree" 2>/dev/null || :
done
exec /usr/lib/systemd/systemd "$@"
"""

# Runs in the fresh tree, as the last step of the build.
CUSTOMIZE = """\
set -eu
cd "$1"
rm -f etc/apt/sources.list etc/ssh/ssh_host_* var/lib/dbus/machine-id etc/hostname etc/resolv.conf
: > etc/machine-id
echo LANG=C.UTF-8 > etc/default/locale
ln -s /etc/machine-id var/lib/dbus/machine-id
install -d -m 2755 var/log/journal
chroot . useradd --create-home --shell /bin/bash --comment 'Operations' ops
install -d -m 0700 -o "$(stat -c %u home/ops)" -g "$(stat -c %g home/ops)" home/ops/.ssh
chroot . passwd --lock root >/dev/null
chroot . systemctl --quiet enable systemd-networkd.service ssh.service
chroot . systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer
chroot . systemctl --quiet mask console-getty.service getty@tty1.service
"""

# What one task of Ansible costs a host is mostly the compiling of its module.
CODE_CACHE = (Path(__file__).parent / "host" / "lab_code_cache.py").read_text()
# Without bytecode of its own: check mode must not find a file that it has not written.
LOAD_CODE_CACHE = (
    "import sys; kept = sys.dont_write_bytecode; sys.dont_write_bytecode = True; "
    "import lab_code_cache; sys.dont_write_bytecode = kept\n"
)
DIST_PACKAGES = "usr/lib/python3/dist-packages"

FILES = {
    "etc/apt/sources.list.d/debian.sources": (0o644, SOURCES),
    "etc/sudoers.d/ops": (0o440, "ops ALL=(ALL:ALL) NOPASSWD: ALL\n"),
    # The disks are thrown away with the lab, so dpkg need not wait for them.
    "etc/dpkg/dpkg.cfg.d/lab": (0o644, "force-unsafe-io\n"),
    "usr/local/sbin/lab-init": (0o755, LAB_INIT),
    f"{DIST_PACKAGES}/lab_code_cache.py": (0o644, CODE_CACHE),
    f"{DIST_PACKAGES}/lab_code_cache.pth": (0o644, LOAD_CODE_CACHE),
}


def recipe_hash() -> str:
    """Identity of the recipe: another recipe is another image."""
    text = repr((SUITE, PACKAGES, CUSTOMIZE, sorted(FILES.items())))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def build_command(output: str, hook: str) -> list[str]:
    """Command line that builds the image as a tarball."""
    return [
        "mmdebstrap",
        "--quiet",
        "--variant=minbase",
        f"--include={','.join(PACKAGES)}",
        f"--keyring={KEYRING}",
        f"--customize-hook=sh {hook} $1",
        SUITE,
        output,
        f"deb http://deb.debian.org/debian {SUITE} main",
        f"deb http://deb.debian.org/debian {SUITE}-updates main",
        f"deb http://security.debian.org/debian-security {SUITE}-security main",
    ]


def tree() -> Path:
    """Folder of the unpacked image."""
    return CACHE / f"base-{recipe_hash()}"


def ensure() -> tuple[Path, float]:
    """Build and unpack the image where it is missing; return its folder and the seconds it took."""
    begin = time.monotonic()
    with lock_file(CACHE / "base.lock", "the base image", BUILD_WAIT_S):
        folder = tree()
        if folder.is_dir():
            return folder, 0.0
        tarball = CACHE / f"base-{recipe_hash()}.tar"
        if not tarball.is_file():
            _build(tarball)
        _unpack(tarball, folder)
    return folder, time.monotonic() - begin


def _build(tarball: Path) -> None:
    print(f"building the base image (Debian 13, about half a minute, once): {tarball}", flush=True)
    _remove_leftovers()
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=".build-") as work:
        Path(work).chmod(0o755)  # apt downloads as its own user
        part = Path(work) / "base.tar"
        hook = Path(work) / "customize.sh"
        hook.write_text(CUSTOMIZE)
        done = subprocess.run(
            build_command(str(part), str(hook)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "TMPDIR": work},
        )
        if done.returncode != 0:
            raise LabError(
                f"building the base image failed; is there a way to deb.debian.org?\n{done.stderr}"
            )
        part.replace(tarball)


def _remove_leftovers() -> None:
    """Remove what killed builds left; first anything that is still mounted in there."""
    for folder in CACHE.glob(".build-*"):
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        for place in reversed([line.split()[4] for line in lines]):
            if place.startswith(f"{folder}/"):
                run("umount", place)
        shutil.rmtree(folder)


def _unpack(tarball: Path, folder: Path) -> None:
    for old in CACHE.glob(".base-*.part"):
        shutil.rmtree(old)
    part = CACHE / f".{folder.name}.part"
    part.mkdir(mode=0o755)
    run("tar", "-C", str(part), "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf", str(tarball))
    for name, (mode, content) in FILES.items():
        file = part / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        file.chmod(mode)
    part.rename(folder)


def remove_unused(disks: Path) -> None:
    """Remove images of older recipes that no host's disk stands on."""
    used = {tree().name}
    for marker in disks.glob("*/*/clone.json"):
        content = read_json(marker)
        if isinstance(content, dict):
            used.add(str(content.get("base")))
    with lock_file(CACHE / "base.lock", "the base image"):
        for folder in CACHE.glob("base-*"):
            name = folder.name.removesuffix(".tar")
            if name in used:
                continue
            if folder.is_dir():
                shutil.rmtree(folder)
            elif folder.suffix == ".tar":
                folder.unlink()
