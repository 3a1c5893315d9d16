"""axe-core finds nothing wrong with either page: whatever is in it, at three widths, light and dark."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Final

import pytest

from pmuconf.fleet.html import page as fleet_page
from pmuconf.report.html import page as host_page
from pmuconf.report.html import waiting_page
from tests.browser.test_page import FRAMES, OPEN_ALL
from tests.support.axe import AXE, violations
from tests.support.chromium import BINARY, Browser
from tests.support.fleet import fleet, hostile, joined
from tests.support.hostile import PAYLOADS, everywhere
from tests.support.sample import many, of_names, sample

pytestmark = [
    pytest.mark.skipif(BINARY is None, reason="no Chromium is installed: .ci/packages test brings one"),
    pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed: make test brings it"),
]

WIDTHS: Final = (390, 768, 1280)
PAGES: Final[dict[str, Callable[[], str]]] = {
    "host": lambda: host_page(sample()),
    "host-empty": lambda: host_page(of_names([])),
    "host-of-files": lambda: host_page(sample(None, asked=False)),
    "host-hostile": lambda: host_page(everywhere()),
    "host-large": lambda: host_page(many(410)),
    "waiting": lambda: waiting_page("compute-17", PAYLOADS),
    "fleet": lambda: fleet_page(joined(fleet(40, 20)), pages=True),
    "fleet-empty": lambda: fleet_page(joined([])),
    "fleet-hostile": lambda: fleet_page(hostile(), pages=True),
    "fleet-large": lambda: fleet_page(joined(fleet(410, 3)), pages=True),
}
text_of = cache(lambda name: PAGES[name]())


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as started:
        yield started


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_wrong_with_a_page(browser: Browser, name: str, dark: bool) -> None:
    shown = browser.open(text_of(name), dark=dark)
    if "large" not in name:
        shown.run(OPEN_ALL)
    for width in WIDTHS:
        shown.size(width, 900)
        shown.run(FRAMES)
        assert violations(shown) == [], width
    shown.close()


def test_what_is_wrong_is_found(browser: Browser) -> None:
    """An input without a name, and text that can't be read: so that silence means something."""
    shown = browser.open(
        "<!DOCTYPE html><html lang=en><title>t</title><main><h1>t</h1><input><p style='color:#eee'>pale"
    )
    assert {text.split(":")[0] for text in violations(shown)} == {"label", "color-contrast"}
    shown.close()
