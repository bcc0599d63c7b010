"""The arguments of modules that restore or dump: where the live cluster is, and how to reach its repository.

Standard library only: Ansible ships this file to the database host.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .programs import Installation

INSTALLATION: dict[str, Any] = {
    "stanza": {"type": "str", "required": True},
    "programs": {"type": "path", "required": True},
    "data_directory": {"type": "path", "required": True},
    "config_file": {"type": "path", "required": True},
    "backrest_config": {"type": "path", "default": "/etc/pgbackrest/pgbackrest.conf"},
    "account": {"type": "str", "default": "postgres"},
    "jobs": {"type": "int", "default": 2},
}
#: What is asked for, in words.
REQUEST: dict[str, Any] = {
    "recover_to": {"type": "str"},
    "backup": {"type": "str"},
    "timeout_s": {"type": "int", "default": 86400},
    "accept_short_hours": {"type": "bool", "default": False},
}


def installation(params: Mapping[str, Any]) -> Installation:
    """Return the installation that a module's INSTALLATION options describe."""
    return Installation(
        programs=Path(params["programs"]),
        data=Path(params["data_directory"]),
        configuration=Path(params["config_file"]),
        stanza=params["stanza"],
        backrest=(f"--config={params['backrest_config']}",),
        jobs=params["jobs"],
        account=params["account"],
    )
