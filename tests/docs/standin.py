"""pmuconf on hosts that are not at hand: ``tests.docs.standin recorded DIR`` or ``bench``, then its arguments.

recorded    a host of tests/records, unpacked: its kernel, its VMs, its QEMUs. pmuconf's own code judges all of that;
            only what libvirt would say of the VMs comes from the record too.
bench       a host with AMD EPYC 7302, where an exit costs 2113 cycles, and 57 less with the guard and without a PMU.
            Its kernel has the guard, unless a file ``unguarded`` is in the working folder.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pmuconf.audit.report import Report
from pmuconf.commands.main import main
from pmuconf.policy import Policy

__all__ = ["run"]


def run(kind: str, arguments: Sequence[str]) -> int:
    """Run pmuconf on such a host; its exit status."""
    if kind == "recorded":
        return _recorded(Path(arguments[0]), list(arguments[1:]))
    return _bench(list(arguments))


def _recorded(record: Path, arguments: list[str]) -> int:
    import pmuconf.access
    import pmuconf.audit.look
    from tests.support.records import report_of

    def audit(_: object, policy: Policy, names: Sequence[str] = (), **given: Any) -> Report:
        report = report_of(record, policy)
        return replace(report, vms=tuple(vm for vm in report.vms if not names or vm.name in names))

    def connect(*_: object, **given: Any) -> nullcontext[Any]:
        return nullcontext(SimpleNamespace(local=False))

    _put(pmuconf.audit.look, "audit", audit)
    _put(pmuconf.access, "connect", connect)
    return main([*arguments, "--root", str(record)] if arguments[:1] == ["host"] else arguments)


def _bench(arguments: list[str]) -> int:
    from pmuconf.bench import on_host
    from pmuconf.bench.measurement import Measurement
    from pmuconf.hostfacts import Verdict
    from tests.unit.bench.fake import KEY, measurement_of

    guarded = not Path("unguarded").exists()

    def take(*_: object, **given: Any) -> Measurement:
        if guarded:
            return measurement_of(on=2113, off=2055.4, spread=4)
        return measurement_of(
            on=2113, off=2113, spread=4, guard=Verdict.UNGUARDED, host=replace(KEY, kernel="o" * 40, kvm="o" * 40)
        )

    _put(on_host, "take", take)
    return main(arguments)


def _put(module: Any, name: str, function: Callable[..., Any]) -> None:
    setattr(module, name, function)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2:]))
