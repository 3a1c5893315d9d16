"""A guest that shuts down when it is asked to, in one sector; an operating system would take minutes to get so far."""

from __future__ import annotations

from pathlib import Path

from tests.support.domains import plain_domain

__all__ = ["polite_domain"]

# ACPI's registers are where SeaBIOS puts them on QEMU's PC: event status 0x600, enable 0x602, control 0x604.
_SECTOR = bytes.fromhex(
    "fb"  # sti
    "ba0206 b80001 ef"  # mov dx, 0x602; mov ax, 0x100; out dx, ax    enable the power button
    "baf803 b052 ee"  # mov dx, 0x3f8; mov al, 'R'; out dx, al    say so on the serial line
    "ba0006"  # mov dx, 0x600
    "f4 ed f6c401 74f9"  # hlt; in ax, dx; test ah, 1; jz -7    until it is pressed
    "ba0406 b80020 ef"  # mov dx, 0x604; mov ax, 0x2000; out dx, ax    sleep state 5: off
    "f4 ebfd"  # hlt; jmp -3
)


def polite_domain(name: str, ready: Path) -> str:
    """Domain XML, with its disk beside the file that gets its first byte once the guest would react."""
    disk = ready.with_suffix(".disk")
    disk.write_bytes(_SECTOR.ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20))
    devices = (
        f"<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{disk}'/>"
        "<target dev='hda' bus='ide'/></disk>"
        f"<serial type='file'><source path='{ready}'/></serial>"
    )
    return plain_domain(name).replace("</devices>", f"{devices}</devices>")
