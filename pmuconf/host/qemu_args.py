"""What a QEMU's command line says of its VM. Pure; nothing in it is trusted to be well formed.

Which options take an argument, and how ``-cpu`` is read, are facts of QEMU: qemu-options.hx, and
x86_cpu_parse_featurestr and x86_cpu_expand_features in target/i386/cpu.c.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pmuconf.host.confidential import is_tdx

__all__ = ["QemuArgs", "parse_args"]

# Options without an argument. Every other takes one.
_WORDS: Final = """
    alt-grab async-teardown ctrl-grab curses daemonize enable-fips enable-kvm enable-sync-profile full-screen h help
    mem-prealloc no-acpi no-fd-bootchk no-frame no-hpet no-kvm no-kvm-irqchip no-kvm-pit no-kvm-pit-reinjection
    no-quit no-reboot no-shutdown no-user-config nodefaults nodefconfig nographic old-param one-insn-per-tb
    only-migratable portrait preconfig rtc-td-hack s S sdl semihosting singlestep snapshot tdf usb version win2k-hack
    xen-attach xen-domid-restrict
"""
_ALONE: Final = frozenset(_WORDS.split())
_ARCHITECTURE: Final = re.compile(r"qemu-system-\w+")
_X86: Final = re.compile(r"qemu-system-(x86_64|i386)\b")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")
# Machines of QEMU before 1.6, whose CPUs had a PMU by default, whatever their model: pc_compat_1_5 in hw/i386/pc.c.
# What RHEL 6 called its own is older.
_OLD_MACHINE: Final = re.compile(r"pc(-i440fx|-q35)?-(0\.\d+|1\.[0-5])\b|rhel[56]\b")
_REMAKING: Final = frozenset({"confidential-guest-support", "memory-encryption", "x-change-vmfd-on-reset"})
_TRUE, _FALSE = frozenset({"on", "yes", "true", "y"}), frozenset({"off", "no", "false", "n"})


@dataclass(frozen=True)
class QemuArgs:
    """What can be said from a command line.

    :param pmu: whether the CPU that the guest gets has a PMU; None: can't be said.
    :param kvm: whether KVM was asked for, before any other accelerator.
    :param incoming: whether it was started to take a migration or a saved state in.
    :param tdx: whether it is a TDX guest; None: it may be one.
    :param remade: whether a reset may give it another VM of KVM: since QEMU 11.0 those of confidential guests do.
    """

    uuid: str | None = None
    name: str | None = None
    pmu: bool | None = None
    kvm: bool = False
    incoming: bool = False
    remade: bool = False
    tdx: bool | None = False


def parse_args(cmdline: bytes, exe: str = "") -> QemuArgs | None:
    """Read what /proc/PID/cmdline holds; None if neither it nor the path of the binary looks like a QEMU's."""
    words = [word.decode("utf-8", "replace") for word in cmdline.split(b"\0")]
    if not words[-1]:
        words.pop()
    names = [os.path.basename(path.partition(" (deleted)")[0]) for path in (exe, *words[:1])]
    if not any("qemu" in name or name == "kvm" for name in names):
        return None
    if not cmdline.endswith(b"\0"):  # cut short, or written over by the process itself
        return QemuArgs()
    options = list(_options(words))
    by_name = names[-1].endswith("kvm")  # called so, QEMU asks for KVM by itself
    return QemuArgs(
        uuid=_uuid(_last(options, words, "uuid")),
        name=_name(_last(options, words, "name")),
        pmu=_pmu(options, words, names),
        kvm=_accelerator(options, by_name) == "kvm",
        incoming=any(option in ("incoming", "loadvm") for option, _ in options),
        tdx=is_tdx(words),
        remade=any(key in _REMAKING for value in _values(words, "machine", "M") for key, _, _ in _properties(value)),
    )


def _options(words: list[str]) -> Iterator[tuple[str, str]]:
    """Each option and its argument; both forms, -cpu and --cpu."""
    at = 1
    while at < len(words):
        word = words[at]
        at += 1
        if word.startswith("-") and word != "-":
            option = word[2:] if word.startswith("--") else word[1:]
            if option in _ALONE:
                yield option, ""
            elif at < len(words):
                yield option, words[at]
                at += 1


def _last(options: list[tuple[str, str]], words: list[str], name: str) -> str | None:
    """What the option was given last; None if it wasn't given, or if that is not sure.

    An option that a newer QEMU has, and that takes no argument, would be taken for one that does, and hide the next.
    So what only looks like the option must agree with what was read in order.
    """
    read = [value for option, value in options if option == name]
    seen = [words[at + 1] for at in range(1, len(words) - 1) if words[at] in (f"-{name}", f"--{name}")]
    return read[-1] if read and read == seen else None


def _pmu(options: list[tuple[str, str]], words: list[str], names: list[str]) -> bool | None:
    """Whether the CPU has a PMU."""
    if any(_ARCHITECTURE.match(name) and not _X86.match(name) for name in names):
        return None
    # What only looks like such an option may be one: behind an option that a newer QEMU has (see _last).
    for option, value in zip((word.lstrip("-") if word.startswith("-") else "" for word in words), (*words[1:], "")):
        elsewhere = option in ("global", "set") or (option == "device" and "-cpu" in value)
        if option == "readconfig" or (elsewhere and "pmu" in value):
            return None  # in which order such properties take effect is not worth knowing
    old = any(map(_OLD_MACHINE.match, _machines(words)))
    if "-cpu" not in words and "--cpu" not in words:
        return None if old else False  # every machine's default is a named model
    said = _last(options, words, "cpu")
    if said is None:
        return None
    model, *features = said.split(",")
    if not model or model.endswith("-cpu"):
        return None
    if "-pmu" in features:  # those with a sign are set last, first all with +, then all with -
        return False
    if "+pmu" in features:
        return True
    given = [value for name, equals, value in (f.partition("=") for f in features) if name == "pmu" and equals]
    if "pmu" in features:
        return None if given else True
    if not given:
        return True if model in ("host", "max") else None if old else False
    return True if given[-1] in _TRUE else False if given[-1] in _FALSE else None


def _machines(words: list[str]) -> list[str]:
    """The machine types that are named: the key may be left out, then it comes first."""
    found = []
    for value in _values(words, "machine", "M"):
        pieces = _properties(value)
        found += [said for key, _, said in pieces if key == "type"] + [pieces[0][0]]
    return found


def _values(words: list[str], *names: str) -> list[str]:
    """What follows each word that looks like one of the options, if it is one or not."""
    wanted = {sign + name for name in names for sign in ("-", "--")}
    return [value for word, value in zip(words, words[1:]) if word in wanted]


def _accelerator(options: list[tuple[str, str]], by_name: bool) -> str:
    """The accelerator that is tried first: of several -accel the first counts, of what a machine is given the last."""
    asked, given = [], ["kvm"] if by_name else []
    for name, value in options:
        if name == "accel":
            asked.append(_split(value)[0].partition("=")[2 if value.startswith("accel=") else 0])
        elif name == "enable-kvm":
            given.append("kvm")
        elif name in ("machine", "M"):
            given += [said.partition(":")[0] for key, _, said in _properties(value) if key == "accel"]
    return asked[0] if asked else given[-1] if given else ""


def _uuid(text: str | None) -> str | None:
    try:
        return str(uuid.UUID(text)) if text is not None and _UUID.match(text) else None
    except ValueError:
        return None


def _name(text: str | None) -> str | None:
    """The guest's name: the key may be left out, then it comes first."""
    if text is None:
        return None
    pieces = list(_properties(text))
    named = [value for key, equals, value in pieces if key == "guest" and equals]
    first, equals, _ = pieces[0]
    return named[-1] if named else first if first and not equals else None


def _properties(text: str) -> list[tuple[str, str, str]]:
    """Each key=value, as partition() parts it."""
    return [piece.partition("=") for piece in _split(text)]


def _split(text: str) -> list[str]:
    """The pieces between commas; two commas are one within a piece."""
    return [piece.replace("\0", ",") for piece in text.replace(",,", "\0").split(",")]
