"""Definitions of which QEMU makes something else than their <pmu> says: what is read, reported and planned of them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from pmuconf.audit.remedy import remedies
from pmuconf.audit.report import Report, join
from pmuconf.audit.vm import Severity, Vm, judge
from pmuconf.change.plan import Plan, Seen, not_to_be_changed, plan, planned, result_of
from pmuconf.change.result import Outcome, Result
from pmuconf.domain import reading
from pmuconf.domain.definition import PmuState
from pmuconf.domain.reading import read, read_libvirt
from pmuconf.hostfacts import Evidence, GuardFinding, HostFacts, KernelPmu, LiveVm, Qemu, Verdict
from pmuconf.policy import Decision, Policy
from pmuconf.report.document import record
from pmuconf.report.groups import policy_group
from tests.support.domains import nova_domain, plain_domain

ON, OFF, DEFAULT = PmuState.ON, PmuState.OFF, PmuState.DEFAULT
WANT_OFF, WANT_ON = Policy(default=Decision.OFF), Policy(default=Decision.ON)
QEMU = "xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'"


def definition(
    *arguments: str, pmu: str = "", cpu: str = "<cpu mode='host-passthrough'/>", machine: str = "q35", rest: str = ""
) -> str:
    """As libvirt writes it."""
    given = "".join(f"    <qemu:arg value='{argument}'/>\n" for argument in arguments)
    options = f"  <qemu:commandline>\n{given}  </qemu:commandline>\n" if arguments else ""
    features = f"  <features>\n    <pmu state='{pmu}'/>\n  </features>\n" if pmu else ""
    return (
        f"<domain type='kvm'{' ' + QEMU if arguments or rest else ''}>\n  <name>web</name>\n  <uuid>uuid</uuid>\n"
        f"  <os>\n    <type arch='x86_64' machine='{machine}'>hvm</type>\n  </os>\n{features}  {cpu}\n"
        f"  <devices>\n    <emulator>/usr/bin/qemu-system-x86_64</emulator>\n  </devices>\n{options}{rest}</domain>\n"
    )


KVM_OFF = definition("-cpu", "host,kvm=off,hv_vendor_id=null", pmu="off")
PMU_OFF = definition("-cpu", "host,arch-capabilities=off,-kvm-steal-time,pmu=off")
GLOBAL = definition("-global", "host-x86_64-cpu.pmu=off")
CONFIG = definition("-readconfig", "/etc/vm.conf", pmu="off")
WESTMERE = "<cpu mode='custom' match='exact'>\n    <model fallback='allow'>Westmere</model>\n  </cpu>"
OLD = definition(cpu=WESTMERE, machine="pc-i440fx-1.5")


# ---- what is read --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", [read, read_libvirt])
@pytest.mark.parametrize(
    ("xml", "effective", "obeyed"),
    [
        (KVM_OFF, ON, False),
        (PMU_OFF, OFF, False),
        (GLOBAL, OFF, True),  # a <pmu> beats it, the default does not
        (definition("-global", "host-x86_64-cpu.pmu=off", pmu="on"), ON, True),
        (CONFIG, None, None),
        (definition("-cpu", "hv-cppc-stub=on", pmu="off"), None, None),
        (OLD, ON, True),
        (definition(cpu="<cpu mode='maximum'/>"), ON, True),
        (definition(cpu="<cpu mode='maximum'/>").replace("'kvm'", "'qemu'"), None, True),
        (definition(cpu=WESTMERE, machine="pc-i440fx-1.5", pmu="off"), OFF, True),
        (definition(cpu=WESTMERE, machine="pc-i440fx-1.6"), OFF, True),
        (definition(cpu=WESTMERE, machine="rhel6.3.0"), None, True),
        (definition("-machine", "pc-i440fx-1.5", cpu=WESTMERE, machine="pc"), None, True),
        (definition("-device", "virtio-balloon-pci"), ON, True),
        (definition("-cpu", "EPYC", pmu="on"), OFF, False),
        (definition("-cpu", "EPYC", "-cpu", "max", pmu="off"), ON, False),
    ],
)
def test_what_qemu_is_given_decides_what_the_guest_gets(
    reader: object, xml: str, effective: PmuState | None, obeyed: bool | None
) -> None:
    facts = reader(xml)  # type: ignore[operator]
    assert (facts.effective_pmu, facts.obeyed) == (effective, obeyed)


@pytest.mark.parametrize(
    ("path", "effective"),
    [
        ("/usr/bin/qemu-system-x86_64", OFF),
        ("/usr/libexec/qemu-kvm", OFF),
        ("/usr/bin/kvm", OFF),
        ("/usr/local/bin/qemu-wrapper", None),
        ("/usr/local/bin/qemu-system-x86_64.sh", None),
        ("/opt/vm &amp; more/run", None),
    ],
)
@pytest.mark.parametrize("reader", [read, read_libvirt])
def test_what_a_script_makes_of_the_options_is_not_known(reader: object, path: str, effective: PmuState | None) -> None:
    xml = definition(pmu="off").replace("/usr/bin/qemu-system-x86_64", path)
    assert reader(xml).effective_pmu is effective  # type: ignore[operator]


def test_properties_of_unpluggable_vcpus_are_options_too() -> None:
    override = (
        "  <qemu:override>\n    <qemu:device alias='vcpu1'>\n      <qemu:frontend>\n"
        "        <qemu:property name='pmu' type='bool' value='false'/>\n      </qemu:frontend>\n    </qemu:device>\n"
        "  </qemu:override>\n"
    )
    assert read_libvirt(definition(rest=override)).effective_pmu is None
    assert read_libvirt(definition(rest=override.replace("'pmu'", "'x-y'"))).effective_pmu is ON


def test_the_namespace_counts_not_the_prefix() -> None:
    assert read(KVM_OFF.replace("qemu:", "q:").replace("xmlns:qemu", "xmlns:q")).effective_pmu is ON
    assert read(KVM_OFF.replace("schemas/domain/qemu/1.0", "schemas/domain/lxc/1.0")).effective_pmu is OFF


@pytest.mark.parametrize(
    "xml", [KVM_OFF, PMU_OFF, GLOBAL, CONFIG, OLD, plain_domain("web"), nova_domain("web"), definition()]
)
def test_the_quick_reader_reads_the_same(xml: str) -> None:
    assert read_libvirt(xml) == read(xml)


@pytest.mark.parametrize("xml", [definition(), nova_domain("web", cpu_mode="host-passthrough")])
def test_the_quick_reader_stays_quick_where_there_are_no_options(xml: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "read", None)
    if "<emulator>" in xml:
        assert read_libvirt(xml).effective_pmu is ON


def test_what_options_say_is_not_in_what_is_shown_of_a_definition() -> None:
    """They may hold a password."""
    assert "hv_vendor_id" not in repr(read(KVM_OFF))


# ---- what is reported ----------------------------------------------------------------------------------------------


def vm(live: str | None, next_boot: str | None, policy: Policy = WANT_OFF) -> Vm:
    running = None if live is None else read(live.replace("<domain ", "<domain id='7' ", 1))
    return judge(policy, live=running, next_boot=None if next_boot is None else read(next_boot))


def test_a_written_state_without_effect_is_a_finding() -> None:
    one = vm(KVM_OFF, KVM_OFF)
    assert (one.effective_pmu, one.next_effective, one.obeyed) == (ON, ON, False)
    assert (one.drift, one.pending, one.overridden, one.severity) == (False, False, True, Severity.FINDING)


def test_options_that_say_what_the_policy_wants_are_none() -> None:
    written = definition("-cpu", "host,pmu=off", pmu="off")
    one = vm(written, written)
    assert (one.effective_pmu, one.overridden, one.severity) == (OFF, False, Severity.OK)


@pytest.mark.parametrize("live", [PMU_OFF, GLOBAL])
def test_a_guest_that_has_by_options_what_the_next_boot_says_does_not_wait(live: str) -> None:
    one = vm(live, live.replace("  <cpu", "  <features>\n    <pmu state='off'/>\n  </features>\n  <cpu"))
    assert (one.drift, one.pending, one.severity) == (False, False, Severity.OK)


def test_a_guest_waits_where_its_options_were_taken_out_of_the_next_boot() -> None:
    assert vm(definition("-cpu", "host", pmu="on"), definition(pmu="off")).pending


def test_a_guest_waits_where_the_options_of_its_next_boot_say_what_is_wanted() -> None:
    assert vm(definition(pmu="on"), definition("-cpu", "host,pmu=off", pmu="off")).pending


def test_a_guest_is_not_said_to_wait_where_it_is_not_known_what_it_gets() -> None:
    assert not vm(definition(pmu="on"), CONFIG).pending


def test_a_saved_image_waits_all_the_same() -> None:
    one = judge(WANT_OFF, next_boot=read(KVM_OFF), saved=read(definition(pmu="on")))
    assert one.pending


GUARD = GuardFinding(Verdict.GUARDED, "guard-in-caller", "it asks", Evidence.OBSERVED)


def joined(one: Vm, *, has_pmu: bool | None, kernel: KernelPmu = KernelPmu.ENABLED) -> Vm:
    qemu = Qemu("/usr/bin/qemu", None, True, "for-the-test")
    process = LiveVm(7, 1, uuid="uuid", kernel_pmu=kernel, pmu_property=has_pmu, qemu=qemu, next_qemu=qemu)
    (found,) = join([one], HostFacts(GUARD, enable_pmu=True, vms=(process,)))
    return found


def test_the_process_decides_what_a_running_guest_gets() -> None:
    wrapped = definition(pmu="off").replace("qemu-system-x86_64", "qemu-wrapper")
    assert vm(wrapped, wrapped).effective_pmu is None
    assert joined(vm(wrapped, wrapped), has_pmu=True).effective_pmu is ON
    assert joined(vm(wrapped, wrapped), has_pmu=None).effective_pmu is None


def test_a_script_with_the_name_of_a_qemu_is_seen_by_its_process() -> None:
    plain = definition(pmu="off")
    one = joined(vm(plain, plain), has_pmu=True)
    assert one.answer is not None
    assert one.answer.causes == ("cpu-overridden",)
    assert (one.effective_pmu, one.next_effective, one.obeyed, one.severity) == (ON, None, False, Severity.FINDING)


@pytest.mark.parametrize(
    ("live", "next_boot", "has_pmu", "causes"),
    [
        (KVM_OFF, KVM_OFF, True, ("cpu-overridden",)),
        (definition("-cpu", "host"), definition("-cpu", "host"), True, ("cpu-overridden", "drift")),
        (CONFIG, CONFIG, True, ("next-boot-unknown",)),
        (KVM_OFF, definition(pmu="off"), True, ("pending-power-cycle",)),
        (OLD, OLD, True, ("drift",)),
    ],
)
def test_the_cause_of_a_slow_guest(live: str, next_boot: str, has_pmu: bool, causes: tuple[str, ...]) -> None:
    one = joined(vm(live, next_boot), has_pmu=has_pmu)
    assert one.answer is not None
    assert one.answer.causes == causes


@pytest.mark.parametrize("xml", [PMU_OFF, GLOBAL])
def test_options_that_take_the_pmu_away_make_a_guest_fast_and_are_not_called_a_default(xml: str) -> None:
    one = joined(vm(xml, xml), has_pmu=False, kernel=KernelPmu.DISABLED)
    assert one.answer is not None
    assert one.answer.cause == "guarded-disabled"


def test_a_wanted_pmu_that_options_take_away_is_a_finding() -> None:
    xml = definition("-cpu", "host,pmu=off", pmu="on")
    one = joined(vm(xml, xml, WANT_ON), has_pmu=False)
    assert one.answer is not None
    assert (one.answer.cause, one.severity) == ("cpu-overridden", Severity.FINDING)
    assert any("pmu=on" in remedy.text for remedy in remedies(one, None, None))


def recorded(one: Vm) -> dict[str, object]:
    return record(Report("test", (one,)), one)


def test_the_document_tells_what_the_next_boot_gets_and_whether_it_heeds_the_state() -> None:
    def said(xml: str) -> tuple[object, ...]:
        told = recorded(vm(None, xml))
        return told["effective_pmu"], told["next_effective_pmu"], told["pmu_obeyed"]

    assert said(KVM_OFF) == ("on", "on", False)
    assert said(CONFIG) == (None, None, None)
    assert said(definition(pmu="off")) == ("off", "off", True)
    assert said(definition()) == ("on", "on", True)


@pytest.mark.parametrize(("xml", "group"), [(KVM_OFF, "kernel"), (definition(pmu="off"), "fast")])
def test_where_the_host_was_not_asked_it_is_not_counted_as_wanted(xml: str, group: str) -> None:
    assert policy_group(recorded(vm(None, xml))) == group


# ---- what is planned -----------------------------------------------------------------------------------------------


def plans(one: Vm, policy: Policy = WANT_OFF) -> list[Plan]:
    return plan(policy, [Seen(SimpleNamespace(name=one.name, uuid=one.uuid), one)])  # type: ignore[arg-type]


def made(one: Vm, policy: Policy = WANT_OFF) -> Result:
    (only,) = plans(one, policy)
    return replace(result_of(only, Outcome.CHANGED, change=1), pending=only.pending)


@pytest.mark.parametrize("xml", [PMU_OFF, GLOBAL, definition("-cpu", "host")])
def test_a_rewrite_that_does_nothing_for_the_guest_says_so_and_asks_for_no_power_cycle(xml: str) -> None:
    (only,) = plans(vm(xml, xml))
    for result in (planned(only), made(vm(xml, xml))):
        assert (result.cause, result.pending) == ("cpu-overridden", False)
        assert "<qemu:commandline>" in result.note
        assert "virsh edit" in result.record()["remedy"]
    assert made(vm(xml, xml)).status == 1


@pytest.mark.parametrize(
    "xml", [definition("-readconfig", "/etc/vm.conf"), definition().replace("qemu-system-x86_64", "qemu-wrapper")]
)
def test_a_rewrite_of_which_that_is_not_known_says_so(xml: str) -> None:
    assert (made(vm(xml, xml)).cause, made(vm(xml, xml)).pending) == ("next-boot-unknown", False)


@pytest.mark.parametrize("xml", [definition(), definition("-global", "x86_64-cpu.pmu=on"), OLD])
def test_a_rewrite_that_takes_the_pmu_away_says_nothing_of_that(xml: str) -> None:
    result = made(vm(xml, xml))
    assert (result.cause, result.note, result.pending) == ("", "", True)


def test_what_is_written_already_and_does_nothing_is_named_and_left_alone() -> None:
    one = vm(KVM_OFF, KVM_OFF)
    assert plans(one) == []
    (result,) = not_to_be_changed(WANT_OFF, [one])
    assert (result.outcome, result.cause, result.status) == (Outcome.OVERRIDDEN, "cpu-overridden", 1)
    assert (result.old, result.new) == (OFF, OFF)


def test_a_result_that_is_none_of_the_change_keeps_its_own_cause() -> None:
    (only,) = plans(vm(PMU_OFF, PMU_OFF))
    assert result_of(only, Outcome.FAILED, "verify-failed", "sentence").cause == "verify-failed"
    assert result_of(only, Outcome.NOT_REACHED, "canary", "sentence").cause == "canary"
