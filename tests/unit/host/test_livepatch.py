"""Livepatches of what the verdict stands on, under any name, also where the running text is closed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pmuconf.host.guard.verdict import judge_host
from pmuconf.host.names import FUNCTION
from pmuconf.host.root import Root
from pmuconf.hostfacts import GuardFinding, Verdict
from tests.unit.host.code.test_live import BY_NAME, TestTheFileWithTheBuildId, host_with
from tests.unit.host.shapes import PMU
from tests.unit.host.sysroot import write

KVM_KO = "/lib/modules/6.1.0-test/kernel/arch/x86/kvm/kvm.ko"


def patched(tmp_path: Path, shape: str, function: str, target: str = "kvm") -> GuardFinding:
    """What is said, from the file alone, of a host on which a livepatch replaces the function."""
    root = TestTheFileWithTheBuildId.without_live_text(tmp_path)
    write(root.path, KVM_KO, TestTheFileWithTheBuildId.with_build_id(tmp_path, BY_NAME[shape].source))
    replace(root, function, target)
    return judge_host(root)


def replace(root: Root, function: str, target: str = "kvm", patch: str = "lp") -> None:
    base = f"/sys/kernel/livepatch/{patch}"
    write(root.path, f"{base}/enabled", b"1\n")
    write(root.path, f"{base}/transition", b"0\n")
    root.at(f"{base}/{target}/{function},1").mkdir(parents=True)


CLONES = (
    *("kvm_pmu_trigger_event", "kvm_pmu_trigger_event.isra.0", "kvm_pmu_trigger_event.constprop.0.isra.0"),
    *("kvm_pmu_trigger_event.isra.0.cold", "kvm_pmu_trigger_event.llvm.1234", "kvm_pmu_trigger_event.part.0"),
    *("kvm_pmu_instruction_retired", "kvm_pmu_instruction_retired.isra.0", "kvm_pmu_branch_retired"),
)


@pytest.mark.parametrize("function", CLONES)
def test_of_what_counts_under_any_name(tmp_path: Path, function: str) -> None:
    found = patched(tmp_path, "retired", function)
    assert (found.verdict, found.cause) == (Verdict.UNKNOWN, "livepatch-callee")


@pytest.mark.parametrize("function", CLONES)
def test_of_what_counts_with_the_running_text_at_hand(tmp_path: Path, function: str) -> None:
    root, _ = host_with(tmp_path, "retired")
    replace(root, function)
    found = judge_host(root)
    assert (found.verdict, found.cause) == (Verdict.UNKNOWN, "livepatch-callee")


@pytest.mark.parametrize("function", ["has_pmu", "has_pmu.isra.0", "has_pmu.constprop.0"])
def test_of_a_helper_that_was_followed(tmp_path: Path, function: str) -> None:
    assert f"return {PMU}" in BY_NAME["helper"].source
    found = patched(tmp_path, "helper", function)
    assert (found.verdict, found.cause) == (Verdict.UNKNOWN, "livepatched")


def test_of_a_part_of_the_function(tmp_path: Path) -> None:
    found = patched(tmp_path, "unlikely", "kvm_skip_emulated_instruction.part.0")
    assert (found.verdict, found.cause) == (Verdict.UNKNOWN, "livepatch-callee")


def test_of_the_function_by_several(tmp_path: Path) -> None:
    root, _ = host_with(tmp_path, "unlikely")
    replace(root, FUNCTION, patch="first")
    replace(root, FUNCTION, patch="second")
    found = judge_host(root)
    assert (found.verdict, found.cause) == (Verdict.UNKNOWN, "livepatch-several")
    assert found.message == f"several livepatches replace {FUNCTION}: first, second"


@pytest.mark.parametrize(
    ("target", "function"),
    [
        ("kvm_amd", "svm_skip_emulated_instruction"),
        ("kvm_intel", "vmx_skip_emulated_instruction.isra.0"),
        ("kvm_pvm", "kvm_vcpu_do_singlestep.constprop.0"),
        ("kvm", "kvm_vcpu_do_singlestep"),
    ],
)
def test_of_what_the_function_calls(tmp_path: Path, target: str, function: str) -> None:
    found = patched(tmp_path, "unlikely", function, target)
    assert (found.verdict, found.cause) == (Verdict.UNKNOWN, "livepatched")


def test_of_something_else(tmp_path: Path) -> None:
    assert patched(tmp_path, "unlikely", "kvm_vm_ioctl").verdict is Verdict.GUARDED


def test_a_folder_of_livepatches_that_cannot_be_listed_is_not_an_empty_one(tmp_path: Path) -> None:
    root, _ = host_with(tmp_path, "unlikely")
    folder = root.at("/sys/kernel/livepatch")
    folder.mkdir(parents=True)
    (folder / "lp").symlink_to("lp")  # a loop: as unreadable for root as for anybody
    found = judge_host(root)
    assert (found.verdict, found.cause) == (Verdict.UNKNOWN, "livepatch-unreadable")
