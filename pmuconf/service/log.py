"""The log of the service: one line an event, with a cause code, and never any domain XML."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import datetime, timezone
from typing import Final

from pmuconf.report.plain import printable

__all__ = ["Log"]

_PRIORITIES: Final = {logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}  # of syslog


class Log:
    """Writes to standard error. ``form`` is text or json."""

    def __init__(self, form: str = "text") -> None:
        self.form = form
        # systemd reads the level of a line from its first bytes (sd-daemon(3)).
        self._prefixed = bool(os.environ.get("JOURNAL_STREAM"))

    def info(self, event: str, message: str, **fields: object) -> None:
        """Something that is as it should be."""
        self._write(logging.INFO, event, message, fields)

    def warning(self, event: str, message: str, **fields: object) -> None:
        """Something that mends itself, or that somebody has to decide."""
        self._write(logging.WARNING, event, message, fields)

    def error(self, event: str, message: str, **fields: object) -> None:
        """Something that somebody has to look into."""
        self._write(logging.ERROR, event, message, fields)

    def _write(self, level: int, event: str, message: str, fields: dict[str, object]) -> None:
        given = {key: value for key, value in fields.items() if value not in (None, "")}
        if self.form == "json":
            at = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
            line = json.dumps(
                {"time": at, "level": logging.getLevelName(level).lower(), "event": event, "message": message, **given}
            )
        else:
            cause = f" ({fields['cause']})" if fields.get("cause") else ""
            line = printable(f"{message}{cause}")
            if self._prefixed:
                line = f"<{_PRIORITIES[level]}>{line}"
        try:
            print(line, file=sys.stderr, flush=True)
        except (OSError, ValueError):  # nobody reads it any more: no reason to end
            return
