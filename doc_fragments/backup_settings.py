"""The option of modules that work on the repository of database backups."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation of ``settings``."""

    DOCUMENTATION = r"""
options:
  settings:
    description: The file that role C(pgbackrest) wrote on the repository host.
    type: path
    default: /etc/stationkeeper/backup.json
"""
