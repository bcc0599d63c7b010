"""The table of criteria says what is proven, and what is not."""

from __future__ import annotations

from pathlib import Path

from criteria import page, problems, read_criteria, read_proofs

CASE = """<testcase classname="tests.unit.test_a" name="{name}"><properties>
<property name="criterion" value="{number}"/></properties>{rest}</testcase>"""


def report(outcome: str) -> str:
    cases = [
        CASE.format(name="test_one[x]", number="MW-1", rest=""),
        CASE.format(name="test_one[y]", number="MW-1", rest=""),
        CASE.format(name="test_two", number="MW-2", rest=f"<{outcome}/>"),
        CASE.format(name="test_three", number="MW-99", rest=""),
    ]
    return f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>"


AREAS = {"Writes": {"MW-1": "One.", "MW-2": "Two.", "MW-3": "Three."}}


def test_only_what_passed_is_proven(tmp_path: Path) -> None:
    for outcome in ("failure", "error", "skipped"):
        (tmp_path / "unit.xml").write_text(report(outcome))
        proofs = read_proofs(tmp_path.glob("*.xml"))
        assert proofs["MW-1"].tests == {"tests/unit/test_a.py::test_one": 2}
        assert problems(AREAS, proofs) == [
            "MW-99 is no criterion of tests/criteria.yml",
            "MW-2 is not proven: tests.unit.test_a::test_two",
            "MW-3 has no test",
        ]
        table = page(AREAS, proofs)
        assert "| MW-1 | One. | passed | `tests/unit/test_a.py::test_one` (2) |" in table
        assert "| MW-2 | Two. | NOT PROVEN |" in table


def test_every_area_is_listed_without_gaps_in_its_numbers() -> None:
    for criteria in read_criteria().values():
        first = next(iter(criteria)).partition("-")[0]
        assert list(criteria) == [f"{first}-{number}" for number in range(1, len(criteria) + 1)]
