"""What the kernel's functions are called once compilers had them, and that nobody else keeps such names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import pmuconf.host
from pmuconf.host.names import FUNCTION, bare, callees_of, is_callee, may_be_copy, replaces

CALLEES = ("kvm_pmu_trigger_event", "kvm_pmu_instruction_retired", "kvm_pmu_branch_retired")
SUFFIXES = (
    *("", ".isra.0", ".constprop.0", ".part.0", ".cold", ".llvm.1234567", ".lto_priv.0", ".__uniq.42", ".clone.3"),
    *(".isra.0.cold", ".constprop.0.isra.0", ".part.0.cold.1", ".isra.0.llvm.7", ".specialized.1", ".localalias"),
)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("callee", CALLEES)
def test_a_clone_counts_as_its_function_does(callee: str, suffix: str) -> None:
    assert is_callee([callee + suffix])
    assert bare(callee + suffix) == callee
    assert not may_be_copy(callee + suffix)


@pytest.mark.parametrize("name", ["kvm_pmu_trigger_events", "my_kvm_pmu_trigger_event", "kvm_pmu_refresh.isra.0"])
def test_other_functions_do_not(name: str) -> None:
    assert not is_callee([name])


def test_clones_are_probed_after_the_functions_that_the_source_names() -> None:
    symbols = ["kvm_pmu_trigger_event.isra.0", "kvm_pmu_trigger_event.isra.0.cold", "kvm_pmu_refresh", FUNCTION]
    plain = ("kvm_pmu_instruction_retired", "kvm_pmu_trigger_event")
    assert callees_of() == plain
    assert callees_of(symbols) == (*plain, "kvm_pmu_trigger_event.isra.0")


@pytest.mark.parametrize(
    ("replaced", "names", "expected"),
    [
        ("has_pmu.isra.0", {"has_pmu"}, True),
        ("has_pmu", {"has_pmu.constprop.0"}, True),
        ("svm_skip_emulated_instruction", {"__SCT__kvm_x86_skip_emulated_instruction"}, True),
        ("__svm_skip_emulated_instruction", {"__SCT__kvm_x86_skip_emulated_instruction"}, True),
        ("vmx_get_rflags", {"vmx_get_rflags"}, True),
        ("kvm_vm_ioctl", {"has_pmu", "__SCT__kvm_x86_get_rflags"}, False),
    ],
)
def test_a_livepatch_of_a_clone_or_of_what_a_static_call_leads_to(
    replaced: str, names: set[str], expected: bool
) -> None:
    assert replaces([replaced], names) is expected


@pytest.mark.parametrize("name", ["nested_vmx_run", "klpp_nested_vmx_run", "nested_svm_vmrun", "handle_vmlaunch"])
def test_what_counts_by_itself_in_every_kernel_is_no_copy(name: str) -> None:
    assert not may_be_copy(name)
    assert may_be_copy("svm_handle_exit")


def test_no_other_file_names_functions_of_the_kernel() -> None:
    """But in sentences: a name alone in a string is one that something is compared with or looked for by."""
    kernels = re.compile(
        r"_?(kvm|svm|vmx|nested)_(pmu_|skip_|x86_|handle_|emulate_|amd\b|intel\b)\w*|vm_list|kvm_x86_ops"
        r"|kvm_(arch|vcpu|pmc)|(mm|task)_struct|xa_node|arch\.\w+|__(pfx|cfi|SCT__kvm_x86)_"
    )
    folder = Path(pmuconf.host.__file__).parent
    found = {
        (path.name, node.value)
        for path in folder.rglob("*.py")
        if path.name != "names.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and kernels.fullmatch(node.value)
    }
    assert not found
