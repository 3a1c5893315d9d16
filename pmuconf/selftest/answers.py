"""What the service answers: its health, its page, and how old its report is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final

from pmuconf.conf import Settings
from pmuconf.selftest.live import HttpAnswer, Live
from pmuconf.selftest.result import CheckResult, failed, ok, unchecked

__all__ = ["checks_of_answers"]

_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # what it listens at, and where that is reached


def checks_of_answers(live: Live, chosen: Settings, now: float) -> Iterator[CheckResult]:
    """Ask the service over HTTP.

    :param now: the time in seconds since 1970.
    """
    names = ("health", "report-page", "report-fresh")
    at = chosen.service.listen
    if at is None:
        yield from (unchecked(name, "[service] listen is empty: nothing is served") for name in names)
        return
    at = (_ANY.get(at[0], at[0]), at[1])
    health, page, metrics = (live.get(at, path) for path in ("/healthz", "/", "/metrics"))
    yield _health(names[0], at, health)
    if isinstance(health, str):
        yield from (unchecked(name, "the service does not answer") for name in names[1:])
        return
    yield _page(names[1], page)
    yield _fresh(names[2], metrics, chosen.service.interval, now)


def _health(name: str, at: tuple[str, int], answer: HttpAnswer | str) -> CheckResult:
    if isinstance(answer, str):
        return failed(name, f"no answer at {at[0]} port {at[1]}: {answer}")
    try:
        problems = [f"{problem['message']} ({problem['cause']})" for problem in json.loads(answer.text)["problems"]]
    except (ValueError, TypeError, KeyError):
        return failed(name, f"{at[0]} port {at[1]} is not pmuconf's: something else listens there")
    if answer.status != 200:
        return failed(name, "; ".join(problems) or f"status {answer.status}")
    return ok(name, "; ".join(["the service is well", *problems]))


def _page(name: str, answer: HttpAnswer | str) -> CheckResult:
    if isinstance(answer, str):
        return failed(name, answer)
    if answer.status != 200:
        return failed(name, f"/ has status {answer.status}: there is no report yet")
    if "default-src 'none'" not in answer.headers.get("content-security-policy", ""):
        return failed(name, "/ is served without its content policy: something between takes it away")
    return ok(name, f"/ is served, {len(answer.text):,} bytes")


def _fresh(name: str, answer: HttpAnswer | str, interval: int, now: float) -> CheckResult:
    if isinstance(answer, str):
        return failed(name, answer)
    stamp = re.search(r"^pmuconf_service_last_pass_timestamp_seconds (\S+)$", answer.text, re.MULTILINE)
    at = float(stamp[1]) if stamp else 0.0
    if not at:
        return failed(name, "the service has not looked at the VMs yet")
    age, most = now - at, 3 * interval + 60
    if age > most:
        return failed(name, f"the last look at all VMs was {age:.0f} s ago, more than {most} s")
    return ok(name, f"the last look at all VMs was {max(0.0, age):.0f} s ago")
