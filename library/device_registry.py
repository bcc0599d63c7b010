#!/usr/bin/python
"""Ansible module: converge the device registry to a list of devices."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: device_registry
short_description: Converge the device registry of a database to a list of devices
description:
  - Inserts devices and updates name, profile, cadence, times and metadata in C(flux.mg_device_registry).
  - Never deletes what has a history. An active device that the list does not name is reported as unlisted;
    give a device C(active_to) to retire it.
  - Refuses to change the type or the site of a device, a name that belongs to another identifier, and a
    device that is retired.
  - In check mode a database or table that does not exist yet counts as empty.
extends_documentation_fragment: [database_host]
options:
  devices:
    description: The rows, as the filter C(stationkeeper_registry_rows) returns them.
    type: list
    elements: dict
    required: true
  state:
    description:
      - V(present) inserts and updates.
      - V(absent) takes back rows that a failed run has just inserted. The database refuses a row that is
        older than an hour, or retired.
    type: str
    choices: [present, absent]
    default: present
  complete:
    description: Whether O(devices) is every device of the system, so that others are reported as unlisted.
    type: bool
    default: true
requirements: [python3-psycopg2]
attributes:
  check_mode:
    support: full
    description: Lists what would change and changes nothing.
  diff_mode:
    support: full
    description: Shows the changed rows before and after.
author: Stationkeeper maintainers
"""

EXAMPLES = r"""
- name: Register the devices
  device_registry:
    database: flux
    devices: "{{ hostvars | stationkeeper_registry_rows(groups['stations'], stationkeeper_system) }}"
  become: true
  become_user: postgres
"""

RETURN = r"""
inserted:
  description: Names of the devices that were (or would be) inserted.
  type: list
  elements: str
  returned: always
forgotten:
  description: Names of the devices whose rows were (or would be) taken back.
  type: list
  elements: str
  returned: when O(state=absent)
updated:
  description: Names of the devices that were (or would be) updated.
  type: list
  elements: str
  returned: always
unchanged:
  description: Number of devices that are as declared.
  type: int
  returned: always
unlisted:
  description: Names of active devices of the registry that the list does not name.
  type: list
  elements: str
  returned: always
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.stationkeeper.database.arguments import DATABASE_HOST, host_settings
from ansible.module_utils.stationkeeper.database.connection import connect
from ansible.module_utils.stationkeeper.database.presence import exists
from ansible.module_utils.stationkeeper.registry import rows as registry


def _converge(module: AnsibleModule, settings: dict[str, Any], wanted: list[registry.Row]) -> registry.Plan:
    try:
        connection = connect(settings)
    except Exception:
        # psycopg2's own class, see below.
        if not module.check_mode or exists(settings):
            raise
        module.warn(f"database {settings['name']} does not exist yet: every device is new")
        return registry.plan([], wanted)
    try:
        current = registry.read(connection)
        if current is None:
            if not module.check_mode:
                raise registry.RegistryError(
                    "flux.mg_device_registry does not exist: run the migrations first"
                )
            module.warn("flux.mg_device_registry does not exist yet: every device is new")
            return registry.plan([], wanted)
        if module.check_mode:
            return registry.plan(current, wanted)
        registry.lock(connection)
        todo = registry.plan(registry.read(connection) or [], wanted)
        registry.write(connection, todo)
        connection.commit()
        return todo
    finally:
        connection.close()


def _forget(module: AnsibleModule, settings: dict[str, Any], rows: list[registry.Row]) -> list[str]:
    connection = connect(settings)
    try:
        if module.check_mode:
            present = {row.id for row in registry.read(connection) or []}
            return sorted(row.name for row in rows if row.id in present)
        names: list[str] = registry.forget(connection, [row.id for row in rows])
        connection.commit()
        return names
    finally:
        connection.close()


def _diff(todo: registry.Plan) -> dict[str, dict[str, Any]]:
    before = {old.name: old.as_dict() for old, _ in todo.updates}
    after = {row.name: row.as_dict() for row in (*todo.inserts, *(new for _, new in todo.updates))}
    return {"before": before, "after": after}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "devices": {"type": "list", "elements": "dict", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "complete": {"type": "bool", "default": True},
            **DATABASE_HOST,
        },
        supports_check_mode=True,
    )
    settings = host_settings(module.params)
    try:
        wanted = [registry.from_mapping(device) for device in module.params["devices"]]
        if module.params["state"] == "absent":
            names = _forget(module, settings, wanted)
            diff = {"before": {row.name: row.as_dict() for row in wanted if row.name in names}, "after": {}}
            module.exit_json(
                changed=bool(names),
                forgotten=names,
                inserted=[],
                updated=[],
                unchanged=0,
                unlisted=[],
                diff=diff,
            )
        todo = _converge(module, settings, wanted)
    except registry.RegistryError as error:
        module.fail_json(msg=str(error))
    except ImportError as error:
        module.fail_json(
            msg=missing_required_lib("psycopg2 (Debian: python3-psycopg2)"), exception=repr(error)
        )
    except Exception as error:
        # psycopg2's own classes: the driver may be missing, so they cannot be named here.
        module.fail_json(msg=f"database {settings['name']}: {str(error).strip()}")
    unlisted = todo.unlisted if module.params["complete"] else ()
    if unlisted:
        module.warn(f"active in the registry but not in the inventory: {', '.join(unlisted)}")
    module.exit_json(
        changed=bool(todo.inserts or todo.updates),
        inserted=[row.name for row in todo.inserts],
        updated=[row.name for _, row in todo.updates],
        unchanged=todo.unchanged,
        unlisted=list(unlisted),
        diff=_diff(todo),
    )


if __name__ == "__main__":
    main()
