#!/usr/bin/python
"""Ansible module: keep, and read back, checksummed backups of a station's configuration."""

from __future__ import annotations

DOCUMENTATION = r"""
module: station_archive
short_description: Save a station's configuration in a checksummed archive on the control node, or read one
description:
  - Runs on the control node. Every archive is read back and checked after it was written.
  - Archives are not encrypted and hold no secrets; the connection to the database is not in them.
version_added: "0.2.0"
author: Stationkeeper
options:
  directory:
    description: Directory of the archives, with a folder for each station.
    type: path
    required: true
  station:
    description: The host that the archive is of.
    type: str
    required: true
  state:
    description: V(saved) writes an archive unless the newest one is equal; V(read) returns what one holds.
    type: str
    choices: [saved, read]
    required: true
  files:
    description: Texts of the configuration by path. For V(saved).
    type: dict
  evidence:
    description: Texts that are kept for the record and never restored. For V(saved).
    type: dict
    default: {}
  about:
    description: What else the archive says of itself. For V(saved).
    type: dict
    default: {}
  keep:
    description: Number of archives that stay for each station.
    type: int
    default: 30
  path:
    description: The archive. For V(read); left out, the station's newest.
    type: path
attributes:
  check_mode:
    description: Says whether an archive would be written; reading is the same.
    support: full
  diff_mode:
    description: An archive has no readable difference.
    support: none
"""

EXAMPLES = r"""
- name: Keep the configuration
  station_archive:
    state: saved
    directory: /srv/stationkeeper/.state/backups
    station: wlce
    files: {config.yaml: "site: WLCE"}
  delegate_to: localhost
"""

RETURN = r"""
path:
  description: The archive. Empty in check mode when a new one would be written.
  returned: success
  type: str
about:
  description: What the archive says of itself.
  returned: O(state=read)
  type: dict
files:
  description: Texts of the configuration by path.
  returned: O(state=read)
  type: dict
evidence:
  description: Texts that are not restored, by path.
  returned: O(state=read)
  type: dict
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

try:
    from stationkeeper.rollout import archive
except ImportError:
    archive = None  # type: ignore[assignment]  # reported below, with how to install it


def _read(directory: Path, station: str, path: str | None) -> dict[str, Any]:
    chosen = Path(path) if path else archive.newest(directory, station)
    if chosen is None:
        raise archive.ArchiveError(
            f"{directory} holds no backup of {station}; name one with -e archive=<path>"
        )
    backup = archive.load(chosen)
    if backup.station != station:
        raise archive.ArchiveError(f"{chosen} is a backup of {backup.station}, not of {station}")
    return {
        "changed": False,
        "path": str(chosen),
        "about": backup.about,
        "files": backup.files,
        "evidence": backup.evidence,
    }


def _save(directory: Path, params: dict[str, Any], *, dry_run: bool) -> dict[str, Any]:
    moment = datetime.now(UTC)
    about = {
        "station": params["station"],
        "taken_at": moment.isoformat(timespec="seconds"),
        **params["about"],
    }
    backup = archive.Backup(about, params["files"], params["evidence"])
    last = archive.newest(directory, backup.station)
    if dry_run:
        same = last is not None and archive.equal(last, backup)
        return {"changed": not same, "path": str(last) if same else ""}
    path, written = archive.save(directory, backup, moment.strftime("%Y%m%dT%H%M%SZ"), params["keep"])
    archive.load(path)
    return {"changed": written, "path": str(path)}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "station": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["saved", "read"], "required": True},
            "files": {"type": "dict"},
            "evidence": {"type": "dict", "default": {}},
            "about": {"type": "dict", "default": {}},
            "keep": {"type": "int", "default": 30},
            "path": {"type": "path"},
        },
        required_if=[("state", "saved", ["files"])],
        supports_check_mode=True,
    )
    if archive is None:
        module.fail_json(msg="the stationkeeper package is missing on the control node: run `make setup`")
    params = module.params
    directory = Path(params["directory"])
    try:
        if params["state"] == "read":
            module.exit_json(**_read(directory, params["station"], params["path"]))
        module.exit_json(**_save(directory, params, dry_run=module.check_mode))
    except (archive.ArchiveError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
