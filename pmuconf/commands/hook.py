"""The command ``pmuconf hook``: what other managers of libvirt run before they start a VM."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Final

from pmuconf.commands.base import Action, settings
from pmuconf.commands.exitstatus import ERROR
from pmuconf.commands.fence import fence
from pmuconf.commands.refusal import refusal
from pmuconf.domain.definition import Manager
from pmuconf.errors import PmuconfError
from pmuconf.hooks import cloudstack, kubevirt, opennebula, vdsm
from pmuconf.hooks.call import Call, Reply, reply

__all__ = ["RunHook"]

SECONDS: Final = 10.0
"""The time for one reply: a third of what CloudStack gives, the strictest of the managers."""
_NAMES: Final = ("kubevirt", "vdsm", "cloudstack", "opennebula")


class RunHook(Action):
    """Answer the hook of another manager of libvirt: the PMU state that the policy wants, before a VM starts.

    The domain comes as that manager passes it: in --domain (kubevirt, cloudstack), on standard input (opennebula), or
    in a file (vdsm). It goes back to standard output, or into that file, with nothing but its PMU changed.

    After an error, the domain goes back byte for byte as it came, with a line of log, and the VM starts. So it does for
    the target of a migration, and where the policy is undecided.

    Exit status: 0, or 255 if no domain came. With --strict, after any error 255 (vdsm: 2), and nothing is written.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("manager", choices=_NAMES, metavar="MANAGER", help=f"One of {', '.join(_NAMES)}.")
        parser.add_argument("--vmi", metavar="JSON", help="kubevirt: the VMI.")
        parser.add_argument("--domain", metavar="XML", help="kubevirt, cloudstack: the domain.")
        parser.add_argument("--vm", type=Path, metavar="FILE", help="opennebula: its vm.xml, for rules on attributes.")
        parser.add_argument("--strict", action="store_true", help="An error keeps the VM from starting.")
        return parser

    def take_action(self, args: argparse.Namespace) -> int:
        try:
            call = self._call(args)
        except PmuconfError as error:
            if args.manager != "vdsm":
                raise
            return self._failed(args, error)
        failed: Exception | None = None
        try:
            with fence(seconds=SECONDS):
                result = self._reply(call)
        except Exception as error:  # whatever it is, the VM must not suffer
            result, failed = Reply(call.xml, ""), error
        if failed is not None and args.strict:
            return self._failed(args, failed)
        try:
            if not (call.in_place and result.xml == call.xml):
                call.put(result.xml)
        except OSError as error:
            if not call.in_place:
                raise
            failed = error
        if failed is not None:
            return self._failed(args, failed)
        self.app.LOG.info("hook %s: %s", args.manager, result.sentence)
        return 0

    def _call(self, args: argparse.Namespace) -> Call:
        """The call, as the manager made it.

        :raises PmuconfError: hook-input, usage.
        """
        if args.manager == "vdsm":
            return vdsm.call(os.environ)
        if args.manager == "kubevirt":
            if args.vmi is None or args.domain is None:
                raise PmuconfError("--vmi and --domain are required for kubevirt", cause="usage")
            return kubevirt.call(args.vmi, args.domain, _to_output)
        if args.manager == "cloudstack":
            if args.domain is None:
                raise PmuconfError("--domain is required for cloudstack", cause="usage")
            return cloudstack.call(args.domain, _to_output)
        if sys.stdin is None:
            raise PmuconfError("standard input is closed", cause="hook-input")
        with fence(seconds=SECONDS):
            return opennebula.call(sys.stdin.buffer.read(), args.vm, _to_output)

    def _reply(self, call: Call) -> Reply:
        chosen = settings(self)
        return reply(call, chosen.policy, chosen.max_xml_bytes)

    def _failed(self, args: argparse.Namespace, error: Exception) -> int:
        """Tell what went wrong in a line; the exit status that then lets the VM start, or with --strict does not."""
        text = str(_told(error))
        title = Manager.OVIRT.title if args.manager == "vdsm" else Manager(args.manager).title
        if not args.strict:
            self.app.LOG.warning("hook %s: left as %s has it: %s", args.manager, title, text)
            return 0
        self.app.LOG.error("hook %s: %s", args.manager, text)
        return vdsm.STOP if args.manager == "vdsm" else ERROR


def _told(error: Exception) -> PmuconfError:
    """Any error as one of ours, which has a cause."""
    if isinstance(error, PmuconfError):
        return error
    if isinstance(error, OSError):
        return refusal(error)
    return PmuconfError(f"unexpected {type(error).__name__}: {error}", cause="internal")


def _to_output(xml: bytes) -> None:
    sys.stdout.buffer.write(xml)
    sys.stdout.buffer.flush()
