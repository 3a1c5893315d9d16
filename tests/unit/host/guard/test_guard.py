"""The verdict on every shape of the guard and of what looks like it, however it was compiled."""

from __future__ import annotations

import pytest

from pmuconf.host.code.btf import Btf
from pmuconf.host.code.elf import ObjectFile
from pmuconf.host.code.members import offsets_of
from pmuconf.host.guard.paths import walk
from pmuconf.host.guard.verdict import judge
from pmuconf.host.names import FUNCTION
from pmuconf.hostfacts import Verdict
from tests.unit.host.shapes import FLAGS, SHAPES, Shape, compiled, compilers


def _name(shape: Shape) -> str:
    return shape.name


def verdict_of(data: bytes, types: bytes) -> tuple[Verdict, str]:
    """What is said of an object file, with the BTF of another compiler's object of the same source."""
    file = ObjectFile(data, "kvm.ko")
    section = ObjectFile(types, "kvm.ko").section(".BTF")
    assert section is not None
    offsets = offsets_of(Btf(section))
    (entry,) = file.symbols.addresses(FUNCTION)
    return judge(walk(file, entry, offsets), offsets)


@pytest.mark.parametrize("compiler", compilers())
@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
@pytest.mark.parametrize("shape", SHAPES, ids=_name)
def test_the_verdict_is_right(shape: Shape, flags: tuple[str, ...], compiler: str) -> None:
    said, cause = verdict_of(compiled(shape.source, flags, compiler), compiled(shape.source, flags))
    assert said.value in shape.right, cause
