"""How the service lets others know: health, log and systemd hear of trouble together, and of each change."""

from __future__ import annotations

from pmuconf.change.result import Outcome, Result
from pmuconf.errors import PmuconfError
from pmuconf.service.health import Health
from pmuconf.service.log import Log
from pmuconf.service.systemd import Systemd

__all__ = ["Announcer"]

_NO_WARNING = ("", "no-change", "domain-vanished")


class Announcer:
    """Lets health, log and systemd know how the service is."""

    def __init__(self, health: Health, log: Log, systemd: Systemd) -> None:
        self.health = health
        self._log = log
        self._systemd = systemd

    def trouble(self, area: str, error: PmuconfError) -> None:
        """There is trouble in this area; only news are logged."""
        if self.health.trouble(area, error):
            self._log.error("trouble", f"{area}: {error.message}", cause=error.cause, area=area, hint=error.hint)
            self._systemd.status(f"{area}: {error.message}")

    def settled(self, sentence: str) -> None:
        """A sentence about an entry that an earlier run had left in the journal."""
        self._log.warning("settled", sentence)

    def well(self, area: str) -> bool:
        """There is no trouble in this area any more; whether there was."""
        return self.health.well(area)

    def alive(self) -> None:
        """A sign of life, from the loop or from a thread that works for it."""
        self.health.beat()
        self._systemd.alive()

    def result(self, result: Result) -> None:
        """A change has ended so."""
        self.health.changes.labels(result.outcome.value).inc()
        write = self._log.info
        if result.outcome is Outcome.FAILED:
            write = self._log.error
        elif result.cause not in _NO_WARNING:
            write = self._log.warning
        parts = [f"{result.name}: {result.outcome.value}"]
        if result.old and result.new:
            parts.append(f" from {result.old.value} to {result.new.value}")
        if result.rule:
            parts.append(f" by {result.rule}")
        if result.notes:
            parts.append(f": {result.note}")
        write(
            result.outcome.value,
            "".join(parts),
            cause=result.cause,
            domain=result.name,
            uuid=result.uuid,
            rule=result.rule,
            change=result.change,
            pending=result.pending,
        )
