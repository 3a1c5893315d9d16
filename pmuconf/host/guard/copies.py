"""Copies of the function's code in others: compilers inline it, and each place is guarded for itself, or not.

They are found by their calls of what counts, in all text that may have one: KVM's own, that of livepatches, and that of
the vendor modules.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterator, Mapping
from itertools import chain
from typing import Final, NamedTuple

import capstone

from pmuconf.host.code.image import Image
from pmuconf.host.code.offsets import Offsets
from pmuconf.host.code.running import Code
from pmuconf.host.guard.cases import case_of_function, findings_of
from pmuconf.host.guard.events import Kind, Walk
from pmuconf.host.guard.paths import walk
from pmuconf.host.guard.walker import LONGEST, PADDING
from pmuconf.host.names import FUNCTION, PADDING_PREFIX, is_callee, may_be_copy, replaces
from pmuconf.hostfacts import Copies, Verdict

__all__ = ["CopyFindings", "find_copies", "has_callees", "is_replaced"]

_MAX_COPIES: Final = 200  # there are about 15; a broken file may have any number
_CALL: Final = re.compile(rb"[\xe8\xe9]|\x0f[\x80-\x8f]", re.DOTALL)
_NEAR_CALL: Final = re.compile(rb"(?:[\xe8\xe9]|\x0f[\x80-\x8f])(?=...[\x00\xff])", re.DOTALL)
_NEAR: Final = 1 << 24
_SHORT_JUMPS: Final = frozenset({0xEB, *range(0x70, 0x80)})
_TEXT_SUFFIX: Final = re.compile(r"\.cold\b.*")


class CopyFindings(NamedTuple):
    """The copies, and ``complete``: whether no copy of livepatches and vendor modules is left out or unread.

    A copy in KVM itself was made of the same source as the function: it is as that is, read or not. A copy elsewhere
    may be anything.
    """

    copies: Copies
    complete: bool


class _Sorted(NamedTuple):
    """The functions of one image that have a copy, by what is known of it."""

    guarded: set[str]
    unguarded: set[str]
    unread: set[str]


def find_copies(code: Code, offsets: Offsets, *, callee_works: bool, deciding: frozenset[int]) -> CopyFindings:
    """What becomes of the code where others call what counts.

    :param callee_works: what counts does so whatever enable_pmu says.
    :param deciding: where the functions begin that count and are known to decide by themselves.
    """
    images = _images(code)
    callees = {at: start for image in images for at, start in _callees(image)}
    deciding = frozenset(callees.get(at, at) for at in deciding)
    search = _Search(code, offsets, callees, callee_works, deciding)
    each = [(image, search.sort(image)) for image in images]
    unguarded = {name for _, names in each for name in names.unguarded}
    unread = {name for _, names in each for name in names.unread} - unguarded
    guarded = {name for _, names in each for name in names.guarded} - unguarded - unread
    complete = all(image is code.image or (not names.unread and _has_text(image)) for image, names in each)
    return CopyFindings(Copies(tuple(sorted(guarded)), tuple(sorted(unguarded)), tuple(sorted(unread))), complete)


def has_callees(code: Code) -> bool:
    """Whether any of the text has a function that counts."""
    return any(True for image in _images(code) for _ in _callees(image))


def is_replaced(code: Code, path: Walk) -> bool:
    """Whether a function that the verdict stands on runs in the version of a livepatch that could not be read.

    Those are the ones that were followed, what they call, and whatever calls the function or what counts.
    """
    if not code.replaced:
        return False
    starts = {code.image.symbols.start(address) for address in path.instructions}
    names = {FUNCTION, *path.called}
    names.update(name for start in starts if start is not None for name in code.image.symbols.names(start))
    for image in (code.image, *code.vendors):
        targets = dict(_callees(image))
        targets.update({address: address for address in image.symbols.addresses(FUNCTION)})
        names.update(_owners(image, targets))
    return is_callee(code.replaced) or replaces(code.replaced, names)


class _Search(NamedTuple):
    """Sorts the copies of images.

    :param callees: where a call of what counts may go to, and where that function begins.
    """

    code: Code
    offsets: Offsets
    callees: Mapping[int, int]
    callee_works: bool
    deciding: frozenset[int]

    def sort(self, image: Image) -> _Sorted:
        """The functions of an image that have a copy.

        A copy that calls nothing but what decides by itself is as guarded as that. Any other one is followed, up to a
        number that no kernel has.
        """
        names = _Sorted(set(), set(), set())
        sites = {owner: calls for owner, calls in _owners(image, self.callees).items() if may_be_copy(owner)}
        for number, (owner, calls) in enumerate(sorted(sites.items())):
            places = image.symbols.addresses(owner)
            if self.deciding.issuperset(calls.values()):
                names.guarded.add(owner)
            elif len(places) != 1 or number >= _MAX_COPIES:
                names.unread.add(owner)
            else:
                self._sort_one(image, owner, places[0], calls.keys(), names)
        return names

    def _sort_one(self, image: Image, owner: str, start: int, calls: Collection[int], names: _Sorted) -> None:
        """Follow a function as if its first argument were the vCPU, which is checked again at each call.

        If that does not lead to every call, the copy is unread.
        """
        path = walk(image, start, self.offsets, copy=True, callee_works=self.callee_works, watched=self.code.watched)
        verdict = case_of_function(findings_of(path, pmu_known=self.offsets.pmu is not None)).verdict
        reached = {event.at for event in path.events if event.kind in (Kind.CALL, Kind.ENTRY)}
        if verdict is Verdict.UNGUARDED:
            names.unguarded.add(owner)
        elif verdict in (Verdict.GUARDED, Verdict.EARLY_OUT) and reached.issuperset(calls):
            names.guarded.add(owner)
        else:
            names.unread.add(owner)


def _images(code: Code) -> tuple[Image, ...]:
    """All text that may call what counts."""
    return (code.patched or code.image, *code.patches, *code.vendors)


def _has_text(image: Image) -> bool:
    return any(True for _ in image.text())


def _callees(image: Image) -> Iterator[tuple[int, int]]:
    """Where a call of the callee may go to, and where that begins: with call depth tracking, calls go before it."""
    for address, name in image.symbols:
        if is_callee([name]):
            yield address, address
        elif name.startswith(PADDING_PREFIX) and is_callee([name[len(PADDING_PREFIX) :]]):
            start = image.symbols.end(address)
            if start is not None and start - address <= PADDING:
                yield from ((at, start) for at in range(address, start))


def _owners(image: Image, targets: Mapping[int, int]) -> dict[str, dict[int, int]]:
    """The functions that call one of the targets: by name, where they do, and where what they call begins."""
    owners: dict[str, dict[int, int]] = {}
    for site, target in chain(_calls(image, targets.keys()), _short_jumps(image, targets.keys())):
        start = image.symbols.start(site)
        names = image.symbols.names(start) if start is not None else ()
        owner = _TEXT_SUFFIX.sub("", names[0]) if names else ""
        if owner:
            owners.setdefault(owner, {})[site] = targets[target]
    return owners


def _calls(image: Image, targets: Collection[int]) -> Iterator[tuple[int, int]]:
    """Every place in the text that calls or jumps to one of the targets by a 32-bit distance, and to which."""
    for start, data in image.text():
        # Where all is close together, as in a module, the highest byte of the distance tells most others apart.
        ends = (start, start + len(data))
        near = all(abs(target - end) < _NEAR for target in targets for end in ends)
        for match in (_NEAR_CALL if near else _CALL).finditer(data):
            end = match.end()
            if end + 4 <= len(data):
                target = start + end + 4 + struct.unpack_from("<i", data, end)[0]
                if target in targets:
                    yield start + match.start(), target


def _short_jumps(image: Image, targets: Collection[int]) -> Iterator[tuple[int, int]]:
    """Every jump of two bytes to one of the targets, and to which.

    Assemblers make such jumps within one source file only. With LTO that is all of KVM.
    """
    for start, data in image.text():
        end = start + len(data) - 1
        for target in targets:
            for site in range(max(start, target - 129), min(end, target + 126)):
                code, distance = struct.unpack_from("<Bb", data, site - start)
                if code in _SHORT_JUMPS and site + 2 + distance == target and _is_instruction(image, site):
                    yield site, target


def _is_instruction(image: Image, site: int) -> bool:
    """Whether an instruction begins there, and not in the middle of another; also if that can't be known."""
    start = image.symbols.start(site)
    if start is None:
        return True
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    code = image.read(start, site - start + LONGEST)
    begins = (address for address, _, _, _ in decoder.disasm_lite(code, start) if address >= site)
    return next(begins, site) == site
