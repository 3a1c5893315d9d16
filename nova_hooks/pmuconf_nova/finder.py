"""Lets ``nova.virt.pmuconf`` be imported where Nova lies in another directory than this distribution.

Nova loads a driver as ``nova.virt.<name>``. With pip both lie in one site-packages, and Python finds the driver below
nova/virt/ by itself. Debian's Nova lies in /usr/lib/python3/dist-packages and pip installs elsewhere: a package, which
``nova`` is and since 31.0.0 ``nova.virt`` too, has one directory only.

pmuconf-nova.pth calls install() at the start of every Python of this environment. So this imports nothing: nova-compute
has to patch the standard library before anything else loads, and no other program may get slower.
"""

import sys

__all__ = ["install"]

_NAME = "nova.virt.pmuconf"


class _Finder:
    """Asked last, and so only when Nova's own directories do not have the driver."""

    @staticmethod
    def find_spec(fullname, path=None, target=None):  # type: ignore[no-untyped-def]
        if fullname != _NAME:
            return None
        import importlib.util
        import os

        site = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        folder = os.path.join(site, *_NAME.split("."))
        return importlib.util.spec_from_file_location(
            fullname, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
        )


def install() -> None:
    """Have Python ask here last for a module that it can't find."""
    if _Finder not in sys.meta_path:
        sys.meta_path.append(_Finder)
