"""The commands by name: where each is, what it does in a line, and the help that shows them all."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

__all__ = ["COMMANDS", "GROUPS", "Group", "Listed", "not_a_command", "overview", "words_of"]


@dataclass(frozen=True)
class Listed:
    """A command in the overview.

    :param place: the module and the class, imported when the command is asked for: finding plug-ins and importing
        every command costs more than all that an audit of one VM does.
    """

    place: str
    sentence: str


@dataclass(frozen=True)
class Group:
    """Commands for one purpose, with examples that run as they stand."""

    title: str
    commands: Mapping[str, Listed]
    examples: tuple[str, ...]


GROUPS: Final = (
    Group(
        "See how a host stands (reads only)",
        {
            "status": Listed("status:ShowStatus", "one short answer, and what to do next"),
            "audit": Listed("audit:Audit", "each VM: its PMU, what the policy wants, its fast path"),
            "explain": Listed("explain:Explain", "one VM's whole story, and what to do about it"),
            "report": Listed("report:WriteReport", "the audit as JSON, CSV, metrics or a page"),
        },
        ("pmuconf status", "pmuconf explain web1", "pmuconf report -f html -o pmu.html"),
    ),
    Group(
        "Change domains",
        {
            "apply": Listed("apply:Apply", "bring domains on policy, from their next boot on"),
            "rollback": Listed("rollback:Rollback", "put back what was there before"),
            "journal": Listed("journal:ShowJournal", "list what was changed"),
            "journal purge": Listed("journal:PurgeJournal", "drop old changes that are finished"),
            "rewrite": Listed("rewrite:Rewrite", "a filter: domain XML with its PMU state set"),
        },
        ("pmuconf apply --dry-run", "pmuconf apply --canary 1", "pmuconf rollback --all"),
    ),
    Group(
        "Keep it so",
        {
            "serve": Listed("serve:Serve", "the service that watches every domain"),
            "policy check": Listed("policy:PolicyCheck", "is the configuration valid?"),
            "policy explain": Listed("policy:PolicyExplain", "which rule decides, and why"),
        },
        ("pmuconf serve --observe", "pmuconf policy check", "pmuconf policy explain web1"),
    ),
    Group(
        "Look into the kernel and QEMU",
        {
            "host": Listed("host:ShowHost", "does the running kernel spare VMs without a PMU?"),
            "host judge": Listed("host:JudgeFile", "the same of a kernel module, a vmlinux or a host's record"),
            "host facts": Listed("host:WriteFacts", "write what root found, for audits without root"),
            "host record": Listed("host:RecordHost", "take along what was read, to judge it elsewhere"),
            "qemu prove": Listed("qemu:ProveQemu", "start a QEMU once: does it disable the PMU in KVM?"),
            "preflight qemu": Listed("preflight:PreflightQemu", "which VMs would lose a PMU under another QEMU?"),
            "bench cpuid": Listed("bench:BenchCpuid", "what a CPUID exit costs here, with the PMU on and off"),
            "bench msr": Listed("bench:BenchMsr", "the same of a read of an MSR"),
            "bench port": Listed("bench:BenchPort", "the same of port I/O"),
            "bench compare": Listed("bench:CompareMeasurements", "two saved measurements: one kernel against another"),
        },
        ("pmuconf host", "pmuconf host facts --output host-facts.json", "pmuconf bench cpuid --save before.json"),
    ),
    Group(
        "OpenStack",
        {
            "nova check": Listed("nova:NovaCheck", "would this host's Nova load the plugin?"),
            "flavors audit": Listed("flavors:FlavorsAudit", "each flavor: its hw:pmu, and what the policy wants"),
            "flavors apply": Listed("flavors:FlavorsApply", "set hw:pmu where the policy decides"),
            "flavors rollback": Listed("flavors:FlavorsRollback", "take away what apply has set"),
            "flavors export": Listed("flavors:FlavorsExport", "write the extra specs of all flavors into a file"),
        },
        ("pmuconf nova check", "pmuconf flavors audit", "pmuconf flavors apply --dry-run"),
    ),
    Group(
        "Many hosts, by their JSON reports",
        {
            "fleet report": Listed("fleet:FleetReport", "all hosts in one report, and the steps that bring most"),
            "fleet diff": Listed("fleet:FleetDiff", "what changed between two collections"),
            "fleet plan": Listed("fleet:FleetPlan", "what to do, in waves, for a playbook"),
        },
        ("pmuconf fleet report reports/", "pmuconf fleet diff old/ new/", "pmuconf fleet plan reports/ -o plan.json"),
    ),
)

COMMANDS: Final = {name: listed for group in GROUPS for name, listed in group.commands.items()}

_MEANT: Final = 4
_WIDTH: Final = max(map(len, COMMANDS))
_HEAD: Final = """\
usage: pmuconf [OPTION ...] COMMAND [ARGUMENT ...]

PMU off by default for KVM guests, and the proof of who has the fast path.
"""
_FOOT: Final = """
Options, in front of the command:
  --config-file FILE, --config-dir DIR   instead of /etc/pmuconf/pmuconf.conf and /etc/pmuconf/pmuconf.conf.d/*.conf
  -q, --quiet; -v, --verbose; --log-file FILE; --debug; --version; -h, --help

Exit status of every command: 0 as wanted, 1 a warning (something waits for a restart, or can't be known), 2 a finding
(a domain is off policy, or slow), 255 an error, usage errors included.

'pmuconf COMMAND --help' describes a command.
"""


def overview() -> str:
    """The help of pmuconf itself."""
    return _HEAD + "".join(_group(group) for group in GROUPS) + _FOOT


def _group(group: Group) -> str:
    commands = "".join(f"  {name:{_WIDTH}}  {listed.sentence}\n" for name, listed in group.commands.items())
    examples = "".join(f"    $ {example}\n" for example in group.examples)
    return f"\n{group.title}:\n{commands}{examples}"


def words_of(arguments: Sequence[str]) -> list[str]:
    """The words in front of the first option: the command and what it is given."""
    return list(itertools.takewhile(lambda word: not word.startswith("-"), arguments))


def not_a_command(arguments: Sequence[str]) -> str:
    """The error of arguments that begin with no command; what may have been meant is named, never run."""
    words = words_of(arguments)
    if not words:
        return f"{arguments[0]!r} is no option of pmuconf itself (usage). 'pmuconf --help' shows what it takes"
    meant = list(dict.fromkeys([*_beginning(words), *_alike(words)]))[:_MEANT]
    did_you_mean = f" Did you mean: {', '.join(meant)}?" if meant else ""
    return f"{' '.join(words)!r} is no command (usage).{did_you_mean} 'pmuconf --help' lists all"


def _beginning(words: Sequence[str]) -> Iterator[str]:
    """Those whose words begin with these."""
    for name in COMMANDS:
        parts = name.split()
        if all(part.startswith(word) for part, word in zip(parts, words)):
            yield name


def _alike(words: Sequence[str]) -> Iterator[str]:
    """Those that differ by a letter or two."""
    for number in (2, 1):
        yield from get_close_matches(" ".join(words[:number]), COMMANDS, n=3, cutoff=0.75)
