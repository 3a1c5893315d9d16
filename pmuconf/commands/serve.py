"""The command pmuconf serve."""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pmuconf import conf
from pmuconf.access import surveyor
from pmuconf.commands.base import Action, add_connect, settings
from pmuconf.libraries import needed

if TYPE_CHECKING:
    from pmuconf.hostfacts import HostFacts

__all__ = ["Serve"]

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_GRACE_SECONDS: Final[dict[int, float]] = {signal.SIGTERM: 4.0, signal.SIGINT: 1.5}


class Serve(Action):
    """Keep this host's domains on policy and its report fresh, until told to stop.

    The service looks at all domains at the start, whenever libvirt comes back, every [service] interval, and at SIGHUP.
    In between it looks at each domain of which libvirt reports an event. It decides and changes exactly as audit and
    apply do.

      [service] mode = observe   (the default) reports what is off policy; libvirt is opened read-only
      [service] mode = enforce   writes the next boot's PMU state too; no running guest is touched

    It serves the report page (/), /metrics (Prometheus) and /healthz (200 or 503, and why) at [service] listen,
    127.0.0.1:9754. It replaces [service] textfile and html if they are named, and logs to standard error.

    Signals: HUP reads the configuration anew and looks at all domains. A wrong configuration is refused, and the old
    one stays. TERM ends the service within five seconds, INT within two. Neither changes anything.

    Exit status: 0 stopped by a signal, 255 it could not start: the configuration is wrong, or its address is taken.
    Trouble with libvirt never ends it.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        add_connect(parser)
        parser.add_argument(
            "--observe",
            action="store_true",
            help="Change nothing, whatever the configuration says: neither [service] mode nor that of a rule counts.",
        )
        return parser

    def take_action(self, args: argparse.Namespace) -> int:
        # Before any thread is there: they all inherit it, and the one that waits for signals gets them.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        with needed():
            from pmuconf.service.log import Log
            from pmuconf.service.loop import Service
            from pmuconf.service.systemd import Systemd
        service_log, systemd = Log(), Systemd()
        service = Service(lambda: self._settings(args), _survey, service_log, systemd)
        threading.Thread(target=_obey, args=(service.reload, service.stop, systemd.stopping), daemon=True).start()
        service.run()
        service_log.info("stopped", "stopped")
        return 0

    def _settings(self, args: argparse.Namespace) -> conf.Settings:
        chosen = settings(self)
        if args.connect:
            chosen = replace(chosen, uri=args.connect)
        if args.observe:
            chosen = replace(chosen, service=replace(chosen.service, mode=conf.Mode.OBSERVE, rule_modes={}))
        return chosen


def _survey(file: Path | None) -> HostFacts:
    return surveyor(file)()


def _obey(reload: Callable[[], None], stop: Callable[[], None], stopping: Callable[[], None]) -> None:
    """Wait for signals; in a thread, because Python calls a handler only between two steps of the main one.

    The main thread may hang in a call to libvirt until keepalive notices. A change that is cut off then is in the
    journal, and settled at the next start, as after kill -9.
    """
    while (number := signal.sigwait(_SIGNALS)) == signal.SIGHUP:
        reload()
    stopping()
    stop()
    time.sleep(_GRACE_SECONDS[number])
    os._exit(0)
