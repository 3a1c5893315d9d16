"""The trait of a host that delivers the fast path: only where the facts say so, and still hold."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pmuconf_nova.trait import delivers

from pmuconf import fastpath
from pmuconf.facts import Evidence, GuardFinding, HostFacts, LiveVm, Qemu, Verdict
from pmuconf.host import factsfile

BUILD_ID = "00112233445566778899aabbccddeeff00112233"
BOOT = "b1e55ed0-0000-4000-8000-000000000000"
GOOD = HostFacts(
    GuardFinding(Verdict.GUARDED, "guard-in-caller", "it tests", Evidence.OBSERVED),
    boot_id=BOOT,
    kvm_build_id=BUILD_ID,
    enable_pmu=True,
    mediated_pmu=False,
    livepatches=("patch 1 0",),
    qemus=(Qemu("/usr/bin/qemu-system-x86_64", None, True, "strings-in-binary", Evidence.INFERRED),),
)


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A host as its kernel shows itself."""
    root = tmp_path / "host"
    note = (4).to_bytes(4, "little") + (20).to_bytes(4, "little") + (3).to_bytes(4, "little") + b"GNU\0"
    for name, data in {
        "proc/sys/kernel/random/boot_id": f"{BOOT}\n".encode(),
        "sys/module/kvm/notes/.note.gnu.build-id": note + bytes.fromhex(BUILD_ID),
        "sys/module/kvm/parameters/enable_pmu": b"Y\n",
        "sys/kernel/livepatch/patch/enabled": b"1\n",
        "sys/kernel/livepatch/patch/transition": b"0\n",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def parameter(host: Path, value: str) -> None:
    (host / "sys/module/kvm/parameters/enable_pmu").write_text(f"{value}\n")


def said(host: Path, facts: HostFacts, spoil: Callable[[Any], object] = lambda document: None) -> bool:
    path = host / "facts"
    document = json.loads(factsfile.dump(facts))
    spoil(document)
    path.write_text(json.dumps(document))
    return delivers(path, host)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the file must be root's")


@needs_root
def test_yes_where_kernel_and_qemu_deliver_it(host: Path) -> None:
    assert said(host, GOOD)
    assert said(host, replace(GOOD, guard=replace(GOOD.guard, verdict=Verdict.EARLY_OUT, evidence=Evidence.INFERRED)))
    no_call = replace(GOOD, guard=replace(GOOD.guard, verdict=Verdict.NO_CALL))
    assert said(host, replace(no_call, qemus=()))
    for mediated in (True, None):
        assert not said(host, replace(no_call, qemus=(), mediated_pmu=mediated))
        assert said(host, replace(no_call, mediated_pmu=mediated))
    parameter(host, "N")
    assert said(host, replace(GOOD, enable_pmu=False, qemus=()))


@needs_root
@pytest.mark.parametrize("verdict", [Verdict.PARTIAL, Verdict.UNGUARDED, Verdict.UNKNOWN])
def test_no_by_the_kernel(host: Path, verdict: Verdict) -> None:
    assert not said(host, replace(GOOD, guard=replace(GOOD.guard, verdict=verdict)))
    assert not said(host, replace(GOOD, guard=replace(GOOD.guard, evidence=Evidence.NONE)))


@needs_root
@pytest.mark.parametrize("disables", [False, None])
def test_no_by_any_qemu_or_without_one(host: Path, disables: bool | None) -> None:
    assert not said(host, replace(GOOD, qemus=()))
    other = Qemu("/usr/libexec/qemu-kvm", None, disables, "no-known-string")
    assert not said(host, replace(GOOD, qemus=(*GOOD.qemus, other)))


@needs_root
def test_what_runs_now_is_no_matter_only_what_would_be_started(host: Path) -> None:
    old = LiveVm(1, qemu=Qemu("/usr/bin/qemu-system-x86_64 (deleted)", None, False, "tested-build-id"))
    assert said(host, replace(GOOD, vms=(old,)))
    new = LiveVm(1, qemu=GOOD.qemus[0], next_qemu=GOOD.qemus[0])
    assert not said(host, replace(GOOD, qemus=(), vms=(new,)))


@needs_root
@pytest.mark.parametrize("verdict", Verdict)
@pytest.mark.parametrize("evidence", Evidence)
@pytest.mark.parametrize("enable_pmu", [True, False])
@pytest.mark.parametrize("disables", [(), (True,), (False,), (None,), (True, True), (True, None), (True, False)])
def test_the_library_says_the_same(
    host: Path, verdict: Verdict, evidence: Evidence, enable_pmu: bool, disables: tuple[bool | None, ...]
) -> None:
    """The plugin may not load what knows of hosts, so it has a copy of the rule."""
    qemus = tuple(Qemu(f"/usr/bin/qemu-{at}", None, one, "") for at, one in enumerate(disables))
    guard = replace(GOOD.guard, verdict=verdict, evidence=evidence)
    facts = replace(GOOD, guard=guard, enable_pmu=enable_pmu, qemus=qemus)
    parameter(host, "Y" if enable_pmu else "N")
    assert said(host, facts) is fastpath.delivers(facts)


@needs_root
def test_no_once_another_qemu_was_installed(host: Path) -> None:
    binary = host / GOOD.qemus[0].path.lstrip("/")
    binary.parent.mkdir(parents=True)
    binary.touch()
    assert said(host, GOOD)
    written = (host / "facts").stat()
    os.utime(binary, (0, 0))  # a package brings the time of its build; that of its change is now
    os.utime(host / "facts", ns=(written.st_atime_ns, written.st_mtime_ns - 1_000_000_000))
    assert not delivers(host / "facts", host)


@needs_root
def test_no_where_the_facts_are_of_another_boot_kvm_parameter_or_set_of_livepatches(host: Path) -> None:
    assert not said(host, replace(GOOD, boot_id="another"))
    assert not said(host, replace(GOOD, kvm_build_id="00"))
    assert not said(host, replace(GOOD, livepatches=()))
    assert not said(host, replace(GOOD, enable_pmu=False))  # KVM was loaded anew, with another parameter
    (host / "sys/kernel/livepatch/patch/enabled").write_text("0\n")
    assert not said(host, GOOD)


@needs_root
def test_no_and_never_an_error_where_the_file_is_missing_broken_or_not_root_s(host: Path) -> None:
    path = host / "facts"
    assert not delivers(path, host)
    for text in ("", "[]", "{}", "nonsense", '{"format": "pmuconf-host-facts", "version": 1}', "[" * 100_000):
        path.write_text(text)
        assert not delivers(path, host)
    spoils: list[Callable[[Any], object]] = [
        lambda document: document.update(version=2),
        lambda document: document["facts"].update(qemus=7),
        lambda document: document["facts"].update(livepatches=None),
        lambda document: document["facts"].pop("guard"),
        lambda document: document["facts"].update(qemus=["x"]),
    ]
    for spoil in spoils:
        assert not said(host, GOOD, spoil)
    assert said(host, GOOD)
    path.chmod(0o666)
    assert not delivers(path, host)
    path.chmod(0o644)
    os.chown(path, 12345, -1)
    assert not delivers(path, host)
    os.chown(path, 0, -1)
    (host / "sys/module/kvm/notes/.note.gnu.build-id").write_bytes(b"\xff" * 40)
    assert not delivers(path, host)
