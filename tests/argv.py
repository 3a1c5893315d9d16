"""libvirt's own command lines for QEMU, as the oracle of what pmuconf reads from the XML alone.

The rule here is read off QEMU's documentation and shares no line with pmuconf. Where a QEMU for x86 is installed, each
kind of command line is asked of it too.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pmuconf.domain.definition import Domain
from pmuconf.domain.reading import read, read_libvirt
from pmuconf.domain.xmltext import DomainXmlError

__all__ = ["Compared", "asked", "compare", "compare_pairs", "guest_pmu", "kind_of", "pairs", "words_of", "written_pmu"]

_BINARY: Final = re.compile(r"(?:.*/)?qemu-(?:system-(\w+)|kvm)")
_OLD: Final = re.compile(r"pc(?:-i440fx|-q35)?-(?:0\.|1\.[0-5]$)")
"""The machine types whose named models have a PMU."""
_ASKED: Final = ("-machine", "-accel", "-cpu", "-global", "-set")


@dataclass
class Compared:
    """How often pmuconf's answer and libvirt's command line agree."""

    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    """Where pmuconf does not know, and the command line does."""
    kinds: dict[tuple[str, ...], str | None] = field(default_factory=dict)
    """Each kind of command line with what the rule here makes of it."""


def pairs(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Each XML of libvirt's tests with the command line that libvirt makes of it; below an unpacked source.

    A command line belongs to the XML that was written by hand, and to the one that libvirt writes, if that differs.
    """
    for path in sorted(folder.glob("tests/qemuxmlconfdata/*.args")):
        words = words_of(path.read_text(encoding="utf-8"))
        name = path.name.rsplit(".args", 1)[0]
        by_hand, own = path.with_name(f"{_plain(name)}.xml"), path.with_name(f"{name}.xml")
        given = [file for file in (by_hand, own) if file.exists()]
        for file in given if len({file.read_bytes() for file in given}) > 1 else given[:1]:
            yield file, words


def words_of(text: str) -> list[str]:
    """The words of a command line as libvirt writes it, without the environment."""
    words = shlex.split(text.replace("\\\n", " "))
    while words and re.fullmatch(r"\w+=.*", words[0], re.DOTALL):
        del words[0]
    return words


def _plain(name: str) -> str:
    """The name of a test without its version: cpu-host.x86_64-latest is cpu-host."""
    return re.sub(r"\.\w+-(?:latest|[\d.]+)(?:\+\w+)?(?:\.abi-update)?$", "", name)


def written_pmu(words: list[str]) -> str:
    """What the last -cpu says of the PMU: on, off, or default if nothing."""
    found = [piece[4:] for piece in _cpu(words).split(",")[1:] if piece.startswith("pmu=")]
    return found[-1] if found else "default"


def guest_pmu(words: list[str]) -> str | None:
    """The PMU that a guest gets from this command line, on or off; None: this rule does not say."""
    binary = _BINARY.fullmatch(words[0])
    if written_pmu(words) != "default":
        return written_pmu(words)
    if binary is None or binary[1] not in (None, "x86_64", "i386") or any("pmu" in word for word in words[1:]):
        return None
    model = _cpu(words).partition(",")[0]
    if model == "host":
        return "on"
    if model == "max":
        return "on" if "kvm" in _values(words, "-accel") else None
    return "on" if _OLD.match((_values(words, "-machine") or [""])[-1].partition(",")[0]) else "off"


def _cpu(words: list[str]) -> str:
    return (_values(words, "-cpu") or [""])[-1]


def _values(words: list[str], option: str) -> list[str]:
    return [value for word, value in zip(words, words[1:]) if word == option]


def kind_of(words: list[str]) -> tuple[str, ...]:
    """The options of a command line for x86 that bear on the PMU, such as another QEMU can be asked about.

    Of -machine the type alone, because the rest names objects that are made elsewhere on the line.
    """
    kept = []
    for word, value in zip(words, words[1:]):
        if word in _ASKED:
            kept += [word, value.partition(",")[0] if word == "-machine" else value]
    return tuple(kept)


def compare(compared: Compared, source: str, domain: Domain, words: list[str]) -> None:
    """Compare what pmuconf reads from an XML with the command line that libvirt makes of it."""
    if (domain.pmu.value, written_pmu(words)) not in ((s, s) for s in ("on", "off", "default")):
        compared.wrong.append(f"{source}: <pmu> is {domain.pmu.value}, and libvirt writes {written_pmu(words)}")
    right, answer = guest_pmu(words), domain.effective_pmu
    found = "unknown" if answer is None else answer.value
    compared.counts["x86" if domain.x86 else "others", right or "unknown", found] += 1
    if domain.x86:
        compared.kinds[kind_of(words)] = right
    if right is not None and answer is None:
        compared.open.append(f"{source}: unknown, by the command line {right}: {_cpu(words)[:60]}")
    elif answer is not None and answer.value != right:
        compared.wrong.append(f"{source}: {found}, by the command line {right or 'unknown'}: {_cpu(words)[:60]}")


def compare_pairs(folder: Path) -> Compared:
    """Compare all of libvirt's own pairs."""
    compared = Compared()
    for path, words in pairs(folder):
        text = path.read_text(encoding="utf-8")
        try:
            domain = read(text, source=path.name)
        except DomainXmlError as error:
            compared.counts["refused", error.cause, ""] += 1
            continue
        if read_libvirt(text, source=path.name) != domain:
            compared.wrong.append(f"{path.name}: read otherwise as a text of libvirt's")
        compare(compared, path.name, domain, words)
    return compared


def asked(compared: Compared, truth: Callable[[list[str]], bool | None]) -> Counter[str]:
    """Ask a QEMU about each kind of command line; what differs from the rule is wrong.

    :param truth: whether a QEMU with these options gives its CPU a PMU; None: it does not start so.
    """
    counts = Counter[str]()
    for words, right in compared.kinds.items():
        # Some machines' KVM does not let the MSR of this feature be written.
        given = [f"{word},-arch-capabilities" if word.partition(",")[0] in ("host", "max") else word for word in words]
        said = truth(given)
        if said is None:
            counts["does not start here"] += 1
        elif right is None:
            counts["the rule does not say"] += 1
        elif said is (right == "on"):
            counts["as the rule says"] += 1
        else:
            compared.wrong.append(f"the oracle's rule says {right} and a QEMU {said}: {' '.join(words)}")
    return counts
