"""Which kernel a file belongs to, so that the types of one kernel are not used for the code of another."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pmuconf.errors import PmuconfError
from pmuconf.files.inputs import open_regular
from pmuconf.host.code.btf import BTF_START
from pmuconf.host.code.sections import Sections
from pmuconf.host.code.unpack import unpacked

if TYPE_CHECKING:
    from pmuconf.host.code.elf import ObjectFile

__all__ = ["refuse_other_kernel"]

_OF_MODULE: Final = re.compile(rb"(?:\A|\0)vermagic=(\S+)")
"""modpost writes it into .modinfo of every module: the release, then the options that change the ABI."""
_OF_KERNEL: Final = re.compile(rb"Linux version (\S+) ")
"""linux_banner, in .rodata of a vmlinux (init/version.c)."""
_MAX_SECTION: Final = 64 << 20
_SHOWN: Final = "/sys/kernel/btf"


def refuse_other_kernel(file: ObjectFile, btf: Path) -> str:
    """A note if nothing shows that the BTF is of the kernel that the file belongs to; empty if something does.

    :param btf: BTF alone, or a vmlinux that has it.
    :raises PmuconfError: it is of another kernel, by the build-ids of two vmlinux or by their releases; cause
        btf-of-another-kernel. Or it can't be read.
    """
    build_id, release = _identity_of(btf)
    of_file = _release(file.section(".modinfo") or b"", _OF_MODULE) or _release(
        file.section(".rodata") or b"", _OF_KERNEL
    )
    if not file.relocatable and build_id and file.build_id:
        if build_id != file.build_id:
            raise _other(f"build-id {build_id}", btf, f"build-id {file.build_id}", file.name)
        return ""
    if release is None or of_file is None:
        return f"nothing shows whether the BTF of {btf} is of the kernel that {file.name} belongs to"
    if release != of_file:
        raise _other(release, btf, of_file, file.name)
    return ""


def _identity_of(btf: Path) -> tuple[str | None, str | None]:
    """The build-id and the release of the kernel that BTF is of, as far as they are known."""
    try:
        with open(open_regular(btf), "rb", buffering=0) as opened:
            alone = opened.read(len(BTF_START)) == BTF_START
    except OSError as error:
        raise PmuconfError(f"{btf}: {error.strerror}", cause="file-unreadable") from None
    if alone:
        running = Path(os.path.realpath(btf)).is_relative_to(_SHOWN)
        return None, platform.release() if running else None
    with unpacked(btf) as stream:
        sections = Sections(stream, str(btf))
        banner = sections.find(".rodata")
        text = sections.data(banner, _MAX_SECTION) if banner is not None else b""
        return sections.build_id(), _release(text, _OF_KERNEL)


def _release(text: bytes, pattern: re.Pattern[bytes]) -> str | None:
    match = pattern.search(text)
    return match.group(1).decode("ascii", "backslashreplace") if match else None


def _other(of_btf: str, btf: Path, of_file: str, name: str) -> PmuconfError:
    return PmuconfError(
        f"the BTF of {btf} is of another kernel ({of_btf}) than {name} ({of_file})",
        cause="btf-of-another-kernel",
        hint="Give that of the kernel that the file belongs to",
    )
