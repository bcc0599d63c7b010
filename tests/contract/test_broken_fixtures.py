"""Each rule fires: the sample keeps them all, and one edit to a copy of it breaks exactly one."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from rules import documents, modules, playbooks, repository, roles

from stationkeeper.runbooks.catalogue import catalogue
from stationkeeper.secrets import leaks

SAMPLE = Path(__file__).parent / "fixtures" / "sample"
OWN_MODULES = {"sample_thing"}
RUNBOOK = "playbooks/sample_work.yml"
ROLE = "roles/sample"
MODULE = "library/sample_thing.py"
FRAGMENT = "doc_fragments/sample.py"


def problems_of(root: Path) -> list[str]:
    """What all rules say about a project."""
    runbooks, errors = catalogue(root)
    alerts = playbooks.alerts_in(root)
    return [
        *(
            problem
            for path in sorted((root / "playbooks").glob("*.yml"))
            for problem in playbooks.runbook_problems(root, path, alerts, OWN_MODULES)
        ),
        *roles.role_problems(root, root / ROLE, OWN_MODULES),
        *modules.module_problems(root / MODULE),
        *([] if errors else documents.page_problems(root, runbooks)),
        *documents.command_problems(root, root / "docs" / "guide.md"),
    ]


@dataclass(frozen=True)
class Break:
    """Replace `old` by `new` in `file` of the sample; a rule must say `message`."""

    file: str
    old: str
    new: str
    message: str


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SAMPLE, tmp_path / "project"))


def test_the_sample_keeps_every_rule(project: Path) -> None:
    assert problems_of(project) == []


BREAKS = {
    # What a runbook says about itself.
    "no title": Break(RUNBOOK, "      title: Work on the samples\n", "", "title: Field required"),
    "no undo": Break(RUNBOOK, "      undo: Nothing to undo.\n", "", "undo: Field required"),
    "unknown key": Break(
        RUNBOOK, "owner: operations", "owner: operations\n      ownr: x", "ownr: Extra inputs"
    ),
    "unknown risk": Break(RUNBOOK, "risk: change", "risk: risky", "risk: Input should be 'read', 'change'"),
    "wrong area": Break(RUNBOOK, "area: sample", "area: edge", "the name must be <area>_<verb>"),
    "change without lock": Break(RUNBOOK, "scope: station", "scope: none", "risk change needs a lock"),
    "wrong default": Break(RUNBOOK, "default: 24", "default: day", "default 'day' is not of type int"),
    "bad choice": Break(RUNBOOK, "default: shallow", "default: flat", "is not among the choices"),
    "built-in input": Break(RUNBOOK, "window_hours: {", "reason: {", "is built in and is not declared"),
    "templated": Break(RUNBOOK, "owner: operations", 'owner: "{{ x }}"', "no templates: runbook.owner"),
    "verifies nothing": Break(
        RUNBOOK, "[The command answers.]", "[]", "verifies: List should have at least 1"
    ),
    "unknown alert": Break(RUNBOOK, "[SampleStale]", "[SampleGone]", "alert SampleGone is in no rule file"),
    # What a runbook does.
    "not opened": Break(
        RUNBOOK, "tasks_from: open", "tasks_from: lock", "the first play must open the runbook"
    ),
    "not closed": Break(
        RUNBOOK, "tasks_from: close", "tasks_from: lock", "the last play must close the runbook"
    ),
    "fatal errors": Break(
        RUNBOOK, "  ignore_unreachable: true", "  any_errors_fatal: true", "any_errors_fatal"
    ),
    "serial": Break(
        RUNBOOK, "  ignore_unreachable: true", "  serial: 1", "`serial` is not allowed in a runbook"
    ),
    "dies unreachable": Break(
        RUNBOOK, "  ignore_unreachable: true\n", "", "`ignore_unreachable: true` is missing"
    ),
    "other hosts": Break(
        RUNBOOK, "hosts: runbook_targets", "hosts: stations", "a middle play acts on runbook_tar"
    ),
    "unrescued control node": Break(
        RUNBOOK,
        "- name: Close the runbook\n  hosts: localhost",
        "- name: Work\n  hosts: localhost\n  gather_facts: false\n  tasks: []\n\n"
        "- name: Close the runbook\n  hosts: localhost",
        "a middle play on localhost needs a block with `rescue`",
    ),
    "no result": Break(RUNBOOK, "runbook_result:", "sample_result:", "no play sets runbook_result"),
    "claimed result": Break(
        RUNBOOK, "\"{{ 'ok' if look.rc == 0 else 'failed' }}\"", "verified", "is 'verified' whatever happened"
    ),
    "lock not taken": Break(
        RUNBOOK, "tasks_from: lock", "tasks_from: lok", "names a lock, but no play takes it"
    ),
    "lock kept": Break(RUNBOOK, "      always:\n", "", "the lock must be released in an `always`"),
    "ignored errors": Break(
        RUNBOOK, "          register: look", "          ignore_errors: true", "ignore_errors is not allowed"
    ),
    "prompt": Break(
        RUNBOOK,
        "          ansible.builtin.command: /bin/true",
        "          ansible.builtin.pause: {prompt: Sure}",
        "no prompts",
    ),
    # Roles.
    "default differs": Break(
        f"{ROLE}/defaults/main.yml", "/run/sample", "/run/other", "differs from '/run/other'"
    ),
    "undeclared": Break(
        f"{ROLE}/defaults/main.yml", "---", "---\nsample_more: 1", "sample_more is in no argument spec"
    ),
    "spec without default": Break(
        f"{ROLE}/defaults/main.yml", "sample_path: /run/sample", "{}", "Ansible would not apply it"
    ),
    "no description": Break(
        f"{ROLE}/meta/argument_specs.yml",
        "        description: Who owns it.\n",
        "",
        "main.sample_owner has no description",
    ),
    "foreign variable": Break(
        f"{ROLE}/meta/argument_specs.yml", "sample_owner:", "owner:", "main.owner must be named sample_"
    ),
    "no verify spec": Break(
        f"{ROLE}/meta/argument_specs.yml", "  verify:", "  check:", "entry point 'verify' is missing"
    ),
    "no licence": Break(
        f"{ROLE}/meta/main.yml", "  license: Apache-2.0\n", "", "galaxy_info.license is missing"
    ),
    "lower case": Break(
        f"{ROLE}/tasks/main.yml", "Write the file", "write the file", "must start with a capital"
    ),
    "unnamed": Break(
        f"{ROLE}/tasks/main.yml", "- name: Write the file\n  ans", "- ans", "a task needs a name"
    ),
    "short module": Break(
        f"{ROLE}/tasks/main.yml", "ansible.builtin.copy", "copy", "must be fully qualified"
    ),
    "silent failure": Break(
        f"{ROLE}/tasks/verify.yml", "  # Judged below.\n", "", "`failed_when: false` needs a comment"
    ),
    "foreign register": Break(
        f"{ROLE}/tasks/verify.yml",
        "register: _sample_read",
        "register: read",
        "registered variable 'read' must",
    ),
    "skipped read": Break(
        f"{ROLE}/tasks/verify.yml",
        "  check_mode: false\n",
        "",
        "command in verify must carry `check_mode: false`",
    ),
    "false green": Break(
        f"{ROLE}/tasks/verify.yml",
        "ansible.builtin.assert",
        "ansible.builtin.debug",
        "verify.yml cannot fail",
    ),
    # Modules.
    "no return": Break(MODULE, 'RETURN = r"""', 'RETURNED = r"""', "RETURN is missing"),
    "broken docs": Break(MODULE, "options:\n", "options: [\n", "DOCUMENTATION is no YAML"),
    "no attributes": Break(MODULE, "    support: full\n", "", "attributes.check_mode.support must be stated"),
    "no check mode": Break(
        MODULE, "supports_check_mode=True", "supports_check_mode=False", "but supports_check_"
    ),
    "other default": Break(
        MODULE, '"default": 1', '"default": 2', "option count: default is 1 in the document"
    ),
    "other type": Break(MODULE, '"type": "int"', '"type": "float"', "option count: type is 'int'"),
    "secret option": Break(
        MODULE, '"name": {', '"title": {}, "name": {', "option title is in the argument spec"
    ),
    "ghost option": Break(MODULE, "  count:\n", "  number:\n", "option number is documented, but not in"),
    "ghost fragment": Break(MODULE, "[sample.named]", "[sample]", "no documentation fragment sample"),
    "ghost fragment file": Break(MODULE, "[sample.", "[simple.", "no documentation fragment simple.named"),
    "ghost option of a fragment": Break(FRAGMENT, "  name:\n", "  title:\n", "option title is documented"),
    # Pages.
    "stale page": Break(
        "docs/runbooks/sample_work.md", "24", "25", "docs/runbooks/sample_work.md is out of date"
    ),
    "stale role page": Break(
        "docs/roles/sample.md", "Who owns it", "Who", "docs/roles/sample.md is out of date"
    ),
    "ghost target": Break("docs/guide.md", "make docs", "make dcos", "`make dcos` is no target"),
    "ghost command": Break(
        "docs/guide.md", "stationkeeper runbooks", "stationkeeper rnbooks", "is no command"
    ),
    "ghost playbook": Break(
        "docs/guide.md", "sample_work.yml", "sample_wrk.yml", "sample_wrk.yml does not exist"
    ),
    "loose words": Break(
        "docs/guide.md",
        "'reason=\"two words\"'",
        "'reason=two words'",
        "`reason=two words` needs inner quotes",
    ),
}


@pytest.mark.parametrize("case", BREAKS.values(), ids=BREAKS.keys())
def test_a_breach_is_found(project: Path, case: Break) -> None:
    path = project / case.file
    text = path.read_text(encoding="utf-8")
    assert case.old in text, "the fixture has changed, so this case breaks nothing"
    path.write_text(text.replace(case.old, case.new), encoding="utf-8")
    problems = problems_of(project)
    assert any(case.message in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (f"{ROLE}/tasks/verify.yml", "roles/sample/tasks/verify.yml is missing"),
        (f"{ROLE}/meta/argument_specs.yml", "roles/sample/meta/argument_specs.yml is missing"),
        ("docs/runbooks/sample_work.md", "docs/runbooks/sample_work.md is missing"),
        ("docs/roles/sample.md", "docs/roles/sample.md is missing"),
    ],
)
def test_a_missing_file_is_found(project: Path, file: str, message: str) -> None:
    (project / file).unlink()
    assert any(message in problem for problem in problems_of(project))


def test_a_page_about_nothing_is_found(project: Path) -> None:
    (project / "docs" / "runbooks" / "sample_gone.md").write_text("# Gone\n", encoding="utf-8")
    assert problems_of(project) == ["docs/runbooks/sample_gone.md describes nothing that exists: delete it"]


def test_secrets_are_found(tmp_path: Path) -> None:
    key = tmp_path / "notes.txt"
    key.write_text("-----BEGIN OPENSSH " + "PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n", encoding="utf-8")
    named = tmp_path / "secrets.yml"
    named.write_text("a: b\n", encoding="utf-8")
    identity = tmp_path / "identity"
    identity.write_text("AGE-SECRET-KEY-1" + "Q" * 58, encoding="utf-8")
    problems = leaks.file_problems(tmp_path, [key, named, identity])
    assert [problem.partition(":")[0] for problem in problems] == ["notes.txt", "secrets.yml", "identity"]
    named.write_text("$ANSIBLE_VAULT;1.2;AES256;flux\n", encoding="utf-8")
    assert leaks.file_problems(tmp_path, [named]) == []


@pytest.mark.parametrize(
    "line",
    [
        "ssh_args = -o StrictHostKeyChecking=no",
        "host_key_checking = False",
        "ANSIBLE_HOST_KEY_CHECKING: 'False'",
        "-o UserKnownHostsFile=/dev/null",
    ],
)
def test_unchecked_host_keys_are_found(tmp_path: Path, line: str) -> None:
    path = tmp_path / "ansible.cfg"
    path.write_text(f"[x]\n{line}\n", encoding="utf-8")
    problems = repository.host_key_problems(tmp_path, [path])
    assert problems == ["ansible.cfg:2: host-key checking must stay on"]


def test_missing_ignore_rules_are_found(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text(".venv/\n", encoding="utf-8")
    problems = repository.ignore_problems(tmp_path)
    assert ".gitignore does not keep out inventories/flux/group_vars/all/secrets.yml" in problems
    assert not any(".venv" in problem for problem in problems)


def test_secrets_that_a_scenario_only_borrows_are_found(tmp_path: Path) -> None:
    real = tmp_path / "inventories" / "main.yml"
    real.parent.mkdir()
    real.write_text("users: [{password: '{{ secret_one }}'}, {password: '{{ secret_two }}'}]\n")
    scenario = tmp_path / "molecule" / "cache"
    scenario.mkdir(parents=True)
    (scenario / "main.yml").symlink_to(real)
    (scenario / "passwords.yml").write_text("secret_one: for this scenario\n")
    problems = repository.scenario_secret_problems(scenario)
    assert problems == ["molecule/cache uses secret_two and does not define it"]


def test_wrong_pins_are_found(tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.yml"
    requirements.write_text(
        "collections: [{name: a.b, version: 1.0.0}, {name: c.d, version: 1.0.0}]\n", encoding="utf-8"
    )
    manifest = tmp_path / "collections" / "a" / "b" / "MANIFEST.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"collection_info": {"version": "1.0.1"}}), encoding="utf-8")
    assert repository.pin_problems(requirements, tmp_path / "collections") == [
        "requirements.yml pins a.b 1.0.0; installed is 1.0.1",
        "requirements.yml: c.d is not in the installed `ansible` package",
    ]
