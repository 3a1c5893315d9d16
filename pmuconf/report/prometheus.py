"""The report as Prometheus metrics: for node_exporter's textfile collector, and for /metrics of a service.

Counts have few labels, so that Prometheus can keep those of a whole fleet. One info metric names the VMs,
pmuconf_vm_info, to be joined by uuid. An unknown value gives no series, because a zero would say "none".
docs/report.md lists the metrics, and a test compares the two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from operator import itemgetter
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric

from pmuconf.fastpath.cases import CASES
from pmuconf.hostfacts import KernelPmu, Verdict
from pmuconf.report.plain import printable

__all__ = ["NOT_JUDGED", "families", "prometheus_text"]

NOT_JUDGED: Final = "not-judged"
"""The labels fast_path and cause of VMs without a verdict: the host was not looked at, or they can't be read."""

_COUNTS: Final = {
    "running": "VMs that run.",
    "drift": "VMs whose next boot is not what the policy wants.",
    "pending": "VMs whose next boot is right, and whose running guest or saved image is not yet.",
    "transient": "VMs that run and have no next boot, so that nothing can be written for them.",
    "undecided": "VMs that the policy could not decide about.",
    "errors": "VMs that could not be judged.",
}
_VM_LABELS: Final = (
    *("uuid", "name", "flavor", "fast_path", "cause", "evidence"),
    *("decision", "live", "next_boot", "in_kernel_pmu", "pmu_in_use"),
    *("manager", "pid"),
)


def prometheus_text(document: Mapping[str, Any]) -> str:
    """A report document in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Collected(list(families(document))))
    return generate_latest(registry).decode()


class _Collected:
    """Metrics in the form that a registry takes."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        """The metrics; a registry calls this at each scrape."""
        return self._metrics


def families(document: Mapping[str, Any]) -> Iterator[Metric]:
    """The metrics of a report document."""
    yield from _of_the_report(document)
    yield from _of_the_vms(document)
    facts = document["host_facts"]
    text = "Whether the host's kernel, KVM and QEMU were looked at (1) or not (0)."
    yield _gauge("pmuconf_host_examined", text, facts is not None)
    if facts is not None:
        yield from _of_the_host(facts)
        yield from _of_kvm(document)
    if document["worth"] is not None:
        yield from _of_the_worth(document["worth"])
    yield _vm_info(document)


def _of_the_report(document: Mapping[str, Any]) -> Iterator[Metric]:
    version = document["generator"].partition(" ")[2]
    yield InfoMetricFamily("pmuconf_build", "The pmuconf that made the report.", {"version": version})
    at = datetime.fromisoformat(document["generated_at"]).timestamp()
    yield _gauge("pmuconf_report_timestamp_seconds", "When the audit began, in seconds since 1970.", at)


def _of_the_vms(document: Mapping[str, Any]) -> Iterator[Metric]:
    cases = Counter((vm["fast_path"] or NOT_JUDGED, vm["cause"] or NOT_JUDGED) for vm in document["domains"])
    every = [(case.fast_path.value, cause) for cause, case in CASES.items()]
    yield _by(
        "pmuconf_vms",
        "VMs by whether KVM spares them the PMU's work at their exits, and why or why not. Their sum is all VMs.",
        ("fast_path", "cause"),
        {case: cases[case] for case in (*every, (NOT_JUDGED, NOT_JUDGED), *cases)},
    )
    for kind, text in _COUNTS.items():
        yield _gauge(f"pmuconf_vms_{kind}", text, document["summary"][kind])


def _of_the_host(facts: Mapping[str, Any]) -> Iterator[Metric]:
    guard = facts["guard"]
    yield _by(
        "pmuconf_kernel_guard",
        "1 for the verdict on this kernel's exit path, 0 for every other.",
        ("verdict",),
        {(verdict.value,): verdict.value == guard["verdict"] for verdict in Verdict},
    )
    labels = {key: guard[key] for key in ("verdict", "cause", "evidence", "source", "build_id")}
    yield _info("pmuconf_kernel", "The kernel, and what the verdict on it stands on.", {**labels, **_release(facts)})
    if facts["enable_pmu"] is not None:
        yield _gauge("pmuconf_kvm_enable_pmu", "KVM's module parameter enable_pmu.", facts["enable_pmu"])
    if facts["mediated_pmu"] is not None:
        text = "Whether KVM gives guests the hardware's own counters, and switches them at exits."
        yield _gauge("pmuconf_kvm_mediated_pmu", text, facts["mediated_pmu"])
    text = "Whether kernel memory could be read (1), or the VMs' PMU in the kernel is inferred."
    yield _gauge("pmuconf_kernel_memory_readable", text, not facts["vms_cause"])
    text = "VMs that KVM holds and that are no domain of the report."
    yield _gauge("pmuconf_other_vms", text, len(facts["other_vms"]))


def _release(facts: Mapping[str, Any]) -> dict[str, str | None]:
    return {"release": facts["release"], "livepatches": " ".join(facts["livepatches"]), "cpu": facts["cpu"]}


def _of_kvm(document: Mapping[str, Any]) -> Iterator[Metric]:
    running = [vm for vm in document["domains"] if vm["running"]]
    in_kernel = Counter(vm["in_kernel_pmu"] or KernelPmu.UNKNOWN.value for vm in running)
    yield _by(
        "pmuconf_in_kernel_pmu_vms",
        "Running VMs by their PMU in the kernel (kvm->arch.enable_pmu).",
        ("in_kernel_pmu",),
        {(state.value,): in_kernel[state.value] for state in KernelPmu},
    )
    used = Counter(_in_use(vm) for vm in running)
    yield _by(
        "pmuconf_pmu_in_use_vms",
        "Running VMs by whether a counter of theirs was programmed when looked at.",
        ("pmu_in_use",),
        {(state,): used[state] for state in ("yes", "no", "unknown")},
    )


def _of_the_worth(worth: Mapping[str, Any]) -> Iterator[Metric]:
    basis = "measured" if worth["measured"] else "expected"
    text = "What the fast path saves per exit on this CPU, in cycles: measured here, or expected on a CPU like it."
    yield _by("pmuconf_exit_saving_cycles", text, ("basis",), {(basis,): worth["cycles_per_exit"]})
    text = "VMs whose exits were counted."
    yield _gauge("pmuconf_counted_vms", text, worth["vms"])
    bound = "an upper bound, as if every exit gained."
    text = f"CPU cycles that the fast path saves each second: {bound}"
    yield _gauge("pmuconf_saved_cycles_per_second", text, worth["saved_per_second"])
    text = f"CPU cycles that it would save each second if the VMs without it had it: {bound}"
    yield _gauge("pmuconf_savable_cycles_per_second", text, worth["savable_per_second"])


def _vm_info(document: Mapping[str, Any]) -> Metric:
    """One series for each VM. Two files may be of the same VM, and a series twice would void the whole scrape."""
    metric = InfoMetricFamily("pmuconf_vm", "One VM: which it is, and what the report says of it.", labels=_VM_LABELS)
    rows = {
        tuple(_text(_LABEL_OF.get(key, itemgetter(key))(vm)) for key in _VM_LABELS): None for vm in document["domains"]
    }
    for row in rows:
        metric.add_metric(row, {})
    return metric


def _in_use(vm: Mapping[str, Any]) -> str:
    return {True: "yes", False: "no", None: "unknown"}[vm["pmu_in_use"]]


def _only_pid(vm: Mapping[str, Any]) -> int | None:
    """The process of a VM that nothing else tells from others; of every other VM, a new start would begin a series."""
    pid: int | None = vm["pid"] if vm["by_process"] and vm["uuid"] is None else None
    return pid


_LABEL_OF: Final[Mapping[str, Callable[[Mapping[str, Any]], object]]] = {"pmu_in_use": _in_use, "pid": _only_pid}
"""The labels of a VM that are not simply what its record says."""


def _text(value: object) -> str:
    """The value of a label. Prometheus treats an empty one as if the label were missing."""
    return "" if value is None else printable(str(value))


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _by(name: str, text: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], float]) -> Metric:
    metric = GaugeMetricFamily(name, text, labels=labels)
    for given, value in values.items():
        metric.add_metric(given, float(value))
    return metric


def _info(name: str, text: str, labels: Mapping[str, object]) -> Metric:
    return InfoMetricFamily(name, text, {key: _text(value) for key, value in labels.items()})
