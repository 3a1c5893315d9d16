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

from pmuconf.commands.main import main
from pmuconf.host.guard.verdict import judge_host
from pmuconf.host.names import FUNCTION
from pmuconf.host.root import Root
from pmuconf.hostfacts import Evidence, GuardFinding, Verdict
from tests.lab.cut import cut
from tests.support.records import RECORDS, unpack


@dataclass(frozen=True)
class Built:
    """What follows from how a kernel was built: the verdict, its cause, and which instructions show it.

    :param shown: words that follow one another in the deciding instructions; "ENABLE_PMU" is the operand that reads
        arch.enable_pmu, at the offset that the kernel's own types tell.
    """

    verdict: Verdict
    cause: str
    shown: tuple[str, ...]


_GUARD = ("cmp byte ptr ENABLE_PMU, 0", "jne ")
BUILT = {
    "6.1-stock": Built(Verdict.UNGUARDED, "no-test", ("call kvm_pmu_trigger_event",)),
    "6.1-guarded": Built(Verdict.GUARDED, "guard-in-caller", (*_GUARD, "call kvm_pmu_trigger_event")),
    # The livepatch has a guarded function, and does not reach the copies of it that were inlined elsewhere.
    "6.1-livepatched": Built(Verdict.PARTIAL, "unguarded-copies", (*_GUARD, "call kvm_pmu_trigger_event")),
    "6.12-stock": Built(Verdict.UNGUARDED, "no-test", ("call kvm_pmu_trigger_event",)),
    "6.12-guarded": Built(Verdict.GUARDED, "guard-in-caller", (*_GUARD, "call kvm_pmu_trigger_event")),
}
GUARDED = [name for name, built in BUILT.items() if built.verdict is Verdict.GUARDED]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("records")


def record(name: str, folder: Path) -> Root:
    return Root(folder / name if (folder / name).exists() else unpack(name, folder))


def check(finding: GuardFinding, built: Built) -> None:
    """That it was found to be what it was built as, by the code that runs, and by the right instructions."""
    assert (finding.verdict, finding.cause, finding.evidence) == (built.verdict, built.cause, Evidence.OBSERVED)
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
    assert said["kvm"]["vendor_module"] == "kvm_amd"
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

    @pytest.mark.parametrize("name", GUARDED)
    @pytest.mark.parametrize("opcode", [_JE, _JMP], ids=["inverted", "unconditional"])
    def test_another_branch(self, name: str, opcode: bytes, tmp_path: Path) -> None:
        root = Root(unpack(name, tmp_path))
        alter(root, place_of("jne", judge_host(root)), _JNE, opcode)
        finding = judge_host(root)
        assert finding.verdict is Verdict.UNGUARDED
        with pytest.raises(AssertionError):
            check(finding, BUILT[name])

    @pytest.mark.parametrize("name", GUARDED)
    def test_another_member(self, name: str, tmp_path: Path) -> None:
        """It asks for the byte beside enable_pmu."""
        root = Root(unpack(name, tmp_path))
        finding = judge_host(root)
        assert finding.offset is not None
        operand = struct.pack("<I", finding.offset)
        alter(root, place_of("cmp", finding) + 2, operand, struct.pack("<I", finding.offset + 1))
        altered = judge_host(root)
        assert altered.verdict is Verdict.UNGUARDED
        with pytest.raises(AssertionError):
            check(altered, BUILT[name])


def place_of(operation: str, finding: GuardFinding) -> int:
    """How far into the function the first deciding instruction of that kind is."""
    (found, *_) = re.findall(rf"\+(0x[0-9a-f]+): {operation} ", "\n".join(finding.instructions))
    return int(found, 16)


def alter(root: Root, place: int, old: bytes, new: bytes) -> None:
    """Change bytes of the function in the recorded memory. Written for itself: it reads no more than two tables."""
    (line,) = re.findall(rf"^([0-9a-f]+) [tT] {FUNCTION}\t\[kvm\]$", root.read("/proc/kallsyms").decode(), re.MULTILINE)
    address = int(line, 16) + place
    core = bytearray(root.read("/proc/kcore"))
    (number,) = struct.unpack_from("<H", core, 56)
    for header in range(64, 64 + 56 * number, 56):
        offset, start, _, size = struct.unpack_from("<QQQQ", core, header + 8)
        if start <= address < start + size:
            at = offset + address - start
            assert core[at : at + len(old)] == old
            core[at : at + len(new)] = new
            root.at("/proc/kcore").write_bytes(core)
            return
    raise AssertionError(f"{address:#x} is not in the record")
