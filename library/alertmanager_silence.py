#!/usr/bin/python
"""Ansible module: keep alerts of a host or site silent for a while."""

from __future__ import annotations

DOCUMENTATION = r"""
module: alertmanager_silence
short_description: Silence alerts in Alertmanager for a while, or end that
description:
  - Alertmanager ends a silence by itself. Only silences that this module made are prolonged or ended.
  - Critical alerts go on coming unless O(critical) is true or O(alerts) names them.
version_added: "0.8.0"
author: Stationkeeper
options:
  url:
    description: Address of Alertmanager.
    type: str
    required: true
  label:
    description: Label by which alerts are chosen.
    type: str
    choices: [host, site]
    required: true
  value:
    description: Its value.
    type: str
    required: true
  alerts:
    description: Names of alerts. All when empty.
    type: list
    elements: str
    default: []
  critical:
    description: Whether critical alerts are silenced, too.
    type: bool
    default: false
  hours:
    description: For how long, at most 168.
    type: float
    default: 1
  who:
    description: Who wants it.
    type: str
    default: somebody
  why:
    description: Why.
    type: str
    default: ""
  state:
    description: V(absent) ends every silence of the label's value.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    description: Says what it would do.
    support: full
  diff_mode:
    description: Shows the silences before and after.
    support: full
requirements:
  - the Python package C(stationkeeper) on the control node
"""

EXAMPLES = r"""
- name: Work on a host without its warnings
  alertmanager_silence:
    url: http://hub:9093
    label: host
    value: fluxdb1
    hours: 2
    who: anna
    why: a larger disk
  delegate_to: localhost
"""

RETURN = r"""
silences:
  description: The silences in force, or those that were ended - id, ends_at, what they match.
  returned: success
  type: list
  elements: dict
silenced:
  description: Names of alerts that fire and are held back.
  returned: success
  type: list
  elements: str
"""

import json
import time
import urllib.error
from datetime import UTC, datetime
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url

try:
    from stationkeeper.alerting import silences
except ImportError:
    silences = None  # type: ignore[assignment]  # reported below, with how to install it

_TIMEOUT_S = 10
_SEEN_WITHIN_S = 10


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "label": {"type": "str", "choices": ["host", "site"], "required": True},
            "value": {"type": "str", "required": True},
            "alerts": {"type": "list", "elements": "str", "default": []},
            "critical": {"type": "bool", "default": False},
            "hours": {"type": "float", "default": 1},
            "who": {"type": "str", "default": "somebody"},
            "why": {"type": "str", "default": ""},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    if silences is None:
        module.fail_json(msg="the stationkeeper package is missing on the control node: run `make setup`")
    act = _silence if module.params["state"] == "present" else _end
    try:
        module.exit_json(**act(module.params, dry_run=module.check_mode))
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace").strip()
        module.fail_json(msg=f"Alertmanager at {module.params['url']}: {said or error}")
    except (silences.SilenceError, OSError, ValueError, KeyError) as error:
        module.fail_json(msg=f"Alertmanager at {module.params['url']}: {error}")


def _silence(given: dict[str, Any], *, dry_run: bool) -> dict[str, Any]:
    now = datetime.now(UTC)
    end = silences.until(now, given["hours"])
    wish = silences.Wish(given["label"], given["value"], tuple(given["alerts"]), given["critical"])
    matchers = wish.matchers()
    before = silences.found(_ask(given, "silences"), matchers)
    if before and silences.long_enough(before[0], end):
        return _told(given, before, before, changed=False)
    id = str(before[0]["id"]) if before else ""
    wanted = silences.body(matchers, now, end, who=given["who"], why=given["why"], id=id)
    if dry_run:
        return _told(given, before, [{"id": id, **wanted}], changed=True)
    id = _ask(given, "silences", wanted)["silenceID"]
    return _told(given, before, [_seen(given, id)], changed=True)


def _seen(given: dict[str, Any], id: str) -> dict[str, Any]:
    """Return a silence once it is in force; it is, a moment after it was made."""
    deadline = time.monotonic() + _SEEN_WITHIN_S
    while True:
        one: dict[str, Any] = _ask(given, f"silence/{id}")
        if one["status"]["state"] == "active":
            return one
        if time.monotonic() > deadline:
            raise silences.SilenceError(f"the silence {id} is {one['status']['state']}, not active")
        time.sleep(0.2)


def _end(given: dict[str, Any], *, dry_run: bool) -> dict[str, Any]:
    before = silences.of(_ask(given, "silences"), given["label"], given["value"])
    if before and not dry_run:
        for one in before:
            _ask(given, f"silence/{one['id']}", method="DELETE")
        left = silences.of(_ask(given, "silences"), given["label"], given["value"])
        if left:
            raise silences.SilenceError(f"{len(left)} silences are still in force")
    return _told(given, before, [], changed=bool(before)) | {"silences": [_short(one) for one in before]}


def _told(given: dict[str, Any], before: list[Any], after: list[Any], *, changed: bool) -> dict[str, Any]:
    alerts = _ask(given, "alerts") if after else []
    held = sorted({name for one in after for name in silences.silenced(alerts, str(one["id"]))})
    shown = {
        when: "".join(f"{json.dumps(_short(one), sort_keys=True)}\n" for one in them)
        for when, them in (("before", before), ("after", after))
    }
    return {
        "changed": changed,
        "silences": [_short(one) for one in after],
        "silenced": held,
        "diff": shown,
    }


def _short(silence: Any) -> dict[str, str]:
    sign = {(False, True): "=", (True, True): "=~", (False, False): "!=", (True, False): "!~"}
    matches = ", ".join(
        f"{one['name']}{sign[bool(one['isRegex']), bool(one.get('isEqual', True))]}{one['value']}"
        for one in silence["matchers"]
    )
    ends = silences.ends_at(silence).isoformat(timespec="seconds")
    return {"id": str(silence["id"]), "ends_at": ends, "matches": matches}


def _ask(given: dict[str, Any], path: str, body: Any = None, method: str = "") -> Any:
    """Ask Alertmanager. Raises OSError (HTTP errors are some) and ValueError."""
    with open_url(
        f"{given['url'].rstrip('/')}/api/v2/{path}",
        data=None if body is None else json.dumps(body),
        headers={"Content-Type": "application/json"},
        method=method or ("GET" if body is None else "POST"),
        timeout=_TIMEOUT_S,
    ) as answer:
        text = answer.read()
    return json.loads(text) if text else None


if __name__ == "__main__":
    main()
