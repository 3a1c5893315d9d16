"""Every option of pmuconf, with its default and its help. No other place has a default."""

from __future__ import annotations

from typing import Final

from oslo_config import cfg, types

from pmuconf.domain.definition import X86
from pmuconf.domain.xmltext import MAX_XML_BYTES
from pmuconf.policy import VIRT_TYPES

__all__ = ["GROUPS", "RULE_OPTS", "RULE_PREFIX", "STATES", "WORKED_RULE", "list_opts", "options_of"]

RULE_PREFIX: Final = "rule:"
_PROCESSES: Final = [
    ("no", "they are not reported"),
    ("beside", "they are reported beside the domains of libvirt"),
    ("only", "they are all that is reported: this host has no libvirt, and it is not asked"),
]
_MODES: Final = [
    ("observe", "report what is off policy, change nothing"),
    ("enforce", "write the PMU state of the next boot"),
]
_DECISIONS: Final = [
    ("off", "write <pmu state='off'/>"),
    ("on", "write <pmu state='on'/>"),
    ("keep", "leave as it is"),
]
STATES: Final = tuple(state for state, _ in _DECISIONS)
_POLICY_OPTS: Final[list[cfg.Opt]] = [
    cfg.StrOpt(
        "default",
        default="off",
        choices=_DECISIONS,
        help="The decision for a domain or flavor that no rule matches and that makes no explicit choice (hw:pmu of "
        "the flavor, hw_pmu of the image). Only x86 domains of KVM and QEMU are ever changed.",
    ),
    cfg.ListOpt(
        "rules",
        default=[],
        help="The rules, in their order: the first one that matches decides. Each NAME here has a group [rule:NAME]. "
        "If a rule needs a fact that a front end cannot know, the domain is undecided there, and later rules are not "
        "asked.",
    ),
    cfg.StrOpt(
        "nova_domains",
        default="enforce",
        choices=[
            ("enforce", "bring them on policy like any other domain"),
            ("observe", "report them, change nothing"),
        ],
        help="What to do with domains that Nova manages, as their metadata says. Nova keeps a rewrite over a soft "
        "reboot. It writes the domain anew at a hard reboot, stop and start, resize, or migration of a stopped "
        "server. There, use the compute plugin or hw:pmu of the flavor for a lasting change.",
    ),
]


class _Value(types.String):
    r"""One value of a list, in which ``\,`` is a comma that separates nothing.

    oslo.config first gives each piece between two commas. If a piece is refused, it gives that piece again, joined with
    the next one.
    """

    def __call__(self, value: str) -> str:
        if value[:1] in ('"', "'"):
            raise ValueError("quotes mean nothing here: write a comma in a name as \\, and leave out the quotes")
        if value.endswith("\\") or "," in value.replace("\\,", ""):
            raise ValueError("its last backslash has nothing behind it")
        return str(super().__call__(value.replace("\\,", ",")))


def _list(name: str, text: str) -> cfg.Opt:
    return cfg.ListOpt(name, item_type=_Value(), default=[], help=text)


RULE_OPTS: Final[list[cfg.Opt]] = [
    cfg.StrOpt("pmu", choices=_DECISIONS, sample_default="off", help="The decision of this rule. Required."),
    cfg.StrOpt("reason", default="", help="The reason, in your words. Every report shows it beside the decision."),
    _list(
        "flavor",
        "Flavor names, as globs: perf.*, *.dedicated. A comma in a name is written \\, KubeVirt's instance types and "
        "CloudStack's service offerings are flavors too.",
    ),
    _list(
        "flavor_id",
        "Flavor ids. Before version 32, Nova does not write the flavor's id into a domain.",
    ),
    _list(
        "extra_spec",
        "Extra specs of the flavor, as KEY or KEY=GLOB. Before version 32, Nova does not write them into a domain. "
        "hw:pmu is not allowed here, because it beats every rule.",
    ),
    _list(
        "image_property",
        "Properties of the image, as KEY or KEY=GLOB. Before version 32, Nova does not write them into a domain. "
        "hw_pmu is not allowed here, because it beats every rule.",
    ),
    _list(
        "project",
        "Project ids, as Keystone has them; with other managers KubeVirt's namespaces, UUIDs of CloudStack's projects, "
        "OpenNebula's groups.",
    ),
    _list(
        "attribute",
        "What users write on a VM, as KEY or KEY=GLOB: KubeVirt's labels, oVirt's custom properties, attributes of "
        "OpenNebula's templates.",
    ),
    _list("domain", "Domain names, as globs, or domain UUIDs. A comma in a name is written \\,"),
    _list("arch", f"CPU architectures of the guest: {', '.join(sorted(X86))}."),
    _list("virt_type", f"Virtualisation types: {', '.join(sorted(VIRT_TYPES))}."),
    cfg.StrOpt(
        "mode",
        choices=_MODES,
        sample_default="observe",
        help="What 'pmuconf serve' does about domains that this rule decides. The default is [service] mode. Commands "
        "do not read it.",
    ),
]

_LIBVIRT_OPTS: Final[list[cfg.Opt]] = [
    cfg.StrOpt("uri", default="qemu:///system", help="The libvirt connection, to a QEMU driver."),
    cfg.IntOpt(
        "parallel",
        default=6,
        min=1,
        max=32,
        help="How many requests to libvirt run at once, each on a connection of its own. A few more than the number "
        "of cores is best. libvirtd serves 20 at once by default (max_workers).",
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
        help="How many domains one run may change before it stops; 0: no limit. --max-changes overrides it.",
    ),
    cfg.IntOpt(
        "max_failures",
        default=3,
        min=0,
        help="A run stops changing domains when more than this number have failed. A domain that differs in more than "
        "its PMU afterwards, for an unknown reason, counts as failed. --max-failures overrides it. 'pmuconf serve' "
        "uses [service] max_failures instead.",
    ),
    cfg.IntOpt(
        "attempts",
        default=5,
        min=1,
        max=100,
        help="How often a change is planned again when somebody else edits the same domain meanwhile.",
    ),
]

_JOURNAL_OPTS: Final[list[cfg.Opt]] = [
    cfg.StrOpt(
        "path",
        default="/var/lib/pmuconf/journal.sqlite",
        help="The journal of changes: SQLite, readable by its owner alone. The lock that keeps two writers apart is in "
        "the same folder. Keep both on a local file system.",
    ),
    cfg.IntOpt(
        "retention_days",
        default=365,
        min=1,
        help="How many days the journal keeps finished changes. Later they can't be rolled back. The journal always "
        "keeps changes in flight, the newest 1000 changes, and of the newest 10000 those that can be rolled back.",
    ),
]

_SERVICE_OPTS: Final[list[cfg.Opt]] = [
    cfg.StrOpt(
        "mode",
        default="observe",
        choices=_MODES,
        help="What 'pmuconf serve' does about domains that are off policy. With observe, it opens libvirt read-only. A "
        "rule can have another mode for its domains.",
    ),
    cfg.IntOpt(
        "interval",
        default=600,
        min=1,
        max=86400,
        help="Seconds from one look at all domains to the next. Between two looks, libvirt's events say which domains "
        "have changed. Some edits give no event, so the looks stay necessary.",
    ),
    cfg.FloatOpt(
        "debounce",
        default=0.2,
        min=0,
        max=60,
        help="Seconds from the first event of a domain until the service looks at it. Further events meanwhile lead to "
        "the same look.",
    ),
    cfg.IntOpt(
        "changes_per_minute",
        default=60,
        min=0,
        help="How many domains may be changed a minute, on average; 0: no limit. [change] max_changes limits how many "
        "are changed at once. The rest waits.",
    ),
    cfg.IntOpt(
        "max_failures",
        default=3,
        min=0,
        help="The service stops changing domains when more than this number have failed. It goes on observing, and "
        "changes domains again once it is reloaded or restarted.",
    ),
    cfg.StrOpt(
        "listen",
        default="127.0.0.1:9754",
        help="Where the report page (/), /metrics and /healthz are served by HTTP: ADDRESS:PORT, or [ADDRESS]:PORT for "
        "IPv6. Empty: nowhere. Anybody who can connect can read the names of all VMs.",
    ),
    cfg.BoolOpt(
        "listen_beyond_loopback",
        default=False,
        help="Whether listen may name an address that other machines can reach.",
    ),
    cfg.ListOpt(
        "host_names",
        default=[],
        help="Names of this host by which its page and metrics are read, such as compute1.example.org. A request with "
        "another name in its Host header is refused (421), so that no other page in somebody's browser can read them. "
        "Addresses, localhost and the host's own name are always allowed.",
    ),
    cfg.StrOpt(
        "textfile",
        default="",
        help="A file with the metrics for node_exporter's textfile collector, such as "
        "/var/lib/prometheus/node-exporter/pmuconf.prom. It is replaced whole. Empty: none.",
    ),
    cfg.StrOpt(
        "html",
        default="",
        help="A file with the report as an HTML page, such as /var/lib/pmuconf/report.html. It is replaced whole. "
        "Empty: none.",
    ),
    cfg.StrOpt(
        "host_facts",
        default="/run/pmuconf/host-facts.json",
        help="A file with the facts of this host that only root can read. 'pmuconf host facts' writes it "
        "(pmuconf-host-facts.timer). If it is missing or void, the service finds out as much as its rights allow.",
    ),
    cfg.StrOpt(
        "processes",
        default="no",
        choices=_PROCESSES,
        help="VMs that KVM holds and libvirt does not know: those of Proxmox, Kata, Firecracker or a QEMU started by "
        "hand. The service finds most of them in host_facts only, because it does not run as root.",
    ),
    cfg.StrOpt(
        "log_format",
        default="text",
        choices=[
            ("text", "sentences, with levels for systemd's journal"),
            ("json", "one JSON object a line"),
        ],
        help="How 'pmuconf serve' writes to standard error.",
    ),
]

_HOST_OPTS: Final[list[cfg.Opt]] = [
    cfg.BoolOpt(
        "prove",
        default=False,
        help="Whether 'pmuconf host facts' (pmuconf-host-facts.timer) also makes the experiment of 'pmuconf host "
        "--prove': a micro-VM makes 200 exits, and a kprobe counts the calls. It is made once for each boot and load "
        "of KVM, in at most 10 seconds. If the calls contradict the verdict on the kernel's code, the verdict is "
        "unknown.",
    ),
]

GROUPS: Final[dict[str, list[cfg.Opt]]] = {
    "policy": _POLICY_OPTS,
    "libvirt": _LIBVIRT_OPTS,
    "change": _CHANGE_OPTS,
    "journal": _JOURNAL_OPTS,
    "service": _SERVICE_OPTS,
    "host": _HOST_OPTS,
}
_RULE: Final = f"{RULE_PREFIX}name"  # oslo-config-generator writes the names of groups in lower case
WORKED_RULE: Final = """\
    [policy]
    default = off
    rules = profiling

    [rule:profiling]
    pmu = on
    flavor = perf.*
    reason = these tenants run perf in their guests"""
"""An example of a policy, as a block of a help text; the plugin's sample has the same one."""
# For the sample and the manual page: a paragraph is one line, and an indented block stands behind "::".
_GROUP_HELP: Final = {
    "policy": "Which VMs get a PMU. hw:pmu of the flavor and hw_pmu of the image beat all that is written here.",
    _RULE: f"""\
An exception from the default. NAME is yours, and [policy] rules lists it. A rule decides about the VMs that match all \
of its criteria.

A worked rule. perf needs the PMU, so VMs of the flavors perf.* keep it. No other VM has one::

{WORKED_RULE}

Write such lines into a file of your own, such as /etc/pmuconf/pmuconf.conf.d/profiling.conf.
'pmuconf policy check' says whether they are valid,
'pmuconf policy explain --flavor perf.large' what they decide.""",
    "service": "How 'pmuconf serve' works. Commands do not read it.",
    "change": "How many domains one run may change, and when it gives up. Commands and the service read it.",
    "libvirt": "How libvirt is asked.",
    "host": "How the facts about this host are found.",
    "journal": "Where changes are written down before they are made, and for how long they can be rolled back.",
}


def list_opts() -> list[tuple[cfg.OptGroup, list[cfg.Opt]]]:
    """The options by group, for oslo-config-generator; ``rule:name`` stands for the group of each rule."""
    options = {**GROUPS, _RULE: RULE_OPTS}
    return [(cfg.OptGroup(name, help=text), options[name]) for name, text in _GROUP_HELP.items()]


def options_of(group: str) -> list[cfg.Opt] | None:
    """The options of a group of this name; None if there is no such group."""
    return RULE_OPTS if group.startswith(RULE_PREFIX) else GROUPS.get(group)
