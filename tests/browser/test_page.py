"""The report page in a real browser: it does what it should, and nothing that a VM's name asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pmuconf.report.html import page
from pmuconf.report.plain import visible
from tests.support.chromium import BINARY, Browser, Page
from tests.support.hostile import PAYLOADS, everywhere
from tests.support.sample import many, of_names, sample

pytestmark = pytest.mark.skipif(BINARY is None, reason="no Chromium is installed: .ci/packages test brings one")

Open = Callable[..., Page]

NAMES = "Array.from(document.querySelectorAll('tbody th'), (cell) => cell.textContent)"
CLICK = "Array.from(document.querySelectorAll('thead button')).find((one) => one.textContent === {!r}).click()"
FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
WIDE = "document.documentElement.scrollWidth > innerWidth"
# Cells of the table whose text is wider than they are.
OVERLAPS = """
Array.from(document.querySelectorAll("#table tr:not(.more) > *")).filter((one) => {
    if (!one.offsetWidth) return false;
    const text = document.createRange();
    text.selectNodeContents(one);
    return text.getBoundingClientRect().right > one.getBoundingClientRect().right + 1;
}).map((one) => one.textContent)
"""
OPEN_ALL = "document.querySelectorAll('details').forEach((one) => { one.open = true })"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as started:
        yield started


@pytest.fixture
def show(browser: Browser) -> Iterator[Open]:
    """Opens a report's page; behind the test, each page must have kept still: no error, no request, no dialog."""
    pages = []

    def opening(document: dict[str, Any], **how: Any) -> Page:
        pages.append(browser.open(page(document), **how))
        return pages[-1]

    yield opening
    for opened in pages:
        opened.run("0")  # what the browser had to tell before is told now
        assert opened.said == []
        assert {url for url in opened.asked if not url.startswith("data:")} == {opened.asked[0]}
        opened.close()


def column(shown: Page, number: int) -> list[str]:
    found: list[str] = shown.run(
        "Array.from(document.querySelectorAll('tbody tr:first-child'), "
        f"(row) => row.cells[{number}].textContent.trim())"
    )
    return found


def type_in(shown: Page, text: str) -> list[str]:
    """Filter by this text; the names that are left."""
    shown.run(f"words.value = {text!r}; words.dispatchEvent(new Event('input'))")
    names: list[str] = shown.run(NAMES)
    return names


def status(shown: Page) -> str:
    return str(shown.run("document.getElementById('shown').textContent"))


# ---- hostile text --------------------------------------------------------------------------------------------------


def test_hostile_text_is_shown_and_does_nothing(show: Open) -> None:
    shown = show(everywhere())
    shown.run(OPEN_ALL)
    shown.run("document.querySelectorAll('[data-find], thead button').forEach((one) => one.click())")
    shown.run(
        "document.querySelectorAll('*').forEach((one) => { one.focus(); one.dispatchEvent(new Event('mouseover')) })"
    )
    shown.run("new Promise((done) => setTimeout(done, 50))")  # what loads, or fails to, would have by now
    assert shown.run("window.hacked") is None
    assert shown.run("document.scripts.length") == 2
    assert shown.run("document.querySelectorAll('img, base, iframe, [onfocus], [onerror]').length") == 0
    assert shown.run("getComputedStyle(document.querySelector('h1')).display") == "block"


def test_names_are_shown_as_they_are(show: Open) -> None:
    shown = show(of_names(PAYLOADS, flavor=PAYLOADS[0]))
    assert shown.run(NAMES) == [visible(name) for name in PAYLOADS]
    assert set(column(shown, 1)) == {PAYLOADS[0]}
    assert shown.run("document.querySelector('.bars a').textContent") == PAYLOADS[0]


def test_the_policy_would_stop_what_escaping_missed(browser: Browser) -> None:
    """Markup put in behind our back: a script, a handler, a style, a picture from elsewhere. Nothing of it works."""
    evil = (
        "<script>window.hacked = 1</script><p onclick='window.hacked = 2' id=evil style='display: none'>evil</p>"
        "<img src='https://example.org/x.png' onerror='window.hacked = 3'>"
        "<style>h1 { display: none }</style></main>"
    )
    shown = browser.open(page(sample()).replace("</main>", evil))
    shown.run("document.getElementById('evil').click()")
    assert shown.run("window.hacked") is None
    assert shown.run("getComputedStyle(document.getElementById('evil')).display") == "block"
    assert shown.run("getComputedStyle(document.querySelector('h1')).display") == "block"
    assert len([text for text in shown.said if "Content Security Policy" in text]) >= 4
    shown.close()


# ---- the table -----------------------------------------------------------------------------------------------------


def test_sorting(show: Open) -> None:
    shown = show(of_names([f"vm-{at}" for at in (10, 9, 100, 1)]))
    assert shown.run(NAMES) == ["vm-10", "vm-9", "vm-100", "vm-1"]
    assert shown.run("document.querySelectorAll('[aria-sort]').length") == 0
    for order, names in (
        ("ascending", ["vm-1", "vm-9", "vm-10", "vm-100"]),
        ("descending", ["vm-100", "vm-10", "vm-9", "vm-1"]),
    ):
        shown.run(CLICK.format("VM"))
        assert shown.run(NAMES) == names
        assert shown.run("Array.from(document.querySelectorAll('[aria-sort]'), (one) => one.ariaSort)") == [order]


def test_sorting_numbers_and_what_is_not_known(show: Open) -> None:
    document = sample()
    shown = show(document)
    known = [vm["exits_per_second"] for vm in document["domains"] if vm["exits_per_second"] is not None]
    for reverse in (True, False):
        shown.run(CLICK.format("Exits/s"))
        found = column(shown, 8)
        assert found[: len(known)] == [f"{one:,.0f}" for one in sorted(known, reverse=reverse)]
        assert set(found[len(known) :]) == {""}
    shown.run(CLICK.format("Fast path"))
    paths = column(shown, 2)
    assert [path for at, path in enumerate(paths) if path not in paths[:at]] == ["yes", "no", "unknown", ""]


def test_filtering_by_words(show: Open) -> None:
    document = sample()
    shown = show(document)
    assert status(shown) == "48 VMs"
    assert type_in(shown, "CI-runner") == ["ci-runner-1", "ci-runner-2"]
    assert status(shown) == "2 of 48 VMs"
    assert type_in(shown, document["domains"][4]["uuid"]) == [document["domains"][4]["name"]]
    assert len(type_in(shown, "c5.xlarge pending")) == 2
    assert type_in(shown, "no such thing") == []
    assert status(shown) == "No VM is like that"
    shown.run("words.focus()")
    shown.key("Escape")
    assert len(shown.run(NAMES)) == 48


def test_every_count_leads_to_its_vms(show: Open) -> None:
    shown = show(sample())
    links = shown.run("Array.from(document.querySelectorAll('[data-find]'), (one) => one.closest('li, a').textContent)")
    assert len(links) > 30
    for at in range(len(links)):
        count, found, mark = shown.run(
            f"""(() => {{
                const link = document.querySelectorAll('[data-find]')[{at}];
                link.click();
                const beside = link.closest('.bars li')?.querySelector('.count').textContent.split(' ');
                const count = beside ? beside[beside.length > 1 ? 2 : 0] : link.querySelector('b').textContent;
                return [Number(count), document.querySelectorAll('tbody').length, chip.textContent];
            }})()"""
        )
        assert (count, bool(mark)) == (found, True), links[at]
    shown.run("chip.click()")
    assert len(shown.run(NAMES)) == 48
    assert shown.run("chip.hidden") is True


STATE = "[location.hash, words.value, chip.hidden ? '' : chip.textContent, shown.textContent]"


def going(shown: Page, script: str) -> Any:
    """What is shown after a step in the browser's history, which it takes when the script has ended."""
    gone = "new Promise((done) => addEventListener('popstate', () => setTimeout(done), { once: true }))"
    shown.run(f"(() => {{ const gone = {gone}; {script}; return gone; }})()")
    return shown.run(STATE)


def test_a_filter_is_in_the_address(show: Open) -> None:
    shown = show(sample())
    assert shown.run("location.hash") == ""
    shown.run("document.querySelector('[data-find=drift]').click()")
    by_link = shown.run(STATE)
    assert by_link == ["#find=drift", "", "drift", "6 of 48 VMs"]
    type_in(shown, "d")
    type_in(shown, "db1 ")
    typed = shown.run(STATE)
    assert typed == ["#find=drift&words=db1+", "db1 ", "drift", "1 of 48 VMs"]
    shown.run("chip.click()")
    assert shown.run(STATE) == ["#words=db1+", "db1 ", "", "1 of 48 VMs"]
    assert going(shown, "history.back()") == typed
    assert going(shown, "history.back()") == by_link  # what was typed at one time is one step back
    assert going(shown, "history.back()") == ["", "", "", "48 VMs"]
    assert going(shown, "history.forward()") == by_link
    assert going(shown, "location.hash = '#find=flavor%3Dm1.small'")[2:] == ["m1.small", "14 of 48 VMs"]


def test_an_address_brings_its_filter_back(show: Open) -> None:
    shown = show(sample())
    shown.run("document.querySelector('.steps [data-find]').click()")
    type_in(shown, "000000e4")
    before = shown.run(STATE)
    assert before[3] == "1 of 48 VMs"
    shown.loaded = False
    shown.call("Page.reload")
    shown.wait()
    assert shown.run(STATE) == before
    top = shown.run("document.getElementById('vms').getBoundingClientRect().top")
    assert 0 <= top < 900
    assert shown.run("document.querySelector('.legend a').href.split('#')[1]") == "find=is-fast"


@pytest.mark.parametrize("hash_", ["#find=step-00000000", "#find=nonsense%3Dx&words=%zz", "#find=%3Cimg+src%3Dx%3E"])
def test_an_address_that_leads_nowhere_finds_nothing(show: Open, hash_: str) -> None:
    shown = show(sample())
    assert going(shown, f"location.hash = {hash_!r}")[3] == "No VM is like that"
    assert shown.run("chip.hidden") is False
    shown.run("words.value = ''; chip.click()")
    assert shown.run("[location.hash, shown.textContent]") == ["#vms", "48 VMs"]
    assert shown.run("document.querySelectorAll('img').length") == 0


def test_many_vms_are_shown_in_parts(show: Open) -> None:
    shown = show(many(410))
    assert shown.run("document.querySelectorAll('tbody').length") == 200
    assert status(shown) == "410 VMs"
    shown.run("document.getElementById('next').click()")
    assert shown.run("document.querySelectorAll('tbody').length") == 400
    shown.run(CLICK.format("VM"))
    shown.run("dispatchEvent(new Event('beforeprint'))")
    assert len(shown.run(NAMES)) == 410
    shown.run("dispatchEvent(new Event('afterprint'))")
    assert len(shown.run(NAMES)) == 200
    assert type_in(shown, "vm-39") == ["vm-39", *(f"vm-{at}" for at in range(390, 400))]
    assert shown.run("rest.hidden") is True
    type_in(shown, "")
    shown.run("document.getElementById('all').click()")
    assert shown.run("document.querySelectorAll('tbody').length") == 410


def test_what_is_out_of_sight_costs_nothing_until_it_is_looked_at(show: Open) -> None:
    """Thousands of rows would keep the browser busy for seconds."""
    shown = show(many(250))
    place = "[document.querySelector('tbody tr').cells[1].getBoundingClientRect().left, table.offsetWidth]"
    before = shown.run(place)
    shown.run("document.getElementById('all').click()")
    shown.run(FRAMES)
    assert shown.run(place) == pytest.approx(before, abs=1)
    last = "document.querySelector('tbody:last-of-type th')"
    visible = f"{last}.checkVisibility({{ contentVisibilityAuto: true }})"
    assert shown.run(visible) is False
    shown.run(f"{last}.scrollIntoView()")
    shown.run(FRAMES)
    assert shown.run(visible) is True
    assert shown.run("document.querySelector('thead').getBoundingClientRect().top") == 0
    left = "Array.from(document.querySelector({!r}).cells, (cell) => Math.round(cell.getBoundingClientRect().left))"
    assert shown.run(left.format("tbody:last-of-type tr")) == shown.run(left.format("thead tr"))
    shown.run(f"{last}.firstChild.open = true")
    assert shown.run("getComputedStyle(document.querySelector('tbody:last-of-type .more')).display") == "block"
    assert type_in(shown, "vm-249") == ["vm-249"]
    assert shown.run("getComputedStyle(document.querySelector('tbody tr')).display") == "table-row"


def test_the_keyboard_does_it_all(show: Open) -> None:
    shown = show(sample())
    shown.run("words.focus()")
    shown.key("Tab")
    assert shown.run("document.activeElement.textContent") == "VM"
    shown.key("Enter", "\r")
    assert shown.run("document.querySelector('thead th').ariaSort") == "ascending"
    shown.run("document.querySelector('tbody summary').focus()")
    visible = "getComputedStyle(document.querySelector('tbody .more')).display"
    assert shown.run(visible) == "none"
    shown.key("Enter", "\r")
    assert shown.run(visible) == "table-row"
    assert "verdict" in shown.run("document.querySelector('tbody .more').innerText")
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert shown.run(outline) == "solid"


def test_without_scripts_it_is_a_plain_table(show: Open) -> None:
    shown = show(many(250), script=False)
    assert shown.run("document.querySelectorAll('tbody').length") == 250
    assert shown.run("getComputedStyle(document.querySelectorAll('tbody')[249]).display") == "table-row-group"
    assert shown.run("getComputedStyle(document.getElementById('tools')).display") == "none"
    assert shown.run("document.querySelectorAll('button:not([hidden] *, [hidden])').length") == 0
    shown.run("document.querySelector('tbody summary').click()")
    assert shown.run("getComputedStyle(document.querySelector('tbody .more')).display") == "table-row"


# ---- how it looks --------------------------------------------------------------------------------------------------

# Text whose contrast with what is behind it is less than WCAG's AA asks.
FAINT = """
(() => {
    const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
    const part = (value) => (value /= 255) <= .03928 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => .2126 * part(r) + .7152 * part(g) + .0722 * part(b);
    const behind = (one) => {
        const colour = parse(getComputedStyle(one).backgroundColor);
        return colour.length === 4 && colour[3] === 0 ? behind(one.parentElement) : colour;
    };
    const faint = new Set();
    for (const one of document.body.querySelectorAll("*")) {
        const text = Array.from(one.childNodes).some((node) => node.nodeType === 3 && node.data.trim());
        if (!text || one.closest("svg, script") || !one.getClientRects().length) continue;
        const style = getComputedStyle(one);
        const [a, b] = [light(parse(style.color)), light(behind(one))].sort((x, y) => y - x);
        const ratio = (a + .05) / (b + .05);
        const least = parseFloat(style.fontSize) >= 24 ? 3 : 4.5;
        if (ratio < least) faint.add(`${one.localName}.${one.className} ${ratio}`);
    }
    return Array.from(faint);
})()
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_light_and_dark_are_both_easy_to_read(show: Open, dark: bool) -> None:
    shown = show(sample(), dark=dark)
    shown.run(OPEN_ALL)
    red = int(shown.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]"))
    assert red < 60 if dark else red > 200
    assert shown.run(FAINT) == []


@pytest.mark.parametrize("document", [sample(), everywhere()], ids=["sample", "hostile"])
def test_nothing_is_wider_than_the_window(show: Open, document: dict[str, Any]) -> None:
    shown = show(document, width=390)
    assert shown.run(WIDE) is False
    shown.run(OPEN_ALL)
    for width in (320, 390, 600, 768, 1280):
        shown.size(width, 800)
        assert shown.run(WIDE) is False, width


def test_on_a_phone_a_row_is_a_card_and_can_be_sorted(show: Open) -> None:
    shown = show(sample(), width=390, height=844)
    assert shown.run("getComputedStyle(document.querySelector('tbody tr')).display") == "grid"
    narrowest = "Math.min(...Array.from(document.querySelectorAll('tbody td'), (one) => one.offsetWidth || 999))"
    assert shown.run(narrowest) > 120
    cell = "getComputedStyle(document.querySelector('tbody td:nth-child(3)'), '::before').content"
    assert shown.run(cell) == '"Fast path"'
    shown.run(CLICK.format("Exits/s"))
    assert shown.run("document.querySelector('tbody th').textContent") == "fw-edge"
    assert shown.run("Math.min(...Array.from(document.querySelectorAll('thead th'), (one) => one.offsetHeight)) >= 24")


@pytest.mark.parametrize("width", [768, 1024])
def test_on_a_tablet_it_is_a_table_whose_columns_do_not_run_into_each_other(show: Open, width: int) -> None:
    shown = show(sample(), width=width)
    assert shown.run("getComputedStyle(document.querySelector('tbody tr')).display") == "table-row"
    assert shown.run(OVERLAPS) == []
    assert shown.run("document.querySelector('tbody td:nth-child(8)').offsetWidth") == 0
    shown.run(OPEN_ALL)
    assert "observed" in shown.run("document.querySelector('tbody .more').innerText")
    shown.run("document.getElementById('all').click(); table.classList.add('long')")
    assert shown.run(OVERLAPS) == []


def test_print(show: Open) -> None:
    shown = show(many(210), kind="print", dark=True)
    assert shown.run("getComputedStyle(document.getElementById('tools')).display") == "none"
    assert shown.run("getComputedStyle(document.querySelector('thead th')).position") == "static"
    assert shown.run("getComputedStyle(document.body).color") == "rgb(29, 32, 36)"
    shown.run("addEventListener('beforeprint', () => { window.printed = document.querySelectorAll('tbody').length })")
    assert shown.pdf().startswith(b"%PDF")
    assert shown.run("window.printed") == 210  # though the window shows 200
    assert shown.run("getComputedStyle(document.querySelector('tbody tr')).display") == "table-row"
    assert len(shown.run(NAMES)) == 200
    assert len(type_in(shown, "vm-20")) == 11
    shown.pdf()
    assert shown.run("window.printed") == 11
