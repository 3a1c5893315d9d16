"""Whether the Nova of this environment would load the plugin: ``python -m pmuconf_nova.check [--json]``.

Without Nova, that is one sentence. The checks are in checks.py, which imports Nova.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks; the exit status, 255 if Nova can't be imported."""
    try:
        from pmuconf_nova import checks
    except ImportError as error:
        print(
            f"pmuconf_nova.check: {sys.executable} can't import what Nova's check needs: {error} (nova-missing). "
            "Run it with the Python that runs nova-compute",
            file=sys.stderr,
        )
        return 255
    return checks.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
