"""How far one run of ``pmuconf apply`` goes: limits, the canary, failures, and one writer at a time."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from pmuconf.change.journal import writer_lock
from tests.functional.host import OFF, ON, Defines, Host, run, until
from tests.support.domains import plain_domain

# Made once by libvirt 9.0 while the emulator was there; and what it makes of its own text.
EMULATOR_GONE = """\
<domain type='qemu'>
  <name>a</name>
  <memory unit='KiB'>16384</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <emulator>{emulator}</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
"""
OWN_DUMP_REFUSED = """\
<domain type='qemu'>
  <name>a</name>
  <memory unit='KiB'>32768</memory>
  <vcpu>2</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <cpu>
    <numa>
      <cell id='0' cpus='0' memory='16384' unit='KiB'>
        <cache level='1' associativity='none' policy='none'>
          <size value='10' unit='KiB'/>
          <line value='8' unit='B'/>
        </cache>
      </cell>
      <cell id='1' cpus='1' memory='16384' unit='KiB'/>
      <interconnects>
        <latency initiator='0' target='0' type='access' value='5'/>
      </interconnects>
    </numa>
  </cpu>
  <devices><memballoon model='none'/></devices>
</domain>
"""


def takes_back(host: Host, xml: str) -> bool:
    """Whether libvirt takes its own text of a domain."""
    try:
        host.define(xml)
    except libvirt.libvirtError:
        return False
    return True


def names(number: int) -> list[str]:
    """The names of so many domains, in the order in which they are changed."""
    return [f"vm-{n:03}" for n in range(number)]


def changed(host: Host) -> list[str]:
    """The domains whose next boot is off."""
    return [name for name, state in host.pmus().items() if state == "off"]


class TestMaxChanges:
    """A run stops after so many changes; the next one goes on there."""

    def test_on_the_command_line(self, host: Host) -> None:
        host.define(*map(plain_domain, names(8)))

        first = host.json("apply", "--max-changes", "5")
        assert changed(host) == names(5)
        assert Counter(first.by_name("outcome").values()) == {"changed": 5, "not-reached": 3}
        assert {row["cause"] for row in first.rows if row["outcome"] == "not-reached"} == {"max-changes"}
        assert first.status == 2

        second = host.json("apply", "--max-changes", "5")
        assert changed(host) == names(8)
        assert second.status == 0

    def test_in_the_policy_file(self, host: Host) -> None:
        host.configure("[change]\nmax_changes = 2\n")
        host.define(*map(plain_domain, names(4)))
        assert host.pmuconf("apply").status == 2
        assert changed(host) == names(2)
        assert host.pmuconf("apply", "--max-changes", "0").status == 0
        assert changed(host) == names(4)

    def test_what_is_not_reached_is_not_in_the_journal(self, host: Host) -> None:
        host.define(*map(plain_domain, names(4)))
        host.pmuconf("apply", "--max-changes", "1")
        assert [row["name"] for row in host.json("journal").rows] == names(1)


class TestDryRun:
    """It shows what the real run with the same limits and canary does, and then how to go on."""

    @pytest.mark.parametrize(
        "limits",
        [[], ["--max-changes", "3"], ["--canary", "2"], ["--canary", "2", "--continue", "--max-changes", "4"]],
    )
    def test_it_is_what_the_real_run_does(self, host: Host, limits: list[str]) -> None:
        host.define(*map(plain_domain, names(6)))
        host.spoil("vm-000")  # the next run tries it last
        host.pmuconf("apply", "vm-000")
        host.mend("vm-000")
        foretold = host.json("apply", "--dry-run", *limits)
        assert changed(host) == []
        done = host.json("apply", *limits)
        as_planned = [
            (row["name"], row["outcome"].replace("planned", "changed"), row["cause"]) for row in foretold.rows
        ]
        assert as_planned == [(row["name"], row["outcome"], row["cause"]) for row in done.rows]

    def test_the_last_lines_lead_through_the_whole_change(self, host: Host) -> None:
        """Each is run as it stands: from the dry run to the canary, and behind it until all is changed."""
        host.define(*map(plain_domain, names(6)))
        ran = host.pmuconf("apply", "--dry-run", "--max-changes", "3", "--canary", "1", *names(5))
        at = f"--config-file {host.policy}"
        commands = []
        while (line := ran.err.splitlines()[-1]).startswith("pmuconf: to go on: pmuconf "):
            commands.append(line.removeprefix("pmuconf: to go on: pmuconf ").replace(at, "AT"))
            ran = run(*shlex.split(line.removeprefix("pmuconf: to go on: pmuconf ")))
        which = " ".join(names(5))
        assert commands == [
            f"AT apply --max-changes 3 --canary 1 {which}",
            f"AT apply --max-changes 3 --continue {which}",
            f"AT apply --max-changes 3 {which}",
        ]
        assert changed(host) == names(5)

    def test_what_is_not_reached_is_counted_and_listed_only_if_asked_for(self, host: Host) -> None:
        host.define(*map(plain_domain, names(6)))
        for dry in (["--dry-run"], []):
            ran = host.pmuconf("apply", *dry, "--max-changes", "2")
            assert re.search(r"[24] domains (would )?not (be )?reached: the limit of changes a run is 2", ran.err)
            assert "not-reached" not in ran.out
        listed = host.pmuconf("apply", "--dry-run", "--max-changes", "2", "--not-reached")
        assert listed.out.count("not-reached") == 2


class TestCanary:
    """A few first, and the others only as long as those are what they were made."""

    @pytest.fixture
    def canary(self, host: Host) -> Host:
        """Six domains, two of which are changed."""
        host.define(*map(plain_domain, names(6)))
        ran = host.json("apply", "--canary", "2")
        assert changed(host) == names(2)
        assert Counter(ran.by_name("outcome").values()) == {"changed": 2, "not-reached": 4}
        assert {row["cause"] for row in ran.rows if row["outcome"] == "not-reached"} == {"canary"}
        assert ran.status == 2
        return host

    def test_the_others_follow(self, canary: Host) -> None:
        assert canary.pmuconf("apply", "--continue").status == 0
        assert changed(canary) == names(6)

    def test_within_the_limit(self, canary: Host) -> None:
        assert canary.pmuconf("apply", "--continue", "--max-changes", "3").status == 2
        assert changed(canary) == names(5)

    def test_at_once(self, host: Host) -> None:
        host.define(*map(plain_domain, names(6)))
        assert host.pmuconf("apply", "--canary", "2", "--continue").status == 0
        assert changed(host) == names(6)
        kinds = {row["name"]: row["kind"] for row in host.json("journal").rows}
        assert [kinds[name] for name in names(6)] == ["canary"] * 2 + ["apply"] * 4

    def test_at_once_but_it_fails(self, host: Host) -> None:
        host.define(*map(plain_domain, names(6)))
        host.spoil("vm-001")
        assert host.pmuconf("apply", "--canary", "2", "--continue").status == 255
        assert set(changed(host)) <= {"vm-000"}

    @pytest.mark.parametrize("lost", ["changed", "undefined", "anew"])
    def test_not_if_it_is_lost(self, canary: Host, lost: str) -> None:
        if lost == "changed":
            canary.define(plain_domain("vm-001", pmu="on"))
        else:
            canary.domain("vm-001").undefine()
        if lost == "anew":
            canary.define(plain_domain("vm-001", pmu="off", uuid="6e1f12ab-2f16-44d2-8a4c-6c7d2f5c7a10"))
        before = canary.xmls()

        ran = canary.pmuconf("apply", "--continue")

        assert ran.status == 255
        assert "(canary-lost)" in ran.err
        assert "'vm-001'" in ran.err
        assert canary.xmls() == before

    def test_not_if_there_was_none(self, host: Host) -> None:
        host.define(*map(plain_domain, names(2)))
        ran = host.pmuconf("apply", "--continue")
        assert ran.status == 255
        assert "(canary-missing)" in ran.err
        assert changed(host) == []

    def test_not_after_it_was_rolled_back(self, canary: Host) -> None:
        assert canary.pmuconf("rollback", "--all").status == 0
        ran = canary.pmuconf("apply", "--continue")
        assert ran.status == 255
        assert changed(canary) == []

    def test_an_old_one_says_nothing_about_a_later_change(self, canary: Host) -> None:
        assert canary.pmuconf("apply").status == 0
        canary.configure(ON)
        ran = canary.pmuconf("apply", "--continue")
        assert ran.status == 255
        assert "(canary-missing)" in ran.err
        assert changed(canary) == names(6)


class TestFailure:
    """A domain that libvirt refuses to define is as it was, and stops nobody else, up to a limit."""

    def test_the_others_go_on(self, host: Host) -> None:
        host.configure(f"{OFF}[libvirt]\nparallel = 1\n")
        host.define(*map(plain_domain, names(8)))
        host.spoil("vm-003")

        ran = host.json("apply")

        assert changed(host) == [name for name in names(8) if name != "vm-003"]
        assert Counter(ran.by_name("outcome").values()) == {"changed": 7, "failed": 1}
        assert ran.by_name("cause")["vm-003"] == "refused-by-libvirt"
        assert "vm-003.xml.new" in ran.by_name("note")["vm-003"]
        assert "virsh edit" in ran.by_name("remedy")["vm-003"]
        assert ran.status == 255
        assert "1 failed" in host.pmuconf("apply").err
        assert {row["status"] for row in host.json("journal", "vm-003").rows} == {"abandoned"}

        host.mend("vm-003")
        assert host.pmuconf("apply").status == 0
        assert changed(host) == names(8)

    def test_it_is_tried_last_the_next_time(self, host: Host) -> None:
        host.configure(f"{OFF}[libvirt]\nparallel = 1\n")
        host.define(*map(plain_domain, names(2)))
        host.spoil("vm-000")
        assert host.pmuconf("apply").status == 255
        host.define(*map(plain_domain, names(4)[1:]))
        ran = host.json("apply", "--max-changes", "3")
        assert [row["name"] for row in ran.rows] == ["vm-001", "vm-002", "vm-003", "vm-000"]
        assert changed(host) == names(4)[1:]
        host.mend("vm-000")
        assert host.pmuconf("apply").status == 0
        host.define(*map(plain_domain, names(4)))
        assert [row["name"] for row in host.json("apply").rows] == names(4)

    def test_a_run_that_did_not_come_to_it_does_not_forget_that(self, host: Host) -> None:
        host.configure(f"{OFF}[libvirt]\nparallel = 1\n")
        host.define(*map(plain_domain, names(2)))
        host.spoil("vm-000")
        assert host.pmuconf("apply").status == 255
        host.define(plain_domain("vm-001"))
        host.spoil("vm-001")
        assert host.pmuconf("apply", "--max-failures", "0").status == 255  # it stops at vm-001
        host.define(plain_domain("vm-002"))
        assert [row["name"] for row in host.json("apply").rows] == ["vm-002", "vm-000", "vm-001"]

    def test_it_is_no_canary(self, host: Host) -> None:
        host.define(*map(plain_domain, names(4)))
        host.spoil("vm-000")
        first = host.json("apply", "--canary", "1", "--continue")
        assert first.by_name("cause")["vm-001"] == "canary-failed"
        assert changed(host) == []
        second = host.json("apply", "--canary", "1", "--continue")
        assert second.by_name("outcome") == {"vm-000": "failed", **dict.fromkeys(names(4)[1:], "changed")}
        assert {row["name"]: row["kind"] for row in host.json("journal", "--limit", "4").rows}["vm-001"] == "canary"

    def test_nor_the_only_one_to_be_left_for_ever(self, host: Host) -> None:
        host.define(plain_domain("vm-000"))
        host.spoil("vm-000")
        assert host.pmuconf("apply").status == 255
        assert host.json("apply", "--canary", "1").by_name("outcome") == {"vm-000": "failed"}

    def test_more_than_the_limit_stop_the_run(self, host: Host) -> None:
        host.configure(f"{OFF}[libvirt]\nparallel = 1\n")
        host.define(*map(plain_domain, names(8)))
        for name in names(8)[1:7]:
            host.spoil(name)

        ran = host.json("apply", "--max-failures", "2")

        outcomes = ran.by_name("outcome")
        assert [outcomes[name] for name in names(8)] == ["changed", *["failed"] * 3, *["not-reached"] * 4]
        assert {row["cause"] for row in ran.rows if row["outcome"] == "not-reached"} == {"too-many-failures"}
        assert ran.status == 255
        status = {row["name"]: row["status"] for row in host.json("journal").rows}
        assert [status[name] for name in names(8)] == ["done", *["abandoned"] * 7]

    def test_the_limit_in_the_policy_file(self, host: Host) -> None:
        host.configure(f"{OFF}[libvirt]\nparallel = 1\n[change]\nmax_failures = 0\n")
        host.define(*map(plain_domain, names(3)))
        host.spoil("vm-000")
        ran = host.json("apply")
        assert ran.by_name("outcome") == {"vm-000": "failed", "vm-001": "not-reached", "vm-002": "not-reached"}

    def test_it_holds_for_a_roll_back_too(self, host: Host) -> None:
        host.define(*map(plain_domain, names(4)))
        assert host.pmuconf("apply").status == 0
        host.spoil("vm-001")
        ran = host.json("rollback", "--all")
        assert Counter(ran.by_name("outcome").values()) == {"changed": 3, "failed": 1}
        assert changed(host) == ["vm-001"]
        host.mend("vm-001")
        assert host.pmuconf("rollback", "--all").status == 0
        assert changed(host) == []

    def test_side_by_side(self, host: Host) -> None:
        """What the journal and the answer say is what was done; and later batches are not begun."""
        host.define(*map(plain_domain, names(80)))
        host.spoil("vm-010")

        ran = host.json("apply", "--max-failures", "0")

        told = [name for name, outcome in ran.by_name("outcome").items() if outcome == "changed"]
        assert told == changed(host)
        assert sorted(row["name"] for row in host.json("journal").rows if row["status"] == "done") == told
        assert len(told) < 32
        assert len(host.json("journal").rows) == 32
        assert "vm-010" not in told
        assert len(ran.rows) == 80
        assert ran.status == 255

    @pytest.mark.parametrize("what", [EMULATOR_GONE, OWN_DUMP_REFUSED], ids=["emulator-gone", "own-dump-refused"])
    def test_one_that_libvirt_will_not_take_back(self, host: Host, tmp_path: Path, what: str) -> None:
        """It took them once, and hands them out: what it refuses is its own text."""
        emulator = tmp_path / "kvm-spice"
        emulator.symlink_to(shutil.which("qemu-system-x86_64") or "")
        host.define(what.format(emulator=emulator), plain_domain("b"), plain_domain("c"))
        emulator.unlink()
        before = host.xml("a")
        if what == OWN_DUMP_REFUSED and takes_back(host, before):
            pytest.skip("this libvirt takes its own text back")
        ran = host.json("apply")
        assert ran.by_name("outcome") == {"a": "failed", "b": "changed", "c": "changed"}
        assert ran.by_name("cause")["a"] == "refused-by-libvirt"
        assert host.xml("a") == before

    def test_a_domain_whose_xml_cant_be_judged_stops_nobody(self, host: Host) -> None:
        """That is known before anything is changed."""
        host.configure(f"{OFF}[libvirt]\nmax_xml_bytes = 4096\n")
        large = plain_domain("vm-000").replace("</uuid>", f"</uuid><description>{'x' * 4096}</description>")
        host.define(large, plain_domain("vm-001"))
        ran = host.json("apply")
        assert ran.by_name("outcome") == {"vm-000": "not-judged", "vm-001": "changed"}
        assert ran.by_name("cause")["vm-000"] == "xml-too-large"
        assert changed(host) == ["vm-001"]
        assert ran.status == 2

    def test_nor_does_one_whose_snapshot_is_too_large(self, host: Host) -> None:
        host.define(plain_domain("vm-000"), plain_domain("vm-001"))
        host.domain("vm-000").snapshotCreateXML(
            f"<domainsnapshot><name>s</name><description>{'x' * 5000}</description><state>shutoff</state>"
            f"<creationTime>1</creationTime><memory snapshot='no'/>{plain_domain('vm-000')}</domainsnapshot>",
            libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE,
        )
        assert host.json("apply", "--dry-run").by_name("outcome") == {"vm-000": "planned", "vm-001": "planned"}
        host.configure(f"{OFF}[libvirt]\nmax_xml_bytes = 4096\n")
        ran = host.json("apply")
        assert ran.by_name("outcome") == {"vm-000": "not-judged", "vm-001": "changed"}
        assert ran.by_name("cause")["vm-000"] == "xml-too-large"

    @pytest.mark.parametrize("how", [["--all"], ["vm-000", "vm-001"]])
    @pytest.mark.parametrize("dry", [[], ["--dry-run"]])
    def test_nor_does_one_that_grew_too_large_to_be_taken_back(
        self, host: Host, how: list[str], dry: list[str]
    ) -> None:
        host.define(plain_domain("vm-000"), plain_domain("vm-001"))
        host.configure(f"{OFF}[libvirt]\nmax_xml_bytes = 4096\n")
        assert host.pmuconf("apply").status == 0
        grown = host.xmls()["vm-000"].replace("</uuid>", f"</uuid><description>{'x' * 4096}</description>")
        host.define(grown)
        ran = host.json("rollback", *how, *dry)
        assert ran.by_name("outcome") == {"vm-000": "not-judged", "vm-001": "planned" if dry else "changed"}
        assert ran.by_name("cause")["vm-000"] == "xml-too-large"
        assert host.pmus() == {"vm-000": "off", "vm-001": "off" if dry else "default"}


class TestOneWriter:
    """A second one is refused at once, and told who the first one is."""

    @pytest.fixture
    def writer(self, host: Host) -> Iterator[int]:
        """Another process in the middle of an apply, and held there."""
        host.define(*map(plain_domain, names(100)))
        with Defines(host.daemon.uri) as heard:
            process = host.start("apply", "--max-changes", "0")
            until(lambda: heard.wait(1, 0.01) or process.poll() is not None, "the first define")
        os.kill(process.pid, signal.SIGSTOP)
        assert process.poll() is None
        yield process.pid
        os.kill(process.pid, signal.SIGCONT)
        process.communicate()
        assert process.returncode == 0
        assert changed(host) == names(100)

    def test_the_second_is_refused(self, host: Host, writer: int) -> None:
        before = host.xmls()
        for command in (["apply"], ["rollback", "--all"], ["journal", "purge"]):
            ran = host.pmuconf(*command)
            assert ran.status == 255
            assert "(locked)" in ran.err
            assert re.search(rf"\b{writer}\b", ran.err)
        assert host.xmls() == before

    @pytest.mark.usefixtures("writer")
    def test_who_only_reads_is_not(self, host: Host) -> None:
        assert host.pmuconf("audit").status == 2
        assert host.pmuconf("apply", "--dry-run").status == 2
        assert host.pmuconf("journal").status == 0

    def test_the_lock_ends_with_its_holder(self, host: Host) -> None:
        """Though the file stays, with the number of a process that may be another by now."""
        host.define(plain_domain("web"))
        with writer_lock(host.journal):
            assert "(locked)" in host.pmuconf("apply").err
        assert (host.journal_dir / "writer.lock").read_text() == str(os.getpid())
        assert host.pmuconf("apply").status == 0
