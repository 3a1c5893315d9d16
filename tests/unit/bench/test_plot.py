"""The picture is SVG, and shows what it is given."""

from __future__ import annotations

import random
import re

from lxml import etree

from pmuconf.bench.plot import distributions

SVG = {"s": "http://www.w3.org/2000/svg"}


def drawn(*samples: tuple[str, list[float]], title: str = "t") -> etree._Element:
    return etree.fromstring(distributions(title, samples).encode())


def peak(path: etree._Element) -> float:
    """Where the histogram is highest: across, in the picture's units."""
    steps = re.findall(r"V([\d.]+)H([\d.]+)", path.get("d") or "")
    return float(min(steps, key=lambda step: float(step[0]))[1])


def test_two_distributions_with_their_medians() -> None:
    chance = random.Random(1)
    on, off = ([chance.gauss(middle, 10) for _ in range(4000)] for middle in (2157, 2100))
    root = drawn(("PMU on", on), ("PMU off", off), title="CPUID exit")
    assert root.findtext("s:title", namespaces=SVG) == "CPUID exit"
    texts = [text.text or "" for text in root.iterfind(".//s:text", SVG)]
    assert any(re.match(r"PMU on: median 215[67]\.\d, 4000 values", text) for text in texts)
    assert any(re.match(r"PMU off: median (2099|2100)\.\d, 4000 values", text) for text in texts)
    one, other = root.findall("s:path[@fill-opacity]", SVG)
    assert peak(one) > peak(other)
    lines = [float(line.get("x1") or 0) for line in root.iterfind("s:line", SVG)]
    assert abs(lines[0] - peak(one)) < 60
    assert abs(lines[1] - peak(other)) < 60


def test_wild_values_do_not_make_the_scale() -> None:
    root = drawn(("a", [100.0 + at % 7 for at in range(500)] + [1e9]), ("b", [103.0] * 500))
    texts = [text.text or "" for text in root.iterfind("s:text", SVG)]
    scale = [int(text) for text in texts if text.isdecimal()]
    assert (min(scale), max(scale)) == (100, 106)


def test_values_that_are_all_the_same() -> None:
    root = drawn(("a", [227.0]), ("b", [227.0] * 9))
    assert len(root.findall("s:path", SVG)) == 3


def test_names_are_text() -> None:
    root = drawn(("</text><script>&", [1.0, 2.0]), ("b", [1.0]), title="<b>&")
    assert root.findtext("s:title", namespaces=SVG) == "<b>&"
    assert not root.findall(".//s:script", SVG)
