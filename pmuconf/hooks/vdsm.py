"""oVirt's VDSM hook: an executable in hooks/before_vm_start, which changes a file in place.

From VDSM's source (lib/vdsm/common/hooks.py): the executables of the folder run in the order of their names, as user
vdsm, until they end. ``_hook_domxml`` names a file of mode 0600 with the domain in UTF-8, which VDSM reads again by its
name. Status 0 is good, 2 ends the row, and after any but 0 the VM does not start. Standard error goes into vdsm.log.
The target of a migration has no such call. A VM that is restored has one, of which the result is not used.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from pmuconf.domain.definition import UNKNOWN, Domain, Managed, Manager
from pmuconf.errors import PmuconfError
from pmuconf.files.inputs import open_regular, read_descriptor
from pmuconf.hooks.call import Call, Facts

__all__ = ["STOP", "call"]

STOP: Final = 2
"""The status that keeps the VM from starting."""
_VARIABLE: Final = "_hook_domxml"
_MOST: Final = 64 << 20


def call(environment: Mapping[str, str]) -> Call:
    """The call in this environment.

    :raises PmuconfError: hook-input.
    """
    path = environment.get(_VARIABLE)
    if not path:
        raise PmuconfError(
            f"{_VARIABLE} is not set: VDSM sets it for its hooks", cause="hook-input", hint="Let VDSM run it"
        )
    try:
        descriptor = open_regular(path)
        try:
            xml = read_descriptor(descriptor, _MOST, path)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise PmuconfError(f"{path}: {error.strerror}", cause="hook-input") from None
    return Call(xml, path, _facts, lambda changed: _write(path, changed, xml), in_place=True)


def _facts(definition: Domain) -> Facts:
    """The custom properties stand in the metadata too, where other variables can't be taken for them."""
    managed = definition.managed
    if managed is None or managed.manager is not Manager.OVIRT:
        managed = Managed(Manager.OVIRT, attributes=UNKNOWN)
    return Facts(managed)


def _write(path: str, changed: bytes, before: bytes) -> None:
    """Write into the file itself, so that its owner, mode and label stay; if that fails, what was there before.

    :raises OSError: it can't be written.
    """
    descriptor = open_regular(path, os.O_RDWR)
    with open(descriptor, "r+b", buffering=0) as file:
        try:
            _fill(file.fileno(), changed)
        except OSError:
            _fill(file.fileno(), before)  # its room on the disk is taken already
            raise


def _fill(descriptor: int, data: bytes) -> None:
    at = 0
    while at < len(data):
        at += os.pwrite(descriptor, data[at:], at)
    os.ftruncate(descriptor, len(data))
