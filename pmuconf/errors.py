"""The one kind of error that pmuconf raises on purpose.

Every one carries a machine-readable cause code beside the sentence, and where there is something that the
reader can do about it, a hint. Commands show ``message (cause)`` and the hint, and exit with 255.
"""

from __future__ import annotations

from functools import partial
from typing import Any

__all__ = ["DefineRefused", "DomainVanished", "PmuconfError"]


class PmuconfError(Exception):
    """Something that pmuconf can't do, why, and what to do next.

    :param message: one sentence; never contains domain XML.
    :param cause: a stable code in lower case with dashes, such as ``libvirt-unreachable``.
    :param hint: what to do next; empty where there is nothing to say.
    """

    def __init__(self, message: str, *, cause: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.cause = cause
        self.hint = hint

    def bare(self) -> PmuconfError:
        """This error, to be kept: without the frames that it went through, which hold all that they had read."""
        self.__traceback__ = self.__context__ = self.__cause__ = None
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """How it comes out of another process: as a plain PmuconfError."""
        return partial(PmuconfError, cause=self.cause, hint=self.hint), (self.message,)

    def __str__(self) -> str:
        hint = f". {self.hint}" if self.hint else ""
        return f"{self.message} ({self.cause}){hint}"


class DomainVanished(PmuconfError):
    """The domain was there a moment ago and is gone: no error in a listing, only something to leave out."""

    def __init__(self, name: str) -> None:
        super().__init__(f"domain {name!r} is gone", cause="domain-vanished")


class DefineRefused(PmuconfError):
    """libvirt did not take a definition: the domain is as it was, and others are not concerned."""
