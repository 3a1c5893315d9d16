"""Words for a person that agree with their number. Pure."""

from __future__ import annotations

__all__ = ["counted"]


def counted(number: int, what: str, several: str = "") -> str:
    """So many of them.

    :param several: the word for more than one, if it is not ``what`` with an s.

    >>> counted(1, "domain"), counted(1200, "VM")
    ('1 domain', '1,200 VMs')
    """
    return f"{number:,} {what if number == 1 else several or f'{what}s'}"
