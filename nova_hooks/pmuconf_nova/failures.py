"""Errors of pmuconf inside nova-compute: counted, and logged once a cause. No VM may suffer from them."""

from __future__ import annotations

from collections import Counter

from oslo_log import log as logging

from pmuconf.errors import PmuconfError

__all__ = ["PluginFailures", "cause_of"]

LOG = logging.getLogger(__name__)


class PluginFailures:
    """How often a part of the plugin failed since it last worked, by cause.

    :param what: the part, as the log names it.
    :param instead: what happens instead, for the log.
    """

    def __init__(self, what: str, instead: str) -> None:
        self._what = what
        self._instead = instead
        self.counts: Counter[str] = Counter()

    def note(self, error: Exception) -> None:
        """Count an error, and log it if it is the first of its cause."""
        cause = cause_of(error)
        self.counts[cause] += 1
        if self.counts[cause] > 1:
            return
        text = "pmuconf: %(what)s failed, and %(instead)s: %(error)s"
        values = {"what": self._what, "instead": self._instead, "error": error}
        if isinstance(error, PmuconfError):
            LOG.error(text, values)
        else:
            LOG.error(text, values, exc_info=error)

    def works(self) -> None:
        """Log that the part works again, if it had failed before. The next error is logged again."""
        if self.counts:
            counted = ", ".join(f"{number} times {cause}" for cause, number in sorted(self.counts.items()))
            self.counts.clear()
            LOG.warning(
                "pmuconf: %(what)s works again; it had failed %(counted)s", {"what": self._what, "counted": counted}
            )


def cause_of(error: Exception) -> str:
    """The cause code of pmuconf's own errors, or the name of another exception."""
    return error.cause if isinstance(error, PmuconfError) else type(error).__name__
