"""Real kernels, recorded once when the lab had booted them, judged again here. tests/records says how they were made.

The oracle is how each kernel was built: Debian's own, or from Debian's source with the patch of contrib/kernel.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import pytest

from pmuconf.audit.look import audit_processes
from pmuconf.commands.main import main
from pmuconf.domain.definition import Manager
from pmuconf.host.code.kernel import RunningKernel
from pmuconf.host.guard.verdict import judge_host
from pmuconf.host.names import FUNCTION
from pmuconf.host.root import Root
from pmuconf.host.survey import survey
from pmuconf.host.vms.live import open_list
from pmuconf.hostfacts import Evidence, GuardFinding, Verdict
from pmuconf.policy import Policy
from tests.lab.core import read_core, write_core
from tests.lab.cut import cut
from tests.support.records import RECORDS, report_of, unpack


@dataclass(frozen=True)
class Built:
    """What follows from how a kernel was built: the verdict, its cause, and which instructions show it.

    :param shown: words that follow one another in the deciding instructions; "ENABLE_PMU" is the operand that reads
        arch.enable_pmu, at the offset that the kernel's own types tell.
    """

    verdict: Verdict
    cause: str
    shown: tuple[str, ...]
    evidence: Evidence = Evidence.OBSERVED


_GUARD = ("cmp byte ptr ENABLE_PMU, 0", "jne ")
BUILT = {
    "6.1-stock": Built(Verdict.UNGUARDED, "no-test", ("call kvm_pmu_trigger_event", "call amd_pmc_idx_to_pmc")),
    "6.1-guarded": Built(Verdict.GUARDED, "guard-in-caller", (*_GUARD, "call kvm_pmu_trigger_event")),
    # The livepatch has a guarded function, and does not reach the copies of it that were inlined elsewhere.
    "6.1-livepatched": Built(Verdict.PARTIAL, "unguarded-copies", (*_GUARD, "call kvm_pmu_trigger_event")),
    "6.12-stock": Built(Verdict.UNGUARDED, "no-test", ("call kvm_pmu_trigger_event",)),
    "6.12-guarded": Built(Verdict.GUARDED, "guard-in-caller", (*_GUARD, "call kvm_pmu_trigger_event")),
    # Since 43f5bea2639c and 5dfd498bad5f (in v6.18): kvm_pmu_trigger_event returns while no counter counts.
    "6.18-stock": Built(Verdict.EARLY_OUT, "nothing-counted", ("call kvm_pmu_instruction_retired",)),
    "7.3-stock": Built(Verdict.EARLY_OUT, "nothing-counted", ("call kvm_pmu_instruction_retired",)),
    "7.3-guarded": Built(Verdict.GUARDED, "guard-in-caller", (*_GUARD, "call kvm_pmu_instruction_retired")),
    # Debian's files, as on a host with kvm_intel whose kernel memory is closed.
    "6.1-intel": Built(Verdict.UNGUARDED, "no-test", ("call kvm_pmu_trigger_event",), Evidence.INFERRED),
    "6.12-intel": Built(Verdict.UNGUARDED, "no-test", ("call kvm_pmu_trigger_event",), Evidence.INFERRED),
    "6.18-intel": Built(Verdict.EARLY_OUT, "nothing-counted", ("call kvm_pmu_instruction_retired",), Evidence.INFERRED),
    "7.3-intel": Built(Verdict.EARLY_OUT, "nothing-counted", ("call kvm_pmu_instruction_retired",), Evidence.INFERRED),
}
# Without its guard, each of the first two is as its stock kernel. The record of 7.3 has no code of what counts: a
# guarded kernel is judged without it, and an altered one can't be.
ALTERED = {"6.1-guarded": Verdict.UNGUARDED, "6.12-guarded": Verdict.UNGUARDED, "7.3-guarded": Verdict.UNKNOWN}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("records")


def record(name: str, folder: Path) -> Root:
    return Root(folder / name if (folder / name).exists() else unpack(name, folder))


def check(finding: GuardFinding, built: Built) -> None:
    """That it was found to be what it was built as, by the right instructions."""
    assert (finding.verdict, finding.cause, finding.evidence) == (built.verdict, built.cause, built.evidence)
    text = "\n".join(finding.instructions)
    if finding.offset is not None:
        text = re.sub(rf"\[r\w+ \+ {finding.offset:#x}\]", "ENABLE_PMU", text)
    at = 0
    for words in built.shown:
        assert words in text[at:], text
        at = text.index(words, at) + len(words)
    tests = "ENABLE_PMU" in text
    assert tests == any("ENABLE_PMU" in words for words in built.shown)


def test_every_record_has_its_expectation() -> None:
    assert {path.name for path in RECORDS.glob("*.tar.xz")} == {f"{name}.tar.xz" for name in BUILT}


@pytest.mark.parametrize("name", BUILT)
def test_a_kernel_is_judged_as_it_was_built(name: str, folder: Path) -> None:
    check(judge_host(record(name, folder)), BUILT[name])


@pytest.mark.parametrize("name", BUILT)
def test_the_command_says_the_same(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["host", "--root", str(record(name, folder).path), "-f", "json"])
    said = json.loads(capsys.readouterr().out)
    assert (status, said["verdict"]) == (BUILT[name].verdict.severity, BUILT[name].verdict.value)
    assert said["kvm"]["vendor_module"] == ("kvm_intel" if name.endswith("-intel") else "kvm_amd")
    assert said["kvm"]["release"].startswith(f"{name.partition('-')[0]}.")


def test_cutting_again_changes_nothing(folder: Path, tmp_path: Path) -> None:
    """What made the small records keeps all that they have, and refuses one that says too much."""
    whole = record("6.1-guarded", folder).path
    cut(whole, tmp_path / "again")
    files = [path.relative_to(whole) for path in whole.rglob("*") if path.is_file()]
    assert [path for path in files if (tmp_path / "again" / path).read_bytes() != (whole / path).read_bytes()] == []
    (tmp_path / "again/proc/version").write_text("eth0 52:54:00:12:34:56\n")
    with pytest.raises(ValueError, match="network card"):
        cut(tmp_path / "again", tmp_path / "third")


_JNE, _JE, _JMP = b"\x75", b"\x74", b"\xeb"


class TestAlteredGuard:
    """The same kernel with one byte of its guard changed is no guarded one any more."""

    @pytest.mark.parametrize("name", ALTERED)
    @pytest.mark.parametrize("opcode", [_JE, _JMP], ids=["inverted", "unconditional"])
    def test_another_branch(self, name: str, opcode: bytes, tmp_path: Path) -> None:
        root = Root(unpack(name, tmp_path))
        alter(root, function(root) + place_of("jne", judge_host(root)), _JNE, opcode)
        finding = judge_host(root)
        assert finding.verdict is ALTERED[name]
        with pytest.raises(AssertionError):
            check(finding, BUILT[name])

    @pytest.mark.parametrize("name", ALTERED)
    def test_another_member(self, name: str, tmp_path: Path) -> None:
        """It asks for the byte beside enable_pmu."""
        root = Root(unpack(name, tmp_path))
        finding = judge_host(root)
        assert finding.offset is not None
        operand = struct.pack("<I", finding.offset)
        alter(root, function(root) + place_of("cmp", finding) + 2, operand, struct.pack("<I", finding.offset + 1))
        altered = judge_host(root)
        assert altered.verdict is ALTERED[name]
        with pytest.raises(AssertionError):
            check(altered, BUILT[name])


# How each VM was started: QEMU, <pmu>. The policy wants no PMU in any of them.
_ON_GUARDED = {
    "web1": ("disabled", "yes", "guarded-disabled"),  # QEMU 11, off
    "web2": ("enabled", "no", "qemu-keeps-pmu"),  # QEMU 7.2, off
    "db1": ("enabled", "no", "drift"),  # QEMU 11, nothing said
    "prof1": ("enabled", "no", "drift"),  # QEMU 11, on
}
VMS = {
    "6.1-guarded": _ON_GUARDED,
    "6.1-stock": {name: (state, "no", "kernel-unguarded") for name, (state, _, _) in _ON_GUARDED.items()},
}


class TestVms:
    """The VMs that ran when the host was recorded, read again in its memory."""

    @pytest.mark.parametrize("name", VMS)
    def test_each_is_judged_as_it_was_started(self, name: str, folder: Path) -> None:
        assert answers(record(name, folder)) == VMS[name]

    @pytest.mark.parametrize("name", VMS)
    def test_by_their_processes_alone_the_answers_are_the_same(self, name: str, folder: Path) -> None:
        """As if libvirt had not been asked: then a next boot is not known, and nothing drifts."""
        report = audit_processes(Policy(), survey(record(name, folder)))
        assert {vm.manager for vm in report.vms} == {Manager.LIBVIRT}
        assert {
            vm.name: (vm.answer.in_kernel.pmu.value, vm.answer.fast_path.value, vm.answer.cause)
            for vm in report.vms
            if vm.answer is not None
        } == {
            vm: (state, fast, "transient" if cause == "drift" else cause)
            for vm, (state, fast, cause) in VMS[name].items()
        }

    def test_a_pmu_in_memory_outranks_all_else(self, tmp_path: Path) -> None:
        """web1 with arch.enable_pmu set in the kernel has no fast path, whatever its QEMU and its definition are."""
        root = Root(unpack("6.1-guarded", tmp_path))
        listed = open_list(RunningKernel(root))
        (vm,) = (vm for vm in listed.vms() if vm.enable_pmu is False)
        alter(root, vm.address + listed.layout.vm.offset("enable_pmu"), b"\0", b"\1")
        state, fast, _ = answers(root)["web1"]
        assert (state, fast) == ("enabled", "no")


def answers(root: Root) -> dict[str, tuple[str, str, str]]:
    """For each VM the PMU that KVM holds, whether it has the fast path, and why."""
    found = {}
    for vm in report_of(root.path, Policy()).vms:
        assert vm.name is not None
        assert vm.answer is not None
        assert vm.answer.evidence is Evidence.OBSERVED
        found[vm.name] = (vm.answer.in_kernel.pmu.value, vm.answer.fast_path.value, vm.answer.cause)
    return found


def place_of(operation: str, finding: GuardFinding) -> int:
    """How far into the function the first deciding instruction of that kind is."""
    (found, *_) = re.findall(rf"\+(0x[0-9a-f]+): {operation} ", "\n".join(finding.instructions))
    return int(found, 16)


def function(root: Root) -> int:
    """Where the function is, by the recorded symbols."""
    symbols = root.read("/proc/kallsyms").decode()
    (address,) = re.findall(rf"^([0-9a-f]+) [tT] {FUNCTION}\t\[kvm\]$", symbols, re.MULTILINE)
    return int(address, 16)


def alter(root: Root, address: int, old: bytes, new: bytes) -> None:
    """Change bytes of the recorded memory."""
    path = root.at("/proc/kcore")
    pieces = list(read_core(path.read_bytes()))
    (held,) = (data[address - start :][: len(old)] for start, data in pieces if start <= address < start + len(data))
    assert held == old
    path.write_bytes(write_core([*pieces, (address, new)]))
