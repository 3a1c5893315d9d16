"""The symbols of the running kernel, from /proc/kallsyms.

It shows addresses to CAP_SYSLOG only, and to nobody with kernel.kptr_restrict=2. A kernel has 200,000 lines there, and
most questions are about a few of them: so the file is searched as bytes, and a line is parsed when it is asked for.
"""

from __future__ import annotations

import bisect
import errno
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from pmuconf.errors import PmuconfError
from pmuconf.host.root import Root

__all__ = ["Kallsyms", "Symbol", "broken_symbols"]

_LINE: Final = re.compile(rb"^([0-9a-f]{8,16}) ([A-Za-z?]) (\S+)(?:\t\[([^\]\n]+)\])?$", re.MULTILINE)
_ADDRESS: Final = re.compile(rb"^([0-9a-f]{16}) ", re.MULTILINE)
_CODE: Final = frozenset(b"tTwW")
_PAGE: Final = 4096
_SHIFT: Final = 32
_PLACE: Final = (1 << _SHIFT) - 1
_MAX_ALIASES: Final = 10_000
_MAX_BYTES: Final = 32 << 20
_MAX_LINES: Final = 1_000_000
"""A distribution's kernel with its modules has 250,000."""
_MAX_LINE: Final = 1024
"""Names have up to 512 bytes since 6.1."""
_SCANS: Final = 64
"""So many addresses are searched for one by one, which is fast for few; for more an index is made."""


class Symbol(NamedTuple):
    """A symbol; a tuple, for there are 200,000 of them."""

    address: int
    name: str
    is_code: bool


class Kallsyms:
    """The symbols, as they were when the file was read.

    :raises PmuconfError: the file can't be read, or has no addresses; cause no-kallsyms, kallsyms-hidden or
        kallsyms-broken.
    """

    def __init__(self, root: Root) -> None:
        try:
            self._data = root.read("/proc/kallsyms", _MAX_BYTES)
        except OSError as error:
            if error.errno == errno.EFBIG:
                raise broken_symbols(f"it is {error.strerror}") from None
            raise PmuconfError(
                f"/proc/kallsyms can't be read: {error.strerror}", cause="no-kallsyms", hint="Run pmuconf host as root"
            ) from None
        if _LINE.match(self._data) is None:
            raise broken_symbols("it does not begin with a symbol")
        self._check_lines()
        if re.search(rb"^(?!0+ )[0-9a-f]+ [tTwW] ", self._data, re.MULTILINE) is None:
            raise _hidden(root.text("/proc/sys/kernel/kptr_restrict"))
        self._by_address: dict[int, tuple[str, ...]] = {}
        self._index: list[int] | None = None

    def find(self, name: str) -> list[tuple[int, str | None]]:
        """Address and module (None: built in) of each function of exactly that name."""
        line = rb"^([0-9a-f]{8,16}) [tTwW] " + re.escape(name.encode()) + rb"(?:\t\[([^\]\n]+)\])?$"
        matches = re.finditer(line, self._data, re.MULTILINE)
        return [(int(match.group(1), 16), _text(match.group(2))) for match in matches]

    def data(self, name: str) -> list[tuple[int, str | None]]:
        """Address and module (None: built in) of each variable of exactly that name.

        Kernels without CONFIG_KALLSYMS_ALL list none.
        """
        variables = []
        wanted = b" " + name.encode()
        at = self._data.find(wanted)
        while at >= 0:
            match = _LINE.match(self._data, self._line_of(at))
            if match and match.group(3) == wanted[1:] and match.group(2)[0] not in _CODE:
                variables.append((int(match.group(1), 16), _text(match.group(4))))
            end = self._data.find(b"\n", at)
            at = self._data.find(wanted, end) if end >= 0 else -1
        return variables

    def of_module(self, module: str | None) -> list[Symbol]:
        """All symbols of a module; of what is built in, if that is None."""
        if module is None:
            return [_symbol(match) for match in _LINE.finditer(self._data) if match.group(4) is None]
        symbols = []
        tag = b"\t[" + module.encode() + b"]\n"
        lines = self._data if self._data.endswith(b"\n") else self._data + b"\n"
        at = lines.find(tag)
        while at >= 0:
            match = _LINE.match(lines[self._line_of(at) : at + len(tag)])
            if match:
                symbols.append(_symbol(match))
            at = lines.find(tag, at + 1)
        return symbols

    def at(self, address: int) -> tuple[str, ...]:
        """The names of what begins exactly at that address, in any module."""
        if address not in self._by_address:
            names = (match.group(3).decode("utf-8", "replace") for match in self._lines_at(address))
            self._by_address[address] = tuple(names)
        return self._by_address[address]

    def first_in(self, page: int) -> int | None:
        """The lowest address in a page at which something begins, in any module; None if nothing does."""
        addresses, digits = [], b"\n%013x" % (page // _PAGE)
        at = self._data.find(digits)
        while at >= 0:
            match = _ADDRESS.match(self._data, at + 1)
            addresses += [int(match.group(1), 16)] if match else []
            at = self._data.find(digits, at + 1)
        return min(addresses, default=None)

    def excerpt(self, module: str | None, keep: range) -> set[bytes]:
        """The lines of a module (of what is built in and lies in ``keep``), and of all that at() was asked for."""
        tag = b"\t[" + module.encode() + b"]" if module is not None else b""
        lines = {
            match.group()
            for match in _LINE.finditer(self._data)
            if (match.group().endswith(tag) if tag else match.group(4) is None and int(match.group(1), 16) in keep)
        }
        for address in self._by_address:
            lines.update(match.group() for match in self._lines_at(address))
        return lines

    def _lines_at(self, address: int) -> Iterator[re.Match[bytes]]:
        if self._index is None and len(self._by_address) >= _SCANS:
            places = ((int(match.group(1), 16), match.start()) for match in _ADDRESS.finditer(self._data))
            self._index = sorted(address_ << _SHIFT | place for address_, place in places)
        for place in self._scanned(address) if self._index is None else self._indexed(self._index, address):
            match = _LINE.match(self._data, place)
            if match and (place == 0 or self._data[place - 1] == ord("\n")):
                yield match

    def _indexed(self, index: list[int], address: int) -> Iterator[int]:
        """Where the lines of an address begin, by the index."""
        first = bisect.bisect_left(index, address << _SHIFT)
        for entry in index[first : first + _MAX_ALIASES]:
            if entry >> _SHIFT != address:
                return
            yield entry & _PLACE

    def _scanned(self, address: int) -> Iterator[int]:
        """Where the lines of an address may begin, by a search through the file."""
        digits = b"%016x " % address
        at = self._data.find(digits)
        for _ in range(_MAX_ALIASES):
            if at < 0:
                return
            yield at
            at = self._data.find(digits, at + 1)

    def _line_of(self, at: int) -> int:
        """Where the line begins that a place is in."""
        return self._data.rfind(b"\n", max(0, at - _MAX_LINE), at) + 1

    def _check_lines(self) -> None:
        """Refuse lines that are longer, or more, than any kernel's: what looks for a line's start goes back to it."""
        at, size = 0, len(self._data)
        while size - at > _MAX_LINE:
            end = self._data.rfind(b"\n", at, at + _MAX_LINE)
            if end < 0:
                raise broken_symbols(f"a line has more than {_MAX_LINE} bytes")
            at = end + 1
        if self._data.count(b"\n") > _MAX_LINES:
            raise broken_symbols(f"it has more than {_MAX_LINES} lines")


def broken_symbols(why: str) -> PmuconfError:
    """The error that says so of /proc/kallsyms."""
    return PmuconfError(f"/proc/kallsyms is not what it should be: {why}", cause="kallsyms-broken")


def _hidden(restrict: str | None) -> PmuconfError:
    why = f"kernel.kptr_restrict is {restrict}" if restrict in ("1", "2") else "not root"
    hint = "Set kernel.kptr_restrict to 1 or 0 for the moment" if restrict == "2" else "Run as root"
    return PmuconfError(f"/proc/kallsyms shows no addresses: {why}", cause="kallsyms-hidden", hint=hint)


def _symbol(match: re.Match[bytes]) -> Symbol:
    name = match.group(3).decode("utf-8", "replace")
    return Symbol(int(match.group(1), 16), name, match.group(2)[0] in _CODE)


def _text(data: bytes | None) -> str | None:
    return data.decode("utf-8", "replace") if data else None
