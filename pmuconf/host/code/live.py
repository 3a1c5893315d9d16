"""The text of the running kernel: /proc/kallsyms says where, /proc/kcore holds it.

/proc/kallsyms shows addresses to CAP_SYSLOG only, to nobody with kernel.kptr_restrict=2; /proc/kcore needs
CAP_SYS_RAWIO, is refused under lockdown=confidentiality, and some kernels are built without it.
"""

from __future__ import annotations

import bisect
import errno
import os
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, Final

from pmuconf.errors import PmuconfError
from pmuconf.host.code.image import Symbols
from pmuconf.host.names import FUNCTION, is_kvms
from pmuconf.host.root import Root

__all__ = ["Kallsyms", "Kcore", "LiveText"]

_LINE: Final = re.compile(rb"^([0-9a-f]{8,16}) ([A-Za-z?]) (\S+)(?:\t\[([^\]\n]+)\])?$", re.MULTILINE)
_ADDRESS: Final = re.compile(rb"^([0-9a-f]{16}) ", re.MULTILINE)
_SHIFT: Final = 32
_MAX_ALIASES: Final = 10_000
_CODE: Final = frozenset(b"tTwW")
_EHDR: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR: Final = struct.Struct("<IIQQQQQQ")
_LOAD: Final = 1
_X86_64: Final = 62
_CORE: Final = 4
_MAX_SEGMENTS: Final = 4096
_MAX_TEXT: Final = 32 << 20
_MAX_REST: Final = 16 * 4096
"""How much a function may have behind the page that it begins in."""
_MAX_PAGES: Final = 96 << 8
"""How much text is read and kept of all images together, in pages of 4 KB: KVM and a livepatch have 2 MB."""
_MAX_BYTES: Final = 32 << 20
_MAX_LINES: Final = 1_000_000
"""A distribution's kernel with its modules has 250,000."""
_MAX_LINE: Final = 1024
"""Names have up to 512 bytes since 6.1."""
_MAX_OWN: Final = 250_000
_SCANS: Final = 64
"""So many addresses are searched for one by one, which is fast for few; for more an index is made."""
_PAGE: Final = 4096
_NEAR: Final = 8 << 20


class Kallsyms:
    """The symbols of the running kernel. Parsed as far as it is asked for: it has 200,000 lines.

    :raises PmuconfError: it can't be read, or has no addresses; cause no-kallsyms, kallsyms-hidden or
        kallsyms-broken.
    """

    def __init__(self, root: Root) -> None:
        try:
            self._data = root.read("/proc/kallsyms", _MAX_BYTES)
        except OSError as error:
            if error.errno == errno.EFBIG:
                raise _broken_symbols(f"it is {error.strerror}") from None
            raise PmuconfError(
                f"/proc/kallsyms can't be read: {error.strerror}", cause="no-kallsyms", hint="Run pmuconf host as root"
            ) from None
        first = _LINE.match(self._data)
        if first is None:
            raise _broken_symbols("it does not begin with a symbol")
        self._check_lines()
        if re.search(rb"^(?!0+ )[0-9a-f]+ [tTwW] ", self._data, re.MULTILINE) is None:
            restrict = root.text("/proc/sys/kernel/kptr_restrict")
            why = f"kernel.kptr_restrict is {restrict}" if restrict in ("1", "2") else "not root"
            hint = "Set kernel.kptr_restrict to 1 or 0 for the moment" if restrict == "2" else "Run as root"
            raise PmuconfError(f"/proc/kallsyms shows no addresses: {why}", cause="kallsyms-hidden", hint=hint)
        self._by_address: dict[int, tuple[str, ...]] = {}
        self._index: list[int] | None = None

    def find(self, name: str) -> list[tuple[int, str | None]]:
        """Address and module (None: built in) of every code symbol of exactly that name."""
        found = []
        for match in re.finditer(
            rb"^([0-9a-f]{8,16}) [tTwW] " + re.escape(name.encode()) + rb"(?:\t\[([^\]\n]+)\])?$",
            self._data,
            re.MULTILINE,
        ):
            found.append(
                (int(match.group(1), 16), match.group(2).decode("utf-8", "replace") if match.group(2) else None)
            )
        return found

    def data(self, name: str) -> list[tuple[int, str | None]]:
        """Address and module (None: built in) of every variable of exactly that name.

        Kernels without CONFIG_KALLSYMS_ALL list none.
        """
        found = []
        wanted = b" " + name.encode()
        at = self._data.find(wanted)
        while at >= 0:
            match = _LINE.match(self._data, self._line_of(at))
            if match and match.group(3) == wanted[1:] and match.group(2)[0] not in _CODE:
                module = match.group(4)
                found.append((int(match.group(1), 16), module.decode("utf-8", "replace") if module else None))
            end = self._data.find(b"\n", at)
            at = self._data.find(wanted, end) if end >= 0 else -1
        return found

    def of_module(self, module: str | None) -> list[tuple[int, str, bool]]:
        """Address, name and whether it is code, of all symbols of a module, or of what is built in."""
        pairs = []
        if module is not None:
            tag = b"\t[" + module.encode() + b"]\n"
            lines = self._data if self._data.endswith(b"\n") else self._data + b"\n"
            at = lines.find(tag)
            while at >= 0:
                start = self._line_of(at)
                match = _LINE.match(lines[start : at + len(tag)])
                if match:
                    pairs.append(_symbol(match))
                at = lines.find(tag, at + 1)
            return pairs
        return [_symbol(match) for match in _LINE.finditer(self._data) if match.group(4) is None]

    def at(self, address: int) -> tuple[str, ...]:
        """What begins exactly at that address, in any module."""
        if address not in self._by_address:
            self._by_address[address] = tuple(
                match.group(3).decode("utf-8", "replace") for match in self._lines_at(address)
            )
        return self._by_address[address]

    def first_in(self, page: int) -> int | None:
        """The lowest address in a page at which something begins, in any module; None if nothing does."""
        found, digits = [], b"\n%013x" % (page // _PAGE)
        at = self._data.find(digits)
        while at >= 0:
            match = _ADDRESS.match(self._data, at + 1)
            found += [int(match.group(1), 16)] if match else []
            at = self._data.find(digits, at + 1)
        return min(found, default=None)

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
            self._index = sorted(
                int(match.group(1), 16) << _SHIFT | match.start() for match in _ADDRESS.finditer(self._data)
            )
        pattern = b"%016x " % address
        if self._index is not None:
            first = bisect.bisect_left(self._index, address << _SHIFT)
            for place in self._index[first : first + _MAX_ALIASES]:
                match = _LINE.match(self._data, place & ((1 << _SHIFT) - 1)) if place >> _SHIFT == address else None
                if match:
                    yield match
            return
        at = self._data.find(pattern)
        for _ in range(_MAX_ALIASES):
            if at < 0:
                return
            match = _LINE.match(self._data, at)
            if match and (at == 0 or self._data[at - 1] == 10):
                yield match
            at = self._data.find(pattern, at + 1)

    def _line_of(self, at: int) -> int:
        """Where the line begins that a place is in."""
        return self._data.rfind(b"\n", max(0, at - _MAX_LINE), at) + 1

    def _check_lines(self) -> None:
        """Refuse lines that are longer, or more, than any kernel's: what looks for a line's start goes back to it."""
        at, size = 0, len(self._data)
        while size - at > _MAX_LINE:
            end = self._data.rfind(b"\n", at, at + _MAX_LINE)
            if end < 0:
                raise _broken_symbols(f"a line has more than {_MAX_LINE} bytes")
            at = end + 1
        if self._data.count(b"\n") > _MAX_LINES:
            raise _broken_symbols(f"it has more than {_MAX_LINES} lines")


def _broken_symbols(why: str) -> PmuconfError:
    return PmuconfError(f"/proc/kallsyms is not what it should be: {why}", cause="kallsyms-broken")


def _symbol(match: re.Match[bytes]) -> tuple[int, str, bool]:
    return int(match.group(1), 16), match.group(3).decode("utf-8", "replace"), match.group(2)[0] in _CODE


class Kcore:
    """The memory of the running kernel, by its addresses, from an ELF core file.

    :raises PmuconfError: it can't be opened or is no such file; cause no-kcore, kcore-refused or kcore-broken.
    """

    def __init__(self, root: Root) -> None:
        if not root.exists("/proc/kcore"):
            raise PmuconfError(
                "there is no /proc/kcore: this kernel is built without CONFIG_PROC_KCORE", cause="no-kcore"
            )
        try:
            self._pages = _MAX_PAGES
            self._file: BinaryIO = root.open("/proc/kcore")
            self._segments = self._read_segments()
        except PermissionError as error:
            lockdown = root.text("/sys/kernel/security/lockdown") or ""
            if "[confidentiality]" in lockdown or os.geteuid() == 0:
                why = "the kernel is locked down" if "[confidentiality]" in lockdown else str(error.strerror)
                raise PmuconfError(f"/proc/kcore is refused: {why}", cause="kcore-refused") from None
            raise PmuconfError(
                "/proc/kcore is for root only", cause="kcore-refused", hint="Run pmuconf host as root"
            ) from None
        except (OSError, OverflowError, struct.error) as error:
            raise PmuconfError(f"/proc/kcore can't be read: {error}", cause="kcore-broken") from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, address: int, size: int) -> bytes:
        """Up to so many bytes; none where the file has nothing."""
        for start, length, offset in self._segments:
            if start <= address < start + length:
                try:
                    return os.pread(self._file.fileno(), min(size, start + length - address), offset + address - start)
                except (OSError, OverflowError, ValueError):
                    return b""
        return b""

    def page(self, address: int) -> bytes:
        """A page of code, which will be kept.

        :raises PmuconfError: it is one too many; cause kcore-broken.
        """
        self._pages -= 1
        if self._pages < 0:
            raise PmuconfError("KVM and the livepatches have more code than any kernel", cause="kcore-broken")
        return self.read(address, _PAGE)

    def _read_segments(self) -> list[tuple[int, int, int]]:
        descriptor = self._file.fileno()
        ident, kind, machine, _, _, phoff, _, _, _, phentsize, phnum, *_ = _EHDR.unpack(os.pread(descriptor, 64, 0))
        if ident[:6] != b"\x7fELF\x02\x01":
            raise PmuconfError("/proc/kcore is no 64-bit ELF file", cause="kcore-broken")
        if machine != _X86_64:
            raise PmuconfError("/proc/kcore is of another architecture: only x86-64 is judged", cause="not-x86")
        if kind != _CORE or phentsize != _PHDR.size or phnum > _MAX_SEGMENTS:
            raise PmuconfError("/proc/kcore is not the core file that it should be", cause="kcore-broken")
        raw = os.pread(descriptor, phnum * _PHDR.size, phoff)
        if len(raw) != phnum * _PHDR.size:
            raise PmuconfError("/proc/kcore is truncated", cause="kcore-broken")
        found = []
        for kind, _, offset, address, _, length, _, _ in _PHDR.iter_unpack(raw):
            if kind == _LOAD and address + length <= 1 << 64:
                found.append((address, length, offset))
        return found


class LiveText:
    """The code of one module, or of the kernel itself, as an image; what it calls elsewhere is known by name.

    :param patch: the module is a livepatch, whose symbols may lie apart.
    """

    def __init__(self, kallsyms: Kallsyms, kcore: Kcore, module: str | None, *, patch: bool = False) -> None:
        own = kallsyms.of_module(module) if module is not None else _of_kvm(kallsyms.of_module(None))
        if len(own) > _MAX_OWN:
            raise _broken_symbols(f"{module or 'KVM'} has {len(own)} symbols")
        self._kallsyms, self._kcore, self._module = kallsyms, kcore, module
        self.switches: Mapping[int, int] = {}  # a running kernel's code is as it has switched it
        self._cache: dict[int, bytes] = {}
        self._code = sorted(address for address, _, code in own if code)
        self._patch = patch
        self.symbols: Symbols = _LiveSymbols(((address, name) for address, name, _ in own), self._code, kallsyms)

    def read(self, address: int, size: int) -> bytes:
        """Up to so many bytes, read page by page and kept."""
        page = address & -_PAGE
        if page not in self._cache:
            self._cache[page] = self._kcore.page(page)
        data = self._cache[page][address - page :][:size]
        if data and len(data) < size and address + len(data) == page + _PAGE:
            return data + self.read(page + _PAGE, size - len(data))
        return data

    def text(self) -> Iterator[tuple[int, bytes]]:
        """All code of the module, in pieces that follow one another; of a built-in KVM only what is KVM's.

        A piece that can't be read whole is left out. Memory that can't be read may show as zeros.
        """
        for span in self._apart() if self._patch else [self._span()]:
            if 0 < span.stop - span.start <= _MAX_TEXT:
                pages = [self.read(page, _PAGE) for page in span[::_PAGE]]
                if all(len(page) == _PAGE and page.strip(b"\0") for page in pages):
                    yield span.start, b"".join((*pages, *self._rest(span.stop)))

    def _rest(self, start: int) -> Iterator[bytes]:
        """What the last function has on the pages behind, up to the next symbol, whosoever it is."""
        for page in range(start, start + _MAX_REST, _PAGE):
            found, end = self.read(page, _PAGE), self._kallsyms.first_in(page)
            if len(found) < _PAGE or not found.strip(b"\0"):
                return
            yield found if end is None else found[: end - page]
            if end is not None:
                return

    def pages_read(self) -> dict[int, bytes]:
        """Every whole page that was read, by its address."""
        return {address: data for address, data in self._cache.items() if len(data) == _PAGE}

    def kallsyms_read(self) -> set[bytes]:
        """The lines of /proc/kallsyms that were used."""
        return self._kallsyms.excerpt(self._module, self._span())

    def _span(self) -> range:
        return _pages(self._code) if self._code else range(0)

    def _apart(self) -> Iterator[range]:
        """The same without what lies between symbols that are too far from each other: see _LiveSymbols._is_own."""
        near: list[int] = []
        for address in self._code:
            if near and address - near[-1] > 2 * _PAGE:
                yield _pages(near)
                near = []
            near.append(address)
        if near:
            yield _pages(near)


def _pages(addresses: Sequence[int]) -> range:
    """The pages from the first to the last of these."""
    return range(addresses[0] & -_PAGE, (addresses[-1] & -_PAGE) + _PAGE)


def _of_kvm(symbols: list[tuple[int, str, bool]]) -> list[tuple[int, str, bool]]:
    """Of all that is built in, what lies among the functions that are named as KVM's are."""
    centre = next((address for address, name, _ in symbols if name == FUNCTION), 0)
    near = [a for a, name, code in symbols if code and is_kvms(name) and abs(a - centre) < _NEAR]
    first, last = min(near, default=0), max(near, default=-1)
    return [one for one in symbols if first <= one[0] <= last]


class _LiveSymbols(Symbols):
    """The module's own symbols, and by address those of everything else."""

    def __init__(self, pairs: Iterator[tuple[int, str]], code: list[int], kallsyms: Kallsyms) -> None:
        super().__init__(pairs)
        self._kallsyms = kallsyms
        # Of code alone: a module has symbols of its per-CPU variables too, which are offsets from nearly nothing.
        self._code = sorted(code)

    def names(self, address: int) -> tuple[str, ...]:
        """What begins exactly there; a search through all symbols only outside of the module."""
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
        return self._code[at] <= self._code[at - 1] + 2 * _PAGE
