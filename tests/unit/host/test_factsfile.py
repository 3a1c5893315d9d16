"""The file of host facts: the same facts come back, and nothing is taken from one that may be wrong."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pmuconf.domain.definition import Domain, PmuState
from pmuconf.errors import PmuconfError
from pmuconf.fastpath.guest import Guest
from pmuconf.fastpath.inkernel import in_kernel_pmu
from pmuconf.host.factsfile import VERSION, dump, load
from pmuconf.host.identity import loads, parameters
from pmuconf.host.root import Root
from pmuconf.hostfacts import (
    Copies,
    Evidence,
    FileId,
    GuardFinding,
    HostFacts,
    KernelPmu,
    LiveVm,
    Qemu,
    Thread,
    Verdict,
)
from tests.unit.host.memory import stat as status

NOTE = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0" + bytes(range(20))
BUILD_ID = bytes(range(20)).hex()

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
    next_qemu=Qemu("/usr/bin/qemu", None, None, "replaced", sha256="ab" * 32),
    exe=FileId("/usr/bin/qemu (deleted)", 64, 4711, 18_397_984, 1, 1_700_000_000_123_456_789),
    threads=(Thread(771, 4322),),
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
    taken=1234,
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
        "sys/module/kvm_amd/parameters/avic": "N\n",
        "proc/77/stat": status(77, 4321, "qemu) (x"),
        "proc/77/task/771/stat": status(771, 4322, "call_rcu"),
        "proc/78/stat": status(78, 9999, "qemu"),
        "proc/78/task/771/stat": status(771, 4322, "call_rcu"),
    }
    for name, content in files.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Root(tmp_path / "root")


def of(root: Root, facts: HostFacts = FACTS) -> HostFacts:
    """The facts, of this host as it is loaded now."""
    return replace(facts, parameters=parameters(root), loads=loads(root))


@pytest.fixture
def file(tmp_path: Path, root: Root) -> Path:
    path = tmp_path / "host.json"
    path.write_text(dump(of(root)))
    path.chmod(0o644)
    return path


def refused(file: Path, root: Root) -> str:
    with pytest.raises(PmuconfError) as error:
        load(file, root)
    assert str(file) in error.value.message
    return error.value.cause


def test_what_was_written_comes_back_but_for_what_may_have_changed(file: Path, root: Root) -> None:
    """The use of counters is of a moment; process 78 is another one by now, and one VM has no process to ask."""
    assert load(file, root) == replace(of(root), vms=(replace(VM, in_use=None),))


def test_what_kvm_held_of_a_guest_that_a_reset_gives_another_vm(tmp_path: Path, root: Root) -> None:
    """The process is the same, the VM need not be."""
    path = tmp_path / "confidential.json"
    path.write_text(dump(of(root, replace(FACTS, vms=(replace(VM, may_be_recreated=True),)))))
    (vm,) = load(path, root).vms
    assert (vm.kernel_pmu, vm.cause) == (KernelPmu.UNKNOWN, "vm-remade")


@pytest.mark.parametrize(
    ("held", "cause"),
    [(KernelPmu.ENABLED, ""), (KernelPmu.UNKNOWN, "several-vms"), (KernelPmu.UNKNOWN, "kernel-memory-odd")],
)
def test_nothing_is_concluded_against_what_kvm_held_of_a_tdx_guest(
    tmp_path: Path, root: Root, held: KernelPmu, cause: str
) -> None:
    """A reset may have changed what was seen, and what was seen is no reason to believe that KVM protects its PMU."""
    path = tmp_path / "tdx.json"
    guard = GuardFinding(Verdict.GUARDED, "guard-in-caller", "said", Evidence.OBSERVED, protected_pmu=True)
    vm = replace(VM, may_be_recreated=True, tdx=True, kernel_pmu=held, cause=cause)
    path.write_text(dump(of(root, replace(FACTS, guard=guard, vms=(vm,)))))
    facts = load(path, root)
    domain = Domain("web", "4f1c", "kvm", "x86_64", PmuState.OFF, None, None, running=True)
    found = in_kernel_pmu(facts, Guest(domain, running=True, next_boot=PmuState.OFF, vm=facts.vms[0]))
    assert (found.pmu, found.cause) == (KernelPmu.UNKNOWN, cause or "kernel-memory-odd")


def test_a_vm_whose_process_is_gone_is_left_out(file: Path, root: Root) -> None:
    root.at("/proc/77/stat").unlink()
    assert load(file, root).vms == ()


def test_a_vm_whose_process_runs_another_program_is_left_out(file: Path, root: Root) -> None:
    """By exec(2), as QEMU's migration mode cpr-exec does it: its id and its start stay, its threads end."""
    (root.path / "proc/77/task/771/stat").unlink()
    assert load(file, root).vms == ()
    (root.path / "proc/77/task/771/stat").write_bytes(status(771, 4323, "call_rcu"))
    assert load(file, root).vms == ()


def test_a_vm_of_which_neither_program_nor_threads_were_seen_is_left_out(tmp_path: Path, root: Root) -> None:
    path = tmp_path / "unseen.json"
    path.write_text(dump(of(root, replace(FACTS, vms=(replace(VM, exe=None, threads=()),)))))
    assert load(path, root).vms == ()


def test_a_vm_whose_program_can_be_seen_to_be_another_is_left_out(tmp_path: Path, root: Root) -> None:
    """Whatever its threads are."""
    binary = root.path / "usr/bin/qemu"
    binary.parent.mkdir(parents=True)
    binary.touch()
    (root.path / "proc/77/exe").symlink_to("/usr/bin/qemu")
    found = binary.stat()
    path = tmp_path / "exe.json"
    for inode, alive in ((found.st_ino, 1), (found.st_ino + 1, 0)):
        exe = FileId("/usr/bin/qemu", found.st_dev, inode, 0, 0, 0)
        path.write_text(dump(of(root, replace(FACTS, vms=(replace(VM, exe=exe),)))))
        assert len(load(path, root).vms) == alive


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
        ("sys/module/kvm/parameters/ignore_msrs", b"N\n"),
        ("sys/module/kvm_amd/parameters/avic", b"Y\n"),
        ("sys/module/kvm_amd/parameters/enable_mediated_pmu", b"Y\n"),
        ("sys/module/kvm_intel/parameters/nested", b"Y\n"),
        ("sys/module/one/notes/.note.gnu.build-id", NOTE),
        ("sys/module/kvm_amd/notes/.note.gnu.build-id", NOTE),
    ],
)
def test_another_boot_kvm_livepatch_or_parameter_makes_it_void(
    file: Path, root: Root, name: str, content: bytes
) -> None:
    path = root.at(name)
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(content)
    assert refused(file, root) == "facts-stale"


@pytest.mark.parametrize("name", ["sys/module/kvm", "sys/module/kvm_amd", "sys/kernel/livepatch/one"])
def test_the_same_loaded_anew_makes_it_void(file: Path, root: Root, name: str) -> None:
    """A rebuilt livepatch of the same name, or KVM with the same parameters: sysfs gives no number twice."""
    folder = root.path / name
    shutil.copytree(folder, root.path / "copy")
    folder.rename(root.path / "unloaded")
    (root.path / "copy").rename(folder)
    assert refused(file, root) == "facts-stale"


def test_a_kvm_module_without_a_build_id_is_not_told_by_the_kernels(tmp_path: Path, root: Root) -> None:
    """Neither when facts are written nor when they are read."""
    (root.path / "sys/module/kvm/notes/.note.gnu.build-id").unlink()
    (root.path / "sys/module/kvm/initstate").write_text("live\n")
    (root.path / "sys/kernel/notes").write_bytes(NOTE)
    path = tmp_path / "kernels.json"
    path.write_text(dump(of(root)))
    assert refused(path, root) == "facts-stale"


def test_where_kvm_is_built_in_the_kernels_build_id_is_its_own(tmp_path: Path, root: Root) -> None:
    shutil.rmtree(root.path / "sys/module/kvm/notes")
    (root.path / "sys/kernel/notes").write_bytes(NOTE)
    path = tmp_path / "built-in.json"
    path.write_text(dump(of(root)))
    assert load(path, root).kvm_build_id == BUILD_ID


def test_kvm_loaded_anew_without_what_disabled_the_pmu_of_every_vm(tmp_path: Path, root: Root) -> None:
    path = tmp_path / "disabled.json"
    path.write_text(dump(of(root, replace(FACTS, enable_pmu=False))))
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
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_in_a_folder_of_somebody_elses_a_link_to_roots_file_is_not_read(
    file: Path, root: Root, link: Callable[[Path, Path], None]
) -> None:
    """Its owner could show older facts, or those of another host."""
    folder = file.parent / "theirs"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    link(file, folder / "facts.json")
    assert refused(folder / "facts.json", root) == "facts-unreadable"


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
        lambda d: d.update(version=VERSION + 1),
        lambda d: d.update(version=True),
        lambda d: d.update(version=float(VERSION)),
        lambda d: d.update(version=0),
        lambda d: d.update(facts=None),
        lambda d: d["facts"].update(extra=1),
        lambda d: d["facts"].pop("guard"),
        lambda d: d["facts"].pop("searches"),
        lambda d: d["facts"].pop("parameters"),
        lambda d: d["facts"].update(parameters={"kvm.enable_pmu": True}),
        lambda d: d["facts"].update(taken="0"),
        lambda d: d["facts"].update(searches=[{"pid": 1}]),
        lambda d: d["facts"]["vms"][0]["exe"].update(inode=None),
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


def test_a_file_of_an_older_version_is_to_be_written_anew(file: Path, root: Root) -> None:
    document = json.loads(file.read_text())
    document["version"] = 1
    file.write_text(json.dumps(document))
    with pytest.raises(PmuconfError, match="older pmuconf") as error:
        load(file, root)
    assert (error.value.cause, "pmuconf host facts" in error.value.hint) == ("facts-stale", True)


def test_what_is_no_utf_8_is_refused(file: Path, root: Root) -> None:
    file.write_bytes(file.read_bytes().replace(b"AMD EPYC", b"AMD\xff"))
    assert refused(file, root) == "facts-broken"


def test_the_order_of_livepatches_says_nothing(file: Path, root: Root) -> None:
    for name in ("one-b", "two"):
        (root.path / "sys/kernel/livepatch" / name).mkdir()
    path = file.with_name("order.json")
    path.write_text(dump(of(root, replace(FACTS, livepatches=("two None None", "one 1 0", "one-b None None")))))
    assert len(load(path, root).vms) == 1


def test_an_empty_boot_id_is_no_boot_id(tmp_path: Path, root: Root) -> None:
    root.at("/proc/sys/kernel/random/boot_id").write_text("\n")
    path = tmp_path / "empty.json"
    path.write_text(dump(of(root, replace(FACTS, boot_id=""))))
    assert refused(path, root) == "facts-stale"


def test_a_file_that_belongs_to_us_is_root_s_where_only_root_is_believed(
    file: Path, root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    if os.getuid() == 0:
        os.chown(file, 12345, -1)
    assert load(file, root).release == FACTS.release
    with pytest.raises(PmuconfError) as error:
        load(file, root, own=False)
    assert error.value.cause == "facts-untrusted"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '"x"', "[" * 100_000, "\0", '{"format": "pmuconf-host-facts"}']
)
def test_garbage_is_refused(file: Path, root: Root, text: str) -> None:
    file.write_text(text)
    assert refused(file, root) == "facts-broken"


@pytest.mark.parametrize("name", ["boot_id", "kvm_build_id"])
def test_two_unknowns_are_not_the_same(file: Path, root: Root, name: str) -> None:
    unknown = {"boot_id": "proc/sys/kernel/random/boot_id", "kvm_build_id": "sys/module/kvm/notes/.note.gnu.build-id"}
    (root.path / unknown[name]).unlink()
    file.write_text(dump(replace(of(root), **{name: None})))  # type: ignore[arg-type]
    assert refused(file, root) == "facts-stale"


@pytest.mark.parametrize("text", ["771", "771 4322 1", "771  4322", "-771 4322", "x 4322", ""])
def test_a_thread_must_be_an_id_and_a_start(file: Path, root: Root, text: str) -> None:
    file.write_text(file.read_text().replace('"771 4322"', f'"{text}"'))
    assert refused(file, root) == "facts-broken"


# ---- what is said ----------------------------------------------------------------------------------------------------

ANEW = "Write it anew, as root: pmuconf host facts --output FILE"


def said(file: Path, root: Root, *, own: bool = True) -> tuple[str, str, str]:
    """Cause, message behind the file's name, and hint."""
    with pytest.raises(PmuconfError) as error:
        load(file, root, own=own)
    assert error.value.message.startswith(str(file))
    return error.value.cause, error.value.message[len(str(file)) :].strip(), error.value.hint


def test_the_file_is_json_a_fact_a_line() -> None:
    lines = dump(FACTS).split("\n")
    assert lines[:3] == ["{", ' "format": "pmuconf-host-facts",', f' "version": {VERSION},']
    assert lines[-2:] == ["}", ""]


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("boot_id", "another", "boot"),
        ("kvm_build_id", "another", "KVM"),
        ("livepatches", ("two 1 0",), "set of livepatches"),
        ("parameters", {"kvm.enable_pmu": "N"}, "setting of KVM's parameters"),
        ("loads", {"kvm": "1"}, "load of KVM or a livepatch"),
    ],
)
def test_what_was_another_is_named(file: Path, root: Root, field: str, value: object, what: str) -> None:
    file.write_text(dump(replace(of(root), **{field: value})))  # type: ignore[arg-type]
    assert said(file, root) == ("facts-stale", f"is about another {what} than this host has now", ANEW)


@pytest.mark.parametrize("facts", [replace(FACTS, enable_pmu=False), replace(FACTS, mediated_pmu=True)])
def test_facts_that_contradict_the_parameters_are_no_facts(file: Path, root: Root, facts: HostFacts) -> None:
    file.write_text(dump(of(root, facts)))
    assert said(file, root) == ("facts-stale", "contradicts KVM's parameters", ANEW)


def test_each_refusal_says_what_to_do(file: Path, root: Root, tmp_path: Path) -> None:
    document = json.loads(file.read_text())
    for change, expected in (
        ({"format": "x"}, ("facts-broken", ": it is no pmuconf-host-facts file", ANEW)),
        ({"version": 3}, ("facts-broken", ": its version is 3, and 2 is read", ANEW)),
        ({"version": 1}, ("facts-stale", "is of an older pmuconf: its version is 1, and 2 is read", ANEW)),
    ):
        file.write_text(json.dumps({**document, **change}))
        assert said(file, root) == expected
    file.write_text("{}")
    assert said(file, root) == ("facts-broken", ": it is no pmuconf-host-facts file", ANEW)
    file.chmod(0o666)
    only_root = "It must belong to root, and nobody else may write it"
    assert said(file, root) == ("facts-untrusted", "could have been written by others than root", only_root)
    assert said(tmp_path / "none", root) == ("facts-unreadable", ": No such file or directory", ANEW)


def test_a_file_larger_than_any_is_not_read(file: Path, root: Root) -> None:
    os.truncate(file, (16 << 20) + 1)
    cause, _, hint = said(file, root)
    assert (cause, hint) == ("facts-broken", ANEW)
    os.truncate(file, 16 << 20)  # zeros behind the text
    assert said(file, root)[0] == "facts-broken"


def test_a_thread_that_is_no_thread_is_named(file: Path, root: Root) -> None:
    file.write_text(file.read_text().replace('"771 4322"', '"771"'))
    assert 'threads: a thread must be the text "ID START"' in said(file, root)[1]


# ---- what holds of a fact when it is read ----------------------------------------------------------------------------


@pytest.mark.parametrize("vm", [replace(VM, pid=None), replace(VM, started=None)])
def test_a_vm_whose_process_is_not_known_is_left_out(file: Path, root: Root, vm: LiveVm) -> None:
    file.write_text(dump(of(root, replace(FACTS, vms=(vm, VM)))))
    assert load(file, root).vms == (replace(VM, in_use=None),)


@pytest.mark.parametrize(("text", "on"), [("1\n", True), ("0\n", False)])
def test_whether_the_nmi_watchdog_counts_is_asked_anew(file: Path, root: Root, text: str, on: bool) -> None:
    root.at("/proc/sys/kernel/nmi_watchdog").write_text(text)
    assert load(file, root).nmi_watchdog is on


def file_id(path: Path) -> FileId:
    found = path.stat()
    shown = f"/{path.relative_to(path.parents[2])}"
    return FileId(shown, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def test_a_qemu_that_is_still_there_is_what_it_was(file: Path, root: Root) -> None:
    """And another file in its place is not known."""
    binary = root.path / "usr/bin/qemu-system-x86_64"
    binary.parent.mkdir(parents=True)
    binary.write_text("one")
    binary.chmod(0o755)
    qemu = Qemu("/usr/bin/qemu-system-x86_64", None, True, "proved", file=file_id(binary))
    file.write_text(dump(of(root, replace(FACTS, vms=(replace(VM, next_qemu=qemu),)))))
    (vm,) = load(file, root).vms
    assert vm.next_qemu == qemu
    binary.write_text("two, and longer")
    (vm,) = load(file, root).vms
    assert vm.next_qemu is not None
    assert (vm.next_qemu.disables, vm.next_qemu.cause) == (None, "replaced")


def test_it_is_looked_for_where_its_process_sees_it(file: Path, root: Root) -> None:
    """In a container, whose files are not the host's."""
    binary = root.path / "container/usr/bin/qemu-system-x86_64"
    binary.parent.mkdir(parents=True)
    binary.write_text("one")
    binary.chmod(0o755)
    found = binary.stat()
    (root.path / "proc/77/root").symlink_to(root.path / "container")
    identity = FileId(
        "/usr/bin/qemu-system-x86_64", found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    )
    qemu = Qemu("/usr/bin/qemu-system-x86_64", None, True, "proved", file=identity)
    file.write_text(dump(of(root, replace(FACTS, vms=(replace(VM, next_qemu=qemu),)))))
    (vm,) = load(file, root).vms
    assert vm.next_qemu == qemu


def test_an_enabled_pmu_is_no_contradiction_of_other_guests(file: Path, root: Root) -> None:
    seen = replace(VM, may_be_recreated=True, kernel_pmu=KernelPmu.ENABLED, tdx=False)
    file.write_text(dump(of(root, replace(FACTS, vms=(seen,)))))
    (vm,) = load(file, root).vms
    assert (vm.kernel_pmu, vm.cause) == (KernelPmu.UNKNOWN, "vm-remade")


@pytest.mark.skipif(os.geteuid() != 0, reason="the file has to be root's")
def test_where_only_root_is_believed_root_is(file: Path, root: Root) -> None:
    assert load(file, root, own=False).release == FACTS.release
