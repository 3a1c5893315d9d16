"""Every option of pmuconf, and the one way to read them: the policy file that all front ends share.

``load()`` refuses a wrong configuration whole: an unknown group or option, a bad value, a rule that is listed but
not there, that asks nothing, or that can never decide. Each refusal names file, group and option, and what is
allowed.
"""

from __future__ import annotations

import enum
import ipaddress
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

from oslo_config import cfg, types

from pmuconf.domain.definition import MAX_XML_BYTES, X86
from pmuconf.errors import PmuconfError
from pmuconf.files.inputs import read_regular
from pmuconf.policy import CRITERIA, RESERVED, VIRT_TYPES, Decision, NovaDomains, Policy, Rule, shadowed

__all__ = ["DEFAULT_DIR", "DEFAULT_FILE", "Mode", "ServiceSettings", "Settings", "list_opts", "load"]

DEFAULT_FILE: Final = Path("/etc/pmuconf/pmuconf.conf")
DEFAULT_DIR: Final = Path("/etc/pmuconf/pmuconf.conf.d")

_STATES = ("off", "on", "keep")
_MODES = [
    ("observe", "report what is off policy, change nothing"),
    ("enforce", "write the PMU state of the next boot"),
]
_RULE_PREFIX = "rule:"
_QUOTED_LIST = re.compile(r"""(\w+)\s*[:=]\s*(["'])(.*(?<!\\),.*)\2""")
_MAX_FILE: Final = 1 << 20
_MAX_RULES: Final = 1000
_RULE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

_POLICY_OPTS: Final[list[cfg.Opt]] = [
    cfg.StrOpt(
        "default",
        default="off",
        choices=[
            ("off", "write <pmu state='off'/>"),
            ("on", "write <pmu state='on'/>"),
            ("keep", "leave as it is"),
        ],
        help="What to do with a domain or flavor that no rule matches and that makes no explicit choice (hw:pmu of "
        "the flavor, hw_pmu of the image). Only x86 KVM and QEMU domains are ever touched.",
    ),
    cfg.ListOpt(
        "rules",
        default=[],
        help="The rules, in the order in which they are asked; the first that matches decides. Each NAME here has "
        "a group [rule:NAME]. A rule that needs a fact which a front end cannot know makes the domain undecided "
        "there; the rules behind it are not asked.",
    ),
    cfg.StrOpt(
        "nova_domains",
        default="enforce",
        choices=[
            ("enforce", "bring them on policy like any other domain"),
            ("observe", "report them, change nothing"),
        ],
        help="What to do with domains that Nova manages (told by their metadata). Nova keeps a rewrite over a soft "
        "reboot and writes the domain anew at a hard reboot, stop and start, resize or migration of a stopped "
        "server: the lasting ways there are the compute plugin and hw:pmu on the flavor.",
    ),
]


class _Value(types.String):
    """One value of a list, in which ``\\,`` is a comma that separates nothing.

    oslo.config gives a value that is refused once more, joined with what stands behind the comma.
    """

    def __call__(self, value: str) -> str:
        if value[:1] in ('"', "'"):
            raise ValueError("quotes mean nothing here: write a comma in a name as \\, and leave the quotes out")
        if value.endswith("\\") or "," in value.replace("\\,", ""):
            raise ValueError("its last backslash has nothing behind it")
        return str(super().__call__(value.replace("\\,", ",")))


def _list(name: str, help: str) -> cfg.Opt:
    return cfg.ListOpt(name, item_type=_Value(), default=[], help=help)


_RULE_OPTS: Final[list[cfg.Opt]] = [
    cfg.StrOpt("pmu", choices=_STATES, help="What this rule wants. Required."),
    cfg.StrOpt("reason", default="", help="Why, in your words: shown in every report beside the decision."),
    _list("flavor", help="Flavor names, as globs: perf.*, *.dedicated. A comma in a name is written \\,"),
    _list(
        "flavor_id",
        help="Flavor ids. A domain that a Nova before 32 wrote does not carry its flavor's id.",
    ),
    _list(
        "extra_spec",
        help="Extra specs of the flavor, as KEY or KEY=GLOB. A domain that a Nova before 32 wrote does not carry "
        "them. hw:pmu beats every rule and so can't stand here.",
    ),
    _list(
        "image_property",
        help="Properties of the image, as KEY or KEY=GLOB. A domain that a Nova before 32 wrote does not carry "
        "them. hw_pmu beats every rule and so can't stand here.",
    ),
    _list("project", help="Project ids, as Keystone has them."),
    _list("domain", help="Domain names, as globs, or domain UUIDs. A comma in a name is written \\,"),
    _list("arch", help=f"CPU architectures of the guest: {', '.join(sorted(X86))}."),
    _list("virt_type", help=f"Virtualisation types: {', '.join(sorted(VIRT_TYPES))}."),
    cfg.StrOpt(
        "mode",
        choices=_MODES,
        help="What 'pmuconf serve' does about domains that this rule decides; without it, as [service] mode says. "
        "Commands don't ask it.",
    ),
]

_LIBVIRT_OPTS: Final[list[cfg.Opt]] = [
    cfg.StrOpt("uri", default="qemu:///system", help="The libvirt connection; only QEMU drivers are served."),
    cfg.IntOpt(
        "parallel",
        default=6,
        min=1,
        max=32,
        help="How many requests to libvirt may be under way at once, each on a connection of its own. A few more "
        "than there are cores is best; libvirtd serves 20 at once by default (max_workers).",
    ),
    cfg.IntOpt(
        "max_xml_bytes",
        default=MAX_XML_BYTES,
        min=4096,
        help="The largest domain XML that is read, in bytes.",
    ),
]

_CHANGE_OPTS: Final[list[cfg.Opt]] = [
    cfg.IntOpt(
        "max_changes",
        default=100,
        min=0,
        help="How many domains one run may change before it stops; 0 for no limit. --max-changes overrides it.",
    ),
    cfg.IntOpt(
        "max_failures",
        default=3,
        min=0,
        help="When more domains than this have failed in one run, it changes nothing more. A domain that differs in "
        "more than its PMU afterwards, nobody knows why, counts too. --max-failures overrides it. 'pmuconf serve' "
        "has one of its own, [service] max_failures.",
    ),
    cfg.IntOpt(
        "attempts",
        default=5,
        min=1,
        max=100,
        help="How often a change is planned anew when somebody else edits the same domain meanwhile.",
    ),
]

_JOURNAL_OPTS: Final[list[cfg.Opt]] = [
    cfg.StrOpt(
        "path",
        default="/var/lib/pmuconf/journal.sqlite",
        help="The journal of changes (SQLite, readable by its owner alone). Beside it lies the lock that keeps two "
        "writers apart. Keep both on a local file system.",
    ),
    cfg.IntOpt(
        "retention_days",
        default=365,
        min=1,
        help="How long the journal keeps finished changes, in days; after that they can't be rolled back. It always "
        "keeps changes in flight, the newest 1000 changes, and of the newest 10000 those that could be taken back.",
    ),
]

_SERVICE_OPTS: Final[list[cfg.Opt]] = [
    cfg.StrOpt(
        "mode",
        default="observe",
        choices=_MODES,
        help="What 'pmuconf serve' does about domains that are off policy. Observing opens libvirt read-only. A rule "
        "may say otherwise for its domains.",
    ),
    cfg.IntOpt(
        "interval",
        default=600,
        min=1,
        max=86400,
        help="Seconds from one look at all domains to the next. Between them libvirt's events tell which domains to "
        "look at again; some edits give no event, so this stays necessary.",
    ),
    cfg.FloatOpt(
        "debounce",
        default=0.2,
        min=0,
        max=60,
        help="Seconds from the first event of a domain until it is looked at: what comes meanwhile is one look.",
    ),
    cfg.IntOpt(
        "changes_per_minute",
        default=60,
        min=0,
        help="How many domains may be changed a minute in the long run; at once, as many as [change] max_changes says. "
        "The rest waits. 0 for no limit.",
    ),
    cfg.IntOpt(
        "max_failures",
        default=3,
        min=0,
        help="When the changes of more domains than this have failed, nothing is changed any more until the service is "
        "reloaded or started anew; it goes on observing.",
    ),
    cfg.StrOpt(
        "listen",
        default="127.0.0.1:9754",
        help="Where /metrics and /healthz are served by HTTP: ADDRESS:PORT, or [ADDRESS]:PORT for IPv6. Empty for "
        "nowhere. Who reaches it reads the names of all VMs.",
    ),
    cfg.BoolOpt(
        "listen_beyond_loopback",
        default=False,
        help="Allow listen to name an address that other machines reach.",
    ),
    cfg.ListOpt(
        "host_names",
        default=[],
        help="Names of this host that readers of /metrics and /healthz use instead of its address, such as "
        "compute1.example.org. A request whose Host header has another name is refused (421), so that no page in "
        "somebody's browser can read the metrics. Addresses, localhost and the host's own name are always allowed.",
    ),
    cfg.StrOpt(
        "textfile",
        default="",
        help="The metrics as a file for node_exporter's textfile collector, replaced whole, such as "
        "/var/lib/prometheus/node-exporter/pmuconf.prom. Empty for none.",
    ),
    cfg.StrOpt(
        "html",
        default="",
        help="The report as an HTML page, replaced whole, such as /var/lib/pmuconf/report.html. Empty for none.",
    ),
    cfg.StrOpt(
        "host_facts",
        default="/run/pmuconf/host-facts.json",
        help="What only root finds out about this host, as 'pmuconf host facts' (pmuconf-host-facts.timer) writes it. "
        "Where it is missing or void, the service looks with the rights that it has.",
    ),
    cfg.StrOpt(
        "log_format",
        default="text",
        choices=[
            ("text", "sentences, with levels for the journal where systemd reads them"),
            ("json", "one JSON object a line"),
        ],
        help="How 'pmuconf serve' writes to standard error.",
    ),
]

_GROUPS: Final[dict[str, list[cfg.Opt]]] = {
    "policy": _POLICY_OPTS,
    "libvirt": _LIBVIRT_OPTS,
    "change": _CHANGE_OPTS,
    "journal": _JOURNAL_OPTS,
    "service": _SERVICE_OPTS,
}


class Mode(enum.Enum):
    """What the service does about domains that are off policy."""

    OBSERVE = "observe"
    ENFORCE = "enforce"


@dataclass(frozen=True)
class ServiceSettings:
    """Group [service]; times in seconds, 0 changes a minute for no limit.

    :param rule_modes: of the rules that have a mode of their own, by name.
    :param listen: address and port, None for no HTTP.
    :param host_names: what readers call this host, in lower case.
    """

    mode: Mode = Mode.OBSERVE
    rule_modes: Mapping[str, Mode] = field(default_factory=dict)
    interval: int = 600
    debounce: float = 0.2
    changes_per_minute: int = 60
    max_failures: int = 3
    listen: tuple[str, int] | None = ("127.0.0.1", 9754)
    host_names: tuple[str, ...] = ()
    textfile: Path | None = None
    html: Path | None = None
    host_facts: Path | None = Path("/run/pmuconf/host-facts.json")
    log_format: str = "text"

    def mode_of(self, rule: str) -> Mode:
        """The mode for domains about which this rule, or another step of the policy, decides."""
        return self.rule_modes.get(rule, self.mode)

    @property
    def enforces(self) -> bool:
        """Whether anything may be changed at all."""
        return Mode.ENFORCE in (self.mode, *self.rule_modes.values())


@dataclass(frozen=True)
class Settings:
    """A whole valid configuration. ``unused_rules`` are rule groups that [policy] rules does not list."""

    policy: Policy
    uri: str
    parallel: int
    max_xml_bytes: int
    max_changes: int
    attempts: int
    journal: Path
    retention_days: int
    files: tuple[str, ...]
    unused_rules: tuple[str, ...]
    service: ServiceSettings = field(default_factory=ServiceSettings)
    max_failures: int = 3


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """The options by group, for oslo-config-generator; ``rule:NAME`` stands for each rule's group."""
    return [*_GROUPS.items(), (f"{_RULE_PREFIX}NAME", _RULE_OPTS)]


def load(files: Sequence[str] = (), dirs: Sequence[str] = ()) -> Settings:
    """Read the configuration; without files and dirs, the default ones where they exist.

    :raises PmuconfError: cause config-missing, config-unreadable or config-invalid.
    """
    if not files and not dirs:
        files = [str(DEFAULT_FILE)] if DEFAULT_FILE.exists() else []
        dirs = [str(DEFAULT_DIR)] if DEFAULT_DIR.is_dir() else []
    paths = [*files, *(path for folder in dirs for path in _files_in(folder))]
    written = _Written.read(paths)
    written.check()
    conf = cfg.ConfigOpts()
    for group, opts in _GROUPS.items():
        conf.register_opts(opts, group=group)
    for name in written.rule_names():
        conf.register_opts(_RULE_OPTS, group=_RULE_PREFIX + name)
    try:
        # Not the environment: one policy file gives one answer, whoever asks.
        conf(args=[], default_config_files=paths, default_config_dirs=[], use_env=False)
        return _settings(conf, written)
    except cfg.Error as error:
        raise PmuconfError(str(error), cause="config-invalid") from None


def _settings(conf: cfg.ConfigOpts, written: _Written) -> Settings:
    for group, opts in [*_GROUPS.items(), *((_RULE_PREFIX + name, _RULE_OPTS) for name in written.rule_names())]:
        for opt in opts:
            try:
                conf[group][opt.dest]
            except (cfg.Error, ValueError) as error:  # a $reference that leads nowhere
                written.refuse(group, opt.dest, str(error))
    for group, option in (("libvirt", "uri"), ("journal", "path")):
        if not conf[group][option]:
            written.refuse(group, option, "is empty; leave it out for the default")
    listed = list(conf.policy.rules)
    rules = tuple(_rule(conf, name, written) for name in _checked_names(listed, written))
    pair = shadowed(rules)
    if pair is not None:
        later, earlier = pair
        written.refuse(
            _RULE_PREFIX + later.name,
            None,
            f"can never decide: rule {earlier.name} stands before it and matches whatever it matches. Put it before "
            f"{earlier.name} in [policy] rules, or take it out",
        )
    return Settings(
        policy=Policy(
            default=Decision(conf.policy.default),
            rules=rules,
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
        files=tuple(written.files),
        unused_rules=tuple(sorted(set(written.rule_names()) - set(listed))),
        service=_service(conf, listed, written),
    )


def _service(conf: cfg.ConfigOpts, listed: Sequence[str], written: _Written) -> ServiceSettings:
    group = conf.service
    modes = {name: conf[_RULE_PREFIX + name].mode for name in listed}
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
    )


def _address(text: str, *, beyond_loopback: bool) -> tuple[str, int] | None:
    """An address to listen at; no host names, for what they lead to is somebody else's choice."""
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
        raise ValueError(f"{text!r} is open to other machines: that takes listen_beyond_loopback = true")
    return str(address), int(port)


def _checked_names(listed: Sequence[str], written: _Written) -> Sequence[str]:
    there = written.rule_names()
    for at, name in enumerate(listed):
        if name in listed[:at]:
            written.refuse("policy", "rules", f"lists {name} twice")
        if name in RESERVED or not _RULE_NAME.fullmatch(name):
            written.refuse("policy", "rules", f"{name!r} is no name for a rule: letters, digits, _ . and - are allowed")
        if name not in there:
            known = ", ".join(f"[{_RULE_PREFIX}{other}]" for other in there) or "none"
            written.refuse(
                "policy", "rules", f"lists {name}, but there is no group [{_RULE_PREFIX}{name}]; there is: {known}"
            )
    return listed


def _rule(conf: cfg.ConfigOpts, name: str, written: _Written) -> Rule:
    group = conf[_RULE_PREFIX + name]
    criteria: dict[str, tuple[str, ...]] = {key: tuple(group[key]) for key in CRITERIA}
    rule = Rule(name=name, decision=Decision(group.pmu or "keep"), reason=group.reason, **criteria)

    def refuse(option: str | None, problem: str) -> NoReturn:
        written.refuse(_RULE_PREFIX + name, option, problem)

    if group.pmu is None:
        refuse("pmu", f"is missing; allowed: {', '.join(_STATES)}")
    if not rule.criteria:
        refuse(None, f"asks nothing, so it would match everything: name one of {', '.join(CRITERIA)}")
    for key, beaten in (("extra_spec", "hw:pmu"), ("image_property", "hw_pmu")):
        if any(value.partition("=")[0].strip() == beaten for value in criteria[key]):
            refuse(key, f"reads {beaten}, but an explicit {beaten} decides before any rule")
        if any(not value.partition("=")[0] for value in criteria[key]):
            refuse(key, "has a value without a key; allowed: KEY or KEY=GLOB")
    for key, allowed in (("arch", X86), ("virt_type", VIRT_TYPES)):
        for value in criteria[key]:
            if value not in allowed:
                refuse(key, f"{value!r} never matches; allowed: {', '.join(sorted(allowed))}")
    return rule


class _Written:
    """What the files themselves say, group by group: oslo.config passes over what it does not know."""

    def __init__(self, files: Iterable[str]) -> None:
        self.files = list(files)
        self._sections: dict[str, dict[str, dict[str, list[str]]]] = {}

    @classmethod
    def read(cls, files: Iterable[str]) -> _Written:
        written = cls(files)
        for path in written.files:
            sections: dict[str, dict[str, Any]] = {}
            try:
                if path != os.devnull:  # which stands for no configuration
                    read_regular(path, _MAX_FILE)  # oslo.config would wait for a FIFO, and read what has no end
                cfg.ConfigParser(path, sections).parse()
                written._refuse_quoted_lists(path)
            except cfg.ParseError as error:
                raise PmuconfError(f"{path}:{error.lineno}: {error.msg}", cause="config-invalid") from None
            except UnicodeDecodeError:
                raise PmuconfError(f"{path}: is not UTF-8 text", cause="config-invalid") from None
            except FileNotFoundError:
                cause = "config-unreadable" if os.path.islink(path) else "config-missing"
                raise PmuconfError(f"{path}: no such file", cause=cause) from None
            except OSError as error:
                raise PmuconfError(f"{path}: {error.strerror}", cause="config-unreadable") from None
            written._sections[path] = sections
        return written

    def _refuse_quoted_lists(self, path: str) -> None:
        """oslo.config takes quotes around a whole value away, so that they hold no comma together."""
        group = ""
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            if line.startswith("["):
                group = line.strip()[1:-1]
            found = _QUOTED_LIST.fullmatch(line.rstrip())
            if found and group.startswith(_RULE_PREFIX) and found[1] in CRITERIA:
                problem = f"the quotes are taken away, and {found[3]!r} is a list: a comma in a name is written \\,"
                self._refuse_in(path, group, found[1], problem)

    def rule_names(self) -> list[str]:
        names: dict[str, None] = {}
        for sections in self._sections.values():
            for group, options in sections.items():
                if group.startswith(_RULE_PREFIX) and options:
                    names[group[len(_RULE_PREFIX) :]] = None
        if len(names) > _MAX_RULES:
            raise PmuconfError(f"{len(names)} rules are too many: {_MAX_RULES} are the most", cause="config-invalid")
        return list(names)

    def check(self) -> None:
        """Refuse unknown groups and options, values that are none, and rules that oslo.config would mix up."""
        names = self.rule_names()
        for at, name in enumerate(names):
            for other in names[:at]:
                if name.lower() == other.lower():
                    one, two = f"[{_RULE_PREFIX}{other}]", f"[{_RULE_PREFIX}{name}]"
                    self.refuse(_RULE_PREFIX + name, None, f"{one} and {two} differ in case alone, and count as one")
        for path, sections in self._sections.items():
            for group, options in sections.items():
                opts = _RULE_OPTS if group.startswith(_RULE_PREFIX) else _GROUPS.get(group)
                if opts is None and (options or group != "DEFAULT"):
                    known = ", ".join(f"[{name}]" for name in (*_GROUPS, f"{_RULE_PREFIX}NAME"))
                    self._refuse_in(path, group, None, f"is no group of pmuconf; allowed: {known}")
                by_name = {opt.dest: opt for opt in opts or ()}
                for name, values in options.items():
                    if name not in by_name:
                        self._refuse_in(path, group, name, f"is no option; allowed: {', '.join(by_name)}")
                    for value in values:
                        problem = _problem(by_name[name], value)
                        if problem:
                            self._refuse_in(path, group, name, problem)

    def refuse(self, group: str, option: str | None, problem: str) -> NoReturn:
        """Raise for an option, naming the last file that has it, or its group."""
        having = [path for path, sections in self._sections.items() if group in sections]
        exact = [path for path in having if option in self._sections[path][group]]
        self._refuse_in((exact or having or ["built-in defaults"])[-1], group, option, problem)

    @staticmethod
    def _refuse_in(path: str, group: str, option: str | None, problem: str) -> NoReturn:
        where = f"[{group}] {option}" if option else f"[{group}]"
        raise PmuconfError(f"{path}: {where}: {problem}", cause="config-invalid")


def _problem(opt: cfg.Opt, value: str) -> str:
    """What is wrong with a value as it is written; empty if nothing is."""
    reason = "it is empty"
    try:
        if opt.type(value) is not None:
            return ""
    except ValueError as error:
        reason = str(error)
    choices = getattr(opt.type, "choices", None)
    low, high = getattr(opt.type, "min", None), getattr(opt.type, "max", None)
    if choices:
        allowed = ", ".join(str(choice) for choice in choices)
    elif low is not None:
        allowed = f"{low} to {high}" if high is not None else f"{low} or more"
    else:
        return f"{value!r} is not allowed: {reason}"
    return f"{value!r} is not allowed; allowed: {allowed}"


def _files_in(folder: str) -> list[str]:
    """The folder's *.conf by name; what an editor hides there is no configuration."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        raise PmuconfError(f"{folder}: no such directory", cause="config-missing") from None
    except NotADirectoryError:
        raise PmuconfError(f"{folder}: is a file, not a directory", cause="config-unreadable") from None
    except OSError as error:
        raise PmuconfError(f"{folder}: {error.strerror}", cause="config-unreadable") from None
    return [os.path.join(folder, name) for name in sorted(names) if name.endswith(".conf") and name[0] != "."]
