"""Two writers at once: no edit of another's is lost in silence, and no change is told of that is not there.

What happens in which window is in test_windows.py; here the two just race, and the domains tell afterwards what
became of each edit.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pmuconf.hypervisor.hypervisor import Hypervisor, Listed
from tests.functional import oracle, other_writer
from tests.functional.host import OFF, ON, Defines, Host
from tests.support.domains import nova_domain, plain_domain

DOMAINS, EDITS = 20, 200


@dataclass(frozen=True)
class Edit:
    """One edit of the other writer's, with the time right before and right after its define."""

    number: int
    name: str
    pmu: str
    begin: float
    end: float


@dataclass(frozen=True)
class Run:
    """One run of pmuconf apply: what it said of each domain, and what the domains said right after."""

    begin: float
    end: float
    rows: dict[str, dict[str, Any]]
    found: dict[str, str]
    looked: float


@dataclass
class Race:
    """What happened, from all sides. ``ours`` are the calls of define by pmuconf: name, begin, end."""

    edits: list[Edit]
    runs: list[Run]
    ours: list[tuple[str, float, float]]
    left: dict[str, str]

    def lost(self) -> list[Edit]:
        """The edits that are not in the domain's definition in the end: only pmuconf can have overwritten them."""
        return [edit for edit in self.edits if edit.number not in other_writer.numbers(self.left[edit.name])]

    def reported(self, edit: Edit) -> bool:
        """Whether a run that went on while the edit was made says that it overwrote one in this domain.

        It must have been such a run: it read the domain before the edit and defined it after.
        """
        return any(
            run.begin <= edit.end and edit.begin <= run.end and told(run.rows.get(edit.name)) for run in self.runs
        )

    def alarms(self) -> int:
        """How often a run said so."""
        return sum(told(row) for run in self.runs for row in run.rows.values())

    def untrue(self) -> list[tuple[int, str]]:
        """Changes that a run told of, that were not there right after, and that no later edit can have taken back."""
        return [
            (number, name)
            for number, run in enumerate(self.runs)
            for name, row in run.rows.items()
            if row["outcome"] == "changed" and run.found[name] != row["new"] and not self._taken_back(run, name)
        ]

    def _taken_back(self, run: Run, name: str) -> bool:
        last = max(begin for defined, begin, end in self.ours if defined == name and run.begin <= begin <= run.end)
        wanted = run.rows[name]["new"]
        return any(
            edit.name == name and edit.pmu != wanted and edit.end >= last and edit.begin <= run.looked
            for edit in self.edits
        )


def told(row: dict[str, Any] | None) -> bool:
    """Whether the row says that an edit was overwritten."""
    return row is not None and "edit-overwritten" in (row["cause"], row["note"])


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, float]]:
    """Each define that pmuconf makes, with the time before and after."""
    made: list[tuple[str, float, float]] = []
    real = Hypervisor.define

    def define(self: Hypervisor, listed: Listed, xml: str) -> None:
        begin = time.monotonic()
        real(self, listed, xml)
        made.append((listed.name, begin, time.monotonic()))

    monkeypatch.setattr(Hypervisor, "define", define)
    return made


def race(host: Host, ours: list[tuple[str, float, float]], names: list[str], seed: int) -> Race:
    """Let the other writer make its edits while pmuconf applies one policy after the other."""
    command = [sys.executable, other_writer.__file__, host.daemon.uri, str(EDITS), str(seed), *names]
    runs: list[Run] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as writer:
        assert writer.stdout is not None
        lines: list[str] = []
        reader = threading.Thread(target=lines.extend, args=(writer.stdout,))
        reader.start()
        policies = [OFF, ON]
        while reader.is_alive():
            host.configure(policies[len(runs) % 2])
            begin = time.monotonic()
            ran = host.json("apply", "--max-changes", "0")
            end = time.monotonic()
            found = host.pmus()
            runs.append(Run(begin, end, {row["name"]: row for row in ran.rows}, found, time.monotonic()))
        reader.join()
    assert writer.returncode == 0
    edits = [Edit(*json.loads(line)) for line in lines]
    assert [edit.number for edit in edits] == list(range(EDITS))
    return Race(edits, runs, ours, {name: host.xml(name) for name in names})


def test_no_edit_is_lost_in_silence(host: Host, ours: list[tuple[str, float, float]]) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    names = [f"vm-{number:02}" for number in range(DOMAINS)]
    host.define(
        *(
            nova_domain(name, version="32.0.0") if number % 2 else plain_domain(name)
            for number, name in enumerate(names)
        )
    )
    before = {name: oracle.rest(host.xml(name)) for name in names}
    (fence,) = host.define(plain_domain("fence", pmu="off"))
    with Defines(host.daemon.uri) as heard:
        result = race(host, ours, names, seed)
        heard.fence(fence)
        defines = heard.names
    lost = result.lost()
    print(
        f"{len(result.runs)} runs made {len(result.ours)} defines against {EDITS} edits: {len(lost)} edits were "
        f"overwritten, {result.alarms()} reports"
    )

    assert [edit for edit in lost if not result.reported(edit)] == []
    assert result.untrue() == []
    # Every define gave one event, which is what pmuconf's own watch rests on.
    for name in names:
        made = [one for one in result.ours if one[0] == name] + [edit for edit in result.edits if edit.name == name]
        assert defines.count(name) == len(made)
    # Nothing but what the two meant to change is another.
    for name in names:
        assert oracle.rest(_without_description(result.left[name])) == before[name]
    # And when the other one is done, so are we.
    host.configure(OFF)
    assert host.pmuconf("apply").status == 0
    assert set(host.pmus().values()) == {"off"}


def _without_description(xml: str) -> str:
    return "\n".join(line for line in xml.split("\n") if not line.startswith("  <description>"))
