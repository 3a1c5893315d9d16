"""The running system that the checks look at: its files, what its programs say, and what its service answers."""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["HttpAnswer", "Live"]

_SECONDS: Final = 15.0
_MOST: Final = 8 << 20


@dataclass(frozen=True)
class HttpAnswer:
    """What an HTTP server answered to a GET."""

    status: int
    headers: Mapping[str, str]
    text: str


@dataclass(frozen=True)
class Live:
    """Reads, and changes nothing.

    :param root: the folder that is / here.
    """

    root: Path = Path("/")

    @property
    def privileged(self) -> bool:
        """Whether this runs as root."""
        return os.geteuid() == 0

    def at(self, name: str) -> Path:
        """The path of a file of the system."""
        return self.root / name.lstrip("/")

    def text(self, name: str) -> str | None:
        """A small file; None if it isn't there or can't be read."""
        try:
            with self.at(name).open("rb") as file:
                return file.read(_MOST).decode("utf-8", "replace").rstrip("\0\n ")
        except OSError:
            return None

    def status(self, name: str) -> os.stat_result | OSError:
        """What kind of file is there, whose, and with which mode; or why that can't be seen."""
        try:
            return os.stat(self.at(name))
        except OSError as error:
            return error

    def said(self, *command: str) -> str | None:
        """What a program prints; None if it isn't installed, fails, or does not end in time."""
        if shutil.which(command[0]) is None:
            return None
        environment = {**os.environ, "LC_ALL": "C", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}
        try:
            ran = subprocess.run(
                command,
                check=False,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_SECONDS,
                env=environment,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return ran.stdout if ran.returncode == 0 else None

    def properties(self, unit: str) -> Mapping[str, str] | None:
        """The properties of a unit of systemd's; None if systemd does not answer."""
        output = self.said("systemctl", "show", "--no-pager", unit)
        if output is None:
            return None
        return {name: value for name, _, value in (line.partition("=") for line in output.splitlines())}

    def get(self, at: tuple[str, int], path: str) -> HttpAnswer | str:
        """The answer of a server, or why there is none."""
        connection = http.client.HTTPConnection(*at, timeout=_SECONDS)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            answer = connection.getresponse()
            text = answer.read(_MOST).decode("utf-8", "replace")
            return HttpAnswer(answer.status, {key.lower(): value for key, value in answer.getheaders()}, text)
        except OSError as error:
            return error.strerror or str(error) or "no connection"
        except http.client.HTTPException as error:
            return f"no answer of HTTP ({type(error).__name__})"
        finally:
            connection.close()
