"""The catalogue and the pages that are generated from it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from stationkeeper.runbooks import command, documentation
from stationkeeper.runbooks.catalogue import catalogue, read_runbook

SAMPLE = Path(__file__).parents[1] / "contract" / "fixtures" / "sample"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SAMPLE, tmp_path / "project"))


def test_a_page_tells_all_that_the_runbook_says() -> None:
    page = documentation.runbook_page(read_runbook(SAMPLE / "playbooks" / "sample_work.yml"))
    for text in (
        "# Work on the samples",
        "playbooks/sample_work.yml -e target=<target> --check --diff",
        "-e 'reason=\"<why>\"'",
        "| `window_hours` | int | `24` | How far to look back. |",
        "One of `shallow`, `deep`.",
        "- `SampleStale`",
        "Point of no return: There is none.",
        "- Source: the tests",
    ):
        assert text in page


def test_the_same_input_gives_the_same_bytes(project: Path) -> None:
    first = documentation.all_pages(project, catalogue(project)[0])
    assert documentation.all_pages(project, catalogue(project)[0]) == first


def test_docs_are_written_once_and_checked(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = project / "docs" / "runbooks" / "sample_work.md"
    page.unlink()
    leftover = project / "docs" / "roles" / "gone.md"
    leftover.write_text("# Gone\n", encoding="utf-8")
    arguments = ["--root", str(project), "docs"]
    assert command.run([*arguments, "--check"]) == 1
    assert "docs/runbooks/sample_work.md is missing" in capsys.readouterr().err
    assert command.run(arguments) == 0
    assert page.is_file()
    assert not leftover.exists()
    capsys.readouterr()
    assert command.run(arguments) == 0
    assert capsys.readouterr().out == "4 pages are current.\n"
    assert command.run([*arguments, "--check"]) == 0


def test_broken_playbooks_are_told_and_the_others_listed(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in (
        ("sample_bad", "- hosts: localhost\n"),
        ("sample_torn", "- {"),
        ("sample_no", "x: 1\n"),
    ):
        (project / "playbooks" / f"{name}.yml").write_text(text, encoding="utf-8")
    (project / "playbooks" / "site.yml").write_text("- hosts: all\n", encoding="utf-8")
    assert command.run(["--root", str(project), "list"]) == 1
    output = capsys.readouterr()
    assert output.out.split()[:2] == ["sample_work", "change"]
    assert [line.partition(":")[0] for line in output.err.splitlines() if line.startswith("sample")] == [
        "sample_bad",
        "sample_no",
        "sample_torn",
    ]


def test_ansibles_own_tags_are_read_as_plain_values(project: Path) -> None:
    path = project / "playbooks" / "sample_work.yml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("gather_facts: false", "gather_facts: !unsafe false", 1), encoding="utf-8")
    assert read_runbook(path).name == "sample_work"
