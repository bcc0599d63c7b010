"""Rules for the repository as a whole."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

#: What must never be committed.
MUST_BE_IGNORED = (
    ".state/audit/x.jsonl",
    ".state/lab/flux/id_ed25519",
    ".venv/bin/python",
    "inventories/flux/group_vars/all/secrets.yml",
    "inventories/abbanoa/group_vars/all/secrets.yml",
    "inventories/flux/group_vars/all/vault_password.age",
    "inventories/flux/group_vars/all/vault_password.age.next",
    "inventories/flux/group_vars/all/vault_recipients.txt",
)
_NO_HOST_KEYS = re.compile(
    r"StrictHostKeyChecking[= ]+(no|accept-new|off)\b|host_key_checking\s*=\s*(false|no|0)\b"
    r"|ANSIBLE_HOST_KEY_CHECKING['\"]?\s*[=:,]\s*['\"]?(false|no|0)\b|UserKnownHostsFile[= ]+/dev/null",
    re.IGNORECASE,
)
_TEXT_LIMIT = 1_000_000


def host_key_problems(root: Path, files: list[Path]) -> list[str]:
    """Places where host keys are not checked. Tests of this rule and prose may name the setting."""
    return [
        f"{path.relative_to(root)}:{text[: match.start()].count(chr(10)) + 1}: host-key checking must stay on"
        for path in files
        if path.suffix != ".md" and "tests/contract/" not in str(path)
        for text in [_text(path)]
        for match in _NO_HOST_KEYS.finditer(text)
    ]


def ignore_problems(root: Path) -> list[str]:
    """Paths that .gitignore does not keep out."""
    problems = []
    for name in MUST_BE_IGNORED:
        done = subprocess.run(["git", "check-ignore", "-q", "--no-index", name], cwd=root, check=False)
        if done.returncode != 0:
            problems.append(f".gitignore does not keep out {name}")
    return problems


def pin_problems(requirements: Path, collections: Path) -> list[str]:
    """requirements.yml must pin what the `ansible` package brings."""
    document: dict[str, Any] = yaml.safe_load(requirements.read_text(encoding="utf-8"))
    problems = []
    for entry in document.get("collections") or []:
        name, version = str(entry["name"]), str(entry.get("version", ""))
        manifest = collections / name.replace(".", "/") / "MANIFEST.json"
        if not manifest.is_file():
            problems.append(f"requirements.yml: {name} is not in the installed `ansible` package")
            continue
        installed = json.loads(manifest.read_text(encoding="utf-8"))["collection_info"]["version"]
        if version != installed:
            problems.append(
                f"requirements.yml pins {name} {version or 'to nothing'}; installed is {installed}"
            )
    return problems


def scenario_secret_problems(scenario: Path) -> list[str]:
    """Secrets that a molecule scenario uses and does not define: it borrows files of real inventories.

    Where it is found late, it is in the middle of the whole test run.
    """
    files = [Path(place) / name for place, _, names in os.walk(scenario, followlinks=True) for name in names]
    text = "\n".join(file.read_text(encoding="utf-8") for file in sorted(files) if file.suffix == ".yml")
    defined = set(re.findall(r"^ *(secret_\w+):", text, re.MULTILINE))
    return [
        f"molecule/{scenario.name} uses {name} and does not define it"
        for name in sorted(set(re.findall(r"\bsecret_\w+", text)) - defined)
        # There while a secret is rotated, and only then.
        if not name.endswith(("_next", "_before", "_suffix"))
    ]


def _text(path: Path) -> str:
    if path.stat().st_size > _TEXT_LIMIT:
        return ""
    return path.read_text(encoding="utf-8", errors="replace")
