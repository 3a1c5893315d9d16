"""The packages and their container, as in tests/system, and above it a layer with a kernel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.conftest import Built, bootable, built, layer_with_pmuconf
from tests.system.machine import Machine
from tests.vm.machine import VirtualMachine, prepare

__all__ = ["bootable", "built", "layer_with_pmuconf", "vm"]


@pytest.fixture(scope="module")
def vm(built: Built, layer_with_pmuconf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualMachine]:
    """A booted virtual machine with libvirt and pmuconf, whose port 9754 can be reached from here."""
    folder = tmp_path_factory.mktemp(f"{built.suite}-vm")
    root = Machine(folder / "root", [layer_with_pmuconf, built.layer, built.root])
    try:
        prepare(root)
        (folder / "vm").mkdir()
        with VirtualMachine(folder / "vm", root.root, forwards=[9754]) as booted:
            yield booted
    finally:
        root.close()
