"""Calls of nft, what stands beside a rule, and the addresses that it can name.

Standard library only: Ansible ships this file with the modules that use it.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from ..files import write_atomically

NFT = "/usr/sbin/nft"
_TIMEOUT_S = 30


#: Rules that last for this part of what is asked for are kept, so that a repeated run changes nothing.
_ENOUGH = 0.9


class NftError(RuntimeError):
    """The rules are not in force as asked for; the message says why and what to do."""


def lasts(until: int, wanted: int, now: int) -> bool:
    """Whether rules that end at one moment are good for somebody who asks for another; seconds since 1970."""
    return until - now >= _ENOUGH * (wanted - now)


def quotable(note: str) -> str:
    """Return a note as it can stand in the comment of a rule."""
    return re.sub(r"[^\w.:-]", "_", note)


def comment(until: int, note: str) -> str:
    """Return what the kernel keeps beside a rule with an end: when, and by which run."""
    return f"until {datetime.fromtimestamp(until, tz=UTC):%Y-%m-%dT%H:%M:%SZ}, run {note}"


def removed(table: str) -> str:
    """Return what takes a table of family inet away, whether it is there or not."""
    return f"table inet {table}\ndelete table inet {table}\n"


def load(path: Path, text: str) -> None:
    """Put rules in force, and into the file that is loaded at boot. Raises NftError, OSError.

    What boots in between has the new ones, which is what was asked for.
    """
    path.parent.mkdir(mode=0o755, exist_ok=True)
    write_atomically(path, text, mode=0o644)
    nft("--file", path)


def nft(*words: str | Path, given: str | None = None) -> str:
    """Run nft as root, with a file on its standard input where one is given. Raises NftError."""
    command = [NFT, *map(str, words)]
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S
        )
    except FileNotFoundError:
        raise NftError(f"{NFT} is missing: converge the host with playbooks/site.yml") from None
    except subprocess.CalledProcessError as error:
        raise NftError(f"nft refuses the rules: {error.stderr.strip()}") from None
    except subprocess.TimeoutExpired as error:
        raise NftError(f"which rules are in force is not known: {error}") from None
    return done.stdout


def addresses(name: str) -> list[str]:
    """Return the addresses, or the network, of a name. Raises NftError where it has none."""
    try:
        return [str(ipaddress.ip_network(name, strict=False))]
    except ValueError:
        pass
    try:
        return sorted({str(one[4][0]).partition("%")[0] for one in socket.getaddrinfo(name, None)})
    except OSError as error:
        raise NftError(f"nobody here knows the address of {name}: name it by its address ({error})") from None
