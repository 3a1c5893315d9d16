"""The verdict on a kernel: what follows from the function, its copies, and what could not be read. A row a case.

The code is assembled, so that each row is no more than what it is about.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest

from pmuconf.errors import PmuconfError
from pmuconf.host.code.elf import ObjectFile
from pmuconf.host.code.image import Image
from pmuconf.host.code.kernel import RunningKernel
from pmuconf.host.code.running import Code, CodeSource, Located
from pmuconf.host.guard import verdict as module
from pmuconf.host.guard.cases import KERNEL
from pmuconf.host.guard.verdict import judge_code, judge_file, judge_host, judge_kernel
from pmuconf.host.names import FUNCTION
from pmuconf.host.root import Root
from pmuconf.hostfacts import Copies, Evidence, GuardFinding, Verdict
from tests.unit.host.guard.assembled import CALLEE, OFFSETS, Assembled, assemble
from tests.unit.host.shapes import SHAPES, compiled

TEST = "mov rax, [rdi+0x10]; cmp byte ptr [rax+0x203], 0"
GUARDED = f"{TEST}; je .L@; call {CALLEE}; .L@: ret"
COUNTS = f"call {CALLEE}; ret"
OF_ANOTHER = f"mov rdi, rsi; call {CALLEE}; ret"
NOTHING = "mov rax, [rdi+0x50]; ret"
STUBS = "__SCT__kvm_x86_pmu_isr: ret\nkvm_vcpu_do_singlestep: ret"
CALLEES = {
    "counts": f"{CALLEE}: call __SCT__kvm_x86_pmu_isr; ret",
    "guarded": f"{CALLEE}: {TEST}; je .Lnone; call __SCT__kvm_x86_pmu_isr; .Lnone: ret",
    "early": f"{CALLEE}: cmp qword ptr [rdi+0x340], 0; je .Lnone; call __SCT__kvm_x86_pmu_isr; .Lnone: ret",
    "twice": f"{CALLEE}: call __SCT__kvm_x86_pmu_isr; call __SCT__kvm_x86_pmu_isr; ret",
    "none": "",
}
LIVE = CodeSource("live text", observed=True, build_id="00ff")
FILE = CodeSource("kvm.ko", observed=False, build_id="00ff")


class Part:
    """A part of the code as a module of its own: its text is that between two symbols, and paths lead through all."""

    def __init__(self, image: Assembled, first: str, end: str, switches: Mapping[int, int]) -> None:
        self.symbols, self.switches, self.read = image.symbols, switches, image.read
        (self._start,), (self._end,) = image.symbols.addresses(first), image.symbols.addresses(end)

    def text(self) -> Iterator[tuple[int, bytes]]:
        yield self._start, self.read(self._start, self._end - self._start)


@dataclass(frozen=True)
class Kernel:
    """A kernel: the function, what counts, and the copies in KVM and in a vendor module, by their names.

    :param switch: the function begins with a static key, and this is the code that it may lead to.
    """

    function: str = GUARDED
    callee: str = "counts"
    copies: Mapping[str, str] = field(default_factory=dict)
    vendor: Mapping[str, str] | None = None
    unread: tuple[str, ...] = ()
    replaced: frozenset[str] = frozenset()
    switch: str = ""
    source: CodeSource = LIVE

    def code(self) -> Code:
        function = self.function
        if self.switch:  # the key is a nop of five bytes, and the jump that it may be leads over one of two
            function = f".byte 0x0f, 0x1f, 0x44, 0, 0; jmp .Lon; .Lkey: {self.switch}\n.Lon: {self.function}"
        functions = {FUNCTION: function, **self.copies}
        lines = [STUBS, CALLEES[self.callee], *self._lines(functions), "vendor_start: nop"]
        lines += [*self._lines(self.vendor or {}), "the_end: nop"]
        image = assemble("\n".join(lines))
        (entry,) = image.symbols.addresses(FUNCTION)
        kvm = Part(image, "__SCT__kvm_x86_pmu_isr", "vendor_start", {entry: entry + 7} if self.switch else {})
        vendors = () if self.vendor is None else (cast("Image", Part(image, "vendor_start", "the_end", {})),)
        return Code(
            cast("Image", kvm),
            entry,
            OFFSETS,
            "BTF",
            self.source,
            vendors=vendors,
            unread=self.unread,
            replaced=self.replaced,
        )

    @staticmethod
    def _lines(functions: Mapping[str, str]) -> list[str]:
        return [f"{name}: {body.replace('@', name)}" for name, body in functions.items()]


COPY = {"kvm_fast_pio": COUNTS}
AMD = {"svm_fastpath": COUNTS}
ROWS = {
    # ---- what the function shows is the verdict
    "guarded": (Kernel(), Verdict.GUARDED, "guard-in-caller", Copies()),
    "guarded in the callee": (Kernel(COUNTS, "guarded"), Verdict.GUARDED, "guard-in-callee", Copies()),
    "early out": (Kernel(COUNTS, "early"), Verdict.EARLY_OUT, "nothing-counted", Copies()),
    "no call": (Kernel(NOTHING, "none"), Verdict.NO_CALL, "no-pmu-call", Copies()),
    "no call, and there is what counts": (Kernel(NOTHING), Verdict.NO_CALL, "no-pmu-call", Copies()),
    "unguarded": (Kernel(COUNTS), Verdict.UNGUARDED, "no-test", Copies()),
    "unknown": (Kernel("jmp rax"), Verdict.UNKNOWN, "indirect-jump", Copies()),
    # ---- copies that were read
    "a guarded copy": (
        Kernel(copies={"kvm_fast_pio": GUARDED}),
        Verdict.GUARDED,
        "guard-in-caller",
        Copies(guarded=("kvm_fast_pio",)),
    ),
    "an unguarded copy": (
        Kernel(copies={**COPY, "kvm_emulate_halt": GUARDED}),
        Verdict.PARTIAL,
        "unguarded-copies",
        Copies(guarded=("kvm_emulate_halt",), unguarded=("kvm_fast_pio",)),
    ),
    "an unguarded copy that ends in a jump of two bytes": (
        Kernel(copies={"kvm_fast_pio": f"{TEST}; mov rdi, rdi; jmp {CALLEE}", "kvm_emulate_halt": GUARDED}),
        Verdict.PARTIAL,
        "unguarded-copies",
        Copies(guarded=("kvm_emulate_halt",), unguarded=("kvm_fast_pio",)),
    ),
    "a guarded copy that ends in a conditional one": (
        Kernel(copies={"kvm_fast_pio": f"{TEST}; jne {CALLEE}; ret"}, vendor={"svm_fastpath": f"jne {CALLEE}; ret"}),
        Verdict.PARTIAL,
        "unguarded-copies",
        Copies(guarded=("kvm_fast_pio",), unguarded=("svm_fastpath",)),
    ),
    "what looks like a jump of two bytes inside of another instruction": (
        Kernel(NOTHING, copies={"kvm_other": f".byte 0xb8, 0xeb; .byte {CALLEE} - . - 1; .byte 0, 0; ret"}),
        Verdict.NO_CALL,
        "no-pmu-call",
        Copies(),
    ),
    "an unguarded copy beside no call": (
        Kernel(NOTHING, copies=COPY),
        Verdict.PARTIAL,
        "unguarded-copies",
        Copies(unguarded=("kvm_fast_pio",)),
    ),
    "the callee's guard serves every copy": (
        Kernel(COUNTS, "guarded", copies=COPY, vendor=AMD),
        Verdict.GUARDED,
        "guard-in-callee",
        Copies(guarded=("kvm_fast_pio", "svm_fastpath")),
    ),
    "even one that could not be followed": (
        Kernel(COUNTS, "guarded", vendor={"svm_other": OF_ANOTHER}),
        Verdict.GUARDED,
        "guard-in-callee",
        Copies(guarded=("svm_other",)),
    ),
    "and so does an early out": (
        Kernel(COUNTS, "early", copies=COPY, vendor=AMD),
        Verdict.EARLY_OUT,
        "nothing-counted",
        Copies(guarded=("kvm_fast_pio", "svm_fastpath")),
    ),
    "an unguarded copy in a vendor module": (
        Kernel(vendor=AMD),
        Verdict.PARTIAL,
        "unguarded-copies",
        Copies(unguarded=("svm_fastpath",)),
    ),
    "an unguarded kernel stays so, whatever its copies": (
        Kernel(COUNTS, copies={**COPY, "kvm_emulate_halt": GUARDED}, unread=("kvm_amd",)),
        Verdict.UNGUARDED,
        "no-test",
        Copies(guarded=("kvm_emulate_halt",), unguarded=("kvm_fast_pio",)),
    ),
    # ---- copies that were not
    "a copy in KVM that can't be read is of the same source": (
        Kernel(copies={"kvm_other": OF_ANOTHER}),
        Verdict.GUARDED,
        "guard-in-caller",
        Copies(unread=("kvm_other",)),
    ),
    "but not where the function calls nothing": (
        Kernel(NOTHING, copies={"kvm_other": OF_ANOTHER}),
        Verdict.UNKNOWN,
        "unread-copies",
        Copies(unread=("kvm_other",)),
    ),
    "nor in a vendor module": (
        Kernel(vendor={"svm_other": OF_ANOTHER}),
        Verdict.UNKNOWN,
        "unread-copies",
        Copies(unread=("svm_other",)),
    ),
    "an unguarded copy outranks it": (
        Kernel(vendor={"svm_other": OF_ANOTHER, **AMD}),
        Verdict.PARTIAL,
        "unguarded-copies",
        Copies(unguarded=("svm_fastpath",), unread=("svm_other",)),
    ),
    # ---- modules that were not
    "a vendor module": (Kernel(unread=("kvm_amd",)), Verdict.UNKNOWN, "unread-modules", Copies()),
    "a vendor module, with the guard in the callee": (
        Kernel(COUNTS, "guarded", unread=("kvm_amd",)),
        Verdict.UNKNOWN,
        "unread-modules",
        Copies(),
    ),
    "an early out serves it": (
        Kernel(COUNTS, "early", unread=("kvm_amd",)),
        Verdict.EARLY_OUT,
        "nothing-counted",
        Copies(),
    ),
    "without a call it may be any": (
        Kernel(NOTHING, unread=("kvm_amd",)),
        Verdict.UNKNOWN,
        "unread-modules",
        Copies(),
    ),
    "without anything to call it is none": (
        Kernel(NOTHING, "none", unread=("kvm_amd",)),
        Verdict.NO_CALL,
        "no-pmu-call",
        Copies(),
    ),
    # ---- livepatches whose code was not
    "of what counts": (Kernel(replaced=frozenset({CALLEE})), Verdict.UNKNOWN, "livepatched", Copies()),
    "of what the function calls": (
        Kernel("call kvm_vcpu_do_singlestep; ret", "none", replaced=frozenset({"kvm_vcpu_do_singlestep"})),
        Verdict.UNKNOWN,
        "livepatched",
        Copies(),
    ),
    "of something else": (Kernel(replaced=frozenset({"kvm_vm_ioctl"})), Verdict.GUARDED, "guard-in-caller", Copies()),
    "of an unguarded kernel": (Kernel(COUNTS, replaced=frozenset({CALLEE})), Verdict.UNGUARDED, "no-test", Copies()),
    # ---- static keys of a file
    "a key hides the work": (
        Kernel(NOTHING, switch=COUNTS, source=FILE),
        Verdict.UNKNOWN,
        "switched",
        Copies(),
    ),
    "a key hides the guard": (
        Kernel(COUNTS, switch=GUARDED, source=FILE),
        Verdict.UNKNOWN,
        "switched",
        Copies(),
    ),
    "a key hides nothing": (Kernel(switch="jmp .Lon", source=FILE), Verdict.GUARDED, "guard-in-caller", Copies()),
    "a key before something unknown": (
        Kernel("jmp rax", switch=COUNTS, source=FILE),
        Verdict.UNKNOWN,
        "indirect-jump",
        Copies(),
    ),
    "a key that hides an unguarded kernel's copies": (
        Kernel(NOTHING, switch=COUNTS, source=FILE, copies=COPY, unread=("kvm_amd",), replaced=frozenset({CALLEE})),
        Verdict.UNKNOWN,
        "switched",
        Copies(unguarded=("kvm_fast_pio",)),
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_a_row(row: str) -> None:
    kernel, verdict, cause, copies = ROWS[row]
    found = judge_code(kernel.code())
    assert (found.verdict, found.cause, found.copies) == (verdict, cause, copies)
    seen = Evidence.OBSERVED if kernel.source.observed else Evidence.INFERRED
    assert found.evidence is (Evidence.NONE if verdict is Verdict.UNKNOWN else seen)


def test_each_case_of_a_kernel_has_a_row() -> None:
    assert {case.cause for case in KERNEL} <= {cause for _, _, cause, _ in ROWS.values()}


# ---- all that is said ------------------------------------------------------------------------------------------------


def test_all_that_is_said_of_a_guarded_kernel() -> None:
    kernel = Kernel(copies={"kvm_fast_pio": GUARDED}, vendor={"svm_exit": NOTHING})
    code = replace(kernel.code(), offsets=replace(OFFSETS, protected=True))
    assert judge_code(code, ("a better source was closed",)) == GuardFinding(
        Verdict.GUARDED,
        "guard-in-caller",
        "every path to the PMU's work has found enable_pmu set",
        Evidence.OBSERVED,
        "live text",
        "00ff",
        0x203,
        "BTF",
        (
            f"{FUNCTION}: mov rax, qword ptr [rdi + 0x10]",
            f"{FUNCTION}+0x4: cmp byte ptr [rax + 0x203], 0",
            f"{FUNCTION}+0xb: je {FUNCTION}+0x12",
            f"{FUNCTION}+0xd: call {CALLEE}",
        ),
        Copies(("kvm_fast_pio",)),
        (),
        ("a better source was closed",),
        "",
        protected_pmu=True,
    )


def test_what_was_not_read_is_noted_behind_what_was_closed() -> None:
    found = judge_code(Kernel(unread=("kvm_amd", "kvm_pvm")).code(), ("closed",))
    assert found.notes == ("closed", "not read: kvm_amd, kvm_pvm, which may count without a test")
    assert found.remedy == next(case.remedy for case in KERNEL if case.cause == "unread-modules")
    assert judge_code(Kernel().code()).notes == ()


def test_the_first_work_is_shown_and_what_can_t_be_followed() -> None:
    found = judge_code(Kernel(f"call {CALLEE}; jmp rax").code())
    assert found.instructions == (
        f"{CALLEE}: call __SCT__kvm_x86_pmu_isr",
        f"{FUNCTION}: call {CALLEE}",
        f"{FUNCTION}+0x5: jmp rax",
    )
    twice = judge_code(Kernel(f"call {CALLEE}; call {CALLEE}; ret", "twice").code())
    assert [line for line in twice.instructions if "kvm_x86_pmu_isr" in line] == [
        f"{CALLEE}: call __SCT__kvm_x86_pmu_isr"
    ]
    blind = judge_code(Kernel("nop; .byte 0x06").code())
    assert blind.instructions == (f"{FUNCTION}+0x1: (can't be read)",)


def test_an_obstacle_behind_the_guard_is_not_shown() -> None:
    found = judge_code(Kernel(f"{TEST}; je .Lout; call {CALLEE}; call rax; .Lout: ret").code())
    assert not any("call rax" in line for line in found.instructions)


@pytest.mark.parametrize(("why", "more"), [("BTF is broken", ": BTF is broken"), ("", "")])
def test_without_offsets_nothing_is_judged(why: str, more: str) -> None:
    code = replace(Kernel(unread=("kvm_amd",)).code(), offsets=None, offsets_from=why)
    found = judge_code(code, ("closed",))
    assert found == GuardFinding(
        Verdict.UNKNOWN,
        "no-offsets",
        f"it is not known where enable_pmu is in struct kvm{more}",
        source="live text",
        build_id="00ff",
        notes=("closed", "not read: kvm_amd, which may count without a test"),
        remedy="Boot a kernel with BTF (CONFIG_DEBUG_INFO_BTF), install its debug package, or give --btf",
    )


# ---- where no code was found -----------------------------------------------------------------------------------------


def found_of(monkeypatch: pytest.MonkeyPatch, *reasons: PmuconfError, code: Code | None = None) -> GuardFinding:
    monkeypatch.setattr(module, "find_code", lambda kernel: Located(code, reasons))
    return judge_kernel(cast("RunningKernel", object()))


CLOSED = PmuconfError("/proc/kcore is not there", cause="no-kcore", hint="Boot another")
FILELESS = PmuconfError("no file", cause="no-file-with-build-id", hint="Install it")


def test_the_first_way_that_is_closed_is_the_cause_and_all_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found_of(monkeypatch, CLOSED, FILELESS) == GuardFinding(
        Verdict.UNKNOWN,
        "no-kcore",
        "/proc/kcore is not there",
        notes=("/proc/kcore is not there (no-kcore)", "no file (no-file-with-build-id)"),
        remedy="Boot another. Or: Install it",
    )


def test_a_remedy_is_named_once_and_none_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found_of(monkeypatch, CLOSED, CLOSED).remedy == "Boot another"
    assert found_of(monkeypatch, PmuconfError("x", cause="not-x86")).remedy == ""


@pytest.mark.parametrize("cause", ["kcore-broken", "kallsyms-broken", "elf-broken", "record-escapes"])
def test_what_is_broken_is_an_error_and_no_verdict(monkeypatch: pytest.MonkeyPatch, cause: str) -> None:
    broken = PmuconfError("it is broken", cause=cause)
    with pytest.raises(PmuconfError) as caught:
        found_of(monkeypatch, CLOSED, broken)
    assert caught.value is broken


def test_with_code_it_is_judged_and_the_reasons_are_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = found_of(monkeypatch, CLOSED, code=Kernel(source=FILE).code())
    assert (found.verdict, found.evidence) == (Verdict.GUARDED, Evidence.INFERRED)
    assert found.notes == ("/proc/kcore is not there (no-kcore)",)


def test_a_host_without_kvm_is_told(tmp_path: Path) -> None:
    found = judge_host(Root(tmp_path))
    assert (found.verdict, found.cause, found.remedy) == (
        Verdict.UNKNOWN,
        "kvm-not-loaded",
        "modprobe kvm_amd or kvm_intel",
    )


# ---- a file ----------------------------------------------------------------------------------------------------------

NOT_READ = "not read, for the file has none of it: {}, which may count without a test"


def module_file(folder: Path, more: str = "") -> tuple[Path, Path]:
    """KVM's module as a compiler makes it, and the BTF of it alone."""
    shape = next(shape for shape in SHAPES if shape.name == "unlikely")
    data = compiled(shape.source + more, ("-O2",))
    kvm, btf = folder / "kvm.ko", folder / "types"
    kvm.write_bytes(data)
    section = ObjectFile(data, "kvm.ko").section(".BTF")
    assert section is not None
    btf.write_bytes(section)
    return kvm, btf


def test_a_file_is_judged_by_what_it_has(tmp_path: Path) -> None:
    kvm, btf = module_file(tmp_path)
    found = judge_file(kvm)
    assert (found.verdict, found.cause, found.evidence) == (Verdict.GUARDED, "guard-in-caller", Evidence.INFERRED)
    assert (found.source, found.build_id) == (str(kvm), None)
    assert found.notes == (NOT_READ.format("kvm_amd, kvm_intel"),)
    with_types = judge_file(kvm, btf)
    doubt = f"nothing shows whether the BTF of {btf} is of the kernel that {kvm} belongs to"
    assert with_types.notes == (doubt, *found.notes)
    assert replace(with_types, notes=found.notes) == found  # the types of the file itself go first


def test_the_types_that_are_given_serve_a_file_without(tmp_path: Path) -> None:
    kvm, btf = module_file(tmp_path)
    own = judge_file(kvm)
    assert own.offset_from == f"BTF of {kvm}"
    subprocess.run(["objcopy", "--remove-section", ".BTF", str(kvm)], check=True, timeout=60)
    blind = judge_file(kvm)
    assert (blind.verdict, blind.cause, blind.offset) == (Verdict.UNKNOWN, "no-offsets", None)
    found = judge_file(kvm, btf)
    assert (found.verdict, found.offset, found.offset_from) == (own.verdict, own.offset, f"BTF of {btf}")


def test_the_build_id_of_a_file_is_told(tmp_path: Path) -> None:
    kvm, _ = module_file(tmp_path)
    note = tmp_path / "note"
    note.write_bytes(struct.pack("<III4s", 4, 20, 3, b"GNU\0") + bytes(range(20)))
    subprocess.run(["objcopy", "--add-section", f".note.gnu.build-id={note}", str(kvm)], check=True, timeout=60)
    assert judge_file(kvm).build_id == bytes(range(20)).hex()


def test_a_hook_that_only_watches_is_none_whichever_way_a_key_is_set() -> None:
    hooked = Kernel("call ftrace_caller; nop; " + GUARDED, source=FILE, copies={"ftrace_caller": "ret"}).code()
    assert judge_code(hooked).cause == "hooked"
    cast("Part", hooked.image).switches = {hooked.entry + 5: hooked.entry + 6}
    assert judge_code(replace(hooked, watched=frozenset({FUNCTION}))).verdict is Verdict.GUARDED


def test_a_vendor_s_code_in_the_file_is_read(tmp_path: Path) -> None:
    kvm, _ = module_file(tmp_path, "int vmx_vcpu_run(struct kvm_vcpu *v) { return 1; }")
    assert judge_file(kvm).notes == (NOT_READ.format("kvm_amd"),)
    both = "int vmx_vcpu_run(struct kvm_vcpu *v) { return 1; } int svm_vcpu_run(struct kvm_vcpu *v) { return 1; }"
    kvm, _ = module_file(tmp_path, both)
    assert judge_file(kvm).notes == ()
