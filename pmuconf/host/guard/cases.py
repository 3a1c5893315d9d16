"""The verdict on a kernel, as two tables: what the paths of one function show, and what else the kernel runs.

Each table is read from its top, and the first case that fits is the verdict. So a case may take for granted that
none above it fits. A verdict that spares a VM stands below every doubt that it would be wrong with. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeVar

from pmuconf.host.guard.events import Kind, Obstacle, Walk
from pmuconf.hostfacts import Verdict

__all__ = [
    "FUNCTION",
    "KERNEL",
    "NO_OFFSETS",
    "FunctionFindings",
    "GuardCase",
    "KernelFindings",
    "case_of_function",
    "case_of_kernel",
    "findings_of",
]

Findings = TypeVar("Findings")


class FunctionFindings(NamedTuple):
    """What the paths of one function show. Work is the PMU's: that of the callee, or of its code where it is inlined.

    :param untested_work: a path does work and has found neither enable_pmu nor the bitmap of counters non-zero.
    :param murky_work: only paths do so on which there may be a test that is not understood.
    :param tested: enable_pmu is read, and a branch is decided by a value that was tested.
    :param obstacle: the weightiest reason why a path can't be followed that has not found enable_pmu non-zero.
    :param reads: a path reads the vCPU's PMU state in the function itself, and has found neither non-zero.
    :param enabled_work: a path does work, or may, and has found only enable_pmu non-zero.
    :param counting_work: a path does work and has found only the bitmap non-zero.
    :param work: a path does work.
    :param entry: a path enters the callee.
    :param call: a path calls the callee and has found enable_pmu non-zero.
    :param late_obstacle: the weightiest reason why any path can't be followed.
    :param pmu_known: the types tell where a vCPU's PMU state is.
    :param trace: there is a sign of the PMU: its state is read, a function of it is entered, enable_pmu is tested.
    """

    untested_work: bool = False
    murky_work: bool = False
    tested: bool = False
    obstacle: Obstacle | None = None
    reads: bool = False
    enabled_work: bool = False
    counting_work: bool = False
    work: bool = False
    entry: bool = False
    call: bool = False
    late_obstacle: Obstacle | None = None
    pmu_known: bool = True
    trace: bool = False


class KernelFindings(NamedTuple):
    """What is known of a kernel, its function included.

    :param verdict: on the function alone.
    :param switched: the verdict is another one if static keys are set otherwise, and how they are set is not known.
    :param silent: the function calls nothing of the PMU, and the kernel has functions that count.
    :param unguarded_copy: another function does the work without a test.
    :param unread_copy: another function may do so: its paths could not be followed.
    :param complete: all text of livepatches and vendor modules was read, and no copy there is unread. Copies are found
        by their calls: with a livepatch, that says too little where the function has the work inlined.
    :param unread_module: a vendor module runs, and nothing of its code could be read.
    :param replaced: a livepatch replaces a function that the verdict stands on, by code that could not be read.
    """

    verdict: Verdict
    switched: bool = False
    silent: bool = False
    unguarded_copy: bool = False
    unread_copy: bool = False
    complete: bool = True
    unread_module: bool = False
    replaced: bool = False

    @property
    def spares(self) -> bool:
        """Whether the function does no work for a VM whose PMU is disabled."""
        return self.verdict in (Verdict.GUARDED, Verdict.EARLY_OUT, Verdict.NO_CALL)


@dataclass(frozen=True)
class GuardCase(Generic[Findings]):
    """One row of a table.

    :param message: the verdict for a person.
    :param why: the reason for the verdict, and for the place in the table.
    :param fits: whether findings are this case, if none above is.
    :param remedy: what to do about it; empty if nothing is to be done, or known.
    """

    cause: str
    verdict: Verdict
    message: str
    why: str
    fits: Callable[[Findings], bool]
    remedy: str = ""


_BUILD: Final = "A kernel whose KVM has the guard: contrib/kernel has it as a patch, with how to build it"
_BOOT: Final = "Boot a kernel that has the guard built in: a livepatch does not reach inlined copies"
_TYPES: Final = "Boot a kernel with BTF (CONFIG_DEBUG_INFO_BTF), install its debug package, or give --btf"
_UNTRACE: Final = "Stop tracing KVM (trace-cmd, perf probe, bpftrace) and ask again"
_MODULES: Final = "Run as root; make a record anew, for older ones are without KVM's vendor module"

# The causes of obstacles, and the messages.
_OBSTACLES: Final = {
    Obstacle.HOOKED: "ftrace or a kprobe has hooked the function, and may have replaced it",
    Obstacle.UNRESOLVED_CALL: "a call goes to an address that has no name",
    Obstacle.UNKNOWN_CALLEE: "a function is called that can't be followed",
    Obstacle.CALLEE_UNREADABLE: "the function that counts can't be read",
    Obstacle.OTHER_VCPU: "the function that counts is called for something else than the function's own vCPU",
    Obstacle.INDIRECT_CALL: "an indirect call goes somewhere unknown",
    Obstacle.INDIRECT_JUMP: "an indirect jump goes somewhere unknown",
    Obstacle.UNREADABLE_CODE: "some of the code can't be read",
    Obstacle.STACK_LOST: "the stack pointer can't be followed",
    Obstacle.FALLS_THROUGH: "the code runs on into the next function",
    Obstacle.TOO_COMPLEX: "the function has too many paths to follow",
}


def _blocked(why: str, met: Callable[[FunctionFindings], Obstacle | None]) -> list[GuardCase[FunctionFindings]]:
    """A case for each obstacle, for one place in the table."""

    def is_met(obstacle: Obstacle) -> Callable[[FunctionFindings], bool]:
        return lambda findings: met(findings) is obstacle

    return [
        GuardCase(
            obstacle.value,
            Verdict.UNKNOWN,
            message,
            why,
            is_met(obstacle),
            remedy=_UNTRACE if obstacle is Obstacle.HOOKED else "",
        )
        for obstacle, message in _OBSTACLES.items()
    ]


NO_OFFSETS: Final = GuardCase[FunctionFindings](
    "no-offsets",
    Verdict.UNKNOWN,
    "it is not known where enable_pmu is in struct kvm",
    "Nothing of the PMU was found so far, but without its place, reads of its state go unnoticed.",
    lambda findings: not findings.pmu_known,
    remedy=_TYPES,
)

FUNCTION: Final[Sequence[GuardCase[FunctionFindings]]] = (
    GuardCase(
        "test-does-not-decide",
        Verdict.UNGUARDED,
        "enable_pmu is tested, but the PMU's work is done whatever the outcome",
        "One path that surely does the work without having found anything set is enough, whatever the others do.",
        lambda findings: findings.untested_work and findings.tested,
        remedy=_BUILD,
    ),
    GuardCase(
        "no-test",
        Verdict.UNGUARDED,
        "the PMU's work is done without a test of enable_pmu",
        "As above, and there is no test at all.",
        lambda findings: findings.untested_work,
        remedy=_BUILD,
    ),
    GuardCase(
        "test-not-understood",
        Verdict.UNKNOWN,
        "there may be a test of enable_pmu, but not one that is understood",
        "Each path to untested work has met a value that mixes enable_pmu with something else: it may be a guard.",
        lambda findings: findings.murky_work,
    ),
    *_blocked(
        "No path is known to do untested work, but one ends in something unknown before it has found enable_pmu set.",
        lambda findings: findings.obstacle,
    ),
    GuardCase(
        "pmu-touched",
        Verdict.UNKNOWN,
        "PMU state is read without a call that is known",
        "All paths were followed. The callee may be inlined in part, so that a guard further on says too little.",
        lambda findings: findings.reads,
    ),
    GuardCase(
        "tests-differ",
        Verdict.UNKNOWN,
        "some of the PMU's work is behind a test of enable_pmu, and some behind one of the bitmap of counters",
        "All work is behind a test. An early-out would also spare VMs with a PMU, and a guard those that count.",
        lambda findings: findings.counting_work and findings.enabled_work,
    ),
    GuardCase(
        "nothing-counted",
        Verdict.EARLY_OUT,
        "the function that counts returns at once while no counter counts instructions",
        "All work is behind a test, some of it behind that of the bitmap alone: so the weaker verdict comes first.",
        lambda findings: findings.counting_work,
    ),
    GuardCase(
        "guard-in-callee",
        Verdict.GUARDED,
        "the function that counts tests enable_pmu before it does anything",
        "There is work, and with those above ruled out, every path to it has found enable_pmu set.",
        lambda findings: findings.work,
    ),
    GuardCase(
        "callee-idle",
        Verdict.UNKNOWN,
        "the function that counts does nothing that is known as counting",
        "A path enters the callee, and no path does any work there: then it is not what it is taken for.",
        lambda findings: findings.entry,
    ),
    GuardCase(
        "guard-in-caller",
        Verdict.GUARDED,
        "every path to the PMU's work has found enable_pmu set",
        "The callee is called, never entered, and that is only so where enable_pmu was found set.",
        lambda findings: findings.call,
    ),
    *_blocked(
        "Nothing of the PMU is called. Before that counts as no-call, no path at all may end in something unknown.",
        lambda findings: findings.late_obstacle,
    ),
    NO_OFFSETS,
    GuardCase(
        "pmu-touched",
        Verdict.UNKNOWN,
        "PMU state is read without a call that is known",
        "Nothing of the PMU is called, but there is a trace of it: that is not a kernel from before 5.17.",
        lambda findings: findings.trace,
    ),
    GuardCase(
        "no-pmu-call",
        Verdict.NO_CALL,
        "nothing of the PMU is called",
        "All paths were followed to their ends, and none has anything of the PMU.",
        lambda _: True,
    ),
)
"""The verdict on one function."""

KERNEL: Final[Sequence[GuardCase[KernelFindings]]] = (
    GuardCase(
        "switched",
        Verdict.UNKNOWN,
        "what is done depends on a static key, and only live text would show how that is set",
        "The verdict on the function itself is open. So nothing follows from what others do.",
        lambda findings: findings.switched,
    ),
    GuardCase(
        "unguarded-copies",
        Verdict.PARTIAL,
        "the function spares such a VM, other functions of KVM do the PMU's work without a test",
        "A copy that is known to be unguarded outranks copies that are not known.",
        lambda findings: findings.spares and findings.unguarded_copy,
        remedy=_BOOT,
    ),
    GuardCase(
        "unread-copies",
        Verdict.UNKNOWN,
        "the function spares such a VM, but not every copy of it that may differ could be read",
        "A silent function vouches for no copy, any other one only for those in KVM: they are of the same source.",
        lambda findings: (
            (findings.silent and (findings.unread_copy or not findings.complete))
            or (findings.verdict in (Verdict.GUARDED, Verdict.EARLY_OUT) and not findings.complete)
        ),
    ),
    GuardCase(
        "unread-modules",
        Verdict.UNKNOWN,
        "the function spares such a VM, but KVM's vendor module may have copies and could not be read",
        "The copies that were read are guarded. An early-out is in what counts, and so serves those modules too.",
        lambda findings: (findings.verdict is Verdict.GUARDED or findings.silent) and findings.unread_module,
        remedy=_MODULES,
    ),
    GuardCase(
        "livepatched",
        Verdict.UNKNOWN,
        "a livepatch replaces functions that do this work, and only live text would show by what",
        "All that was read spares such a VM, but it is not all what runs.",
        lambda findings: findings.spares and findings.replaced,
    ),
)
"""The verdict on a kernel, where it is another one than that on its function."""


def findings_of(walk: Walk, *, pmu_known: bool) -> FunctionFindings:
    """What a walk along a function's paths shows."""
    work, obstacles, reads = walk.of(Kind.WORK), walk.of(Kind.UNRESOLVED), walk.of(Kind.READ)
    touches = [*work, *reads]
    untested = [event for event in work if not event.enabled and not event.counting]
    return FunctionFindings(
        untested_work=any(not event.murky for event in untested),
        murky_work=bool(untested) and all(event.murky for event in untested),
        tested=bool(walk.branches and walk.tests),
        obstacle=_weightiest(event.obstacle for event in obstacles if not event.enabled),
        reads=any(not event.enabled and not event.counting for event in reads),
        enabled_work=any(event.enabled and not event.counting for event in touches) or not walk.spared <= walk.entered,
        counting_work=any(not event.enabled and event.counting for event in touches),
        work=bool(work),
        entry=bool(walk.of(Kind.ENTRY)),
        call=bool(walk.of(Kind.CALL)),
        late_obstacle=_weightiest(event.obstacle for event in obstacles),
        pmu_known=pmu_known,
        trace=bool(reads or walk.of(Kind.LOOK) or walk.of(Kind.HELPER) or walk.tests)
        or any(event.murky for event in walk.events),
    )


def case_of_function(findings: FunctionFindings) -> GuardCase[FunctionFindings]:
    """The first case that fits."""
    return next(case for case in FUNCTION if case.fits(findings))


def case_of_kernel(findings: KernelFindings) -> GuardCase[KernelFindings] | None:
    """The first case that fits; None: the kernel has the verdict of its function."""
    return next((case for case in KERNEL if case.fits(findings)), None)


def _weightiest(obstacles: Iterable[Obstacle | None]) -> Obstacle | None:
    """A hook, if there is one, for other obstacles may follow from it; otherwise the first."""
    known = [obstacle for obstacle in obstacles if obstacle is not None]
    return Obstacle.HOOKED if Obstacle.HOOKED in known else next(iter(known), None)
