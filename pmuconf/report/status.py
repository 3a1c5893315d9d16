"""One short answer for a host: does its kernel deliver, do its QEMUs, how do the VMs stand, what to do next. Pure."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from pmuconf.audit.report import Report
from pmuconf.audit.vm import Severity, Status
from pmuconf.fastpath.verdict import delivers
from pmuconf.hostfacts import HostFacts, does_to_pmu
from pmuconf.report.document import record, worth
from pmuconf.report.groups import fast_path_group
from pmuconf.report.plain import printable
from pmuconf.wording import counted

__all__ = ["CHECK_WORDS", "HostStatus", "Step", "status_of"]

FORMAT: Final = "pmuconf-status"
VERSION: Final = 1
CHECK_WORDS: Final = {Severity.OK: "OK", Severity.WARNING: "WARNING", Severity.FINDING: "CRITICAL"}
"""The words of the monitoring plug-ins' guidelines, by exit status."""

_STEPS: Final = 3
_WIDTH: Final = 79
_STEP_LINES: Final = 3
_QEMU_LINES: Final = 2
_KERNEL_LINES: Final = 2
_PATH: Final = 44
_COULD_BE: Final = ("change", "qemu", "kernel", "partial")
_OFF_POLICY: Final = (Status.DRIFT, Status.OVERRIDDEN, Status.PENDING, Status.STUCK, Status.UNDECIDED)


@dataclass(frozen=True)
class Step:
    """Something to do, for so many VMs."""

    text: str
    vms: int


@dataclass(frozen=True)
class HostStatus:
    """How a host stands.

    :param kernel: a sentence about the kernel, with the guard's verdict; empty if the host was not looked at.
    :param delivers: whether a VM whose PMU is off has the fast path here; None: the host was not looked at.
    :param kernel_remedy: what would let the kernel deliver; empty if it does.
    :param qemus: a sentence for each QEMU that libvirt would start.
    :param fast: running VMs on the fast path; ``could_be`` would be on it after a change; ``wanted`` have a PMU as the
        policy wants; of ``unknown`` it is not known; ``outside`` are not of KVM on x86. Together: ``running``.
    :param not_judged: VMs that could not be read or decided, running or not.
    :param off_policy: how many VMs have each word of Status that is not OK.
    :param steps: what to do next, the step that most VMs wait for first; ``more_steps`` are not listed.
    :param saved_percent: of the CPU time of the whole host, as an upper bound; None: exits were not counted, or the
        cost of one is not known here. ``savable_percent`` likewise.
    """

    host: str
    severity: Severity
    kernel: str
    delivers: bool | None
    kernel_remedy: str
    qemus: tuple[str, ...]
    vms: int
    running: int
    fast: int
    could_be: int
    wanted: int
    unknown: int
    outside: int
    not_judged: int
    off_policy: Mapping[str, int]
    steps: tuple[Step, ...]
    more_steps: int
    saved_percent: float | None = None
    savable_percent: float | None = None

    def record(self) -> dict[str, Any]:
        """The status as a JSON document."""
        facts = {**asdict(self), "severity": int(self.severity), "off_policy": dict(self.off_policy)}
        return {"format": FORMAT, "version": VERSION, **facts}

    def lines(self) -> Iterator[str]:
        """The status for a person: at most 20 lines of 79 columns."""
        yield from _wrapped(f"{self.host}: {self.kernel or 'the kernel was not looked at'}", "  ", _KERNEL_LINES)
        if self.kernel_remedy:
            yield from _wrapped(f"  needs {self.kernel_remedy}", "  ", _KERNEL_LINES)
        yield from self.qemus[:_QEMU_LINES]
        groups = f": {self._groups()}" if self.running else ""
        yield from _wrapped(f"{counted(self.vms, 'VM')}, {self.running} running{groups}", "  ", _KERNEL_LINES)
        off = ", ".join(f"{number} {word}" for word, number in self.off_policy.items())
        yield f"off policy: {off or 'none'}" + (f"; not judged: {self.not_judged}" if self.not_judged else "")
        for number, step in enumerate(self.steps, 1):
            yield from _wrapped(f"{number}. {counted(step.vms, 'VM')}: {step.text}", "   ", _STEP_LINES)
        if not self.steps:
            yield "nothing to do"
        elif self.more_steps:
            yield f"   and {self.more_steps} more: pmuconf report -f html -o FILE, under 'What to do'"
        if self.saved_percent is not None and self.savable_percent is not None:
            yield (
                f"at most {self.saved_percent:.2g} % of this host's CPU time is saved, and "
                f"{self.savable_percent:.2g} % more could be"
            )

    def check(self) -> str:
        """The status as one line of a monitoring plug-in: word, text, and performance data."""
        off = sum(self.off_policy.values())
        text = f"{self.fast} of {counted(self.running, 'running VM')} on the fast path, {off} off policy"
        numbers = {"fast": self.fast, "could_be": self.could_be, "wanted": self.wanted, "unknown": self.unknown}
        perfdata = [f"{name}={number};;;0;{self.running}" for name, number in numbers.items()]
        perfdata += [f"off_policy={off};;;0;{self.vms}", f"not_judged={self.not_judged};;;0;{self.vms}"]
        if self.savable_percent is not None:
            perfdata.append(f"savable={self.savable_percent:.4f}%;;;0;100")
        return f"PMUCONF {CHECK_WORDS[self.severity]} - {text} | {' '.join(perfdata)}"

    def _groups(self) -> str:
        named = {
            "fast": self.fast,
            "could be": self.could_be,
            "with a PMU as wanted": self.wanted,
            "unknown": self.unknown,
            "not of KVM on x86": self.outside,
        }
        return ", ".join(f"{number} {word}" for word, number in named.items() if number or word == "fast")


def status_of(report: Report) -> HostStatus:
    """How the host of a report stands."""
    facts = report.facts
    groups = Counter(fast_path_group(record(report, vm)) for vm in report.vms if vm.live is not None and vm.answer)
    words = Counter(vm.status for vm in report.vms)
    waiting = Counter(remedy.text for vm in report.vms for remedy in report.remedies(vm))
    saved, savable = _percent(report)
    return HostStatus(
        host=printable(report.host),
        severity=report.severity,
        kernel="" if facts is None else _kernel(facts),
        delivers=None if facts is None else delivers(facts),
        kernel_remedy="" if facts is None or not facts.guard.verdict.severity else facts.guard.step,
        qemus=() if facts is None else tuple(_qemu(qemu.path, disables=qemu.disables) for qemu in facts.qemus),
        vms=len(report.vms),
        running=sum(vm.live is not None for vm in report.vms),
        fast=groups["fast"],
        could_be=sum(groups[key] for key in _COULD_BE),
        wanted=groups["wanted"],
        unknown=groups["unknown"],
        outside=groups["outside"],
        not_judged=sum(vm.error is not None for vm in report.vms),
        off_policy={status.value: words[status] for status in _OFF_POLICY if words[status]},
        steps=tuple(Step(printable(text), number) for text, number in waiting.most_common(_STEPS)),
        more_steps=max(0, len(waiting) - _STEPS),
        saved_percent=saved,
        savable_percent=savable,
    )


def _kernel(facts: HostFacts) -> str:
    guard = facts.guard
    release = f"kernel {printable(facts.release)}" if facts.release else "its kernel"
    return f"{release} is {guard.verdict.value} ({guard.evidence.value}): {guard.message}"


def _qemu(path: str, *, disables: bool | None) -> str:
    shown = printable(path)
    shown = shown if len(shown) <= _PATH else f"{shown[: _PATH // 2 - 2]}...{shown[1 - _PATH // 2 :]}"
    return f"  {shown} {does_to_pmu(disables=disables)}"


def _percent(report: Report) -> tuple[float | None, float | None]:
    value, capacity = worth(report), None if report.facts is None else report.facts.capacity
    if value is None or not capacity:
        return None, None
    return 100 * value["saved_per_second"] / capacity, 100 * value["savable_per_second"] / capacity


def _wrapped(text: str, indent: str, most: int) -> Sequence[str]:
    return textwrap.wrap(
        text, _WIDTH, subsequent_indent=indent, max_lines=most, placeholder=" ...", break_on_hyphens=False
    )
