"""The oldest capstone that is supported, 4.0.2, has all names that the code takes from capstone itself.

``make test-capstone`` runs all tests of the host with it.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

import pmuconf

OLDEST: Final = {
    *("Cs", "CsInsn", "CS_ARCH_X86", "CS_MODE_64", "CS_AC_READ", "CS_AC_WRITE"),
    *("CS_GRP_CALL", "CS_GRP_INT", "CS_GRP_IRET", "CS_GRP_JUMP", "CS_GRP_PRIVILEGE", "CS_GRP_RET"),
}
"""A newer name works on the machine of whoever adds it, and ends every look at a kernel on Debian 12."""


def test_no_name_is_newer_than_the_oldest_capstone() -> None:
    taken = {
        node.attr
        for file in sorted(Path(pmuconf.__file__).parent.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "capstone"
    }
    assert "CsInsn" in taken
    assert taken - OLDEST == set()
