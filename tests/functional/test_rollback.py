"""``pmuconf rollback``: the PMU state comes back, and with it nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pmuconf.change.journal import ChangeKind, ChangeStatus, Entry, Intent, Journal
from pmuconf.change.run import Run
from pmuconf.conf import load
from pmuconf.domain.definition import PmuState
from tests.functional import oracle
from tests.functional.host import OFF, ON, Defines, Host, until
from tests.support.domains import domain_uuid, nova_domain, plain_domain


def numbers(host: Host, name: str) -> list[int]:
    """The changes of a domain in the journal, oldest first."""
    return sorted(row["change"] for row in host.json("journal", name).rows)


def applied(host: Host, *policies: str) -> None:
    """Apply these policies, one after the other."""
    for policy in policies:
        host.configure(policy)
        assert host.pmuconf("apply").status in (0, 1)


class TestWhatIsPutBack:
    """One change, all of some domains, or all."""

    @pytest.fixture
    def three(self, host: Host) -> Host:
        """Domains that had different states before they were made off."""
        host.define(plain_domain("a"), plain_domain("b", pmu="on"), plain_domain("c", features=False))
        applied(host, OFF)
        return host

    def test_one_change(self, three: Host) -> None:
        (number,) = numbers(three, "b")
        ran = three.json("rollback", "--change", str(number))
        assert three.pmus() == {"a": "off", "b": "on", "c": "off"}
        assert ran.by_name("outcome") == {"b": "changed"}
        assert ran.status == 0

    def test_some_domains_by_name_or_uuid(self, three: Host) -> None:
        ran = three.json("rollback", "a", domain_uuid("b"))
        assert three.pmus() == {"a": "default", "b": "on", "c": "off"}
        assert ran.status == 0

    def test_all(self, host: Host) -> None:
        host.define(
            plain_domain("a", vnc_password="geheim"),
            plain_domain("b", pmu="on"),
            plain_domain("c", features=False),
            plain_domain("d", pmu="off"),
            nova_domain("n", vnc_password="geheim"),
        )
        before = host.xmls()
        applied(host, OFF)
        ran = host.json("rollback", "--all")
        after = host.xmls()
        assert {name: oracle.pmu(xml) for name, xml in after.items()} == {
            **{"a": "default", "b": "on", "c": "default", "d": "off", "n": "default"}
        }
        assert {name: oracle.rest(xml) for name, xml in after.items()} == {
            name: oracle.rest(xml) for name, xml in before.items()
        }
        assert ran.status == 0
        assert {row["status"] for row in host.json("journal").rows if row["kind"] == "apply"} == {"undone"}

    def test_a_dry_run_changes_nothing(self, three: Host) -> None:
        before = three.xmls()
        ran = three.json("rollback", "--all", "--dry-run")
        assert ran.by_name("outcome") == dict.fromkeys("abc", "planned")
        assert three.xmls() == before
        assert {row["status"] for row in three.json("journal").rows} == {"done"}

    def test_whatever_the_connection_is_called(self, three: Host) -> None:
        """One daemon has many URIs; the domains are the same."""
        other = three.daemon.uri.replace("qemu+unix:", "qemu:")
        assert three.json("rollback", "--all", "--connect", other).by_name("outcome") == dict.fromkeys("abc", "changed")
        assert three.pmus() == {"a": "default", "b": "on", "c": "default"}

    def test_a_running_guest_gets_it_at_its_next_start(self, host: Host) -> None:
        (guest,) = host.define(plain_domain("web", pmu="on"))
        applied(host, OFF)
        guest.create()
        live, pid = host.live_xml("web"), host.guest_pid("web")
        ran = host.json("rollback", "--all")
        assert host.pmu("web") == "on"
        assert (host.live_xml("web"), host.guest_pid("web")) == (live, pid)
        assert ran.by_name("pending") == {"web": True}
        assert ran.status == 1


class TestOtherPeoplesWork:
    """What somebody else did since stays."""

    def test_other_edits_of_the_domain(self, host: Host) -> None:
        host.define(plain_domain("web", pmu="on"))
        applied(host, OFF)
        host.define(host.xml("web").replace("</uuid>", "</uuid><title>new</title>", 1).replace(">16384<", ">32768<"))
        rest = oracle.rest(host.xml("web"))
        assert host.pmuconf("rollback", "web").status == 0
        assert host.pmu("web") == "on"
        assert oracle.rest(host.xml("web")) == rest
        assert "<title>new</title>" in host.xml("web")

    @pytest.mark.parametrize("how", [["--all"], ["web"], ["--change", "1"]])
    def test_another_pmu_state(self, host: Host, how: list[str]) -> None:
        host.define(plain_domain("web"))
        applied(host, OFF)
        host.define(plain_domain("web", pmu="on"))
        before = host.xml("web")
        ran = host.json("rollback", *how)
        assert host.xml("web") == before
        assert ran.by_name("cause") == {"web": "changed-since"}
        assert ran.status == 1
        assert host.json("journal").by_name("status") == {"web": "done"}

    def test_a_domain_that_is_gone(self, host: Host) -> None:
        host.define(plain_domain("a"), plain_domain("b"))
        applied(host, OFF)
        host.domain("a").undefine()
        ran = host.json("rollback", "--all")
        assert ran.by_name("outcome") == {"a": "vanished", "b": "changed"}
        assert host.pmus() == {"b": "default"}
        assert ran.status == 1

    @pytest.mark.parametrize("how", [["--all"], [domain_uuid("web")], ["--change", "1"]])
    def test_another_domain_of_that_name(self, host: Host, how: list[str]) -> None:
        host.define(plain_domain("web"))
        applied(host, OFF)
        host.domain("web").undefine()
        host.define(plain_domain("web", pmu="off", uuid="6e1f12ab-2f16-44d2-8a4c-6c7d2f5c7a10"))
        ran = host.json("rollback", *how)
        assert host.pmu("web") == "off"
        assert ran.by_name("outcome") == {"web": "vanished"}
        assert ran.status == 1

    def test_a_domain_that_was_renamed(self, host: Host) -> None:
        """A domain is its UUID."""
        host.define(plain_domain("old"))
        applied(host, OFF)
        host.domain("old").rename("new")
        assert host.json("rollback", "--all").by_name("outcome") == {"new": "changed"}
        assert host.pmus() == {"new": "default"}

    def test_a_guest_that_became_transient(self, host: Host) -> None:
        (guest,) = host.define(plain_domain("web"))
        applied(host, OFF)
        guest.create()
        guest.undefine()
        ran = host.json("rollback", "--all")
        assert not guest.isPersistent()
        assert ran.by_name("outcome") == {"web": "vanished"}
        assert ran.status == 1


class TestChains:
    """Several changes of one domain."""

    def test_all_of_them_at_once(self, host: Host) -> None:
        host.define(plain_domain("web"))
        applied(host, OFF, ON, OFF)
        with Defines(host.daemon.uri) as heard:
            assert host.pmuconf("rollback", "web").status == 0
            until(lambda: heard.names == ["web"], "one define")
        assert host.pmu("web") == "default"
        assert [row["status"] for row in host.json("journal").rows] == ["done", "undone", "undone", "undone"]
        ran = host.pmuconf("rollback", "--all")
        assert ran.status == 0
        assert "nothing to take back" in ran.err

    def test_one_after_the_other(self, host: Host) -> None:
        host.define(plain_domain("web"))
        applied(host, OFF, ON)
        first, second = numbers(host, "web")
        ran = host.json("rollback", "--change", str(first))
        assert (host.pmu("web"), ran.by_name("cause")) == ("on", {"web": "changed-since"})
        assert host.pmuconf("rollback", "--change", str(second)).status == 0
        assert host.pmu("web") == "off"
        assert host.pmuconf("rollback", "--change", str(first)).status == 0
        assert host.pmu("web") == "default"

    def test_only_as_far_as_it_is_unbroken(self, host: Host) -> None:
        """Somebody made it on in between: that is what it goes back to."""
        host.define(plain_domain("web"))
        applied(host, OFF)
        host.define(plain_domain("web", pmu="on"))
        applied(host, OFF)
        assert host.pmuconf("rollback", "web").status == 0
        assert host.pmu("web") == "on"

    def test_that_cancel_out(self, host: Host) -> None:
        host.define(plain_domain("web", pmu="on"))
        applied(host, OFF, ON)
        before = host.xml("web")
        ran = host.json("rollback", "web")
        assert host.xml("web") == before
        assert ran.by_name("outcome") == {"web": "already"}

    def test_applied_again_after_it_was_rolled_back(self, host: Host) -> None:
        host.define(plain_domain("web"))
        for _ in range(2):
            applied(host, OFF)
            assert host.pmu("web") == "off"
            assert host.pmuconf("rollback", "web").status == 0
            assert host.pmu("web") == "default"


class TestRefused:
    """What can't be taken back is said before anything is changed."""

    def test_a_roll_back(self, host: Host) -> None:
        host.define(plain_domain("web"))
        applied(host, OFF)
        (number,) = numbers(host, "web")
        host.pmuconf("rollback", "--change", str(number))
        undoing = numbers(host, "web")[-1]
        ran = host.pmuconf("rollback", "--change", str(undoing))
        assert ran.status == 255
        assert "(not-to-be-undone)" in ran.err
        assert host.pmu("web") == "default"

    @pytest.mark.parametrize("dry", [[], ["--dry-run"]])
    def test_what_was_taken_back_already_is_so(self, host: Host, dry: list[str]) -> None:
        host.define(plain_domain("web"))
        applied(host, OFF)
        (number,) = numbers(host, "web")
        for how in (["web"], ["web"], ["--change", str(number)]):
            ran = host.json("rollback", *how)
        assert ran.by_name("cause") == {"web": "taken-back"}
        assert ran.status == 1
        ran = host.json("rollback", "web", *dry)
        assert ran.by_name("cause") == {"web": "taken-back"}
        assert host.json("rollback", "--all", *dry).rows == []

    def test_a_change_that_was_not_made(self, host: Host) -> None:
        host.define(plain_domain("web"))
        host.spoil("web")
        assert host.pmuconf("apply").status == 255
        ran = host.pmuconf("rollback", "--change", "1")
        assert ran.status == 255
        assert "abandoned" in ran.err

    @pytest.mark.parametrize("how", [["--change", "7"], ["nonesuch"], ["a", "nonesuch"]])
    def test_what_the_journal_does_not_know(self, host: Host, how: list[str]) -> None:
        host.define(plain_domain("a"), plain_domain("b", pmu="off"))
        applied(host, OFF)
        ran = host.pmuconf("rollback", *how)
        assert ran.status == 255
        assert "(no-such-change)" in ran.err
        assert host.pmu("a") == "off"


class TestCrash:
    """A roll back that was killed is taken up by running it again."""

    def test_in_the_middle(self, host: Host) -> None:
        names = [f"vm-{number:03}" for number in range(100)]
        states = [(None, "on")[number % 2] for number in range(100)]
        host.define(*(plain_domain(name, pmu=state) for name, state in zip(names, states)))
        before = host.xmls()
        host.configure("[change]\nmax_changes = 0\n")
        assert host.pmuconf("apply").status == 0

        with Defines(host.daemon.uri) as heard:
            process = host.start("rollback", "--all")
            until(lambda: heard.wait(40, 0.01) or process.poll() is not None, "40 defines of the roll back")
            process.kill()
            process.communicate()
        middle = host.pmus()
        assert 40 <= sum(state != "off" for state in middle.values()) < 100
        statuses = {row["status"] for row in host.json("journal").rows}
        assert "in-flight" in statuses

        ran = host.pmuconf("rollback", "--all")

        assert ran.status == 0, ran.err
        assert re.search("an earlier run was interrupted: its change [0-9]+ of domain 'vm-[0-9]+' was", ran.err)
        after = host.xmls()
        assert {name: oracle.pmu(xml) for name, xml in after.items()} == {
            name: oracle.pmu(xml) for name, xml in before.items()
        }
        assert {name: oracle.rest(xml) for name, xml in after.items()} == {
            name: oracle.rest(xml) for name, xml in before.items()
        }
        rows = host.json("journal").rows
        assert {row["status"] for row in rows if row["kind"] == "apply"} == {"undone"}
        assert {row["status"] for row in rows if row["kind"] == "rollback"} <= {"done", "abandoned"}


class TestCarried:
    """Changes of another host's journal are taken back where the domain is now."""

    @pytest.fixture
    def records(self, host: Host, tmp_path: Path) -> list[dict[str, Any]]:
        """What another host's journal says of three domains that are here by now, and of one that is not."""
        host.define(*(plain_domain(name, pmu="off") for name in "abc"))
        with Journal.open(tmp_path / "elsewhere/journal.sqlite", create=True) as journal:
            intents = [
                Intent(
                    ChangeKind.APPLY,
                    "qemu://far/system",
                    domain_uuid(name),
                    name,
                    old,
                    PmuState.OFF,
                    "default",
                    "<domain/>",
                )
                for name, old in zip("abcd", (PmuState.ON, PmuState.DEFAULT, PmuState.ON, PmuState.ON))
            ]
            journal.settle((number, ChangeStatus.DONE, "") for number in journal.begin(intents))
            return [entry.record() for entry in journal.entries()]

    def carried(self, host: Host, records: list[dict[str, Any]], *, dry: bool = False) -> dict[str, str]:
        results = Run(load([str(host.policy)]), dry=dry).roll_back_carried(records)
        return {result.name: result.outcome.value for result in results}

    def test_those_that_are_here_and_once(self, host: Host, records: list[dict[str, Any]]) -> None:
        assert self.carried(host, records, dry=True) == dict.fromkeys("abc", "planned")
        assert host.pmus() == dict.fromkeys("abc", "off")
        assert not host.journal.exists()
        assert self.carried(host, [*records, *records]) == dict.fromkeys("abc", "changed")
        assert host.pmus() == {"a": "on", "b": "default", "c": "on"}
        assert self.carried(host, records) == self.carried(host, records, dry=True) == {}

    def test_what_somebody_changed_since_stays(self, host: Host, records: list[dict[str, Any]]) -> None:
        host.define(plain_domain("a", pmu="on"))
        assert self.carried(host, records) == {"a": "already", "b": "changed", "c": "changed"}

    def test_with_what_was_changed_here_as_one(self, host: Host, records: list[dict[str, Any]]) -> None:
        applied(host, ON)
        both = [*records, *[entry.record() for entry in _entries(host)]]
        assert self.carried(host, both) == {"a": "already", "b": "changed", "c": "already"}, "on, off, on cancel out"
        assert host.pmus() == {"a": "on", "b": "default", "c": "on"}

    def test_of_those_that_are_called_so_today(self, host: Host, records: list[dict[str, Any]]) -> None:
        """c was called a when it was changed; here another domain is."""
        for record in records:
            record["name"] = {"a": "x", "c": "a"}.get(record["name"], record["name"])
        names = ["a", domain_uuid("b").upper(), "nobody"]
        results = Run(load([str(host.policy)])).roll_back_carried(records, names)
        assert {result.name: result.outcome.value for result in results} == {"a": "changed", "b": "changed"}
        assert host.pmus() == {"a": "on", "b": "default", "c": "off"}

    def test_they_are_no_changes_of_this_host(self, host: Host, records: list[dict[str, Any]]) -> None:
        self.carried(host, records)
        applied(host, OFF)
        assert host.json("rollback", "--all").by_name("outcome") == dict.fromkeys("abc", "changed")
        assert host.pmus() == {"a": "on", "b": "default", "c": "on"}


def _entries(host: Host) -> list[Entry]:
    with Journal.open(host.journal) as journal:
        return journal.entries()
