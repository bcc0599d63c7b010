"""Plain ssh without Ansible: one command on one station, with an end to every wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from stationkeeper.stopping.bundle import Ssh

# ssh itself ends with 255; everything else is the command's own code.
_NO_LOGIN = 255
_CONNECT_S = 5
_KNOCK_S = 2.0
# A login costs the processor much more than a Modbus write; more of them at once only delay each other.
_AT_ONCE = 32
_OPTIONS = (
    "BatchMode=yes",
    f"ConnectTimeout={_CONNECT_S}",
    "ControlMaster=no",
    "ControlPath=none",
    "PreferredAuthentications=publickey",
    "ServerAliveInterval=3",
    "ServerAliveCountMax=2",
    "LogLevel=ERROR",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command gave. ``reached`` is false when there was no login, or no end in time."""

    reached: bool
    code: int
    output: str
    error: str


def command_line(ssh: Ssh, command: str) -> list[str]:
    """Return the words of the ssh command; the fleet's ssh clients leave the processor to the Modbus path."""
    words = ["nice", "-n", "5", "ssh", "-T", "-p", str(ssh.port)]
    for option in _OPTIONS:
        words += ["-o", option]
    if ssh.user:
        words += ["-l", ssh.user]
    if ssh.key_file:
        words += ["-i", ssh.key_file]
    return [*words, *ssh.options, "--", ssh.host, command]


async def run_over_ssh(ssh: Ssh, command: str, text: str, timeout_s: float) -> Answer:
    """Run a shell command on a station with ``text`` as its standard input. Never raises for the network."""
    return await run_words(command_line(ssh, command), text, timeout_s)


async def run_words(words: Sequence[str], text: str, timeout_s: float) -> Answer:
    """Run a program here; code 255 is ssh's own for "no login"."""
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        return Answer(False, _NO_LOGIN, "", f"{words[0]}: {error.strerror}")
    try:
        async with asyncio.timeout(timeout_s):
            output, complaint = await process.communicate(text.encode())
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        return Answer(False, _NO_LOGIN, "", f"no end within {timeout_s:g} s")
    code = process.returncode if process.returncode is not None else _NO_LOGIN
    message = complaint.decode(errors="replace").strip()
    return Answer(code != _NO_LOGIN, code, output.decode(errors="replace"), message)


class Logins:
    """Limits how many logins run at once, and keeps dead stations from taking the place of living ones."""

    def __init__(self) -> None:
        self._answering = asyncio.Semaphore(_AT_ONCE)
        self._silent = asyncio.Semaphore(_AT_ONCE)

    async def run(self, ssh: Ssh, command: str, text: str, timeout_s: float) -> Answer:
        """Do what `run_over_ssh` does, when it is this station's turn."""
        # A station behind a jump host does not answer a knock either: it is asked all the same.
        async with self._answering if await _knock(ssh) else self._silent:
            return await run_over_ssh(ssh, command, text, timeout_s)


async def _knock(ssh: Ssh) -> bool:
    try:
        async with asyncio.timeout(_KNOCK_S):
            _, writer = await asyncio.open_connection(ssh.host, ssh.port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
