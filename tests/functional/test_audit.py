"""``pmuconf audit`` on real guests: what they have now, at the next boot, saved, and in snapshots."""

from __future__ import annotations

import libvirt
import pytest

from tests.functional import moments, oracle
from tests.functional.host import ON, Host
from tests.support.domains import nova_domain, plain_domain


def flip(host: Host, name: str, state: str) -> None:
    """Redefine a domain with another PMU state, whatever runs."""
    host.define(plain_domain(name, pmu=state))


class TestStates:
    """The four places where a domain has a PMU state, each read by itself."""

    def test_a_guest_that_runs_on_with_another_state_is_pending(self, host: Host) -> None:
        (guest,) = host.define(plain_domain("web", pmu="on"))
        guest.create()
        flip(host, "web", "off")

        ran = host.json("audit")

        assert oracle.pmu(host.live_xml("web")) == "on"
        assert host.pmu("web") == "off"
        (row,) = ran.rows
        assert (row["live"], row["next_boot"], row["saved"]) == ("on", "off", None)
        assert (row["drift"], row["pending"], row["status"]) == (False, True, "pending")
        assert ran.status == 1

    def test_a_saved_image_brings_its_own_state_back(self, host: Host) -> None:
        (guest,) = host.define(plain_domain("web", pmu="on"))
        guest.create()
        guest.managedSave()
        flip(host, "web", "off")

        ran = host.json("audit")

        assert oracle.pmu(guest.managedSaveGetXMLDesc(0)) == "on"
        (row,) = ran.rows
        assert (row["live"], row["next_boot"], row["saved"]) == (None, "off", "on")
        assert row["status"] == "pending"
        assert ran.status == 1

    def test_snapshots_are_counted_that_would_bring_another_state_back(self, host: Host) -> None:
        (guest,) = host.define(plain_domain("web", pmu="on"))
        guest.create()
        for number, state in enumerate(("on", "off", "on")):
            flip(host, "web", state)
            guest.snapshotCreateXML(
                f"<domainsnapshot><name>s{number}</name>"
                f"<memory snapshot='external' file='{host.daemon.root}/memory-{number}'/></domainsnapshot>"
            )
        guest.destroy()

        counted = {}
        for state in ("on", "off"):
            flip(host, "web", state)
            (row,) = host.json("audit").rows
            counted[state] = row["snapshots"]

        # The guest ran with "on" all the time, but a revert makes the snapshot's next boot the domain's.
        would_be = sorted(oracle.pmu(_next_boot_of(snapshot)) for snapshot in guest.listAllSnapshots())
        assert would_be == ["off", "on", "on"]
        assert counted == {"on": 1, "off": 2}

    def test_a_domain_that_never_ran_has_a_next_boot_only(self, host: Host) -> None:
        host.define(plain_domain("a"), plain_domain("b", pmu="off"), plain_domain("c", pmu="on"))

        ran = host.json("audit")

        assert ran.by_name("next_boot") == host.pmus() == {"a": "default", "b": "off", "c": "on"}
        assert ran.by_name("status") == {"a": "drift", "b": "ok", "c": "drift"}
        assert {(row["live"], row["saved"], row["snapshots"]) for row in ran.rows} == {(None, None, 0)}
        assert ran.status == 2

    def test_what_the_guest_gets_is_told_beside_the_state(self, host: Host) -> None:
        host.define(
            nova_domain("custom", cpu_mode="custom"),
            nova_domain("host-model", cpu_mode="host-model"),
            nova_domain("maximum", cpu_mode="maximum"),
            nova_domain("none", cpu_mode=None),
            nova_domain("written", cpu_mode="maximum", pmu="off"),
        )

        ran = host.json("audit")

        # Without KVM it depends on the QEMU what maximum has.
        wanted = {"custom": "off", "host-model": "off", "maximum": None, "none": "off", "written": "off"}
        assert ran.by_name("effective_pmu") == wanted
        assert ran.by_name("next_boot") == {**dict.fromkeys(wanted, "default"), "written": "off"}

    def test_a_transient_domain_has_no_next_boot(self, host: Host) -> None:
        host.connection.createXML(plain_domain("job", pmu="on"))

        ran = host.json("audit")

        assert not host.domain("job").isPersistent()
        (row,) = ran.rows
        assert (row["live"], row["next_boot"], row["transient"]) == ("on", None, True)
        assert row["status"] == "transient"
        assert ran.status == 1


class TestDomainsThatChangeMeanwhile:
    """Between the list of a host and the look at each domain, anything may happen."""

    def test_a_domain_that_goes_away_is_left_out(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        host.define(plain_domain("gone"), plain_domain("stays", pmu="off"))
        moments.after(monkeypatch, "domains", lambda: host.domain("gone").undefine())

        ran = host.json("audit")

        assert ran.by_name("status") == {"stays": "ok"}
        assert (ran.status, ran.err) == (0, "")

    def test_a_guest_that_stops_is_still_judged(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        (guest,) = host.define(plain_domain("web", pmu="off"))
        guest.create()
        moments.after(monkeypatch, "domains", guest.destroy)

        ran = host.json("audit")

        assert ran.by_name("status") == {"web": "ok"}
        assert ran.status == 0

    def test_a_saved_image_that_goes_away_is_no_error(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        (guest,) = host.define(plain_domain("web", pmu="off"))
        guest.create()
        guest.managedSave()
        moments.after(monkeypatch, "domains", guest.managedSaveRemove)

        ran = host.json("audit")

        assert ran.by_name("error") == {"web": None}
        assert ran.by_name("saved") == {"web": None}
        assert ran.status == 0

    def test_a_snapshot_that_goes_away_does_not_hide_its_domain(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (guest,) = host.define(plain_domain("web", pmu="on"))
        guest.snapshotCreateXML(
            "<domainsnapshot><name>s</name><state>shutoff</state><creationTime>1</creationTime>"
            f"<memory snapshot='no'/>{plain_domain('web')}</domainsnapshot>",
            libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE,
        )
        real = libvirt.virDomainSnapshot.getXMLDesc

        def late(snapshot: libvirt.virDomainSnapshot, flags: int = 0) -> str:
            for kept in guest.listAllSnapshots():
                kept.delete(libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)
            return str(real(snapshot, flags))

        monkeypatch.setattr(libvirt.virDomainSnapshot, "getXMLDesc", late)

        ran = host.json("audit")

        assert guest.listAllSnapshots() == []
        assert ran.by_name("status") == {"web": "drift"}
        assert ran.status == 2


class TestReadOnly:
    """An audit needs no right to change anything."""

    def test_the_read_only_socket_is_enough(self, host: Host) -> None:
        host.define(plain_domain("web", vnc_password="geheim"))

        ran = host.json("audit", "--connect", host.daemon.uri_ro)

        assert ran.by_name("status") == {"web": "drift"}
        assert "geheim" not in ran.out + ran.err

    def test_it_asks_for_no_more_than_that(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        host.define(plain_domain("web"))
        opened: list[str] = []
        monkeypatch.setattr(libvirt, "open", opened.append)
        monkeypatch.setattr(libvirt, "openAuth", opened.append)

        ran = host.json("audit")

        assert ran.by_name("status") == {"web": "drift"}
        assert opened == []

    def test_it_writes_no_journal(self, host: Host) -> None:
        host.define(plain_domain("web"))
        host.pmuconf("audit")
        assert not host.journal_dir.exists()


def test_named_domains_only_by_name_or_uuid(host: Host) -> None:
    host.define(plain_domain("a"), plain_domain("b"), plain_domain("c"))
    ran = host.json("audit", "b", host.domain("c").UUIDString())
    assert sorted(ran.by_name("name")) == ["b", "c"]


def test_a_domain_that_is_not_there(host: Host) -> None:
    host.define(plain_domain("a"))
    ran = host.pmuconf("audit", "a", "nonesuch")
    assert ran.status == 255
    assert "'nonesuch'" in ran.err
    assert "(no-such-domain)" in ran.err
    assert ran.out == ""


def test_where_the_fast_path_is_not_judged_a_column_says_why(host: Host) -> None:
    host.define(plain_domain("stopped", pmu="off"), plain_domain("runs"))
    host.domain("runs").create()
    heading, _, *rows = host.pmuconf("audit").out.splitlines()
    assert heading.split("  ")[-1] == "fast path not judged"
    assert [row.split("  ")[0] + ":" + row.rpartition("  ")[2] for row in rows] == [
        "runs:not under KVM",
        "stopped:not under KVM",
    ]


def test_a_host_without_domains(host: Host) -> None:
    ran = host.pmuconf("audit")
    assert ran.status == 0
    assert f"there are no domains on {host.connection.getURI()}" in ran.err


def test_the_policy_that_wants_on(host: Host) -> None:
    host.define(plain_domain("a"), plain_domain("b", pmu="off"), plain_domain("c", pmu="on"))
    host.configure(ON)
    assert host.json("audit").by_name("status") == {"a": "drift", "b": "drift", "c": "ok"}


def _next_boot_of(snapshot: libvirt.virDomainSnapshot) -> str:
    xml = str(snapshot.getXMLDesc(0))
    begin, end = xml.index("<inactiveDomain"), xml.index("</inactiveDomain>")
    return xml[begin:end].replace("<inactiveDomain", "<domain", 1) + "</domain>"
