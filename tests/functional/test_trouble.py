"""A host in trouble: a full disk, a libvirt that dies, a journal that can't be used.

Whatever happens, the command ends with 255 and a cause, nothing is changed that is not in the journal, and once the
trouble is over the next run finds out by itself what was under way.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional import moments, oracle
from tests.functional.host import Defines, Host, Ran, ended, journal_bytes, until
from tests.support.domains import plain_domain

SECRET = "geheim"
NAMES = [f"vm-{number:03}" for number in range(100)]


def hundred(host: Host) -> None:
    """A hundred domains off policy."""
    host.configure("[change]\nmax_changes = 0\n")
    host.define(*(plain_domain(name, vnc_password=SECRET) for name in NAMES))


def rests(host: Host) -> dict[str, str]:
    """All that is in the domains but their PMU."""
    return {name: oracle.rest(xml) for name, xml in host.xmls().items()}


def changed(host: Host) -> list[str]:
    """The domains whose next boot is off."""
    return [name for name, state in host.pmus().items() if state == "off"]


def journalled(path: Path) -> set[str]:
    """The domains that the journal tells of, in whatever state, read from a copy of its files."""
    connection = sqlite3.connect(path)
    try:
        return {name for (name,) in connection.execute("SELECT name FROM change")}
    finally:
        connection.close()


def open_changes(host: Host) -> int:
    """How many changes are in flight."""
    return sum(row["status"] == "in-flight" for row in host.json("journal").rows)


def failed(ran: Ran, cause: str) -> bool:
    """Whether the command ended in an error of this cause, told as a sentence or as a domain's result."""
    return ran.status == 255 and (f"({cause})" in ran.err or cause in ran.out)


class TestFullDisk:
    """The journal is on a file system of its own, of a few hundred KiB."""

    @pytest.fixture
    def disk(self, host: Host) -> Iterator[Path]:
        """The directory of the journal."""
        host.journal_dir.mkdir(mode=0o700)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k,mode=0700", "tmpfs", host.journal_dir], check=True)
        yield host.journal_dir
        subprocess.run(["umount", "--lazy", host.journal_dir], check=True)

    def fill(self, disk: Path) -> None:
        """Take all that is left."""
        with (disk / "ballast").open("ab", buffering=0) as ballast:
            for size in (4096, 1):
                try:
                    while True:
                        ballast.write(b"x" * size)
                except OSError:
                    continue

    def make_room(self, disk: Path) -> None:
        """Give it back."""
        (disk / "ballast").unlink()

    def test_before_the_first_run(self, host: Host, disk: Path) -> None:
        hundred(host)
        self.fill(disk)
        ran = host.json("apply")
        assert failed(ran, "journal-full")
        assert str(disk) in ran.err
        assert changed(host) == []
        self.make_room(disk)
        assert host.pmuconf("apply", *NAMES[:20]).status == 0
        assert changed(host) == NAMES[:20]

    def test_between_two_runs(self, host: Host, disk: Path) -> None:
        hundred(host)
        assert host.pmuconf("apply", *NAMES[:20]).status == 0
        self.fill(disk)
        assert failed(host.json("apply"), "journal-full")
        assert changed(host) == NAMES[:20]
        self.make_room(disk)
        assert host.pmuconf("apply", *NAMES[:40]).status == 0
        assert changed(host) == NAMES[:40]

    @pytest.mark.parametrize("defines", [1, 33])
    def test_in_the_middle_of_a_run(
        self, host: Host, disk: Path, monkeypatch: pytest.MonkeyPatch, defines: int
    ) -> None:
        """What was begun is in the journal, and the next run settles it."""
        hundred(host)
        before = rests(host)
        with monkeypatch.context() as once:
            moments.before(once, "define", lambda: self.fill(disk), call=defines)
            assert failed(host.json("apply"), "journal-full")
        made = changed(host)
        assert 0 < len(made) < 100
        assert set(made) <= journalled(host.journal)

        self.make_room(disk)
        ran = host.pmuconf("apply")

        assert ran.status == 0, ran.err
        assert changed(host) == NAMES
        assert rests(host) == before
        assert open_changes(host) == 0
        assert SECRET.encode() not in journal_bytes(disk)

    def test_no_room_for_a_roll_back(self, host: Host, disk: Path) -> None:
        hundred(host)
        assert host.pmuconf("apply", *NAMES[:20]).status == 0
        self.fill(disk)
        assert failed(host.json("rollback", "--all"), "journal-full")
        assert changed(host) == NAMES[:20]
        self.make_room(disk)
        assert host.pmuconf("rollback", "--all").status == 0
        assert changed(host) == []


class TestLibvirtGoesAway:
    """libvirtd is killed while pmuconf is at work."""

    @pytest.mark.parametrize(("moment", "defines"), [("before", 1), ("after", 1), ("before", 40), ("after", 100)])
    def test_in_the_middle_of_an_apply(
        self, host: Host, monkeypatch: pytest.MonkeyPatch, moment: str, defines: int
    ) -> None:
        hundred(host)
        before = rests(host)
        with monkeypatch.context() as once:
            around = moments.before if moment == "before" else moments.after
            around(once, "define", host.daemon.kill, call=defines)
            ran = host.json("apply")
        assert failed(ran, "libvirt-lost")
        assert ran.rows[-1]["name"] == NAMES[-1]
        assert len(ran.rows) == 100
        outcomes = ran.by_name("outcome")
        assert set(outcomes.values()) <= {"changed", "failed", "not-reached"}

        host.daemon.start()
        host.reconnect()
        made = changed(host)
        assert set(made) <= journalled(host.journal)
        assert {name for name, outcome in outcomes.items() if outcome == "changed"} <= set(made)
        ran = host.pmuconf("apply")

        assert ran.status == 0, ran.err
        assert changed(host) == NAMES
        assert rests(host) == before
        assert open_changes(host) == 0
        assert SECRET.encode() not in journal_bytes(host.journal_dir)
        done = {row["name"] for row in host.json("journal").rows if row["status"] == "done"}
        assert done == set(NAMES)

    def test_and_pmuconf_too(self, host: Host) -> None:
        """Both at once, without a word."""
        hundred(host)
        before = rests(host)
        with Defines(host.daemon.uri) as heard:
            process = host.start("apply")
            until(lambda: heard.wait(40, 0.01) or process.poll() is not None, "40 defines of apply")
            process.kill()
            host.daemon.kill()
            process.communicate()
        host.daemon.start()
        host.reconnect()
        assert 40 <= len(changed(host)) < 100
        assert rests(host) == before
        assert host.pmuconf("apply").status == 0
        assert changed(host) == NAMES
        assert rests(host) == before
        assert open_changes(host) == 0

    def test_it_hangs_in_the_middle(self, host: Host) -> None:
        """And does what it was asked after all, when it goes on."""
        hundred(host)
        before = rests(host)
        assert failed(host.hanging("define", 40, "apply", "-f", "json"), "libvirt-lost")
        assert host.pmuconf("apply").status == 0
        assert changed(host) == NAMES
        assert rests(host) == before
        assert open_changes(host) == 0

    def test_in_the_middle_of_a_roll_back(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        hundred(host)
        before = host.xmls()
        assert host.pmuconf("apply").status == 0
        with monkeypatch.context() as once:
            moments.after(once, "define", host.daemon.kill, call=50)
            assert failed(host.json("rollback", "--all"), "libvirt-lost")
        host.daemon.start()
        host.reconnect()
        assert host.pmuconf("rollback", "--all").status == 0
        assert changed(host) == []
        assert {name: oracle.rest(xml) for name, xml in before.items()} == rests(host)

    def test_before_it_began(self, host: Host) -> None:
        host.daemon.kill()
        assert failed(host.json("apply"), "libvirt-unreachable")

    def test_a_restart_between_two_runs_is_nothing(self, host: Host) -> None:
        hundred(host)
        assert host.pmuconf("apply", "--max-changes", "50").status == 2
        host.daemon.restart()
        host.reconnect()
        assert host.pmuconf("apply").status == 0
        assert changed(host) == NAMES


def test_ctrl_c_in_the_middle_of_an_apply(host: Host) -> None:
    """It ends at once; the next run settles what was under way."""
    hundred(host)
    before = rests(host)
    with Defines(host.daemon.uri) as heard:
        process = host.start("apply")
        until(lambda: heard.wait(40, 0.01) or process.poll() is not None, "40 defines of apply")
        process.send_signal(signal.SIGINT)
        ran = ended(process)
    assert ran.status == 255
    assert "Traceback" not in ran.err
    assert 40 <= len(changed(host)) < 100
    assert set(changed(host)) <= journalled(host.journal)
    assert host.pmuconf("apply").status == 0
    assert changed(host) == NAMES
    assert rests(host) == before
    assert open_changes(host) == 0


class TestJournal:
    """Without a journal nothing is changed."""

    def refused(self, host: Host, cause: str) -> bool:
        """Whether apply fails for this cause, and the domain is what it was."""
        before = host.xmls()
        return failed(host.json("apply"), cause) and host.xmls() == before

    @pytest.fixture(autouse=True)
    def _one_domain(self, host: Host) -> None:
        host.define(plain_domain("web", vnc_password=SECRET))

    def test_its_directory_cant_be_made(self, host: Host) -> None:
        host.journal_dir.write_text("a file")
        assert self.refused(host, "journal-permission")

    def test_its_directory_cant_be_written(self, host: Host) -> None:
        """Read-only even for root, as a file system is that was mounted so after an error."""
        host.journal_dir.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,mode=0700", "tmpfs", host.journal_dir], check=True)
        try:
            assert self.refused(host, "journal-permission")
        finally:
            subprocess.run(["umount", "--lazy", host.journal_dir], check=True)

    def test_it_became_read_only(self, host: Host) -> None:
        host.journal_dir.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0700", "tmpfs", host.journal_dir], check=True)
        try:
            assert host.pmuconf("apply").status == 0
            host.define(plain_domain("other"))
            subprocess.run(["mount", "-o", "remount,ro", host.journal_dir], check=True)
            assert self.refused(host, "journal-permission")
        finally:
            subprocess.run(["umount", "--lazy", host.journal_dir], check=True)

    @pytest.mark.parametrize(
        "content",
        [b"no database at all\n" * 100, b"SQLite format 3\0" + os.urandom(8000), b"\0" * 4096],
        ids=["text", "a header and noise", "zeros"],  # the same in each of several processes
    )
    def test_it_is_garbage(self, host: Host, content: bytes) -> None:
        host.journal_dir.mkdir()
        host.journal.write_bytes(content)
        assert self.refused(host, "journal-damaged")
        assert host.journal.read_bytes() == content

    def test_it_was_cut_off(self, host: Host) -> None:
        host.define(*(plain_domain(name) for name in NAMES[:50]))
        assert host.pmuconf("apply").status == 0
        whole = host.journal.read_bytes()
        host.journal.write_bytes(whole[: len(whole) // 2])
        host.define(plain_domain("other"))
        assert self.refused(host, "journal-damaged")

    def test_another_programs_database(self, host: Host) -> None:
        host.journal_dir.mkdir()
        with sqlite3.connect(host.journal) as other:
            other.execute("CREATE TABLE something (x)")
            other.execute("PRAGMA user_version = 1")
        other.close()
        assert self.refused(host, "journal-damaged")

    def test_one_of_a_newer_pmuconf(self, host: Host) -> None:
        assert host.pmuconf("apply").status == 0
        host.define(plain_domain("other"))
        with sqlite3.connect(host.journal) as newer:
            newer.execute("PRAGMA user_version = 99")
        newer.close()
        assert self.refused(host, "journal-version")

    def test_an_empty_file_is_a_new_one(self, host: Host) -> None:
        host.journal_dir.mkdir()
        host.journal.touch()
        assert host.pmuconf("apply").status == 0
        assert host.pmu("web") == "off"

    def test_it_is_no_file(self, host: Host) -> None:
        host.journal.mkdir(parents=True)
        assert self.refused(host, "journal-permission")
