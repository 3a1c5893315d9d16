"""Whose changes the journal's are: this host's, whatever it is called; and which domain a name means."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta, timezone

import libvirt
import pytest

from pmuconf.change.journal import ChangeKind, ChangeStatus, Intent, Journal
from pmuconf.domain.definition import PmuState
from pmuconf.hypervisor import hypervisor
from tests.functional.host import OFF, ON, Host, journal_bytes
from tests.support.domains import domain_uuid, plain_domain
from tests.unit.unprivileged import open_folder

# Format 1, as pmuconf 0.1 made it.
_FORMAT_1 = """
CREATE TABLE change (
    id INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, at TEXT NOT NULL, who TEXT NOT NULL, kind TEXT NOT NULL,
    uri TEXT NOT NULL, uuid TEXT NOT NULL, name TEXT NOT NULL, old TEXT NOT NULL, new TEXT NOT NULL, rule TEXT NOT NULL,
    status TEXT NOT NULL, cause TEXT NOT NULL DEFAULT '', undone_by INTEGER, preimage TEXT
);
CREATE INDEX change_uuid ON change (uuid, id);
CREATE INDEX change_status ON change (status);
PRAGMA user_version=1;
"""

COMMANDS = ["apply", "rollback", "explain", "audit", "journal", "policy explain"]


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Its setattr() changes what the host is called: libvirt's name of it, and its ids."""
    return monkeypatch


def rename(called: pytest.MonkeyPatch, name: str) -> None:
    called.setattr(libvirt.virConnect, "getHostname", lambda _: name)


def machine(called: pytest.MonkeyPatch, machine_id: str, host_uuid: str = "") -> None:
    called.setattr(hypervisor, "machine_id", lambda: machine_id)
    called.setattr(hypervisor, "host_uuid", lambda _: host_uuid)


def applied(host: Host, *policies: str) -> None:
    for policy in policies:
        host.configure(policy)
        assert host.pmuconf("apply").status in (0, 1)


def intent(name: str, uri: str, *, preimage: str = "<domain/>", uuid: str = "", machine: str = "") -> Intent:
    uuid = uuid or domain_uuid(name)
    return Intent(
        ChangeKind.APPLY, uri, uuid, name, PmuState.DEFAULT, PmuState.OFF, "default", preimage, machine=machine
    )


def in_flight(host: Host, *intents: Intent) -> list[int]:
    with Journal.open(host.journal, create=True) as journal:
        return journal.begin(intents)


def query(host: Host, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(host.journal, isolation_level=None)) as connection:
        return connection.execute(statement).fetchall()


class TestAHostIsNotItsName:
    """What DNS, DHCP or an administrator makes of the name."""

    @pytest.mark.parametrize("name", ["compute1", "compute1.elsewhere.example", "localhost", "other.example.org"])
    def test_it_takes_its_changes_back_whatever_it_is_called_now(
        self, host: Host, called: pytest.MonkeyPatch, name: str
    ) -> None:
        machine(called, "1" * 32)
        rename(called, "compute1.example.org")
        host.define(plain_domain("web", pmu="on"))
        applied(host, OFF)
        rename(called, name)
        ran = host.json("rollback", "--all")
        assert ran.by_name("outcome") == {"web": "changed"}
        assert host.pmu("web") == "on"
        assert ran.status == 0

    def test_it_settles_what_was_in_flight_and_forgets_its_secret(self, host: Host, called: pytest.MonkeyPatch) -> None:
        machine(called, "1" * 32)
        host.define(plain_domain("web"))
        in_flight(host, intent("web", "qemu://compute1.example.org/system", preimage="s3cret", machine="1" * 32))
        rename(called, "compute1")
        ran = host.pmuconf("apply")
        assert "its change 1 of domain 'web' was not made" in ran.err
        assert b"s3cret" not in journal_bytes(host.journal_dir)

    def test_the_canary_goes_on(self, host: Host, called: pytest.MonkeyPatch) -> None:
        machine(called, "1" * 32)
        rename(called, "compute1.example.org")
        host.define(plain_domain("a"), plain_domain("b"))
        host.configure(OFF)
        host.pmuconf("apply", "--canary", "1")
        rename(called, "compute1")
        assert host.pmuconf("apply", "--continue").status == 0
        assert host.pmus() == {"a": "off", "b": "off"}

    def test_by_libvirts_uuid_where_there_is_no_machine_id(self, host: Host, called: pytest.MonkeyPatch) -> None:
        machine(called, "", "6e1f12ab-2f16-44d2-8a4c-6c7d2f5c7a10")
        rename(called, "compute1")
        host.define(plain_domain("web"))
        applied(host, OFF)
        rename(called, "other")
        assert host.json("rollback", "--all").by_name("outcome") == {"web": "changed"}

    def test_by_its_name_where_there_is_neither(self, host: Host, called: pytest.MonkeyPatch) -> None:
        machine(called, "", "")
        rename(called, "compute1.example.org")
        host.define(plain_domain("web"))
        applied(host, OFF)
        rename(called, "compute1")
        assert host.json("rollback", "--all").by_name("outcome") == {"web": "changed"}

    def test_another_hosts_changes_are_named_and_left(self, host: Host, called: pytest.MonkeyPatch) -> None:
        machine(called, "1" * 32)
        rename(called, "compute1")
        host.define(plain_domain("web", pmu="off"))
        with Journal.open(host.journal, create=True) as journal:
            numbers = journal.begin([intent("web", "qemu://compute2/system", machine="2" * 32)])
            journal.settle([(numbers[0], ChangeStatus.DONE, "")])
        ran = host.json("rollback", "--all")
        assert "1 change of another host could be taken back there: qemu://compute2/system (1)" in ran.err
        assert ran.by_name("cause") == {"web": "another-host"}
        assert (ran.status, host.pmu("web")) == (1, "off")
        ran = host.pmuconf("rollback", "web")
        assert ran.status == 255
        assert "qemu://compute2/system changed it" in ran.err

    def test_what_another_host_left_in_flight_is_named_and_kept(self, host: Host, called: pytest.MonkeyPatch) -> None:
        machine(called, "1" * 32)
        in_flight(host, intent("web", "qemu://compute2/system", machine="2" * 32))
        ran = host.pmuconf("apply")
        assert "change 1 of domain 'web' was interrupted on another host, qemu://compute2/system" in ran.err
        assert query(host, "SELECT status FROM change") == [("in-flight",)]


class TestAnOlderJournal:
    """Format 1 knew names only."""

    @pytest.fixture
    def old(self, host: Host, called: pytest.MonkeyPatch) -> Host:
        machine(called, "1" * 32)
        rename(called, "compute1")
        host.define(plain_domain("web", pmu="off"), plain_domain("db", pmu="off"))
        host.journal_dir.mkdir(mode=0o700)
        with closing(sqlite3.connect(host.journal)) as connection:
            connection.executescript(_FORMAT_1)
            now = datetime.now(timezone.utc).isoformat(timespec="microseconds")
            for name, uri in (("web", "qemu://compute1.example.org/system"), ("db", "qemu://compute2/system")):
                connection.execute(
                    "INSERT INTO change (run, at, who, kind, uri, uuid, name, old, new, rule, status) "
                    "VALUES ('r', ?, 'root', 'apply', ?, ?, ?, 'default', 'off', 'default', 'done')",
                    (now, uri, domain_uuid(name), name),
                )
            connection.commit()
        host.journal.chmod(0o600)
        return host

    def test_its_changes_of_this_host_are_taken_back(self, old: Host) -> None:
        ran = old.json("rollback", "--all")
        assert ran.by_name("outcome") == {"web": "changed"}
        assert "qemu://compute2/system (1)" in ran.err

    def test_they_stay_this_hosts_when_its_name_changes_next(self, old: Host, called: pytest.MonkeyPatch) -> None:
        assert old.pmuconf("apply").status == 0
        assert query(old, "SELECT name, machine FROM change") == [("web", "1" * 32), ("db", "")]
        rename(called, "other")
        assert old.json("rollback", "web").by_name("outcome") == {"web": "changed"}

    def test_looking_is_enough_to_bring_it_to_todays_format_and_loses_nothing(self, old: Host) -> None:
        assert {row["name"]: row["status"] for row in old.json("journal").rows} == {"web": "done", "db": "done"}
        assert query(old, "PRAGMA user_version") == [(2,)]


class TestWhomANameMeans:
    """Today's names; a UUID in any form; two at once are refused."""

    def test_the_name_of_the_past_is_nobodys_but_the_uuid_is_told(self, host: Host) -> None:
        host.define(plain_domain("web", pmu="on"))
        applied(host, OFF)
        host.domain("web").rename("old")
        ran = host.pmuconf("rollback", "web")
        assert ran.status == 255
        assert "(no-such-change)" in ran.err
        assert f"the domain that was called so then is {domain_uuid('web')}" in ran.err
        assert host.pmu("old") == "off"
        assert host.pmuconf("rollback", "old").status == 0
        assert host.pmu("old") == "on"

    def test_another_domain_has_the_name_now(self, host: Host) -> None:
        host.define(plain_domain("web", pmu="on"))
        applied(host, OFF)
        host.domain("web").rename("old")
        host.define(plain_domain("web", pmu="on", uuid="6e1f12ab-2f16-44d2-8a4c-6c7d2f5c7a10"))
        applied(host, OFF)
        assert host.json("rollback", "web").by_name("outcome") == {"web": "changed"}
        assert host.pmus() == {"old": "off", "web": "on"}

    @pytest.fixture
    def impostor(self, host: Host) -> str:
        """A UUID of one domain that is the name of another, too."""
        uuid = domain_uuid("web")
        host.define(plain_domain("web"), plain_domain(uuid, uuid="6e1f12ab-2f16-44d2-8a4c-6c7d2f5c7a10"))
        applied(host, OFF)
        host.configure(ON)
        return uuid

    def test_a_uuid_that_is_a_name_too_is_refused_with_both(self, host: Host, impostor: str) -> None:
        for command in (*COMMANDS, "apply --dry-run", "rollback --dry-run"):
            ran = host.pmuconf(*command.split(), impostor)
            assert ran.status == 255, command
            assert "(ambiguous-domain)" in ran.err
            assert "6e1f12ab-2f16-44d2-8a4c-6c7d2f5c7a10" in ran.err
            assert "'web'" in ran.err
        assert set(host.pmus().values()) == {"off"}

    @pytest.mark.parametrize("command", COMMANDS)
    def test_a_uuid_in_any_form(self, host: Host, command: str) -> None:
        host.define(plain_domain("web"), plain_domain("other"))
        uuid = domain_uuid("web")
        for form in (uuid.upper(), uuid.replace("-", ""), f"{{{uuid}}}", f"urn:uuid:{uuid}"):
            applied(host, OFF)
            ran = host.pmuconf(*command.split(), form)
            assert ran.status in (0, 1), ran.err
            assert host.pmus() == {"web": "default" if command == "rollback" else "off", "other": "off"}
            if command == "journal":
                assert "web" in ran.out
                assert "other" not in ran.out

    def test_the_journal_shows_a_name_of_the_past_and_says_so(self, host: Host) -> None:
        host.define(plain_domain("web"))
        applied(host, OFF)
        host.domain("web").rename("new")
        assert [row["name"] for row in host.json("journal", "new").rows] == ["web"]
        ran = host.pmuconf("journal", "web")
        assert domain_uuid("web") in ran.err
        assert "web" in ran.out

    def test_the_journal_can_be_read_while_libvirt_is_away(self, host: Host) -> None:
        host.define(plain_domain("web"))
        applied(host, OFF)
        host.configure(OFF)
        host.daemon.stop()
        ran = host.pmuconf("journal", "web")
        assert ran.status == 0, ran.err
        assert "web" in ran.out


class TestDamagedEntries:
    """One that can't be used is named, and the others go on."""

    def here(self, host: Host) -> str:
        applied(host, OFF)
        (uri,) = {row["uri"] for row in host.json("journal").rows}
        return str(uri)

    @pytest.fixture
    def uri(self, host: Host) -> str:
        host.define(plain_domain("first"), plain_domain("web", pmu="off"), plain_domain("next"))
        return self.here(host)

    def statuses(self, host: Host) -> dict[str, tuple[str, str]]:
        return {row["name"]: (row["status"], row["cause"]) for row in host.json("journal").rows}

    @pytest.mark.parametrize("command", [["apply"], ["rollback", "first"]])
    @pytest.mark.parametrize("preimage", ["", "<domain"])
    def test_a_damaged_text_from_before(self, host: Host, uri: str, preimage: str, command: list[str]) -> None:
        in_flight(host, intent("web", uri, preimage=preimage), intent("gone", uri))
        ran = host.pmuconf(*command)
        assert ran.status == 0, ran.err
        assert "of domain 'web' was made; what else was changed in it is not known" in ran.err
        assert self.statuses(host)["web"] == ("done", "preimage-damaged")
        assert self.statuses(host)["gone"] == ("abandoned", "domain-vanished")

    @pytest.mark.parametrize("command", [["apply"], ["rollback", "first"]])
    @pytest.mark.parametrize("uuid", ["web", "../../etc"])
    def test_a_uuid_that_is_none(self, host: Host, uri: str, uuid: str, command: list[str]) -> None:
        in_flight(host, intent("web", uri, uuid=uuid), intent("gone", uri))
        ran = host.pmuconf(*command)
        assert ran.status == 0, ran.err
        assert f"of domain 'web' was not made: {uuid!r} is no UUID" in ran.err
        assert self.statuses(host)["web"] == ("abandoned", "uuid-invalid")
        assert self.statuses(host)["gone"] == ("abandoned", "domain-vanished")

    @pytest.mark.parametrize("command", [["apply"], ["rollback", "--all"]])
    @pytest.mark.parametrize("column", ["kind", "new", "at", "uuid"])
    def test_a_word_that_is_none_of_ours(self, host: Host, uri: str, column: str, command: list[str]) -> None:
        (number,) = in_flight(host, intent("web", uri, preimage="s3cret"))
        query(host, f"UPDATE change SET {column} = x'ff' WHERE id = {number}")
        ran = host.pmuconf(*command)
        assert ran.status == 0, ran.err
        assert f"change {number} of an earlier run can't be read" in ran.err
        assert query(host, f"SELECT status, cause FROM change WHERE id = {number}") == [("abandoned", "change-damaged")]
        assert b"s3cret" not in journal_bytes(host.journal_dir)
        assert f"change {number} can't be read" in host.pmuconf("journal").err

    def test_a_domain_that_cannot_be_read_stays_in_flight_and_stops_nobody(
        self, host: Host, uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        in_flight(host, intent("web", uri, preimage="s3cret"), intent("gone", uri))
        real = hypervisor.Hypervisor.next_boot_xml

        def cut(self: hypervisor.Hypervisor, listed: hypervisor.Listed, *, secrets: bool = False) -> str:
            return "<domain" if listed.name == "web" and secrets else real(self, listed, secrets=secrets)

        monkeypatch.setattr(hypervisor.Hypervisor, "next_boot_xml", cut)
        ran = host.pmuconf("rollback", "first")
        assert ran.status == 0, ran.err
        assert "of domain 'web' is not settled: the domain can't be read (xml-syntax)" in ran.err
        assert self.statuses(host)["web"] == ("in-flight", "")
        assert self.statuses(host)["gone"] == ("abandoned", "domain-vanished")


class TestTheClock:
    """A wrong one loses nothing."""

    def shift(self, monkeypatch: pytest.MonkeyPatch, days: float) -> None:
        class Clock(datetime):
            @classmethod
            def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
                return datetime.now(timezone.utc) + timedelta(days=days)

        monkeypatch.setattr("pmuconf.change.journal.datetime", Clock)

    @pytest.mark.parametrize("days", [400, 4000, -4000])
    def test_changes_made_under_a_wrong_clock_and_before_are_taken_back(
        self, host: Host, monkeypatch: pytest.MonkeyPatch, days: int
    ) -> None:
        host.define(plain_domain("web", pmu="on"), plain_domain("db"))
        host.configure(OFF)
        assert host.pmuconf("apply", "web").status == 0
        self.shift(monkeypatch, days)
        for _ in range(3):
            applied(host, OFF)
        monkeypatch.undo()
        applied(host, OFF)
        assert host.json("rollback", "--all").by_name("outcome") == {"web": "changed", "db": "changed"}
        assert host.pmus() == {"web": "on", "db": "default"}

    def test_a_chain_goes_by_its_numbers(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        host.define(plain_domain("web"))
        for days, policy in ((0, OFF), (-30, ON), (10, OFF), (-400, ON)):
            self.shift(monkeypatch, days)
            applied(host, policy)
        monkeypatch.undo()
        assert host.pmuconf("rollback", "web").status == 0
        assert host.pmu("web") == "default"

    def test_what_was_dropped_is_said(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pmuconf.change.retention.NEWEST", 1)
        monkeypatch.setattr("pmuconf.change.retention.REVOCABLE", 1)
        host.define(plain_domain("a"), plain_domain("b"))
        host.configure(OFF)
        self.shift(monkeypatch, -400)
        assert host.pmuconf("apply", "a").status == 0
        self.shift(monkeypatch, 0)
        assert host.pmuconf("apply", "b").status == 0
        ran = host.pmuconf("apply")
        assert "the journal dropped 1 change older than 365 days" in ran.err
        assert [row["name"] for row in host.json("journal").rows] == ["b"]


class TestWhoseFolder:
    """root's run in the folder of the service's user."""

    def test_an_apply_and_its_way_back_leave_only_files_of_the_folders_owner(self, host: Host) -> None:
        with open_folder() as folder:
            folder.chmod(0o755)
            host.journal_dir = folder / "var"
            host.journal_dir.mkdir()
            os.chown(host.journal_dir, 65534, 65534)
            host.define(*(plain_domain(f"vm-{number}") for number in range(40)))
            applied(host, OFF)
            assert host.pmuconf("rollback", "--all").status == 0
            assert set(host.pmus().values()) == {"default"}
            assert {path.stat().st_uid for path in host.journal_dir.iterdir()} == {65534}

    def test_a_link_there_stops_the_run_before_anything_is_changed(self, host: Host) -> None:
        with open_folder() as folder:
            folder.chmod(0o755)
            (folder / "victim").write_text("precious")
            host.journal_dir = folder / "var"
            host.journal_dir.mkdir()
            (host.journal_dir / "writer.lock").symlink_to(folder / "victim")
            os.chown(host.journal_dir, 65534, 65534)
            host.define(plain_domain("web"))
            host.configure(OFF)
            ran = host.pmuconf("apply")
            assert ran.status == 255
            assert "(journal-untrusted)" in ran.err
            assert (folder / "victim").read_text() == "precious"
            assert host.pmu("web") == "default"
