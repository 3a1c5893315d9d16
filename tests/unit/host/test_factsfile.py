"""The file of host facts: the same facts come back, and nothing is taken from one that may be wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pmuconf.errors import PmuconfError
from pmuconf.facts import Copies, Evidence, GuardFinding, HostFacts, KernelPmu, LiveVm, Qemu, Verdict
from pmuconf.host.factsfile import dump, load
from pmuconf.host.root import Root

NOTE = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0" + bytes(range(20))
BUILD_ID = bytes(range(20)).hex()
STAT = "{pid} (qemu) (x) S " + " ".join("0" for _ in range(18)) + " {started} 0 0\n"

VM = LiveVm(
    pid=77,
    started=4321,
    command="qemu",
    uuid="4f1c",
    name="web\u202e",
    kernel_pmu=KernelPmu.DISABLED,
    in_use=True,
    vcpus=2,
    pmu_property=False,
    incoming=True,
    qemu=Qemu("/usr/bin/qemu (deleted)", "00ff", True, "strings-in-binary", Evidence.INFERRED),
    next_qemu=Qemu("/usr/bin/qemu", None, None, "no-known-string"),
)
FACTS = HostFacts(
    guard=GuardFinding(
        Verdict.PARTIAL,
        "unguarded-copies",
        "said",
        Evidence.OBSERVED,
        "live text",
        BUILD_ID,
        1668,
        "BTF",
        ("cmpb $0, 1668(%rdx)",),
        Copies(("a",), ("b",), ("c",)),
        ("hook",),
        ("note",),
        "boot another",
    ),
    boot_id="boot-1",
    kvm_build_id=BUILD_ID,
    enable_pmu=True,
    mediated_pmu=False,
    release="6.1.0",
    cpu="AMD EPYC",
    mitigations={"spectre_v2": "Retpolines"},
    cycles=57,
    livepatches=("one 1 0",),
    qemus=(Qemu("/usr/bin/qemu-system-x86_64", "0123", False, "tested-build-id", Evidence.INFERRED),),
    vms=(VM, replace(VM, pid=None, started=None), replace(VM, pid=78)),
    vms_cause="",
)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """A host that the facts are about."""
    files: dict[str, str | bytes] = {
        "proc/sys/kernel/random/boot_id": "boot-1\n",
        "sys/module/kvm/notes/.note.gnu.build-id": NOTE,
        "sys/module/kvm/parameters/enable_pmu": "Y\n",
        "sys/module/kvm/parameters/enable_mediated_pmu": "N\n",
        "sys/kernel/livepatch/one/enabled": "1\n",
        "sys/kernel/livepatch/one/transition": "0\n",
        "proc/77/stat": STAT.format(pid=77, started=4321),
        "proc/78/stat": STAT.format(pid=78, started=9999),
    }
    for name, content in files.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Root(tmp_path / "root")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "host.json"
    path.write_text(dump(FACTS))
    path.chmod(0o644)
    return path


def refused(file: Path, root: Root) -> str:
    with pytest.raises(PmuconfError) as error:
        load(file, root)
    assert str(file) in error.value.message
    return error.value.cause


def test_what_was_written_comes_back_but_for_what_may_have_changed(file: Path, root: Root) -> None:
    """The use of counters is of a moment; process 78 is another one by now, and one VM has no process to ask."""
    assert load(file, root) == replace(FACTS, vms=(replace(VM, in_use=None),))


def test_what_kvm_held_of_a_guest_that_a_reset_gives_another_vm(tmp_path: Path, root: Root) -> None:
    """The process is the same, the VM need not be."""
    path = tmp_path / "confidential.json"
    path.write_text(dump(replace(FACTS, vms=(replace(VM, remade=True),))))
    (vm,) = load(path, root).vms
    assert (vm.kernel_pmu, vm.cause) == (KernelPmu.UNKNOWN, "vm-remade")


def test_of_a_qemu_that_was_installed_since_nothing_is_known(file: Path, root: Root) -> None:
    binary = root.path / FACTS.qemus[0].path.lstrip("/")
    binary.parent.mkdir(parents=True)
    binary.touch()
    file.write_text(dump(FACTS))
    os.utime(file, ns=(0, binary.stat().st_ctime_ns))
    assert load(file, root).qemus == FACTS.qemus
    os.utime(binary, (0, 0))  # a package brings the time of its build; that of its change is now
    os.utime(file, ns=(0, binary.stat().st_ctime_ns - 1))
    (qemu,) = load(file, root).qemus
    assert (qemu.disables, qemu.cause, qemu.evidence) == (None, "replaced", Evidence.NONE)


def test_a_vm_whose_process_is_gone_is_left_out(file: Path, root: Root) -> None:
    root.at("/proc/77/stat").unlink()
    assert load(file, root).vms == ()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("proc/sys/kernel/random/boot_id", b"boot-2\n"),
        ("sys/module/kvm/notes/.note.gnu.build-id", NOTE[:-1] + b"!"),
        ("sys/kernel/livepatch/one/enabled", b"0\n"),
        ("sys/kernel/livepatch/one/transition", b"1\n"),
        ("sys/kernel/livepatch/two/enabled", b"1\n"),
        ("sys/module/kvm/parameters/enable_pmu", b"N\n"),
        ("sys/module/kvm/parameters/enable_mediated_pmu", b"Y\n"),
    ],
)
def test_another_boot_kvm_livepatch_or_parameter_makes_it_void(
    file: Path, root: Root, name: str, content: bytes
) -> None:
    path = root.at(name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    assert refused(file, root) == "facts-stale"


def test_kvm_loaded_anew_without_what_disabled_the_pmu_of_every_vm(tmp_path: Path, root: Root) -> None:
    path = tmp_path / "disabled.json"
    path.write_text(dump(replace(FACTS, enable_pmu=False)))
    assert refused(path, root) == "facts-stale"


@pytest.mark.parametrize("name", ["proc/sys/kernel/random/boot_id", "sys/module/kvm/notes/.note.gnu.build-id"])
def test_a_host_that_does_not_say_what_it_is_has_no_facts(file: Path, root: Root, name: str) -> None:
    root.at(name).unlink()
    assert refused(file, root) == "facts-stale"


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_may_write_is_not_trusted(file: Path, root: Root, mode: int) -> None:
    file.chmod(mode)
    assert refused(file, root) == "facts-untrusted"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_nor_is_one_that_belongs_to_somebody_else(file: Path, root: Root) -> None:
    os.chown(file, 65534, 65534)
    assert refused(file, root) == "facts-untrusted"


def test_what_is_no_file(tmp_path: Path, root: Root) -> None:
    assert refused(tmp_path / "none", root) == "facts-unreadable"
    os.mkfifo(tmp_path / "fifo")
    assert refused(tmp_path / "fifo", root) == "facts-unreadable"
    assert refused(tmp_path, root) == "facts-unreadable"


Damage = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d.update(format="pmuconf-report"),
        lambda d: d.update(version=2),
        lambda d: d.update(facts=None),
        lambda d: d["facts"].update(extra=1),
        lambda d: d["facts"].pop("guard"),
        lambda d: d["facts"].update(enable_pmu="N"),
        lambda d: d["facts"].update(cycles=True),
        lambda d: d["facts"].update(livepatches="one"),
        lambda d: d["facts"].update(mitigations={"a": 1}),
        lambda d: d["facts"].update(vms={}),
        lambda d: d["facts"]["guard"].update(verdict="sure"),
        lambda d: d["facts"]["guard"].update(evidence=None),
        lambda d: d["facts"]["guard"].update(copies=[]),
        lambda d: d["facts"]["vms"][0].update(kernel_pmu="off"),
        lambda d: d["facts"]["vms"][0].update(pid="77"),
        lambda d: d["facts"]["vms"][0]["qemu"].update(disables="yes"),
    ],
)
def test_anything_else_is_refused(file: Path, root: Root, damage: Damage) -> None:
    document = json.loads(file.read_text())
    damage(document)
    file.write_text(json.dumps(document))
    assert refused(file, root) == "facts-broken"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '"x"', "[" * 100_000, "\0", '{"format": "pmuconf-host-facts"}']
)
def test_garbage_is_refused(file: Path, root: Root, text: str) -> None:
    file.write_text(text)
    assert refused(file, root) == "facts-broken"
