"""The commands by name: where each is, what it does in a line, and the help that shows them all."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

__all__ = ["COMMANDS", "GROUPS", "CommandEntry", "CommandGroup", "not_a_command", "overview", "words_of"]


@dataclass(frozen=True)
class CommandEntry:
    """A command in the overview.

    :param place: the module and the class, imported when the command is asked for: finding plug-ins and importing
        every command costs more than all that an audit of one VM does.
    """

    place: str
    sentence: str


@dataclass(frozen=True)
class CommandGroup:
    """Commands for one purpose, with examples that run as they stand."""

    title: str
    commands: Mapping[str, CommandEntry]
    examples: tuple[str, ...]


GROUPS: Final = (
    CommandGroup(
        "See how a host stands (reads only)",
        {
            "status": CommandEntry("status:ShowStatus", "one short answer, and what to do next"),
            "audit": CommandEntry("audit:Audit", "each VM: its PMU, what the policy wants, its fast path"),
            "explain": CommandEntry("explain:Explain", "one VM's whole story, and what to do about it"),
            "report": CommandEntry("report:WriteReport", "the audit as JSON, CSV, metrics or a page"),
        },
        ("pmuconf status", "pmuconf explain web1", "pmuconf report -f html -o pmu.html"),
    ),
    CommandGroup(
        "Change domains",
        {
            "apply": CommandEntry("apply:Apply", "bring domains on policy, from their next boot on"),
            "rollback": CommandEntry("rollback:Rollback", "put back what was there before"),
            "journal": CommandEntry("journal:ShowJournal", "list what was changed"),
            "journal purge": CommandEntry("journal:PurgeJournal", "drop old changes that are finished"),
            "rewrite": CommandEntry("rewrite:Rewrite", "a filter: domain XML with its PMU state set"),
            "hook": CommandEntry("hook:RunHook", "the policy for KubeVirt, oVirt, CloudStack, OpenNebula"),
        },
        ("pmuconf apply --dry-run", "pmuconf apply --canary 1", "pmuconf rollback --all"),
    ),
    CommandGroup(
        "Keep it so",
        {
            "serve": CommandEntry("serve:Serve", "the service that watches every domain"),
            "policy check": CommandEntry("policy:PolicyCheck", "is the configuration valid?"),
            "policy explain": CommandEntry("policy:PolicyExplain", "which rule decides, and why"),
            "selftest": CommandEntry("selftest:Selftest", "is pmuconf installed as it should be?"),
        },
        ("pmuconf serve --observe", "pmuconf policy check", "pmuconf policy explain web1"),
    ),
    CommandGroup(
        "Look into the kernel and QEMU",
        {
            "host": CommandEntry("host:ShowHost", "does the running kernel spare VMs without a PMU?"),
            "host judge": CommandEntry("host:JudgeFile", "the same of a kernel module, a vmlinux or a host's record"),
            "host facts": CommandEntry("host:WriteFacts", "write what root found, for audits without root"),
            "host record": CommandEntry("host:RecordHost", "take along what was read, to judge it elsewhere"),
            "qemu prove": CommandEntry("qemu:ProveQemu", "start a QEMU once: does it disable the PMU in KVM?"),
            "host disable-pmu": CommandEntry("parameter:DisablePmu", "write enable_pmu=N, if no VM loses a PMU"),
            "preflight qemu": CommandEntry("preflight:PreflightQemu", "which VMs would lose a PMU under another QEMU?"),
            "bench cpuid": CommandEntry("bench:BenchCpuid", "what a CPUID exit costs here, with the PMU on and off"),
            "bench msr": CommandEntry("bench:BenchMsr", "the same of a read of an MSR"),
            "bench port": CommandEntry("bench:BenchPort", "the same of port I/O"),
            "bench compare": CommandEntry("bench:CompareMeasurements", "two saved measurements: two kernels compared"),
        },
        ("pmuconf host", "pmuconf host facts --output host-facts.json", "pmuconf bench cpuid --save before.json"),
    ),
    CommandGroup(
        "OpenStack",
        {
            "nova check": CommandEntry("nova:NovaCheck", "would this host's Nova load the plugin?"),
            "flavors audit": CommandEntry("flavors:FlavorsAudit", "each flavor: its hw:pmu, and what the policy wants"),
            "flavors apply": CommandEntry("flavors:FlavorsApply", "set hw:pmu where the policy decides"),
            "flavors rollback": CommandEntry("flavors:FlavorsRollback", "take away what apply has set"),
            "flavors export": CommandEntry("flavors:FlavorsExport", "write the extra specs of all flavors into a file"),
        },
        ("pmuconf nova check", "pmuconf flavors audit", "pmuconf flavors apply --dry-run"),
    ),
    CommandGroup(
        "Many hosts, by their JSON reports",
        {
            "fleet report": CommandEntry("fleet:FleetReport", "all hosts in one report, and the steps that bring most"),
            "fleet diff": CommandEntry("fleet:FleetDiff", "what changed between two collections"),
            "fleet plan": CommandEntry("fleet:FleetPlan", "what to do, in waves, for a playbook"),
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

'pmuconf COMMAND --help' describes a command. 'pmuconf complete' writes completion for bash and zsh.
"""


def overview() -> str:
    """The help of pmuconf itself."""
    return _HEAD + "".join(_group(group) for group in GROUPS) + _FOOT


def _group(group: CommandGroup) -> str:
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
