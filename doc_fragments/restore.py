"""Documentation of the options of stationkeeper.restore.arguments."""


class ModuleDocFragment:
    """For modules that restore on the database host."""

    DOCUMENTATION = r"""
options:
  stanza:
    description: pgBackRest's name for the cluster.
    type: str
    required: true
  programs:
    description: Directory of the programs of PostgreSQL's version, as C(/usr/lib/postgresql/17/bin).
    type: path
    required: true
  data_directory:
    description: Data directory of the live cluster.
    type: path
    required: true
  config_file:
    description: The live cluster's C(postgresql.conf). Its libraries are loaded by what is restored too.
    type: path
    required: true
  backrest_config:
    description: Configuration of pgBackRest that leads to the repository.
    type: path
    default: /etc/pgbackrest/pgbackrest.conf
  account:
    description: Whose the clusters are. Programs are run as it when the module runs as root.
    type: str
    default: postgres
  jobs:
    description: How many processes restore and check at the same time.
    type: int
    default: 2
"""

    REQUEST = r"""
options:
  recover_to:
    description:
      - V(end) for everything that is archived, V(immediate) for a backup as it was when it ended, or a time
        in RFC 3339 with its offset from UTC for what had been committed by then.
      - V(end) when left out, and V(immediate) with O(backup).
    type: str
  backup:
    description: Label of the backup to begin with. The newest that ended before the target when left out.
    type: str
  timeout_s:
    description: Seconds that recovery may take.
    type: int
    default: 86400
  accept_short_hours:
    description:
      - Do not fail for hours of devices that have fewer rows than their coverage has on record, where rows
        were deleted on purpose before the target. They are in the evidence either way.
    type: bool
    default: false
"""
