"""Code at addresses, in which a path can be followed, from a file or from a running kernel."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Protocol

__all__ = ["Beside", "Image", "Symbols"]


class Image(Protocol):
    """Code and its symbols, at the addresses of the running kernel. A file that is not linked has made-up addresses."""

    symbols: Symbols
    switches: Mapping[int, int]
    """The jumps that a static key turns on and off, and the target of each; a running kernel's code has them as set."""

    def read(self, address: int, size: int) -> bytes:
        """Up to so many bytes from an address; fewer or none where they can't be read."""
        ...

    def text(self) -> Iterator[tuple[int, bytes]]:
        """All code of KVM that can be read, in pieces with their addresses."""
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
        """The names of what begins exactly at an address."""
        return self._names.get(address, ())

    def addresses(self, name: str) -> tuple[int, ...]:
        """The addresses that have a name; static functions may share one."""
        return self._addresses.get(name, ())

    def start(self, address: int) -> int | None:
        """The start of the symbol that an address lies in, or behind: sizes are not known everywhere."""
        at = bisect.bisect_right(self._sorted, address)
        return self._sorted[at - 1] if at else None

    def end(self, address: int) -> int | None:
        """The start of the next symbol."""
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
    """A module beside the one that it calls. Paths lead through both, and the text to search is the module's own."""

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
