"""A part of an audit: which VMs each word of --only, --flavor and --project shows."""

from __future__ import annotations

import pytest

from pmuconf.audit.selection import Selection, VmKind
from pmuconf.audit.vm import Severity, Status, Vm
from pmuconf.fastpath.cases import FastPath
from tests.support.sample import sample_report

VMS = sample_report().vms


def of(*kinds: VmKind) -> set[str]:
    return {vm.name for vm in Selection(kinds).of(VMS)}


def names(vms: list[Vm]) -> set[str]:
    return {vm.name for vm in vms}


def test_findings_are_all_that_the_exit_status_2_is_for() -> None:
    assert of(VmKind.FINDINGS) == names([vm for vm in VMS if vm.severity is Severity.FINDING])
    assert "torn" in of(VmKind.FINDINGS)
    assert of(VmKind.FINDINGS) < of(VmKind.ALL) == of() == names(list(VMS))


@pytest.mark.parametrize(("kind", "status"), [(VmKind.DRIFT, Status.DRIFT), (VmKind.PENDING, Status.PENDING)])
def test_drift_and_pending_are_what_the_status_says(kind: VmKind, status: Status) -> None:
    assert of(kind) == names([vm for vm in VMS if vm.status is status]) != set()


def test_slow_is_who_should_be_fast_and_is_not() -> None:
    """Not a stopped VM, nor one that is to have its PMU, nor one of another architecture."""
    slow = of(VmKind.SLOW)
    assert {"legacy-erp", "db1", "build-job-7711"} <= slow
    assert slow.isdisjoint({"web-old", "web-older", "fw-edge", "arm-builder", "ci-runner-1", "instance-000001e1"})
    for vm in VMS:
        fast = vm.answer is not None and vm.answer.fast_path is FastPath.YES
        assert not (fast and vm.name in slow)


def test_what_cant_be_judged_is_unknown_and_never_left_out_of_that() -> None:
    assert of(VmKind.UNKNOWN) == {"torn", "import-test"}


def test_several_kinds_are_joined() -> None:
    assert of(VmKind.DRIFT, VmKind.UNKNOWN) == of(VmKind.DRIFT) | of(VmKind.UNKNOWN)


def test_flavors_by_name_or_glob_and_projects_by_id() -> None:
    flavors = {vm.name: vm.flavor for vm in VMS}
    some = {vm.name for vm in Selection(flavors=("m1.*",)).of(VMS)}
    assert some == {name for name, flavor in flavors.items() if flavor in ("m1.small", "m1.large")}
    one = Selection((VmKind.DRIFT,), flavors=("m1.small", "c5.xlarge"))
    assert {vm.flavor for vm in one.of(VMS)} == {"c5.xlarge"}
    assert {vm.name for vm in Selection(projects=("project",)).of(VMS)} == {name for name in flavors if flavors[name]}
    assert Selection(projects=("other",)).of(VMS) == ()
