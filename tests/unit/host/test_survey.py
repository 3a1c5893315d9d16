"""All facts of a host at once: about one KVM with one set of livepatches, or none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pmuconf.facts import Evidence, GuardFinding, Verdict
from pmuconf.host import survey as surveying
from pmuconf.host.identity import loads, parameters
from pmuconf.host.root import Root
from pmuconf.host.survey import survey
from tests.unit.host.sysroot import note, write

GUARDED = GuardFinding(Verdict.GUARDED, "guard-in-caller", "it asks", Evidence.OBSERVED)
UNGUARDED = GuardFinding(Verdict.UNGUARDED, "no-test", "it does not", Evidence.OBSERVED)
BUILD_ID, TRANSITION = "sys/module/kvm/notes/.note.gnu.build-id", "sys/kernel/livepatch/lp/transition"
PARAMETER = "sys/module/kvm/parameters/enable_pmu"


@pytest.fixture
def root(tmp_path: Path) -> Root:
    write(tmp_path, "proc/sys/kernel/random/boot_id", b"boot\n")
    write(tmp_path, BUILD_ID, note())
    write(tmp_path, PARAMETER, b"N\n")
    write(tmp_path, "sys/kernel/livepatch/lp/enabled", b"1\n")
    write(tmp_path, TRANSITION, b"1\n")
    return Root(tmp_path)


def judging(monkeypatch: pytest.MonkeyPatch, change: Callable[[int], object]) -> list[int]:
    """Have each judgement followed by a change of the host; the first one finds another verdict than those behind."""
    looks: list[int] = []

    def judge(_: Root) -> GuardFinding:
        looks.append(len(looks))
        change(len(looks))
        return GUARDED if len(looks) == 1 else UNGUARDED

    monkeypatch.setattr(surveying, "judge_host", judge)
    return looks


def test_one_look_is_enough_where_nothing_changes(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = judging(monkeypatch, lambda _: None)
    assert survey(root).guard is GUARDED
    assert len(looks) == 1


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (BUILD_ID, note("ff" * 20)),
        (TRANSITION, b"0\n"),
        (PARAMETER, b"Y\n"),
        ("sys/module/kvm_amd/parameters/avic", b"Y\n"),
        ("sys/module/lp/notes/.note.gnu.build-id", note("ff" * 20)),
    ],
)
def test_a_change_while_it_looks(root: Root, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes) -> None:
    """The verdict of before must not stand beside what is true of the host after."""
    looks = judging(monkeypatch, lambda _: write(root.path, name, data))
    assert survey(root).guard is UNGUARDED
    assert len(looks) == 2


def test_a_host_that_does_not_hold_still(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    judging(monkeypatch, lambda number: write(root.path, TRANSITION, b"%d\n" % ((number + 1) % 2)))
    found = survey(root)
    assert (found.guard.verdict, found.guard.cause, found.vms_cause) == (Verdict.UNKNOWN, "host-changes", "unstable")


def test_they_say_what_they_are_about(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is to be compared later, by whoever reads them."""
    write(root.path, "proc/uptime", b"4711.25 0.1\n")
    judging(monkeypatch, lambda _: None)
    found = survey(root)
    assert (found.taken, found.parameters, found.loads) == (4711, parameters(root), loads(root))
    assert found.parameters == {"kvm.enable_pmu": "N"}
    assert set(found.loads) == {"kvm", "livepatch lp"}
