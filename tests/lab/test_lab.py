"""Real kernels, booted under emulation: what pmuconf says inside of each. Runs with PMUCONF_TEST_LAB set.

make test-lab fetches, builds and boots them.

The independent oracle is how each kernel was made: Debian's own, the same source built again, and that with the
patch of contrib/kernel.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pmuconf.host.code.btf import Btf
from pmuconf.host.code.files import load_file
from pmuconf.host.code.members import dwarf_offsets, offsets_of
from pmuconf.host.guard.verdict import judge_file, judge_host
from pmuconf.host.root import Root
from pmuconf.hostfacts import Evidence, Verdict
from tests.lab.boots import LAB, booted, results

pytestmark = pytest.mark.skipif("PMUCONF_TEST_LAB" not in os.environ, reason="needs the kernel lab: make test-lab")

UNGUARDED = (2, "unguarded", "no-test", "observed")
GUARDED = (0, "guarded", "guard-in-caller", "observed")
EARLY_OUT = (0, "early-out", "nothing-counted", "observed")
FROM_FILE = (2, "unguarded", "no-test", "inferred")

EXPECTED = [
    ("6.1", "verdicts-6.1", "", "stock", UNGUARDED),
    ("6.1", "verdicts-6.1", "", "control", UNGUARDED),
    ("6.1", "verdicts-6.1", "", "guarded", GUARDED),
    ("6.1", "verdicts-6.1", "", "kptr-0", UNGUARDED),
    ("6.1", "verdicts-6.1", "", "kptr-1", UNGUARDED),
    ("6.1", "verdicts-6.1", "", "kptr-2", FROM_FILE),
    ("6.1", "verdicts-6.1", "", "nobody", FROM_FILE),
    ("6.1", "verdicts-6.1", "", "probed", GUARDED),
    ("6.1", "verdicts-6.1", "", "traced", GUARDED),
    ("6.1", "verdicts-6.1", "", "again", GUARDED),
    ("6.1", "verdicts-6.1", "", "unloaded", (1, "unknown", "kvm-not-loaded", "none")),
    ("6.1", "enabled-6.1", "", "stock-no", UNGUARDED),
    ("6.1", "enabled-6.1", "", "stock-yes", UNGUARDED),
    ("6.1", "enabled-6.1", "", "guarded-no", GUARDED),
    ("6.1", "enabled-6.1", "", "guarded-yes", GUARDED),
    ("6.12", "verdicts-6.12", "", "stock", UNGUARDED),
    ("6.12", "verdicts-6.12", "", "guarded", GUARDED),
    ("6.18", "records-6.18", "", "stock", EARLY_OUT),
    ("newest", "records-newest", "", "stock", EARLY_OUT),
    ("newest", "records-newest", "", "guarded", GUARDED),
    ("6.1", "lockdown-6.1", "lockdown=integrity", "lockdown", UNGUARDED),
    ("6.1", "lockdown-6.1", "lockdown=integrity", "lockdown-no-file", UNGUARDED),
    ("6.1", "lockdown-6.1", "lockdown=confidentiality", "lockdown", FROM_FILE),
    ("6.1", "lockdown-6.1", "lockdown=confidentiality", "lockdown-no-file", (1, "unknown", "kcore-refused", "none")),
]


@pytest.mark.boots("{job}{arguments}")
@pytest.mark.parametrize(("series", "job", "arguments", "name", "expected"), EXPECTED)
def test_live(series: str, job: str, arguments: str, name: str, expected: tuple[int, str, str, str]) -> None:
    assert booted(series, job, arguments)[name].short == expected


@pytest.mark.boots("verdicts-6.1")
def test_the_parameter_is_its_own_case() -> None:
    """TCG has no PMU, so KVM clears enable_pmu itself, as it does on any host whose PMU it can't use."""
    said = booted("6.1", "verdicts-6.1")["stock"].document
    assert said["kvm"]["enable_pmu"] is False
    assert said["verdict"] == "unguarded"


@pytest.mark.boots("enabled-6.1")
@pytest.mark.parametrize("kind", ["stock", "guarded"])
def test_the_parameter_is_read(kind: str) -> None:
    said = booted("6.1", "enabled-6.1")
    assert [said[f"{kind}-{name}"].document["kvm"]["enable_pmu"] for name in ("no", "yes")] == [False, True]


@pytest.mark.boots("{job}")
@pytest.mark.parametrize(
    ("job", "name", "calls"),
    [
        ("prove-6.1", "proved-stock", 201),
        ("prove-6.1", "proved-after-kill", 201),
        ("prove-6.1", "proved-guarded", 0),
        ("enabled-6.1", "stock-yes-prove", 201),
        ("enabled-6.1", "guarded-yes-prove", 0),
    ],
)
def test_prove_agrees(job: str, name: str, calls: int) -> None:
    said = booted("6.1", job)[name].document
    assert (said["proof"]["calls"], said["proof"]["agrees"]) == (calls, True)


@pytest.mark.boots("livepatch-6.1")
def test_a_livepatch_that_brings_the_guard() -> None:
    said = booted("6.1", "livepatch-6.1")
    assert said["before"].short == UNGUARDED
    assert said["patched"].short == (1, "partial", "unguarded-copies", "observed")  # it does not reach inlined copies
    assert "livepatch" in said["patched"].document["source"]
    proof = said["patched-prove"].document["proof"]
    assert proof["calls"] <= 1  # of the HLT's copy
    assert proof["agrees"] is True
    assert said["after"].short == UNGUARDED


@pytest.mark.boots("prove-6.1")
def test_prove_leaves_nothing() -> None:
    booted("6.1", "prove-6.1")
    kept = results("prove-6.1")
    assert (kept / "left").read_text() == ""
    by_kill = (kept / "left-by-kill").read_text()
    assert "p:pmuconf/call_" in by_kill  # else it was killed too early, or too late, to show anything
    assert "pmuconf-" in by_kill
    assert (kept / "left-after-kill").read_text() == ""


@pytest.mark.parametrize("kind", ["control", "guarded"])
@pytest.mark.parametrize("compiler", ["gcc-11", "gcc-12"])
def test_the_callee_that_the_guard_was_written_for(compiler: str, kind: str) -> None:
    release = (LAB / "release-6.1").read_text().strip()
    path = LAB / "modules" / release / f"bitmap-{compiler}" / kind / "kvm.ko"
    finding = judge_file(path, LAB / "kernels" / release / "vmlinux")
    assert finding.verdict is {"control": Verdict.UNGUARDED, "guarded": Verdict.GUARDED}[kind]
    unguarded = finding.copies.unguarded
    assert (len(unguarded) > 5) == (kind == "control"), unguarded


@pytest.mark.parametrize(("kind", "verdict"), [("control", Verdict.EARLY_OUT), ("guarded", Verdict.GUARDED)])
def test_the_newest(kind: str, verdict: Verdict) -> None:
    release = (LAB / "release-newest").read_text().strip()
    finding = judge_file(LAB / "modules" / release / kind / "kvm.ko")
    assert finding.verdict is verdict
    assert finding.offset_from.startswith("DWARF of ")


@pytest.mark.parametrize("series", ["6.1", "6.12"])
def test_dwarf_and_btf_agree(series: str) -> None:
    release = (LAB / f"release-{series}").read_text().strip()
    built = load_file(LAB / "build" / release / "control/arch/x86/kvm/kvm.ko")
    own, base = built.section(".BTF"), load_file(LAB / "kernels" / release / "vmlinux").section(".BTF")
    assert own is not None
    assert base is not None
    by_dwarf, _ = dwarf_offsets(Root(), None, built)
    assert by_dwarf == offsets_of(Btf(own, Btf(base)))


@pytest.mark.parametrize("kind", ["control", "guarded"])
@pytest.mark.parametrize("series", ["6.1", "6.12"])
def test_files(series: str, kind: str) -> None:
    release = (LAB / f"release-{series}").read_text().strip()
    finding = judge_file(LAB / "modules" / release / kind / "kvm.ko", LAB / "kernels" / release / "vmlinux")
    assert finding.verdict is {"control": Verdict.UNGUARDED, "guarded": Verdict.GUARDED}[kind]
    assert finding.evidence is Evidence.INFERRED


@pytest.mark.parametrize("path", sorted(LAB.glob("corpus/*")), ids=lambda path: path.name)
def test_no_debian_kernel_is_guarded(path: Path) -> None:
    """Since 43f5bea2639c and 5dfd498bad5f (in v6.18) there is an early-out, and Debian has added no guard."""
    (module,) = path.glob("kvm.ko*")
    finding = judge_file(module, path / "vmlinux")
    series = tuple(int(number) for number in path.name.split(".")[:2])
    early_out = (Verdict.EARLY_OUT, "nothing-counted")
    assert (finding.verdict, finding.cause) == (early_out if series >= (6, 18) else (Verdict.UNGUARDED, "no-test"))


@pytest.mark.boots("verdicts-6.1")
def test_a_record_replays() -> None:
    said = booted("6.1", "verdicts-6.1")["guarded"].document
    finding = judge_host(Root(results("verdicts-6.1") / "record-guarded"))
    assert finding.verdict is Verdict.GUARDED
    assert list(finding.instructions) == said["instructions"]
