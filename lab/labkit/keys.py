"""The control node's side of ssh: a key pair for each lab, known_hosts and an ssh configuration."""

from pathlib import Path

from labkit.inventory import Host, Lab
from labkit.shell import run


def ensure_key(state: Path) -> str:
    """Make the lab's key pair where it is missing; return the public key."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = state / "id_ed25519"
    if not key.exists():
        run(
            "ssh-keygen",
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-C",
            f"stationkeeper lab {state.name}",
            "-f",
            str(key),
        )
    return (state / "id_ed25519.pub").read_text().strip()


def render_known_hosts(keys: dict[Host, str]) -> str:
    """known_hosts lines, each for the name and the address of a host."""
    return "".join(f"{host.name},{host.address} {key}\n" for host, key in keys.items())


def render_ssh_config(lab: Lab, state: Path) -> str:
    """Configuration for `ssh -F <file> <host>`."""
    lines = [f"Host {host.name}\n    HostName {host.address}\n" for host in lab.hosts]
    return "\n".join(lines) + (
        f'\nHost *\n    User ops\n    IdentityFile "{state / "id_ed25519"}"\n    IdentitiesOnly yes\n'
        f'    UserKnownHostsFile "{state / "known_hosts"}"\n    StrictHostKeyChecking yes\n'
    )


def write(lab: Lab, state: Path, keys: dict[Host, str]) -> None:
    """Write known_hosts and the ssh configuration of a lab."""
    for name, content in (
        ("known_hosts", render_known_hosts(keys)),
        ("ssh_config", render_ssh_config(lab, state)),
    ):
        part = state / f".{name}.part"
        part.write_text(content)
        part.replace(state / name)
