"""Inside the lab: what live_vms() says, as JSON. With a number: for so many seconds, and what of it was wrong."""

from __future__ import annotations

import collections
import dataclasses
import enum
import json
import sys
import time

from pmuconf.host.code.kernel import RunningKernel
from pmuconf.host.prove.qemu import prove_qemu
from pmuconf.host.root import Root
from pmuconf.host.vms.live import live_vms, open_list
from pmuconf.hostfacts import KernelPmu, LiveVm

RIGHT = {"vmm-on": KernelPmu.ENABLED, "vmm-off": KernelPmu.DISABLED}


def plain(value: object) -> object:
    return value.value if isinstance(value, enum.Enum) else str(value)


def once() -> dict[str, object]:
    begun = time.monotonic()
    vms, cause = live_vms()
    return {"cause": cause, "seconds": time.monotonic() - begun, "vms": [dataclasses.asdict(vm) for vm in vms]}


def many(seconds: float) -> dict[str, object]:
    """As the names of the VMMs say what they must be, a wrong pairing shows."""
    listed = open_list(RunningKernel(Root()))
    counts: collections.Counter[str] = collections.Counter()
    wrong: list[LiveVm] = []
    seen: set[tuple[int | None, int | None]] = set()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        vms, cause = live_vms(samples=1, listed=listed)
        counts[f"walks {cause}" if cause else "walks"] += 1
        for vm in vms:
            right = RIGHT.get(vm.command)
            if vm.kernel_pmu is KernelPmu.UNKNOWN or right is None:
                counts[f"unknown {vm.cause}" if right else "without process"] += 1
                continue
            counts["known"] += 1
            seen.add((vm.pid, vm.started))
            if vm.kernel_pmu is not right:
                wrong.append(vm)
    return {"counts": dict(counts), "different": len(seen), "wrong": [dataclasses.asdict(vm) for vm in wrong]}


def main() -> None:
    if sys.argv[1:2] == ["prove"]:
        found = prove_qemu(sys.argv[2], launch=sys.argv[3:])
        said: dict[str, object] = {"qemu": dataclasses.asdict(found)}
    else:
        said = many(float(sys.argv[1])) if sys.argv[1:] else once()
    json.dump(said, sys.stdout, default=plain, indent=1)


main()
