"""Somebody else edits a domain at one certain moment of pmuconf's change: every window, one by one.

A change reads the domain, writes it down, reads again and compares, defines, and reads to verify. libvirt has no
compare-and-swap, so an edit that falls between the comparison and the define is overwritten: that can't be helped,
but it is never silent. Whatever falls elsewhere is kept.
"""

from __future__ import annotations

import re
import threading
import time
from typing import Any

import libvirt
import pytest

from pmuconf.hypervisor import DefineWatch, Hypervisor, Listed
from tests.functional import moments, oracle
from tests.functional.host import Host
from tests.support.domains import plain_domain

# Calls of Hypervisor.next_boot_xml() in a run that changes one domain.
DRAFT, COMPARE, VERIFY = 2, 3, 4

MARK = "an edit by another tool"


@pytest.fixture(params=["events-at-once", "events-late"])
def late(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether libvirt tells of a define some time after the call returned: it gives no promise how long."""
    real = DefineWatch._heard

    def heard(self: DefineWatch, *arguments: Any) -> None:
        time.sleep(0.03)
        real(self, *arguments)

    if request.param == "events-late":
        monkeypatch.setattr(DefineWatch, "_heard", heard)
        return True
    return False


def edit(host: Host, *, mark: str = MARK, pmu: str | None = None) -> None:
    """What another tool does: read, change, define. It leaves the PMU as it finds it unless told otherwise."""
    xml = re.sub(r"  <title>.*</title>\n", "", host.xml("web"))
    xml = xml.replace("</uuid>\n", f"</uuid>\n  <title>{mark}</title>\n", 1)
    if pmu is not None:
        xml = re.sub(r" *<pmu state='\w+'/>\n", "", xml)
        if pmu != "default":
            xml = xml.replace("<features>\n", f"<features>\n    <pmu state='{pmu}'/>\n", 1)
    host.define(xml)


def title(host: Host) -> str:
    """What the last edit left."""
    found = re.search(r"<title>(.*)</title>", host.xml("web"))
    return found.group(1) if found else ""


@pytest.fixture
def web(host: Host) -> libvirt.virDomain:
    """The domain that is changed: its PMU state is default, and the policy wants off."""
    (domain,) = host.define(plain_domain("web", vnc_password="geheim"))
    return domain


@pytest.mark.usefixtures("web", "late")
class TestAnEditIsKept:
    """Outside the one window, both changes are there afterwards and there is nothing to report."""

    @pytest.mark.parametrize("call", [DRAFT, COMPARE])
    def test_before_the_comparison(self, host: Host, monkeypatch: pytest.MonkeyPatch, late: bool, call: int) -> None:
        moments.before(monkeypatch, "next_boot_xml", lambda: edit(host), call=call)
        ran = host.json("apply")
        assert (host.pmu("web"), title(host)) == ("off", MARK)
        assert ran.by_name("outcome") == {"web": "changed"}
        if not late:  # who hears of it late may raise a false alarm, but never keep silent
            assert (ran.status, ran.by_name("cause")) == (0, {"web": ""})

    def test_behind_the_define(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        moments.after(monkeypatch, "define", lambda: edit(host))
        ran = host.json("apply")
        assert (host.pmu("web"), title(host)) == ("off", MARK)
        assert ran.by_name("outcome") == {"web": "changed"}

    def test_behind_the_define_and_from_a_text_from_before_it(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The other one takes our change back without knowing: it is made again, on top of the edit."""
        moments.after(monkeypatch, "define", lambda: edit(host, pmu="default"))
        ran = host.json("apply")
        assert (host.pmu("web"), title(host)) == ("off", MARK)
        assert ran.by_name("outcome") == {"web": "changed"}
        assert host.pmuconf("audit").status == 0

    def test_behind_the_verification(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        moments.after(monkeypatch, "next_boot_xml", lambda: edit(host), call=VERIFY)
        ran = host.json("apply")
        assert (host.pmu("web"), title(host)) == ("off", MARK)
        assert ran.by_name("outcome") == {"web": "changed"}

    def test_again_and_again(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        """Given up at last, with the domain as the other one wants it."""
        moments.after(monkeypatch, "define", lambda: edit(host, pmu="on"), call=None)
        ran = host.json("apply")
        assert ran.by_name("outcome") == {"web": "busy"}
        assert ran.status == 2
        assert (host.pmu("web"), title(host)) == ("on", MARK)
        assert host.json("journal").by_name("status") == {"web": "abandoned"}

    def test_the_other_one_sets_the_pmu_itself(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        moments.before(monkeypatch, "next_boot_xml", lambda: edit(host, pmu="off"), call=COMPARE)
        ran = host.json("apply")
        assert (host.pmu("web"), title(host)) == ("off", MARK)
        assert ran.by_name("outcome") == {"web": "already"}
        assert host.json("journal").by_name("status") == {"web": "abandoned"}


@pytest.mark.usefixtures("web")
def test_an_edit_is_seen_before_it_is_told_of(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """libvirt lets go of a domain before it queues the event of a define: no fence behind events helps here.

    An edit behind ours must not be taken for damage that our define did, and "put right" over.
    """
    real = DefineWatch._heard

    def heard(self: DefineWatch, *arguments: Any) -> None:
        threading.Timer(0.1, real, (self, *arguments)).start()

    monkeypatch.setattr(DefineWatch, "_heard", heard)
    moments.after(monkeypatch, "define", lambda: edit(host, pmu="default"))
    ran = host.json("apply")
    assert (host.pmu("web"), title(host)) == ("off", MARK)
    assert ran.by_name("outcome") == {"web": "changed"}


@pytest.mark.usefixtures("web", "late")
class TestAnOverwrittenEditIsReported:
    """Between the comparison and the define."""

    def test_one(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        moments.before(monkeypatch, "define", lambda: edit(host))
        ran = host.json("apply")
        assert (host.pmu("web"), title(host)) == ("off", "")
        assert ran.by_name("cause") == {"web": "edit-overwritten"}
        assert ran.status == 1
        assert host.json("journal").by_name("cause") == {"web": "edit-overwritten"}

    def test_one_that_pmuconf_has_heard_of_before_its_own(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        def long_ago() -> None:
            edit(host)
            time.sleep(0.1)  # its event is there, and that of our define still to come

        moments.before(monkeypatch, "define", long_ago)
        ran = host.json("apply")
        assert title(host) == ""
        assert ran.by_name("cause") == {"web": "edit-overwritten"}

    def test_several(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        for _ in range(3):
            moments.before(monkeypatch, "define", lambda: edit(host))
        ran = host.json("apply")
        assert title(host) == ""
        assert ran.by_name("cause") == {"web": "edit-overwritten"}

    @pytest.mark.parametrize("pmu", [None, "default", "on"])
    def test_though_another_one_follows(self, host: Host, monkeypatch: pytest.MonkeyPatch, pmu: str | None) -> None:
        """The second edit is kept, and does not stand in for the first."""
        moments.before(monkeypatch, "define", lambda: edit(host, mark="lost"))
        moments.after(monkeypatch, "define", lambda: edit(host, mark="kept", pmu=pmu))
        ran = host.json("apply")
        assert (host.pmu("web"), title(host)) == ("off", "kept")
        assert ran.by_name("cause") == {"web": "edit-overwritten"}

    def test_though_another_one_follows_behind_the_verification(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        moments.before(monkeypatch, "define", lambda: edit(host, mark="lost"))
        moments.before(monkeypatch, "next_boot_xml", lambda: edit(host, mark="kept"), call=VERIFY + 1)
        ran = host.json("apply")
        assert title(host) in ("", "kept")  # or pmuconf did not look once more
        assert ran.by_name("cause") == {"web": "edit-overwritten"}

    def test_though_the_change_is_given_up(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        moments.before(monkeypatch, "define", lambda: edit(host, mark="lost"))
        moments.after(monkeypatch, "define", lambda: edit(host, mark="kept", pmu="on"), call=None)
        ran = host.json("apply")
        assert ran.by_name("outcome") == {"web": "busy"}
        assert "edit-overwritten" in ran.out

    def test_though_the_change_fails_then(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        def undone() -> None:
            edit(host, mark="stale", pmu="default")
            host.spoil("web")

        moments.before(monkeypatch, "define", lambda: edit(host, mark="lost"))
        moments.after(monkeypatch, "define", undone)
        ran = host.json("apply")
        assert ran.by_name("outcome") == {"web": "failed"}
        assert "web.xml.new" in ran.out
        assert "edit-overwritten" in ran.out

    def test_though_the_other_one_sets_the_pmu_itself_in_the_end(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        moments.before(monkeypatch, "define", lambda: edit(host, mark="lost"))
        moments.after(monkeypatch, "define", lambda: edit(host, mark="stale", pmu="default"))
        moments.before(monkeypatch, "define", lambda: edit(host, mark="kept", pmu="off"), call=2)
        ran = host.json("apply")
        assert host.pmu("web") == "off"
        assert "edit-overwritten" in ran.out


class TestAnEditWithoutAnEvent:
    """libvirt 9.0 tells nobody of ``virsh setmem --config``: then the texts are all there is to go by."""

    def more_memory(self, web: libvirt.virDomain) -> None:
        """Give the next boot more memory."""
        web.setMemoryFlags(32768, libvirt.VIR_DOMAIN_AFFECT_CONFIG | libvirt.VIR_DOMAIN_MEM_MAXIMUM)

    def memory(self, host: Host) -> bool:
        """Whether it has it."""
        return ">32768</memory>" in host.xml("web")

    @pytest.mark.parametrize("call", [DRAFT, COMPARE])
    def test_before_the_comparison(
        self, host: Host, web: libvirt.virDomain, monkeypatch: pytest.MonkeyPatch, call: int
    ) -> None:
        moments.before(monkeypatch, "next_boot_xml", lambda: self.more_memory(web), call=call)
        ran = host.json("apply")
        assert (host.pmu("web"), self.memory(host)) == ("off", True)
        assert (ran.status, ran.by_name("cause")) == (0, {"web": ""})

    def test_behind_the_define(self, host: Host, web: libvirt.virDomain, monkeypatch: pytest.MonkeyPatch) -> None:
        """It can't be told from damage that our define did: whatever is done about it is told."""
        moments.after(monkeypatch, "define", lambda: self.more_memory(web))
        ran = host.json("apply")
        assert self.memory(host) or ran.by_name("cause") == {"web": "verify-failed"}

    def test_behind_the_verification(self, host: Host, web: libvirt.virDomain, monkeypatch: pytest.MonkeyPatch) -> None:
        moments.after(monkeypatch, "next_boot_xml", lambda: self.more_memory(web), call=VERIFY)
        ran = host.json("apply")
        assert self.memory(host) or ran.by_name("cause") == {"web": "verify-failed"}


class TestADefineThatDoesDamage:
    """More is another afterwards than the PMU, and nobody else was at it: put right, and the run ends."""

    def test_it_is_put_right(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        host.configure("[libvirt]\nparallel = 1\n")
        host.define(*(plain_domain(name, vnc_password="geheim") for name in ("a", "b", "c")))
        before = host.xmls()
        real, calls = Hypervisor.define, iter(range(10))

        def define(self: Hypervisor, listed: Listed, xml: str) -> None:
            damaged = re.sub(""" passwd=["']geheim["']""", "", xml)
            assert damaged != xml
            real(self, listed, damaged if next(calls) == 1 else xml)

        monkeypatch.setattr(Hypervisor, "define", define)
        ran = host.json("apply")

        assert ran.by_name("outcome") == {"a": "changed", "b": "failed", "c": "not-reached"}
        assert ran.by_name("cause")["b"] == "verify-failed"
        assert ran.status == 255
        assert host.pmus() == {"a": "off", "b": "default", "c": "default"}
        assert {name: oracle.rest(xml) for name, xml in host.xmls().items()} == {
            name: oracle.rest(xml) for name, xml in before.items()
        }
        assert host.json("journal").by_name("status")["b"] == "restored"


class TestADomainThatIsUndefined:
    """It is never brought back, and a guest that became transient never gets a next boot again."""

    def test_before_the_comparison(self, host: Host, web: libvirt.virDomain, monkeypatch: pytest.MonkeyPatch) -> None:
        moments.before(monkeypatch, "next_boot_xml", web.undefine, call=COMPARE)
        ran = host.json("apply")
        assert host.names() == []
        assert ran.by_name("outcome") == {"web": "vanished"}

    def test_between_comparison_and_define(
        self, host: Host, web: libvirt.virDomain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        moments.before(monkeypatch, "define", web.undefine)
        ran = host.json("apply")
        assert host.names() == []
        assert ran.by_name("outcome") == {"web": "vanished"}
        assert ran.status == 1
        assert host.json("journal").by_name("status") == {"web": "abandoned"}

    def test_behind_the_define(self, host: Host, web: libvirt.virDomain, monkeypatch: pytest.MonkeyPatch) -> None:
        moments.after(monkeypatch, "define", web.undefine)
        host.json("apply")
        assert host.names() == []

    @pytest.mark.parametrize("method", ["next_boot_xml", "is_persistent", "define"])
    def test_while_it_runs(
        self, host: Host, web: libvirt.virDomain, monkeypatch: pytest.MonkeyPatch, method: str
    ) -> None:
        web.create()
        pid = host.guest_pid("web")
        moments.before(monkeypatch, method, web.undefine, call=COMPARE if method == "next_boot_xml" else 1)
        ran = host.json("apply")
        assert not web.isPersistent()
        assert oracle.pmu(host.live_xml("web")) == "default"
        assert host.guest_pid("web") == pid
        assert ran.by_name("outcome")["web"] in ("transient", "vanished")
        assert host.json("journal").by_name("status") == {"web": "abandoned"}

    def test_and_stopped_too(self, host: Host, web: libvirt.virDomain, monkeypatch: pytest.MonkeyPatch) -> None:
        web.create()

        def gone() -> None:
            web.undefine()
            web.destroy()

        moments.before(monkeypatch, "define", gone)
        ran = host.json("apply")
        assert host.names() == []
        assert ran.by_name("outcome") == {"web": "vanished"}


@pytest.mark.usefixtures("web", "late")
class TestADomainThatIsDefinedAnew:
    """Undefined and defined again, as Nova does at a hard reboot: it is somebody's, and stays."""

    def again(self, host: Host, mark: str) -> None:
        """Undefine it, and define it with a title."""
        xml = host.xml("web")
        host.domain("web").undefine()
        host.define(xml.replace("</uuid>\n", f"</uuid>\n  <title>{mark}</title>\n", 1) if mark else xml)

    @pytest.mark.parametrize("mark", ["", MARK])
    def test_before_the_comparison(self, host: Host, monkeypatch: pytest.MonkeyPatch, mark: str) -> None:
        """Even if the text is the same as before, to the letter."""
        moments.before(monkeypatch, "next_boot_xml", lambda: self.again(host, mark), call=COMPARE)
        ran = host.json("apply")
        assert host.names() == ["web"]
        assert (host.pmu("web"), title(host)) == ("off", mark)
        assert ran.by_name("outcome") == {"web": "changed"}

    def test_between_comparison_and_define(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        moments.before(monkeypatch, "define", lambda: self.again(host, MARK))
        ran = host.json("apply")
        assert (host.pmu("web"), title(host)) == ("off", "")
        assert ran.by_name("cause") == {"web": "edit-overwritten"}

    def test_behind_the_define(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        moments.after(monkeypatch, "define", lambda: self.again(host, MARK))
        host.json("apply")
        assert (host.pmu("web"), title(host)) == ("off", MARK)


@pytest.mark.usefixtures("web", "late")
class TestTheJournalAfterwards:
    """It tells what was there right before the change that stands, so that a roll back gives just that back."""

    @pytest.mark.parametrize("moment", ["before-the-comparison", "behind-the-define"])
    def test_the_old_state_is_that_of_the_last_edit(
        self, host: Host, monkeypatch: pytest.MonkeyPatch, moment: str
    ) -> None:
        if moment == "before-the-comparison":
            moments.before(monkeypatch, "next_boot_xml", lambda: edit(host, pmu="on"), call=COMPARE)
        else:
            moments.after(monkeypatch, "define", lambda: edit(host, pmu="on"))
        ran = host.json("apply")
        assert ran.by_name("outcome") == {"web": "changed"}
        assert ran.by_name("old") == {"web": "on"}
        assert host.json("journal").by_name("old") == {"web": "on"}
        monkeypatch.undo()
        host.pmuconf("rollback", "--all")
        assert (host.pmu("web"), title(host)) == ("on", MARK)
