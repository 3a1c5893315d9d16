"""UUIDs of domains, as people write them and as libvirt does."""

from __future__ import annotations

from uuid import UUID

__all__ = ["as_uuid"]


def as_uuid(text: str) -> str | None:
    """The UUID as libvirt writes it, of one that may have capitals, braces or no dashes; None if it is none."""
    try:
        return str(UUID(text))
    except (ValueError, TypeError, AttributeError):
        return None
