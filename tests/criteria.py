"""The numbered criteria, the tests that prove them, and what came of those tests.

``python tests/criteria.py`` (``make criteria``) writes docs/criteria.md from the reports of the last whole
run of the tests. A test names its criteria by the marker ``criterion``; tests/conftest.py puts them into the
report.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import yaml

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "criteria.md"
REPORTS = ROOT / ".state" / "test"
HEAD = """# Criteria

What a station under control must do, and the tests that prove it. Made by `make criteria` from the reports of
a whole run of `make test`, which fails when a criterion has no passed test.
"""


@dataclass
class Proof:
    """What proves one criterion: test functions by name, and those of their cases that did not pass."""

    tests: dict[str, int] = field(default_factory=dict)
    unproven: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """True when there is a test and all its cases passed."""
        return bool(self.tests) and not self.unproven


def read_criteria() -> dict[str, dict[str, str]]:
    """Return the criteria by area and number."""
    areas: dict[str, dict[str, str]] = yaml.safe_load(
        (ROOT / "tests" / "criteria.yml").read_text(encoding="utf-8")
    )
    return areas


def read_proofs(reports: Iterable[Path]) -> dict[str, Proof]:
    """Return the proof of each criterion named in JUnit reports."""
    proofs: dict[str, Proof] = {}
    for report in sorted(reports):
        for case in ElementTree.parse(report).getroot().iter("testcase"):
            name = (
                f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name', '').partition('[')[0]}"
            )
            passed = not any(case.find(tag) is not None for tag in ("failure", "error", "skipped"))
            for entry in case.iter("property"):
                if entry.get("name") == "criterion":
                    proof = proofs.setdefault(entry.get("value", ""), Proof())
                    proof.tests[name] = proof.tests.get(name, 0) + 1
                    if not passed:
                        proof.unproven.append(f"{case.get('classname')}::{case.get('name')}")
    return proofs


def problems(areas: dict[str, dict[str, str]], proofs: dict[str, Proof]) -> list[str]:
    """Return a line for each criterion that is not proven and each number that does not exist."""
    known = {number for criteria in areas.values() for number in criteria}
    found = [f"{number} is no criterion of tests/criteria.yml" for number in sorted(set(proofs) - known)]
    for number in (number for criteria in areas.values() for number in criteria):
        proof = proofs.get(number, Proof())
        if not proof.tests:
            found.append(f"{number} has no test")
        elif not proof.holds:
            found.append(f"{number} is not proven: {', '.join(proof.unproven)}")
    return found


def page(areas: dict[str, dict[str, str]], proofs: dict[str, Proof]) -> str:
    """Return the page: a table for each area."""
    parts = [HEAD]
    for area, criteria in areas.items():
        rows = [f"## {area}\n", "| | Criterion | Result | Tests (cases) |", "| --- | --- | --- | --- |"]
        for number, sentence in criteria.items():
            proof = proofs.get(number, Proof())
            result = "passed" if proof.holds else "NOT PROVEN"
            tests = "<br>".join(f"`{name}` ({count})" for name, count in sorted(proof.tests.items()))
            rows.append(f"| {number} | {sentence} | {result} | {tests} |")
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def main() -> int:
    """Write the page from the last run; exit 1 when a criterion is not proven."""
    areas, proofs = read_criteria(), read_proofs(REPORTS.glob("*.xml"))
    if not proofs:
        print(f"no reports in {REPORTS.relative_to(ROOT)}: run `make test` first", file=sys.stderr)
        return 1
    PAGE.write_text(page(areas, proofs), encoding="utf-8")
    found = problems(areas, proofs)
    print("\n".join(found) or f"all {sum(map(len, areas.values()))} criteria are proven")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
