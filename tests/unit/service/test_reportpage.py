"""The report page that the service serves: what it is, when it is made, and what there is before the first report."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from lxml import html

from pmuconf import conf
from pmuconf.conf import ServiceSettings
from pmuconf.errors import PmuconfError
from pmuconf.report.html import page
from pmuconf.service import reportpage
from pmuconf.service.health import Health
from pmuconf.service.outputs import Outputs
from tests.support.hostile import everywhere
from tests.support.sample import many, sample

SECONDS = 60


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def outputs(health: Health) -> Iterator[Outputs]:
    made = Outputs(health)
    made.listen(("127.0.0.1", 0))
    yield made
    made.close()


@pytest.fixture
def chosen() -> ServiceSettings:
    return conf.load([]).service


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The thread that made each page."""
    made: list[str] = []

    def making(document: Any) -> str:
        made.append(threading.current_thread().name)
        return page(document)

    monkeypatch.setattr(reportpage, "page", making)
    return made


def ask(outputs: Outputs, path: str = "/", method: str = "GET") -> tuple[int, dict[str, str], str]:
    assert outputs.address is not None
    connection = http.client.HTTPConnection(*outputs.address, timeout=SECONDS)
    connection.request(method, path)
    with connection.getresponse() as answer:
        return answer.status, dict(answer.getheaders()), answer.read().decode()


def test_it_is_the_page_of_the_report_that_was_published_last(outputs: Outputs, chosen: ServiceSettings) -> None:
    for document in (sample(), many(3)):
        outputs.publish(document, chosen)
        status, headers, text = ask(outputs)
        assert (status, headers["Content-Type"], text) == (200, "text/html; charset=utf-8", page(document))


def test_its_headers_say_what_its_content_policy_says(outputs: Outputs, chosen: ServiceSettings) -> None:
    outputs.publish(everywhere(), chosen)
    _, headers, text = ask(outputs)
    (policy,) = html.document_fromstring(text).xpath("//meta[@http-equiv='Content-Security-Policy']/@content")
    assert headers["Content-Security-Policy"] == f"{policy}; frame-ancestors 'none'"
    assert policy.startswith("default-src 'none'; ")
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_head_has_the_headers_of_get_and_nothing_else(outputs: Outputs, chosen: ServiceSettings) -> None:
    outputs.publish(sample(), chosen)
    assert ask(outputs, method="HEAD") == (*ask(outputs)[:2], "")


def test_it_is_read_only(outputs: Outputs, chosen: ServiceSettings) -> None:
    outputs.publish(sample(), chosen)
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert ask(outputs, method=method)[0] == 405
    text = html.document_fromstring(ask(outputs)[2])
    assert text.xpath("//form | //iframe | //object | //script[@src] | //link[@rel='stylesheet']") == []


def test_before_the_first_report_it_says_so_and_loads_itself_again(health: Health, outputs: Outputs) -> None:
    status, headers, text = ask(outputs)
    assert (status, headers["Refresh"], headers["Retry-After"]) == (503, "5", "5")
    assert headers["Content-Security-Policy"].endswith("frame-ancestors 'none'")
    assert "for the first time" in text
    health.trouble("libvirt", PmuconfError("libvirt <b>is away</b>", cause="libvirt-unreachable"))
    shown = html.document_fromstring(ask(outputs)[2])
    assert [line.text for line in shown.xpath("//li")] == ["libvirt <b>is away</b>"]
    assert "Refresh" in ask(outputs, method="HEAD")[1]


def test_it_is_made_once_for_each_report_by_whoever_serves_it(
    outputs: Outputs, chosen: ServiceSettings, pages: list[str]
) -> None:
    document = sample()
    outputs.publish(document, chosen)
    assert pages == []  # nobody has asked
    for _ in range(3):
        ask(outputs)
        outputs.publish(document, chosen)  # the same, again
    assert pages == ["http"]


def test_the_file_s_page_is_not_made_again_for_a_reader(
    outputs: Outputs, chosen: ServiceSettings, pages: list[str], tmp_path: Path
) -> None:
    from dataclasses import replace

    file = tmp_path / "report.html"
    outputs.publish(sample(), replace(chosen, html=file))
    assert ask(outputs)[2] == file.read_text()
    assert len(pages) == 1


def test_while_it_is_made_the_loop_goes_on(
    outputs: Outputs, chosen: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    newer = many(2)

    def making(document: Any) -> str:
        if document is not newer:
            begun.set()
            assert go_on.wait(SECONDS)
        return page(document)

    monkeypatch.setattr(reportpage, "page", making)
    outputs.publish(sample(), chosen)
    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(ask, outputs)
        assert begun.wait(SECONDS)
        outputs.publish(newer, chosen)  # would wait for ever if it had to wait for the page
        go_on.set()
        assert reader.result(SECONDS)[0] == 200
    assert ask(outputs)[2] == page(newer)


def test_a_page_that_can_t_be_made_is_an_error_and_ends_nothing(
    outputs: Outputs, chosen: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs.publish(sample(), chosen)
    broken: Callable[[Any], str] = lambda document: document["there is none"]  # noqa: E731
    monkeypatch.setattr(reportpage, "page", broken)
    assert ask(outputs)[0] == 500
    assert ask(outputs, "/metrics")[0] == 200
