"""The repository's runbooks on this machine: a copy with an inventory of the test's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from postgres_cluster import PASSWORD
from telemetry_database import ROOT


class LocalProject:
    """A copy of the runbooks; every host of its inventory is this machine, without another account."""

    def __init__(self, path: Path, variables: Mapping[str, Any], groups: Mapping[str, Any]) -> None:
        """``groups`` has the hosts of each group with their variables."""
        self.path = path
        self.output = ""
        #: More variables of the environment of a run.
        self.environment: dict[str, str] = {}
        for name in ("action_plugins", "filter_plugins", "src", "roles", "library"):
            (path / name).symlink_to(ROOT / name)
        shutil.copytree(ROOT / "playbooks", path / "playbooks", symlinks=True)
        shutil.copy(ROOT / "ansible.cfg", path)
        common = {
            "ansible_connection": "local",
            "ansible_become": False,
            "ansible_python_interpreter": "{{ ansible_playbook_python }}",
            "runbook_lock_directory": str(path / "locks"),
            **variables,
        }
        children = {group: {"hosts": dict(hosts)} for group, hosts in groups.items()}
        (path / "hosts.yml").write_text(yaml.safe_dump({"all": {"vars": common, "children": children}}))

    def replace(self, runbook: str, old: str, new: str) -> None:
        """Replace what needs a machine of its own in a runbook."""
        file = self.path / f"playbooks/{runbook}.yml"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    def run(self, runbook: str, *arguments: str, **inputs: Any) -> int:
        """Run a runbook; its output is kept with its white space folded."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
        environment = {
            **kept,
            **self.environment,
            "PYTHONPATH": str(ROOT / "src"),
            "ANSIBLE_NOCOLOR": "1",
            # No vault is opened, and Ansible takes no empty list: some file as a password.
            "ANSIBLE_VAULT_IDENTITY_LIST": f"none@{__file__}",
            "ANSIBLE_CONFIG": str(self.path / "ansible.cfg"),
            "STATIONKEEPER_STATE": str(self.path / "state"),
            "STATIONKEEPER_AUDIT_SPOOL": str(self.path / "spool"),
        }
        program = str(Path(sys.executable).parent / "ansible-playbook")
        command = [program, "-i", "hosts.yml", f"playbooks/{runbook}.yml", "-e", json.dumps(inputs)]
        done = subprocess.run(
            [*command, *arguments],
            cwd=self.path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        self.output = " ".join((done.stdout + done.stderr).split())
        assert "DEPRECATION" not in self.output
        assert PASSWORD not in self.output
        return done.returncode

    @property
    def changed(self) -> bool:
        """Whether a task of the last run changed anything."""
        recap = self.output.split("PLAY RECAP")[1].split()
        return any(part.startswith("changed=") and part != "changed=0" for part in recap)
