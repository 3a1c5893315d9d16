"""pmuconf nova check"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess

from pmuconf.commands.base import Action
from pmuconf.errors import PmuconfError
from pmuconf.files.inputs import open_regular

__all__ = ["Check"]

_MODULE = "pmuconf_nova.check"


class Check(Action):
    """Say whether this host's Nova would load the compute plugin, and which file has to change if not.

    Runs in Nova's own Python, found by nova-compute's first line, or --python. It reads Nova's configuration as
    nova-compute does, loads the driver, reads the policy, and runs Nova's generator once for a made-up flavor to show
    the resulting <features>. Nothing is changed. In a container, without this command:
    docker exec nova_compute python3 -m pmuconf_nova.check

    Exit status, as of nova-status upgrade check: 0 all well, 1 a warning, 2 a failure, 255 an error.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("--python", metavar="PATH", help="The Python of Nova's environment.")
        parser.add_argument(
            "--nova-config-file",
            action="append",
            default=[],
            metavar="FILE",
            help="A file that nova-compute is started with (--config-file there); several in their order.",
        )
        parser.add_argument("--json", action="store_true", help="As JSON.")
        return parser

    def take_action(self, args: argparse.Namespace) -> int:
        interpreter = [args.python] if args.python else _interpreter()
        options = [f"--config-file={path}" for path in args.nova_config_file]
        command = [*interpreter, "-m", _MODULE, *options, *(["--json"] if args.json else [])]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd="/")
        except OSError as error:
            raise PmuconfError(f"{interpreter[0]}: {error.strerror}", cause="nova-python") from None
        except subprocess.TimeoutExpired:
            raise PmuconfError("Nova's Python did not answer within 120 s", cause="nova-python") from None
        if "No module named pmuconf" in done.stderr or "No module named 'pmuconf" in done.stderr:
            self.app.stdout.write("the plugin is not installed\n")
            self.app.LOG.error(
                "%s lacks the plugin (nova-plugin-missing). There: pip install --no-deps pmuconf pmuconf-nova",
                interpreter[0],
            )
            return 2
        if "No module named 'nova" in done.stderr:
            raise PmuconfError(
                f"{interpreter[0]} has no Nova", cause="nova-missing", hint="Name Nova's own Python with --python"
            )
        if done.returncode not in (0, 1, 2):
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise PmuconfError(f"the check failed in {interpreter[0]}: {last}", cause="nova-check")
        self.app.stdout.write(done.stdout)
        return done.returncode


def _interpreter() -> list[str]:
    """The Python that runs nova-compute, as the first line of that script names it."""
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
