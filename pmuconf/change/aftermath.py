"""The aftermath of a define of ours, judged by the events and the text behind it. Pure: it looks at nothing itself.

Nothing is ever put right here: what differs is libvirt's own doing or somebody else's edit, and neither is ours to
undo. So each finding is a sentence for the report, and the domain stays as it was found.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from pmuconf.change.result import Outcome, Result
from pmuconf.domain.definition import PmuState
from pmuconf.domain.difference import in_metadata, of_libvirt
from pmuconf.domain.libvirttext import LibvirtText
from pmuconf.hypervisor.history import Happening

__all__ = ["LASTING", "SENTENCES", "Aftermath", "FollowUp", "lasting", "overwrote", "with_findings"]

SENTENCES: Final = {
    "defined-anew": "somebody undefined it in the moment of the change, and the change defined it anew: it stays",
    "edit-overwritten": "somebody else edited it in the moment of the change: look whether that edit is lost",
    "not-confirmed": "libvirt did not report our own define, so somebody else's edit in that moment may be lost",
    "differs-after": "it differs in {places} too, by libvirt's own normalising or somebody else's edit: that stays",
    "": "libvirt itself gave {places} another form",
}
"""The sentence of each finding, the gravest first; the last one is no trouble."""

LASTING: Final = frozenset({"edit-overwritten", "not-confirmed"})
"""The findings that stay true though the change is made once more, on top of another text."""


class FollowUp(enum.Enum):
    """The step that follows from the aftermath of a define."""

    DONE = "done"
    """The domain has the state that it was to have."""
    ANEW = "anew"
    """Somebody else's define took the state back: the change is planned anew on top of it."""
    TRANSIENT = "transient"
    """Somebody undefined the domain, and its guest runs on without a next boot."""


@dataclass(frozen=True)
class Aftermath:
    """The events and the text behind a define of ours.

    :param before: the text that was there right before it.
    :param goal: the PMU state that it gave the domain.
    :param at_once: the events of the domain up to a fence right behind the define (see DefineWatch).
    :param events: those up to the last look.
    :param text: what was read at the last look.
    """

    before: LibvirtText
    goal: PmuState
    at_once: tuple[Happening, ...]
    events: tuple[Happening, ...]
    text: LibvirtText

    @cached_property
    def state(self) -> PmuState:
        """The PMU state at the last look."""
        return self.text.definition.pmu

    @cached_property
    def places(self) -> tuple[str, ...]:
        """Where else the domain differs from before."""
        return self.before.differences(self.text)

    @property
    def ours(self) -> bool:
        """Whether the domain is at the last look just what we defined."""
        return self.state is self.goal and not self.places

    @property
    def quiet(self) -> bool:
        """Whether nobody else was at it, as far as can be known."""
        return self.ours and self.events == self.at_once == (Happening.DEFINED,)

    @property
    def unexplained(self) -> bool:
        """Whether the domain differs, and nothing that was heard of says by whom."""
        others = _defines(self.events) > 1 or (Happening.METADATA in self.events and in_metadata(self.places))
        return bool(self.places) and not others and not of_libvirt(self.places)

    def step(self, *, persistent: bool) -> FollowUp:
        """The step that follows.

        :param persistent: whether the domain has a next boot now.
        """
        if not persistent:
            return FollowUp.TRANSIENT
        return FollowUp.DONE if self.state is self.goal else FollowUp.ANEW

    @property
    def undefined(self) -> bool:
        """Whether somebody undefined it, so that it may be transient now."""
        return Happening.UNDEFINED in self.events

    @property
    def unsettled(self) -> bool:
        """Whether an event that explains what was found may still be on its way."""
        return self.unexplained or self.state is not self.goal

    def findings(self) -> dict[str, str]:
        """A cause code and a sentence for each finding."""
        holds = {
            "defined-anew": self._made_anew,
            "edit-overwritten": self._overwritten,
            "not-confirmed": _defines(self.events) == 0 or Happening.GAP in self.events,
            "differs-after": self.unexplained,
            "": bool(self.places) and of_libvirt(self.places),
        }
        places = ", ".join(self.places)
        return {cause: text.format(places=places) for cause, text in SENTENCES.items() if holds[cause]}

    @property
    def _made_anew(self) -> bool:
        """Whether our define, which stands, came behind an undefine.

        A running domain that is undefined lives on without a next boot, and a define then counts as an update.
        """
        if not self.ours:
            return False
        if _defines(self.events) < 2:  # whatever the order in which libvirt tells of it: the domain is there
            return Happening.UNDEFINED in self.events or Happening.ADDED in self.events
        events = self.at_once if _defines(self.at_once) == 1 else self.events
        last = max(at for at, what in enumerate(events) if what in _DEFINES)
        return events[last] == Happening.ADDED or Happening.UNDEFINED in _behind_define(events[:last])

    @property
    def _overwritten(self) -> bool:
        """Whether an edit of somebody else's may have come between our last look and our define.

        Never a silence, now and then a false alarm: of two defines close together nobody can tell which was ours.
        """
        if overwrote(self.at_once):
            return True
        events = _behind_undefine(self.events)
        if self.ours:
            return _defines(events) > 1 or Happening.METADATA in events
        if Happening.UNDEFINED in self.events:
            return False  # what stands is somebody's define behind ours
        changed = any(in_metadata([place]) for place in self.places)
        return Happening.METADATA in events and not changed


def overwrote(at_once: tuple[Happening, ...]) -> bool:
    """Whether our define may have overwritten an edit, by what was heard up to a fence right behind it alone."""
    events = _behind_undefine(at_once)
    ours = next((at for at, what in enumerate(events) if what in _DEFINES), len(events))
    return _defines(events) > 1 or Happening.METADATA in events[:ours]


def lasting(findings: Mapping[str, str]) -> dict[str, str]:
    """Those of these findings that stay true though the change is made once more."""
    return {cause: sentence for cause, sentence in findings.items() if cause in LASTING}


def with_findings(result: Result, findings: Mapping[str, str]) -> Result:
    """The result of a change, with the findings behind its defines.

    If the domain was not changed, or a failure says more, only what lasts counts.
    """
    if result.outcome is not Outcome.CHANGED:
        findings = lasting(findings)
    causes = [cause for cause in SENTENCES if cause in findings]  # the gravest first
    if not causes:
        return result
    sentences = tuple(findings[cause] for cause in causes)
    if result.outcome is Outcome.FAILED:  # the failure is the graver cause
        named = (f"{sentence} ({cause})" for cause, sentence in zip(causes, sentences))
        return replace(result, notes=(*result.notes, *named))
    own = result.notes if result.outcome is Outcome.CHANGED else ()
    return replace(result, cause=causes[0] or result.cause, notes=(*sentences, *own))


_DEFINES: Final = (Happening.DEFINED, Happening.ADDED)


def _defines(events: Sequence[Happening]) -> int:
    return sum(what in _DEFINES for what in events)


def _behind_undefine(events: tuple[Happening, ...]) -> tuple[Happening, ...]:
    """The events behind the last undefine: what an undefine took away, nobody can have overwritten.

    An undefine that is the last of all is passed over: the domain is there, so libvirt told of them out of order.
    """
    while events and events[-1] == Happening.UNDEFINED:
        events = events[:-1]
    at = max((at for at, what in enumerate(events) if what == Happening.UNDEFINED), default=-1)
    return events[at + 1 :]


def _behind_define(events: tuple[Happening, ...]) -> tuple[Happening, ...]:
    """The events behind the last define."""
    at = max((at for at, what in enumerate(events) if what in _DEFINES), default=-1)
    return events[at + 1 :]
