"""libvirt's event loop: one thread of this process, which keepalive and events need."""

from __future__ import annotations

import threading
from typing import Final

import libvirt

from pmuconf.errors import PmuconfError
from pmuconf.hypervisor.errors import no_threads

__all__ = ["await_turn", "be_prompt", "start"]

_LEISURE_SECONDS: Final = 0.05
_TURN_SECONDS: Final = 10.0

_starting = threading.Lock()
_registered = _started = False
_prompt = threading.Event()
_awaiting = threading.Lock()
_turned = threading.Event()
_timer: int | None = None


def start() -> None:
    """Run libvirt's event loop in a thread of this process, once.

    Keepalive and events need it, and the embedded driver does not work without. It can't be registered after a
    connection was opened (https://libvirt.org/html/libvirt-libvirt-event.html).

    :raises PmuconfError: threads-exhausted.
    """
    global _registered, _started
    with _starting:
        if _started:
            return
        if not _registered:
            libvirt.registerErrorHandler(lambda _data, _error: None, None)  # it would print what we raise
            libvirt.virEventRegisterDefaultImpl()
            _registered = True
        try:
            threading.Thread(target=_run, name="libvirt-events", daemon=True).start()
        except RuntimeError:
            raise no_threads() from None
        _started = True


def be_prompt() -> None:
    """From now on events are heard at once, not only when keepalive needs the loop."""
    _prompt.set()


def await_turn() -> None:
    """Return when the event loop has come by once more.

    By one timer that stays: libvirt-python 12.8 never lets go of what is given to one that is added.

    :raises PmuconfError: libvirt-timeout: the loop stands still, which is a defect of pmuconf or libvirt.
    """
    global _timer
    with _awaiting:
        if _timer is None:
            _timer = libvirt.virEventAddTimeout(-1, _turn, None)
        _turned.clear()
        libvirt.virEventUpdateTimeout(_timer, 0)
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
    """Turn the event loop; at leisure where only keepalive needs it.

    Each request of any thread makes the loop turn twice, and each turn wants the interpreter's lock: a quarter of
    the time of an audit.
    """
    while True:
        libvirt.virEventRunDefaultImpl()
        _prompt.wait(_LEISURE_SECONDS)
