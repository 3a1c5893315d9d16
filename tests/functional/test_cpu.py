"""The rule for a CPU's PMU against a real QEMU: what it makes of each command line of a table is asked of itself."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from pmuconf.domain.cpu import has_pmu

BINARY = shutil.which("qemu-system-x86_64") or ""

# Some machines' KVM does not let the MSR of this feature be written.
PLAIN = "max,-arch-capabilities"
CPUS = (
    *(PLAIN, f"{PLAIN},pmu=off", f"{PLAIN},-pmu", f"{PLAIN},+pmu,-pmu", f"{PLAIN},pmu=off,+pmu", f"{PLAIN},pmu=n"),
    *("EPYC", "EPYC,pmu=on", "EPYC,,pmu=yes", "EPYC,pmu", "EPYC-v3", "Westmere-IBRS", "base", "qemu64,+pmu", "486"),
    *("EPYC,pmu=on,pmu=off", "EPYC,x-intel-pt-auto-level=on", f"{PLAIN},pmu=off,pmu"),
)
GLOBALS = (
    *((), ("max-x86_64-cpu.pmu=off",), ("x86_64-cpu.pmu=on",), ("cpu.pmu=on", "cpu.pmu=off"), ("cpu.pmu=false",)),
    *(("driver=EPYC-x86_64-cpu,property=pmu,value=on",), ("EPYC-v3-x86_64-cpu.pmu=on",), ("ICH9-LPC.disable_s3=1",)),
)
MACHINES = ("pc", "q35", "isapc", "microvm")
OLD = ("pc-i440fx-1.4", "pc-i440fx-1.5", "pc-i440fx-1.6", "pc-i440fx-1.7", "pc-i440fx-2.10", "pc-q35-2.4")
ODD = ("hv-time", "hv-cppc-stub=on", "pmu=on", "-pmu", "host-x86_64-cpu", "max-x86_64-cpu,pmu=on")


class Qemu:
    """A QEMU that runs nothing, and is asked by QMP.

    :raises LookupError: it did not start, with what it said.
    """

    def __init__(self, words: list[str]) -> None:
        fixed = ["-S", "-nodefaults", "-no-user-config", "-display", "none", "-m", "16", "-qmp", "stdio"]
        self._process = subprocess.Popen(
            [BINARY, *fixed, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            self._answer()
            self.ask("qmp_capabilities")
        except LookupError:
            self.end()
            raise

    def ask(self, command: str, **arguments: str) -> Any:
        """What it answers to a command."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise LookupError("it ended") from None
        return self._answer()["return"]

    def end(self) -> None:
        """Make an end of it."""
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        for line in self._process.stdout:
            said: dict[str, Any] = json.loads(line)
            if "event" not in said:
                return said
        raise LookupError(self._process.stderr.read())


def truth(words: list[str]) -> bool | None:
    """Whether its CPU has a PMU; None: it does not start so."""
    try:
        qemu = Qemu(words)
    except LookupError:
        return None
    try:
        found = {qemu.ask("qom-get", path=cpu["qom-path"], property="pmu") for cpu in qemu.ask("query-cpus-fast")}
    finally:
        qemu.end()
    (pmu,) = found
    return bool(pmu)


def known_machines() -> set[str]:
    """The machine types that this QEMU has: 10.0 has none before 2.4, and 11.1 none before 5.2."""
    qemu = Qemu(["-machine", "none"])
    try:
        machines = qemu.ask("query-machines")
    finally:
        qemu.end()
    return {name for one in machines for name in (one["name"], one.get("alias", ""))}


def lines() -> Iterator[list[str]]:
    """The table: CPUs by globals, and by machine types."""
    known = known_machines()
    machines = [name for name in (*MACHINES, *OLD) if name in known]
    assert {"pc", "q35"} <= set(machines)
    for cpu, given in product(CPUS, GLOBALS):
        yield [*(word for value in given for word in ("-global", value)), "-cpu", cpu]
    for machine, cpu in product(machines, ("", PLAIN, "EPYC", "EPYC,pmu=off", "qemu64")):
        yield ["-machine", machine, *(("-cpu", cpu) if cpu else ())]
    for given in GLOBALS:
        words = [word for value in given for word in ("-global", value)]
        yield words
        if "pc-i440fx-1.5" in machines:
            yield ["-machine", "pc-i440fx-1.5", *words, "-cpu", "EPYC"]
    for first, second in product((PLAIN, "EPYC,pmu=on", f"{PLAIN},pmu=off"), repeat=2):
        yield ["-cpu", first, "--cpu", second]
    if "pc-i440fx-1.5" in machines:
        yield ["-machine", "pc", "-M", "pc-i440fx-1.5"]
        yield ["-M", "usb=off,type=pc-i440fx-1.5", "-machine", "vmport=off"]


@pytest.mark.parametrize("accelerator", ["tcg", "kvm"])
@pytest.mark.skipif(not BINARY, reason="no qemu-system-x86_64")
def test_what_a_qemu_makes_of_its_command_line_is_what_the_rule_says_or_unknown(accelerator: str) -> None:
    if accelerator == "kvm" and truth(["-accel", "kvm"]) is None:
        pytest.skip("no KVM")
    counted = {"same": 0, "unknown": 0, "refused": 0}
    wrong = []
    for line in lines():
        words = ["-accel", accelerator, *line]
        said = has_pmu(["qemu-system-x86_64", *words])
        found = truth(words)
        if found is None:
            counted["refused"] += 1
        elif said is None:
            counted["unknown"] += 1
        else:
            counted["same"] += 1
            if said is not found:
                wrong.append((words, said, found))
    assert not wrong
    assert counted["same"] > 2 * counted["unknown"], counted
    assert counted["same"] > 10 * counted["refused"], counted


@pytest.mark.skipif(not BINARY, reason="no qemu-system-x86_64")
@pytest.mark.parametrize("cpu", ODD)
def test_what_is_no_model_is_refused_by_qemu_and_unknown_to_the_rule(cpu: str) -> None:
    assert truth(["-accel", "tcg", "-cpu", cpu]) is None
    assert has_pmu(["qemu-system-x86_64", "-cpu", cpu]) is None


@pytest.mark.skipif(not BINARY, reason="no qemu-system-x86_64")
def test_every_model_that_qemu_knows_is_one_to_the_rule() -> None:
    qemu = Qemu(["-machine", "q35"])
    try:
        models = [one["name"] for one in qemu.ask("query-cpu-definitions")]
    finally:
        qemu.end()
    assert len(models) > 50
    for model in models:
        assert has_pmu(["qemu-system-x86_64", "-accel", "kvm", "-cpu", model]) is (model in ("host", "max")), model
