"""Which boot each test of the lab needs, and how long the boots took."""

from __future__ import annotations

import time
from fnmatch import fnmatch
from typing import Final

import pytest

from tests.lab.boots import LAB, SECONDS, named

_BEGUN: Final = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--job",
        action="append",
        default=[],
        metavar="NAME",
        help="only the tests of this boot of the lab, such as vms-*",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "boots(job): the boot that the test needs; {name} is a parameter of it")
    config.stash[_BEGUN] = time.time()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of other boots than --job asks for."""
    wanted = config.getoption("--job")
    if not wanted:
        return
    jobs = {item: _job(item) for item in items}
    unknown = [name for name in wanted if not any(fnmatch(job, name) for job in jobs.values() if job)]
    if unknown:
        known = " ".join(sorted(set(jobs.values()) - {""}))
        raise pytest.UsageError(f"no boot is called {' or '.join(unknown)}; they are {known}")
    left = [item for item in items if not any(fnmatch(jobs[item], name) for name in wanted)]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in set(left)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """How long each boot took."""
    files = [file for file in sorted(LAB.glob(f"results/*/{SECONDS}")) if file.stat().st_mtime >= config.stash[_BEGUN]]
    if files:
        terminalreporter.section("boots, in seconds")
        for file in files:
            terminalreporter.line(f"{file.parent.name}: {file.read_text().strip()}")


def _job(item: pytest.Item) -> str:
    """The boot that the test needs; empty if it needs none."""
    mark = item.get_closest_marker("boots")
    if mark is None:
        return ""
    callspec = getattr(item, "callspec", None)
    return named(mark.args[0].format(**(callspec.params if callspec else {})))
