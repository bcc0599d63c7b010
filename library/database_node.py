#!/usr/bin/python
"""Ansible module: a look at the PostgreSQL cluster of one host."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: database_node
short_description: Look at the PostgreSQL cluster of a host, whether it runs or not
description:
  - Says what the cluster is (primary, standby, stopped or absent), how far it is, whom it follows and who
    follows it.
  - Asks the server by psql when it runs, and C(pg_controldata) in any case. Reads only.
  - Never fails for a cluster that is broken or missing; RV(node.message) says what was found.
  - Runs as root or as postgres.
author: Stationkeeper maintainers
options:
  cluster:
    description: Name of the cluster. Of several versions the newest one that has data counts.
    type: str
    default: main
  port:
    description: Port of the server. By default the one of its configuration.
    type: int
requirements: [Debian's packages of PostgreSQL 15 or later where there is a cluster]
attributes:
  check_mode:
    description: Reads as always.
    support: full
  diff_mode:
    description: Nothing changes.
    support: none
"""

EXAMPLES = r"""
- name: Look at the database host
  database_node:
  check_mode: false
  register: database_look
"""

RETURN = r"""
node:
  description: What was found; every key is always there.
  type: dict
  returned: always
  contains:
    exists: {description: Whether there is a cluster with data., type: bool}
    running: {description: Whether its server runs., type: bool}
    role:
      description: C(absent) (no data), C(stopped), C(silent) (gives no answer), C(primary) or C(standby).
      type: str
    was: {description: C(primary) or C(standby), which it is or would start as., type: str}
    version: {description: Major version., type: int}
    port: {description: Port., type: int}
    data_directory: {description: Directory of the data., type: str}
    start: {description: What start.conf says (auto, manual or disabled)., type: str}
    system_identifier: {description: The same on all copies of one database., type: str}
    timeline: {description: Grows with every promotion., type: int}
    lsn: {description: End of its write-ahead log., type: str}
    checkpoint_lsn: {description: Where pg_controldata has the latest checkpoint., type: str}
    state: {description: State of the cluster by pg_controldata., type: str}
    replay_lsn: {description: How far a standby has replayed., type: str}
    last_commit_age_s: {description: Seconds since the newest commit that a standby has., type: float}
    upstream:
      description: Whom a standby is connected to - host, port, slot, status, received_lsn, message_age_s.
      type: dict
    replicas:
      description: Who follows - name, address, state, sync_state, flush_lsn, replay_lsn, lag_bytes.
      type: list
      elements: dict
    slots:
      description: Replication slots - name, type, active, wal_status, retained_bytes, safe_bytes.
      type: list
      elements: dict
    synchronous_standby_names: {description: The setting., type: str}
    oldest_transaction_s: {description: Age in seconds of the oldest open transaction., type: float}
    clients: {description: Number of sessions., type: int}
    waiting_commits: {description: Number of commits that wait for a synchronous standby., type: int}
    pending: {description: Settings that wait for a restart., type: list, elements: str}
    certificate_expires_at: {description: When the certificate of the server ends., type: str}
    message: {description: A sentence., type: str}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.database.cluster.node import look


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"cluster": {"type": "str", "default": "main"}, "port": {"type": "int"}},
        supports_check_mode=True,
    )
    module.exit_json(changed=False, node=look(module.params["cluster"], port=module.params["port"]))


if __name__ == "__main__":
    main()
