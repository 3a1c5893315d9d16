"""The fleet's page in a real browser: hosts found, sorted and shown in parts, and nothing that a name asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pmuconf.fleet.html import page
from pmuconf.report.plain import visible
from tests.browser.test_page import CLICK, FAINT, NAMES, OPEN_ALL, OVERLAPS, WIDE, column, status, type_in
from tests.support.chromium import BINARY, Browser, Page
from tests.support.fleet import fleet, hostile, joined
from tests.support.hostile import PAYLOADS

pytestmark = pytest.mark.skipif(BINARY is None, reason="no Chromium is installed: .ci/packages test brings one")

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as started:
        yield started


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return joined(fleet(410, 3))


@pytest.fixture
def show(browser: Browser) -> Iterator[Open]:
    pages = []

    def opening(document: dict[str, Any], **how: Any) -> Page:
        pages.append(browser.open(page(document, pages=True), **how))
        return pages[-1]

    yield opening
    for opened in pages:
        opened.run("0")
        assert opened.said == []
        assert [url for url in opened.asked if not url.startswith("data:")] == opened.asked[:1]
        opened.close()


def test_hosts_are_shown_in_parts_found_and_sorted(show: Open, record: dict[str, Any]) -> None:
    shown = show(record)
    assert shown.run("document.querySelectorAll('tbody').length") == 200
    assert status(shown) == "410 hosts"
    assert type_in(shown, "compute-00017") == ["compute-00017.example.org"]
    assert status(shown) == "1 of 410 hosts"
    assert type_in(shown, "no such host") == []
    assert status(shown) == "No host is like that"
    type_in(shown, "")
    shown.run(CLICK.format("Savable"))
    assert len(shown.run(NAMES)) == 200
    shown.run("document.getElementById('all').click()")
    known = [one["worth"]["savable_per_second"] for one in record["hosts"] if one["worth"]]
    found = column(shown, 8)
    assert found[: len(known)] == [f"{number:,}" for number in sorted(known, reverse=True)]
    assert set(found[len(known) :]) <= {""}


def test_every_bar_leads_to_its_hosts(show: Open, record: dict[str, Any]) -> None:
    shown = show(record)
    links = shown.run("document.querySelectorAll('.bars [data-find]').length")
    assert links > 10
    for at in range(links):
        text, hosts = shown.run(
            f"""(() => {{
                const link = document.querySelectorAll('.bars [data-find]')[{at}];
                link.click();
                document.getElementById('all').click();
                const said = link.closest('li').querySelector('small').textContent;
                return [said, document.querySelectorAll('tbody').length];
            }})()"""
        )
        assert int(text.split()[0]) == hosts


def test_every_step_leads_to_its_hosts(show: Open, record: dict[str, Any]) -> None:
    shown = show(record)
    links = shown.run("Array.from(document.querySelectorAll('.rounds [data-find]'), (one) => one.href)")
    assert len(links) > 5
    for at, link in enumerate(links):
        hosts, found, mark = shown.run(
            f"""(() => {{
                const link = document.querySelectorAll('.rounds [data-find]')[{at}];
                link.click();
                document.getElementById('all').click();
                return [link.textContent, document.querySelectorAll('tbody').length, chip.textContent];
            }})()"""
        )
        assert int(hosts.split()[0]) == found
        assert len(mark) > 3
        assert shown.run("location.href") == link


def test_a_host_leads_to_its_page(show: Open, record: dict[str, Any]) -> None:
    shown = show(record)
    link = shown.run("document.querySelector('tbody a').getAttribute('href')")
    assert link == "hosts/compute-00000.example.org.html"


def test_without_scripts_all_hosts_can_be_read(show: Open, record: dict[str, Any]) -> None:
    shown = show(record, script=False)
    assert shown.run("document.querySelectorAll('tbody').length") == 410
    assert shown.run("getComputedStyle(document.querySelectorAll('tbody')[409]).display") == "table-row-group"
    assert shown.run("getComputedStyle(document.getElementById('tools')).display") == "none"


def test_hostile_text_is_shown_and_does_nothing(show: Open) -> None:
    made = hostile()
    shown = show(made)
    shown.run(OPEN_ALL)
    shown.run("document.querySelectorAll('[data-find], thead button').forEach((one) => one.click())")
    shown.run("document.querySelectorAll('*').forEach((one) => one.dispatchEvent(new Event('mouseover')))")
    shown.run("chip.click()")
    assert shown.run("window.hacked") is None
    assert shown.run("document.scripts.length") == 2
    assert sorted(shown.run(NAMES)) == sorted(visible(name[:255]) for name in PAYLOADS)


def test_no_host_page_is_outside_the_folder(show: Open) -> None:
    shown = show(hostile())
    base = shown.run("new URL('hosts/', location).href")
    links = shown.run("Array.from(document.querySelectorAll('tbody a'), (one) => one.href)")
    assert len(links) == len(PAYLOADS)
    for link in links:
        assert link.startswith(base)
        assert "/" not in link[len(base) :]
        assert Path(link).suffix == ".html"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_light_and_dark_are_both_easy_to_read(show: Open, record: dict[str, Any], dark: bool) -> None:
    shown = show(record, dark=dark)
    assert shown.run(FAINT) == []


@pytest.mark.parametrize("width", [768, 1024, 1280])
def test_dates_and_numbers_are_in_one_line_and_in_their_columns(show: Open, record: dict[str, Any], width: int) -> None:
    shown = show(record, width=width)
    for _ in range(2):
        assert shown.run("getComputedStyle(document.querySelector('tbody tr')).display") != "block"
        assert shown.run(OVERLAPS) == []
        lines = "Array.from(document.querySelectorAll('time, .at'), (one) => one.offsetHeight)"
        assert max(shown.run(lines)) < 22
        shown.run("document.getElementById('all').click()")  # laid out in parts


def test_nothing_is_wider_than_the_window(show: Open, record: dict[str, Any]) -> None:
    for document in (record, hostile()):
        shown = show(document, width=390)
        for width in (320, 390, 600, 768, 1280):
            shown.size(width, 800)
            assert shown.run(WIDE) is False, width
