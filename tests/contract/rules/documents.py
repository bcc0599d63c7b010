"""Rules for documentation: generated pages are current, and commands in prose exist."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

from ansible.parsing.splitter import parse_kv

from stationkeeper import cli
from stationkeeper.runbooks import documentation
from stationkeeper.runbooks.catalogue import Runbook

_FENCE = re.compile(r"^```(?:sh|bash|console|shell)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:make|stationkeeper|lab/labctl|ansible-playbook) [^`\n]+)`")
_TARGET = re.compile(r"^([a-z][a-z-]*):", re.MULTILINE)


def page_problems(root: Path, runbooks: list[Runbook]) -> list[str]:
    """Generated pages that are missing, stale or left over."""
    return documentation.stale_pages(root, documentation.all_pages(root, runbooks))


def commands_in(path: Path) -> list[str]:
    """The commands that a page tells the reader to type."""
    text = path.read_text(encoding="utf-8")
    lines = [
        line.strip().removeprefix("$ ").removeprefix("sudo ")
        for block in _FENCE.findall(text)
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return [line for line in lines if line and not line.startswith("#")] + _INLINE.findall(text)


def _loose_words(command: str) -> list[str]:
    """Extra variables of a command of which Ansible reads only the first word."""
    try:
        words = shlex.split(command)
    except ValueError:
        return []
    given = [value for option, value in pairwise(words) if option in ("-e", "--extra-vars")]
    return [one for one in given if one[:1] not in ("{", "@") and "_raw_params" in parse_kv(one)]


def command_problems(root: Path, path: Path) -> list[str]:
    """Commands on a page that call something that does not exist."""
    where = str(path.relative_to(root))
    makefile = root / "Makefile"
    targets = set(_TARGET.findall(makefile.read_text(encoding="utf-8"))) if makefile.is_file() else set()
    problems = []
    for command in commands_in(path):
        words = [word for word in command.split() if not re.match(r"^[A-Z_]+=", word)]
        if len(words) < 2:
            continue
        program, first = words[0], words[1]
        if program == "make" and re.match(r"^[a-z]", first) and first not in targets:
            problems.append(f"{where}: `make {first}` is no target of the Makefile")
        # The table of sub-commands is the only list of them.
        own = program == "stationkeeper" or program.endswith("bin/stationkeeper")
        if own and re.match(r"^[a-z]", first) and first not in cli._COMMANDS:
            problems.append(f"{where}: `stationkeeper {first}` is no command")
        if program == "ansible-playbook":
            problems += [
                f"{where}: {word} does not exist"
                for word in words
                if re.match(r"^playbooks/[a-z0-9_]+\.yml$", word) and not (root / word).is_file()
            ]
            problems += [f"{where}: `{given}` needs inner quotes" for given in _loose_words(command)]
        tool = re.match(r"^[a-z]+/", program)
        if tool and not (root / program).exists():
            problems.append(f"{where}: {program} does not exist")
    return problems
