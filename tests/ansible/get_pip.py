"""Stands in for get-pip.py, which ansible-test would fetch from a place of its own: pip comes with Python."""

from __future__ import annotations

import subprocess
import sys

words = [word for word in sys.argv[1:] if not word.startswith("-")]
subprocess.run([sys.executable, "-m", "ensurepip", "--default-pip"], check=True)
subprocess.run([sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *words], check=True)
