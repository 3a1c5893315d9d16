"""Counting the calls of a function of KVM: a kprobe on it, in a trace instance of its own, for this thread alone.

Requires root and tracefs with kprobe events. The names of a probe and of an instance hold the id of our process, so
that a later run finds and removes what a killed one has left.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pmuconf.errors import PmuconfError
from pmuconf.host.code.kallsyms import Kallsyms
from pmuconf.host.names import KVM, callees_of
from pmuconf.host.root import Root

__all__ = ["CallCounter", "call_counter", "remove_left_overs"]

_TRACING: Final = Path("/sys/kernel/tracing")
_EVENTS: Final = _TRACING / "kprobe_events"
_INSTANCES: Final = _TRACING / "instances"
_GROUP: Final = "pmuconf"
_INSTANCE: Final = re.compile(r"pmuconf-(\d+)")
_EVENT: Final = re.compile(rf"^p\S*:{_GROUP}/(call_(\d+)) ", re.MULTILINE)


@dataclass(frozen=True)
class CallCounter:
    """A running count of the calls of ``callee`` by this thread."""

    callee: str
    instance: Path

    def calls(self) -> int:
        """The number of calls so far."""
        with (self.instance / "trace").open() as lines:
            return sum(1 for line in lines if line.strip() and not line.startswith("#"))


@contextlib.contextmanager
def call_counter() -> Iterator[CallCounter]:
    """Count the calls of the function that counts instructions for the PMU.

    :raises OSError: the kernel refuses something, or has no such function that can be probed.
    """
    event, instance = f"call_{os.getpid()}", _INSTANCES / f"pmuconf-{os.getpid()}"
    callee = _place_probe(event)
    try:
        instance.mkdir()
        try:
            folder = instance / "events" / _GROUP / event
            (folder / "filter").write_text(f"common_pid == {threading.get_native_id()}")
            (folder / "enable").write_text("1")
            yield CallCounter(callee, instance)
            (folder / "enable").write_text("0")
        finally:
            _remove_instance(instance)
    finally:
        _remove_probe(event)


def remove_left_overs() -> None:
    """Remove the probes and instances of runs whose process is gone.

    :raises OSError: tracefs can't be read or written.
    """
    for instance in _INSTANCES.glob("pmuconf-*"):
        match = _INSTANCE.fullmatch(instance.name)
        if match and not _lives(match.group(1)):
            _remove_instance(instance)
    for match in _EVENT.finditer(_EVENTS.read_text()):
        if not _lives(match.group(2)):
            _remove_probe(match.group(1))


def _lives(pid: str) -> bool:
    return Path("/proc", pid).exists()


def _place_probe(event: str) -> str:
    """Place a probe on the first function that can be probed: its name."""
    refusal = OSError(errno.ENOENT, "no function of KVM's PMU can be probed")
    for callee in _candidates():
        for place in (f"{KVM}:{callee}", callee):  # the second is of a KVM that is built in
            try:
                _write_event(f"p:{_GROUP}/{event} {place}")
            except OSError as error:
                refusal = error
                continue
            return callee
    raise refusal


def _candidates() -> Iterator[str]:
    """The functions that may be probed: those that count, then the compiler's clones of them."""
    yield from callees_of()
    try:
        kallsyms = Kallsyms(Root())
    except PmuconfError:
        return
    names = {name for module in (KVM, None) for _, name, code in kallsyms.of_module(module) if code}
    yield from (name for name in callees_of(names) if name in names)


def _write_event(line: str) -> None:
    # Opened to append: writing from the start would remove everybody's probes.
    descriptor = os.open(_EVENTS, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


def _remove_probe(event: str) -> None:
    _write_event(f"-:{_GROUP}/{event}")


def _remove_instance(instance: Path) -> None:
    for switch in instance.glob(f"events/{_GROUP}/*/enable"):
        switch.write_text("0")
    instance.rmdir()
