"""Code at addresses: what a path can be followed in, whether it was read from a file or from a running kernel."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Protocol

__all__ = ["Beside", "Image", "Symbols"]


class Image(Protocol):
    """Code and its symbols. Addresses are those of the running kernel, or made up for a file that is not linked."""

    symbols: Symbols
    switches: Mapping[int, int]
    """Jumps of which the code does not tell whether they are taken, and where to: in a running kernel it does."""

    def read(self, address: int, size: int) -> bytes:
        """Up to so many bytes from there; fewer or none where they can't be had."""
        ...

    def text(self) -> Iterator[tuple[int, bytes]]:
        """All code of KVM that can be had, in pieces with their addresses."""
        ...


class Symbols:
    """Names at addresses. Several names may share an address, and several addresses a name."""

    def __init__(self, pairs: Iterable[tuple[int, str]]) -> None:
        names: dict[int, list[str]] = {}
        addresses: dict[str, dict[int, None]] = {}  # dicts keep the order
        for address, name in pairs:
            names.setdefault(address, []).append(name)
            addresses.setdefault(name, {})[address] = None
        self._names = {address: tuple(all_) for address, all_ in names.items()}
        self._addresses = {name: tuple(all_) for name, all_ in addresses.items()}
        self._sorted = sorted(self._names)

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return ((address, name) for address in self._sorted for name in self._names[address])

    def names(self, address: int) -> tuple[str, ...]:
        """What begins exactly there."""
        return self._names.get(address, ())

    def addresses(self, name: str) -> tuple[int, ...]:
        """Where that name begins; several for static functions of the same name."""
        return self._addresses.get(name, ())

    def start(self, address: int) -> int | None:
        """Where the symbol begins that an address lies in (or behind: sizes are not known everywhere)."""
        at = bisect.bisect_right(self._sorted, address)
        return self._sorted[at - 1] if at else None

    def end(self, address: int) -> int | None:
        """Where the next symbol begins."""
        at = bisect.bisect_right(self._sorted, address)
        return self._sorted[at] if at < len(self._sorted) else None

    def show(self, address: int) -> str:
        """The address as ``symbol+0x12``, or in digits."""
        start = self.start(address)
        if start is None or address - start >= 1 << 20:
            return f"{address:#x}"
        name = self._names[start][0]
        return name if start == address else f"{name}+{address - start:#x}"


class Beside:
    """A module beside the one that it calls: both can be followed, and the text to search is the module's own."""

    def __init__(self, module: Image, called: Image) -> None:
        self._module, self._called = module, called
        self.symbols = Symbols(chain(module.symbols, called.symbols))
        self.switches: Mapping[int, int] = {**called.switches, **module.switches}

    def read(self, address: int, size: int) -> bytes:
        """Up to so many bytes of either."""
        return self._module.read(address, size) or self._called.read(address, size)

    def text(self) -> Iterator[tuple[int, bytes]]:
        """All code of the module."""
        return self._module.text()
