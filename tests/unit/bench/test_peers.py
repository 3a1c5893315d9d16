"""An exit measured as others do it: what the loops are made of, how long they run, and what is said of the means."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import capstone
import pytest

from pmuconf.bench import peers
from pmuconf.bench.conditions import Spoil
from pmuconf.bench.measure import Arm
from pmuconf.bench.peers import Mean, Means, Method, compare, mean_of
from pmuconf.errors import PmuconfError
from pmuconf.host.prove.microvm import CODE, micro_vm
from pmuconf.host.root import Root
from tests.unit.conftest import Run
from tests.unit.host.sysroot import write

needs_kvm = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="needs /dev/kvm")
NESTED = Spoil("nested", "this host is itself a virtual machine")


@pytest.fixture(autouse=True)
def every_cpu() -> Iterator[None]:
    allowed = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, allowed)


def disassembled(method: Method) -> list[str]:
    start = 64
    code = peers._code(method)[start:]
    instructions = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64).disasm(code, CODE + start)
    return [f"{one.mnemonic} {one.op_str}".strip() for one in instructions]


def test_the_seeds_loop_asks_for_a_leaf_that_there_is_not() -> None:
    lines = disassembled(Method.SEED)
    at = lines.index("cpuid")
    assert lines[at - 2 : at + 3] == ["mov eax, 0x29a", "xor ecx, ecx", "cpuid", "dec esi", "jne 0x8052"]


def test_vmexits_loop_calls_a_function() -> None:
    lines = disassembled(Method.VMEXIT)
    at = lines.index(f"call {CODE:#x}")
    assert lines[at - 1] == "xor eax, eax"
    assert lines[at + 1 : at + 3] == ["dec esi", "jne 0x8054"]
    function = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64).disasm(peers._code(Method.VMEXIT)[:5], CODE)
    assert [one.mnemonic for one in function] == ["push", "cpuid", "pop", "ret"]


class Clock:
    """A machine whose exits take so many cycles, and whose clock goes on by nothing else; 1000 cycles are a second."""

    def __init__(self, each: int) -> None:
        self.each, self.time, self.runs = each, 0.0, list[int]()

    def run(self, exits: int) -> int:
        self.runs.append(exits)
        self.time += exits * self.each / 1000
        return exits * self.each

    def now(self) -> float:
        return self.time


def test_the_seeds_way_runs_for_the_time_that_it_is_given() -> None:
    clock = Clock(each=2)
    mean = mean_of(Method.SEED, clock.run, 30, now=clock.now)
    assert mean.per_second == pytest.approx(500)
    assert mean.per_exit == 2
    assert 30 <= mean.seconds < 31
    assert mean.exits == sum(clock.runs[2:])


@pytest.mark.parametrize(("each", "exits"), [(1 << 24, 64), (1 << 23, 128), (1500, 1 << 20)])
def test_vmexits_way_doubles_until_it_takes_long_enough(each: int, exits: int) -> None:
    clock = Clock(each)
    mean = mean_of(Method.VMEXIT, clock.run, 1, now=clock.now)
    assert (mean.exits, mean.per_exit) == (exits, each)
    assert clock.runs == [64 << number for number in range(len(clock.runs))]


@needs_kvm
@pytest.mark.parametrize("method", Method)
def test_the_loops_run_in_a_vm(method: Method) -> None:
    with micro_vm(peers._code(method), disable_pmu=False) as machine:
        few, many = machine.run(CODE + 64, 4), machine.run(CODE + 64, 400)
    assert min(few, many) > 0


@pytest.fixture
def root(tmp_path: Path) -> Root:
    cpu = b"processor\t: 0\nflags\t\t: tsc constant_tsc nonstop_tsc svm\n\n"
    write(tmp_path, "/proc/cpuinfo", cpu)
    write(tmp_path, "/sys/module/kvm/parameters/enable_pmu", b"N\n")
    write(tmp_path, "/sys/module/kvm_amd/initstate", b"live\n")
    write(tmp_path, "/sys/devices/system/clocksource/clocksource0/current_clocksource", b"tsc\n")
    return Root(tmp_path)


@needs_kvm
def test_without_any_pmu_there_is_one_mean(root: Root) -> None:
    means = compare(Method.SEED, 0.01, root=root)
    assert (list(means.of), means.gain) == ([Arm.OFF], None)
    assert [spoil.cause for spoil in means.spoils] == ["enable-pmu-n"]
    assert means.of[Arm.OFF].exits >= 64


def test_what_is_known_to_spoil_it_is_not_measured(root: Root) -> None:
    write(root.path, "/proc/cpuinfo", b"processor\t: 0\nflags\t\t: constant_tsc nonstop_tsc svm hypervisor\n\n")
    means = compare(Method.VMEXIT, 1, root=root)
    assert (means.of, [spoil.cause for spoil in means.spoils]) == ({}, ["nested", "enable-pmu-n"])


@pytest.mark.parametrize(
    ("error", "cause"),
    [(FileNotFoundError(2, ""), "kvm-missing"), (PermissionError(13, ""), "kvm-permission"), (None, None)],
)
def test_where_no_vm_can_be_made(
    root: Root, monkeypatch: pytest.MonkeyPatch, error: OSError | None, cause: str | None
) -> None:
    write(root.path, "/sys/module/kvm/parameters/enable_pmu", b"Y\n")

    def asked() -> bool:
        if error is not None:
            raise error
        return False

    monkeypatch.setattr(peers, "can_disable_pmu", asked)
    with pytest.raises(PmuconfError) as caught:
        compare(Method.SEED, 1, root=root)
    assert caught.value.cause == (cause or "pmu-capability-refused")


def put_in(monkeypatch: pytest.MonkeyPatch, means: Means) -> Callable[[], tuple[object, ...]]:
    asked: list[tuple[object, ...]] = []

    def take(*arguments: object, anyway: bool) -> Means:
        asked.append((*arguments, anyway))
        return means

    monkeypatch.setattr(peers, "compare", take)
    return lambda: asked[-1]


# The figures of 2023, of an EPYC 7443P: without and with the patch of that day.
MEANS = Means(Method.SEED, {Arm.ON: Mean(1_360_250, 1.0, 4), Arm.OFF: Mean(1_541_850, 1.0, 4)}, ())


def test_the_answer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = put_in(monkeypatch, MEANS)
    said = run("bench", "cpuid", "--seed-method", "--seconds", "60", "--cpu", "1", "--counters", "6")
    assert asked() == (Method.SEED, 60.0, 1, 6, False)
    assert said.status == 0
    assert "PMU on: 1,360,250 CPUID exits a second" in said.out
    assert "PMU off: +13.4 % exits a second" in said.out


def test_the_record(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = put_in(monkeypatch, Means(Method.VMEXIT, {Arm.OFF: Mean(10, 2.0, 15_005)}, (NESTED,)))
    said = run("bench", "cpuid", "--vmexit-method", "--anyway", "-f", "json")
    assert asked() == (Method.VMEXIT, 40.0, None, None, True)
    assert said.status == 1
    assert json.loads(said.out) == {
        "method": "vmexit",
        "means": {"off": {"exits_per_second": 5.0, "cycles_per_exit": 1500.5, "exits": 10, "seconds": 2.0}},
        "gain_percent": None,
        "spoilt_by": {"nested": NESTED.message},
    }


@pytest.mark.parametrize("option", ["--save", "--plot", "--store"])
def test_there_is_nothing_to_keep(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, option: str) -> None:
    put_in(monkeypatch, MEANS)
    said = run("bench", "cpuid", "--seed-method", option, *([] if option == "--store" else [tmp_path / "file"]))
    assert said.status == 255
    assert "(usage)" in said.err
    assert not (tmp_path / "file").exists()
