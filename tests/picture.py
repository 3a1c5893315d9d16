"""Draws the picture of the report page that README.md shows: python -m tests.picture FILE.png"""

from __future__ import annotations

import sys
from pathlib import Path

from pmuconf.report.html import page
from tests.support.chromium import BINARY, Browser
from tests.support.sample import sample

WIDTH = 1280


def main() -> int:
    """Draw it; the exit status."""
    if BINARY is None or len(sys.argv) != 2:
        print("usage: python -m tests.picture FILE.png, with chromium-headless-shell or chromium", file=sys.stderr)
        return 255
    with Browser() as browser:
        shown = browser.open(page(sample()), width=WIDTH)
        height = int(shown.run("document.querySelector('.two').getBoundingClientRect().bottom"))
        Path(sys.argv[1]).write_bytes(shown.picture(0, height + 4, width=WIDTH))
    return 0


if __name__ == "__main__":
    sys.exit(main())
