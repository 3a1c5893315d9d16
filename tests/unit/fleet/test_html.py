"""The fleet's page as text: what it says, and that nothing in it but our own is markup."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from lxml import html

from pmuconf.fleet.absent import AbsentHost
from pmuconf.fleet.html import page, page_name
from pmuconf.report.plain import visible
from tests.support.fleet import fleet, hostile, joined
from tests.support.hostile import PAYLOADS
from tests.support.sample import AT


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return joined(fleet(30, 20), absent=[AbsentHost("gone", "unreachable", "no route", AT)])


def words(element: Any) -> str:
    return " ".join(element.text_content().split())


def parsed(made: dict[str, Any], **how: Any) -> html.HtmlElement:
    return html.document_fromstring(page(made, **how))


def test_counts_come_first(record: dict[str, Any]) -> None:
    summary = record["summary"]
    lead = words(parsed(record).xpath("//section[@aria-labelledby='headline']")[0])
    assert lead.startswith(f"{summary['fast_path']['yes']} of {summary['running']} running VMs have the fast path")
    assert "600 VMs on 30 hosts" in lead
    assert "Not whole: 1 host absent" in lead
    legend = [words(item) for item in parsed(record).xpath("//ul[@class='legend']/li")]
    counts = [int(item.split()[0]) for item in legend]
    assert counts == list(summary["running_groups"].values())
    assert counts[0] == summary["fast_path"]["yes"]
    assert sum(counts) == summary["running"]
    assert f"600 VMs on 30 hosts; {600 - summary['running']} of them do not run" in lead


def test_every_host_has_its_row(record: dict[str, Any]) -> None:
    rows = parsed(record).xpath("//table/tbody/tr")
    assert len(rows) == 30
    for row, one in zip(rows, record["hosts"]):
        cells = [words(cell) for cell in row]
        slow = sum(one["groups"][group] for group in ("partial", "change", "qemu", "kernel"))
        assert cells[:2] == [one["host"], one["verdict"] or "not looked at"]
        assert [int(cell) for cell in cells[3:8]] == [
            one["vms"], one["running"], one["fast"], slow, one["groups"]["unknown"],
        ]  # fmt: skip
        assert bool(cells[8]) == (one["worth"] is not None)  # what is not known is not zero


def test_a_step_is_on_the_hosts_that_the_table_finds_by_it(record: dict[str, Any]) -> None:
    tree = parsed(record)
    links = tree.xpath("//a[@data-name]")
    assert len(links) > len(record["to_settle"]) > 0
    for link in links:
        found = [body for body in tree.xpath("//tbody") if link.get("data-find") in body.get("data-is").split()]
        assert int(words(link).split()[0]) == len(found) > 0


def test_rounds_say_what_each_brings(record: dict[str, Any]) -> None:
    shown = parsed(record).xpath("//ol[contains(@class, 'rounds')]/li")
    assert len(shown) == min(8, len(record["rounds"]))
    for item, one in zip(shown, record["rounds"]):
        assert words(item).startswith(f"+{one['brings']['vms']:,} {one['cumulative']['vms']:,} in all")


def test_savings_are_in_cores_where_all_hosts_say_how_fast_they_are(record: dict[str, Any]) -> None:
    worth = record["worth"]
    assert worth["cpus"] == 32 * worth["hosts"]
    text = words(parsed(record))
    assert f"{100 * worth['savable_per_second'] / worth['cycles_per_second']:.2g} % of these hosts' CPU time" in text
    assert " of a core), by the exits of" in text
    reports = list(fleet(3, 20))
    for known in reports:
        if known["host_facts"] is not None:
            del known["host_facts"]["cpus"]
    older = joined(reports)
    assert older["worth"]["cpus"] is None
    assert "cycles a second saved, at most" in words(parsed(older))


def test_what_is_not_there_is_said(record: dict[str, Any]) -> None:
    assert "gone unreachable: no route" in words(parsed(record).xpath("//*[@id='missing']")[0])
    assert not parsed(joined(fleet(2, 3))).xpath("//*[@id='missing']")


def test_nothing_at_all_is_a_page_too() -> None:
    made = joined([{**one, "domains": []} for one in fleet(1, 0)])
    assert "0 of 0 running VMs" in words(parsed(made))
    assert "Nothing: no VM is known to lack something" in words(parsed(made))


def test_links_to_hosts_pages_only_where_there_are_some(record: dict[str, Any]) -> None:
    assert not parsed(record).xpath("//tbody//a")
    links = parsed(record, pages=True).xpath("//tbody//a/@href")
    assert links == [f"hosts/{page_name(one['host'])}" for one in record["hosts"]]


def test_hostile_text_is_text() -> None:
    made = hostile()
    tree = parsed(made, pages=True)
    names = [bdi.text_content() for bdi in tree.xpath("//tbody//bdi")]
    assert names == [visible(one["host"]) for one in made["hosts"]]
    assert len(tree.xpath("//script")) == 2
    assert not tree.xpath("//img | //base | //iframe | //b[not(node())] | //*[@onerror or @onfocus or @onload]")
    every = tree.text_content()
    for payload in PAYLOADS:
        assert visible(payload) in every
    page(made).encode("ascii")


def test_only_its_own_script_and_style_may_run(record: dict[str, Any]) -> None:
    tree = parsed(record)
    (policy,) = tree.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")
    assert policy.startswith("default-src 'none'; ")
    for tag in ("style", "script"):
        for one in tree.xpath(f"//{tag}"):
            digest = base64.b64encode(hashlib.sha256((one.text or "").encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy
    assert not tree.xpath("//@style")


def test_page_names() -> None:
    assert page_name("compute-1.example.org") == "compute-1.example.org.html"
    names = [
        page_name(name) for name in ("..", ".", "", "a/b", "a\\b", "../x", ".x", "x" * 101, "\udcff", "a\nb", "a\n")
    ]
    assert len(set(names)) == len(names)
    assert all(name.startswith("_") and name.endswith(".html") and "/" not in name for name in names)
