"""The measured saving holds for the host that it was measured on, as that host was."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pmuconf.errors import PmuconfError
from pmuconf.host import measured
from pmuconf.host.measured import STATE, HostKey, Saving, host_key, measured_cycles, measured_saving, store
from pmuconf.host.root import Root
from pmuconf.host.survey import survey
from tests.unit.host.sysroot import note, write

SAVING = Saving(56.6, 53.1, 60.2, 0.999, "pmu-on-against-off", "cpuid")
CPUINFO = """\
processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 23
model\t\t: 49
model name\t: AMD EPYC 7302 16-Core Processor
microcode\t: 0x8301055

"""
MITIGATIONS = "/sys/devices/system/cpu/vulnerabilities"


@pytest.fixture
def host(tmp_path: Path) -> Root:
    """A host on which the saving was measured."""
    write(tmp_path, "/proc/cpuinfo", CPUINFO.encode())
    write(tmp_path, "/sys/kernel/notes", note("aa" * 20))
    write(tmp_path, "/sys/module/kvm/notes/.note.gnu.build-id", note("bb" * 20))
    write(tmp_path, f"{MITIGATIONS}/spectre_v2", b"Mitigation: Retpolines\n")
    root = Root(tmp_path)
    store(SAVING, host_key(root), root.at(STATE))
    return root


def test_it_is_there_for_the_host_as_it_was(host: Root) -> None:
    assert measured_saving(host) == SAVING
    assert measured_cycles(host) == 57
    assert host_key(host) == HostKey(
        *("aa" * 20, "bb" * 20, "AMD EPYC 7302 16-Core Processor", "0x8301055"),
        (("spectre_v2", "Mitigation: Retpolines"),),
    )


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("/sys/kernel/notes", note("cc" * 20)),
        ("/sys/kernel/notes", b""),
        ("/sys/module/kvm/notes/.note.gnu.build-id", note("cc" * 20)),
        ("/proc/cpuinfo", CPUINFO.replace("7302", "7402").encode()),
        ("/proc/cpuinfo", CPUINFO.replace("0x8301055", "0x8301056").encode()),
        ("/proc/cpuinfo", CPUINFO.replace("microcode", "other").encode()),
        (f"{MITIGATIONS}/spectre_v2", b"Vulnerable\n"),
        (f"{MITIGATIONS}/retbleed", b"Mitigation: untrained return thunk\n"),
    ],
)
def test_any_change_makes_it_stale(host: Root, name: str, data: bytes) -> None:
    write(host.path, name, data)
    assert measured_saving(host) is None
    assert measured_cycles(host) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", "{", '{"format": 1}', "\xff", "[" * 100_000])
def test_a_broken_file_is_none(host: Root, text: str) -> None:
    host.at(STATE).write_text(text)
    assert measured_cycles(host) is None


@pytest.mark.parametrize(
    ("key", "value"), [("format", "another"), ("version", 2), ("host", {}), ("saving", {}), ("saving", 5)]
)
def test_nor_is_one_of_another_kind(host: Root, key: str, value: object) -> None:
    document = json.loads(host.at(STATE).read_text())
    document[key] = value
    host.at(STATE).write_text(json.dumps(document))
    assert measured_cycles(host) is None


def test_none_where_nothing_was_measured(tmp_path: Path) -> None:
    assert measured_cycles(Root(tmp_path)) is None


@pytest.mark.parametrize("wild", ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400])
def test_a_figure_that_is_none(host: Root, wild: str) -> None:
    text = host.at(STATE).read_text()
    host.at(STATE).write_text(text.replace("56.6", wild))
    assert host.at(STATE).read_text() != text
    assert measured_cycles(host) is None


@pytest.mark.parametrize(("key", "name"), [("kernel", "/sys/kernel/notes"), ("microcode", "/proc/cpuinfo")])
def test_what_neither_then_nor_now_is_known_is_not_the_same(host: Root, key: str, name: str) -> None:
    write(host.path, name, CPUINFO.replace("microcode", "other").encode() if key == "microcode" else b"")
    document = json.loads(host.at(STATE).read_text())
    document["host"][key] = None
    host.at(STATE).write_text(json.dumps(document))
    assert measured_cycles(host) is None


def test_never_less_than_nothing(host: Root) -> None:
    store(Saving(-0.7, -2, 1, 0.999, "pmu-on-against-off", "cpuid"), host_key(host), host.at(STATE))
    assert measured_cycles(host) == 0


def test_two_hosts_that_show_nothing_are_not_the_same(tmp_path: Path) -> None:
    root = Root(tmp_path)
    with pytest.raises(PmuconfError) as caught:
        store(SAVING, host_key(root), root.at(STATE))
    assert caught.value.cause == "host-unknown"
    assert not root.at(STATE).exists()


def test_on_a_live_host_what_others_could_have_written_is_not_believed(
    host: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Root, "live", property(lambda self: True))
    assert measured_cycles(host) == 57
    host.at(STATE).chmod(0o666)
    assert measured_cycles(host) is None
    host.at(STATE).chmod(0o644)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    if os.stat(host.at(STATE)).st_uid != 0:
        assert measured_cycles(host) is None


def test_the_host_facts_take_it_for_the_expected_one(host: Root) -> None:
    facts = survey(host)
    assert (facts.cycles, facts.measured) == (57, True)
    host.at(STATE).unlink()
    facts = survey(host)
    assert (facts.cycles, facts.measured) == (None, False)  # without Safe RET, nothing is expected


def test_the_state_has_one_place() -> None:
    assert measured.STATE == "/var/lib/pmuconf/bench.json"
