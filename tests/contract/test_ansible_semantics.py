"""What Ansible really does, where the runbook contract depends on it.

When one of these fails on a new ansible-core, the contract may have become simpler, or wrong: see
docs/runbook-contract.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import pytest
from harness import Environment

HOSTS = """
all:
  vars: {ansible_connection: local, ansible_python_interpreter: "{{ ansible_playbook_python }}"}
  children:
    living: {hosts: {one: , two: }}
    dead:
      vars: {ansible_connection: ssh, ansible_host: 127.0.0.1, ansible_port: 9}
      hosts: {gone: }
"""

# Fails with a secret in its arguments.
MODULE = """
from ansible.module_utils.basic import AnsibleModule

module = AnsibleModule({"secret": {"type": "str", "no_log": True}})
module.fail_json(msg="no")
"""

ROLE_SPEC = """
argument_specs:
  main:
    options:
      sample_path: {type: str, default: /run/sample}
      sample_count: {type: int}
"""

SHOW_PATH = """
- debug: {msg: "path is {{ sample_path | default('undefined') }}"}
"""


@dataclass(frozen=True)
class Case:
    """A playbook, its expected exit code, and texts that its output has and has not."""

    play: str
    code: int
    shown: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()


LAST_PLAY = """
- hosts: localhost
  gather_facts: false
  tasks: [{debug: {msg: the last play ran}}]
"""

CASES = {
    "A1 a skipped command counts as rc 0 in check mode": Case(
        """
        - hosts: one
          gather_facts: false
          tasks:
            - {command: /bin/false, register: read}
            - {assert: {that: read.rc == 0}}
        """,
        0,
        arguments=("--check",),
    ),
    "A1 a read with check_mode false is really made": Case(
        """
        - hosts: one
          gather_facts: false
          tasks:
            - {command: /bin/false, check_mode: false}
        """,
        2,
        arguments=("--check",),
    ),
    "A3 max_fail_percentage does not see unreachable hosts, A4 nor does a block": Case(
        """
        - hosts: all
          gather_facts: false
          max_fail_percentage: 0
          tasks:
            - block: [{ping: {}}]
              rescue: [{debug: {msg: rescued it}}]
              always: [{debug: {msg: "always on {{ inventory_hostname }}"}}]
        """,
        4,
        shown=("always on one", "always on two"),
        hidden=("rescued it", "always on gone"),
    ),
    "A5 no last play after any_errors_fatal": Case(
        """
        - hosts: living
          gather_facts: false
          any_errors_fatal: true
          tasks: [{fail: {}, when: inventory_hostname == 'one'}]
        """
        + LAST_PLAY,
        2,
        hidden=("the last play ran",),
    ),
    "A5 no last play after every host has failed": Case(
        "- {hosts: living, gather_facts: false, tasks: [{fail: {}}]}" + LAST_PLAY,
        2,
        hidden=("the last play ran",),
    ),
    "A5 no last play after every host was unreachable": Case(
        "- {hosts: dead, gather_facts: false, tasks: [{ping: {}}]}" + LAST_PLAY,
        4,
        hidden=("the last play ran",),
    ),
    "A5 a last play when ignore_unreachable is set, A8 exit code 0": Case(
        "- {hosts: dead, gather_facts: false, ignore_unreachable: true, tasks: [{ping: {}}]}" + LAST_PLAY,
        0,
        shown=("the last play ran",),
    ),
    "A5 no last play when the limit leaves out localhost": Case(
        "- {hosts: living, gather_facts: false, tasks: [{ping: {}}]}" + LAST_PLAY,
        0,
        hidden=("the last play ran",),
        arguments=("--limit", "one"),
    ),
    "A9 argument specs apply no default, accept misspelt variables, skip other entry points": Case(
        """
        - hosts: one
          gather_facts: false
          tasks:
            - include_role: {name: sample}
              vars: {sample_pth: /tmp}
            - include_role: {name: sample, tasks_from: other}
              vars: {sample_count: many}
        """,
        0,
        shown=("path is undefined", "the other entry point ran"),
    ),
    "A10 no host matches": Case(
        "- {hosts: nobody, gather_facts: false, tasks: [{fail: {}}]}", 0, shown=("no hosts matched",)
    ),
    "A15 a failed loop item shows its secret": Case(
        """
        - hosts: one
          gather_facts: false
          tasks:
            - secretive: {secret: "{{ item.secret }}"}
              loop: [{name: a, secret: pl4nted}]
              loop_control: {label: a}
        """,
        2,
        shown=("pl4nted",),
    ),
    "A15 unless the task has no_log": Case(
        """
        - hosts: one
          gather_facts: false
          tasks:
            - secretive: {secret: "{{ item.secret }}"}
              loop: [{name: a, secret: pl4nted}]
              loop_control: {label: a}
              no_log: true
        """,
        2,
        hidden=("pl4nted",),
    ),
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one role and one module."""
    path = tmp_path_factory.mktemp("semantics")
    files = {
        "hosts.yml": HOSTS,
        "library/secretive.py": MODULE,
        "roles/sample/meta/argument_specs.yml": ROLE_SPEC,
        "roles/sample/tasks/main.yml": SHOW_PATH,
        "roles/sample/tasks/other.yml": "- debug: {msg: the other entry point ran}\n",
    }
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_semantics(ansible_environment: Environment, directory: Path, case: Case) -> None:
    head, separator, tail = case.play.partition(LAST_PLAY)
    (directory / "play.yml").write_text(dedent(head) + separator + tail, encoding="utf-8")
    done = ansible_environment.run(
        ["ansible-playbook", "-i", "hosts.yml", "play.yml", *case.arguments], directory
    )
    output = done.stdout + done.stderr
    assert done.returncode == case.code, output
    for text in case.shown:
        assert text in output
    for text in case.hidden:
        assert text not in output
