"""Names of labs, machines and network devices, and the rules they must obey.

Linux allows 15 characters for a network device and systemd-nspawn calls a machine's device `vb-<machine>`,
so a machine name has at most 12. Two labs may both have a host of the same name, so the machine name starts
with a tag of the lab; inside the machine the host name is the plain one.
"""

import hashlib
import re

from labkit.errors import LabError

LAB_NAME = re.compile(r"[a-z](?:[a-z0-9-]{0,10}[a-z0-9])?")
HOST_NAME = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
PLAIN_LENGTH = 8


def check_lab_name(name: str) -> str:
    """Return the name when it can name a bridge and a firewall table, else raise `LabError`."""
    if not LAB_NAME.fullmatch(name):
        raise LabError(
            f"'{name}' cannot name a lab: the inventory's folder name must have 1 to 12 characters, "
            "only a-z, 0-9 and '-', and start with a letter (it names the network bridge 'sk-<lab>')"
        )
    return name


def check_host_name(name: str) -> str:
    """Return the name when it is a host name of one label, else raise `LabError`."""
    if not HOST_NAME.fullmatch(name):
        raise LabError(f"'{name}' cannot name a host: only a-z, 0-9 and '-', starting with a letter")
    return name


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def machine_name(lab: str, host: str) -> str:
    """Name of the machine: unique among all labs of this computer, at most 12 characters."""
    short = host if len(host) <= PLAIN_LENGTH else host[:4].rstrip("-") + _digest(host, 4)
    return f"{_digest(lab, 3)}-{short}"


def bridge_name(lab: str) -> str:
    """Name of the lab's network bridge."""
    return f"sk-{lab}"


def port_name(machine: str) -> str:
    """Name of the machine's network device on the bridge, as systemd-nspawn makes it."""
    return f"vb-{machine}"


def table_name(lab: str) -> str:
    """Name of the lab's nftables tables (a '-' is not allowed there)."""
    return "sk_lab_" + lab.replace("-", "_")


def bridge_mac(lab: str) -> str:
    """A fixed, locally administered hardware address: it must not change when ports come and go."""
    digest = _digest(lab, 10)
    return "02:" + ":".join(digest[i : i + 2] for i in range(0, 10, 2))


def machine_prefix(lab: str) -> str:
    """What the names of all machines of a lab start with."""
    return _digest(lab, 3) + "-"
