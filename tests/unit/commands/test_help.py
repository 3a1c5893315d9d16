"""The help of each command: examples that its parser takes, our own options first, and lines that fit a terminal."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from pmuconf.commands.application import Application, application
from pmuconf.commands.examples import EXAMPLES
from pmuconf.commands.names import COMMANDS, GROUPS
from tests.unit.conftest import Run

NAMES = [*COMMANDS, "complete", "help"]
OTHERS = {"curl", "docker", "systemctl", "virsh"}
"""The programs of other projects that stand in examples."""


@pytest.fixture
def app() -> Application:
    return application()


def parser_of(app: Application, name: str) -> argparse.ArgumentParser:
    command, _, _ = app.command_manager.find_command(name.split())
    return command(app, None).get_parser(f"pmuconf {name}")


def examples_in(text: str) -> list[str]:
    """The lines to be pasted of a help text."""
    _, _, after = text.partition("\nExamples:\n")
    return [line.strip() for line in after.partition("\n\n")[0].splitlines() if line.startswith("    ")]


def commands_in(line: str) -> Iterator[list[str]]:
    """The commands of a line of the shell, without what leads to a file."""
    line = re.sub(r"^\. <\((.*)\)$", r"\1", line)
    words = shlex.shlex(line, posix=True, punctuation_chars="|>")
    words.whitespace_split = True
    command: list[str] = []
    following = list(words)
    while following:
        word = following.pop(0)
        if word == "|":
            yield command
            command = []
        elif word == ">":
            following.pop(0)
        else:
            command.append(word)
    yield command


def check(app: Application, line: str) -> None:
    for program, *arguments in commands_in(line):
        if program != "pmuconf":
            assert program in OTHERS
            continue
        _, rest = app.parser.parse_known_args(arguments)
        command, name, given = app.command_manager.find_command(rest)
        command(app, None).get_parser(f"pmuconf {name}").parse_args(given)


@pytest.mark.parametrize("name", NAMES)
def test_a_command_has_examples_that_it_takes(
    run: Run, app: Application, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inventory.txt").touch()
    text = run(*name.split(), "--help", config=None).out
    examples = examples_in(text)
    assert text.count("Examples:") == 1
    assert 2 <= len(examples) <= 4
    assert examples == [example.line for example in EXAMPLES[name]]
    for line in examples:
        check(app, line)
    assert any(line.startswith("pmuconf ") and f" {name} " in f"{line} " for line in examples)


def test_no_example_is_of_a_command_that_there_is_not() -> None:
    assert list(EXAMPLES) == NAMES


def test_the_overview_shows_commands_that_are_taken(run: Run, app: Application) -> None:
    shown = re.findall(r"^    \$ (.*)$", run("--help", config=None).out, re.MULTILINE)
    assert len(shown) == 3 * len(GROUPS)
    for line in shown:
        check(app, line)


@pytest.mark.parametrize("line", ["pmuconf audit --nosuch", "pmuconf applz", "virsh list | pmuconf rewrite --pmu x"])
def test_an_example_that_is_wrong_is_seen(app: Application, line: str) -> None:
    with pytest.raises((SystemExit, ValueError)):
        check(app, line)


@pytest.mark.parametrize("name", NAMES)
def test_commands_that_a_help_names_are_taken(run: Run, app: Application, name: str) -> None:
    text = " ".join(run(*name.split(), "--help", config=None).out.split())
    for quoted in re.findall(r"'(pmuconf [^']*)'", text):
        _, rest = app.parser.parse_known_args(shlex.split(quoted)[1:])
        assert app.command_manager.find_command(rest)


@pytest.mark.parametrize("columns", [80, 100, 200])
@pytest.mark.parametrize("name", NAMES)
def test_help_fits_the_terminal(run: Run, monkeypatch: pytest.MonkeyPatch, name: str, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = run(*name.split(), "--help", config=None).out
    pasted = examples_in(text)
    for line in text.splitlines():
        assert len(line) < min(columns, 101) or line.strip() in pasted


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("complete", "help", "policy check")])
def test_our_own_options_come_first(run: Run, name: str) -> None:
    text = run(*name.split(), "--help", config=None).out
    _, described, foreign = text.partition("\noutput:\n")
    if not described:
        assert "--noindent" not in text
        return
    assert len(foreign.splitlines()) <= 14
    assert "table (the default)" in " ".join(foreign.split())
    usage = text.partition("\n\n")[0]
    options = re.findall(r"--[a-z-]+", usage.partition("-c COLUMN")[2])
    assert set(options) <= {"--sort-column", "--sort-descending"}


def test_options_that_are_not_described_are_named_and_work(run: Run) -> None:
    text = " ".join(run("journal", "--help", config=None).out.split())
    assert "Also --sort-ascending, --quote, --noindent, --max-width, --fit-width and --print-empty" in text
    assert run("journal", "-f", "json", "--noindent", "--sort-ascending", "--fit-width").status == 0
