"""What each manager gets from its hook, byte for byte: the policy's state, or exactly what it gave."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pmuconf.commands import hook as command
from pmuconf.domain.definition import PmuState
from pmuconf.domain.reading import read
from tests.unit.conftest import Outcome, Run
from tests.unit.hooks.forms import CLOUDSTACK, KUBEVIRT, OPENNEBULA, POLICY, VDSM, Form, kubevirt_vmi

Ask = Callable[..., "tuple[Outcome, bytes]"]
MANAGERS = ("kubevirt", "vdsm", "cloudstack", "opennebula")
ONE_EACH = {"kubevirt": KUBEVIRT[0], "vdsm": VDSM[0], "cloudstack": CLOUDSTACK[1], "opennebula": OPENNEBULA[0]}
CALLS = [
    pytest.param(manager, form, id=f"{manager}, {form.name}")
    for manager, forms in zip(MANAGERS, (KUBEVIRT, VDSM, CLOUDSTACK, OPENNEBULA))
    for form in forms
]


@pytest.fixture
def ask(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Calls the hook of a manager, and gives what it did and the domain that the manager then has."""

    def asked(manager: str, form: Form, *options: str, config: str = POLICY) -> tuple[Outcome, bytes]:
        if manager == "kubevirt":
            said = run("hook", manager, *options, "--vmi", form.beside, "--domain", form.xml, config=config)
        elif manager == "cloudstack":
            said = run("hook", manager, *options, "--domain", form.xml, config=config)
        elif manager == "opennebula":
            (tmp_path / "vm.xml").write_text(form.beside)
            options = (*options, *(["--vm", str(tmp_path / "vm.xml")] if form.beside else []))
            said = run("hook", manager, *options, config=config, stdin=form.xml.encode())
        else:
            file = tmp_path / "domain"
            file.write_bytes(form.xml.encode())
            file.chmod(0o600)
            monkeypatch.setenv("_hook_domxml", str(file))
            said = run("hook", manager, *options, config=config)
            assert (said.out, file.stat().st_mode & 0o777) == ("", 0o600)
            return said, file.read_bytes()
        return said, said.out.encode()

    return asked


def is_answer(form: Form, said: Outcome, xml: bytes) -> None:
    """An oracle of its own: without the element that is asked for, it is what came; and a reader sees that state."""
    assert said.status == 0
    assert form.log in said.err
    assert said.err.count("\n") == 1
    if form.state is None:
        assert xml == form.xml.encode()
        return
    added = re.compile(rf"(<features>)?\s*<pmu state=['\"]{form.state}['\"]/>(?(1)</features>\n\t|)".encode())
    assert len(added.findall(xml)) == 1
    assert added.sub(b"", xml) == form.xml.encode()
    assert read(xml).pmu is PmuState(form.state)


# ---- five of each --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("manager", "form"), CALLS)
def test_the_domain_has_the_state_of_the_policy_and_nothing_else_changes(ask: Ask, manager: str, form: Form) -> None:
    is_answer(form, *ask(manager, form))


@pytest.mark.parametrize(("manager", "form"), CALLS)
def test_strict_makes_no_difference_where_nothing_fails(ask: Ask, manager: str, form: Form) -> None:
    is_answer(form, *ask(manager, form, "--strict"))


@pytest.mark.parametrize(("manager", "form"), CALLS)
def test_asked_again_nothing_changes_any_more(ask: Ask, manager: str, form: Form) -> None:
    _, xml = ask(manager, form)
    _, again = ask(manager, Form(form.name, xml.decode(), None, "", form.beside))
    assert again == xml


@pytest.mark.parametrize("manager", MANAGERS)
def test_each_manager_has_at_least_five(manager: str) -> None:
    assert sum(parameters.values[0] == manager for parameters in CALLS) >= 5


@pytest.mark.parametrize("manager", MANAGERS)
@pytest.mark.parametrize(("default", "state"), [("off", "off"), ("on", "on"), ("keep", None)])
def test_the_default_alone(ask: Ask, manager: str, default: str, state: str | None) -> None:
    form = ONE_EACH[manager]
    said, xml = ask(manager, form, config=f"[policy]\ndefault = {default}\n")
    is_answer(Form(form.name, form.xml, state, f"{default} by default", form.beside), said, xml)


@pytest.mark.parametrize("manager", MANAGERS)
@pytest.mark.parametrize("written", ["on", "off"])
@pytest.mark.parametrize("default", ["on", "off", "keep"])
def test_what_the_manager_has_written_stays_whatever_the_policy_says(
    ask: Ask, manager: str, written: str, default: str
) -> None:
    form = ONE_EACH[manager]
    explicit = form.xml.replace("<features>", f"<features><pmu state='{written}'/>")
    rules = "[policy]\nrules = all\n[rule:all]\ndomain = *\npmu = " + ("off" if written == "on" else "on")
    for config in (f"[policy]\ndefault = {default}\n", rules):
        said, xml = ask(manager, Form("", explicit, None, "", form.beside), config=config)
        assert (said.status, xml) == (0, explicit.encode())


# ---- the target of a migration -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "moves"),
    [
        ({}, False),
        ({"migrationState": None}, False),
        ({"migrationState": {}}, True),
        ({"migrationState": {"migrationUid": "1", "targetPod": "p"}}, True),
        ({"migrationState": {"migrationUid": "1", "completed": True, "endTimestamp": "2026-01-01T00:00:00Z"}}, True),
        ({"migrationState": {"migrationUid": "1", "failed": True}}, True),
        ({"migrationTransport": "Unix", "migrationMethod": "LiveMigration"}, False),
    ],
)
def test_a_vmi_that_ever_had_to_migrate_is_left_alone(ask: Ask, status: dict[str, Any], moves: bool) -> None:
    form = Form("", KUBEVIRT[0].xml, None if moves else "off", "", kubevirt_vmi("web", status=status))
    is_answer(form, *ask("kubevirt", form))


# ---- garbage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("manager", MANAGERS)
@pytest.mark.parametrize(
    "xml",
    [
        "",
        "x",
        "<domain",
        "<domain type='kvm'><name>a</name>",
        "<domain type='kvm'/>",
        "<network><name>a</name></network>",
        "<!DOCTYPE domain [<!ENTITY e SYSTEM 'file:///etc/hostname'>]><domain><name>&e;</name></domain>",
        "<domain type='kvm'><name>a</name><os><type arch='i686'/></os><features><pmu state='x'/></features></domain>",
        "<domain type='kvm'><name>a</name></domain>" + " " * 5000,
    ],
)
def test_a_domain_that_cannot_be_read_goes_back_as_it_came(ask: Ask, manager: str, xml: str) -> None:
    form = Form("", xml, None, "", ONE_EACH[manager].beside)
    small = f"{POLICY}\n[libvirt]\nmax_xml_bytes = 4096\n"
    said, back = ask(manager, form, config=small)
    assert (said.status, back) == (0, xml.encode())
    assert re.fullmatch(r"pmuconf: hook \w+: left as \w+ has it: [^\n]+ \([a-z-]+\)[^\n]*\n", said.err)
    said, back = ask(manager, form, "--strict", config=small)
    assert said.status == (2 if manager == "vdsm" else 255)
    assert back == (xml.encode() if manager == "vdsm" else b"")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    "vmi",
    [
        "",
        "null",
        "[]",
        "{",
        "{}",
        '{"metadata":[]}',
        '{"metadata":{"labels":{"a":1}}}',
        '{"metadata":{"namespace":7}}',
        '{"metadata":{},"status":"x"}',
        '{"metadata":{},"status":{"migrationState":true}}',
        "[" * 20000,
    ],
)
def test_a_vmi_that_cannot_be_read_leaves_the_domain(ask: Ask, vmi: str) -> None:
    form = Form("", KUBEVIRT[0].xml, None, "(hook-facts)", vmi)
    is_answer(form, *ask("kubevirt", form))
    said, xml = ask("kubevirt", form, "--strict")
    assert (said.status, xml) == (255, b"")


@pytest.mark.parametrize("vm", ["x", "<VM>", "<vm/>", "<!DOCTYPE VM [<!ENTITY e 'x'>]><VM>&e;</VM>"])
def test_a_vm_xml_that_cannot_be_read_leaves_the_domain(ask: Ask, vm: str) -> None:
    form = Form("", OPENNEBULA[0].xml, None, "(hook-facts)", vm)
    is_answer(form, *ask("opennebula", form))


def test_a_vm_xml_that_is_not_there_or_no_file_leaves_the_domain(run: Run, tmp_path: Path) -> None:
    for place in (tmp_path / "nothing", tmp_path):
        said = run("hook", "opennebula", "--vm", place, stdin=OPENNEBULA[0].xml.encode())
        assert (said.status, said.out) == (0, OPENNEBULA[0].xml)
        assert "(hook-facts)" in said.err


@pytest.mark.parametrize("manager", MANAGERS)
@pytest.mark.parametrize("config", ["[policy]\ndefault = maybe\n", "[nothing]\n", "[policy\n"])
def test_a_configuration_that_is_refused_leaves_the_domain(ask: Ask, manager: str, config: str) -> None:
    form = Form("", ONE_EACH[manager].xml, None, "(config-invalid)", ONE_EACH[manager].beside)
    is_answer(form, *ask(manager, form, config=config))
    said, _ = ask(manager, form, "--strict", config=config)
    assert said.status == (2 if manager == "vdsm" else 255)


@pytest.mark.parametrize("manager", MANAGERS)
@pytest.mark.parametrize("error", [RuntimeError("a bug"), MemoryError(), RecursionError("deep"), OSError(5, "gone")])
def test_whatever_else_fails_leaves_the_domain(
    ask: Ask, manager: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(command, "reply", fails)
    form = Form("", ONE_EACH[manager].xml, None, "left as", ONE_EACH[manager].beside)
    is_answer(form, *ask(manager, form))


@pytest.mark.parametrize("manager", MANAGERS)
def test_an_answer_that_takes_too_long_is_none(ask: Ask, manager: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def for_ever(*_: object) -> None:
        begin = time.monotonic()
        while time.monotonic() - begin < 60:
            pass

    monkeypatch.setattr(command, "SECONDS", 0.05)
    monkeypatch.setattr(command, "reply", for_ever)
    form = Form("", ONE_EACH[manager].xml, None, "(input-too-slow)", ONE_EACH[manager].beside)
    is_answer(form, *ask(manager, form))
    said, _ = ask(manager, form, "--strict")
    assert said.status == (2 if manager == "vdsm" else 255)


# ---- calls that are none -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["kubevirt"],
        ["kubevirt", "--vmi", "{}"],
        ["kubevirt", "--domain", "<domain/>"],
        ["cloudstack"],
        ["cloudstack", "transform", "<domain/>"],
        ["proxmox"],
        [],
    ],
)
def test_a_call_without_a_domain_is_an_error(run: Run, arguments: list[str]) -> None:
    said = run("hook", *arguments)
    assert (said.status, said.out) == (255, "")
    assert "(usage)" in said.err


@pytest.mark.parametrize("place", [None, "", "/no/such/file", "/dev/null", "/"])
def test_vdsm_without_a_file_starts_the_vm(run: Run, monkeypatch: pytest.MonkeyPatch, place: str | None) -> None:
    monkeypatch.delenv("_hook_domxml", raising=False)
    if place is not None:
        monkeypatch.setenv("_hook_domxml", place)
    said = run("hook", "vdsm")
    assert (said.status, said.out) == (0, "")
    assert "left as oVirt has it" in said.err
    assert "(hook-input)" in said.err
    assert run("hook", "vdsm", "--strict").status == 2


def test_a_file_of_vdsm_that_cannot_be_written_keeps_what_it_had(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from pmuconf.hooks import vdsm

    real = vdsm._fill
    calls: list[bytes] = []

    def full(descriptor: int, data: bytes) -> None:
        calls.append(data)
        if len(calls) == 1:
            real(descriptor, data[:100] + b"x" * 500)  # as a disk that ran full in between
            raise OSError(28, "No space left on device")
        real(descriptor, data)

    monkeypatch.setattr(vdsm, "_fill", full)
    said, xml = ask("vdsm", VDSM[0])
    assert (said.status, xml) == (0, VDSM[0].xml.encode())
    assert "No space left on device" in said.err
    assert len(calls) == 2


def test_no_domain_stands_in_a_log(ask: Ask) -> None:
    """It may hold a VNC password."""
    for config in (POLICY, "[policy]\ndefault = maybe\n"):
        said, _ = ask("vdsm", VDSM[-1], config=config)
        assert "s3cret" not in said.err


def test_the_forms_of_vmis_are_json_as_go_writes_it() -> None:
    for form in KUBEVIRT:
        assert json.loads(form.beside)["metadata"]["creationTimestamp"] is None
