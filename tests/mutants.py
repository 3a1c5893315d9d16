# SPDX-License-Identifier: Apache-2.0
"""Breaks the code on purpose and counts what its unit tests notice: python -m tests.mutants [--only NAME ...].

mutmut changes one thing at a time in a copy of the tree (a comparison, a constant, an argument) and runs those unit
tests that reach the changed function. A change that no test notices is a survivor. Each survivor has to stand in
tests/mutants.txt with the reason why no test can or should notice it. What does not stand there is printed, and the
exit status is 2. `make mutants` installs mutmut first: nothing else needs it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_TREE = Path(__file__).resolve().parent.parent
_REASONS = _TREE / "tests" / "mutants.txt"
_UNTOUCHED = shutil.ignore_patterns(".git", ".venv", "dist", "build", "__pycache__", "*.egg-info", "node_modules")
_HOURS = 3600.0
"""The seconds that one target may take at most: a mutant that hangs is ended by mutmut long before."""


@dataclass(frozen=True)
class Target:
    """Files whose mutants are made, and the unit tests that have to notice them.

    A survivor costs as much as all tests that reach it. So the tests are those that say what each line is for. What
    looks at thousands of cases is left out: it may notice more, and takes a minute a mutant.

    :param left_out: words in the names of tests that are not run.
    :param fresh: the mutated functions run when their module is loaded, so each mutant loads all modules anew.
        Otherwise they are loaded once, before there is a mutant.
    """

    name: str
    files: tuple[str, ...]
    tests: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    fresh: bool = False


_GUARD = "tests/unit/host/guard"
_VMS = "tests/unit/host/vms"
_UNIT = "tests/unit"
TARGETS = (
    Target("policy", ("pmuconf/policy.py",), ("tests/unit/policy",)),
    Target(
        "domain",
        ("pmuconf/domain/*.py",),
        ("tests/unit/domain",),
        left_out=(
            *("leaves_every_character", "any_text_gives", "every_single_change", "says_what_the_oracle_says"),
            *("if_and_only_if", "a_hundred_mebibytes"),
        ),
    ),
    Target(
        "fastpath",
        tuple(f"pmuconf/fastpath/{name}.py" for name in ("guest", "inkernel", "verdict")),
        (f"{_UNIT}/test_fastpath.py", f"{_UNIT}/test_mediated.py"),
        left_out=("World",),
    ),
    Target(
        "plan", ("pmuconf/change/plan.py",), (f"{_UNIT}/change/test_plan.py", f"{_UNIT}/change/test_rollback_plan.py")
    ),
    Target(
        "journal",
        ("pmuconf/change/journal.py",),
        tuple(f"{_UNIT}/change/test_{name}.py" for name in ("journal", "journal_files", "retention", "settle")),
    ),
    Target(
        "guard",
        ("pmuconf/host/guard/verdict.py",),
        tuple(f"{_GUARD}/test_{name}.py" for name in ("cases", "function_causes", "verdict")),
    ),
    Target(
        "cases",
        ("pmuconf/fastpath/cases.py", "pmuconf/host/guard/cases.py"),
        (f"{_UNIT}/test_fastpath.py", f"{_GUARD}/test_cases.py", f"{_GUARD}/test_function_causes.py"),
        left_out=("World",),
        fresh=True,
    ),
    Target(
        "effects",
        ("pmuconf/host/guard/effects.py",),
        tuple(f"{_GUARD}/test_{name}.py" for name in ("effects", "function_causes", "paths")),
    ),
    Target(
        "qemu_args",
        ("pmuconf/host/vms/qemu_args.py",),
        (f"{_VMS}/test_qemu.py", f"{_VMS}/test_starter.py", f"{_UNIT}/host/test_confidential.py"),
    ),
    Target("factsfile", ("pmuconf/host/factsfile.py",), (f"{_UNIT}/host/test_factsfile.py",)),
)


@dataclass(frozen=True)
class Survivor:
    """A change that no test noticed: the changed function, the line as it was, and as the mutant has it."""

    function: str
    was: str
    became: str

    def line(self) -> str:
        """The survivor as a line of tests/mutants.txt, without the reason."""
        return f"{self.function}: {self.was} => {self.became}"


@dataclass(frozen=True)
class Outcome:
    """What the tests of one target noticed: the number of mutants, and those that survived.

    :param timeouts: the mutants whose tests took too long, which counts as noticed.
    """

    target: Target
    mutants: int
    survivors: tuple[Survivor, ...]
    timeouts: int

    @property
    def killed(self) -> float:
        """The share of the mutants that a test noticed, in per cent."""
        return 100.0 * (self.mutants - len(self.survivors)) / self.mutants if self.mutants else 100.0


def outcome_of(target: Target, python: str, jobs: int) -> Outcome:
    """Make the mutants of `target` in a copy of the tree, run its tests on each, and say which survived."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(_TREE, tree, ignore=_UNTOUCHED, symlinks=True)
        _configure(tree, target)
        environment = {**os.environ, "PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1"}

        def mutmut(*arguments: str) -> str:
            command = (python, "-m", "mutmut", *arguments)
            run = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=_HOURS)
            if run.returncode:
                raise SystemExit(
                    f"mutmut {' '.join(arguments)} failed for {target.name}:\n{run.stdout[-3000:]}{run.stderr[-3000:]}"
                )
            return run.stdout

        mutmut("run", "--max-children", str(jobs))
        states = dict(re.findall(r"^\s*(\S+): (.+)$", mutmut("results", "--all", "true"), re.MULTILINE))
        names = [name for name, state in states.items() if state in _UNNOTICED]
        command = (python, "-c", _SHOW)
        shown = subprocess.run(
            command, cwd=tree, env=environment, input="\n".join(names), capture_output=True, text=True, timeout=_HOURS
        )
        survivors = [_survivor(name, difference) for name, difference in zip(names, json.loads(shown.stdout))]
    return Outcome(target, len(states), tuple(survivors), sum("timeout" in state for state in states.values()))


_SHOW = """
import json, sys
from mutmut.__main__ import find_mutant, get_diff_for_mutant
names = sys.stdin.read().split()
print(json.dumps([get_diff_for_mutant(name, path=find_mutant(name).path) for name in names]))
"""
"""What ``mutmut show`` prints of each mutant, by one process for all: it reads the whole tree at its start."""
_UNNOTICED = frozenset({"survived", "no tests"})


def _configure(tree: Path, target: Target) -> None:
    lists = {"source_paths": ["pmuconf"], "only_mutate": list(target.files)}
    lists["pytest_add_cli_args_test_selection"] = list(target.tests)
    lists["pytest_add_cli_args"] = ["-q", "-p", "no:cacheprovider"]
    if target.left_out:
        lists["pytest_add_cli_args"] += ["-k", f"not ({' or '.join(target.left_out)})"]
    lists["also_copy"] = [path.name for path in sorted(tree.iterdir()) if path.name != "pyproject.toml"]
    with (tree / "pyproject.toml").open("a") as file:
        file.write("\n[tool.mutmut]\n")
        file.write('process_isolation = "forkserver"\n')  # what the code keeps of one run is not there in the next
        file.write("timeout_constant = 8.0\n")  # for a busy machine: 120 s and 15 times what the tests took before
        file.write(f'forkserver_warmup = "{"none" if target.fresh else "collect"}"\n')
        file.writelines(f"{key} = {value!r}\n" for key, value in lists.items())


def _survivor(name: str, difference: str) -> Survivor:
    lines = difference.splitlines()
    was = " ".join(line[1:].strip() for line in lines if line.startswith("-") and not line.startswith("---"))
    became = " ".join(line[1:].strip() for line in lines if line.startswith("+") and not line.startswith("+++"))
    function = re.sub(r"__mutmut_\d+$", "", name).replace("xǁ", "").replace("ǁ", ".").replace(".x_", ".")
    return Survivor(function, was, became)


def reasons() -> dict[str, str]:
    """The survivors that tests/mutants.txt explains, each with its reason."""
    explained: dict[str, str] = {}
    reason = ""
    for line in _REASONS.read_text().splitlines():
        if line.startswith("## "):
            reason = line[3:]
        elif line and not line.startswith("#"):
            explained[line] = reason
    return explained


def _table(outcomes: list[Outcome], explained: dict[str, str]) -> Iterator[str]:
    yield "| files | mutants | killed | of these by a timeout | survivors with a reason | without |"
    yield "|---|---|---|---|---|---|"
    for outcome in outcomes:
        known = sum(survivor.line() in explained for survivor in outcome.survivors)
        unknown = len(outcome.survivors) - known
        killed = f"{outcome.killed:.0f} % | {outcome.timeouts}"
        yield f"| {outcome.target.name} | {outcome.mutants} | {killed} | {known} | {unknown} |"


def main() -> int:
    parser = argparse.ArgumentParser(description="Break the code on purpose, and count what its unit tests notice.")
    parser.add_argument("--only", nargs="+", choices=[target.name for target in TARGETS], default=None)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutants that are tested at a time")
    options = parser.parse_args()
    explained = reasons()
    outcomes = []
    for target in TARGETS:
        if options.only is None or target.name in options.only:
            print(f"{target.name} ...", file=sys.stderr, flush=True)
            outcome = outcome_of(target, sys.executable, options.jobs)
            outcomes.append(outcome)
            for survivor in outcome.survivors:
                if survivor.line() not in explained:
                    print(survivor.line(), flush=True)
    print("\n".join(_table(outcomes, explained)))
    return 2 if any(survivor.line() not in explained for outcome in outcomes for survivor in outcome.survivors) else 0


if __name__ == "__main__":
    sys.exit(main())
