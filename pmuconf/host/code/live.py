"""The text of the running kernel, as images: the symbols say where it is, the memory holds it."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from pmuconf.host.code.image import Symbols
from pmuconf.host.code.kallsyms import Kallsyms, Symbol, broken_symbols
from pmuconf.host.code.kcore import PAGE, Kcore
from pmuconf.host.names import FUNCTION, is_kvms

__all__ = ["LiveText"]

_MAX_TEXT: Final = 32 << 20
_MAX_REST: Final = 16 * PAGE
"""How much a function may have behind the page that it begins in."""
_MAX_OWN: Final = 250_000
_NEAR: Final = 8 << 20


class LiveText:
    """The code of one module, or of the kernel itself, as an image; what it calls elsewhere is known by name.

    :param patch: the module is a livepatch, whose symbols may lie apart.
    """

    def __init__(self, kallsyms: Kallsyms, kcore: Kcore, module: str | None, *, patch: bool = False) -> None:
        own = kallsyms.of_module(module)
        if module is None:
            own = _of_kvm(own)
        if len(own) > _MAX_OWN:
            raise broken_symbols(f"{module or 'KVM'} has {len(own)} symbols")
        self._kallsyms, self._kcore, self._module = kallsyms, kcore, module
        self.switches: Mapping[int, int] = {}  # a running kernel's code is as it has switched it
        self._cache: dict[int, bytes] = {}
        self._code = sorted(symbol.address for symbol in own if symbol.is_code)
        self._patch = patch
        self.symbols: Symbols = _LiveSymbols(((symbol.address, symbol.name) for symbol in own), self._code, kallsyms)

    def read(self, address: int, size: int) -> bytes:
        """Up to so many bytes, read page by page and kept."""
        page = address & -PAGE
        if page not in self._cache:
            self._cache[page] = self._kcore.page(page)
        data = self._cache[page][address - page :][:size]
        if data and len(data) < size and address + len(data) == page + PAGE:
            return data + self.read(page + PAGE, size - len(data))
        return data

    def text(self) -> Iterator[tuple[int, bytes]]:
        """All code of the module, in pieces that follow one another; of a built-in KVM only what is KVM's.

        A piece that can't be read whole is left out. Memory that can't be read may show as zeros.
        """
        for span in self._apart() if self._patch else [self._span()]:
            if 0 < span.stop - span.start <= _MAX_TEXT:
                pages = [self.read(page, PAGE) for page in span[::PAGE]]
                if all(len(page) == PAGE and page.strip(b"\0") for page in pages):
                    yield span.start, b"".join((*pages, *self._rest(span.stop)))

    def _rest(self, start: int) -> Iterator[bytes]:
        """What the last function has on the pages behind, up to the next symbol of any module."""
        for page in range(start, start + _MAX_REST, PAGE):
            data, end = self.read(page, PAGE), self._kallsyms.first_in(page)
            if len(data) < PAGE or not data.strip(b"\0"):
                return
            yield data if end is None else data[: end - page]
            if end is not None:
                return

    def pages_read(self) -> dict[int, bytes]:
        """Every whole page that was read, by its address."""
        return {address: data for address, data in self._cache.items() if len(data) == PAGE}

    def kallsyms_read(self) -> set[bytes]:
        """The lines of /proc/kallsyms that were used."""
        return self._kallsyms.excerpt(self._module, self._span())

    def _span(self) -> range:
        return _pages(self._code) if self._code else range(0)

    def _apart(self) -> Iterator[range]:
        """The same without what lies between symbols that are too far from each other: see _LiveSymbols._is_own."""
        near: list[int] = []
        for address in self._code:
            if near and address - near[-1] > 2 * PAGE:
                yield _pages(near)
                near = []
            near.append(address)
        if near:
            yield _pages(near)


def _pages(addresses: Sequence[int]) -> range:
    """The pages from the first to the last of these."""
    return range(addresses[0] & -PAGE, (addresses[-1] & -PAGE) + PAGE)


def _of_kvm(symbols: list[Symbol]) -> list[Symbol]:
    """Of all that is built in, those that lie among the functions that are named as KVM's are."""
    centre = next((symbol.address for symbol in symbols if symbol.name == FUNCTION), 0)
    functions = (address for address, name, is_code in symbols if is_code and is_kvms(name))
    near = [address for address in functions if abs(address - centre) < _NEAR]
    first, last = min(near, default=0), max(near, default=-1)
    return [symbol for symbol in symbols if first <= symbol.address <= last]


class _LiveSymbols(Symbols):
    """The module's own symbols, and by address those of everything else."""

    def __init__(self, pairs: Iterable[tuple[int, str]], code: Sequence[int], kallsyms: Kallsyms) -> None:
        super().__init__(pairs)
        self._kallsyms = kallsyms
        # Of code alone: a module has symbols of its per-CPU variables too, which are offsets from nearly nothing.
        self._code = code

    def names(self, address: int) -> tuple[str, ...]:
        """The names of what begins exactly there. Only outside of the module all symbols are searched."""
        return super().names(address) if self._is_own(address) else self._kallsyms.at(address)

    def _is_own(self, address: int) -> bool:
        """Whether it lies in code of the module.

        Not all between its first and last symbol does: since Linux kernel commit 1ce15ef4f605 ("module: preserve Elf
        information for livepatch modules") (in v4.7) livepatches keep the symbols of their init code, which is gone,
        and other modules may lie between. They are at least three pages apart then.
        """
        at = bisect.bisect_right(self._code, address)
        if not 0 < at < len(self._code):
            return False  # where the last function ends is not known, and another module may begin on the next page
        return self._code[at] <= self._code[at - 1] + 2 * PAGE
