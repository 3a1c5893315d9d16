"""What is done in a machine that runs, however it is reached."""

from __future__ import annotations

import abc
import subprocess
import time

__all__ = ["Commanded"]


class Commanded(abc.ABC):
    """A machine that runs and takes commands, as root."""

    @abc.abstractmethod
    def result(self, *command: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """A command run in the machine; a single word is a line for the shell.

        :param text: its standard input.
        """

    def run(self, *command: str, check: bool = True) -> str:
        """What a command prints, both outputs, without space around it. Fails if it fails."""
        ran = self.result(*command)
        assert not check or ran.returncode == 0, f"{command}: {ran.returncode}\n{ran.stdout}{ran.stderr}"
        return (ran.stdout + ran.stderr).strip()

    def write(self, path: str, text: str) -> None:
        """Write a file of the machine."""
        self.result("sh", "-c", f"cat >{path}", text=text)

    def until(self, command: str, seconds: float = 20.0) -> str:
        """What a line for the shell prints as soon as it succeeds."""
        end = time.monotonic() + seconds
        while (ran := self.result(command)).returncode != 0:
            assert time.monotonic() < end, f"{command}: {ran.returncode}\n{ran.stdout}{ran.stderr}"
            time.sleep(0.1)
        return ran.stdout.strip()
