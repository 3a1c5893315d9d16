"""Somebody else edits a domain at one certain moment of pmuconf's change: every window, one by one.

A change reads the domain, writes it down, reads again and compares, defines, and reads to verify. libvirt has no
compare-and-swap, so an edit that falls between the comparison and the define is overwritten: that can't be helped.
It is reported, if libvirt tells of it at all. Whatever falls elsewhere is kept, and nothing is ever put back.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Any

import libvirt
import pytest

from pmuconf.errors import PmuconfError
from pmuconf.hypervisor import watch
from pmuconf.hypervisor.errors import translate
from pmuconf.hypervisor.hypervisor import Hypervisor, Listed
from pmuconf.hypervisor.watch import DefineWatch
from tests.functional import moments, oracle
from tests.functional.host import Host
from tests.support.domains import plain_domain

# Calls of Hypervisor.next_boot_xml() in a run that changes one domain.
DRAFT, COMPARE, VERIFY = 2, 3, 4

MARK = "an edit by another tool"
BEING_REMOVED = "operation failed: domain 'web' is already being removed"


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


CONFIG = libvirt.VIR_DOMAIN_AFFECT_CONFIG

DISK = (
    "<disk type='file'><driver name='qemu' type='raw'/><source file='/var/lib/other.img'/>"
    "<target dev='vda' bus='virtio'/></disk>"
)

# Edits that give no define event: what makes one, and how its next boot shows it.
Edits = dict[str, tuple[Callable[[libvirt.virDomain], object], str]]
SILENT: Edits = {
    "setmem": (lambda web: web.setMemoryFlags(8192, CONFIG), ">8192</currentMemory>"),
    "attach-device": (lambda web: web.attachDeviceFlags(DISK, CONFIG), "/var/lib/other.img"),
}
TOLD: Edits = {
    "title": (lambda web: web.setMetadata(libvirt.VIR_DOMAIN_METADATA_TITLE, MARK, None, None, CONFIG), MARK),
    "metadata": (
        lambda web: web.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, f"<n>{MARK}</n>", "x", "urn:x", CONFIG),
        MARK,
    ),
}


class TestAnEditWithoutADefine:
    """``virsh setmem --config`` and the like give no event at all, title and metadata one of their own."""

    @pytest.mark.parametrize("call", [DRAFT, COMPARE])
    @pytest.mark.parametrize("what", [*SILENT, *TOLD])
    def test_before_the_comparison_it_is_kept(
        self, host: Host, web: libvirt.virDomain, monkeypatch: pytest.MonkeyPatch, call: int, what: str
    ) -> None:
        edit, trace = {**SILENT, **TOLD}[what]
        moments.before(monkeypatch, "next_boot_xml", lambda: edit(web), call=call)
        ran = host.json("apply")
        assert (host.pmu("web"), trace in host.xml("web")) == ("off", True)
        assert (ran.status, ran.by_name("cause")) == (0, {"web": ""})

    @pytest.mark.parametrize("what", SILENT)
    def test_behind_the_define_it_stays_and_is_reported(
        self, host: Host, web: libvirt.virDomain, monkeypatch: pytest.MonkeyPatch, what: str
    ) -> None:
        """It can't be told from what libvirt itself may do to a definition."""
        edit, trace = SILENT[what]
        moments.after(monkeypatch, "define", lambda: edit(web))
        ran = host.json("apply")
        assert (host.pmu("web"), trace in host.xml("web")) == ("off", True)
        assert ran.by_name("outcome") == {"web": "changed"}
        # From 11.3 on, if not before, libvirt gives an event for a device. It counts as a define of somebody else's.
        told = what == "attach-device" and host.connection.getLibVersion() >= 11_003_000
        assert ran.by_name("cause") == {"web": "edit-overwritten" if told else "differs-after"}
        assert ran.status == 1
        assert host.json("journal").by_name("status") == {"web": "done"}

    @pytest.mark.parametrize("what", TOLD)
    def test_behind_the_define_it_stays_and_its_event_explains_it(
        self, host: Host, web: libvirt.virDomain, monkeypatch: pytest.MonkeyPatch, what: str
    ) -> None:
        edit, trace = TOLD[what]
        moments.after(monkeypatch, "define", lambda: edit(web))
        ran = host.json("apply")
        assert (host.pmu("web"), trace in host.xml("web")) == ("off", True)
        assert (ran.status, ran.by_name("cause")) == (0, {"web": ""})
        assert host.json("journal").by_name("status") == {"web": "done"}

    @pytest.mark.parametrize("what", [*SILENT, *TOLD])
    def test_behind_the_verification_it_is_kept(
        self, host: Host, web: libvirt.virDomain, monkeypatch: pytest.MonkeyPatch, what: str
    ) -> None:
        edit, trace = {**SILENT, **TOLD}[what]
        moments.after(monkeypatch, "next_boot_xml", lambda: edit(web), call=VERIFY)
        ran = host.json("apply")
        assert (host.pmu("web"), trace in host.xml("web")) == ("off", True)
        assert ran.by_name("outcome") == {"web": "changed"}
        assert host.json("journal").by_name("status") == {"web": "done"}

    def test_one_after_the_other_are_all_kept_and_the_change_is_ours_all_the_same(
        self, host: Host, web: libvirt.virDomain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What the journal tells is what our define did, whatever else moves."""
        sizes = iter(range(4096, 16384))
        moments.after(monkeypatch, "define", lambda: web.setMemoryFlags(next(sizes), CONFIG))
        moments.before(monkeypatch, "next_boot_xml", lambda: web.setMemoryFlags(next(sizes), CONFIG), call=VERIFY + 1)
        ran = host.json("apply")
        assert ran.by_name("outcome") == {"web": "changed"}
        assert f">{next(sizes) - 1}</currentMemory>" in host.xml("web")
        assert host.json("journal").by_name("status") == {"web": "done"}

    @pytest.mark.parametrize("what", TOLD)
    def test_one_that_is_overwritten_is_reported(
        self, host: Host, web: libvirt.virDomain, monkeypatch: pytest.MonkeyPatch, what: str
    ) -> None:
        edit, trace = TOLD[what]
        moments.before(monkeypatch, "define", lambda: edit(web))
        ran = host.json("apply")
        assert trace not in host.xml("web")
        assert ran.by_name("cause") == {"web": "edit-overwritten"}
        assert ran.status == 1

    def test_one_that_stays_does_not_stand_in_for_one_that_was_overwritten(
        self, host: Host, web: libvirt.virDomain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        moments.before(monkeypatch, "define", lambda: edit(host, mark="lost"))
        moments.after(monkeypatch, "define", lambda: SILENT["setmem"][0](web))
        ran = host.json("apply")
        assert (title(host), SILENT["setmem"][1] in host.xml("web")) == ("", True)
        assert ran.by_name("cause") == {"web": "edit-overwritten"}

    def test_one_that_takes_the_pmu_back_is_planned_anew(
        self, host: Host, web: libvirt.virDomain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """attach-device --live --config works on a copy of the definition for a while."""
        monkeypatch.setattr(DefineWatch, "_others", lambda *_: 0)
        real = DefineWatch.since
        monkeypatch.setattr(DefineWatch, "since", lambda *given: real(*given)[:1])
        moments.after(monkeypatch, "define", lambda: edit(host, pmu="default"))
        ran = host.json("apply")
        assert (host.pmu("web"), title(host)) == ("off", MARK)
        assert ran.by_name("outcome") == {"web": "changed"}


class TestADefineThatDoesMore:
    """More is another afterwards than the PMU, and nobody else was at it: it stays, and is reported."""

    @pytest.fixture
    def damage(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each define loses the VNC password."""
        real = Hypervisor.define

        def define(self: Hypervisor, listed: Listed, xml: str) -> None:
            damaged = re.sub(""" passwd=["']geheim["']""", "", xml)
            assert damaged != xml
            real(self, listed, damaged)

        monkeypatch.setattr(Hypervisor, "define", define)

    @pytest.mark.usefixtures("damage")
    def test_one_domains_matter_stops_no_other(self, host: Host) -> None:
        host.define(*(plain_domain(name, vnc_password="geheim") for name in ("a", "b")))
        ran = host.json("apply")
        assert ran.by_name("outcome") == {"a": "changed", "b": "changed"}
        assert ran.by_name("cause") == {"a": "differs-after", "b": "differs-after"}
        assert "devices/graphics@passwd" in ran.by_name("note")["a"]
        assert "geheim" not in ran.out + ran.err
        assert ran.status == 1
        assert host.json("journal").by_name("status") == {"a": "done", "b": "done"}

    @pytest.mark.usefixtures("damage")
    def test_but_the_run_stops_at_the_limit_of_failures(self, host: Host) -> None:
        host.configure("[libvirt]\nparallel = 1\n[change]\nmax_failures = 1\n")
        host.define(*(plain_domain(name, vnc_password="geheim") for name in ("a", "b", "c")))
        ran = host.json("apply")
        assert ran.by_name("outcome") == {"a": "changed", "b": "changed", "c": "not-reached"}
        assert ran.by_name("cause")["c"] == "too-many-failures"
        assert host.pmus()["c"] == "default"
        assert ran.status == 2

    @pytest.mark.usefixtures("damage")
    def test_and_behind_the_canary(self, host: Host) -> None:
        host.define(*(plain_domain(name, vnc_password="geheim") for name in ("a", "b")))
        ran = host.json("apply", "--canary", "1", "--continue")
        assert ran.by_name("outcome") == {"a": "changed", "b": "not-reached"}
        assert ran.by_name("cause")["b"] == "canary-failed"

    def test_what_libvirt_itself_changes_at_the_first_redefine_is_said_and_no_trouble(self, host: Host) -> None:
        console = "<serial type='pty'/><console type='pty'><target type='virtio'/></console>"
        xml = plain_domain("fresh").replace("</devices>", f"{console}</devices>")
        (fresh,) = host.define(xml)
        before = host.xml("fresh")
        host.define(before)
        changes = host.xml("fresh") != before  # libvirt 9.0 does it, 11.3 does not
        fresh.undefine()
        host.define(xml)
        ran = host.json("apply")
        assert ran.by_name("outcome") == {"fresh": "changed"}
        assert ("devices/console/target@port" in ran.by_name("note")["fresh"]) == changes
        assert (ran.status, ran.by_name("cause")) == (0, {"fresh": ""})
        assert host.json("journal").by_name("status") == {"fresh": "done"}

    def test_one_that_cant_be_looked_at_ends_the_run(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        host.configure("[libvirt]\nparallel = 1\n")
        host.define(plain_domain("a"), plain_domain("b"))
        real = Hypervisor.next_boot_xml
        calls = iter(range(1, 100))

        def unreadable(self: Hypervisor, listed: Listed, **named: Any) -> str:
            if next(calls) == 6:  # two looks, two drafts, the comparison of a, and then its verification
                raise PmuconfError("libvirt says no", cause="libvirt-error")
            return real(self, listed, **named)

        monkeypatch.setattr(Hypervisor, "next_boot_xml", unreadable)
        ran = host.json("apply")
        assert ran.by_name("outcome") == {"a": "failed", "b": "not-reached"}
        assert ran.by_name("cause")["a"] == "verify-failed"
        assert ran.status == 255
        assert host.pmus() == {"a": "off", "b": "default"}
        assert {row["name"]: row["status"] for row in host.json("journal").rows}["a"] == "done"


class TestAWatchThatMissesOurOwnDefine:
    """Then an edit in the moment of the change can't be excluded: said, and judged by looking."""

    @pytest.fixture(autouse=True)
    def deaf(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No event is heard."""
        monkeypatch.setattr(watch, "_EVENT_SECONDS", 0.1)
        monkeypatch.setattr(watch, "_ANOTHER_SECONDS", 0.1)
        monkeypatch.setattr(DefineWatch, "_heard", lambda *_: None)

    def test_the_change_is_made_and_the_doubt_reported(self, host: Host) -> None:
        host.define(plain_domain("a"), plain_domain("b"))
        ran = host.json("apply")
        assert host.pmus() == {"a": "off", "b": "off"}
        assert ran.by_name("outcome") == {"a": "changed", "b": "changed"}
        assert ran.by_name("cause") == {"a": "not-confirmed", "b": "not-confirmed"}
        assert ran.status == 1
        assert host.json("journal").by_name("cause")["a"] == "not-confirmed"

    @pytest.mark.usefixtures("web")
    def test_an_overwritten_edit_is_not_passed_over_in_silence(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        moments.before(monkeypatch, "define", lambda: edit(host))
        ran = host.json("apply")
        assert title(host) == ""
        assert ran.by_name("cause") == {"web": "not-confirmed"}

    @pytest.mark.usefixtures("web")
    def test_a_change_that_was_taken_back_is_made_again(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        moments.after(monkeypatch, "define", lambda: edit(host, pmu="default"))
        ran = host.json("apply")
        assert (host.pmu("web"), title(host)) == ("off", MARK)
        assert ran.by_name("outcome") == {"web": "changed"}


def test_a_watch_that_is_deaf_from_its_beginning_hears_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """libvirt may deliver no event to a new listener: the first domain shows it, and the others are heard of."""
    host.configure("[libvirt]\nparallel = 1\n")
    host.define(plain_domain("a"), plain_domain("b"))
    monkeypatch.setattr(watch, "_EVENT_SECONDS", 0.5)
    with monkeypatch.context() as deaf:
        real = DefineWatch._listen
        calls = iter(range(10))
        deaf.setattr(DefineWatch, "_listen", lambda self, line: real(self, line) if next(calls) else None)
        ran = host.json("apply")
    assert ran.by_name("outcome") == {"a": "changed", "b": "changed"}
    assert ran.by_name("cause") == {"a": "not-confirmed", "b": ""}


@pytest.mark.usefixtures("web")
def test_an_overwritten_edit_that_libvirt_tells_of_too_late_is_reported(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libvirt lets go of a domain before it queues the event of a define: the other one's may come behind ours."""
    real = DefineWatch._heard
    held: list[tuple[Any, ...]] = []

    def heard(self: DefineWatch, *arguments: Any) -> None:
        if held:  # ours; the other one's is kept until the next event loop's turn that somebody waits for
            real(self, *arguments)
        else:
            held.append((self, *arguments))

    def told() -> None:
        for arguments in held:
            real(*arguments)

    monkeypatch.setattr(DefineWatch, "_heard", heard)
    moments.before(monkeypatch, "define", lambda: edit(host))
    moments.before(monkeypatch, "is_saved", told)
    ran = host.json("apply")
    assert title(host) == ""
    assert ran.by_name("cause") == {"web": "edit-overwritten"}


class TestADomainThatIsUndefined:
    """If a define of ours brings it back, in the one window, it stays and is named: it may be somebody's by then."""

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
        assert host.names() == ["web"]
        assert ran.by_name("cause") == {"web": "defined-anew"}
        assert "virsh undefine" in ran.by_name("remedy")["web"]
        assert ran.status == 2
        assert host.json("journal").by_name("cause") == {"web": "defined-anew"}
        assert host.json("journal").by_name("status") == {"web": "done"}

    def test_and_its_owner_defines_it_anew_behind_ours(
        self, host: Host, web: libvirt.virDomain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The owner's stands, whenever it comes."""
        xml = host.xml("web").replace("</uuid>\n", f"</uuid>\n  <title>{MARK}</title>\n", 1)
        moments.before(monkeypatch, "define", web.undefine)
        moments.after(monkeypatch, "define", lambda: host.define(xml))
        host.json("apply")
        assert (host.names(), title(host)) == (["web"], MARK)

    def test_and_its_owner_defines_it_anew_behind_the_last_look(
        self, host: Host, web: libvirt.virDomain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        xml = host.xml("web").replace("</uuid>\n", f"</uuid>\n  <title>{MARK}</title>\n", 1)
        moments.before(monkeypatch, "define", web.undefine)
        moments.before(monkeypatch, "is_saved", lambda: host.define(xml))
        ran = host.json("apply")
        assert (host.names(), title(host)) == (["web"], MARK)
        assert ran.by_name("outcome") == {"web": "changed"}

    def test_behind_the_define(self, host: Host, web: libvirt.virDomain, monkeypatch: pytest.MonkeyPatch) -> None:
        moments.after(monkeypatch, "define", web.undefine)
        host.json("apply")
        assert host.names() == []

    @pytest.mark.parametrize("method", ["next_boot_xml", "is_persistent"])
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

    def test_while_it_runs_between_comparison_and_define(
        self, host: Host, web: libvirt.virDomain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        web.create()
        pid = host.guest_pid("web")
        moments.before(monkeypatch, "define", web.undefine)
        ran = host.json("apply")
        assert oracle.pmu(host.live_xml("web")) == "default"
        assert host.guest_pid("web") == pid
        assert ran.by_name("cause") == {"web": "defined-anew"}

    def test_while_it_runs_behind_the_define(
        self, host: Host, web: libvirt.virDomain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        web.create()
        moments.after(monkeypatch, "define", web.undefine)
        ran = host.json("apply")
        assert not web.isPersistent()
        assert ran.by_name("outcome") == {"web": "transient"}

    def test_and_stopped_too(self, host: Host, web: libvirt.virDomain, monkeypatch: pytest.MonkeyPatch) -> None:
        web.create()

        def gone() -> None:
            web.undefine()
            web.destroy()

        moments.before(monkeypatch, "define", gone)
        ran = host.json("apply")
        assert ran.by_name("cause") == {"web": "defined-anew"}

    def test_half_way_while_we_define(
        self, host: Host, web: libvirt.virDomain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """libvirt refuses a define while it removes a domain: that one vanished, and did not fail."""

        def removing(self: Hypervisor, listed: Listed, xml: str) -> None:
            web.undefine()
            error = libvirt.libvirtError(BEING_REMOVED)
            error.err = (libvirt.VIR_ERR_OPERATION_FAILED, libvirt.VIR_FROM_DOMAIN, BEING_REMOVED, 2, *[None] * 5)
            raise translate(error, listed.name)

        monkeypatch.setattr(Hypervisor, "define", removing)
        ran = host.json("apply")
        assert ran.by_name("outcome") == {"web": "vanished"}
        assert ran.status == 1


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

    def test_between_comparison_and_define_and_gone_for_good_behind_it(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What we overwrote is reported, though nothing of it can be looked at any more."""
        moments.before(monkeypatch, "define", lambda: self.again(host, MARK))
        moments.before(monkeypatch, "next_boot_xml", lambda: host.domain("web").undefine(), call=VERIFY)
        ran = host.json("apply")
        assert host.names() == []
        assert ran.by_name("outcome") == {"web": "vanished"}
        assert ran.by_name("cause") == {"web": "edit-overwritten"}

    def test_behind_the_last_look_while_libvirt_has_told_of_a_half_of_it(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It came behind our look, so it is no difference that our define made."""
        real = DefineWatch.since
        moments.before(monkeypatch, "is_saved", lambda: self.again(host, MARK))
        monkeypatch.setattr(DefineWatch, "since", lambda *given: real(*given)[:2])
        ran = host.json("apply")
        assert (host.pmu("web"), title(host)) == ("off", MARK)
        assert ran.by_name("cause") == {"web": ""}

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
