"""A real terminal for a command: tmux, of a given size, with what it then shows, and which lines it had to wrap."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["TMUX", "Screen", "shown"]

TMUX: Final = shutil.which("tmux")
_TREE: Final = Path(__file__).resolve().parents[2]
_SECONDS: Final = 60.0
_SETTINGS: Final = "set -g history-limit 20000\nset -g status off\n"


@dataclass(frozen=True)
class Screen:
    """What a terminal shows once the command has ended, with all that was scrolled away.

    :param wrapped: the lines that were longer than the terminal is wide.
    """

    lines: tuple[str, ...]
    wrapped: tuple[str, ...]
    status: int

    @property
    def text(self) -> str:
        """All lines."""
        return "\n".join(self.lines)


def shown(command: Sequence[str], width: int, height: int = 24, **environment: str) -> Screen:
    """What the command shows in a terminal of this size.

    :raises subprocess.TimeoutExpired: it takes longer than a minute.
    """
    with tempfile.TemporaryDirectory(prefix="pmuconf-tmux-", dir="/tmp") as folder:
        settings, script, status = (Path(folder) / name for name in ("tmux.conf", "script", "status"))
        settings.write_text(_SETTINGS)
        tmux = [TMUX or "tmux", "-S", f"{folder}/socket", "-u", "-f", str(settings)]
        done = shlex.join([*tmux, "wait-for", "-S", "done"])
        script.write_text(f"{shlex.join(command)}\necho $? > {status}\n{done}\nexec sleep {_SECONDS:.0f}\n")
        size = ("-x", str(width), "-y", str(height))
        surroundings = _environment(environment)
        subprocess.run([*tmux, "new-session", "-d", *size, "sh", str(script)], check=True, cwd=_TREE, env=surroundings)
        try:
            subprocess.run([*tmux, "wait-for", "done"], check=True, timeout=_SECONDS, env=surroundings)
            lines = _captured(tmux)
            joined = _captured(tmux, "-J")
        finally:
            subprocess.run([*tmux, "kill-server"], check=False, stderr=subprocess.DEVNULL)
        wrapped = tuple(line for line in joined if line not in lines)
        return Screen(lines, wrapped if len(joined) < len(lines) else (), int(status.read_text()))


def _captured(tmux: Sequence[str], *options: str) -> tuple[str, ...]:
    command = [*tmux, "capture-pane", "-p", "-S", "-", "-E", "-", *options]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.decode()
    text = "\n".join(line.rstrip() for line in out.splitlines())
    return tuple(text.rstrip("\n").splitlines())


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """Ours, without what would tell a terminal apart or cut its lines."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("CLIFF_", "COLUMNS", "TMUX"))}
    path = os.pathsep.join([str(_TREE), *filter(None, sys.path)])
    return {**kept, "LC_ALL": "C.UTF-8", "TERM": "xterm", "NO_COLOR": "1", "PYTHONPATH": path, **more}
