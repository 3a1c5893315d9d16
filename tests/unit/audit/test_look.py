"""A domain on its way to a verdict: each of its texts is asked for once and parsed once."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from pmuconf.audit.look import Pace, audit, look
from pmuconf.domain.definition import PmuState
from pmuconf.domain.xmltext import root_of
from pmuconf.hostfacts import GuardFinding, HostFacts, Verdict
from pmuconf.hypervisor.exits import Exits
from pmuconf.policy import Policy
from pmuconf.report.document import document
from pmuconf.report.html import page
from pmuconf.report.prometheus import prometheus_text
from pmuconf.report.story import story

XML = """<domain type='kvm'{id}>
  <name>web</name>
  <uuid>1b4e28ba-2fa1-11d2-883f-0016d3cca427</uuid>
  <os>
    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
  </os>
  <features>
    <pmu state='{pmu}'/>
  </features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
  </devices>
</domain>
"""
FACTS = HostFacts(GuardFinding(Verdict.GUARDED, "guard-in-caller", "it asks"), enable_pmu=True)
RUNNING = SimpleNamespace(name="web", uuid="u", active=True, persistent=True, saved=False, snapshots=False)
ALL = SimpleNamespace(name="web", uuid="u", active=True, persistent=True, saved=True, snapshots=True)


class Hypervisor:
    """A host with one domain, that counts what it is asked for."""

    uri, local = "test:///", True

    def __init__(self, listed: SimpleNamespace) -> None:
        self._listed = listed
        self.asked: Counter[str] = Counter()

    def domains(self, _names: object) -> list[Any]:
        return [self._listed]

    def map(self, function: Any, items: Any) -> Any:
        return map(function, items)

    def live_xml(self, _listed: object) -> str:
        return self._text("live", XML.format(id=" id='3'", pmu="on"))

    def next_boot_xml(self, _listed: object) -> str:
        return self._text("next boot", XML.format(id="", pmu="off"))

    def saved_xml(self, _listed: object) -> str:
        return self._text("saved", XML.format(id="", pmu="on"))

    def snapshot_xmls(self, _listed: object) -> list[str]:
        return [self._text("snapshot", f"<domainsnapshot>{XML.format(id='', pmu='on')}</domainsnapshot>")]

    def _text(self, what: str, xml: str) -> str:
        self.asked[what] += 1
        return xml


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each text was parsed, by its source."""
    counts: Counter[str] = Counter()

    def counting(xml: str, source: str, *more: Any) -> Any:
        counts[source] += 1
        return root_of(xml, source, *more)

    monkeypatch.setattr("pmuconf.domain.reading.root_of", counting)
    return counts


@pytest.mark.parametrize(("listed", "texts"), [(RUNNING, 2), (ALL, 4)])
def test_every_text_of_a_domain_is_read_once_and_parsed_once(
    listed: SimpleNamespace, texts: int, parsed: Counter[str]
) -> None:
    """From libvirt's XML to each form of the report."""
    hypervisor = Hypervisor(listed)
    report = audit(hypervisor, Policy(), survey=lambda: FACTS)  # type: ignore[arg-type]
    (vm,) = report.vms
    assert (vm.live, vm.next_boot, vm.pending) == (PmuState.ON, PmuState.OFF, True)
    made = document(report, Policy())
    assert page(made)
    assert prometheus_text(made)
    assert list(story(report, vm))
    assert set(hypervisor.asked.values()) == {1}
    assert sum(hypervisor.asked.values()) == texts
    assert sum(parsed.values()) == texts


def test_a_transient_domain_that_stopped_is_gone_and_asked_nothing_more() -> None:
    hypervisor = Hypervisor(SimpleNamespace(**{**vars(ALL), "active": False, "persistent": False}))
    assert look(hypervisor, Policy(), hypervisor.domains(())[0]) is None  # type: ignore[arg-type]
    assert not hypervisor.asked


def test_who_watches_is_shown_the_reading_and_the_counting() -> None:
    shown: list[tuple[int, str, str, int]] = []

    def progress(items: Any, number: int, what: str, unit: str) -> Any:
        passed = list(items)
        shown.append((number, what, unit, len(passed)))
        return passed

    class Counting(Hypervisor):
        def exits(self) -> Exits:
            return Exits()

    audit(Counting(RUNNING), Policy(), pace=Pace(0.01, progress))  # type: ignore[arg-type]
    assert shown == [(1, "reading", "VM", 1), (1, "counting exits", "step", 1)]
