"""Counts per exit from a source that the test wrote, and what the real one says where it has nothing."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

import pytest

from pmuconf.bench import counters
from pmuconf.bench.counters import Counts, fingerprint
from pmuconf.bench.loops import Loop
from pmuconf.bench.measure import Arm
from pmuconf.errors import PmuconfError
from tests.unit.bench.fake import Host


class Source:
    """Counts what the fake host's batches would have executed: the PMU's work is 227 instructions and 40 branches."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def read(self) -> Counts:
        total = [0.0, 0.0, 0.0]
        for arm, loop, turns in self.host.batches:
            total[0] += 900
            if loop is Loop.EXIT:
                work = (2776, 500, 2) if arm is Arm.ON else (2549, 460, 1)
                for at, each in enumerate(work):
                    total[at] += each * turns
        return Counts(*total)


def test_counts_are_per_exit_and_net_of_what_a_batch_takes() -> None:
    host = Host({Arm.ON: 1, Arm.OFF: 1})
    found = fingerprint(host.opener, (Arm.ON, Arm.OFF), contextlib.nullcontext(Source(host)), turns=10, batches=3)
    assert found.counts == {Arm.ON: Counts(2776, 500, 2), Arm.OFF: Counts(2549, 460, 1)}
    assert found.missing == ""


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (errno.EACCES, "counters-permission"),
        (errno.EPERM, "counters-permission"),
        (errno.ENOENT, "counters-missing"),
        (errno.EOPNOTSUPP, "counters-missing"),
        (errno.EBUSY, "counters-missing"),
    ],
)
def test_no_counters_is_a_sentence_and_no_figure(number: int, cause: str) -> None:
    @contextlib.contextmanager
    def refusing() -> Iterator[Source]:
        raise counters._refused(number)
        yield

    host = Host({Arm.ON: 1})
    found = fingerprint(host.opener, (Arm.ON,), refusing())
    assert found.counts == {}
    assert found.missing.endswith(f"({cause})")
    assert host.batches == []


def test_counters_that_were_shared_are_not_believed() -> None:
    class Shared:
        def read(self) -> Counts:
            raise PmuconfError("shared", cause="counters-shared")

    found = fingerprint(Host({Arm.ON: 1}).opener, (Arm.ON,), contextlib.nullcontext(Shared()))
    assert (found.counts, found.missing) == ({}, "shared (counters-shared)")


@pytest.mark.parametrize(("running", "shared"), [(5, False), (4, True)])
def test_the_group_tells_whether_it_ran_all_the_time(
    monkeypatch: pytest.MonkeyPatch, running: int, shared: bool
) -> None:
    data = b"".join(number.to_bytes(8, "little") for number in (3, 5, running, 70, 8, 1))
    monkeypatch.setattr("os.read", lambda descriptor, size: data)
    if shared:
        with pytest.raises(PmuconfError, match="shared"):
            counters._Group(0).read()
    else:
        assert counters._Group(0).read() == Counts(70, 8, 1)


def test_the_real_source_counts_or_says_why_not() -> None:
    found = fingerprint(Host({Arm.ON: 1}).opener, (Arm.ON,), counters.hardware(), batches=1)
    assert bool(found.counts) is not bool(found.missing)
