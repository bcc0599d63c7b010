"""Run the four rings of tests, print progress and one summary line for each ring.

Ring 1 unit (pytest), ring 2 contract (linters and pytest), ring 3 hosts (molecule scenarios, two at a time),
ring 4 runbooks and drills (pytest, on whole systems in the lab: `system` one with three stations, `database`
one with a standby and backups, which runs with the scenarios of ring 3). `system` spends much of its time
waiting and takes longest, so it runs beside all others and goes before them. While it converges its hosts,
which needs every processor, ring 2 runs, where little waits for time. The output of each step goes to
``.state/test/<step>.log``; the last lines of a failing step are shown.

Beside all the others a machine can be too slow for a test of ring 1 or 2 that waits for real processes. So
what failed there is run once more, one test at a time; what then passes counts, and the summary names it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import criteria
import second_ansible

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / ".state" / "test"
SCENARIOS_AT_ONCE = 2
LINES_SHOWN_ON_FAILURE = 60
LENGTH_OF_A_REASON = 300
LAB_TESTS = "tests/integration/test_lab.py"


@dataclass
class Step:
    """One command of a ring and what came of it; ``yields`` when others go before it."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    yields: bool = True
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    second_try: list[str] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return LOGS / f"{self.name.replace(' ', '-')}.log"

    @property
    def report(self) -> Path:
        return LOGS / f"{self.name.replace(' ', '-')}.xml"


def say(text: str) -> None:
    print(text, flush=True)


def run(step: Step) -> Step:
    """Run one step and fill in its counts; a step without a pytest report counts as one test."""
    say(f"  {step.name} …")
    step.report.unlink(missing_ok=True)
    started = time.monotonic()
    with step.log.open("w") as log:
        code = subprocess.run(
            [*(["nice", "-n", "10"] if step.yields else []), *step.command],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "NO_COLOR": "1",
                "ANSIBLE_NOCOLOR": "1",
                **step.environment,
            },
            check=False,
        ).returncode
    step.seconds = time.monotonic() - started
    if step.report.exists():
        count_report(step)
    if code == 0 and step.passed + step.failed == 0:
        step.passed = 1
    if code != 0:
        step.failed = max(step.failed, 1)
        step.failures = step.failures or [f"{step.name}: exit {code}"]
        tail = "\n".join(step.log.read_text(errors="replace").splitlines()[-LINES_SHOWN_ON_FAILURE:])
        say(f"  {step.name} FAILED (exit {code}); whole output in {step.log.relative_to(ROOT)}\n{tail}")
    else:
        say(f"  {step.name} ok, {step.seconds:.0f} s")
    return step


def count_report(step: Step) -> None:
    """Read passed, failed and skipped from the JUnit report of a pytest run."""
    cases = list(ElementTree.parse(step.report).getroot().iter("testcase"))
    step.failures = [f"{identifier(case)}: {reason(case)}" for case in cases if failed(case)]
    step.failed = len(step.failures)
    step.skipped = sum(case.find("skipped") is not None for case in cases)
    step.passed = len(cases) - step.failed - step.skipped


def failed(case: ElementTree.Element) -> bool:
    """Whether a test case of a JUnit report did not pass."""
    return case.find("failure") is not None or case.find("error") is not None


def reason(case: ElementTree.Element) -> str:
    """Return the first line of why a test case of a JUnit report failed."""
    messages = [part.get("message", "") for part in case if part.tag in ("failure", "error")]
    return (messages[0].splitlines() or [""])[0][:LENGTH_OF_A_REASON]


def run_twice(step: Step) -> Step:
    """Run a step of pytest, and what failed once more."""
    run(step)
    if step.failed and step.report.exists():
        try_again(step)
    return step


def try_again(step: Step) -> None:
    """Run what failed once more, one test at a time, and write into the report what came of it."""
    tree = ElementTree.parse(step.report)
    (suite,) = tree.getroot().iter("testsuite")
    first = {identifier(case): case for case in suite.iter("testcase") if failed(case)}
    if not first:
        return
    again = Step(f"{step.name} again", [], step.environment, yields=False)
    # Apart from the reports of the steps, which tests/criteria.py reads.
    report = LOGS / "again" / again.report.name
    again.command = ["pytest", "-q", f"--junit-xml={report}", *first]
    run(again)
    if not report.exists():
        return
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = identifier(case)
        if name in first and not failed(case):
            suite.remove(first[name])
            suite.append(case)
            step.second_try.append(name)
    tree.write(step.report)
    count_report(step)


def identifier(case: ElementTree.Element) -> str:
    """Return what pytest calls a test case of a JUnit report; the tests here stand in no class."""
    return f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"


def pytest_step(name: str, *paths: str) -> Step:
    step = Step(name, [])
    step.command = ["pytest", "-q", "--durations=10", f"--junit-xml={step.report}", *paths]
    return step


def unit() -> list[Step]:
    # These tests mostly wait, for simulated devices and local servers; each file stays in one process.
    return [run_twice(pytest_step("unit", "-n", "4", "--dist", "loadfile", "tests/unit"))]


def contract() -> list[Step]:
    # Without a cache: it does not see that a module has moved, which a fresh clone does.
    linters = [
        Step("ruff check", ["ruff", "check", "--no-cache", "."]),
        Step("ruff format", ["ruff", "format", "--no-cache", "--check", "."]),
        Step("mypy", ["mypy"]),
        Step("yamllint", ["yamllint", "--strict", "."]),
        Step("ansible-lint", ["ansible-lint", "--offline", "--profile", "production", "-q"]),
    ]
    tests = pytest_step("contract", "tests/contract")
    second = second_ansible.build()
    if second:
        tests.environment["STATIONKEEPER_SECOND_ANSIBLE"] = str(second)
    else:
        say("  ansible-core 2.21 is NOT TESTED: there is no Python 3.13 here")
    return [*(run(step) for step in linters), run_twice(tests)]


def hosts() -> list[Step]:
    names = sorted(path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml"))
    steps = [Step(f"molecule {name}", ["molecule", "test", "--scenario-name", name]) for name in names]
    # The tests of the lab itself, with labs and faults of their own that last some seconds.
    lab = pytest_step("lab", LAB_TESTS)
    # A system of its own. It takes as long as all scenarios together, so it begins first.
    database = pytest_step("database", "--timeout=1500", "tests/database")
    for step in (lab, database):
        step.yields = False
        steps.insert(0, step)
    with ThreadPoolExecutor(SCENARIOS_AT_ONCE) as pool:
        return list(pool.map(run, steps))


def system() -> list[Step]:
    # A converge from bare hosts takes minutes; the time-out is for a hang.
    step = pytest_step(
        "system", "--timeout=1500", "tests/integration", "tests/drills", f"--ignore={LAB_TESTS}"
    )
    step.yields = False
    return [run(step)]


# In the order in which they run; the system ring runs beside the others.
RINGS: dict[str, tuple[str, Callable[[], list[Step]]]] = {
    "contract": ("ring 2, contract", contract),
    "unit": ("ring 1, unit", unit),
    "hosts": ("ring 3, hosts, and a database", hosts),
    "system": ("ring 4, runbooks and drills", system),
}


def run_lane(names: list[str]) -> list[tuple[str, list[Step], float]]:
    """Run rings one after the other; return title, steps and seconds of each."""
    done = []
    for name in names:
        title, function = RINGS[name]
        say(f"{title}:")
        started = time.monotonic()
        done.append((title, function(), time.monotonic() - started))
    return done


def main() -> int:
    """Run the chosen rings (all by default); exit 1 when anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("rings", nargs="*", help=f"{', '.join(RINGS)}; default: all")
    chosen = parser.parse_args().rings or list(RINGS)
    unknown = [name for name in chosen if name not in RINGS]
    if unknown:
        parser.error(f"unknown ring {', '.join(unknown)}; there are {', '.join(RINGS)}")
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir(parents=True)
    began = time.monotonic()
    lanes = [[name for name in chosen if name != "system"], [name for name in chosen if name == "system"]]
    with ThreadPoolExecutor(len(lanes)) as pool:
        rings = [ring for lane in pool.map(run_lane, lanes) for ring in lane]
    summary: list[str] = []
    failures: list[str] = []
    second_try: list[str] = []
    totals = [0, 0, 0]
    for title, steps, seconds in rings:
        counts = [sum(getattr(step, key) for step in steps) for key in ("passed", "failed", "skipped")]
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
        failures += [line for step in steps for line in step.failures]
        second_try += [name for step in steps for name in step.second_try]
        state = "FAILED" if counts[1] else "ok"
        summary.append(
            f"{title:<30} {state:<6} {counts[0]} passed, {counts[1]} failed, {counts[2]} skipped"
            f" in {seconds:.0f} s"
        )
    if set(chosen) == set(RINGS):
        unproven = criteria.problems(criteria.read_criteria(), criteria.read_proofs(LOGS.glob("*.xml")))
        totals[1] += len(unproven)
        summary += [f"criterion {line}" for line in unproven] or ["every numbered criterion is proven"]
    summary += [f"failed: {line}" for line in failures]
    summary += [f"passed only when it was run again, alone: {name}" for name in second_try]
    say("\nSummary")
    for line in summary:
        say(line)
    say(f"whole run: {time.monotonic() - began:.0f} s")
    say(f"{totals[0]} passed, {totals[1]} failed, {totals[2]} skipped")
    return 1 if totals[1] else 0


if __name__ == "__main__":
    sys.exit(main())
