"""The commands ``pmuconf policy check`` and ``pmuconf policy explain``."""

from __future__ import annotations

import argparse
from pathlib import Path

from pmuconf.access import connect
from pmuconf.commands.base import Action, add_connect, settings
from pmuconf.conf import Settings
from pmuconf.domain.definition import UNKNOWN, Domain
from pmuconf.domain.reading import read
from pmuconf.errors import PmuconfError
from pmuconf.files.inputs import read_start
from pmuconf.policy import Decision, Ruling, Subject, decide
from pmuconf.report.plain import printable

__all__ = ["PolicyCheck", "PolicyExplain"]


class PolicyCheck(Action):
    """Validate the configuration and say what it means.

    Exit status: 0 valid, 1 valid but a rule group is not used, 255 refused.
    """

    def given(self, _: argparse.Namespace) -> int:
        return 1

    def take_action(self, _: argparse.Namespace) -> int:
        chosen = settings(self)
        policy = chosen.policy
        self.app.stdout.write(f"valid: {', '.join(chosen.files) or 'the built-in defaults (no file)'}\n")
        for number, rule in enumerate(policy.rules, 1):
            asks = " and ".join(f"{name} is {' or '.join(values)}" for name, values in rule.criteria.items())
            reason = f"  # {rule.reason}" if rule.reason else ""
            self.app.stdout.write(f"{number}. {rule.name}: {rule.decision.value} where {asks}{reason}\n")
        self.app.stdout.write(f"default: {policy.default.value}; Nova's domains: {policy.nova_domains.value}\n")
        for name in chosen.unused_rules:
            self.app.LOG.warning("[rule:%s] is not used: [policy] rules does not list it", name)
        return 1 if chosen.unused_rules else 0


class PolicyExplain(Action):
    """Say what the policy wants for a domain or a flavor, which rule decides, and why.

    With --flavor, what is not given about the project, the domain or the flavor's id is taken as not known; the
    extra specs and image properties given are taken as all that there are.

    Exit status: 0 decided, 1 undecided, 255 error (hw:pmu and hw_pmu that contradict each other included).
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        add_connect(parser)
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("domain", nargs="?", metavar="DOMAIN", help="Name or UUID.")
        what.add_argument("--xml", type=Path, metavar="FILE", help="A file of domain XML.")
        what.add_argument("--flavor", metavar="NAME", help="A flavor that a VM might be built with.")
        with_flavor = parser.add_argument_group("with --flavor")
        for option, text in (("--extra-spec", "An extra spec of the flavor."), ("--image-property", "Of the image.")):
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
                name=UNKNOWN,
                uuid=UNKNOWN,
            )
            about = f"flavor {args.flavor}"
        else:
            definition = _definition(args, chosen)
            subject = Subject.of_domain(definition)
            flavor = f" (flavor {definition.nova.flavor})" if definition.nova else ""
            about = f"domain {definition.name}{flavor}, PMU state now {definition.pmu.value}"
        ruling = decide(chosen.policy, subject)
        for line in _story(about, ruling):
            self.app.stdout.write(printable(line) + "\n")
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


def _story(about: str, ruling: Ruling) -> list[str]:
    return [about, f"decision: {ruling.decision.value}", f"rule: {ruling.rule}", f"because: {ruling.reason}"]


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value
