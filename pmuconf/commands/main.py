"""The command pmuconf: global options, exit statuses, and how errors are shown."""

from __future__ import annotations

import gc
import importlib
import io
import logging
import os
import sys
import types
from typing import TYPE_CHECKING, Any

import pmuconf

if TYPE_CHECKING:
    import argparse

__all__ = ["main"]

ERROR = 255
CHECK_UNKNOWN = 3
"""Of a monitoring plug-in: status --check alone gives it."""

# Where each command is: found here and imported when it is asked for, because finding plug-ins and importing every
# command costs more than all that an audit of one VM does.
_COMMANDS = {
    "apply": "pmuconf.commands.apply:Apply",
    "audit": "pmuconf.commands.audit:Audit",
    "bench compare": "pmuconf.commands.bench:CompareRuns",
    "bench cpuid": "pmuconf.commands.bench:BenchCpuid",
    "bench msr": "pmuconf.commands.bench:BenchMsr",
    "bench port": "pmuconf.commands.bench:BenchPort",
    "explain": "pmuconf.commands.explain:Explain",
    "fleet diff": "pmuconf.commands.fleet:FleetDiff",
    "fleet plan": "pmuconf.commands.fleet:FleetPlan",
    "fleet report": "pmuconf.commands.fleet:FleetReport",
    "flavors apply": "pmuconf.commands.flavors:FlavorsApply",
    "flavors audit": "pmuconf.commands.flavors:FlavorsAudit",
    "flavors export": "pmuconf.commands.flavors:FlavorsExport",
    "flavors rollback": "pmuconf.commands.flavors:FlavorsRollback",
    "host": "pmuconf.commands.host:ShowHost",
    "host facts": "pmuconf.commands.facts:WriteFacts",
    "host record": "pmuconf.commands.host:RecordHost",
    "journal": "pmuconf.commands.journal:ShowJournal",
    "journal purge": "pmuconf.commands.journal:PurgeJournal",
    "nova check": "pmuconf.commands.nova:NovaCheck",
    "policy check": "pmuconf.commands.policy:PolicyCheck",
    "policy explain": "pmuconf.commands.policy:PolicyExplain",
    "preflight qemu": "pmuconf.commands.preflight:PreflightQemu",
    "report": "pmuconf.commands.report:WriteReport",
    "rewrite": "pmuconf.commands.rewrite:Rewrite",
    "rollback": "pmuconf.commands.rollback:Rollback",
    "serve": "pmuconf.commands.serve:Serve",
    "status": "pmuconf.commands.status:ShowStatus",
}

_HANDLER = "pmuconf"
_MISSING = "pip install 'pmuconf[host]' brings all that the commands need"

_DESCRIPTION = """\
PMU off by default for KVM guests.

  status            one short answer for this host, and what to do next
  audit             what each VM has, what the policy wants, where they differ
  apply --dry-run   what would be changed; without --dry-run, change it
  explain VM        one VM's whole story: who has the fast path, why not, what would change it
  host              whether the running kernel spares VMs without PMU its cost, and what shows it
  bench cpuid       what an exit costs on this host with the PMU on and off, measured
  fleet report DIR  the reports of many hosts joined, and which few steps would change most
  rollback          put back what was there before
  serve             keep it so: a service that hears of every new domain

Exit status of every command: 0 all as wanted, 1 a warning (something waits for a restart or can't be known),
2 a finding (a domain is off policy), 255 an error, usage errors included.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status. Without arguments it is that of the process, and may end it."""
    arguments = sys.argv[1:] if argv is None else argv
    if argv is None:
        from pmuconf.commands import interrupt

        interrupt.watch()
    if sys.stdout is None:  # closed by whoever started us
        print("pmuconf: standard output is closed (output-unwritable)", file=sys.stderr)
        return ERROR
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may have signs that the terminal has not
    if arguments == ["--version"]:  # without the 200 ms that the rest takes to load
        print(f"pmuconf {pmuconf.__version__}")
        return 0 if _flushed() else ERROR
    gc.disable()  # what loads in the next 200 ms is all kept: collecting it is a tenth of the time
    for module in ("netaddr", "rfc3986"):
        sys.modules.setdefault(module, _Later(module))
    app = _application()
    if not arguments:
        app.parser.print_help(sys.stderr)
        return ERROR
    try:
        status: int = app.run(arguments)
    except SystemExit as error:  # argparse: 0 for --help, 2 for a usage error
        status = 0 if error.code in (None, 0) else ERROR
    else:
        if status != 0 and not app.completed:  # cliff's own 1 for an exception
            status = ERROR
    status = status if _flushed() else ERROR
    return status if status in (0, 1, 2) or (status == CHECK_UNKNOWN and app.completed) else ERROR


def _flushed() -> bool:
    """Whether our output went out whole; if not, what is left of it goes nowhere, without a traceback at exit."""
    try:
        sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError):  # whose reader has gone away: nobody is left to tell
            print(f"pmuconf: the output can't be written: {error.strerror} (output-unwritable)", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


class _Later(types.ModuleType):
    """Stands in for a module until something of it is used; importlib's LazyLoader loads at the next import already.

    oslo.config imports some for option types that we have none of: 30 to 80 ms of regular expressions.
    """

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def _application() -> Any:
    from importlib.metadata import EntryPoint

    from cliff.app import App
    from cliff.commandmanager import CommandManager

    from pmuconf.report.plain import printable

    class Formatter(logging.Formatter):
        def formatMessage(self, record: logging.LogRecord) -> str:
            record.message = printable(record.message)
            return super().formatMessage(record)

    class Application(App):
        NAME = "pmuconf"  # cliff's own is what the process was called when cliff was loaded
        CONSOLE_MESSAGE_FORMAT = "pmuconf: %(message)s"
        completed = False

        def build_option_parser(
            self, description: str | None, version: str | None, argparse_kwargs: dict[str, Any] | None = None
        ) -> argparse.ArgumentParser:
            import argparse

            raw = {"formatter_class": argparse.RawDescriptionHelpFormatter, **(argparse_kwargs or {})}
            parser: argparse.ArgumentParser = super().build_option_parser(description, version, raw)
            group = parser.add_argument_group("configuration")
            group.add_argument(
                "--config-file",
                action="append",
                default=[],
                metavar="FILE",
                help="Read this instead of /etc/pmuconf/pmuconf.conf and /etc/pmuconf/pmuconf.conf.d/*.conf; may be "
                "given several times.",
            )
            group.add_argument(
                "--config-dir",
                action="append",
                default=[],
                metavar="DIR",
                help="Read DIR/*.conf too, after the files; may be given several times.",
            )
            return parser

        def configure_logging(self) -> None:
            root = logging.getLogger("")
            before = [
                handler for handler in root.handlers if handler.get_name() != _HANDLER
            ]  # but for an earlier run's
            root.handlers[:] = before
            super().configure_logging()
            for handler in root.handlers[len(before) :]:
                handler.set_name(_HANDLER)
                handler.setFormatter(Formatter(self.CONSOLE_MESSAGE_FORMAT))
            logging.getLogger("stevedore").setLevel(logging.WARNING)

        def run_subcommand(self, argv: list[str]) -> int:
            try:
                self.command_manager.find_command(argv)
            except ValueError:  # cliff itself would say so on standard output
                near = ", ".join(self.get_fuzzy_matches(argv[0]))
                did_you_mean = f"; did you mean: {near}?" if near else ""
                self.LOG.error("%r is no command%s See 'pmuconf --help'", " ".join(argv), did_you_mean or ".")
                return ERROR
            except ImportError as error:
                self.LOG.error(
                    "%s needs a module that is not installed: %s (module-missing). %s", argv[0], error, _MISSING
                )
                return ERROR
            return int(super().run_subcommand(argv))

        def prepare_to_run_command(self, cmd: object) -> None:
            gc.freeze()
            gc.enable()

        def clean_up(self, cmd: object, result: int, err: BaseException | None) -> None:
            self.completed = err is None

    manager = CommandManager("")
    for name, place in _COMMANDS.items():
        manager.commands[name] = EntryPoint(name, place, "")
    return Application(
        description=_DESCRIPTION, version=pmuconf.__version__, command_manager=manager, deferred_help=True
    )


if __name__ == "__main__":
    sys.exit(main())
