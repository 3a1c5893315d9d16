"""Whether the CPU that a QEMU gives its guest has a PMU: one rule, for command lines and for definitions.

Pure. A command line is words already. A definition becomes the words that libvirt makes of it, with those of
``<qemu:commandline>`` behind them. If the words leave it open, the answer is None, never a guess.

The facts are QEMU's: x86_cpu_parse_featurestr and x86_cpu_expand_features in target/i386/cpu.c, qemu_global_option in
softmmu/vl.c, pc_compat_1_5 in hw/i386/pc.c. tests/functional/test_cpu.py holds them against a real QEMU.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

__all__ = ["accelerator", "bears", "has_pmu", "is_qemu", "last", "options", "properties", "split", "values"]

# Options without an argument. Every other takes one. (qemu-options.hx)
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
# Names under which distributions and managers install a QEMU for x86. A file of another name may be a script that adds
# options.
_BINARY: Final = re.compile(r"qemu-system-(x86_64|i386)(-microvm|-spice)?|qemu-kvm(-one)?|kvm(-spice)?|qemu")

# Before 1.6 every CPU model had a PMU, and these machine types keep that.
_WITH: Final = re.compile(r"pc(-i440fx|-q35)?-(0\.\d+|1\.[0-5])(\.\d+)?")
_WITHOUT: Final = re.compile(r"pc|q35|isapc|microvm|pc-(i440fx|q35)-(?!(0|1\.[0-5])\b).+")

# A model's name. Code names have capitals; no property of a CPU begins with one, so a list of properties without a
# model, which a wrapper may understand, is not taken for a model.
_MODEL: Final = re.compile(
    r"([A-Z][\w.+-]*|486|athlon|base|core2?duo|cpu64-rhel[56]|host|kvm(32|64)|max|n270|pentium[23]?|phenom|qemu(32|64))"
    r"(-v\d+)?"
)
_TRUE, _FALSE = frozenset({"on", "yes", "true", "y"}), frozenset({"off", "no", "false", "n"})

_GLOBAL: Final = re.compile(r"([^.=,]+)\.pmu=(\w*)|driver=([^.=,]+),property=pmu,value=(\w*)")
_EVERY_CPU: Final = ("x86_64-cpu", "i386-cpu", "cpu", "device")


def has_pmu(words: Sequence[str], names: Sequence[str] = ()) -> bool | None:
    """Whether the guest's CPU has a PMU, by a QEMU's command line; None: unknown.

    The last ``-cpu`` counts. If it does not set ``pmu``, ``-global`` may. Otherwise the machine type and the model
    decide.

    :param words: the binary, then its options.
    :param names: of the binary, for its architecture; without any, that of the first word.
    """
    names = names or [_name(word) for word in words[:1]]
    if any(_ARCHITECTURE.match(name) and not _X86.match(name) for name in names):
        return None
    if any(_set_by(option, value) for option, value in _pairs(words)):
        return None
    cpu = last(words, "cpu")
    if cpu is None and values(words, "cpu"):
        return None
    by_model = _machines_default(words)
    if cpu is None:  # the machine's own: a named model
        return _by_globals(words, "", otherwise=by_model)
    model, *features = cpu.split(",")
    if not _MODEL.fullmatch(model) or model.endswith("-cpu"):
        return None
    if any(feature.lstrip("+-").partition("=")[0] == "pmu" for feature in features):
        return _by_features(features)
    if model == "host":  # only KVM has it
        by_model = True
    elif model == "max":  # under TCG: 7.2 and 10.0 give it one, 11.1 does not
        by_model = True if accelerator(words) == "kvm" else None
    return _by_globals(words, model, otherwise=by_model)


def accelerator(words: Sequence[str]) -> str:
    """The accelerator that a QEMU tries first; empty: the command line names none.

    Called kvm or the like, it asks for KVM by itself.
    Of several ``-accel`` the first counts. Of several ``-machine`` with one the last counts.
    """
    asked, given = [], ["kvm"] if words and words[0].endswith("kvm") else []
    for option, value in options(words):
        if option == "accel":
            asked.append(split(value)[0].partition("=")[2 if value.startswith("accel=") else 0])
        elif option == "enable-kvm":
            given.append("kvm")
        elif option in ("machine", "M"):
            given += [name.partition(":")[0] for key, _, name in properties(value) if key == "accel"]
    return asked[0] if asked else given[-1] if given else ""


def bears(words: Sequence[str]) -> bool:
    """Whether options like these, behind those that libvirt gives a QEMU, may decide whether its CPU has a PMU."""
    if values(words, "cpu", "machine", "M") or any(_set_by(option, value) for option, value in _pairs(words)):
        return True
    return any("pmu" in value for value in values(words, "global"))


def is_qemu(path: str) -> bool:
    """Whether the file has a name under which a QEMU for x86 is installed, and not one of a wrapper."""
    return _BINARY.fullmatch(_name(path)) is not None


def options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
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


def last(words: Sequence[str], name: str) -> str | None:
    """The last value of the option; None if it has none, or if that is not sure."""
    given = _given(words, name)
    return given[-1] if given else None


def values(words: Sequence[str], *names: str) -> list[str]:
    """The word behind each word that looks like one of the options, whether it is one or not."""
    return [value for option, value in _pairs(words) if option in names]


def properties(text: str) -> list[tuple[str, str, str]]:
    """Each key=value, as partition() parts it."""
    return [piece.partition("=") for piece in split(text)]


def split(text: str) -> list[str]:
    """The pieces between commas; two commas are one within a piece."""
    return [piece.replace("\0", ",") for piece in text.replace(",,", "\0").split(",")]


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _given(words: Sequence[str], name: str) -> list[str] | None:
    """All values of the option, in order; None if that is not sure.

    A newer QEMU may have an option without an argument that is not known here. It would be read as one with an
    argument, and hide the next option. So the words that look like the option must agree with those read in order.
    """
    read = [value for option, value in options(words) if option == name]
    seen = [words[at + 1] for at in range(1, len(words) - 1) if words[at] in (f"-{name}", f"--{name}")]
    return read if read == seen else None


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each word that looks like an option, without its dashes, and the word behind it (empty behind the last)."""
    for word, value in zip(words[1:], (*words[2:], "")):
        if word.startswith("-"):
            yield word[2:] if word.startswith("--") else word[1:], value


def _set_by(option: str, value: str) -> bool:
    """Whether the option may set the PMU in a way that is not followed here."""
    if option == "readconfig":
        return True
    return "pmu" in value and (option == "set" or (option == "device" and "-cpu" in value))


def _machines_default(words: Sequence[str]) -> bool | None:
    """Whether a named model has a PMU with the machine type; None if that is unknown, or if the types differ in it."""
    defaults: set[bool | None] = set()
    for value in values(words, "machine", "M"):
        pieces = properties(value)
        types = [text for key, _, text in pieces if key == "type"]  # the key may be left out, then it comes first
        types += [pieces[0][0]] if not pieces[0][1] else []
        defaults.update(True if _WITH.fullmatch(t) else False if _WITHOUT.fullmatch(t) else None for t in types)
    if not defaults:
        return False
    return defaults.pop() if len(defaults) == 1 else None


def _by_features(features: Sequence[str]) -> bool | None:
    """The PMU that the features of -cpu give, which beats every other option."""
    if "-pmu" in features:  # those with a sign are set last, first all with +, then all with -
        return False
    if "+pmu" in features:
        return True
    given = [value for name, equals, value in (f.partition("=") for f in features) if name == "pmu" and equals]
    if "pmu" in features:
        return None if given else True
    return True if given[-1:] and given[-1] in _TRUE else False if given[-1:] and given[-1] in _FALSE else None


def _by_globals(words: Sequence[str], model: str, *, otherwise: bool | None) -> bool | None:
    """The PMU that -global gives to CPUs of that model: the last one that applies; ``otherwise`` if none sets it."""
    if not any("pmu" in value for value in values(words, "global")):
        return otherwise
    kinds = (*_EVERY_CPU, *(f"{parent}-{cpu}" for parent in _parents(model) for cpu in ("x86_64-cpu", "i386-cpu")))
    for value in _given(words, "global") or [".pmu="]:
        if "pmu" in value:
            match = _GLOBAL.fullmatch(value)
            kind, text = (match[1] or match[3], match[2] or match[4]) if match else ("", "")
            if kind not in kinds or text not in _TRUE | _FALSE:
                return None  # most likely another kind of CPU; but models have other names
            otherwise = text in _TRUE
    return otherwise


def _parents(model: str) -> tuple[str, ...]:
    """The models whose properties this model has: QEMU's host is a kind of max."""
    if not model:
        return ()
    return (model, "max") if model == "host" else (model,)
