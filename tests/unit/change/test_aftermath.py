"""Aftermath: what is found behind a define of ours, by what was heard and read. No history is passed over in silence.

The history that is told of is the order in which libvirt queues events, up to a fence right behind our define and up
to the last look.
"""

from __future__ import annotations

import itertools

import pytest

from pmuconf.change.aftermath import SENTENCES, Aftermath, FollowUp
from pmuconf.domain.definition import PmuState
from pmuconf.domain.libvirttext import LibvirtText
from pmuconf.domain.rewriting import rewrite
from pmuconf.hypervisor.history import Happening
from tests.support.domains import plain_domain

D, A, U, M = Happening.DEFINED, Happening.ADDED, Happening.UNDEFINED, Happening.METADATA

BEFORE = plain_domain("web", vnc_password="geheim")
OURS = rewrite(BEFORE, PmuState.OFF)
TITLED = OURS.replace("</uuid>", "</uuid><title>theirs</title>")
LESS_MEMORY = OURS.replace(">16384<", ">8192<")
BOTH = TITLED.replace(">16384<", ">8192<")
CONSOLE = BEFORE.replace("</devices>", "<console type='pty'><target type='virtio' port='0'/></console></devices>")


def found(
    at_once: tuple[Happening, ...], text: str, later: tuple[Happening, ...] = (), before: str = BEFORE
) -> Aftermath:
    return Aftermath(LibvirtText(before), PmuState.OFF, at_once, at_once + later, LibvirtText(text))


def test_our_own_define_alone_is_nothing() -> None:
    assert found((D,), OURS).quiet
    assert found((D,), OURS).findings() == {}


@pytest.mark.parametrize(
    ("at_once", "text", "causes"),
    [
        ((), OURS, ["not-confirmed"]),
        ((), LESS_MEMORY, ["not-confirmed", "differs-after"]),
        ((M,), TITLED, ["edit-overwritten", "not-confirmed"]),  # before our define, for all that is known
        ((D,), LESS_MEMORY, ["differs-after"]),
        ((D,), TITLED, ["differs-after"]),
        ((D, M), TITLED, []),
        ((D, M), BOTH, ["differs-after"]),
        ((D, M), OURS, ["edit-overwritten"]),
        ((M, D), OURS, ["edit-overwritten"]),
        ((M, D), TITLED, ["edit-overwritten"]),
        ((D, D), OURS, ["edit-overwritten"]),
        ((D, D), LESS_MEMORY, ["edit-overwritten"]),  # the memory may be of an edit without an event
        ((U, A), OURS, ["defined-anew"]),
        ((U, D), OURS, ["defined-anew"]),  # while it runs, that is an update
        ((A, U), OURS, ["defined-anew"]),  # queued the other way round
        ((U, A, D), OURS, ["edit-overwritten"]),
        ((D, U, A), OURS, ["defined-anew"]),  # theirs, ours, or the other way round
        ((D, U, A), TITLED, []),
        ((D, U, A, M), TITLED, []),
        ((U, A, M), OURS, ["defined-anew", "edit-overwritten"]),
    ],
)
def test_what_was_heard_at_once(at_once: tuple[Happening, ...], text: str, causes: list[str]) -> None:
    assert list(found(at_once, text).findings()) == causes


@pytest.mark.parametrize(
    ("later", "text", "causes"),
    [
        ((D,), TITLED, []),
        ((D,), LESS_MEMORY, []),
        ((D,), OURS, ["edit-overwritten"]),  # it can have come before, and be told of late
        ((M,), TITLED, []),
        ((M,), OURS, ["edit-overwritten"]),
        ((U, A), TITLED, []),
        ((U, A), OURS, []),  # ours was heard of at once: this is somebody else's, with the same text
    ],
)
def test_what_was_heard_behind_our_own(later: tuple[Happening, ...], text: str, causes: list[str]) -> None:
    assert list(found((D,), text, later).findings()) == causes


@pytest.mark.parametrize(
    ("events", "text", "persistent", "step"),
    [
        ((D,), OURS, True, FollowUp.DONE),
        ((D,), LESS_MEMORY, True, FollowUp.DONE),  # the state is as wanted: what else differs is reported
        ((), OURS, True, FollowUp.DONE),
        ((D, D), BEFORE, True, FollowUp.ANEW),
        ((D, U, A), BEFORE, True, FollowUp.ANEW),
        ((D, U), OURS, False, FollowUp.TRANSIENT),
        ((D, U), BEFORE, False, FollowUp.TRANSIENT),
        ((A, U), OURS, True, FollowUp.DONE),  # reported out of order
    ],
)
def test_what_follows(events: tuple[Happening, ...], text: str, persistent: bool, step: FollowUp) -> None:
    assert found(events, text).step(persistent=persistent) is step


def test_one_that_we_made_anew_and_its_owner_defined_since_is_its_owners() -> None:
    assert found((U, A), TITLED, (D,)).findings() == {}


def test_what_libvirt_itself_changes_has_a_sentence_and_no_cause() -> None:
    ported = rewrite(CONSOLE, PmuState.OFF).replace("port='0'", "port='1'")
    aftermath = found((D,), ported, before=CONSOLE)
    assert aftermath.findings() == {"": "libvirt itself gave devices/console/target@port another form"}
    assert not aftermath.unexplained


def test_the_places_are_named_and_not_what_stands_there() -> None:
    (sentence,) = found((D,), OURS.replace("geheim", "anders")).findings().values()
    assert "devices/graphics@passwd" in sentence
    assert "geheim" not in sentence
    assert "anders" not in sentence


@pytest.mark.parametrize("length", range(5))
def test_no_other_event_is_passed_over_where_the_text_is_ours(length: int) -> None:
    """Whatever the order: a define or metadata of somebody else's is not in the text, so it may be lost."""
    for events in itertools.product((D, A, U, M), repeat=length):
        if events != (D,):
            assert found(events, OURS).findings(), events


@pytest.mark.parametrize("cause", [cause for cause in SENTENCES if cause])
def test_the_sentences_are_such(cause: str) -> None:
    assert SENTENCES[cause][0].islower()
