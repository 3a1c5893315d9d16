"""The command ``pmuconf rewrite``."""

from __future__ import annotations

import argparse
import errno
import sys

from pmuconf.commands.base import Action, settings
from pmuconf.domain.definition import PmuState
from pmuconf.domain.rewriting import rewrite_bytes
from pmuconf.errors import PmuconfError
from pmuconf.files.inputs import read_start

__all__ = ["Rewrite"]


class Rewrite(Action):
    """Write domain XML to standard output with its PMU state set, and every other byte as it was. Needs no libvirt.

    Asks no policy: it does what --pmu says.

    Exit status: 0, or 255 for an error; then nothing is written.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("file", nargs="?", default="-", metavar="FILE", help="Domain XML; - is standard input.")
        parser.add_argument(
            "--pmu",
            choices=[state.value for state in PmuState],
            default=PmuState.OFF.value,
            help="The state to write (off unless given); default takes the element away.",
        )
        return parser

    def given(self, _: argparse.Namespace) -> int:
        return 1

    def take_action(self, args: argparse.Namespace) -> int:
        limit = settings(self).max_xml_bytes
        source = "standard input" if args.file == "-" else args.file
        if args.file == "-" and sys.stdin is None:
            raise PmuconfError("standard input is closed", cause="file-unreadable", hint="Name a file, or pipe it in")
        try:
            data = sys.stdin.buffer.read(limit + 1) if args.file == "-" else read_start(args.file, limit + 1)
        except OSError as error:
            hint = "Pipe it into 'pmuconf rewrite -'" if error.errno == errno.EINVAL else ""
            raise PmuconfError(f"{source}: {error.strerror}", cause="file-unreadable", hint=hint) from None
        text = rewrite_bytes(data, PmuState(args.pmu), source=source, max_bytes=limit)
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
        return 0
