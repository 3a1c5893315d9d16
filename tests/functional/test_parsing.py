"""How often a VM's XML is asked for and parsed in one apply: once on the way to a decision, and where it has to be."""

from __future__ import annotations

from collections import Counter
from xml.parsers import expat

import pytest
from lxml import etree

from pmuconf.hypervisor.hypervisor import Hypervisor
from tests.functional.host import OFF, Host
from tests.support.domains import plain_domain

CALLS = ("live_xml", "next_boot_xml", "saved_xml", "snapshot_xmls")


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The texts that were read from libvirt, and those that lxml and expat have parsed."""
    counter: Counter[str] = Counter()

    def counted(owner: object, name: str, what: str) -> None:
        function = getattr(owner, name)

        def call(*args: object, **kwargs: object) -> object:
            counter[what] += 1
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    for name in CALLS:
        counted(Hypervisor, name, "read")
    counted(etree, "fromstring", "lxml")
    counted(expat, "ParserCreate", "expat")
    return counter


def test_one_domain_that_does_not_run(host: Host, counts: Counter[str]) -> None:
    """Each text is parsed once: for the decision, before the define, and behind it; and so is the one that we define.

    The text that is read right before the define is only compared. expat is the second reader of the rewrite.
    """
    host.configure(OFF)
    host.define(plain_domain("web", pmu="on"))
    counts.clear()
    assert host.pmuconf("apply", "web").status == 0
    assert counts == {"read": 4, "lxml": 4, "expat": 1}


def test_one_domain_that_runs(host: Host, counts: Counter[str]) -> None:
    """The guest's own definition too: for the decision, and behind the change, because it may be another guest then."""
    host.configure(OFF)
    host.define(plain_domain("web", pmu="on"))
    host.domain("web").create()
    counts.clear()
    assert host.pmuconf("apply", "web").status == 1
    assert counts == {"read": 6, "lxml": 6, "expat": 1}


def test_one_domain_that_needs_no_change(host: Host, counts: Counter[str]) -> None:
    host.configure(OFF)
    host.define(plain_domain("web", pmu="off"))
    counts.clear()
    assert host.pmuconf("apply", "web").status == 0
    assert counts == {"read": 1, "lxml": 1}
