"""Exit statuses that are not the severity of an answer."""

from __future__ import annotations

__all__ = ["CHECK_UNKNOWN", "ERROR"]

ERROR = 255
CHECK_UNKNOWN = 3
"""Of a monitoring plug-in: status --check alone gives it."""
