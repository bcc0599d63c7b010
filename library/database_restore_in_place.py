#!/usr/bin/python
"""Ansible module: a restore of the database in place of the live cluster."""

from __future__ import annotations

DOCUMENTATION = r"""
module: database_restore_in_place
short_description: Restore the database in place of the live cluster, which is kept
description:
  - Runs on a database host, as postgres or root, while the live server is down - the caller stops it before
    and starts it afterwards. Puts the data directory aside under a dated name, restores into a new one,
    recovers it to the target in a private server that no client reaches, and proves the target and the data.
  - When the target is not reached or the data are wrong, the old directory goes back and the module fails.
  - The old directory is never deleted. A restore that broke off is begun again and keeps the same directory.
  - Standbys of the cluster follow another history afterwards and have to be cloned again.
version_added: "0.5.0"
author: Stationkeeper
options: {}
extends_documentation_fragment: [restore, restore.request]
attributes:
  check_mode:
    description: Says which backup it would restore and whether there is room; the target itself is not tried.
    support: full
  diff_mode:
    description: Shows the directory that is live.
    support: none
requirements: [pgBackRest 2.45 or later, python3-psycopg2]
"""

EXAMPLES = r"""
- name: Restore the stopped cluster to what it was before the accident
  database_restore_in_place:
    recover_to: 2026-01-31T11:59:30Z
    stanza: flux
    programs: /usr/lib/postgresql/17/bin
    data_directory: /var/lib/postgresql/17/main
    config_file: /etc/postgresql/17/main/postgresql.conf
  become: true
  become_user: postgres
"""

RETURN = r"""
message:
  description: What was done, in one sentence.
  returned: success
  type: str
kept:
  description: Where the old directory is; empty in check mode.
  returned: success
  type: str
  sample: /var/lib/postgresql/17/main.20260131T121500Z
backup:
  description: Label of the backup.
  returned: success
  type: str
target:
  description: The evidence of the target, as of M(database_restore).
  returned: when something was restored
  type: dict
data:
  description: The evidence of the data, as of M(database_restore).
  returned: when something was restored
  type: dict
undone:
  description: Whether the old directory is live again.
  returned: when the module fails after it had begun
  type: bool
"""

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.stationkeeper.restore.arguments import INSTALLATION, REQUEST, installation
from ansible.module_utils.stationkeeper.restore.in_place import InPlace
from ansible.module_utils.stationkeeper.restore.request import RestoreError, parse_request


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={**INSTALLATION, **REQUEST}, supports_check_mode=True)
    params, evidence = module.params, {}
    place = InPlace(installation(params))
    try:
        request = parse_request(params["recover_to"], params["backup"])
        backup = place.check(request)
        if module.check_mode:
            message = f"would restore {request} from backup {backup.label} of {backup.size >> 20} MiB"
            module.exit_json(changed=True, message=message, kept="", backup=backup.label)
        kept, verdict, proof = place.restore(
            request, timeout_s=params["timeout_s"], accept_short_hours=params["accept_short_hours"]
        )
        evidence = {"target": verdict.evidence, "data": proof.evidence}
        if not verdict.reached or proof.problems:
            raise RestoreError("; ".join(proof.problems) or verdict.message)
        place.settle()
    except ImportError as error:
        module.fail_json(
            msg=missing_required_lib("psycopg2 (Debian: python3-psycopg2)"), exception=repr(error)
        )
    except RestoreError as error:
        undone = False
        try:
            undone = place.undo() is not None
        except (RestoreError, OSError) as second:
            module.fail_json(msg=f"{error}. The old directory could not be put back: {second}", **evidence)
        back = ". The old directory is in its place again" if undone else ""
        module.fail_json(msg=f"{error}{back}", undone=undone, **evidence)
    module.exit_json(changed=True, message=verdict.message, kept=str(kept), backup=backup.label, **evidence)


if __name__ == "__main__":
    main()
