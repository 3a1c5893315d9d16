"""``pmuconf apply``: what it changes in a domain, and what it leaves alone."""

from __future__ import annotations

import sqlite3

import libvirt
import pytest

from pmuconf.change.result import Outcome
from pmuconf.change.run import Run
from pmuconf.conf import load
from pmuconf.domain.definition import PmuState
from pmuconf.errors import PmuconfError
from tests.functional import moments, oracle
from tests.functional.host import OFF, ON, Defines, Host, journal_bytes
from tests.support.domains import nova_domain, plain_domain

SECRET = "geheim"

RULES = """\
[policy]
default = off
rules = realtime, lab
[rule:realtime]
flavor = rt.*
pmu = on
reason = they profile
[rule:lab]
domain = lab-*
pmu = keep
"""

METADATA = """\
  <title>T &lt;b&gt; \u202e</title>
  <description>two
lines &amp; more</description>
  <metadata>
    <x:note xmlns:x='urn:x' x:level='1'><![CDATA[<features><pmu state='on'/></features>]]><x:pmu state='on'/></x:note>
    <y:note xmlns:y='urn:y'>
  <features>
    <pmu state='on'/>
  </features>
    </y:note>
  </metadata>
"""


def rich_domain(name: str) -> str:
    """A domain with what is easily lost or damaged: foreign metadata, a command line of its own, a secret."""
    xml = plain_domain(name, pmu="on", vnc_password=SECRET)
    xml = xml.replace("<domain ", "<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0' ", 1)
    xml = xml.replace("</uuid>\n", f"</uuid>\n{METADATA}", 1)
    command_line = "  <qemu:commandline>\n    <qemu:env name='PMU' value='&lt;on&gt;'/>\n  </qemu:commandline>\n"
    return xml.replace("</domain>", f"{command_line}</domain>")


@pytest.mark.parametrize("state", [PmuState.ON, PmuState.OFF])
def test_a_state_that_is_asked_for_beats_the_rules_and_not_the_flavor(host: Host, state: PmuState) -> None:
    """And where one of those named can't have it, none is changed."""
    host.configure(RULES)
    other = "false" if state is PmuState.ON else "true"
    theirs = nova_domain("n-flavor", version="32.0.0", extra_specs={"hw:pmu": other}, cpu_mode=None)
    host.define(plain_domain("lab-1"), theirs)
    run = Run(load([str(host.policy)]))
    with pytest.raises(PmuconfError) as caught:
        run.apply(["lab-1", "n-flavor"], state=state)
    assert (caught.value.cause, caught.value.hint) == (
        "request-refused",
        "'pmuconf policy explain n-flavor' tells its story",
    )
    assert host.pmu("lab-1") == "default"
    (result,) = run.apply(["lab-1"], state=state)
    assert (result.outcome, result.rule, host.pmu("lab-1")) == (Outcome.CHANGED, "requested", state.value)


class TestWhatChanges:
    """The PMU element of the next boot, and nothing else in the domain."""

    def test_a_mixed_host(self, host: Host) -> None:
        host.configure(RULES)
        host.define(
            plain_domain("a-default"),
            plain_domain("a-off", pmu="off"),
            plain_domain("a-on", pmu="on"),
            plain_domain("a-bare", features=False),
            plain_domain("a-secret", vnc_password=SECRET),
            rich_domain("a-rich"),
            plain_domain("lab-1", pmu="on"),
            nova_domain("n-default", vnc_password=SECRET),
            nova_domain("n-on", pmu="on"),
            nova_domain("n-passthrough", cpu_mode="host-passthrough"),
            nova_domain("n-32-on", version="32.0.0", pmu="on"),
            nova_domain("n-32-flavor", version="32.0.0", extra_specs={"hw:pmu": "true"}),
            nova_domain("n-32-image", version="32.0.0", pmu="on", image_properties={"hw_pmu": "no"}),
            nova_domain("n-rt", flavor="rt.large"),
            nova_domain("n-rt-off", version="32.0.0", flavor="rt.large", pmu="off"),
        )
        before = host.xmls()

        ran = host.json("apply")

        wanted = {
            **{"a-default": "off", "a-on": "off", "a-bare": "off", "a-secret": "off", "a-rich": "off"},
            # Nova 26 doesn't tell whether hw:pmu asked for the "on" that stands there: it is kept.
            **{"n-default": "off", "n-passthrough": "off", "n-32-on": "off", "n-32-image": "off"},
            **{"n-32-flavor": "on", "n-rt": "on", "n-rt-off": "on"},
        }
        after = host.xmls()
        assert {name: oracle.pmu(after[name]) for name in wanted} == wanted
        assert [name for name in wanted if not oracle.differs_in_pmu_alone(before[name], after[name])] == []
        assert [name for name in before if name not in wanted and after[name] != before[name]] == []
        assert ran.by_name("outcome") == dict.fromkeys(wanted, "changed")
        assert ran.by_name("new") == wanted
        assert ran.by_name("rule")["n-rt"] == "realtime"
        assert ran.by_name("rule")["n-32-flavor"] == "hw:pmu"
        assert ran.by_name("rule")["n-32-image"] == "hw_pmu"
        assert ran.status == 0
        assert host.pmuconf("audit").status == 0

    def test_in_a_rich_domain(self, host: Host) -> None:
        """libvirt's text is the same to the letter but for one line."""
        host.define(rich_domain("web"))
        host.define(host.xml("web"))  # libvirt's own text comes back as it is from now on
        before = host.xml("web")
        host.pmuconf("apply")
        is_on, is_off = (f"\n    <pmu state='{state}'/>\n  </features>\n  <cpu" for state in ("on", "off"))
        assert is_on in before
        assert host.xml("web") == before.replace(is_on, is_off)
        assert "<![CDATA[" in host.xml("web")

    def test_with_prefixes_in_its_metadata_that_nobody_declared(self, host: Host) -> None:
        """libvirt keeps them, and hands them out."""
        nested = '<kept:x xmlns:kept="urn:kept" lab:colour="red"><lab:tier>gold</lab:tier></kept:x>'
        host.define(plain_domain("web", pmu="on").replace("</uuid>", f"</uuid><metadata>{nested}</metadata>"))
        before = host.xml("web")
        assert "<lab:tier>gold</lab:tier>" in before
        assert host.json("audit").by_name("decision") == {"web": "off"}
        assert host.json("apply").by_name("outcome") == {"web": "changed"}
        assert host.xml("web") == before.replace("<pmu state='on'/>", "<pmu state='off'/>")
        assert host.json("rollback", "web").by_name("outcome") == {"web": "changed"}
        assert host.xml("web") == before

    def test_it_is_on_the_disk(self, host: Host) -> None:
        host.define(plain_domain("web", vnc_password=SECRET))
        host.pmuconf("apply")
        host.daemon.kill()
        host.daemon.start()
        host.reconnect()
        assert host.pmu("web") == "off"
        assert f"passwd='{SECRET}'" in host.xml("web")

    def test_a_second_run_defines_nothing(self, host: Host) -> None:
        fence, *_ = host.define(plain_domain("fence", pmu="off"), *(plain_domain(f"vm-{n}") for n in range(5)))
        assert host.pmuconf("apply").status == 0
        with Defines(host.daemon.uri) as heard:
            ran = host.pmuconf("apply")
            heard.fence(fence)
            assert heard.names == ["fence"]
        assert ran.status == 0
        assert "nothing to change" in ran.err

    def test_there_and_back(self, host: Host) -> None:
        """default, off, on, off: each time the one element."""
        host.define(plain_domain("web", features=False), nova_domain("nova", version="32.0.0"))
        before = {name: oracle.rest(xml) for name, xml in host.xmls().items()}
        for policy, state in ((OFF, "off"), (ON, "on"), (OFF, "off")):
            host.configure(policy)
            assert host.pmuconf("apply").status == 0
            assert host.pmus() == {"web": state, "nova": state}
        assert {name: oracle.rest(xml) for name, xml in host.xmls().items()} == before

    def test_named_domains_only(self, host: Host) -> None:
        host.define(plain_domain("a"), plain_domain("b"), plain_domain("c"))
        ran = host.json("apply", "b", host.domain("c").UUIDString())
        assert ran.by_name("outcome") == {"b": "changed", "c": "changed"}
        assert host.pmus() == {"a": "default", "b": "off", "c": "off"}


class TestWhatIsLeftAlone:
    """Guests that run, and what has no next boot."""

    def test_a_running_guest(self, host: Host) -> None:
        (guest,) = host.define(plain_domain("web", pmu="on", vnc_password=SECRET))
        guest.create()
        live, pid = host.live_xml("web"), host.guest_pid("web")

        ran = host.json("apply")

        assert host.pmu("web") == "off"
        assert (host.live_xml("web"), host.guest_pid("web")) == (live, pid)
        assert (ran.by_name("outcome"), ran.by_name("pending")) == ({"web": "changed"}, {"web": True})
        assert ran.status == 1
        assert host.json("audit").by_name("status") == {"web": "pending"}

    def test_a_saved_guest(self, host: Host) -> None:
        (guest,) = host.define(plain_domain("web", pmu="on"))
        guest.create()
        guest.managedSave()

        ran = host.json("apply")

        assert host.pmu("web") == "off"
        assert oracle.pmu(guest.managedSaveGetXMLDesc(0)) == "on"
        assert ran.by_name("pending") == {"web": True}
        guest.create()
        assert oracle.pmu(host.live_xml("web")) == "on"

    @pytest.mark.parametrize("method", ["next_boot_xml", "define"])
    def test_a_guest_that_starts_during_the_run_is_pending(
        self, host: Host, monkeypatch: pytest.MonkeyPatch, method: str
    ) -> None:
        """With the old state, though the plan knew nothing of it."""
        (guest,) = host.define(plain_domain("web", pmu="on"))
        moments.before(monkeypatch, method, guest.create, call=2 if method == "next_boot_xml" else 1)
        ran = host.json("apply")
        assert (host.pmu("web"), oracle.pmu(host.live_xml("web"))) == ("off", "on")
        assert (ran.by_name("outcome"), ran.by_name("pending")) == ({"web": "changed"}, {"web": True})
        assert ran.status == 1

    def test_one_that_starts_behind_the_change_has_the_new_state(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (guest,) = host.define(plain_domain("web", pmu="on"))
        moments.after(monkeypatch, "define", guest.create)
        ran = host.json("apply")
        assert oracle.pmu(host.live_xml("web")) == "off"
        assert (ran.status, ran.by_name("pending")) == (0, {"web": False})

    def test_one_that_stops_during_the_run_waits_for_nothing(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        (guest,) = host.define(plain_domain("web", pmu="on"))
        guest.create()
        moments.before(monkeypatch, "define", guest.destroy)
        ran = host.json("apply")
        assert (ran.status, ran.by_name("pending")) == (0, {"web": False})

    def test_one_that_is_saved_during_the_run_is_pending(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        (guest,) = host.define(plain_domain("web", pmu="on"))

        def saved() -> None:
            guest.create()
            guest.managedSave()

        moments.before(monkeypatch, "define", saved)
        ran = host.json("apply")
        assert oracle.pmu(guest.managedSaveGetXMLDesc(0)) == "on"
        assert (ran.status, ran.by_name("pending")) == (1, {"web": True})

    def test_a_transient_guest_stays_transient(self, host: Host) -> None:
        guest = host.connection.createXML(plain_domain("job", pmu="on"))
        live, pid = host.live_xml("job"), host.guest_pid("job")

        ran = host.json("apply")

        assert not guest.isPersistent()
        assert (host.live_xml("job"), host.guest_pid("job")) == (live, pid)
        assert ran.by_name("outcome") == {"job": "transient"}
        assert ran.status == 1
        assert not list(host.daemon.config_dir.glob("*.xml"))

    def test_novas_domains_if_they_are_only_to_be_observed(self, host: Host) -> None:
        host.configure("[policy]\nnova_domains = observe\n")
        host.define(plain_domain("web"), nova_domain("nova"), nova_domain("old-nova", version="20.6.1"))
        ran = host.json("apply")
        assert ran.by_name("outcome") == {"web": "changed", "nova": "observed", "old-nova": "observed"}
        assert host.pmus() == {"web": "off", "nova": "default", "old-nova": "default"}
        assert ran.status == 2

    def test_how_long_a_rewrite_lasts_with_nova_is_said(self, host: Host) -> None:
        host.define(plain_domain("web"), nova_domain("nova"))
        notes = host.json("apply").by_name("note")
        assert notes["web"] == ""
        assert "hard reboot" in notes["nova"]


class TestDryRun:
    """It shows what would be done, with no right to do it."""

    def test_nothing_is_changed(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        host.define(plain_domain("a"), plain_domain("b", pmu="off"), nova_domain("c"))
        before = host.xmls()
        opened: list[str] = []
        with monkeypatch.context() as spying:
            spying.setattr(libvirt, "open", opened.append)
            ran = host.json("apply", "--dry-run")
        assert opened == []
        assert host.xmls() == before
        assert not host.journal_dir.exists()
        assert ran.by_name("outcome") == {"a": "planned", "c": "planned"}
        assert ran.status == 2

    def test_the_read_only_socket_is_enough(self, host: Host) -> None:
        host.define(plain_domain("a"))
        assert host.json("apply", "--dry-run", "--connect", host.daemon.uri_ro).by_name("outcome") == {"a": "planned"}

    def test_with_nothing_to_do(self, host: Host) -> None:
        host.define(plain_domain("a", pmu="off"))
        assert host.pmuconf("apply", "--dry-run").status == 0


class TestSecrets:
    """The VNC password is needed to redefine a domain, and seen by nobody."""

    def test_it_survives_and_is_told_nowhere(self, host: Host) -> None:
        host.define(*(plain_domain(f"vm-{n}", vnc_password=SECRET) for n in range(5)))
        shown = ""
        for number, form in enumerate(("table", "json", "yaml", "csv", "value")):
            host.configure(ON if number % 2 else OFF)
            for command in (["audit"], ["apply", "--dry-run"], ["apply"], ["journal"]):
                ran = host.pmuconf("--debug", *command, "-f", form)
                assert ran.status in (0, 2), ran.err
                shown += ran.out + ran.err
        for command in (["report"], ["policy", "explain", "vm-0"], ["rollback", "--all"]):
            shown += "".join(map(str, host.pmuconf("--debug", *command).__dict__.values()))
        assert SECRET not in shown
        assert "<domain" not in shown
        assert SECRET.encode() not in journal_bytes(host.journal_dir)
        with sqlite3.connect(host.journal) as journal:
            assert SECRET not in "\n".join(journal.iterdump())
        assert all(f"passwd='{SECRET}'" in xml for xml in host.xmls().values())

    def test_not_even_by_a_define_that_fails(self, host: Host) -> None:
        host.define(plain_domain("web", vnc_password=SECRET))
        host.spoil("web")
        ran = host.pmuconf("--debug", "apply", "-f", "json")
        assert ran.by_name("outcome") == {"web": "failed"}
        assert SECRET not in ran.out + ran.err
        assert SECRET.encode() not in journal_bytes(host.journal_dir)

    def test_while_a_change_is_in_flight_its_file_is_roots_alone(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host.define(plain_domain("web", vnc_password=SECRET))
        modes: dict[str, int] = {}
        held: list[bool] = []

        def look() -> None:
            held.append(SECRET.encode() in journal_bytes(host.journal_dir))
            modes.update({path.name: path.stat().st_mode & 0o777 for path in host.journal_dir.iterdir()})
            modes["."] = host.journal_dir.stat().st_mode & 0o777

        moments.before(monkeypatch, "define", look)
        host.pmuconf("apply")
        assert held == [True]  # it is there to put the domain right with
        assert modes.pop(".") == 0o700
        assert set(modes.values()) == {0o600}

    def test_nor_does_it_stay_where_somebody_reads_the_journal_meanwhile(self, host: Host) -> None:
        """SQLite can't cut its log off as long as a reader needs it; the end of the next run does."""
        host.define(plain_domain("a", vnc_password=SECRET))
        host.pmuconf("apply")
        host.define(plain_domain("b", vnc_password=SECRET))
        reader = sqlite3.connect(host.journal)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM change").fetchall()
        assert host.pmuconf("apply").status == 0
        reader.close()
        assert host.pmuconf("apply").status == 0
        assert SECRET.encode() not in journal_bytes(host.journal_dir)


def test_a_dry_run_asks_no_journal(host: Host) -> None:
    """It takes no root: the journal may be another user's, or broken."""
    host.define(plain_domain("web"))
    host.journal.parent.mkdir(exist_ok=True)
    host.journal.write_text("no journal")
    assert host.json("apply", "--dry-run").by_name("outcome") == {"web": "planned"}
    assert host.pmuconf("apply", "--dry-run", "--continue").status == 255
