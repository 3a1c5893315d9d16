"""The checks of an installation: each can pass, fail, and say why it could not be made."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from pmuconf import conf
from pmuconf.conf import Mode, Settings
from pmuconf.selftest import answers, files, host, units
from pmuconf.selftest.live import Live
from pmuconf.selftest.result import CheckResult, CheckState, SelfTest, failed, ok, unchecked
from pmuconf.service.health import Health
from pmuconf.service.outputs import Outputs
from tests.support.sample import sample
from tests.unit.processes import ENVIRONMENT

SHIPPED: Mapping[str, str] = {
    **units._SANDBOX[units.SERVICE],
    **units._SANDBOX[units.FACTS],
    "SystemCallFilter": "read write",
    "LoadState": "loaded",
    "ActiveState": "active",
    "UnitFileState": "enabled",
    "NRestarts": "0",
    "MainPID": "7",
    "Result": "success",
    "ExecMainStartTimestamp": "Fri 2026-11-27 17:35:19 UTC",
}
CONFINED = "Name:\tpmuconf\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n"


@dataclass(frozen=True)
class Imagined(Live):
    """A system whose systemd says this."""

    shown: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    logs: str | None = None
    root_user: bool = True

    @property
    def privileged(self) -> bool:
        return self.root_user

    def said(self, *command: str) -> str | None:
        if command[0] == "journalctl":
            return self.logs
        properties = self.shown.get(command[-1])
        return None if properties is None else "".join(f"{key}={value}\n" for key, value in properties.items())


def system(root: Path, **changed: str) -> Imagined:
    """All units as shipped, but for these properties."""
    (root / "proc/7").mkdir(parents=True)
    (root / "proc/7/status").write_text(CONFINED)
    shown = {unit: {**SHIPPED, **changed} for unit in (units.SERVICE, units.TIMER, units.FACTS)}
    return Imagined(root, shown)


def states(results: Iterator[CheckResult]) -> dict[str, CheckState]:
    return {result.name: result.state for result in results}


@pytest.fixture
def chosen() -> Settings:
    return conf.load([])


def test_units_as_shipped_are_ok(tmp_path: Path) -> None:
    assert set(states(units.checks_of_units(system(tmp_path))).values()) == {CheckState.OK}


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"ActiveState": "failed"}, "pmuconf-service"),
        ({"UnitFileState": "disabled"}, "pmuconf-host-facts-timer"),
        ({"LoadState": "not-found"}, "pmuconf-service"),
        ({"Result": "exit-code"}, "pmuconf-host-facts-service"),
        ({"CapabilityBoundingSet": "cap_sys_admin"}, "pmuconf-service-sandbox"),
        ({"NoNewPrivileges": "no"}, "pmuconf-host-facts-service-sandbox"),
        ({"SystemCallFilter": ""}, "pmuconf-service-sandbox"),
    ],
)
def test_a_unit_that_is_not_as_it_should_be_fails(tmp_path: Path, changed: dict[str, str], name: str) -> None:
    assert states(units.checks_of_units(system(tmp_path, **changed)))[name] is CheckState.FAILED


def test_a_process_without_its_confinement_fails(tmp_path: Path) -> None:
    live = system(tmp_path)
    (tmp_path / "proc/7/status").write_text(CONFINED.replace("Seccomp:\t2", "Seccomp:\t0"))
    assert states(units.checks_of_units(live))["process"] is CheckState.FAILED


def test_facts_that_were_never_made_and_no_systemd_could_not_be_checked(tmp_path: Path) -> None:
    live = system(tmp_path, ExecMainStartTimestamp="")
    assert states(units.checks_of_units(live))["pmuconf-host-facts-service"] is CheckState.UNCHECKED
    assert set(states(units.checks_of_units(Imagined(tmp_path))).values()) == {CheckState.UNCHECKED}


@pytest.fixture
def installed(tmp_path: Path, chosen: Settings) -> Settings:
    """Files as a package leaves them, but for their owner."""
    for folder in ("var/lib/pmuconf", "run/pmuconf", "etc/pmuconf", "etc/polkit-1/rules.d"):
        (tmp_path / folder).mkdir(parents=True, mode=0o755)
    (tmp_path / "var/lib/pmuconf/journal.sqlite").touch(0o600)
    return chosen


def test_files_as_a_package_leaves_them_are_ok_and_another_owner_or_mode_fails(
    tmp_path: Path, installed: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners = {"root": "root"}

    def name(uid: int) -> str:
        return owners["root"]

    monkeypatch.setattr(files, "_name", name)
    live = Imagined(tmp_path)
    found = states(files.checks_of_files(live, installed))
    assert found["host-facts-folder"] is CheckState.OK
    assert found["journal"] is CheckState.FAILED  # root's
    owners["root"] = "pmuconf"
    found = states(files.checks_of_files(live, installed))
    assert (found["journal"], found["journal-folder"]) == (CheckState.OK, CheckState.OK)
    assert found["host-facts-folder"] is CheckState.FAILED
    (tmp_path / "var/lib/pmuconf/journal.sqlite").chmod(0o640)
    assert states(files.checks_of_files(live, installed))["journal"] is CheckState.FAILED
    (tmp_path / "var/lib/pmuconf/journal.sqlite").unlink()
    assert states(files.checks_of_files(live, installed))["journal"] is CheckState.FAILED


def test_to_enforce_a_rule_must_allow_it(tmp_path: Path, installed: Settings) -> None:
    live = Imagined(tmp_path)
    enforcing = replace(installed, service=replace(installed.service, mode=Mode.ENFORCE))
    rule = tmp_path / "etc/polkit-1/rules.d/50-pmuconf.rules"

    def state(chosen: Settings) -> CheckState:
        return states(files.checks_of_files(live, chosen))["polkit-rule"]

    assert (state(installed), state(enforcing)) == (CheckState.OK, CheckState.FAILED)
    whole = (Path(__file__).resolve().parents[3] / "etc/polkit-1/rules.d/50-pmuconf.rules").read_text()
    rule.write_text(whole)
    assert (state(installed), state(enforcing)) == (CheckState.OK, CheckState.OK)
    rule.write_text(whole.replace('"org.libvirt.unix.manage"', '// "org.libvirt.unix.manage"'))
    assert state(enforcing) is CheckState.FAILED


def test_a_service_that_answers_and_looks_is_ok(chosen: Settings) -> None:
    health = Health()
    outputs = Outputs(health)
    health.configured(enforces=False, patience=1e9)
    outputs.listen(("127.0.0.1", 0))
    try:
        at = replace(chosen, service=replace(chosen.service, listen=outputs.address))
        early = states(answers.checks_of_answers(Live(), at, 1000.0))
        assert early == {
            "health": CheckState.OK,
            "report-page": CheckState.FAILED,
            "report-fresh": CheckState.FAILED,
        }
        outputs.publish(sample(), chosen.service)
        health.began(1000.0)
        assert set(states(answers.checks_of_answers(Live(), at, 1010.0)).values()) == {CheckState.OK}
        late = states(answers.checks_of_answers(Live(), at, 1000.0 + 3 * chosen.service.interval + 61))
        assert late["report-fresh"] is CheckState.FAILED
        health.configured(enforces=False, patience=-1)
        health.passed()
        assert states(answers.checks_of_answers(Live(), at, 1010.0))["health"] is CheckState.FAILED
    finally:
        outputs.close()
    gone = states(answers.checks_of_answers(Live(), at, 1010.0))
    assert gone == {
        "health": CheckState.FAILED,
        "report-page": CheckState.UNCHECKED,
        "report-fresh": CheckState.UNCHECKED,
    }


def test_without_a_listener_nothing_of_it_can_be_checked(chosen: Settings) -> None:
    silent = replace(chosen, service=replace(chosen.service, listen=None))
    assert set(states(answers.checks_of_answers(Live(), silent, 0.0)).values()) == {CheckState.UNCHECKED}


def test_what_confines_programs_is_told(tmp_path: Path) -> None:
    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    assert "not in use" in next(iter(host.checks_of_confinement(Imagined(tmp_path)))).detail
    write("sys/fs/selinux/enforce", "1")
    write("sys/module/apparmor/parameters/enabled", "Y\n")
    write(host._SECURE_BOOT.lstrip("/"), "\6\0\0\0\1")
    write("sys/kernel/security/lockdown", "none [integrity] confidentiality\n")
    told = {result.name: result.detail for result in host.checks_of_confinement(Imagined(tmp_path))}
    assert told["selinux"].startswith("enforcing")
    assert told["apparmor"].startswith("enabled")
    assert told["secure-boot"] == "on; lockdown: integrity"


@pytest.mark.parametrize(
    ("logs", "privileged", "state"),
    [
        ("usb 1-1: new device\n", True, CheckState.OK),
        ('audit: apparmor="DENIED" operation="open" comm="pmuconf"\n', True, CheckState.FAILED),
        ('avc: denied { read } for pid=7 comm="pmuconf"\n', True, CheckState.FAILED),
        ('audit: type=1326 comm="pmuconf" sig=31 syscall=1\n', True, CheckState.FAILED),
        ('audit: type=1326 comm="chrome" sig=31 syscall=1\n', True, CheckState.OK),
        ("", True, CheckState.UNCHECKED),
        (None, True, CheckState.UNCHECKED),
        ("usb 1-1: new device\n", False, CheckState.UNCHECKED),
    ],
)
def test_denials_in_the_logs_fail(tmp_path: Path, logs: str | None, privileged: bool, state: CheckState) -> None:
    live = Imagined(tmp_path, logs=logs, root_user=privileged)
    assert states(host.checks_of_confinement(live))["denials"] is state


def test_the_exit_status_is_that_of_the_worst_check() -> None:
    a, b, c = ok("a", "well"), unchecked("b", "not root"), failed("c", "gone")
    assert [SelfTest(results).severity for results in ([a], [a, b], [a, b, c])] == [0, 1, 2]
    assert list(SelfTest([a, b, c]).lines())[-1] == "3 checks: 1 ok, 1 failed, 1 could not be made"


def test_the_command_gives_both_forms_wherever_it_runs() -> None:
    program = "import sys; from pmuconf.commands.main import main; sys.exit(main())"
    ran = subprocess.run(
        [sys.executable, "-c", program, "selftest", "-f", "json"],
        capture_output=True, text=True, timeout=120, env=ENVIRONMENT,
    )  # fmt: skip
    answer = json.loads(ran.stdout)
    assert (answer["format"], answer["version"]) == ("pmuconf-selftest", 1)
    assert sum(answer["summary"].values()) == len(answer["checks"])
    assert ran.returncode == (2 if answer["summary"]["failed"] else 1 if answer["summary"]["not checked"] else 0)
    assert ran.stderr == ""
