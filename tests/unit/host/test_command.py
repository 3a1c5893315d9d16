"""The command line: a short answer first, one JSON object, exit statuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pmuconf.commands.main import main
from pmuconf.hostfacts import Evidence, Qemu
from tests.unit.host.code.test_live import btf_of, host_with, object_of
from tests.unit.host.sysroot import BUILD_ID, CORE_TEXT, link_file, write


@pytest.mark.parametrize(
    ("name", "status", "verdict"),
    [
        ("unlikely", 0, "guarded"),
        ("retired", 0, "early-out"),
        ("no-call", 0, "no-call"),
        ("stock", 2, "unguarded"),
        ("unknown-function", 1, "unknown"),
    ],
)
def test_a_recorded_host(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, status: int, verdict: str
) -> None:
    root, _ = host_with(tmp_path, name)
    assert main(["host", "--root", str(root.path), "-f", "json"]) == status
    said = json.loads(capsys.readouterr().out)
    assert said["verdict"] == verdict
    assert said["evidence"] == ("none" if verdict == "unknown" else "observed")
    assert {"cause", "source", "remedy", "kvm", "cpu"} <= said.keys()
    assert main(["host", "--root", str(root.path)]) == status
    assert capsys.readouterr().out.startswith(f"{verdict}: ")


def test_the_parameter_is_said_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, _ = host_with(tmp_path, "stock")
    write(root.path, "/sys/module/kvm/parameters/enable_pmu", b"N\n")
    assert main(["host", "--root", str(root.path)]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "kvm.enable_pmu is N: the PMU of every VM on this host is disabled in the kernel"


def test_a_module(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = object_of("unlikely")
    (tmp_path / "kvm.ko").write_bytes(data)
    (tmp_path / "btf").write_bytes(btf_of(data))
    assert main(["host", "judge", str(tmp_path / "kvm.ko"), "-f", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["evidence"] == "inferred"


@pytest.mark.parametrize(
    ("name", "status", "verdict"),
    [("unlikely", 0, "guarded"), ("retired", 0, "early-out"), ("stock", 2, "unguarded"), ("inverted", 2, "unguarded")],
)
def test_a_vmlinux(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, status: int, verdict: str) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(link_file(object_of(name), CORE_TEXT)[0])
    assert main(["host", "judge", str(path), "-f", "json"]) == status
    said = json.loads(capsys.readouterr().out)
    assert (said["verdict"], said["evidence"], said["build_id"]) == (verdict, "inferred", BUILD_ID)
    assert said["source"] == str(path)
    assert said["offset_from"] == f"BTF of {path}"
    assert "kvm" not in said  # that would be the settings of this machine


def test_a_vmlinux_without_symbols(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(link_file(object_of("unlikely"), CORE_TEXT)[0])
    subprocess.run(["objcopy", "--strip-unneeded", "--remove-section=.symtab", str(path)], check=True)
    assert main(["host", "judge", str(path)]) == 255
    assert "give the unstripped file" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"garbage" * 100, b"\x7fELF\x02\x01\x01" + bytes(57)])
def test_no_module(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "kvm.ko"
    path.write_bytes(content)
    command = [sys.executable, "-m", "pmuconf.commands.main", "host", "judge", str(path)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (255, "")
    assert run.stderr.startswith("pmuconf: ")
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--btf", "x"],
        ["--module", "x", "--vmlinux", "y"],
        ["--prove", "--module", "x"],
        ["--module", "/no"],
        ["judge", "/no"],
    ],
)
def test_usage(arguments: list[str]) -> None:
    assert main(["host", *arguments]) == 255


@pytest.mark.parametrize("arguments", [["--root"], ["judge"]])
def test_a_folder_that_is_no_host(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert main(["host", *arguments, str(tmp_path)]) == 255
    said = capsys.readouterr()
    assert said.out == ""
    no_host = f"pmuconf: {tmp_path} is no host and no record of one: it has neither proc nor sys (not-a-host)"
    assert said.err.startswith(no_host)
    assert "pmuconf host record DIR" in said.err


def test_host_facts_are_for_root_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody else's file would be believed, and it would have nothing that only root can read."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert main(["host", "facts"]) == 255
    said = capsys.readouterr()
    assert said.out == ""
    assert "(root-required). Run it as root" in said.err


def test_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, _ = host_with(tmp_path, "unlikely")
    target = tmp_path / "record"
    assert main(["host", "record", "--root", str(root.path), str(target)]) == 0
    assert "guarded" in capsys.readouterr().out
    assert main(["host", "judge", str(target)]) == 0
    assert main(["host", "judge", str(target), "--btf", "x"]) == 255
    capsys.readouterr()
    assert main(["host", "record", "--root", str(root.path), str(target)]) == 255
    assert "record: File exists (record-unwritable)" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--module", "--vmlinux"])
def test_the_old_options_answer_as_the_command_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    data = object_of("unlikely")
    (tmp_path / "kvm.ko").write_bytes(data)
    assert main(["host", "judge", str(tmp_path / "kvm.ko"), "-f", "json"]) == 0
    new = capsys.readouterr()
    assert main(["host", option, str(tmp_path / "kvm.ko"), "-f", "json"]) == 0
    old = capsys.readouterr()
    assert (old.out, new.err) == (new.out, "")
    assert old.err.endswith("pmuconf host judge FILE\n")
    assert old.err.count("\n") == 1


def test_the_old_option_for_a_qemu_runs_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu = Qemu("/usr/bin/qemu", None, disables=None, cause="not-offered")
    monkeypatch.setattr("pmuconf.host.prove.qemu.prove_qemu", lambda binary: qemu)
    assert main(["qemu", "prove", "/usr/bin/qemu", "-f", "json"]) == 1
    new = capsys.readouterr()
    assert main(["host", "--prove-qemu", "/usr/bin/qemu", "-f", "json"]) == 1
    old = capsys.readouterr()
    assert (json.loads(old.out), new.err) == (json.loads(new.out), "")
    assert old.err.endswith("pmuconf qemu prove BINARY\n")
    assert main(["host", "--prove-qemu", "/usr/bin/qemu", "--prove"]) == 255


@pytest.mark.parametrize("disables", [True, False])
def test_what_a_qemu_does_is_said_and_kept(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *, disables: bool
) -> None:
    qemu = Qemu("/usr/bin/qemu", None, disables, "proved", Evidence.OBSERVED, "0" * 64)
    kept: list[Qemu] = []
    monkeypatch.setattr("pmuconf.host.prove.qemu.prove_qemu", lambda binary: qemu)
    monkeypatch.setattr("pmuconf.host.vms.proofs.keep", lambda root, qemu: kept.append(qemu))
    assert main(["qemu", "prove", "/usr/bin/qemu"]) == 0
    does = "disables the PMU" if disables else "leaves the PMU enabled"
    assert capsys.readouterr().out.startswith(f"/usr/bin/qemu {does} in KVM for a VM that must not have one: seen\n")
    assert kept == [qemu]
