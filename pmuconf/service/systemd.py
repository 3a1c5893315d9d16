"""Messages of a service to systemd (sd_notify(3)): datagrams to the socket that NOTIFY_SOCKET names."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress

from pmuconf.report.plain import printable

__all__ = ["Systemd"]


class Systemd:
    """Sends systemd the state of the service; without systemd, sends nothing."""

    def __init__(self) -> None:
        # Taken out of the environment: it is not for processes that we start.
        path = os.environ.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        watched = os.environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = os.environ.pop("WATCHDOG_USEC", "")
        self._every = int(microseconds) / 3e6 if watched and microseconds.isdecimal() and self._address else None
        self._next = 0.0

    @property
    def every(self) -> float | None:
        """How often the watchdog gets a sign, in seconds, if alive() is called more often; None without one."""
        return self._every

    def ready(self) -> None:
        """The service runs; or its configuration was reloaded."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """The configuration is being reloaded; ready() says when that is over."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The service ends."""
        self._tell("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for 'systemctl status'; a domain's name in it can't end the line and begin a word to systemd."""
        self._tell(f"STATUS={printable(text)}")

    def alive(self) -> None:
        """Keep the watchdog quiet; cheap enough to be called all the time."""
        if self._every is not None and time.monotonic() >= self._next:
            self._next = time.monotonic() + self._every
            self._tell("WATCHDOG=1")

    def _tell(self, text: str) -> None:
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(1)  # systemd that does not read is no reason to hang
            sender.sendto(text.encode(), self._address)
