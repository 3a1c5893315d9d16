"""The units of systemd: enabled, running, and in their sandbox."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from pmuconf.selftest.live import Live
from pmuconf.selftest.result import CheckResult, failed, ok, unchecked

__all__ = ["FACTS", "SERVICE", "TIMER", "checks_of_units"]

SERVICE: Final = "pmuconf.service"
FACTS: Final = "pmuconf-host-facts.service"
TIMER: Final = "pmuconf-host-facts.timer"

_COMMON: Final = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "RestrictNamespaces": "yes",
    "RestrictSUIDSGID": "yes",
    "LockPersonality": "yes",
    "MemoryDenyWriteExecute": "yes",
}
_SANDBOX: Final = {
    SERVICE: {**_COMMON, "User": "pmuconf", "CapabilityBoundingSet": "", "PrivateDevices": "yes"},
    FACTS: {**_COMMON, "PrivateNetwork": "yes", "DevicePolicy": "closed"},
}
_PROCESS: Final = {"NoNewPrivs": "1", "Seccomp": "2", "CapEff": "0" * 16}


def checks_of_units(live: Live) -> Iterator[CheckResult]:
    """Whether the units are enabled and run, and what systemd and the kernel say of their sandbox."""
    units = {unit: live.properties(unit) for unit in (SERVICE, TIMER, FACTS)}
    for unit, properties in units.items():
        name = unit.replace(".", "-")
        if properties is None:
            yield unchecked(name, "systemctl does not answer: no systemd runs here")
        elif properties.get("LoadState") != "loaded":
            yield failed(name, f"{unit} is not installed ({properties.get('LoadState')})")
        elif unit == FACTS:
            yield _facts(name, properties)
        else:
            yield _unit(name, unit, properties)
        if properties is not None and properties.get("LoadState") == "loaded" and unit in _SANDBOX:
            yield _sandbox(f"{name}-sandbox", unit, properties)
    yield _process("process", live, units[SERVICE])


def _unit(name: str, unit: str, properties: Mapping[str, str]) -> CheckResult:
    """Whether a unit that goes on is enabled and active."""
    enabled, active = properties.get("UnitFileState", ""), properties.get("ActiveState", "")
    if active != "active":
        return failed(
            name, f"it is {active or 'not known'} and {enabled or 'not known'}: systemctl enable --now {unit}"
        )
    if not enabled.startswith("enabled"):
        return failed(name, f"it runs, but will not be started at the next boot: systemctl enable {unit}")
    restarts = properties.get("NRestarts", "0")
    return ok(name, "enabled, active" + (f", restarted {restarts} times by systemd" if restarts != "0" else ""))


def _facts(name: str, properties: Mapping[str, str]) -> CheckResult:
    """How the last run of the unit ended."""
    if properties.get("ExecMainStartTimestamp", "") in ("", "n/a"):
        if properties.get("ConditionResult") == "no" and properties.get("ConditionTimestamp", ""):
            return unchecked(name, "it was not run: this host has no /dev/kvm")
        return unchecked(name, f"it has not run since the boot: systemctl start {FACTS}")
    result = properties.get("Result", "")
    if result != "success":
        return failed(name, f"its last run failed ({result}): journalctl -u {FACTS}")
    return ok(name, "its last run succeeded")


def _sandbox(name: str, unit: str, properties: Mapping[str, str]) -> CheckResult:
    """Whether the unit's settings are those that are shipped, or stricter where that can be told."""
    wanted = _SANDBOX[unit]
    weaker = [f"{key}={properties.get(key, '')}" for key, value in wanted.items() if properties.get(key, "") != value]
    if not properties.get("SystemCallFilter"):
        weaker.append("SystemCallFilter=")
    if weaker:
        return failed(name, f"not as shipped: {' '.join(weaker)} (systemctl cat {unit} shows the drop-ins)")
    return ok(name, f"{len(wanted) + 1} settings are as shipped")


def _process(name: str, live: Live, properties: Mapping[str, str] | None) -> CheckResult:
    """What the kernel says of the service's process."""
    pid = (properties or {}).get("MainPID", "0")
    text = live.text(f"/proc/{pid}/status") if pid != "0" else None
    if text is None:
        return unchecked(name, "the service does not run")
    lines = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    wrong = [f"{key} {lines.get(key)}" for key, value in _PROCESS.items() if lines.get(key) != value]
    if wrong:
        return failed(name, f"process {pid} is not confined: {', '.join(wrong)}")
    return ok(name, f"process {pid} has no capability, can gain none, and its system calls are filtered")
