"""A domain's history while a change is made: what libvirt reports of its definition, in order. Pure."""

from __future__ import annotations

import enum

__all__ = ["Happening"]


class Happening(str, enum.Enum):
    """One thing that libvirt reports of a domain; ``GAP`` says that something may not have been reported before it."""

    DEFINED = "defined"
    ADDED = "added"
    UNDEFINED = "undefined"
    METADATA = "metadata"
    GAP = "gap"
