"""The commands ``pmuconf policy check`` and ``pmuconf policy explain``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pmuconf.access import connect
from pmuconf.commands.base import Action, add_connect, settings
from pmuconf.commands.outputs import add_format, show
from pmuconf.conf import Settings
from pmuconf.domain.definition import UNKNOWN, Domain, Manager, PmuState
from pmuconf.domain.reading import read
from pmuconf.errors import PmuconfError
from pmuconf.files.inputs import read_start
from pmuconf.policy import Decision, Policy, Ruling, Subject, decide

__all__ = ["CheckedPolicy", "ExplainedDecision", "PolicyCheck", "PolicyExplain"]


@dataclass(frozen=True)
class CheckedPolicy:
    """What a valid configuration says."""

    files: Sequence[str]
    policy: Policy
    unused: Sequence[str]
    """The groups of rules that [policy] rules does not list."""

    def lines(self) -> Iterator[str]:
        """The configuration in sentences."""
        yield f"valid: {', '.join(self.files) or 'the built-in defaults (no file)'}"
        for number, rule in enumerate(self.policy.rules, 1):
            asks = " and ".join(f"{name} is {' or '.join(values)}" for name, values in rule.criteria.items())
            reason = f"  # {rule.reason}" if rule.reason else ""
            yield f"{number}. {rule.name}: {rule.decision.value} where {asks}{reason}"
        yield f"default: {self.policy.default.value}; Nova's domains: {self.policy.nova_domains.value}"

    def record(self) -> dict[str, Any]:
        """The same as data (docs/commands.md)."""
        return {
            "format": "pmuconf-policy",
            "version": 1,
            "files": list(self.files),
            "default": self.policy.default.value,
            "nova_domains": self.policy.nova_domains.value,
            "rules": [
                {
                    "name": rule.name,
                    "decision": rule.decision.value,
                    "criteria": {name: list(values) for name, values in rule.criteria.items()},
                    "reason": rule.reason,
                }
                for rule in self.policy.rules
            ],
            "unused_rules": list(self.unused),
        }


@dataclass(frozen=True)
class ExplainedDecision:
    """What the policy wants for a domain or a flavor.

    :param name: of the domain; None: the question was about a flavor.
    :param pmu: the state that the domain's definition has now; None for a flavor.
    """

    name: str | None
    uuid: str | None
    flavor: str | None
    pmu: PmuState | None
    ruling: Ruling

    def lines(self) -> Iterator[str]:
        """The decision in sentences."""
        if self.pmu is None:
            yield f"flavor {self.flavor}"
        else:
            flavor = f" (flavor {self.flavor})" if self.flavor else ""
            yield f"domain {self.name}{flavor}, PMU state now {self.pmu.value}"
        yield f"decision: {self.ruling.decision.value}"
        yield f"rule: {self.ruling.rule}"
        yield f"because: {self.ruling.reason}"

    def record(self) -> dict[str, Any]:
        """The same as data, with the keys that an audit has (docs/commands.md)."""
        return {
            "format": "pmuconf-decision",
            "version": 1,
            "name": self.name,
            "uuid": self.uuid,
            "flavor": self.flavor,
            "pmu": self.pmu and self.pmu.value,
            "decision": self.ruling.decision.value,
            "rule": self.ruling.rule,
            "reason": self.ruling.reason,
        }


class PolicyCheck(Action):
    """Validate the configuration and say what it means.

    Exit status: 0 valid, 1 valid but a rule group is not used, 255 refused.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_format(parser)
        return parser

    def given(self, _: argparse.Namespace) -> int:
        return 1

    def take_action(self, args: argparse.Namespace) -> int:
        chosen = settings(self)
        show(self, args, CheckedPolicy(chosen.files, chosen.policy, chosen.unused_rules))
        for name in chosen.unused_rules:
            self.app.LOG.warning("[rule:%s] is not used: [policy] rules does not list it", name)
        return 1 if chosen.unused_rules else 0


class PolicyExplain(Action):
    """Say what the policy wants for a domain or a flavor, which rule decides, and why.

    With --flavor: project, domain and flavor id are unknown unless given. The extra specs, image properties and
    attributes that are given count as complete.

    Exit status: 0 decided, 1 undecided, 255 error (hw:pmu and hw_pmu that contradict each other included).
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        add_connect(parser)
        add_format(parser)
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("domain", nargs="?", metavar="DOMAIN", help="Name or UUID.")
        what.add_argument("--xml", type=Path, metavar="FILE", help="A file of domain XML.")
        what.add_argument("--flavor", metavar="NAME", help="A flavor that a VM might be built with.")
        with_flavor = parser.add_argument_group("with --flavor")
        for option, text in (
            ("--extra-spec", "An extra spec of the flavor."),
            ("--image-property", "Of the image."),
            ("--attribute", "A label, custom property or template attribute of the VM."),
        ):
            with_flavor.add_argument(option, action="append", default=[], type=_pair, metavar="K=V", help=text)
        with_flavor.add_argument("--flavor-id", metavar="ID", help="The flavor's id.")
        with_flavor.add_argument("--project", metavar="ID", help="The project's id.")
        with_flavor.add_argument("--arch", default="x86_64", help="The guest's architecture (x86_64 unless given).")
        with_flavor.add_argument("--virt-type", default="kvm", help="kvm unless given.")
        return parser

    def given(self, args: argparse.Namespace) -> int:
        return 0 if args.domain is not None else 1

    def take_action(self, args: argparse.Namespace) -> int:
        chosen = settings(self)
        if args.flavor is not None:
            subject = Subject(
                virt_type=args.virt_type,
                arch=args.arch,
                flavor=args.flavor,
                flavor_id=args.flavor_id or UNKNOWN,
                extra_specs=dict(args.extra_spec),
                image_properties=dict(args.image_property),
                project=args.project or UNKNOWN,
                attributes=dict(args.attribute),
                name=UNKNOWN,
                uuid=UNKNOWN,
                manager=Manager.LIBVIRT,
            )
            ruling = decide(chosen.policy, subject)
            show(self, args, ExplainedDecision(None, None, args.flavor, None, ruling))
        else:
            domain = _definition(args, chosen)
            ruling = decide(chosen.policy, Subject.of_domain(domain))
            show(self, args, ExplainedDecision(domain.name, domain.uuid, domain.flavor, domain.pmu, ruling))
        return 1 if ruling.decision is Decision.UNDECIDED else 0


def _definition(args: argparse.Namespace, chosen: Settings) -> Domain:
    if args.xml is not None:
        try:
            data = read_start(args.xml, chosen.max_xml_bytes + 1)
        except OSError as error:
            raise PmuconfError(f"{args.xml}: {error.strerror}", cause="file-unreadable") from None
        return read(data, source=str(args.xml), max_bytes=chosen.max_xml_bytes)
    with connect(chosen, args.connect, read_only=True) as hypervisor:
        (listed,) = hypervisor.domains([args.domain])
        xml = hypervisor.next_boot_xml(listed) if listed.persistent else hypervisor.live_xml(listed)
    return read(xml, source=f"domain {listed.name!r}", max_bytes=chosen.max_xml_bytes)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value
