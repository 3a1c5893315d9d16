"""The page that the service serves, in a real browser: it works, and asks for nothing but itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pmuconf import conf
from pmuconf.service.health import Health
from pmuconf.service.outputs import Outputs
from tests.support.chromium import BINARY, Browser
from tests.support.hostile import everywhere

pytestmark = pytest.mark.skipif(BINARY is None, reason="no Chromium is installed: .ci/packages test brings one")


@pytest.fixture
def outputs() -> Iterator[Outputs]:
    made = Outputs(Health())
    made.listen(("127.0.0.1", 0))
    yield made
    made.close()


def test_it_waits_for_the_report_and_shows_it_with_its_script(outputs: Outputs) -> None:
    assert outputs.address is not None
    host, port = outputs.address
    url = f"http://{host}:{port}/"
    with Browser() as browser:
        early = browser.visit(url)
        assert "No report yet" in early.run("document.body.textContent")
        early.close()

        outputs.publish(everywhere(), conf.load([]).service)
        shown = browser.visit(url)
        names = "document.querySelectorAll('tbody th').length"
        every = shown.run(names)
        shown.run("words.value = 'there is no such VM'; words.dispatchEvent(new Event('input'))")
        assert every > 0
        assert shown.run(names) == 0, "the script runs under the policy of the header"
        assert shown.run("window.hacked") is None
        assert shown.said == []
        assert [address for address in shown.asked if not address.startswith("data:")] == [url]
        shown.close()
