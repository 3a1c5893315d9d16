"""Completion in a real bash and a real zsh: what is typed, and what stands in the line after the tabulator."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.keyboard import Terminal

ZSH: Final = shutil.which("zsh")
BASH_COMPLETION: Final = Path("/usr/share/bash-completion/bash_completion")
ENVIRONMENT: Final = {"HOME": "/nonexistent", "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TERM": "dumb"}
# Another key shows the line as it stands, so that no test depends on how the shell draws it.
ZSHRC: Final = """\
PROMPT='ready> '
fpath=({folder} $fpath)
autoload -Uz compinit && compinit -u -D
zstyle ':completion:*' menu no
shown() {{ print -r -- "line=$BUFFER=" }}
zle -N shown && bindkey '^X' shown
"""
BASHRC: Final = """\
PS1='ready> '
. {bash_completion}
. {folder}/bash
bind 'set enable-bracketed-paste off'
bind -x '"\\C-x": echo "line=$READLINE_LINE="'
"""

zsh = pytest.mark.skipif(ZSH is None, reason="no zsh is installed: .ci/packages test brings one")
bash = pytest.mark.skipif(not BASH_COMPLETION.exists(), reason="no bash-completion: .ci/packages test brings it")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both files, and what each shell reads first."""
    folder = tmp_path_factory.mktemp("completion")
    for shell, name in (("zsh", "_pmuconf"), ("bash", "bash")):
        command = [sys.executable, "-m", "pmuconf.commands.main", "complete", "--shell", shell]
        (folder / name).write_bytes(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    for file in ("domain.xml", "report.json"):
        (folder / file).touch()
    (folder / "reports").mkdir()
    (folder / ".zshrc").write_text(ZSHRC.format(folder=folder))
    (folder / "bashrc").write_text(BASHRC.format(folder=folder, bash_completion=BASH_COMPLETION))
    return folder


@pytest.fixture(scope="module")
def in_zsh(folder: Path) -> Iterator[Terminal]:
    words = ["sh", "-c", 'cd "$1" && exec "$2" -o no_global_rcs -i', "sh", str(folder), str(ZSH)]
    with Terminal(words, {**ENVIRONMENT, "ZDOTDIR": str(folder)}) as terminal:
        terminal.until("ready> ")
        yield terminal


@pytest.fixture(scope="module")
def in_bash(folder: Path) -> Iterator[Terminal]:
    words = ["sh", "-c", 'cd "$1" && exec bash --noprofile --rcfile bashrc -i', "sh", str(folder)]
    with Terminal(words, ENVIRONMENT) as terminal:
        terminal.until("ready> ")
        yield terminal


def completed(terminal: Terminal, typed: str) -> str:
    """The line after a tabulator. Ctrl-U empties it again."""
    terminal.write(f"{typed}\t\x18")
    line = terminal.until("=\r\n").rpartition("line=")[2].partition("=\r\n")[0]
    terminal.write("\x15")
    return line


def offered(terminal: Terminal, typed: str) -> str:
    """What is shown below the line at a tabulator that leaves a choice."""
    terminal.write(f"{typed}\t\t\x18")
    seen = terminal.until("line=")
    terminal.write("\x15")
    return seen.partition(typed)[2].partition("ready> ")[0]


@zsh
@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("pmuconf aud", "pmuconf audit "),
        ("pmuconf host ju", "pmuconf host judge "),
        ("pmuconf journal p", "pmuconf journal purge "),
        ("pmuconf journal --lim", "pmuconf journal --limit="),
        ("pmuconf policy ex", "pmuconf policy explain "),
        ("pmuconf audit --pmu-", "pmuconf audit --pmu-users "),
        ("pmuconf audit --only dr", "pmuconf audit --only drift "),
        ("pmuconf audit -f js", "pmuconf audit -f json "),
        ("pmuconf --config-file dom", "pmuconf --config-file domain.xml "),
        ("pmuconf --config-file x -q aud", "pmuconf --config-file x -q audit "),
        ("pmuconf rewrite --pmu off dom", "pmuconf rewrite --pmu off domain.xml "),
        ("pmuconf fleet report repo", "pmuconf fleet report report"),
        ("pmuconf host record rep", "pmuconf host record reports/"),
        ("pmuconf audit --xml report.json dom", "pmuconf audit --xml report.json domain.xml "),
        ("pmuconf complete --shell z", "pmuconf complete --shell zsh "),
        ("pmuconf help stat", "pmuconf help status "),
    ],
)
def test_zsh_completes(in_zsh: Terminal, typed: str, line: str) -> None:
    assert completed(in_zsh, typed) == line


@zsh
def test_zsh_says_what_each_command_does(in_zsh: Terminal) -> None:
    shown = offered(in_zsh, "pmuconf s")
    assert "serve" in shown
    assert "the service that watches every domain" in shown
    assert "one short answer, and what to do next" in shown


@zsh
def test_zsh_offers_no_option_twice_and_no_old_one(in_zsh: Terminal) -> None:
    after, host = offered(in_zsh, "pmuconf audit --connect x --"), offered(in_zsh, "pmuconf host --")
    assert "--flavors" in after
    assert "--connect" not in after
    assert "--prove" in host
    assert "--module" not in host


@bash
@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("pmuconf aud", "pmuconf audit "),
        ("pmuconf audit --pmu-", "pmuconf audit --pmu-users "),
        ("pmuconf host ju", "pmuconf host judge "),
        ("pmuconf journal p", "pmuconf journal purge "),
        ("pmuconf policy ex", "pmuconf policy explain "),
        ("pmuconf complete --sh", "pmuconf complete --shell "),
    ],
)
def test_bash_completes(in_bash: Terminal, typed: str, line: str) -> None:
    assert completed(in_bash, typed) == line
