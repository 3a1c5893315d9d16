"""A whole valid configuration, and the one way to read it: the policy file that all front ends share.

A wrong configuration is refused whole: an unknown group or option, a bad value, a rule that is listed but missing, that
asks nothing, or that can never decide. Each refusal names file, group and option, and the values that are allowed.
"""

from __future__ import annotations

import enum
import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oslo_config import cfg

from pmuconf.conf.files import ConfigFiles, files_in
from pmuconf.conf.options import GROUPS, RULE_OPTS, RULE_PREFIX, STATES
from pmuconf.domain.definition import X86
from pmuconf.errors import PmuconfError
from pmuconf.policy import CRITERIA, RESERVED, VIRT_TYPES, Decision, NovaDomains, Policy, Rule, shadowed

__all__ = ["DEFAULT_DIR", "DEFAULT_FILE", "Mode", "Processes", "ServiceSettings", "Settings", "load"]

DEFAULT_FILE: Final = Path("/etc/pmuconf/pmuconf.conf")
DEFAULT_DIR: Final = Path("/etc/pmuconf/pmuconf.conf.d")

_RULE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Mode(enum.Enum):
    """What the service does about domains that are off policy."""

    OBSERVE = "observe"
    ENFORCE = "enforce"


class Processes(enum.Enum):
    """Which VMs the service reports by their processes: none, those that libvirt does not know, or all there are."""

    NO = "no"
    BESIDE = "beside"
    ONLY = "only"


@dataclass(frozen=True)
class ServiceSettings:
    """Group [service]; times in seconds, 0 changes a minute for no limit.

    :param rule_modes: the modes of the rules that have one of their own, by the rule's name.
    :param listen: address and port; None: no HTTP.
    :param host_names: names that readers use for this host, in lower case.
    """

    mode: Mode
    rule_modes: Mapping[str, Mode]
    interval: int
    debounce: float
    changes_per_minute: int
    max_failures: int
    listen: tuple[str, int] | None
    host_names: tuple[str, ...]
    textfile: Path | None
    html: Path | None
    host_facts: Path | None
    log_format: str
    processes: Processes = Processes.NO

    def mode_of(self, rule: str) -> Mode:
        """The mode for domains about which this rule, or another step of the policy, decides."""
        return self.rule_modes.get(rule, self.mode)

    @property
    def enforces(self) -> bool:
        """Whether anything may be changed at all."""
        return Mode.ENFORCE in (self.mode, *self.rule_modes.values())


@dataclass(frozen=True)
class Settings:
    """A whole valid configuration.

    :param prove: whether the writer of host facts makes the experiment on the kernel.
    :param files: the files that were read, in their order.
    :param unused_rules: groups of rules that [policy] rules does not list.
    """

    policy: Policy
    uri: str
    parallel: int
    max_xml_bytes: int
    max_changes: int
    max_failures: int
    attempts: int
    journal: Path
    retention_days: int
    prove: bool
    service: ServiceSettings
    files: tuple[str, ...]
    unused_rules: tuple[str, ...]


def load(files: Sequence[str] = (), dirs: Sequence[str] = ()) -> Settings:
    """The configuration of these files and folders; without any, of the default ones where they exist.

    :raises PmuconfError: cause config-missing, config-unreadable or config-invalid.
    """
    if not files and not dirs:
        files = [str(DEFAULT_FILE)] if DEFAULT_FILE.exists() else []
        dirs = [str(DEFAULT_DIR)] if DEFAULT_DIR.is_dir() else []
    written = ConfigFiles([*files, *(path for folder in dirs for path in files_in(folder))])
    written.check()
    conf = cfg.ConfigOpts()
    for group, opts in _registered(written):
        conf.register_opts(opts, group=group)
    try:
        # Without the environment: one policy file gives the same answer to everybody who asks.
        conf(args=[], default_config_files=list(written.paths), default_config_dirs=[], use_env=False)
        return _settings(conf, written)
    except cfg.Error as error:
        raise PmuconfError(str(error), cause="config-invalid") from None


def _registered(written: ConfigFiles) -> list[tuple[str, list[cfg.Opt]]]:
    """Every group with its options, those of the rules included."""
    return [*GROUPS.items(), *((RULE_PREFIX + name, RULE_OPTS) for name in written.rule_names())]


def _settings(conf: cfg.ConfigOpts, written: ConfigFiles) -> Settings:
    _refuse_useless_texts(conf, written)
    names = _rule_names(conf, written)
    return Settings(
        policy=Policy(
            default=Decision(conf.policy.default),
            rules=_rules(conf, names, written),
            nova_domains=NovaDomains(conf.policy.nova_domains),
        ),
        uri=conf.libvirt.uri,
        parallel=conf.libvirt.parallel,
        max_xml_bytes=conf.libvirt.max_xml_bytes,
        max_changes=conf.change.max_changes,
        max_failures=conf.change.max_failures,
        attempts=conf.change.attempts,
        journal=Path(conf.journal.path),
        retention_days=conf.journal.retention_days,
        prove=conf.host.prove,
        service=_service(conf, names, written),
        files=written.paths,
        unused_rules=tuple(sorted(set(written.rule_names()) - set(names))),
    )


_PATHS: Final = (("journal", "path"), ("service", "textfile"), ("service", "html"), ("service", "host_facts"))


def _refuse_useless_texts(conf: cfg.ConfigOpts, written: ConfigFiles) -> None:
    """Refuse a $reference that leads nowhere, an empty text where something has to stand, and a relative path."""
    for group, opts in _registered(written):
        for opt in opts:
            try:
                conf[group][opt.dest]
            except (cfg.Error, ValueError) as error:
                written.refuse(group, opt.dest, str(error))
    for group, option in (("libvirt", "uri"), ("journal", "path")):
        if not conf[group][option]:
            written.refuse(group, option, "is empty; leave it out for the default")
    for group, option in _PATHS:
        path = conf[group][option]
        if path and not os.path.isabs(path):
            written.refuse(group, option, f"{path!r} is relative, and would be another file in each folder")


def _service(conf: cfg.ConfigOpts, names: Sequence[str], written: ConfigFiles) -> ServiceSettings:
    group = conf.service
    modes = {name: conf[RULE_PREFIX + name].mode for name in names}
    try:
        listen = _address(group.listen, beyond_loopback=group.listen_beyond_loopback)
    except ValueError as error:
        written.refuse("service", "listen", str(error))
    return ServiceSettings(
        mode=Mode(group.mode),
        rule_modes={name: Mode(mode) for name, mode in modes.items() if mode},
        interval=group.interval,
        debounce=group.debounce,
        changes_per_minute=group.changes_per_minute,
        max_failures=group.max_failures,
        listen=listen,
        host_names=tuple(name.lower().rstrip(".") for name in group.host_names),
        textfile=Path(group.textfile) if group.textfile else None,
        html=Path(group.html) if group.html else None,
        host_facts=Path(group.host_facts) if group.host_facts else None,
        log_format=group.log_format,
        processes=Processes(group.processes),
    )


def _address(text: str, *, beyond_loopback: bool) -> tuple[str, int] | None:
    """An address to listen at. Host names are not allowed: somebody else decides where they lead to.

    :raises ValueError: it is no such address, or other machines reach it.
    """
    if not text:
        return None
    host, _, port = text.rpartition(":")
    try:
        address = ipaddress.ip_address(host[1:-1] if host[:1] + host[-1:] == "[]" else host)
        if (":" in host) != (host[:1] == "[") or not 0 <= int(port) <= 65535:
            raise ValueError
    except ValueError:
        raise ValueError(f"{text!r} is not allowed; allowed: ADDRESS:PORT or [ADDRESS]:PORT, or nothing") from None
    if not address.is_loopback and not beyond_loopback:
        raise ValueError(f"{text!r} is open to other machines, which requires listen_beyond_loopback = true")
    return str(address), int(port)


def _rule_names(conf: cfg.ConfigOpts, written: ConfigFiles) -> list[str]:
    """The rules that [policy] rules lists, in their order; each has a group."""
    names, groups = list(conf.policy.rules), written.rule_names()
    for at, name in enumerate(names):
        if name in names[:at]:
            written.refuse("policy", "rules", f"lists {name} twice")
        if name in RESERVED or not _RULE_NAME.fullmatch(name):
            written.refuse("policy", "rules", f"{name!r} is no name for a rule: letters, digits, _ . and - are allowed")
        if name not in groups:
            known = ", ".join(f"[{RULE_PREFIX}{other}]" for other in groups) or "none"
            written.refuse(
                "policy", "rules", f"lists {name}, but there is no group [{RULE_PREFIX}{name}]; there is: {known}"
            )
    return names


def _rules(conf: cfg.ConfigOpts, names: Sequence[str], written: ConfigFiles) -> tuple[Rule, ...]:
    rules = tuple(_rule(conf, name, written) for name in names)
    pair = shadowed(rules)
    if pair is not None:
        later, earlier = pair
        written.refuse(
            RULE_PREFIX + later.name,
            None,
            f"can never decide: rule {earlier.name} stands before it and matches whatever it matches. Put it before "
            f"{earlier.name} in [policy] rules, or take it out",
        )
    return rules


def _rule(conf: cfg.ConfigOpts, name: str, written: ConfigFiles) -> Rule:
    options = conf[RULE_PREFIX + name]
    criteria: dict[str, tuple[str, ...]] = {key: tuple(options[key]) for key in CRITERIA}
    rule = Rule(name=name, decision=Decision(options.pmu or "keep"), reason=options.reason, **criteria)
    if options.pmu is None:
        written.refuse(RULE_PREFIX + name, "pmu", f"is missing; allowed: {', '.join(STATES)}")
    for option, problem in _problems(rule, criteria):
        written.refuse(RULE_PREFIX + name, option, problem)
    return rule


def _problems(rule: Rule, criteria: Mapping[str, Sequence[str]]) -> list[tuple[str | None, str]]:
    """What is wrong with the criteria of a rule: an option, or None for the whole rule, and a sentence."""
    problems: list[tuple[str | None, str]] = []
    if not rule.criteria:
        names = ", ".join(CRITERIA)
        problems.append((None, f"asks nothing, so it would match everything: name one of {names}"))
    for key, explicit in (("extra_spec", "hw:pmu"), ("image_property", "hw_pmu")):
        keys = [value.partition("=")[0] for value in criteria[key]]
        if explicit in (name.strip() for name in keys):
            problems.append((key, f"reads {explicit}, but an explicit {explicit} decides before any rule"))
    problems += [
        (key, "has a value without a key; allowed: KEY or KEY=GLOB")
        for key in ("extra_spec", "image_property", "attribute")
        if "" in (value.partition("=")[0] for value in criteria[key])
    ]
    for key, allowed in (("arch", X86), ("virt_type", VIRT_TYPES)):
        names = ", ".join(sorted(allowed))
        problems += [
            (key, f"{value!r} never matches; allowed: {names}") for value in criteria[key] if value not in allowed
        ]
    return problems
