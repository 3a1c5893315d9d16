"""pmuconf nova check."""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
from typing import Final

from pmuconf.commands.base import Action
from pmuconf.errors import PmuconfError
from pmuconf.files.inputs import open_regular

__all__ = ["NovaCheck"]

_NO_PLUGIN, _NO_NOVA = 64, 65  # neither Nova's statuses nor those of Python itself
_SCRIPT: Final = f"""
import importlib.util, runpy, sys
for package, status in (("pmuconf", {_NO_PLUGIN}), ("pmuconf_nova", {_NO_PLUGIN}), ("nova", {_NO_NOVA})):
    if importlib.util.find_spec(package) is None:
        sys.exit(status)
runpy.run_module("pmuconf_nova.check", run_name="__main__", alter_sys=True)
"""
"""As python -m pmuconf_nova.check, but a package that is missing has an exit status of its own."""
_SECONDS: Final = 120


class NovaCheck(Action):
    """Check whether this host's Nova would load the compute plugin, and name the file that has to change if not.

    The check runs in Nova's own Python, which the first line of nova-compute or --python names. It reads Nova's
    configuration as nova-compute does, loads the driver and reads the policy. Then it runs Nova's generator for a
    made-up flavor and shows the <features> of that domain. Nothing is changed.

    Exit status, as of nova-status upgrade check: 0 no problem, 1 a warning, 2 a failure, 255 an error.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("--python", metavar="PATH", help="The Python of Nova's environment.")
        parser.add_argument(
            "--nova-config-file",
            action="append",
            default=[],
            metavar="FILE",
            help="A file that nova-compute reads (its --config-file). Repeat the option for several, in their order.",
        )
        parser.add_argument("--json", action="store_true", help="As JSON.")
        return parser

    def take_action(self, args: argparse.Namespace) -> int:
        interpreter = [args.python] if args.python else _interpreter()
        options = [f"--config-file={path}" for path in args.nova_config_file]
        if args.json:
            options.append("--json")
        check = _run([*interpreter, "-c", _SCRIPT, *options])
        if check.returncode == _NO_PLUGIN:
            self.app.stdout.write("the plugin is not installed\n")
            self.app.LOG.error(
                "%s lacks the plugin (nova-plugin-missing). There: pip install --no-deps pmuconf pmuconf-nova",
                interpreter[0],
            )
            return 2
        if check.returncode == _NO_NOVA:
            raise PmuconfError(
                f"{interpreter[0]} has no Nova", cause="nova-missing", hint="Name Nova's own Python with --python"
            )
        if check.returncode not in (0, 1, 2):
            last_line = (check.stderr.strip().splitlines() or ["there was no message"])[-1]
            raise PmuconfError(f"the check failed in {interpreter[0]}: {last_line}", cause="nova-check")
        self.app.stdout.write(check.stdout)
        return check.returncode


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS, cwd="/")
    except OSError as error:
        raise PmuconfError(f"{command[0]}: {error.strerror}", cause="nova-python") from None
    except subprocess.TimeoutExpired:
        raise PmuconfError(f"Nova's Python did not answer within {_SECONDS} s", cause="nova-python") from None


def _interpreter() -> list[str]:
    """The Python that runs nova-compute, with its options, from the first line of that script."""
    script = shutil.which("nova-compute")
    if script is None:
        raise PmuconfError(
            "there is no nova-compute on this host's PATH",
            cause="nova-missing",
            hint="Name Nova's Python with --python; in a container, run there: python3 -m pmuconf_nova.check",
        )
    with open(open_regular(script), "rb") as file:
        first = file.readline(4096)
    try:
        words = shlex.split(first[2:].decode("utf-8", "replace")) if first.startswith(b"#!") else []
    except ValueError:  # a quote that is not closed
        words = []
    if not words:
        raise PmuconfError(
            f"{script} is no Python script", cause="nova-python", hint="Name Nova's Python with --python"
        )
    return words
