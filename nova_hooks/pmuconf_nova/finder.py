"""Makes ``nova.virt.pmuconf`` importable if Nova is installed in another directory than this distribution.

Nova loads a driver as ``nova.virt.<name>``. If pip installed both, they are in one site-packages, and Python finds the
driver below nova/virt/ by itself. Debian's Nova is in /usr/lib/python3/dist-packages, and pip installs elsewhere. A
package has one directory only: ``nova`` is one, and since 31.0.0 ``nova.virt`` too.

pmuconf-nova.pth calls install() at the start of every Python of this environment. So this module imports nothing:
nova-compute has to patch the standard library before anything else is loaded, and no other program may get slower.
"""

import sys

__all__ = ["install"]

_NAME = "nova.virt.pmuconf"


class _Finder:
    """Python asks it last, so only if Nova's own directories lack the driver."""

    @staticmethod
    def find_spec(fullname, path=None, target=None):  # type: ignore[no-untyped-def]  # noqa: ARG004 - Python's names
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
    """Let Python look here, last of all, for a module that it can't find."""
    if _Finder not in sys.meta_path:
        sys.meta_path.append(_Finder)
