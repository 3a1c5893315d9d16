"""libvirt's event loop: one thread of this process, which keepalive and events need."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final

import libvirt

from pmuconf.errors import PmuconfError
from pmuconf.hypervisor.errors import no_threads

__all__ = ["await_turn", "be_prompt", "start"]

_LEISURE_SECONDS: Final = 0.05
_TURN_SECONDS: Final = 10.0

_starting = threading.Lock()
_prompt = threading.Event()
_awaiting = threading.Lock()
_turned = threading.Event()


@dataclass
class _Loop:
    """The one event loop of this process. ``timer`` is libvirt's number of the timer of await_turn()."""

    registered: bool = False
    started: bool = False
    timer: int | None = None


_loop = _Loop()


def start() -> None:
    """Run libvirt's event loop in a thread of this process, once.

    Keepalive and events need it, and the embedded driver does not work without. It can't be registered after a
    connection was opened (https://libvirt.org/html/libvirt-libvirt-event.html).

    :raises PmuconfError: threads-exhausted.
    """
    with _starting:
        if _loop.started:
            return
        if not _loop.registered:
            libvirt.registerErrorHandler(lambda _data, _error: None, None)  # it would print what we raise
            libvirt.virEventRegisterDefaultImpl()
            _loop.registered = True
        try:
            threading.Thread(target=_run, name="libvirt-events", daemon=True).start()
        except RuntimeError:
            raise no_threads() from None
        _loop.started = True


def be_prompt() -> None:
    """From now on events are heard at once, not only when keepalive needs the loop."""
    _prompt.set()


def await_turn() -> None:
    """Return when the event loop has come by once more.

    By one timer that stays: libvirt-python 12.8 never lets go of what is given to one that is added.

    :raises PmuconfError: libvirt-timeout: the loop stands still, which is a defect of pmuconf or libvirt.
    """
    with _awaiting:
        if _loop.timer is None:
            _loop.timer = libvirt.virEventAddTimeout(-1, _turn, None)
        _turned.clear()
        libvirt.virEventUpdateTimeout(_loop.timer, 0)
        if not _turned.wait(_TURN_SECONDS):
            raise PmuconfError(
                f"libvirt's event loop stands still for {_TURN_SECONDS:.0f} seconds",
                cause="libvirt-timeout",
                hint="Start the command or the service again",
            )


def _turn(timer: int, _data: object) -> None:
    libvirt.virEventUpdateTimeout(timer, -1)  # once for each time that it is asked for
    _turned.set()


def _run() -> None:
    """Turn the event loop; with pauses as long as only keepalive needs it.

    Each request of any thread makes the loop turn twice, and each turn needs the interpreter's lock. Without the pauses
    that takes a quarter of the time of an audit.
    """
    while True:
        libvirt.virEventRunDefaultImpl()
        _prompt.wait(_LEISURE_SECONDS)
