"""The verdict on ``kvm_skip_emulated_instruction``: whether it spares a VM without PMU the PMU's work, and how.

Code alone decides. Version numbers and changelogs say nothing: vendors carry the guard in kernels of any number.
The order is that of judge_code(): the paths of the function, then the copies of it in other functions, then what could
not be read. The tables of cases say what each of them means.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pmuconf.host.code.files import load_file
from pmuconf.host.code.image import Image
from pmuconf.host.code.kernel import RunningKernel
from pmuconf.host.code.members import file_offsets
from pmuconf.host.code.offsets import Offsets
from pmuconf.host.code.release import refuse_other_kernel
from pmuconf.host.code.running import Code, CodeSource, find_code, in_file
from pmuconf.host.guard.cases import (
    NO_OFFSETS,
    FunctionFindings,
    GuardCase,
    KernelFindings,
    case_of_function,
    case_of_kernel,
    findings_of,
)
from pmuconf.host.guard.copies import find_copies, has_callees, is_replaced
from pmuconf.host.guard.events import Kind, Walk
from pmuconf.host.guard.paths import walk
from pmuconf.host.names import VENDORS, vendors_among
from pmuconf.host.root import Root
from pmuconf.hostfacts import Evidence, GuardFinding, Verdict

__all__ = ["judge", "judge_code", "judge_file", "judge_host", "judge_kernel"]

_BROKEN: Final = frozenset({"kcore-broken", "kallsyms-broken", "elf-broken", "record-escapes"})
_DIRECT: Final = re.compile(r"(?:call|j\w+) (0x[0-9a-f]+)$")


def judge_host(root: Root) -> GuardFinding:
    """The verdict on the kernel that the host below ``root`` runs.

    :raises PmuconfError: the host's files are broken.
    """
    with RunningKernel(root) as kernel:
        return judge_kernel(kernel)


def judge_kernel(kernel: RunningKernel) -> GuardFinding:
    """The verdict on a running kernel.

    :raises PmuconfError: the host's files are broken.
    """
    place = find_code(kernel)
    notes = tuple(f"{reason.message} ({reason.cause})" for reason in place.reasons)
    if place.code is not None:
        return judge_code(place.code, notes)
    broken = next((reason for reason in place.reasons if reason.cause in _BROKEN), None)
    if broken is not None:
        raise broken
    # What closed the way to the live text is the cause; the live text or a file is what would settle it.
    first = place.reasons[0]
    hints = dict.fromkeys(reason.hint for reason in place.reasons if reason.hint)
    remedy = ". Or: ".join(hints)
    return GuardFinding(Verdict.UNKNOWN, first.cause, first.message, notes=notes, remedy=remedy)


def judge_file(module: Path, btf: Path | None = None) -> GuardFinding:
    """The verdict on a module or a vmlinux with symbols.

    :param btf: BTF of the vmlinux that the module belongs to, or that vmlinux.
    :raises PmuconfError: a file is broken, or isn't KVM's.
    """
    file = load_file(module)
    doubt = refuse_other_kernel(file, btf) if btf is not None else ""
    offsets, origin = file_offsets(file, btf)
    code = in_file(file, offsets, origin, CodeSource(str(module), observed=False, build_id=file.build_id))
    absent = sorted(set(VENDORS) - vendors_among(file.symbols))
    unread = f"not read, for the file has none of it: {', '.join(absent)}, which may count without a test"
    return judge_code(code, (*([doubt] if doubt else []), *([unread] if absent else [])))


def judge(path: Walk, offsets: Offsets) -> tuple[Verdict, str]:
    """The verdict on one function that was walked, and its cause."""
    case = _case(path, offsets)
    return case.verdict, case.cause


def judge_code(code: Code, notes: tuple[str, ...] = ()) -> GuardFinding:
    """The verdict on code that was found; ``notes`` say why better sources were not to be had."""
    if code.unread:
        notes += (f"not read: {', '.join(code.unread)}, which may count without a test",)
    if code.offsets is None:
        return _without_offsets(code, notes)
    path = walk(code.image, code.entry, code.offsets, watched=code.watched)
    function = _case(path, code.offsets)
    switched = function.verdict is not Verdict.UNKNOWN and _depends_on_switches(code, code.offsets, function)
    verdict = Verdict.UNKNOWN if switched else function.verdict
    decides = verdict in (Verdict.GUARDED, Verdict.EARLY_OUT)
    others = find_copies(
        code,
        code.offsets,
        callee_works=verdict is Verdict.UNGUARDED and bool(path.of(Kind.ENTRY)),
        deciding=frozenset(path.entered) if decides else frozenset(),
    )
    kernel = KernelFindings(
        verdict,
        switched=switched,
        # A function without a call vouches for no other, but before 5.17, when there was nothing to call.
        silent=verdict is Verdict.NO_CALL and has_callees(code),
        unguarded_copy=bool(others.copies.unguarded),
        unread_copy=bool(others.copies.unread),
        complete=others.complete and not (path.inlined and (code.patched or code.patches)),
        unread_module=bool(code.unread),
        replaced=is_replaced(code, path),
    )
    case = case_of_kernel(kernel) or function
    observed = Evidence.OBSERVED if code.source.observed else Evidence.INFERRED
    return GuardFinding(
        case.verdict,
        case.cause,
        case.message,
        evidence=Evidence.NONE if case.verdict is Verdict.UNKNOWN else observed,
        source=code.source.name,
        build_id=code.source.build_id,
        offset=code.offsets.enable_pmu,
        offset_from=code.offsets_from,
        protected_pmu=code.offsets.protected,
        instructions=tuple(_shown(code.image, path)),
        copies=others.copies,
        hooks=tuple(sorted(path.hooks)),
        notes=notes,
        remedy=case.remedy,
    )


def _case(path: Walk, offsets: Offsets) -> GuardCase[FunctionFindings]:
    return case_of_function(findings_of(path, pmu_known=offsets.pmu is not None))


def _depends_on_switches(code: Code, offsets: Offsets, function: GuardCase[FunctionFindings]) -> bool:
    """Whether static keys that are set otherwise make another verdict. Live text has them as they are set."""
    if not code.image.switches:
        return False
    both = walk(code.image, code.entry, offsets, watched=code.watched, switched=True)
    return _case(both, offsets) is not function


def _without_offsets(code: Code, notes: tuple[str, ...]) -> GuardFinding:
    why = f": {code.offsets_from}" if code.offsets_from else ""
    return GuardFinding(
        NO_OFFSETS.verdict,
        NO_OFFSETS.cause,
        NO_OFFSETS.message + why,
        source=code.source.name,
        build_id=code.source.build_id,
        notes=notes,
        remedy=NO_OFFSETS.remedy,
    )


def _shown(image: Image, path: Walk) -> Iterator[str]:
    """The deciding instructions as text: calls, tests, branches, obstacles, and the first work."""
    deciding = {event.at for event in path.events if event.kind in (Kind.CALL, Kind.ENTRY)}
    deciding |= path.tests | path.branches
    if path.tests:
        deciding |= path.loads
    deciding |= {event.at for event in path.of(Kind.UNRESOLVED) if not event.enabled}
    deciding |= {event.at for event in path.of(Kind.WORK)[:1]}
    for address in sorted(deciding):
        text = path.instructions.get(address, "(can't be read)")
        direct = _DIRECT.search(text)
        if direct:
            target = int(direct.group(1), 16)
            names = image.symbols.names(target)  # of another module too, of which show() knows nothing
            text = text.replace(direct.group(1), names[0] if names else image.symbols.show(target))
        yield f"{image.symbols.show(address)}: {text}"
