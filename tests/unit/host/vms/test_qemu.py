"""What a QEMU's command line and binary say, who would lose a PMU to it, and the proof by starting it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import struct
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmuconf.errors import PmuconfError
from pmuconf.host.prove import qemu as proving
from pmuconf.host.prove.qemu import prove_qemu
from pmuconf.host.root import Root
from pmuconf.host.vms import qemu as qemu_module
from pmuconf.host.vms.process import vm_processes
from pmuconf.host.vms.qemu import TESTED, qemu_of_file, qemu_of_process
from pmuconf.host.vms.qemu_args import QemuArgs, parse_args, words_of
from pmuconf.hostfacts import Evidence, FileId, Qemu
from tests.unit.host.memory import Vm, process
from tests.unit.host.sysroot import write

UUID = "6c1f1a4e-9d0b-4c0e-8f6e-0a4b8f0d2c11"


def cmdline(*words: str | bytes) -> bytes:
    return b"".join((word if isinstance(word, bytes) else word.encode()) + b"\0" for word in words)


def args(*words: str | bytes, binary: str = "/usr/bin/qemu-system-x86_64") -> QemuArgs:
    found = parse_args(cmdline(binary, *words))
    assert found is not None
    return found


class TestPmuProperty:
    @pytest.mark.parametrize(
        ("cpu", "pmu"),
        [
            ("host", True),
            ("max", None),
            ("max,pmu=on", True),
            ("host,migratable=on", True),
            ("host,migratable=on,pmu=off", False),
            ("host,pmu=off,pmu=on", True),
            ("EPYC-Rome,x2apic=on,hypervisor=on", False),
            ("EPYC-Rome,pmu=on", True),
            ("EPYC-Rome,pmu=true", True),
            ("EPYC-Rome,pmu=yes,pmu=n", False),
            ("qemu64", False),
            ("base", False),
            ("EPYC,+pmu", True),
            ("host,-pmu", False),
            ("host,-pmu,pmu=on", False),
            ("host,+pmu,-pmu", False),
            ("EPYC,pmu", True),
            ("EPYC,,pmu=on", True),  # strtok takes several commas for one
            ("host,pmu=", None),
            ("host,pmu=ON", None),
            ("EPYC,pmu=on,pmu", None),
            ("host-x86_64-cpu", None),
            ("", None),
            (",pmu=on", None),
            ("host,lbr-fmt=pmu=off", True),
            ("EPYC-v4", False),
            ("Haswell-noTSX-IBRS", False),
            ("486", False),
            ("hv-cppc-stub=on", None),
            ("pmu=off", None),
            ("pmu", None),
            ("+pmu", None),
            ("-pmu", None),
            ("hv-time,pmu=off", None),
            ("help", None),
            ("?", None),
        ],
    )
    def test_of_cpu(self, cpu: str, pmu: bool | None) -> None:
        assert args("-cpu", cpu).pmu is pmu

    def test_the_last_cpu_counts(self) -> None:
        assert args("-cpu", "host", "--cpu", "qemu64").pmu is False
        assert args("-cpu", "host,pmu=off", "-cpu", "host,migratable=on").pmu is True

    def test_a_second_cpu_of_features_alone_says_nothing(self) -> None:
        """As a wrapper gets it that knows what to make of it: the first may count, or both."""
        words = ("-name", "guest=w10", "-machine", "q35,accel=kvm", "-cpu", "host,migratable=on", "-cpu")
        assert args(*words, "hv-cppc-stub=on", binary="/usr/bin/qemu-system-x86_64-cppc").pmu is None
        assert args(*words, "hv-cppc-stub").pmu is None

    def test_max_has_one_under_kvm_and_otherwise_as_its_qemu_has_it(self) -> None:
        for kvm in (("-accel", "kvm"), ("-machine", "q35,accel=kvm"), ("-enable-kvm",)):
            assert args(*kvm, "-cpu", "max").pmu is True
        assert args("-accel", "tcg", "-cpu", "max").pmu is None
        assert args("-accel", "tcg", "-cpu", "max", "-global", "max-x86_64-cpu.pmu=off").pmu is False

    def test_no_cpu_is_a_named_model(self) -> None:
        assert args("-machine", "q35").pmu is False

    @pytest.mark.parametrize(
        "words",
        [
            ("-global", "EPYC-x86_64-cpu.pmu=off"),
            ("-global", "host-x86_64-cpu.pmu="),
            ("-global", "driver=host-x86_64-cpu,value=off,property=pmu"),
            ("-readconfig", "/etc/vm.conf"),
            ("-device", "host-x86_64-cpu,id=c1,pmu=off"),
            ("-set", "device.c1.pmu=on"),
        ],
    )
    def test_it_may_be_set_elsewhere(self, words: tuple[str, str]) -> None:
        assert args("-cpu", "host", *words).pmu is None
        assert args("-cpu", "host", "-newer-than-this", *words).pmu is None

    @pytest.mark.parametrize(
        ("words", "pmu"),
        [
            (("-cpu", "host", "-global", "host-x86_64-cpu.pmu=off"), False),
            (("-cpu", "host", "-global", "max-x86_64-cpu.pmu=off"), False),
            (("-cpu", "EPYC", "-global", "driver=x86_64-cpu,property=pmu,value=yes"), True),
            (("-cpu", "EPYC", "-global", "cpu.pmu=on", "-global", "cpu.pmu=off"), False),
            (("-cpu", "host", "-global", "ICH9-LPC.disable_s3=1"), True),
            (("-global", "x86_64-cpu.pmu=on"), True),
            (("-global", "qemu64-x86_64-cpu.pmu=on"), None),
            (("-cpu", "host,pmu=on", "-global", "host-x86_64-cpu.pmu=off"), True),
            (("-cpu", "host,pmu=off", "-global", "EPYC-x86_64-cpu.pmu=on"), False),
        ],
    )
    def test_globals(self, words: tuple[str, ...], pmu: bool | None) -> None:
        assert args(*words).pmu is pmu

    @pytest.mark.parametrize(
        "machine",
        ["pc-i440fx-1.5", "pc-q35-1.4,usb=off", "type=pc-i440fx-1.5", "usb=off,type=pc-1.0", "pc-0.15", "pc-1.3"],
    )
    def test_machines_whose_cpus_have_one_by_default(self, machine: str) -> None:
        for option in ("-machine", "--machine", "-M"):
            assert args(option, machine).pmu is True
            assert args(option, machine, "-cpu", "EPYC").pmu is True
            assert args(option, machine, "-cpu", "host").pmu is True
            assert args(option, machine, "-cpu", "EPYC,pmu=off").pmu is False

    @pytest.mark.parametrize(
        "machine",
        ["rhel6.3.0", "rhel5.4.0", "pc-i440fx-1.5-qemu-kvm", "xenfv", "nitro-enclave", "of-its-own", '{"a":1}'],
    )
    def test_machines_of_which_it_is_not_known(self, machine: str) -> None:
        assert args("-machine", machine).pmu is None
        assert args("-machine", machine, "-cpu", "EPYC").pmu is None
        assert args("-machine", machine, "-cpu", "host").pmu is True
        assert args("-machine", machine, "-cpu", "EPYC,pmu=off").pmu is False

    def test_two_machines_that_differ_in_it(self) -> None:
        assert args("-machine", "q35", "-machine", "pc-i440fx-1.5").pmu is None
        assert args("-machine", "q35", "-machine", "accel=kvm", "-machine", "pc").pmu is False

    @pytest.mark.parametrize("machine", ["pc", "q35", "pc-i440fx-1.6", "pc-i440fx-10.1", "pc-q35-rhel9.4.0", "microvm"])
    def test_machines_whose_cpus_have_none(self, machine: str) -> None:
        assert args("-machine", machine, "-cpu", "EPYC").pmu is False

    @pytest.mark.parametrize(
        "words",
        [("-append", "-cpu", "x"), ("-newer-than-this", "-cpu", "host,pmu=off"), ("-cpu",), ("-fw_cfg", "-cpu", "max")],
    )
    def test_what_only_looks_like_the_option(self, words: tuple[str, ...]) -> None:
        assert args("-cpu", "host", *words).pmu in (None, True)
        assert args(*words).pmu is None

    @pytest.mark.parametrize("value", ["-cpu host,pmu=off", "guest=-cpu,pmu=off"])
    def test_a_name_that_looks_like_one(self, value: str) -> None:
        assert args("-name", value, "-cpu", "host").pmu is True

    def test_other_architectures(self) -> None:
        assert args("-cpu", "host", binary="/usr/bin/qemu-system-aarch64").pmu is None


class TestIdentity:
    def test_as_libvirt_writes_it(self) -> None:
        found = args(
            *("-name", "guest=web,,1,debug-threads=on", "-S", "-machine", "pc-q35-7.2,usb=off", "-accel", "kvm"),
            *("-cpu", "host,migratable=on", "-uuid", UUID.upper(), "-no-user-config", "-nodefaults"),
            *("-incoming", "defer", "-msg", "timestamp=on"),
        )
        assert found == QemuArgs(
            uuid=UUID,
            name="web,1",
            pmu=True,
            kvm=True,
            incoming=True,
            binary="/usr/bin/qemu-system-x86_64",
            may_be_emulated=False,
        )

    @pytest.mark.parametrize(
        "text", ["", "x", UUID[:-1], UUID + "0", UUID + "\n", "{" + UUID + "}", UUID.replace("-", "")]
    )
    def test_what_is_no_uuid(self, text: str) -> None:
        assert args("-uuid", text).uuid is None

    def test_a_uuid_that_is_in_doubt(self) -> None:
        assert args("-uuid", UUID, "-append", "-uuid", "x").uuid is None

    @pytest.mark.parametrize(
        ("value", "name"),
        [("vm", "vm"), ("vm,process=x", "vm"), ("process=x", None), ("process=x,guest=vm", "vm"), ("", None)],
    )
    def test_names(self, value: str, name: str | None) -> None:
        assert args("-name", value).name == name

    @pytest.mark.parametrize(
        ("words", "kvm"),
        [
            (("-enable-kvm",), True),
            (("-accel", "kvm,dirty-ring-size=4096"), True),
            (("-accel", "accel=kvm"), True),
            (("-machine", "q35,accel=kvm:tcg"), True),
            (("-M", "accel=kvm"), True),
            (("-accel", "tcg"), False),
            (("-accel", "kvm", "-accel", "tcg"), True),
            (("-accel", "tcg", "-accel", "kvm"), False),
            (("-machine", "q35,accel=tcg:kvm"), False),
            (("-machine", "q35,accel=kvm", "-machine", "accel=tcg"), False),  # as qemu:commandline would override it
            (("-machine", "q35,accel=tcg", "-enable-kvm"), True),
            (("-machine", "kvm"), False),
            ((), False),
        ],
    )
    def test_accelerators(self, words: tuple[str, ...], kvm: bool) -> None:
        assert args(*words).kvm is kvm

    @pytest.mark.parametrize(
        ("machine", "may_be_recreated"),
        [
            ("q35,accel=kvm", False),
            ("pc-q35-11.0,usb=off,confidential-guest-support=lsec0", True),
            ("q35,memory-encryption=sev0", True),
            ("q35,x-change-vmfd-on-reset=on", True),
        ],
    )
    def test_whose_vm_is_made_anew_at_a_reset(self, machine: str, may_be_recreated: bool) -> None:
        assert args("-machine", machine).may_be_recreated is may_be_recreated

    def test_binaries_that_ask_for_kvm_by_their_name(self) -> None:
        assert args(binary="/usr/libexec/qemu-kvm").kvm
        assert not args("-accel", "tcg", binary="/usr/libexec/qemu-kvm").kvm

    @pytest.mark.parametrize(
        "data",
        [b"", b"\0", b"firecracker\0--id\0qemu\0", b"\xff\xfe\0-cpu\0host\0", b"python3\0/usr/bin/qemu-wrapper\0"],
    )
    def test_other_programs(self, data: bytes) -> None:
        assert parse_args(data, "/usr/bin/other") is None

    def test_the_binary_tells_where_the_command_line_does_not(self) -> None:
        assert parse_args(b"", "/usr/bin/qemu-system-x86_64 (deleted)") == QemuArgs()
        assert parse_args(b"", "/usr/bin/kvm (deleted)") == QemuArgs()
        assert parse_args(b"", "/usr/bin/kvm-spice (deleted)") is None

    def test_the_file_tells_the_architecture_where_its_name_does_not(self) -> None:
        for exe, pmu in (("/usr/bin/qemu-system-aarch64", None), ("/usr/bin/qemu-system-x86_64", True)):
            found = parse_args(cmdline("web", "-cpu", "host"), exe)
            assert found is not None
            assert found.pmu is pmu

    def test_the_words_are_what_ends_with_a_zero_and_what_is_left(self) -> None:
        assert words_of(b"a\0b\0") == words_of(b"a\0b") == ["a", "b"]
        assert words_of(b"a\0\0") == ["a", ""]

    @pytest.mark.parametrize(("length", "kept"), [(4095, True), (4096, False)])
    def test_what_is_too_long_for_a_path_is_none(self, length: int, kept: bool) -> None:
        binary = "qemu/".rjust(length - 4, "/") + "qemu"
        assert args(binary=binary).binary == (binary if kept else "")

    def test_called_kvm_it_asks_for_kvm_by_itself(self) -> None:
        called = parse_args(cmdline("/usr/bin/kvm", "-cpu", "host"))
        assert called == QemuArgs(pmu=True, kvm=True, binary="/usr/bin/kvm", may_be_emulated=False)
        other = parse_args(cmdline("web", "-cpu", "host"), "/usr/bin/kvm")  # what it was called counts, not the file
        assert other == QemuArgs(pmu=True, binary="web", may_be_emulated=False)

    @pytest.mark.parametrize(
        ("words", "found"),
        [
            ((), {}),
            (("-incoming", "defer"), {"incoming": True}),
            (("--loadvm", "first"), {"incoming": True}),
            (("-machine", "q35,confidential-guest-support=lsec0"), {"may_be_recreated": True, "tdx": None}),
            (("-M", "q35,memory-encryption=sev0"), {"may_be_recreated": True}),
            (("-M", "q35,x-change-vmfd-on-reset=on"), {"may_be_recreated": True}),
            (("-object", "tdx-guest,id=lsec0"), {"tdx": None}),
            (("-accel", "kvm"), {"kvm": True}),
            (("-name", "web,debug-threads=on"), {"name": "web"}),
            (("-name", "other,guest=web,guest=db"), {"name": "db"}),
            (("-name", "guest"), {"name": "guest"}),
            (("-name", "debug-threads=on"), {}),
            (("-name", ""), {}),
            (("-uuid", UUID.upper()), {"uuid": UUID}),
            (("-uuid", f"{{{UUID}}}"), {}),
            (("-uuid", f"{UUID}0"), {}),
        ],
    )
    def test_each_fact_and_nothing_beside_it(self, words: tuple[str, ...], found: dict[str, object]) -> None:
        expected = QemuArgs(pmu=False, binary="/usr/bin/qemu-system-x86_64", may_be_emulated=False)
        assert args(*words) == dataclasses.replace(expected, **found)  # type: ignore[arg-type]

    def test_hostile_command_lines(self) -> None:
        assert args("-name", b"guest=\xff\xfe", "-cpu", b"host\xff").name == "guest=\ufffd\ufffd"[6:]
        assert parse_args(b"qemu-system-x86_64 -cpu host -uuid " + UUID.encode(), "") == QemuArgs()  # no NUL at all
        assert parse_args(cmdline("qemu-system-x86_64", "-cpu", "host")[:-1], "") == QemuArgs()
        assert args("-" * 100_000, "-uuid", UUID).uuid is None

    def test_a_command_line_without_end_says_nothing(self, tmp_path: Path) -> None:
        process(tmp_path, Vm(7, 1, argv=("qemu-system-x86_64", "-x", "y" * (5 << 20), "-uuid", UUID)))
        (found,) = vm_processes(Root(tmp_path))
        assert found.args == QemuArgs()

    @given(
        st.lists(st.sampled_from(["-cpu", "--cpu", "host", "-S", "-name", ",", "=", "pmu=on", "-uuid", UUID, "-x", ""]))
    )
    @settings(derandomize=True, database=None, deadline=None)
    def test_any_words(self, words: list[str]) -> None:
        found = args(*words)
        assert found.uuid in (None, UUID)
        if "-cpu" not in words and "--cpu" not in words:
            assert found.pmu is False


def elf(*strings: bytes, build_id: str | None = "ab" * 20) -> bytes:
    """An ELF file as small as can be: one segment of notes, and strings behind."""
    note = (
        b"" if build_id is None else struct.pack("<III4s", 4, len(build_id) // 2, 3, b"GNU\0") + bytes.fromhex(build_id)
    )
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head = struct.pack("<16sHHIQQQIHHHHHH", ident, 3, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 4, 4, 120, 120, 120, len(note), len(note), 4)
    return head + segment + note + b"\0" + b"\0".join(strings) + b"\0"


VERSION = b"QEMU emulator version 9.9"


class TestBinary:
    @pytest.mark.parametrize(
        ("strings", "disables", "cause"),
        [
            ((VERSION, b"Failed to set KVM_PMU_CAP_DISABLE"), True, "strings-in-binary"),
            ((VERSION, b"kvm: Failed to disable pmu cap"), True, "strings-in-binary"),
            ((VERSION, b"pmu-cap-disabled", b"KVM_PMU_CAP_DISABLE"), None, "accel-property"),
            ((VERSION,), None, "no-known-string"),
            ((b"KVM_PMU_CAP_DISABLE",), None, "not-qemu"),
            ((), None, "not-qemu"),
        ],
    )
    def test_strings(self, strings: tuple[bytes, ...], disables: bool | None, cause: str, tmp_path: Path) -> None:
        number = f"{abs(hash(strings)) % (1 << 64):040x}"
        (tmp_path / "qemu").write_bytes(elf(*strings, build_id=number))
        found = qemu_of_file(tmp_path / "qemu")
        evidence = Evidence.NONE if disables is None else Evidence.INFERRED
        status = (tmp_path / "qemu").stat()
        assert found == Qemu(
            str(tmp_path / "qemu"),
            number,
            disables,
            cause,
            evidence,
            hashlib.sha256((tmp_path / "qemu").read_bytes()).hexdigest(),
            FileId(
                str(tmp_path / "qemu"),
                status.st_dev,
                status.st_ino,
                status.st_size,
                status.st_mtime_ns,
                status.st_ctime_ns,
            ),
        )

    @pytest.mark.parametrize("first", ["with", "without"])
    def test_a_binary_with_the_build_id_of_another(self, tmp_path: Path, first: str) -> None:
        """As a container's may have, root's too: it says nothing about the other one, nor the other about it."""
        number = f"0{len(first)}" * 20
        (tmp_path / "with").write_bytes(elf(VERSION, b"KVM_PMU_CAP_DISABLE", build_id=number))
        (tmp_path / "without").write_bytes(elf(VERSION, build_id=number))
        qemu_of_file(tmp_path / first)
        assert qemu_of_file(tmp_path / "with").disables is True
        assert qemu_of_file(tmp_path / "without").disables is None

    def test_a_copy_is_known_by_its_contents(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("one", "two"):
            (tmp_path / name).write_bytes(elf(VERSION, b"KVM_PMU_CAP_DISABLE", build_id="0c" * 20))
        one = qemu_of_file(tmp_path / "one")
        monkeypatch.setattr(qemu_module, "_judge", lambda *_: pytest.fail("it was searched again"))
        assert replace(qemu_of_file(tmp_path / "two"), path=one.path, file=one.file) == one

    def test_a_tested_binary_is_told_by_its_contents(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The build-id is a note that any other one may have too."""
        (tmp_path / "tested").write_bytes(elf(VERSION, b"this one", build_id="0a" * 20))
        (tmp_path / "claims").write_bytes(elf(VERSION, b"that one", build_id="0a" * 20))
        contents = hashlib.sha256((tmp_path / "tested").read_bytes()).hexdigest()
        monkeypatch.setattr(qemu_module, "TESTED", {contents: "for the test"})
        found = qemu_of_file(tmp_path / "tested")
        assert (found.disables, found.cause, found.evidence) == (False, "tested-build-id", Evidence.INFERRED)
        found = qemu_of_file(tmp_path / "claims")
        assert (found.disables, found.cause, found.evidence) == (None, "no-known-string", Evidence.NONE)

    @pytest.mark.parametrize(
        "build_id", ["d9541fd67c4ea37f9ca7fca0f5096f32b3b7e7e0", "e5588a4ae9dc724ce182d9d2421089e0668fd1bd"]
    )
    def test_a_build_id_of_debians_alone_is_none_of_debians_binaries(self, build_id: str, tmp_path: Path) -> None:
        (tmp_path / "qemu").write_bytes(elf(VERSION, build_id=build_id))
        assert qemu_of_file(tmp_path / "qemu").disables is None

    def test_this_machines_tested_binary(self) -> None:
        path = shutil.which("qemu-system-x86_64")
        contents = hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else None
        if path is None or contents not in TESTED:
            pytest.skip("needs one of the tested QEMUs")
        assert qemu_of_file(path).disables is False

    def test_one_that_changes_while_it_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path, real = tmp_path / "qemu", qemu_module._judge
        path.write_bytes(elf(VERSION, b"KVM_PMU_CAP_DISABLE", build_id="0b" * 20))

        def judge(*said: Any) -> Qemu:
            path.chmod(0o700)
            return real(*said)

        monkeypatch.setattr(qemu_module, "_judge", judge)
        found = qemu_of_file(path)
        assert (found.disables, found.cause) == (None, "unstable")

    def test_what_was_found_is_kept_by_what_it_was_found_in(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file that shows another QEMU's contents at first says nothing about that one afterwards."""
        path, real = tmp_path / "hostile", qemu_module._contents
        honest = elf(VERSION, b"honest", build_id=None)
        path.write_bytes(honest)

        def contents(file: Any, strings: frozenset[bytes]) -> Any:
            if strings:
                path.write_bytes(elf(VERSION, b"KVM_PMU_CAP_DISABLE", build_id=None))
            return real(file, strings)

        monkeypatch.setattr(qemu_module, "_contents", contents)
        qemu_of_file(path)
        monkeypatch.undo()
        (tmp_path / "honest").write_bytes(honest)
        assert qemu_of_file(tmp_path / "honest").disables is None

    def test_one_without_end_is_not_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(qemu_module, "MAX_FILE", 1 << 20)
        (tmp_path / "qemu").write_bytes(elf(VERSION, b"KVM_PMU_CAP_DISABLE") + bytes(1 << 20))
        assert qemu_of_file(tmp_path / "qemu").cause == "unreadable"

    @pytest.mark.parametrize("offset", range(-30, 31, 5))
    def test_strings_across_the_pieces_that_are_read(self, offset: int, tmp_path: Path) -> None:
        data = elf(VERSION, build_id=None)
        data += bytes((1 << 20) + offset - len(data) - 10) + b"KVM_PMU_CAP_DISABLE" + bytes(100)
        (tmp_path / "qemu").write_bytes(data)
        assert qemu_of_file(tmp_path / "qemu").disables is True

    def test_another_file_in_its_place(self, tmp_path: Path) -> None:
        path = tmp_path / "qemu"
        path.write_bytes(elf(VERSION, build_id="01" * 20))
        assert qemu_of_file(path).disables is None
        (tmp_path / "new").write_bytes(elf(VERSION, b"KVM_PMU_CAP_DISABLE", build_id="02" * 20))
        os.replace(tmp_path / "new", path)
        assert qemu_of_file(path).disables is True

    @pytest.mark.parametrize(
        "data", [b"", b"\x7fELF", b"#!/bin/sh\n", elf(VERSION)[:100], b"\x7fELF\x02\x01" + b"\xff" * 200]
    )
    def test_no_binary(self, data: bytes, tmp_path: Path) -> None:
        (tmp_path / "qemu").write_bytes(data)
        assert qemu_of_file(tmp_path / "qemu").cause in ("not-qemu", "no-known-string")

    def test_no_file(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "fifo")
        for name in ("absent", "fifo", "."):
            assert qemu_of_file(tmp_path / name).cause == "unreadable"

    def test_of_a_process_in_a_record(self, tmp_path: Path) -> None:
        write(tmp_path, "/usr/bin/qemu-system-x86_64", elf(VERSION, b"KVM_PMU_CAP_DISABLE", build_id="03" * 20))
        found = qemu_of_process(Root(tmp_path), 7, 1, "/usr/bin/qemu-system-x86_64")
        assert (found.path, found.disables) == ("/usr/bin/qemu-system-x86_64", True)
        gone = qemu_of_process(Root(tmp_path), 7, 1, "/usr/bin/qemu-system-x86_64 (deleted)")
        assert (gone.path, gone.cause) == ("/usr/bin/qemu-system-x86_64 (deleted)", "unreadable")
        (tmp_path / "usr/bin/out").symlink_to("/bin/sh")
        assert qemu_of_process(Root(tmp_path), 7, 1, "/usr/bin/out").cause == "unreadable"

    def test_of_a_live_process_after_an_upgrade(self, tmp_path: Path) -> None:
        binary = tmp_path / "qemu-sleep"
        shutil.copy("/bin/sleep", binary)
        with binary.open("ab") as file:
            file.write(b"\0" + VERSION + b"\0KVM_PMU_CAP_DISABLE\0")
        pid = os.spawnv(os.P_NOWAIT, binary, ["qemu", "60"])
        try:
            while os.readlink(f"/proc/{pid}/exe") != str(binary):
                time.sleep(0.01)
            binary.unlink()
            started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
            exe = os.readlink(f"/proc/{pid}/exe")
            assert exe.endswith(" (deleted)")
            assert qemu_of_process(Root(), pid, started, exe).disables is True
            assert qemu_of_process(Root(), pid, started + 1, exe).cause == "unreadable"
        finally:
            os.kill(pid, 9)
            os.waitpid(pid, 0)


TRACE = """\
12 ioctl(3, 0xae00, 0) = 12
12 ioctl(3, 0xae03, 0xd4){asked}
12 ioctl(3, 0xae01, 0) = 8
{enabled}12 +++ exited with 0 +++
14 ioctl(8, 0xae41, 0) = 9
14 ioctl(8, 0x4068aea3, 0x7ffdff3a9370) = 0
"""
ENABLE = "12 ioctl(8, 0x4068aea3, 0x7ffdff3a9370) = 0\n"


class TestProof:
    @pytest.fixture
    def binary(self, tmp_path: Path) -> Path:
        (tmp_path / "qemu").write_bytes(elf(VERSION, build_id="04" * 20))
        return tmp_path / "qemu"

    def fake_strace(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
        """A strace that writes what it is told, by the last word of the command: qemu64,pmu=off or on."""
        path = tmp_path / "bin" / "strace"
        path.parent.mkdir()
        path.write_text(f"#!{sys.executable}\nimport sys, time\nlog = sys.argv[sys.argv.index('-o') + 1]\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(shutil, "which", lambda _: str(path))
        monkeypatch.setattr(os, "access", lambda *_: True)
        monkeypatch.setattr(proving, "_by_memory", lambda *_: None)

    @pytest.mark.parametrize(
        ("asked", "off", "on", "disables", "cause"),
        [
            (" = 1", 3, 2, True, "proved"),
            (" = 1", 2, 2, False, "proved"),
            (" = 0", 2, 2, None, "not-offered"),
            (" <unfinished ...>", 2, 2, False, "proved"),
            (" = 0", 3, 2, True, "proved"),
        ],
    )
    def test_by_strace(
        self,
        asked: str,
        off: int,
        on: int,
        disables: bool | None,
        cause: str,
        binary: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        texts = {
            f"qemu64,pmu={p}": TRACE.format(asked=asked, enabled=ENABLE * n) for p, n in (("off", off), ("on", on))
        }
        script = f"open(log, 'w').write({texts!r}[sys.argv[-1]])\ntime.sleep(60)"
        self.fake_strace(tmp_path, monkeypatch, script)
        found = prove_qemu(binary)
        evidence = Evidence.NONE if disables is None else Evidence.OBSERVED
        assert (found.disables, found.cause, found.evidence, found.build_id) == (disables, cause, evidence, "04" * 20)

    def test_one_that_is_replaced_meanwhile(
        self, binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What was started is not what was read: the proof is of neither."""
        new = str(tmp_path / "new")
        script = f"import os\nopen({new!r}, 'wb')\nos.replace({new!r}, {str(binary)!r})\n"
        script += f"open(log, 'w').write({TRACE.format(asked=' = 1', enabled=ENABLE)!r})\ntime.sleep(60)"
        self.fake_strace(tmp_path, monkeypatch, script)
        with pytest.raises(PmuconfError, match="replaced") as caught:
            prove_qemu(binary)
        assert caught.value.cause == "prove-impossible"

    def test_one_that_does_not_start(self, binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fake_strace(tmp_path, monkeypatch, "sys.exit('no such machine')")
        with pytest.raises(PmuconfError, match="no such machine") as caught:
            prove_qemu(binary)
        assert caught.value.cause == "prove-impossible"

    def test_one_that_hangs_is_ended_with_all_that_it_started(
        self, binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        script = f"import os\npid = os.fork()\nopen('{tmp_path}/' + str(os.getpid()), 'w')\ntime.sleep(60)"
        self.fake_strace(tmp_path, monkeypatch, script)
        with pytest.raises(PmuconfError):
            prove_qemu(binary, seconds=0.5)
        started = [int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()]
        assert len(started) == 2
        for pid in started:
            deadline = time.monotonic() + 30
            while not _ended(pid):  # what was killed may take a moment to die
                assert time.monotonic() < deadline, f"{pid} lives on"
                time.sleep(0.01)

    def test_nothing_to_see_it_with(self, binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "which", lambda _: None)
        monkeypatch.setattr(os, "access", lambda *_: True)
        monkeypatch.setattr(proving, "_by_memory", lambda *_: None)
        with pytest.raises(PmuconfError) as caught:
            prove_qemu(binary)
        assert (caught.value.cause, "strace" in caught.value.hint) == ("prove-impossible", True)

    def test_no_qemu(self) -> None:
        with pytest.raises(PmuconfError) as caught:
            prove_qemu("/bin/sh")
        assert caught.value.cause == "not-qemu"

    @pytest.mark.skipif(
        not (
            os.access("/dev/kvm", os.R_OK | os.W_OK) and shutil.which("qemu-system-x86_64") and shutil.which("strace")
        ),
        reason="needs /dev/kvm, a QEMU and strace",
    )
    def test_this_machines_qemu(self) -> None:
        path = shutil.which("qemu-system-x86_64")
        assert path is not None
        found, said = prove_qemu(path), qemu_of_file(path)
        assert found.disables in (said.disables, None) or said.disables is None
        assert replace(found, disables=said.disables, cause=said.cause, evidence=said.evidence) == said


def _ended(pid: int) -> bool:
    try:
        return ") Z" in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
