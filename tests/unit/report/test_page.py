"""The report page as text: what it says, of whom, and that nothing in it but our own is markup."""

from __future__ import annotations

import base64
import copy
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import html

import pmuconf
from pmuconf.audit.remedy import EXPLAIN
from pmuconf.audit.report import Report, join
from pmuconf.audit.vm import judge
from pmuconf.domain.definition import UNKNOWN, Domain, Nova, PmuState
from pmuconf.fastpath.cases import CASES
from pmuconf.hostfacts import Evidence, Verdict
from pmuconf.policy import Decision, Policy, Rule
from pmuconf.report.document import document as document_of
from pmuconf.report.html import page
from pmuconf.report.plain import visible
from tests.support.hostile import PAYLOADS, everywhere
from tests.support.sample import AT, FACTS, many, of_names, sample

DOCS = Path(pmuconf.__file__).resolve().parents[1] / "docs"


def parsed(document: dict[str, Any]) -> html.HtmlElement:
    return html.document_fromstring(page(document))


def words(element: Any) -> str:
    return " ".join(element.text_content().split())


def said(document: dict[str, Any], place: str) -> str:
    return " ".join(words(found) for found in parsed(document).xpath(place))


LEAD = "//section[@aria-labelledby='headline']"
HOST = "//section[@aria-labelledby='host-title']"
TODO = "//section[@aria-labelledby='todo-title']"


# ---- what it says --------------------------------------------------------------------------------------------------


def test_the_summary_comes_first_and_counts_what_the_document_counts() -> None:
    document = sample()
    lead, summary = said(document, LEAD), document["summary"]
    assert lead.startswith(f"{summary['fast_path']['yes']} of {summary['running']} running VMs have the fast path")
    assert "Also on this host: 3 not running, 1 not judged." in lead
    for text in (f"{summary['drift']} drift", f"{summary['pending']} pending", "1 transient", "1 not judged"):
        assert text in lead
    legend = [words(item) for item in parsed(document).xpath("//ul[@class='legend']/li")]
    counts = {name: int(count) for count, name in (item.split(" ", 1) for item in legend)}
    assert counts == {
        **{"fast path": summary["fast_path"]["yes"], "partly": 0, "to be changed": 11, "blocked by QEMU": 5},
        **{"blocked by the kernel": 0, "unknown": 1, "PMU wanted": 4, "not KVM on x86": 1, "not judged": 0},
    }
    assert sum(counts.values()) == summary["running"]


def test_charts_add_up() -> None:
    document = sample()
    tree = parsed(document)
    causes = {words(li.xpath(".//code")[0]): int(words(li.xpath("span[@class='count']")[0]))
              for li in tree.xpath("//section[@aria-labelledby='causes-title']//li")}  # fmt: skip
    assert causes == {**document["summary"]["causes"], "flavor-image-conflict": 1}
    flavors = [
        words(li.xpath("span[@class='count']")[0])
        for li in tree.xpath("//section[@aria-labelledby='flavors-title']/ul[1]/li")
    ]
    assert sum(int(text.split()[0]) for text in flavors) == document["summary"]["fast_path"]["yes"]
    assert sum(int(text.split()[2]) for text in flavors) == document["summary"]["domains"]
    widths = [
        float(rect.get("width")[:-1]) for rect in tree.xpath("//svg[@class='whole']//rect[starts-with(@class, 'fill')]")
    ]
    assert sum(widths) == pytest.approx(100, abs=0.01)


def test_every_vm_has_its_row_its_facts_and_its_remedy() -> None:
    document = sample()
    bodies = parsed(document).xpath("//table/tbody")
    assert len(bodies) == len(document["domains"])
    for body, vm in zip(bodies, document["domains"]):
        cells = [words(cell) for cell in body[0]]
        cause = vm["cause"] or vm["error"]["cause"]
        assert cells[:4] == [vm["name"], vm["flavor"] or "", vm["fast_path"] or "", cause]
        assert cells[4].split()[:1] == ([vm["decision"]] if vm["decision"] else [])
        for kind in ("drift", "pending", "transient"):
            assert (kind in cells[4]) is vm[kind]
        assert ("in use" in cells[6]) is (vm["pmu_in_use"] is True)
        more = words(body[1])
        steps = [remedy["text"] for remedy in vm["remedies"]]
        for text in (vm["message"], *steps, vm["uuid"], vm["qemu"] and vm["qemu"]["path"]):
            assert not text or text in more


def test_what_to_do_is_said_once_with_how_many_wait_for_it() -> None:
    document = sample()
    remedies = [remedy["text"] for vm in document["domains"] for remedy in vm["remedies"]]
    steps = parsed(document).xpath("//ol[@class='steps']/li")
    assert len(steps) == len(set(remedies))
    counts = [int(words(step.xpath(".//b")[0])) for step in steps]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == len(remedies)


def test_what_to_do_has_stopped_vms_off_policy_and_those_that_the_policy_can_not_decide() -> None:
    policy = Policy(Decision.OFF, (Rule("by-image", Decision.ON, image_property=("os=.*",)),))
    nova = Nova("m1.small", UNKNOWN, None, UNKNOWN, UNKNOWN)
    stopped = Domain("stopped", "1" * 8, "kvm", "x86_64", PmuState.ON, "host-model", None)
    undecided = Domain("undecided", "2" * 8, "kvm", "x86_64", PmuState.DEFAULT, "host-model", nova)
    vms = (judge(policy, next_boot=stopped), judge(policy, next_boot=undecided))
    todo = said(document_of(Report("qemu:///system", join(vms, FACTS), FACTS, host="h", at=AT), policy), TODO)
    assert "1 VM pmuconf apply drift" in todo
    assert f"1 VM {EXPLAIN} undecided" in todo


def test_what_the_kernel_needs_is_one_step_whatever_else_is_to_be_done() -> None:
    guard = replace(FACTS.guard, verdict=Verdict.UNGUARDED, remedy="another kernel; or a patch")
    document = sample(replace(FACTS, guard=guard))
    steps = [words(step) for step in parsed(document).xpath("//ol[@class='steps']/li")]
    assert (
        steps[0]
        == f"{document['summary']['causes']['kernel-unguarded']} VMs another kernel; or a patch kernel-unguarded"
    )
    assert len([step for step in steps if "another kernel" in step]) == 1
    (nova,) = (step for step in steps if "reboot it by Nova: hard" in step)
    assert nova.startswith("9 VMs reboot it by Nova")
    assert nova.endswith("qemu-upgraded pending-power-cycle")


def test_the_host_and_what_the_verdict_stands_on() -> None:
    text = said(sample(), HOST)
    for what in ("guarded every path", "observed, from live text of kvm", "guard-in-caller", str(FACTS.guard.build_id)):
        assert what in text
    assert "cmp byte ptr [rax + 0x96c0], 0" in text
    assert "firecracker, pid 991: PMU enabled in the kernel" in text
    assert "Safe RET" in text


def test_what_it_is_worth_is_an_upper_bound_with_its_source() -> None:
    document = sample()
    text = said(document, HOST)
    worth, facts = document["worth"], document["host_facts"]
    for number, what in ((worth["saved_per_second"], "is saved"), (worth["savable_per_second"], "more could be saved")):
        part = number / facts["cycles_per_second"]
        assert (
            f"{100 * part * 32:.2g} % of a core {what}, at most: {100 * part:.2g} % of this host's CPU time, "
            f"{number / 1e6:.1f} million cycles a second"
        ) in text
    assert "one of the 32 CPUs that Linux counts here" in text
    for unknown in ("cpus", "cycles_per_second"):
        without = {**document, "host_facts": {key: facts[key] for key in facts if key != unknown}}
        assert "36.4 million cycles a second saved, at most" in said(without, HOST)  # as an older report has it
    assert "Upper bounds: all exits of 43 VMs at 57 cycles (expected on a CPU like this)" in text
    assert "measured on this host" in said(sample(replace(FACTS, measured=True)), HOST)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_is_shown_with_what_settles_it(verdict: Verdict) -> None:
    guard = replace(
        FACTS.guard, verdict=verdict, message="the sentence", remedy="the remedy", evidence=Evidence.INFERRED
    )
    text = said(sample(replace(FACTS, guard=guard)), HOST)
    assert text.startswith(f"The host {verdict.value} the sentence")
    assert "To do: the remedy" in text
    assert ("Unknown is not slow" in text) is (verdict is Verdict.UNKNOWN)


@pytest.mark.parametrize("cause", CASES)
def test_every_cause_can_be_shown(cause: str) -> None:
    document = copy.deepcopy(of_names(["a"]))
    case = CASES[cause]
    document["domains"][0].update(fast_path=case.fast_path.value, cause=cause, causes=[cause])
    assert cause in said(document, "//tbody")
    assert case.message in said(document, "//section[@aria-labelledby='causes-title']")


# ---- where there is little to say ----------------------------------------------------------------------------------


def test_no_vms() -> None:
    document = of_names([])
    assert said(document, LEAD).startswith("No VMs There are no domains on qemu:///system")
    assert "Nothing: there are no VMs" in said(document, TODO)
    assert not parsed(document).xpath("//table")
    assert "guarded" in said(document, HOST)


def test_files_were_read() -> None:
    document = sample(None, asked=False)
    lead = said(document, LEAD)
    assert "of 48 VMs are as the policy wants" in lead
    assert "The fast path was not judged" in lead
    assert "7 pending" in lead
    assert "The host was not looked at" in said(document, HOST)
    assert "Not known: that takes the host itself" in said(document, HOST)
    assert "there are no causes" not in said(document, "//section[@aria-labelledby='causes-title']")  # but one error
    assert "there are no causes" in said(without_errors(document), "//section[@aria-labelledby='causes-title']")


def without_errors(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "domains": [vm for vm in document["domains"] if vm["error"] is None]}


def test_another_host_was_asked() -> None:
    document = sample(None)
    assert "0 of 44 running VMs have the fast path" in said(document, LEAD)
    assert "The host was not looked at" in said(document, HOST)
    assert "run pmuconf on that host" in said(document, TODO)


def test_nothing_runs() -> None:
    document = sample()
    document["domains"] = [vm for vm in document["domains"] if vm["cause"] == "not-running"]
    assert said(document, LEAD).startswith("2 VMs, none of them running")


def test_nothing_is_to_be_done() -> None:
    assert "all VMs are as wanted" in said(of_names(["a", "b"]), TODO)


def test_exits_that_were_not_counted_are_no_zeros() -> None:
    document = many([])
    assert "--sample 10s counts them" in said(document, HOST)
    document = of_names(["a"])
    document["domains"][0]["exits_per_second"] = None
    document["worth"] = None
    assert "Exits/s" not in said(document, "//thead")
    document["host_facts"]["cycles_per_exit"] = None
    assert "not known what an exit costs" in said(document, HOST)


def test_more_flavors_than_can_be_shown_are_counted_together() -> None:
    document = of_names([f"vm-{at}" for at in range(40)])
    for at, vm in enumerate(document["domains"]):
        vm["flavor"] = f"flavor-{at // 2}"
    bars = [words(bar) for bar in parsed(document).xpath("//section[@aria-labelledby='flavors-title']/ul[1]/li")]
    assert len(bars) == 13
    assert bars[-1].startswith("8 other flavors")
    assert bars[-1].endswith("16 of 16 fast")


# ---- what it is made of --------------------------------------------------------------------------------------------


def test_only_our_own_script_and_style_may_run() -> None:
    tree = parsed(sample())
    (policy,) = tree.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")
    allowed = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert allowed["default-src"] == allowed["base-uri"] == allowed["form-action"] == "'none'"
    assert "unsafe" not in policy
    assert "*" not in policy
    for kind in ("script", "style"):
        own = [base64.b64encode(hashlib.sha256(one.text.encode()).digest()).decode() for one in tree.xpath(f"//{kind}")]
        assert allowed[f"{kind}-src"].split() == [f"'sha256-{one}'" for one in own]
    before = tree.xpath("//meta[@http-equiv='Content-Security-Policy']")[0].xpath("preceding::script|preceding::style")
    assert before == []


def test_it_needs_nothing_else_and_is_the_same_in_every_encoding() -> None:
    text = page(everywhere())
    assert text.isascii()
    tree = html.document_fromstring(text)
    assert not tree.xpath("//@src | //@srcset | //@style | //@action | //iframe | //object | //form | //base | //img")
    assert {href for href in tree.xpath("//@href") if not href.startswith("data:image/svg+xml,")} == {"#vms"}
    assert not [name for name in tree.xpath("//@*/..") if any(key.startswith("on") for key in name.attrib)]
    style = "".join(tree.xpath("//style/text()"))
    assert "@import" not in style
    assert "url(" not in style


def test_hostile_text_is_text_wherever_it_is() -> None:
    """No element is there that is not there in the same report with harmless names."""
    harmless, hostile = parsed(sample()), parsed(everywhere())
    allowed = {element.tag for element in harmless.iter() if isinstance(element.tag, str)}
    assert {element.tag for element in hostile.iter() if isinstance(element.tag, str)} <= allowed
    assert len(hostile.xpath("//script")) == len(harmless.xpath("//script")) == 2
    shown = " ".join(hostile.text_content().split())
    for payload in PAYLOADS:
        assert " ".join(visible(payload).split()) in shown


@given(st.text(min_size=1))
def test_any_name_is_shown_as_it_is(name: str) -> None:
    tree = parsed(of_names([name], flavor=name))
    assert tree.xpath("string(//tbody//summary)") == visible(name)
    assert tree.xpath("string(//tbody/tr[1]/td[1])") == visible(name)


def test_a_name_of_blanks_can_be_seen() -> None:
    tree = parsed(of_names(["  "], flavor=" "))
    assert tree.xpath("string(//tbody//summary)") == r"\x20\x20"
    assert tree.xpath("//ul[@class='bars']//a/@data-find") == [r"flavor=\x20"]


def test_charts_and_controls_have_names() -> None:
    tree = parsed(sample())
    for picture in tree.xpath("//svg[not(@aria-hidden)]"):
        assert picture.get("role") == "img"
        assert len(picture.xpath("string(title)")) > 5
    assert tree.xpath("string(//desc)").startswith("running VMs: 22 fast path, 11 to be changed")
    assert {th.get("scope") for th in tree.xpath("//th")} == {"col", "row"}
    assert tree.xpath("//label//input")
    assert tree.xpath("//html/@lang") == ["en"]
    levels = [int(head.tag[1]) for head in tree.xpath("//h1|//h2|//h3")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    ids = tree.xpath("//@id")
    assert len(ids) == len(set(ids))
    for reference in tree.xpath("//@aria-labelledby | //@aria-describedby"):
        assert reference in ids


def test_a_vm_takes_little_room() -> None:
    """5,000 of them are a page that still opens."""
    few, more = len(page(many(100))), len(page(many(300)))
    assert (more - few) / 200 < 1200


def test_the_picture_is_there_and_small() -> None:
    picture = DOCS / "report.png"
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert int.from_bytes(data[16:20], "big") == 1280
    assert len(data) < 300_000
    for page_with_it, link in ((DOCS.parent / "README.md", "(docs/report.png)"), (DOCS / "report.md", "(report.png)")):
        assert link in page_with_it.read_text()
