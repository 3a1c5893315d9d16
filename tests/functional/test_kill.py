"""pmuconf apply is killed again and again: no domain is damaged, and the next run knows what became of each."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import time
from collections.abc import Iterable, Mapping

from tests.functional import oracle
from tests.functional.host import OFF, Defines, Host, journal_bytes, until
from tests.support.domains import nova_domain, plain_domain

DOMAINS, KILLS = 100, 50
SECRET = "geheim"

_FLIP = """\
[policy]
default = off
rules = flip
[rule:flip]
pmu = on
domain = {}
"""


class Crash:
    """A host with domains whose PMU is changed, and runs of apply that change all of them and are killed."""

    def __init__(self, host: Host, heard: Defines, seed: int) -> None:
        self.host = host
        self.chance = random.Random(seed)
        self._heard = heard
        self.names = [f"vm-{number:03}" for number in range(DOMAINS)]
        host.define(*(_domain(number, name) for number, name in enumerate(self.names)))
        self._rest = {name: oracle.rest(host.xml(name)) for name in self.names}
        self.cut_short = 0
        self.left_open = 0

    def want_the_other_state(self, old: Mapping[str, str]) -> dict[str, str]:
        """Write a policy that wants another PMU state of every domain, and return which one of each."""
        new = {name: "on" if state == "off" else "off" for name, state in old.items()}
        self.host.configure(_FLIP.format(",".join(name for name, state in new.items() if state == "on") or "none"))
        return new

    def measure(self) -> float:
        """How long a run takes that is left alone."""
        self.want_the_other_state(self.host.pmus())
        begin = time.monotonic()
        assert self.host.process("apply", "--max-changes", "0").status == 0
        return time.monotonic() - begin

    def kill_after(self, seconds: float) -> None:
        """Kill a run so long after its start."""
        process = self._apply()
        time.sleep(seconds)
        process.kill()
        process.communicate()

    def kill_at(self, defines: int, seconds: float) -> None:
        """Kill a run so long after it made so many defines."""
        before = len(self._heard.names)
        process = self._apply()
        until(
            lambda: self._heard.wait(before + defines, 0.01) or process.poll() is not None,
            f"{defines} defines of apply",
        )
        time.sleep(seconds)
        process.kill()
        process.communicate()

    def check_domains(self, old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
        """Every domain is there, has its old or its new PMU state, and all else that it had; the states."""
        xmls = self.host.xmls()
        now = {name: oracle.pmu(xml) for name, xml in xmls.items()}
        assert {name: oracle.rest(xml) for name, xml in xmls.items()} == self._rest
        assert [name for name, state in now.items() if state not in (old[name], new[name])] == []
        self.cut_short += now not in (old, new)
        return now

    def check_journal(self, now: Mapping[str, str]) -> dict[str, str]:
        """The next run, though it is about one domain only, closes the journal and wipes the secrets from it.

        What it says then is true of every domain. Returns the states after that run.
        """
        self.left_open += any(status == "in-flight" for _, _, status in self._journal())
        ran = self.host.pmuconf("apply", self.names[0])
        assert ran.status == 0, ran.err
        rows = self._journal()
        assert {status for _, _, status in rows} <= {"done", "abandoned"}
        told = {name: state for name, state, status in rows if status == "done"}  # the newest of each comes last
        after = {**now, self.names[0]: self.host.pmu(self.names[0])}
        assert {**now, **told} == after
        left = journal_bytes(self.host.journal_dir)
        assert SECRET.encode() not in left
        assert b"<domain" not in left
        return after

    def _apply(self) -> subprocess.Popen[str]:
        return self.host.start("apply", "--connect", self.host.daemon.uri, "--max-changes", "0")

    def _journal(self) -> list[tuple[str, str, str]]:
        connection = sqlite3.connect(self.host.journal)
        try:
            rows: Iterable[tuple[str, str, str]] = connection.execute(
                "SELECT name, new, status FROM change ORDER BY id"
            )
            return list(rows)
        finally:
            connection.close()


def test_killed_at_any_point(host: Host) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    with Defines(host.daemon.uri) as heard:
        crash = Crash(host, heard, seed)
        duration = crash.measure()
        old = host.pmus()
        for number in range(KILLS):
            new = crash.want_the_other_state(old)
            if number % 2:
                crash.kill_after(crash.chance.uniform(0, duration))
            else:
                crash.kill_at(crash.chance.randrange(DOMAINS + 1), crash.chance.uniform(0, 0.02))
            old = crash.check_journal(crash.check_domains(old, new))
    print(
        f"a run takes {duration:.2f} s; of {KILLS} kills {crash.cut_short} fell between the first and the last define, "
        f"{crash.left_open} left changes in flight"
    )

    host.configure(OFF)
    assert host.pmuconf("apply").status == 0
    assert set(host.pmus().values()) == {"off"}
    off = dict.fromkeys(crash.names, "off")
    crash.check_domains(off, off)


def _domain(number: int, name: str) -> str:
    if number % 10:
        return plain_domain(name, vnc_password=SECRET)
    return nova_domain(name, version="32.0.0", vnc_password=SECRET)
