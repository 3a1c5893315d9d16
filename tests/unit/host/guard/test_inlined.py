"""The callee inlined, cloned or split: in guarded, unguarded and early-out form, all are judged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pmuconf.host.code.btf import Btf
from pmuconf.host.code.elf import ObjectFile
from pmuconf.host.code.members import offsets_of
from pmuconf.host.code.running import Code, CodeSource, in_file
from pmuconf.host.guard.verdict import judge_code
from pmuconf.hostfacts import Verdict
from tests.unit.host.guard.test_guard import verdict_of
from tests.unit.host.inlined import SHAPES
from tests.unit.host.shapes import Shape, compiled, compilers


@pytest.mark.parametrize("compiler", compilers())
@pytest.mark.parametrize("level", ["-O2", "-Os"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_the_verdict_is_right(shape: Shape, level: str, compiler: str) -> None:
    verdict, cause = verdict_of(compiled(shape.source, (level,), compiler), compiled(shape.source, (level,)))
    assert verdict.value in shape.right, cause


def code_of(name: str) -> Code:
    data = compiled(next(shape.source for shape in SHAPES if shape.name == name), ("-O2",))
    file = ObjectFile(data, "kvm.ko")
    section = file.section(".BTF")
    assert section is not None
    return in_file(file, offsets_of(Btf(section)), "BTF", CodeSource("kvm.ko", observed=False, build_id=None))


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("bitmap-always-inline-guarded", Verdict.GUARDED),
        ("loop-always-inline-guarded", Verdict.GUARDED),
        ("retired-always-inline-plain", Verdict.EARLY_OUT),
    ],
)
def test_with_a_livepatch_copies_without_a_call_may_be_anything(name: str, verdict: Verdict) -> None:
    """They are searched by their calls, and a livepatch is not of the same source."""
    code = code_of(name)
    assert judge_code(code).verdict is verdict
    beside = code_of("bitmap-always-inline-plain").image
    for livepatched in (replace(code, patched=beside), replace(code, patches=(beside,))):
        found = judge_code(livepatched)
        assert (found.verdict, found.cause) == (Verdict.UNKNOWN, "unread-copies")


def test_a_clone_is_followed_from_a_livepatch_too() -> None:
    code = code_of("bitmap-clone-guarded")
    assert judge_code(replace(code, patches=(code.image,))).verdict is Verdict.GUARDED
