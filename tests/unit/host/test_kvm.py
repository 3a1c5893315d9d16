"""KVM's parameters: what is absent is not what can't be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from pmuconf.host.kvm import nmi_watchdog, read_kvm
from pmuconf.host.root import Root
from tests.unit.host.sysroot import write


def host(root: Path, **parameters: str) -> Root:
    """A host whose modules have these parameters: kvm_amd__nested."""
    write(root, "/sys/module/kvm/parameters/enable_pmu", b"Y\n")
    write(root, "/sys/module/kvm_amd/parameters/nested", b"1\n")
    for name, value in parameters.items():
        module, _, parameter = name.rpartition("__")
        write(root, f"/sys/module/{module}/parameters/{parameter}", f"{value}\n".encode())
    return Root(root)


@pytest.mark.parametrize(
    ("parameters", "mediated"),
    [
        ({}, False),
        ({"kvm_amd__enable_mediated_pmu": "N"}, False),
        ({"kvm_amd__enable_mediated_pmu": "Y"}, True),
        ({"kvm_intel__enable_mediated_pmu": "1"}, True),
        ({"kvm__enable_mediated_pmu": "Y"}, True),
        ({"kvm__enable_mediated_pmu": "N", "kvm_amd__enable_mediated_pmu": "Y"}, True),
        ({"kvm_amd__enable_mediated_pmu": "?"}, None),
        ({"kvm_amd__enable_mediated_pmu": ""}, None),
        ({"kvm_pvm__enable_mediated_pmu": "Y"}, True),
        ({"kvm_intel__enable_passthrough_pmu": "Y"}, True),
        ({"kvm__enable_passthrough_pmu": "N"}, False),
        ({"kvm_amd__enable_virtualized_pmu": "Y"}, None),
        ({"kvm_amd__enable_virtualized_pmu": "N"}, False),
        ({"kvm_amd__enable_virtualized_pmu": "Y", "kvm_amd__enable_mediated_pmu": "Y"}, True),
        ({"kvm_amd__enable_virtualized_pmu": "Y", "kvm_amd__enable_mediated_pmu": "N"}, None),
        ({"kvm_intel__pmu_something": "Y", "kvm_intel__enable_apicv": "Y"}, False),
    ],
)
def test_a_mediated_pmu_by_whatever_name(tmp_path: Path, parameters: dict[str, str], mediated: bool | None) -> None:
    assert read_kvm(host(tmp_path, **parameters)).mediated_pmu is mediated


def test_a_parameter_that_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    root = host(tmp_path)
    root.at("/sys/module/kvm_amd/parameters/enable_mediated_pmu").mkdir()  # unreadable, for root too
    assert read_kvm(root).mediated_pmu is None


def test_so_are_parameters_that_cannot_be_listed(tmp_path: Path) -> None:
    root = host(tmp_path)
    folder = root.at("/sys/module/kvm_intel")
    folder.mkdir()
    (folder / "parameters").symlink_to("parameters")  # a loop
    assert read_kvm(root).mediated_pmu is None


def test_without_kvm_nothing_is_said(tmp_path: Path) -> None:
    assert read_kvm(Root(tmp_path)).mediated_pmu is None


@pytest.mark.parametrize(("text", "said"), [("1", True), ("0", False), ("", None), (None, None)])
def test_the_nmi_watchdog(tmp_path: Path, text: str | None, said: bool | None) -> None:
    if text is not None:
        write(tmp_path, "/proc/sys/kernel/nmi_watchdog", f"{text}\n".encode())
    assert nmi_watchdog(Root(tmp_path)) is said
