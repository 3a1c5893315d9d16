"""A host as one finds it in the middle of a roll-out: what the tests of the report's formats and its picture show."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, Final

from pmuconf.audit.report import Report, join
from pmuconf.audit.vm import Unjudged, Vm, judge
from pmuconf.domain.definition import UNKNOWN, Domain, Nova, PmuState
from pmuconf.hostfacts import Copies, Evidence, GuardFinding, HostFacts, KernelPmu, LiveVm, Qemu, Verdict
from pmuconf.policy import Decision, Policy, Rule
from pmuconf.report.document import document

__all__ = ["AT", "FACTS", "KINDS", "POLICY", "Kind", "many", "of_names", "sample", "sample_report"]

AT: Final = datetime(2031, 2, 3, 4, 5, 6, tzinfo=timezone.utc)
POLICY: Final = Policy(
    Decision.OFF,
    (
        Rule("profiling", Decision.ON, reason="customers profile there", flavor=("perf.*",)),
        Rule("appliances", Decision.KEEP, reason="vendor appliances stay as they are", domain=("fw-*",)),
    ),
)
OLD: Final = Qemu("/usr/bin/qemu-system-x86_64 (deleted)", "7c1e90aa52d0", False, "tested-build-id", Evidence.INFERRED)
KEEPS: Final = Qemu("/opt/qemu-7.2/bin/qemu-system-x86_64", "41d0fe5ba1c9", False, "tested-build-id", Evidence.INFERRED)
NEW: Final = Qemu("/usr/bin/qemu-system-x86_64", "b3fd21c07e44", True, "strings-in-binary", Evidence.INFERRED)
UNTOLD: Final = Qemu("/opt/qemu/bin/qemu-kvm", "09ab77d31f58", None, "no-known-string", Evidence.NONE)
GUARD: Final = GuardFinding(
    Verdict.GUARDED,
    "guard-in-caller",
    "every path to the PMU's work has found enable_pmu set",
    Evidence.OBSERVED,
    "live text of kvm",
    "5f0c9ad1e2b84c7790aa1b7d3e66f1c24d8e0b13",
    38592,
    "BTF of kvm",
    (
        "kvm_skip_emulated_instruction+0x32: mov rax, qword ptr [rbx]",
        "kvm_skip_emulated_instruction+0x35: cmp byte ptr [rax + 0x96c0], 0",
        "kvm_skip_emulated_instruction+0x3c: je kvm_skip_emulated_instruction+0x5b",
        "kvm_skip_emulated_instruction+0x48: call kvm_pmu_trigger_event",
    ),
    Copies(guarded=("kvm_emulate_cpuid", "kvm_emulate_halt")),
)
FACTS: Final = HostFacts(
    GUARD,
    boot_id="2a6f",
    kvm_build_id=GUARD.build_id,
    enable_pmu=True,
    mediated_pmu=False,
    release="6.12.48-guard2-amd64",
    cpu="AMD EPYC 7302 16-Core Processor",
    mitigations={
        "retbleed": "Mitigation: untrained return thunk; SMT enabled with STIBP protection",
        "spec_rstack_overflow": "Mitigation: Safe RET",
        "spectre_v2": "Mitigation: Retpolines; IBPB: conditional; STIBP: always-on; RSB filling",
    },
    cycles=57,
    cpus=32,
    capacity=32 * 2_800_000_000,
)
ON, OFF, DEFAULT = PmuState.ON, PmuState.OFF, PmuState.DEFAULT


@dataclass(frozen=True)
class Kind:
    """VMs that are alike."""

    names: tuple[str, ...]
    flavor: str | None
    live: PmuState | None
    next_boot: PmuState | None
    kernel: KernelPmu = KernelPmu.UNKNOWN
    qemu: Qemu | None = NEW
    cpu: str = "host-passthrough"
    exits: float | None = 0.0
    saved: PmuState | None = None
    in_use: bool | None = False
    incoming: bool = False
    virt_type: str = "kvm"
    arch: str = "x86_64"
    snapshots: int = 0


_HELD, _NONE = KernelPmu.ENABLED, KernelPmu.DISABLED


def _instances(first: int, count: int) -> tuple[str, ...]:
    return tuple(f"instance-{number:08x}" for number in range(first, first + count))


KINDS: Final = (
    Kind(_instances(0x1A0, 9), "m1.small", OFF, OFF, _NONE, exits=6_400),
    Kind(_instances(0x1B4, 6), "m1.large", OFF, OFF, _NONE, exits=31_800),
    Kind(_instances(0x1D0, 3), "c5.xlarge", OFF, OFF, _NONE, exits=58_300),
    Kind(_instances(0x1C2, 2), "m1.small", OFF, OFF, _NONE, incoming=True, exits=5_900),
    Kind(("ci-runner-1", "ci-runner-2"), None, DEFAULT, DEFAULT, _NONE, cpu="host-model", exits=77_000),
    Kind(_instances(0x0E4, 4), "m1.large", ON, OFF, _HELD, exits=28_900),
    Kind(_instances(0x0F0, 2), "c5.xlarge", DEFAULT, OFF, _HELD, exits=44_100, snapshots=2),
    Kind(_instances(0x0A1, 3), "m1.small", OFF, OFF, _HELD, qemu=OLD, exits=7_200),
    Kind(("legacy-erp", "legacy-mail"), None, OFF, OFF, _HELD, qemu=KEEPS, cpu="custom", exits=15_600),
    Kind(_instances(0x0B7, 3), "c5.xlarge", ON, ON, _HELD, exits=39_700),
    Kind(("db1",), None, ON, ON, _HELD, exits=18_240, in_use=True),
    Kind(_instances(0x1E1, 3), "perf.large", ON, ON, _HELD, exits=21_000, in_use=True),
    Kind(("fw-edge",), None, ON, ON, _HELD, exits=96_500),
    Kind(("import-test",), None, OFF, OFF, KernelPmu.UNKNOWN, qemu=UNTOLD, exits=3_100, in_use=None),
    Kind(("build-job-7711",), None, DEFAULT, None, _HELD, exits=12_700),
    Kind(("web-old", "staging"), None, None, OFF, exits=None),
    Kind(("web-older",), None, None, OFF, exits=None, saved=ON),
    Kind(
        ("arm-builder",),
        None,
        DEFAULT,
        DEFAULT,
        cpu="custom",
        virt_type="qemu",
        arch="aarch64",
        qemu=None,
        exits=None,
        in_use=None,
    ),
)


def sample(
    facts: HostFacts | None = FACTS, host: str = "compute-17.example.org", *, asked: bool = True
) -> dict[str, Any]:
    """The document of that host's audit; see sample_report()."""
    return document(sample_report(facts, host, asked=asked), POLICY)


def sample_report(
    facts: HostFacts | None = FACTS, host: str = "compute-17.example.org", *, asked: bool = True
) -> Report:
    """That host's audit.

    :param asked: whether the fast path is to be judged at all, as it is not where files are read.
    """
    vms = [*_vms(KINDS), Vm("torn", str(_uuid("torn")), error=Unjudged("flavor-image-conflict", _TORN))]
    vms.sort(key=lambda vm: vm.name)
    if facts is not None:
        live = tuple(_live(kind, name, pid) for pid, (kind, name) in enumerate(_each(KINDS), 4200) if kind.live)
        others = (LiveVm(991, 1, "firecracker", kernel_pmu=KernelPmu.ENABLED, in_use=False),)
        facts = replace(facts, vms=(*live, *others))
    joined = join(vms, facts) if asked else tuple(replace(vm, exits_per_second=None) for vm in vms)
    return Report("qemu:///system", joined, facts, host=host, at=AT)


def of_names(names: Iterable[str], flavor: str | None = None) -> dict[str, Any]:
    """The document of a host whose VMs have these names."""
    return many([Kind((name,), flavor, OFF, OFF, _NONE, exits=10) for name in names])


def many(
    kinds: Iterable[Kind] | int, facts: HostFacts | None = FACTS, host: str = "big", at: datetime = AT
) -> dict[str, Any]:
    """The document of a host with VMs of these kinds, or with so many VMs of the sample's kinds."""
    if isinstance(kinds, int):
        count, kinds = kinds, []
        for number in range(count):
            kind = KINDS[number * 7 % len(KINDS)]
            kinds.append(replace(kind, names=(f"vm-{number}",), exits=kind.exits and kind.exits + number))
    kinds = list(kinds)
    live = tuple(_live(kind, name, pid) for pid, (kind, name) in enumerate(_each(kinds), 4200) if kind.live)
    facts = facts and replace(facts, vms=live)
    return document(Report("qemu:///system", join(_vms(kinds), facts), facts, host=host, at=at), POLICY)


_TORN: Final = "the flavor says hw:pmu=true and the image hw_pmu=false"


def _each(kinds: Iterable[Kind]) -> Iterator[tuple[Kind, str]]:
    for kind in kinds:
        for name in kind.names:
            yield kind, name


def _uuid(name: str) -> uuid.UUID:
    return uuid.uuid5(uuid.NAMESPACE_DNS, name.encode("utf-8", "backslashreplace").decode())


def _vms(kinds: Iterable[Kind]) -> list[Vm]:
    return [_vm(kind, name, at) for at, (kind, name) in enumerate(_each(kinds))]


def _vm(kind: Kind, name: str, at: int) -> Vm:
    nova = None if kind.flavor is None else Nova(kind.flavor, UNKNOWN, "project", {}, {})

    def domain(state: PmuState | None) -> Domain | None:
        if state is None:
            return None
        return Domain(name, str(_uuid(name)), kind.virt_type, kind.arch, state, kind.cpu, nova)

    vm = judge(
        POLICY,
        live=domain(kind.live),
        next_boot=domain(kind.next_boot),
        saved=domain(kind.saved),
        snapshots=[domain(ON)] * kind.snapshots,
    )
    exits = None if kind.exits is None else kind.exits * (1 + at % 5 / 17)
    return replace(vm, transient=kind.next_boot is None, exits_per_second=exits)


def _live(kind: Kind, name: str, pid: int) -> LiveVm:
    has_pmu = kind.live is ON or (kind.live is DEFAULT and kind.cpu == "host-passthrough")
    return LiveVm(
        pid,
        1,
        "qemu-system-x86",
        str(_uuid(name)),
        name,
        kind.kernel,
        in_use=kind.in_use,
        pmu_property=has_pmu,
        incoming=kind.incoming,
        qemu=kind.qemu,
        next_qemu=NEW if kind.qemu is OLD else kind.qemu,
    )
