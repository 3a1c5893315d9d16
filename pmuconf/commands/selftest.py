"""pmuconf selftest."""

from __future__ import annotations

import argparse
import time

from pmuconf.commands.base import Action, settings
from pmuconf.commands.outputs import add_format, show
from pmuconf.errors import PmuconfError
from pmuconf.selftest.answers import checks_of_answers
from pmuconf.selftest.files import checks_of_files
from pmuconf.selftest.host import checks_of_confinement, checks_of_host
from pmuconf.selftest.live import Live
from pmuconf.selftest.result import SelfTest, failed, ok
from pmuconf.selftest.units import checks_of_units

__all__ = ["Selftest"]


class Selftest(Action):
    """Check how pmuconf is installed on this host: units, sandbox, files, polkit, libvirt, kernel, service.

    It reads only, and starts nothing. Each check is ok, failed, or not checked, with the reason. Some checks require
    root.

    Exit status: 0 all checks are ok, 1 some could not be made, 2 some failed, 255 error.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        add_format(parser)
        return parser

    def take_action(self, args: argparse.Namespace) -> int:
        live = Live()
        results = [*checks_of_units(live)]
        try:
            chosen = settings(self)
        except PmuconfError as error:
            results.append(failed("configuration", f"{error.message} ({error.cause})"))
        else:
            results.append(ok("configuration", "valid"))
            results += checks_of_files(live, chosen)
            results += checks_of_host(chosen)
            results += checks_of_answers(live, chosen, time.time())
        results += checks_of_confinement(live)
        answer = SelfTest(results)
        show(self, args, answer)
        return answer.severity
