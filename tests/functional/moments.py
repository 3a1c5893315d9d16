"""Let something happen at a chosen moment of a run: around one call of pmuconf's to libvirt, which is still made."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from pmuconf.hypervisor.hypervisor import Hypervisor

__all__ = ["after", "before"]


def before(
    monkeypatch: pytest.MonkeyPatch, method: str, happens: Callable[[], object], *, call: int | None = 1
) -> None:
    """Let it happen right before the call with this number of a method of Hypervisor; None means each call."""
    _around(monkeypatch, method, call, happens, None)


def after(monkeypatch: pytest.MonkeyPatch, method: str, happens: Callable[[], object], *, call: int | None = 1) -> None:
    """Let it happen right after the call with this number, before pmuconf sees what the call gave."""
    _around(monkeypatch, method, call, None, happens)


def _around(
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    call: int | None,
    first: Callable[[], object] | None,
    last: Callable[[], object] | None,
) -> None:
    real = getattr(Hypervisor, method)
    counting = threading.Lock()
    calls = 0

    def wrapped(self: Hypervisor, *arguments: Any, **named: Any) -> Any:
        nonlocal calls
        with counting:
            calls += 1
            now = call in (None, calls)
        if now and first is not None:
            first()
        answer = real(self, *arguments, **named)
        if now and last is not None:
            last()
        return answer

    monkeypatch.setattr(Hypervisor, method, wrapped)
