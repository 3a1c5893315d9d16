"""Domains of which QEMU makes something else than their <pmu> says, on real libvirt: none is stopped for nothing.

What QEMU made of each is asked of itself, by its monitor.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import libvirt
import libvirt_qemu
import pytest

from tests.functional.host import Host
from tests.functional.test_fastpath import Machine, kvm_domain
from tests.support.daemon import Daemon, available_daemons
from tests.support.domains import plain_domain

__all__: list[str] = []

NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
CPU = "<cpu mode='maximum'/>"
OVER_ON = ("-cpu", "max,kvm=off,hv_vendor_id=null")
OVER_OFF = ("-cpu", "max,arch-capabilities=off,-kvm-steal-time,pmu=off")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    made.put_in(monkeypatch)
    return made


def given(xml: str, *arguments: str, emulator: Path | None = None) -> str:
    """The domain with these options for QEMU, or with another emulator."""
    if emulator is not None:
        xml = xml.replace("<devices>", f"<devices><emulator>{emulator}</emulator>", 1)
    if arguments:
        options = "".join(f"<qemu:arg value={quoteattr(argument)}/>" for argument in arguments)
        xml = xml.replace("<domain ", f"<domain xmlns:qemu='{NAMESPACE}' ", 1)
        xml = xml.replace("</domain>", f"<qemu:commandline>{options}</qemu:commandline></domain>")
    return xml


def tcg(name: str, pmu: str | None, *arguments: str, cpu: str = CPU, machine: str | None = None) -> str:
    xml = plain_domain(name, pmu=pmu, machine=machine).replace("</features>", f"</features>{cpu}", 1)
    return given(xml, *arguments)


def has_pmu(host: Host, name: str) -> bool:
    """What the running guest's QEMU says of its CPU."""

    def ask(command: str, **arguments: str) -> Any:
        said = libvirt_qemu.qemuMonitorCommand(
            host.domain(name), json.dumps({"execute": command, "arguments": arguments}), 0
        )
        return json.loads(said)["return"]

    (cpu,) = ask("query-cpus-fast")
    return bool(ask("qom-get", path=cpu["qom-path"], property="pmu"))


def effective(host: Host) -> dict[str, bool | None]:
    said = host.json("audit").by_name("effective_pmu")
    return {name: None if value is None else value == "on" for name, value in said.items()}


def cycled(host: Host, folder: Path) -> list[str]:
    """Whom the plan of a fleet of this one host would power cycle."""
    folder.mkdir()
    (folder / "host.json").write_text(host.pmuconf("report", "-f", "json").out)
    made = host.pmuconf("fleet", "plan", str(folder), "-o", str(folder / "plan"))
    assert made.status in (0, 1, 2), made.err
    plan = json.loads((folder / "plan").read_text())
    return [
        vm["name"]
        for step in plan["steps"]
        if step["kind"] == "power-cycle"
        for wave in step["waves"]
        for one in wave["hosts"]
        for vm in one["vms"]
    ]


def start(host: Host, *xmls: str) -> None:
    for domain in host.define(*xmls):
        domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)


def test_what_a_definition_gives_its_guest_is_what_qemu_says_of_it(host: Host) -> None:
    old = tcg("old", None, cpu="<cpu mode='custom'><model>Westmere</model></cpu>", machine="pc-i440fx-1.5")
    has_old = ">pc-i440fx-1.5<" in host.connection.getCapabilities()  # QEMU 11 has it no more
    start(
        host,
        *([old] if has_old else []),
        tcg("on", "off", *OVER_ON),
        tcg("off", None, *OVER_OFF),
        tcg("global", None, "-global", "max-x86_64-cpu.pmu=off"),
        tcg("written", "on", "-global", "max-x86_64-cpu.pmu=off"),
        tcg("plain", "off"),
    )
    said = effective(host)
    truth = {name: has_pmu(host, name) for name in said}
    expected = {"off": False, "global": False, "written": True, "plain": False, **({"old": True} if has_old else {})}
    # QEMUs differ in what max has without KVM, and this one may not be the one of the next boot.
    assert truth == {**expected, "on": truth["on"]}
    assert said == {**expected, "on": None}


def test_audit_and_explain_name_it_and_no_start_is_asked_for(host: Host, tmp_path: Path) -> None:
    start(host, tcg("on", "off", "-cpu", "max,pmu=on"), tcg("off", None, *OVER_OFF))
    rows = {row["name"]: row for row in host.json("audit").rows}
    assert (rows["on"]["status"], rows["on"]["pending"], rows["on"]["drift"]) == ("overridden", False, False)
    assert (rows["off"]["status"], rows["off"]["pending"], rows["off"]["drift"]) == ("drift", False, True)
    assert host.pmuconf("audit", "on").status == 2
    assert "1 overridden" in host.pmuconf("audit", "on").err
    told = host.pmuconf("explain", "on")
    assert told.status == 2
    assert "its <pmu> does not decide" in told.out
    assert "at its next boot the guest gets on" in told.out
    assert "<qemu:commandline>" in told.out.splitlines()[-1]
    explained, reported = (host.pmuconf(*command, "on", "-f", "json") for command in (["explain"], ["report"]))
    assert (explained.status, reported.status) == (2, 2)
    assert [json.loads(explained.out)["domain"]] == json.loads(reported.out)["domains"]
    assert cycled(host, tmp_path / "reports") == []


def test_apply_says_that_it_does_nothing_for_the_guest(host: Host) -> None:
    host.define(tcg("on", "off", "-cpu", "max,pmu=on"), tcg("off", None, *OVER_OFF), tcg("plain", None))
    host.domain("off").createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
    dry = {row["name"]: row for row in host.json("apply", "--dry-run").rows}
    made = {row["name"]: row for row in host.json("apply").rows}
    for rows, outcome in ((dry, "planned"), (made, "changed")):
        assert {name: (row["outcome"], row["cause"], row["pending"]) for name, row in rows.items()} == {
            "on": ("overridden", "cpu-overridden", False),
            "off": (outcome, "cpu-overridden", False),
            "plain": (outcome, "", False),
        }
    assert host.pmus() == {"on": "off", "off": "off", "plain": "off"}
    again = host.json("apply")
    assert (again.status, again.by_name("outcome")) == (1, {"on": "overridden"})
    assert host.json("audit", "off").by_name("status") == {"off": "ok"}


@pytest.fixture(params=available_daemons())
def guests(request: pytest.FixtureRequest, capabilities: Path, tmp_path: Path) -> Iterator[Host]:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("needs /dev/kvm")
    with Daemon(request.param, cache=capabilities) as daemon:
        host = Host(daemon, tmp_path)
        yield host
        host.close()


def test_under_kvm_no_guest_is_to_be_power_cycled_for_what_options_decide(
    guests: Host, machine: Machine, tmp_path: Path
) -> None:
    try:
        start(
            guests,
            given(kvm_domain("on", "off"), "-cpu", "host,arch-capabilities=off,kvm=off,hv_vendor_id=null"),
            given(kvm_domain("off", None), "-cpu", "host,arch-capabilities=off,-kvm-steal-time,pmu=off"),
            given(kvm_domain("global", None), "-global", "host-x86_64-cpu.pmu=off"),
            kvm_domain("pending", "on"),
        )
    except libvirt.libvirtError as error:
        pytest.skip(f"KVM starts no guest here: {error}")
    truth = {"on": True, "off": False, "global": False, "pending": True}
    assert {name: has_pmu(guests, name) for name in truth} == truth
    assert effective(guests) == truth
    guests.pmuconf("apply")
    rows = {row["name"]: row for row in guests.json("audit").rows}
    assert {name: (row["fast_path"], row["cause"]) for name, row in rows.items()} == {
        "on": ("no", "cpu-overridden"),
        "off": ("yes", "guarded-disabled"),
        "global": ("yes", "guarded-disabled"),
        "pending": ("no", "pending-power-cycle"),
    }
    assert {name for name, row in rows.items() if row["pending"]} == {"pending"}
    assert cycled(guests, tmp_path / "reports") == ["pending"]


def test_a_script_with_the_name_of_a_qemu_is_found_by_what_it_started(
    guests: Host, machine: Machine, tmp_path: Path
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir(mode=0o755)
    tmp_path.chmod(0o755)
    script = folder / "qemu-system-x86_64"
    script.write_text(
        '#!/bin/bash\nfor word; do [ "$word" = -uuid ] && set -- "$@" -cpu host,arch-capabilities=off; done\n'
        'exec /usr/bin/qemu-system-x86_64 "$@"\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    try:
        start(guests, given(kvm_domain("wrapped", "off"), emulator=script))
    except libvirt.libvirtError as error:
        pytest.skip(f"libvirt starts no guest by a script here: {error}")
    assert has_pmu(guests, "wrapped")
    (row,) = guests.json("audit").rows
    assert (row["effective_pmu"], row["cause"], row["status"]) == ("on", "cpu-overridden", "overridden")
    assert cycled(guests, tmp_path / "reports") == []
