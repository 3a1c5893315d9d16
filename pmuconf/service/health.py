"""The health of the service: its problems and its counts, as metrics and as the answer of /healthz."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

from pmuconf.change.result import Outcome
from pmuconf.errors import PmuconfError

__all__ = ["AREAS", "Health"]

AREAS: Final = ("libvirt", "configuration", "changes", "failures", "host-facts", "output", "loop")
"""Where trouble can be. That of host-facts makes a report weaker, and the service is well all the same."""

_STUCK_SECONDS: Final = 30.0
_REACTION: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


@dataclass(frozen=True)
class _Problem:
    cause: str
    message: str
    since: float


class Health:
    """May be read and written by several threads. ``registry`` has all of it as metrics.

    :param clock: the time in seconds; only differences count.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beaten: float | None = None
        self._lock = threading.Lock()
        self._problems: dict[str, _Problem] = {}
        self._passed: float | None = None
        self._patience = 0.0
        registry = self.registry = CollectorRegistry()
        self.process = CollectorRegistry()
        ProcessCollector(registry=self.process)
        name = "pmuconf_service"
        self._mode = Gauge(f"{name}_enforces", "1: domains off policy are changed; 0: reported.", registry=registry)
        self._connected = Gauge(f"{name}_connected", "Whether libvirt answers.", registry=registry)
        self._healthy = Gauge(f"{name}_healthy", "Whether /healthz says that all is well.", registry=registry)
        self._trouble = Gauge(
            f"{name}_trouble", "1 for each area that there is trouble in.", ("area", "cause"), registry=registry
        )
        self.waiting = Gauge(
            f"{name}_waiting_vms",
            "VMs to be looked at or changed shortly, those that limits hold back included.",
            registry=registry,
        )
        self.failed = Gauge(f"{name}_failed_vms", "VMs whose last change failed.", registry=registry)
        self.connections = Counter(f"{name}_connections", "Connections made to libvirt.", registry=registry)
        self.passes = Counter(f"{name}_passes", "Looks at all VMs.", registry=registry)
        self.pass_seconds = Gauge(f"{name}_pass_seconds", "How long the last of them took.", registry=registry)
        self._last_pass = Gauge(
            f"{name}_last_pass_timestamp_seconds", "When it began, in seconds since 1970.", registry=registry
        )
        self.events = Counter(f"{name}_events", "Events that libvirt reported, by kind.", ("event",), registry=registry)
        self.changes = Counter(f"{name}_changes", "Changes, by how they ended.", ("outcome",), registry=registry)
        self.reaction = Histogram(
            f"{name}_reaction_seconds", "From the event of a VM to its change.", buckets=_REACTION, registry=registry
        )
        for outcome in (Outcome.CHANGED, Outcome.FAILED, Outcome.BUSY):
            self.changes.labels(outcome.value)
        self.connected(yes=False)
        self._healthy.set_function(lambda: float(self.healthy))

    def configured(self, *, enforces: bool, patience: float) -> None:
        """Whether anything may be changed, and within how many seconds a pass is to be expected."""
        self._mode.set(enforces)
        self._patience = patience

    def connected(self, *, yes: bool) -> None:
        """Whether libvirt answers."""
        self._connected.set(yes)

    def beat(self) -> None:
        """The loop lives: called every few seconds, while it waits, between two steps, and in each wait with a limit.

        Whoever calls this must not be the one that answers for health: a loop that stands still calls nothing.
        """
        self._beaten = self._clock()

    def passed(self) -> None:
        """A look at all VMs is complete."""
        self._passed = self._clock()
        self.passes.inc()

    def began(self, at: float) -> None:
        """When the last complete look at all VMs began, in seconds since 1970."""
        self._last_pass.set(at)

    def trouble(self, area: str, error: PmuconfError) -> bool:
        """There is trouble in this area; whether that is news."""
        with self._lock:
            before = self._problems.get(area)
            if before is not None and before.cause == error.cause:
                return False
            self._problems[area] = _Problem(error.cause, error.message, time.time())
            self._forget(area, before)
            self._trouble.labels(area, error.cause).set(1)
            return True

    def well(self, area: str) -> bool:
        """There is none any more; whether there was."""
        with self._lock:
            before = self._problems.pop(area, None)
            self._forget(area, before)
            return before is not None

    @property
    def healthy(self) -> bool:
        """Whether nothing stands in the service's way."""
        return not self._current().keys() - {"host-facts"}

    def answer(self) -> Mapping[str, Any]:
        """The answer of /healthz."""
        problems = self._current()
        return {
            "status": "trouble" if problems.keys() - {"host-facts"} else "ok",
            "problems": [
                {"area": area, "cause": problem.cause, "message": problem.message, "since": round(problem.since)}
                for area, problem in problems.items()
            ],
        }

    def _current(self) -> dict[str, _Problem]:
        with self._lock:
            problems = dict(self._problems)
        now, passed, beaten = self._clock(), self._passed, self._beaten
        if passed is not None and now - passed > self._patience:
            message = f"the last look at all VMs was {now - passed:.0f} s ago"
            problems["loop"] = _Problem("stale", message, time.time())
        if beaten is not None and now - beaten > _STUCK_SECONDS:
            message = f"the loop stands still for {now - beaten:.0f} s: nothing is looked at or changed"
            problems["loop"] = _Problem("stuck", message, time.time() - (now - beaten))
        return problems

    def _forget(self, area: str, problem: _Problem | None) -> None:
        if problem is not None:
            self._trouble.remove(area, problem.cause)
