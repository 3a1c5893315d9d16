"""The verdict on ``kvm_skip_emulated_instruction``: does a VM without PMU skip the PMU's work, and what says so?

Decided from code alone. Version numbers and changelogs say nothing: vendors carry the guard in kernels of any number.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pmuconf.errors import PmuconfError
from pmuconf.files.inputs import open_regular, read_descriptor
from pmuconf.host.code.btf import MAX_BTF, Btf
from pmuconf.host.code.image import Image
from pmuconf.host.code.kernel import RunningKernel
from pmuconf.host.code.offsets import Offsets
from pmuconf.host.code.running import Code, Source, dwarf_offsets, find_code, in_file, load_file, offsets_of
from pmuconf.host.guard.paths import PADDING, Event, Kind, Walk, walk
from pmuconf.host.names import FUNCTION, VENDORS, is_callee, may_be_copy, replaces, vendors_among
from pmuconf.host.root import Root
from pmuconf.hostfacts import Copies, Evidence, GuardFinding, Verdict

if TYPE_CHECKING:
    from pmuconf.host.code.elf import ObjectFile

__all__ = ["judge", "judge_code", "judge_file", "judge_host", "judge_kernel"]

_MAX_COPIES: Final = 200  # there are about 15; a broken file may have any number
_CALL: Final = re.compile(rb"[\xe8\xe9]|\x0f[\x80-\x8f]", re.DOTALL)
_NEAR_CALL: Final = re.compile(rb"(?:[\xe8\xe9]|\x0f[\x80-\x8f])(?=...[\x00\xff])", re.DOTALL)
_ERRORS: Final = frozenset({"kcore-broken", "kallsyms-broken", "elf-broken", "record-escapes"})
_TEXT_SUFFIX: Final = re.compile(r"\.cold\b.*")


_MESSAGES: Final = {
    "guard-in-caller": "every path to the PMU's work has found enable_pmu set",
    "guard-in-callee": "the function that counts tests enable_pmu before it does anything",
    "nothing-counted": "the function that counts returns at once while no counter counts instructions",
    "no-pmu-call": "nothing of the PMU is called",
    "no-test": "the PMU's work is done without a test of enable_pmu",
    "test-does-not-decide": "enable_pmu is tested, but the PMU's work is done whatever the outcome",
    "unguarded-copies": "the function spares such a VM, other functions of KVM do the PMU's work without a test",
    "unread-copies": "the function spares such a VM, but not every copy of it that may differ could be read",
    "unread-modules": "the function spares such a VM, but KVM's vendor module may have copies and could not be read",
    "livepatched": "a livepatch replaces functions that do this work, and only live text would show by what",
    "test-not-understood": "there may be a test of enable_pmu, but not one that is understood",
    "no-offsets": "it is not known where enable_pmu is in struct kvm",
    "unresolved-call": "a call goes to an address that has no name",
    "unknown-callee": "a function is called that can't be followed",
    "callee-unreadable": "the function that counts can't be read",
    "indirect-call": "an indirect call goes somewhere unknown",
    "indirect-jump": "an indirect jump goes somewhere unknown",
    "unreadable-code": "some of the code can't be read",
    "hooked": "ftrace or a kprobe has hooked the function, and may have replaced it",
    "stack-lost": "the stack pointer can't be followed",
    "falls-through": "the code runs on into the next function",
    "switched": "what is done depends on a static key, and only live text would show how that is set",
    "too-complex": "the function has too many paths to follow",
    "callee-idle": "the function that counts does nothing that is known as counting",
    "pmu-touched": "PMU state is read without a call that is known",
}
_REMEDIES: Final = {
    "unguarded": "A kernel whose KVM has the guard: contrib/kernel has it as a patch, with how to build it",
    "partial": "Boot a kernel that has the guard built in: a livepatch does not reach inlined copies",
    "kallsyms-hidden": "Run as root, with kernel.kptr_restrict 1 or 0",
    "kcore-refused": "Run as root; under lockdown=confidentiality install the package with this kernel's modules",
    "kvm-not-loaded": "modprobe kvm_amd or kvm_intel",
    "no-offsets": "Boot a kernel with BTF (CONFIG_DEBUG_INFO_BTF), install its debug package, or give --btf",
    "hooked": "Stop tracing KVM (trace-cmd, perf probe, bpftrace) and ask again",
    "unread-modules": "Run as root; make a record anew, for older ones are without KVM's vendor module",
    "livepatch-transition": "Wait until the livepatch's transition is over",
}


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
    found = find_code(kernel)
    notes = tuple(str(reason) for reason in found.reasons)
    if found.code is not None:
        return judge_code(found.code, notes)
    last = found.reasons[-1]
    broken = next((r for r in found.reasons if r.cause in _ERRORS), None)
    if broken is not None:
        raise broken
    remedy = next((r.hint for r in found.reasons if r.hint), _REMEDIES.get(last.cause, ""))
    # What kept us from the live text is what to do something about; the missing file comes second.
    first = found.reasons[0]
    return GuardFinding(Verdict.UNKNOWN, first.cause, first.message, notes=notes, remedy=remedy)


def judge_file(module: Path, btf: Path | None = None) -> GuardFinding:
    """The verdict on a module or a vmlinux with symbols.

    :param btf: BTF of the vmlinux that the module belongs to, or that vmlinux.
    :raises PmuconfError: a file is broken, or isn't KVM's.
    """
    file = load_file(module)
    offsets, origin = _file_offsets(file, btf)
    if offsets is None:
        found, where = dwarf_offsets(Root(), file.build_id, file)
        offsets, origin = (found, where) if found is not None else (None, "; ".join(filter(None, (origin, where))))
    code = in_file(file, offsets, origin, Source(str(module), observed=False, build_id=file.build_id))
    absent = sorted(set(VENDORS) - vendors_among(file.symbols))
    notes = (f"not read, for the file has none of it: {', '.join(absent)}, which may count without a test",)
    return judge_code(code, notes if absent else ())


def judge(walk_: Walk, offsets: Offsets) -> tuple[Verdict, str]:
    """The verdict on one function that was walked, and its cause."""
    work = walk_.of(Kind.WORK)
    free = [e for e in work if not e.enabled and not e.counting]
    if any(not event.murky for event in free):
        return Verdict.UNGUARDED, "test-does-not-decide" if walk_.branches and walk_.tests else "no-test"
    if free:
        return Verdict.UNKNOWN, "test-not-understood"
    unresolved = [e for e in walk_.of(Kind.UNRESOLVED) if not e.enabled]
    if unresolved:
        return Verdict.UNKNOWN, _weightiest(unresolved).note
    if any(not event.enabled and event.note == "inlined" for event in walk_.of(Kind.TOUCH)):
        return Verdict.UNKNOWN, "pmu-touched"
    if any(not event.enabled for event in work):
        return Verdict.EARLY_OUT, "nothing-counted"
    if walk_.of(Kind.ENTRY) or work:
        return (Verdict.GUARDED, "guard-in-callee") if work else (Verdict.UNKNOWN, "callee-idle")
    if walk_.of(Kind.CALL):
        return Verdict.GUARDED, "guard-in-caller"
    unresolved = walk_.of(Kind.UNRESOLVED)
    if unresolved:
        return Verdict.UNKNOWN, _weightiest(unresolved).note
    if offsets.pmu is None:
        return Verdict.UNKNOWN, "no-offsets"
    if walk_.of(Kind.TOUCH) or walk_.tests or any(event.murky for event in walk_.events):
        return Verdict.UNKNOWN, "pmu-touched"
    return Verdict.NO_CALL, "no-pmu-call"


def judge_code(code: Code, notes: tuple[str, ...] = ()) -> GuardFinding:
    """The verdict on code that was found; ``notes`` say why better sources were not to be had."""
    evidence = Evidence.OBSERVED if code.source.observed else Evidence.INFERRED
    if code.unread:
        notes += (f"not read: {', '.join(code.unread)}, which may count without a test",)
    if code.offsets is None:
        message = f"{_MESSAGES['no-offsets']}: {code.offsets_from}" if code.offsets_from else _MESSAGES["no-offsets"]
        return GuardFinding(
            Verdict.UNKNOWN,
            "no-offsets",
            message,
            source=code.source.name,
            build_id=code.source.build_id,
            notes=notes,
            remedy=_REMEDIES["no-offsets"],
        )
    found = walk(code.image, code.entry, code.offsets, watched=code.watched)
    verdict, cause = judge(found, code.offsets)
    if code.image.switches and verdict is not Verdict.UNKNOWN:
        both = walk(code.image, code.entry, code.offsets, watched=code.watched, switched=True)
        if judge(both, code.offsets) != (verdict, cause):
            verdict, cause = Verdict.UNKNOWN, "switched"
    decides = verdict is Verdict.EARLY_OUT or cause == "guard-in-callee"
    copies, whole = _copies(
        code,
        callee_works=verdict is Verdict.UNGUARDED and bool(found.of(Kind.ENTRY)),
        deciding=frozenset(found.entered) if decides else frozenset(),
    )
    # A function without a call vouches for no other, but before 5.17, when there was nothing to call.
    silent = verdict is Verdict.NO_CALL and any(True for image in _images(code) for _ in _callees(image))
    if verdict.severity == 0 and copies.unguarded:
        verdict, cause = Verdict.PARTIAL, "unguarded-copies"
    elif (silent and copies.unread) or ((silent or verdict in (Verdict.GUARDED, Verdict.EARLY_OUT)) and not whole):
        verdict, cause = Verdict.UNKNOWN, "unread-copies"
    elif (verdict is Verdict.GUARDED or silent) and code.unread:
        verdict, cause = Verdict.UNKNOWN, "unread-modules"
    elif verdict.severity == 0 and _replaced(code, found):
        verdict, cause = Verdict.UNKNOWN, "livepatched"
    return GuardFinding(
        verdict,
        cause,
        _MESSAGES.get(cause, cause),
        evidence=evidence if verdict is not Verdict.UNKNOWN else Evidence.NONE,
        source=code.source.name,
        build_id=code.source.build_id,
        offset=code.offsets.enable_pmu,
        offset_from=code.offsets_from,
        protected_pmu=code.offsets.protected,
        instructions=tuple(_shown(code.image, found)),
        copies=copies,
        hooks=tuple(sorted(found.hooks)),
        notes=notes,
        remedy=_REMEDIES.get(verdict.value, _REMEDIES.get(cause, "")),
    )


def _weightiest(events: list[Event]) -> Event:
    """The event to name: what is known to be a hook before what may only follow from it."""
    return next((e for e in events if e.note == "hooked"), events[0])


def _shown(image: Image, found: Walk) -> Iterator[str]:
    """The deciding instructions as text."""
    deciding = {e.at for e in found.events if e.kind in (Kind.CALL, Kind.ENTRY)}
    deciding |= found.tests | found.branches
    if found.tests:
        deciding |= found.loads
    deciding |= {e.at for e in found.of(Kind.UNRESOLVED) if not e.enabled}
    work = [e.at for e in found.of(Kind.WORK)]
    deciding |= set(work[:1])
    for address in sorted(deciding):
        text = found.instructions.get(address, "(can't be read)")
        target = re.search(r"(?:call|j\w+) (0x[0-9a-f]+)$", text)
        if target:
            text = text.replace(target.group(1), image.symbols.show(int(target.group(1), 16)))
        yield f"{image.symbols.show(address)}: {text}"


def _copies(code: Code, *, callee_works: bool, deciding: frozenset[int]) -> tuple[Copies, bool]:
    """What becomes of the code where others call what counts: functions of KVM, of its vendor modules, of livepatches.

    The second is whether all was read that has to be. A copy in KVM itself was made of the same source as the function,
    so it is as that is, read or not. Of one in a vendor module or a livepatch nothing but its code tells.
    """
    images = _images(code)
    callees = {at: start for image in images for at, start in _callees(image)}
    deciding = frozenset(callees.get(at, at) for at in deciding)
    each = [_copies_in(code, image, callees, deciding, callee_works) for image in images]
    guarded, unguarded, unread = (set().union(*sets) for sets in zip(*each))
    whole = all(
        image is code.image or (not own[2] and any(True for _ in image.text())) for image, own in zip(images, each)
    )
    unread -= unguarded
    return Copies(*(tuple(sorted(names)) for names in (guarded - unguarded - unread, unguarded, unread))), whole


def _images(code: Code) -> tuple[Image, ...]:
    """All text that may call what counts."""
    return (code.patched or code.image, *code.patches, *code.vendors)


def _copies_in(
    code: Code, image: Image, callees: Mapping[int, int], deciding: frozenset[int], callee_works: bool
) -> tuple[set[str], set[str], set[str]]:
    """The functions of one image that have a copy: guarded, unguarded and unread ones.

    Found by their calls of the callee. Each is followed from its start as if its first argument were the vCPU,
    which is checked again at the call; where that does not lead to every such call, the copy is unread. A copy that
    calls nothing but what is known to decide on its own (``deciding``, where that begins) is as guarded as the callee.
    """
    guarded: set[str] = set()
    unguarded: set[str] = set()
    unread: set[str] = set()
    sites = {owner: calls for owner, calls in _owners(image, callees).items() if may_be_copy(owner)}
    for number, (owner, calls) in enumerate(sorted(sites.items())):
        places = image.symbols.addresses(owner)
        if deciding.issuperset(calls.values()):
            guarded.add(owner)
            continue
        if len(places) != 1 or number >= _MAX_COPIES or code.offsets is None:
            unread.add(owner)
            continue
        found = walk(image, places[0], code.offsets, copy=True, callee_works=callee_works, watched=code.watched)
        verdict, _ = judge(found, code.offsets)
        reached = {e.at for e in found.events if e.kind in (Kind.CALL, Kind.ENTRY)}
        if verdict is Verdict.UNGUARDED:
            unguarded.add(owner)
        elif verdict in (Verdict.GUARDED, Verdict.EARLY_OUT) and calls.keys() <= reached:
            guarded.add(owner)
        else:
            unread.add(owner)
    return guarded, unguarded, unread


def _replaced(code: Code, found: Walk) -> bool:
    """Whether a function that the verdict stands on runs in the version of a livepatch that could not be read.

    Those are the ones that were followed, what they call, and whatever calls the function or what counts.
    """
    if not code.replaced:
        return False
    starts = {code.image.symbols.start(address) for address in found.instructions}
    names = {FUNCTION, *found.called}
    names.update(name for start in starts if start is not None for name in code.image.symbols.names(start))
    for image in (code.image, *code.vendors):
        wanted = dict(_callees(image))
        wanted.update({address: address for address in image.symbols.addresses(FUNCTION)})
        names.update(_owners(image, wanted))
    return is_callee(code.replaced) or replaces(code.replaced, names)


def _callees(image: Image) -> Iterator[tuple[int, int]]:
    """Where a call of the callee may go to, and where that begins: with call depth tracking, calls go before it."""
    for address, name in image.symbols:
        if is_callee([name]):
            yield address, address
        elif name.startswith("__pfx_") and is_callee([name[6:]]):
            start = image.symbols.end(address)
            if start is not None and start - address <= PADDING:
                yield from ((at, start) for at in range(address, start))


def _owners(image: Image, targets: Mapping[int, int]) -> dict[str, dict[int, int]]:
    """The functions that call one of the targets: by name, where they do, and where what they call begins."""
    owners: dict[str, dict[int, int]] = {}
    for site, target in _calls(image, targets.keys()):
        start = image.symbols.start(site)
        names = image.symbols.names(start) if start is not None else ()
        owner = _TEXT_SUFFIX.sub("", names[0]) if names else ""
        if owner:
            owners.setdefault(owner, {})[site] = targets[target]
    return owners


def _calls(image: Image, targets: Collection[int]) -> Iterator[tuple[int, int]]:
    """Every place in the text that calls or jumps to one of the targets by a 32-bit distance, and to which."""
    for start, data in image.text():
        # Where all is close together, as in a module, the highest byte of the distance tells most others apart.
        ends = (start, start + len(data))
        near = all(abs(target - end) < 1 << 24 for target in targets for end in ends)
        for match in (_NEAR_CALL if near else _CALL).finditer(data):
            end = match.end()
            if end + 4 <= len(data):
                target = start + end + 4 + struct.unpack_from("<i", data, end)[0]
                if target in targets:
                    yield start + match.start(), target


def _file_offsets(file: ObjectFile, btf: Path | None) -> tuple[Offsets | None, str]:
    base: Btf | None = None
    origin = ""
    if btf is not None:
        try:
            with open(open_regular(btf), "rb", buffering=0) as opened:
                raw = opened.read(2)
                raw = raw + read_descriptor(opened.fileno(), MAX_BTF) if raw == b"\x9f\xeb" else b""
        except OSError as error:
            raise PmuconfError(f"{btf}: {error.strerror}", cause="file-unreadable") from None
        if raw:
            base = Btf(raw)
        else:
            section = load_file(btf).section(".BTF")
            if section is None:
                raise PmuconfError(f"{btf} has no BTF", cause="no-offsets")
            base = Btf(section)
        origin = f"BTF of {btf}"
    own = file.section(".BTF")
    if own is not None:
        try:
            types = Btf(own, base)
            return offsets_of(types), f"BTF of {file.name}"
        except PmuconfError as error:
            if base is None:
                return None, f"{error.message}; a module's BTF needs that of its vmlinux: --btf"
            raise
    if base is not None:
        return offsets_of(base), origin
    return None, "the file has no BTF: give --btf"
